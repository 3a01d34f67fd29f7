"""The mixing loader: the exact share of every source in every rank's batch, the same for any number of workers."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from types import NoneType
from typing import Any, cast

from torch.utils.data import IterableDataset, get_worker_info

from pipeline import ClassMap, Grid, UsageError, Vocabulary
from shards.loader._ahead import Ahead
from shards.loader._batch import Batch
from shards.loader._cache import ShardCache
from shards.loader._kinds import check_each, check_kind, check_real, check_whole
from shards.loader._making import Feed, Maker, Making, ReplacedClip, too_many
from shards.loader._metrics import LoaderMetrics, Meter
from shards.loader._position import Position
from shards.loader._ring import check_ahead, in_order
from shards.loader.join._join import JoinedSource
from shards.loader.join._source import Coverage, Source, label_sets
from shards.loader.join._training import join_sources
from shards.loader.order._block_order import ShuffleQuality, shuffle_quality
from shards.loader.order._order import check_share, draws, exact_shares
from shards.loader.targets._options import HARD_TARGETS, TargetOptions

STATE_VERSION = 1
REPLACED_ALWAYS = 5
"""The loader goes on while no more than `max_replaced` of its clips had to be replaced, or 5 of a small dataset."""

_log = logging.getLogger(__name__)


class MixedLoader(IterableDataset[Batch]):
    """Batches that hold the share of every source exactly, on every rank and in every step.

        loader = MixedLoader(
            [Source(root, "weak", share=32, labels=("beats",)), Source(root, "strong", share=32, labels=("beats",))],
            batch_size=64, vocabulary=audioset_strong_447(),
        )
        for epoch in range(120):
            loader.set_epoch(epoch)
            for batch in loader: ...

    The clips of a source lie together in a batch, in the order of `sources`. Batch `step` of an epoch is a pure
    function of (seed, epoch, step): see order/. Sources repeat and never end the mix; passes run on across epochs. An
    epoch is `batches_per_epoch` batches on every rank, by default one pass through the largest source: all its clips,
    or the `draws` of its Balanced order. After the last batch of an epoch comes the next epoch; after a break the same
    epoch starts again.

    batch_size and shares are per rank; rank and world_size are the caller's to know. A state saved with 8 ranks resumes
    on 4 of twice the batch size. A damaged clip is replaced, deterministically and from its own source, and listed in
    `replaced`; past `max_replaced` of the clips (at least 5, unless it is 0) the loader raises IntegrityError.

    workers: threads that fill batches, all at the same one, `prefetch` batches ahead; 0: the caller's own thread does.
    A batch's memory is used again when the last of its tensors, and of their views, is gone: what is kept stays as it
    is, and costs. pin_memory: page-locked memory, where there is a GPU. cache: keeps tars of a store on a local disk.
    temperature, grid, hard, compact: see TargetOptions; with `compact`, batches are CompactBatch.

    In DataLoader(loader, batch_size=None, num_workers=k) each worker process makes every k-th batch in one thread, and
    the sequence is the same. Threads are faster, because nothing has to travel. As the workers have copies of the
    loader, the caller says where it is: set_epoch before every epoch, `advance` after every batch if states are saved.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        batch_size: int,
        *,
        vocabulary: Vocabulary | ClassMap,
        seed: int = 0,
        batches_per_epoch: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        prefetch: int = 2,
        temperature: float = 1.0,
        grid: Grid | None = None,
        hard: tuple[str, ...] = HARD_TARGETS,
        compact: bool = False,
        pin_memory: bool = False,
        max_replaced: float = 0.001,
        cache: ShardCache | None = None,
    ) -> None:
        """Raises UsageError if a batch cannot hold the shares or sources do not fit together, and what join raises."""
        check_each("sources", sources, Source, "Source objects")
        check_whole(batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        check_whole(workers=workers, prefetch=prefetch)
        check_real(max_replaced=max_replaced)
        if batches_per_epoch is not None:
            check_whole(batches_per_epoch=batches_per_epoch)
        check_kind("cache", cache, (ShardCache, NoneType), 'ShardCache("/local/cache", max_bytes=200 * 10**9)')
        if world_size < 1 or not 0 <= rank < world_size:
            raise UsageError(f"rank {rank} of world size {world_size}: ranks are 0 to world_size - 1")
        if batches_per_epoch is not None and batches_per_epoch < 1:
            raise UsageError(f"batches_per_epoch is {batches_per_epoch}; needs 1 or more")
        check_ahead(workers, prefetch)
        if not 0 <= max_replaced < 1:
            raise UsageError(f"max_replaced is {max_replaced}; needs a share of the clips from 0 to below 1, as 0.001")
        options = TargetOptions(vocabulary=vocabulary, temperature=temperature, grid=grid, hard=hard, compact=compact)
        self.shares = exact_shares({source.name: source.share for source in sources}, batch_size)
        """Clips of each source in every batch of this rank."""
        joined = join_sources(sources, None if cache is None else cache.indexes)
        self._orders = {clips.name: source.order.of(clips, seed) for source, clips in zip(sources, joined, strict=True)}
        feeds, ahead = [], []
        for source, clips in zip(sources, joined, strict=True):
            order, per_step = self._orders[clips.name], self.shares[clips.name] * world_size
            check_share(clips, order, self.shares[clips.name], world_size)
            feeds.append(Feed(source=clips, order=order, stride=per_step))
            ahead.append((clips, source.order, order, per_step))
        self._ahead = Ahead(cache, ahead)
        self._maker = Maker(feeds, options, batch_size=batch_size, ahead=prefetch, pin_memory=pin_memory, cache=cache)
        self._sources = joined
        self._seed, self._rank, self._world_size = int(seed), rank, world_size  # JSON holds no numbers of NumPy
        self._workers, self._prefetch = workers, prefetch
        self._position = Position(batches_per_epoch or self._once_through_the_largest())
        self._targets = _described(options, joined)
        self._data = {source.name: source.fingerprint[:32] for source in joined}
        allowed = int(max_replaced * sum(map(len, joined)))
        self._most_replaced = max(REPLACED_ALWAYS, allowed) if max_replaced else 0
        self._replaced: dict[tuple[str, str], ReplacedClip] = {}
        self._meter = Meter(self.shares)
        for covered in self.coverage:
            _log.log(logging.WARNING if _incomplete(covered, sources) else logging.INFO, "%s", covered)

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        return self._position.length

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the current epoch: all of them, or after `load_state_dict` the rest of them."""
        steps, workers, process = self._position.begin(), self._workers, get_worker_info()
        if process is not None:
            steps, workers = steps[process.id :: process.num_workers], 0
        with self._ahead.running() as prepare:
            makings = in_order((self._begin(step, prepare) for step in steps), workers, self._prefetch, self._meter)
            with closing(makings):
                for step in steps:
                    yield self._delivered(next(makings), step)

    @property
    def epoch(self) -> int:
        """The epoch of the batch that comes next."""
        return self._position.epoch

    @property
    def coverage(self) -> tuple[Coverage, ...]:
        """For every source and target, how many clips have it."""
        return tuple(covered for source in self._sources for covered in source.coverage)

    @property
    def replaced(self) -> tuple[ReplacedClip, ...]:
        """The clips replaced so far in delivered batches, each once. A DataLoader's workers count for themselves."""
        return tuple(self._replaced.values())

    @property
    def metrics(self) -> LoaderMetrics:
        """What has been delivered so far, and how long what took."""
        return self._meter.metrics(len(self._replaced))

    def shuffle_quality(self) -> dict[str, ShuffleQuality]:
        """By source, how far clips of one shard come apart in its order, beside a permutation: seconds for millions."""
        return {
            source.name: shuffle_quality(
                self._orders[source.name], source.audio.shard, self.shares[source.name] * self._world_size
            )
            for source in self._sources
        }

    def set_epoch(self, epoch: int) -> None:
        """The next iterator gives `epoch` from its start or, if a loaded state stopped within it, from there."""
        check_whole(epoch=epoch)
        if not 0 <= epoch < 2**40:
            raise UsageError(f"epoch is {epoch}; epochs count from 0 to 2**40 - 1")
        self._position.go_to_epoch(epoch)

    def advance(self, batches: int = 1) -> None:
        """The caller was given so many batches by the workers of a DataLoader, which this loader cannot see."""
        check_whole(batches=batches)
        step = self._position.next
        left = len(self) - step % len(self)
        if not 0 <= batches <= left:
            raise UsageError(f"advance by {batches} batches: epoch {self.epoch} has {left} left")
        self._position.reach(step + batches)

    def state_dict(self) -> dict[str, Any]:
        """Where the caller is, after the last batch it was given: the same on every rank. JSON can hold it."""
        _refuse_in_worker("state_dict")
        epoch, step = divmod(self._position.next, len(self))
        return {"epoch": epoch, "step": step, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was saved. Ranks, batch size and workers may differ if the global batch is the same.

        Raises UsageError naming what else differs: clips, labels, targets, orders, shares, seed or epoch length.
        """
        _refuse_in_worker("load_state_dict")
        check_kind("loader state", state, Mapping, "what state_dict gave")
        identity = self._identity()
        differing = [name for name in identity if state.get(name) != identity[name]]
        if differing:
            found = "; ".join(f"{name} is {identity[name]}, the state has {state.get(name)}" for name in differing)
            raise UsageError(f"loader state is of another run: {found}; make the loader as it was, or start anew")
        epoch, step = state.get("epoch"), state.get("step")
        if (
            not isinstance(epoch, int)
            or not isinstance(step, int)
            or not 0 <= epoch < 2**40
            or not 0 <= step < len(self)
        ):
            raise UsageError(f"loader state is of epoch {epoch}, step {step}; needs numbers as state_dict gives them")
        self._position.go_to(epoch * len(self) + step)

    def _identity(self) -> dict[str, Any]:
        """What has to be equal for two loaders to give the same global batches."""
        return {
            "version": STATE_VERSION,
            "seed": self._seed,
            "batches_per_epoch": len(self),
            "clips_per_step": {name: share * self._world_size for name, share in self.shares.items()},
            "orders": {name: order.identity for name, order in self._orders.items()},
            "targets": self._targets,
            "data": self._data,
        }

    def _once_through_the_largest(self) -> int:
        passes = {source.name: self._orders[source.name].distinct or len(source) for source in self._sources}
        largest = max(passes, key=lambda name: passes[name])
        return -(-passes[largest] // (self.shares[largest] * self._world_size))

    def _begin(self, step: int, prepare: Callable[[int], None]) -> Making:
        """The batch of this rank at a global step. prepare: to be told of the step."""
        prepare(step)
        return self._maker.begin(
            [draws(step, share=share, rank=self._rank, world_size=self._world_size) for share in self.shares.values()]
        )

    def _delivered(self, making: Making, step: int) -> Batch:
        self._count(making.replaced)
        self._meter.deliver(making.source, [task.stages for task in making.tasks])
        if get_worker_info() is None:
            self._position.reach(step + 1)
        return cast(Batch, making.batch())

    def _count(self, replaced: Sequence[ReplacedClip]) -> None:
        for clip in replaced:
            if (clip.source, clip.key) not in self._replaced:
                self._replaced[clip.source, clip.key] = clip
                _log.warning("clip %s of source %s is replaced: %s", clip.key, clip.source, clip.reason)
        if len(self._replaced) > self._most_replaced:
            raise too_many(self.replaced)


def _refuse_in_worker(name: str) -> None:
    if get_worker_info() is not None:
        raise UsageError(
            f"{name} of a loader in a worker of a DataLoader says nothing; call it where the DataLoader is"
        )


def _described(options: TargetOptions, sources: Sequence[JoinedSource]) -> str:
    """Everything about targets that makes other batches of the same clips."""
    asked = {source.name: source.targets for source in sources}
    values = f"temperature {float(options.temperature)}, grid {options.grid}, hard {options.hard}, {asked}"
    return f"classes {options.vocabulary.sha256[:16]}, {values}"


def _incomplete(covered: Coverage, sources: Sequence[Source]) -> bool:
    """Whether a label set that was asked for lacks clips; hard labels are often meant to be absent."""
    asked = any(covered.source == source.name and covered.target in label_sets(source.labels) for source in sources)
    return asked and covered.labelled < covered.clips
