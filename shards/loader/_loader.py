"""The mixing loader: the exact share of every source in every rank's batch, the same for any number of workers."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline import AudioSpec, FormatError, IntegrityError, UsageError, Vocabulary
from shards._dataset import Dataset
from shards._prefetch import prefetched
from shards.loader._assemble import Assembler
from shards.loader._batch import Batch
from shards.loader._join import JoinedSource, join
from shards.loader._order import clip_at, draws, exact_shares
from shards.loader._source import Coverage, Source

STATE_VERSION = 0
REPLACED_SHARE = 0.001
REPLACED_ALWAYS = 5
"""The loader goes on while no more than 0.1 % of its clips had to be replaced, or 5 of them in a small dataset."""
_MOST_ATTEMPTS = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReplacedClip:
    """A clip that could not be read; the clip in the same place of its source's next batch stood in for it."""

    source: str
    key: str
    reason: str


class MixedLoader:
    """Batches that hold the share of every source exactly, on every rank and in every step.

        loader = MixedLoader(
            [Source(root, "weak", share=32, labels=("beats",)), Source(root, "strong", share=32, labels=("beats",))],
            batch_size=64, vocabulary=audioset_strong_447(),
        )
        for epoch in range(120):
            loader.set_epoch(epoch)
            for batch in loader: ...

    The clips of a source lie together in a batch, in the order of `sources`. Batch `step` of an epoch is a pure
    function of (seed, epoch, step): see _order.py. Sources repeat and never end the mix; permutations run on
    across epochs. An epoch is `batches_per_epoch` batches on every rank, by default as many as show every clip of the
    largest source. After the last batch of an epoch comes the next epoch; after a break the same epoch starts again.

    batch_size and shares are per rank; rank and world_size are the caller's to know. workers: threads; 0 reads in the
    caller's own. A state saved with 8 ranks resumes on 4 of twice the batch size. A damaged clip is replaced,
    deterministically and from its own source, and listed in `replaced`; past 0.1 % of the clips (at least 5) the loader
    raises IntegrityError.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        batch_size: int,
        *,
        vocabulary: Vocabulary,
        seed: int = 0,
        batches_per_epoch: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
    ) -> None:
        """Raises UsageError if a batch cannot hold the shares or sources do not fit together, and what join raises."""
        if world_size < 1 or not 0 <= rank < world_size:
            raise UsageError(f"rank {rank} of world size {world_size}: ranks are 0 to world_size - 1")
        if workers < 0 or (batches_per_epoch is not None and batches_per_epoch < 1):
            raise UsageError(f"workers is {workers} (0 or more), batches_per_epoch {batches_per_epoch} (1 or more)")
        names = [source.name for source in sources]
        if len(set(names)) != len(names):
            raise UsageError(f"sources are named {', '.join(names)}; give each a name of its own with Source(name=...)")
        self.shares = exact_shares({source.name: source.share for source in sources}, batch_size)
        """Clips of each source in every batch of this rank."""
        self._sources = [_join(source) for source in sources]
        for source in self._sources:
            needed = self.shares[source.name] * world_size
            if len(source) < needed:
                raise UsageError(
                    f"source {source.name} has {len(source)} clips, less than its share of {needed} in one batch over "
                    f"{world_size} ranks; make the batch or the share smaller"
                )
        self._assembler = Assembler(self._sources, vocabulary)
        self._seed, self._rank, self._world_size, self._workers = seed, rank, world_size, workers
        self._batches_per_epoch = batches_per_epoch or self._once_through_the_largest()
        self._data = hashlib.sha256(
            " ".join([vocabulary.sha256, *(source.fingerprint for source in self._sources)]).encode()
        ).hexdigest()
        self._most_replaced = max(REPLACED_ALWAYS, int(REPLACED_SHARE * sum(len(source) for source in self._sources)))
        self._replaced: dict[tuple[str, str], ReplacedClip] = {}
        self._next = 0  # global step of the batch that the caller gets next
        self._resume = False  # whether the next iterator starts there, in the middle of an epoch
        for covered in self.coverage:
            _log.log(logging.WARNING if _incomplete(covered, sources) else logging.INFO, "%s", covered)

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        return self._batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the current epoch: all of them, or after `load_state_dict` the rest of them."""
        first = self._next if self._resume else self.epoch * len(self)
        steps = range(first, (first // len(self) + 1) * len(self))
        self._next, self._resume = first, False
        with closing(prefetched(self._build, steps, self._workers)) as batches:
            for step, (batch, replaced) in zip(steps, batches, strict=False):
                self._count(replaced)
                self._next = step + 1
                yield batch

    @property
    def epoch(self) -> int:
        """The epoch of the batch that comes next."""
        return self._next // len(self)

    @property
    def coverage(self) -> tuple[Coverage, ...]:
        """For every source and target, how many clips have it."""
        return tuple(covered for source in self._sources for covered in source.coverage)

    @property
    def replaced(self) -> tuple[ReplacedClip, ...]:
        """The clips replaced so far in delivered batches, each once."""
        return tuple(self._replaced.values())

    def set_epoch(self, epoch: int) -> None:
        """The next iterator gives `epoch` from its start or, if a loaded state stopped within it, from there."""
        if epoch < 0:
            raise UsageError(f"epoch is {epoch}; epochs count from 0")
        if not (self._resume and epoch == self.epoch):
            self._next, self._resume = epoch * len(self), False

    def state_dict(self) -> dict[str, Any]:
        """Where the caller is, after the last batch it was given: the same on every rank. JSON can hold it."""
        epoch, step = divmod(self._next, len(self))
        return {"epoch": epoch, "step": step, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was saved. Ranks, batch size and workers may differ if the global batch is the same.

        Raises UsageError naming what else differs: clips, labels, shares, seed or epoch length.
        """
        identity = self._identity()
        differing = [name for name in identity if state.get(name) != identity[name]]
        if differing:
            found = "; ".join(f"{name} is {identity[name]}, the state has {state.get(name)}" for name in differing)
            raise UsageError(f"loader state is of another run: {found}; make the loader as it was, or start anew")
        self._next, self._resume = state["epoch"] * len(self) + state["step"], True

    def _identity(self) -> dict[str, Any]:
        """What has to be equal for two loaders to give the same global batches."""
        return {
            "version": STATE_VERSION,
            "seed": self._seed,
            "batches_per_epoch": len(self),
            "clips_per_step": {name: share * self._world_size for name, share in self.shares.items()},
            "data": self._data,
        }

    def _once_through_the_largest(self) -> int:
        largest = max(self._sources, key=len)
        return -(-len(largest) // (self.shares[largest.name] * self._world_size))

    def _build(self, step: int) -> tuple[Batch, list[ReplacedClip]]:
        """The batch of this rank at a global step. Called from several threads; changes nothing."""
        batch = self._assembler.empty(sum(self.shares.values()))
        replaced: list[ReplacedClip] = []
        place = 0
        for number, source in enumerate(self._sources):
            share = self.shares[source.name]
            for draw in draws(step, share=share, rank=self._rank, world_size=self._world_size):
                replaced += self._fill(batch, place, number, draw)
                place += 1
        return batch, replaced

    def _fill(self, batch: Batch, place: int, number: int, draw: int) -> list[ReplacedClip]:
        """Fill one place; what had to be replaced on the way. A stand-in is never a clip of the same pass and batch."""
        source = self._sources[number]
        stride = self.shares[source.name] * self._world_size
        replaced: list[ReplacedClip] = []
        for candidate in range(draw, draw + _MOST_ATTEMPTS * stride, stride):
            clip = clip_at(candidate, clips=len(source), seed=self._seed, source=source.name)
            try:
                self._assembler.fill(batch, place, number, clip)
                return replaced
            except (IntegrityError, FormatError) as error:
                replaced.append(ReplacedClip(source=source.name, key=source.keys[clip], reason=str(error)))
        raise _too_many({(clip.source, clip.key): clip for clip in replaced})

    def _count(self, replaced: Sequence[ReplacedClip]) -> None:
        for clip in replaced:
            if (clip.source, clip.key) not in self._replaced:
                self._replaced[clip.source, clip.key] = clip
                _log.warning("clip %s of source %s is replaced: %s", clip.key, clip.source, clip.reason)
        if len(self._replaced) > self._most_replaced:
            raise _too_many(self._replaced)


def evaluation_batches(
    dataset: Dataset | Path | str,
    split: str,
    batch_size: int,
    *,
    vocabulary: Vocabulary,
    labels: Sequence[str] = (),
    audio: str = AudioSpec().name,
    workers: int = 2,
) -> Iterator[Batch]:
    """Every clip of any split once, in key order, the last batch short.

    Nothing is replaced here: a damaged clip raises IntegrityError or FormatError, as a figure has to be over all clips.
    """
    if batch_size < 1 or workers < 0:
        raise UsageError(f"batch_size is {batch_size} (needs 1 or more), workers {workers} (0 or more)")
    source = join(_opened(dataset), split, name=split, audio=audio, labels=labels)
    assembler = Assembler([source], vocabulary)

    def build(first: int) -> Batch:
        clips = range(first, min(first + batch_size, len(source)))
        batch = assembler.empty(len(clips))
        for place, clip in enumerate(clips):
            assembler.fill(batch, place, 0, clip)
        return batch

    return prefetched(build, range(0, len(source), batch_size), workers)


def _join(source: Source) -> JoinedSource:
    return join(
        _opened(source.dataset),
        source.split,
        name=source.name,
        audio=source.audio,
        labels=source.labels,
        exclude=source.exclude,
    )


def _opened(dataset: Dataset | Path | str) -> Dataset:
    return dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)


def _incomplete(covered: Coverage, sources: Sequence[Source]) -> bool:
    """Whether a label set that was asked for lacks clips; hard labels are often meant to be absent."""
    asked = any(covered.source == source.name and covered.target in source.labels for source in sources)
    return asked and covered.labelled < covered.clips


def _too_many(replaced: Mapping[tuple[str, str], ReplacedClip]) -> IntegrityError:
    listed = "; ".join(f"{clip.source}: {clip.reason}" for clip in islice(replaced.values(), 20))
    more = f"; and {len(replaced) - 20} more" if len(replaced) > 20 else ""
    return IntegrityError(f"{len(replaced)} clips cannot be read, too many to replace; restore them: {listed}{more}")
