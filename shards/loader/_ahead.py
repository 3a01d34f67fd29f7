"""Shards of a store on their way before a batch needs them, and whether a cache holds what is needed at a time."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline import SedDistillError, UsageError
from shards._fetch import FetchStopped
from shards._index import IndexedShard
from shards._store import is_remote
from shards.loader._cache import ShardCache
from shards.loader.join._join import JoinedSource, Members
from shards.loader.order._block_order import BlockShuffle
from shards.loader.order._order import Order, OrderRule

THREAD_NAME = "shards-loader-ahead"

_log = logging.getLogger(__name__)


class Ahead:
    """Fetches the tars of sources in block order one shard before they are read. Can be pickled."""

    def __init__(self, cache: ShardCache | None, feeds: Sequence[tuple[JoinedSource, OrderRule, Order, int]]) -> None:
        """feeds: source, the rule of its order, its order, how many clips of it a global batch has.

        Raises UsageError if `cache` is smaller than the windows of all block shuffles together. Warns of a source in
        another order that is larger than the cache: most of its clips cost the fetch of a shard.
        """
        self._cache = cache
        self._feeds: list[tuple[JoinedSource, Order, int, int]] = []
        if cache is None:
            return
        windows = 0
        for source, rule, order, per_step in feeds:
            if not isinstance(rule, BlockShuffle):
                _warn_if_larger(source, cache)
            # One beside the window comes while the oldest goes, and one is fetched ahead.
            elif room := sum(_largest(members, rule.window + 2) for members in _members(source)):
                windows += room
                self._feeds.append((source, order, per_step, _clips_per_shard(source)))
        if windows > cache.max_bytes:
            raise UsageError(
                f"{cache.folder}: the cache may hold {cache.max_bytes} bytes, the windows of block shuffle need "
                f"{windows}; give it a larger max_bytes, or the sources a smaller window"
            )
        self._steps_per_shard = max((-(-clips // per_step) for _, _, per_step, clips in self._feeds), default=1)

    @contextlib.contextmanager
    def running(self) -> Iterator[Callable[[int], None]]:
        """To be told every global step that begins. The thread has ended with the block."""
        if not self._feeds:
            yield lambda step: None
            return
        shards: queue.SimpleQueue[IndexedShard | None] = queue.SimpleQueue()
        stop = threading.Event()
        thread = threading.Thread(target=self._fetch, args=(shards, stop), name=THREAD_NAME, daemon=True)
        asked: dict[str, int] = {}

        def begin(step: int) -> None:
            for shard in self._coming(step):
                name = str(shard.path)
                if name not in asked:
                    shards.put(shard)
                asked[name] = step
            # Those of the windows come again and again, others only in the next pass: they may be gone by then.
            for name in [name for name, last in asked.items() if last < step - self._steps_per_shard]:
                del asked[name]

        thread.start()
        try:
            yield begin
        finally:
            stop.set()
            shards.put(None)
            if threading.current_thread() is not thread:  # garbage collection may end an iterator in any thread
                thread.join()

    def _coming(self, step: int) -> Iterator[IndexedShard]:
        for source, order, per_step, clips_per_shard in self._feeds:
            first = step * per_step + clips_per_shard
            clips = order.clips(range(first, first + per_step))
            for members in _members(source):
                yield from _remote_shards(members, np.unique(members.shard[clips]))

    def _fetch(self, shards: "queue.SimpleQueue[IndexedShard | None]", stop: threading.Event) -> None:
        cache = self._cache
        while cache is not None and (shard := shards.get()) is not None:
            try:
                cache.fetch(shard, stop.is_set)
            except FetchStopped:
                return
            except (SedDistillError, OSError) as error:  # whoever reads the shard meets it again
                _log.debug("%s: not fetched ahead: %s", shard.tar_path, error)


def _warn_if_larger(source: JoinedSource, cache: ShardCache) -> None:
    whole = sum(_largest(members, None) for members in _members(source))
    if whole > cache.max_bytes:
        _log.warning(
            "source %s reads %d bytes of remote shards in random order, the cache %s holds %d: most clips will fetch a "
            "shard; give the source order=BlockShuffle(), or the cache more room",
            source.name, whole, cache.folder, cache.max_bytes,
        )  # fmt: skip


def _members(source: JoinedSource) -> list[Members]:
    return [source.audio, *(rows.members for rows in source.labels.values())]


def _remote_shards(members: Members, numbers: npt.NDArray[np.int32]) -> list[IndexedShard]:
    shards = [members.shards[number] for number in numbers.tolist() if number >= 0]
    return [shard for shard in shards if is_remote(shard.path)]


def _largest(members: Members, count: int | None) -> int:
    """Bytes of the `count` largest remote tars, all of them for None."""
    shards = _remote_shards(members, np.unique(members.shard))
    return sum(sorted((shard.tar_bytes for shard in shards), reverse=True)[:count])


def _clips_per_shard(source: JoinedSource) -> int:
    return -(-len(source) // len(np.unique(source.audio.shard)))
