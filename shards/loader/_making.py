"""Batches in the making: which clips go where, tasks that fill some places each, stand-ins for what cannot be read."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline import FormatError, IntegrityError
from shards.loader._batch import Batch
from shards.loader._cache import ShardCache
from shards.loader._fill import Filler
from shards.loader._memory import Arrays, SlabPool
from shards.loader._metrics import Stages
from shards.loader._read import Tars
from shards.loader.join._join import JoinedSource
from shards.loader.targets._compact import CompactBatch
from shards.loader.targets._options import TargetOptions

_CLIPS_OF_A_TASK = 16
"""So few that the threads end a batch at about the same time, so many that what a task costs is little beside them."""
_MOST_ATTEMPTS = 100


class Draws(Protocol):
    """The clips of a source at positions of its endless sequence, int64 [len(draws)]; called from several threads."""

    def clips(self, draws: range) -> npt.NDArray[np.int64]: ...


@dataclass(frozen=True, kw_only=True)
class ReplacedClip:
    """A clip that could not be read; the clip in the same place of its source's next batch stood in for it."""

    source: str
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Feed:
    """A source in the order it is drawn in. stride: from a draw to the one that stands in for it, 0: none may."""

    source: JoinedSource
    order: Draws
    stride: int


class Maker:
    """Begins batches, their memory out of one pool."""

    def __init__(
        self,
        feeds: Sequence[Feed],
        options: TargetOptions,
        *,
        batch_size: int,
        ahead: int,
        pin_memory: bool = False,
        cache: ShardCache | None = None,
    ) -> None:
        """Raises UsageError if the sources do not fit into one batch."""
        self.feeds = tuple(feeds)
        self.tars = Tars(cache)
        self.filler = Filler([feed.source for feed in feeds], options, self.tars)
        # Beside those ahead the caller has one, and one that it drops when it gets the next; as many again are for
        # callers that keep some.
        self.pool = SlabPool(self.filler.fields, batch_size, most=2 * (ahead + 2), pin_memory=pin_memory)

    def begin(self, portions: Sequence[range]) -> "Making":
        """A batch of the draws `portions[i]` of feed i."""
        return Making(self, portions)


class Making:
    """One batch; whole when all of `tasks` have been called, each once, in any order and from any thread."""

    def __init__(self, maker: Maker, portions: Sequence[range]) -> None:
        self.source = [feed.source.name for feed, portion in zip(maker.feeds, portions, strict=True) for _ in portion]
        self._filler = maker.filler
        self._places = _Places(maker.pool.take(len(self.source)), len(self.source))
        self.tasks: list[_Task] = []
        place = 0
        for number, portion in enumerate(portions):
            for first in range(0, len(portion), _CLIPS_OF_A_TASK):
                draws = portion[first : first + _CLIPS_OF_A_TASK]
                self.tasks.append(_Task(maker, self._places, number, place + first, draws))
            place += len(portion)

    def drop(self) -> None:
        """Nobody waits for it any more."""
        self._places.dropped.set()

    def batch(self) -> Batch | CompactBatch:
        places = self._places
        return self._filler.batch(places.arrays, places.extras, self.source, places.key)

    @property
    def replaced(self) -> list[ReplacedClip]:
        """In the order of places."""
        return [clip for task in self.tasks for clip in task.replaced]


class _Places:
    """What the tasks of a batch fill. It knows none of them: in a cycle it would lie until garbage is collected."""

    __slots__ = ("arrays", "dropped", "extras", "key")

    def __init__(self, arrays: Arrays, clips: int) -> None:
        self.arrays = arrays
        self.extras: list[object] = [None] * clips
        self.key = [""] * clips
        self.dropped = threading.Event()


class _Task:
    """Fills the places from `place` on with `draws` of one source."""

    __slots__ = ("draws", "maker", "number", "place", "places", "replaced", "stages")

    def __init__(self, maker: Maker, places: _Places, number: int, place: int, draws: range) -> None:
        self.maker, self.places, self.number, self.place, self.draws = maker, places, number, place, draws
        self.replaced: list[ReplacedClip] = []
        self.stages = Stages()

    def __call__(self) -> None:
        self.maker.tars.stop_when(self.places.dropped.is_set)
        clips = self.maker.feeds[self.number].order.clips(self.draws).tolist()
        for place, (draw, clip) in enumerate(zip(self.draws, clips, strict=True), self.place):
            if self.places.dropped.is_set():
                return
            self._fill(place, draw, clip)

    def _fill(self, place: int, draw: int, clip: int) -> None:
        """A stand-in is never a clip of the same pass and batch, where a source is drawn in passes."""
        places, filler, feed = self.places, self.maker.filler, self.maker.feeds[self.number]
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            try:
                places.extras[place] = filler.fill(places.arrays, place, self.number, clip, self.stages)
                places.key[place] = feed.source.key(clip)
                return
            except (IntegrityError, FormatError) as error:
                if not feed.stride:
                    raise
                key = feed.source.key(clip)
                self.replaced.append(ReplacedClip(source=feed.source.name, key=key, reason=str(error)))
            clip = int(feed.order.clips(range(draw + attempt * feed.stride, draw + attempt * feed.stride + 1))[0])
        raise too_many(self.replaced)


def too_many(replaced: Sequence[ReplacedClip]) -> IntegrityError:
    """The error for more replaced clips than are allowed; names 20 reasons, each once."""
    clips = {(clip.source, clip.key): clip.reason for clip in replaced}
    reasons = Counter(f"{source}: {reason}" for (source, _), reason in clips.items())  # a lost tar has one for all
    listed = "; ".join(
        f"{reason} ({count} clips)" if count > 1 else reason for reason, count in islice(reasons.items(), 20)
    )
    more = f"; and {len(reasons) - 20} more" if len(reasons) > 20 else ""
    return IntegrityError(f"{len(clips)} clips cannot be read, too many to replace; restore them: {listed}{more}")
