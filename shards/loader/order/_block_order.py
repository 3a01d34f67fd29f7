"""Block shuffle: for shards on slow or remote storage, read one after the other, a few of them open at any time.

Think of the shards of a pass, in a random order of their own, as lying on a line of one unit each. A shard is open for
`window` units, and its clips come at random times while it is: in the unit [j, j + 1) exactly the shards j to
j + window - 1 of the pass are open. So from one unit to the next one shard is done with and one is new. Where a pass
begins and ends the shards that would be open outside of it are open for a shorter time.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import UsageError
from shards.loader._kinds import check_whole
from shards.loader.order._order import Clips, Order, random_words

if TYPE_CHECKING:
    from shards.loader.join._join import JoinedSource

_MAX_WINDOW = 1 << 20
_HALF_WORD = np.uint64(32)


@dataclass(frozen=True)
class BlockShuffle:
    """Every clip once a pass, out of `window` audio shards at a time: a cache of one more holds all that is in use.

    Batches of neighbours in a shard are more alike than at random: `shuffle_quality` says by how much. The order
    depends on which clip lies in which shard; a state saved before a dataset was resharded does not fit after it.
    """

    window: int = 8

    def __post_init__(self) -> None:
        check_whole(window=self.window)
        if not 1 <= self.window <= _MAX_WINDOW:
            raise UsageError(f"block shuffle has a window of {self.window} shards; needs 1 to {_MAX_WINDOW}")

    def of(self, source: "JoinedSource", seed: int) -> Order:
        used, shard = np.unique(source.audio.shard, return_inverse=True)
        layout = hashlib.sha256(shard.astype("<i8").tobytes()).hexdigest()[:16]
        make = partial(block_pass, shard.astype(np.int64), len(used), self.window, seed, source.name)
        return Order(f"blocks of {self.window} shards, layout {layout}", len(source), len(source), make)


def block_pass(
    shard: npt.NDArray[np.int64], shards: int, window: int, seed: int, source: str, pass_number: int
) -> Clips:
    """The order of clips 0..n-1 in one pass, int64 [n]; `shard` is the shard of each, int64 [n] of 0..shards-1."""
    turns = random_words(shards, seed, source, pass_number, "shards")
    turn = np.empty(shards, np.int64)
    turn[np.argsort(turns, kind="stable")] = np.arange(shards)
    units = max(1, shards - window + 1)
    opens = np.maximum(turn - window + 1, 0)
    closes = np.minimum(turn + 1, units)
    # Times in units of 2**-32, in integers: the same on every machine.
    halves = random_words(len(shard), seed, source, pass_number, "clips") >> _HALF_WORD
    times = (opens.astype(np.uint64) << _HALF_WORD)[shard] + halves * (closes - opens).astype(np.uint64)[shard]
    return np.argsort(times, kind="stable")


class ShuffleQuality(NamedTuple):
    """How random an order is, over one pass; beside each the figure of a full permutation of the same clips.

    same_shard: share of the pairs of clips within a batch that are of one shard. spread: mean distance in the pass of
    two clips of one shard, as a share of the pass (at random 1/3). shards_open: most shards between the first and last
    clip of which a point of the pass lies: what a cache must hold.
    """

    same_shard: float
    same_shard_permuted: float
    spread: float
    spread_permuted: float
    shards_open: int
    shards: int


def shuffle_quality(order: Order, shard: npt.NDArray[np.int32], share: int) -> ShuffleQuality:
    """Of the first pass of `order` over clips that lie in the shards `shard`, `share` of them in every batch.

    Raises UsageError where no batch has a pair of clips, or no shard has.
    """
    if not 2 <= share <= len(shard) or np.bincount(shard).max() < 2:
        raise UsageError(
            f"shuffle quality is of pairs of clips: a share of {share} of {len(shard)} clips in "
            f"{len(np.unique(shard))} shards has none; needs a share of 2 or more and shards of several clips"
        )
    clips = order.clips(range(len(shard)))
    permuted = np.random.default_rng([0, len(shard)]).permutation(len(shard))
    _, number = np.unique(shard, return_inverse=True)
    ordered, shuffled = number[clips].astype(np.int64), number[permuted].astype(np.int64)
    return ShuffleQuality(
        same_shard=_same_shard(ordered, share),
        same_shard_permuted=_same_shard(shuffled, share),
        spread=_spread(ordered),
        spread_permuted=_spread(shuffled),
        shards_open=_most_open(ordered),
        shards=int(number.max()) + 1,
    )


def _same_shard(shard: Clips, share: int) -> float:
    batches = np.sort(shard[: len(shard) // share * share].reshape(-1, share), axis=1)
    # In a sorted row the pairs of one shard are runs: of a run of r clips r * (r - 1) / 2.
    pairs, run = 0, np.zeros(len(batches), np.int64)
    for i in range(1, share):
        run = np.where(batches[:, i] == batches[:, i - 1], run + 1, 0)
        pairs += int(run.sum())
    return pairs / (len(batches) * share * (share - 1) / 2)


def _spread(shard: Clips) -> float:
    """Of sorted places p0 < p1 < ... the distances of all pairs add up to sum (2i - m + 1) p_i."""
    places = np.argsort(shard, kind="stable")
    counts = np.bincount(shard)
    rank = np.arange(len(shard)) - np.repeat(np.cumsum(counts) - counts, counts)
    distances = ((2 * rank - np.repeat(counts, counts) + 1) * places).sum()
    return float(distances / (counts * (counts - 1) / 2).sum() / len(shard))


def _most_open(shard: Clips) -> int:
    places = np.arange(len(shard))
    first, last = np.full(shard.max() + 1, len(shard)), np.zeros(shard.max() + 1, np.int64)
    np.minimum.at(first, shard, places)
    np.maximum.at(last, shard, places)
    change = np.bincount(first, minlength=len(shard) + 1) - np.bincount(last + 1, minlength=len(shard) + 1)
    return int(np.cumsum(change).max())
