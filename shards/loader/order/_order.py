"""The order of the mix, as pure functions of (seed, source, step): no state, no generator that runs along.

Every source is an endless sequence of draws: pass 0 over its clips, then pass 1, ..., so a source repeats but never
ends. Global step g takes the next `share * world_size` draws of every source and cuts them into `world_size` equal
parts, one per rank. Which ranks and workers there are therefore changes who reads a clip, not which clips a global
batch holds.

What a pass is made of are words of Philox-4x64, keyed with a hash of (seed, source, pass). NumPy keeps the raw stream
of its bit generators for good, but not what `Generator.permutation` and `shuffle` make of it; and a stable sort has one
result. Three rules make a pass of them: `Shuffled` here, BlockShuffle in _block_order.py, Balanced in _balanced.py.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import floor, gcd, inf, lcm
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from pipeline import UsageError

if TYPE_CHECKING:
    from shards.loader.join._join import JoinedSource

Clips = npt.NDArray[np.int64]


class OrderRule(Protocol):
    """How a source is drawn from, as `Source(order=...)` takes it."""

    def of(self, source: "JoinedSource", seed: int) -> "Order":
        """The order of the clips of `source`. Raises UsageError if it has none by this rule."""
        ...


class Order:
    """The endless sequence of draws from one source, pass after pass. Can be pickled, and used by several threads.

    identity: what the sequence depends on besides seed, clips and source name; part of a loader's state.
    distinct: in so many draws of one pass no clip comes twice; 0 where clips repeat at random.
    """

    def __init__(self, identity: str, pass_length: int, distinct: int, make_pass: Callable[[int], Clips]) -> None:
        """make_pass: pass number -> the clips of that pass, [pass_length], a pure function."""
        self.identity = identity
        self.distinct = distinct
        self._length = pass_length
        self._make_pass = make_pass
        # A batch lies in one pass or across the border of two. Of millions of clips a pass is megabytes.
        self._recent: tuple[tuple[int, npt.NDArray[np.int32]], ...] = ()

    def clips(self, draws: range) -> Clips:
        """The clips at these positions of the sequence: int64 [len(draws)]."""
        passes, places = np.divmod(np.arange(draws.start, draws.stop, draws.step, dtype=np.int64), self._length)
        clips = np.empty(len(passes), np.int64)
        for number in np.unique(passes).tolist():
            here = passes == number
            clips[here] = self._pass(number)[places[here]]
        return clips

    def _pass(self, number: int) -> npt.NDArray[np.int32]:
        recent = self._recent  # of one moment: threads that both miss make the same pass twice, no worse
        for known, clips in recent:
            if known == number:
                return clips
        made = self._make_pass(number).astype(np.int32)
        self._recent = ((number, made), *recent[:1])
        return made


@dataclass(frozen=True)
class Shuffled:
    """Every clip once a pass, in a random order."""

    def of(self, source: "JoinedSource", seed: int) -> Order:
        clips = len(source)
        return Order("shuffled", clips, clips, partial(permutation, clips, seed, source.name))


def permutation(clips: int, seed: int, source: str, pass_number: int) -> Clips:
    """The order of clips 0..clips-1 in one pass over a source: int64 [clips]."""
    return np.argsort(random_words(clips, seed, source, pass_number), kind="stable")


def random_words(count: int, seed: int, source: str, pass_number: int, use: str = "") -> npt.NDArray[np.uint64]:
    """The words that a pass is made of, uint64 [count]: 64 random bits each. `use` tells several of one pass apart."""
    key = f"{seed}\n{source}\n{pass_number}" + (f"\n{use}" if use else "")
    digest = hashlib.sha256(key.encode()).digest()
    words: npt.NDArray[np.uint64] = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
    return words


def check_share(source: "JoinedSource", order: Order, share: int, world_size: int) -> None:
    """Raise UsageError if one global batch would take more clips from a source than it gives without repeating one."""
    needed = share * world_size
    if 0 < order.distinct < needed:
        ranks = f" over {world_size} ranks" if world_size > 1 else ""
        has = f"has {len(source)} clips" + (
            f" and an order of {order.distinct} draws a pass" if order.distinct < len(source) else ""
        )
        raise UsageError(
            f"source {source.name} {has}, less than its share of {needed} in one batch{ranks}; "
            "make the batch or the share smaller, or the source larger"
        )


def draws(step: int, *, share: int, rank: int, world_size: int) -> range:
    """The positions that `rank` takes from a source at global step `step`, `share` of them.

    Ranks 0..world_size-1 together take [step, step + 1) * share * world_size, in rank order.
    """
    first = (step * world_size + rank) * share
    return range(first, first + share)


def exact_shares(shares: Mapping[str, float], batch_size: int) -> dict[str, int]:
    """Clips of each source in a batch. Only the proportion of `shares` counts: 48 : 16 is 0.75 : 0.25.

    Raises UsageError, naming the nearest that would do, if the batch cannot hold that proportion in whole clips.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; needs at least 1")
    # 1/3 as a float is meant as a third: no batch has a million clips, so nothing finer is asked for.
    ratios = {
        name: Fraction(share if 0 < share < inf else 0).limit_denominator(1_000_000) for name, share in shares.items()
    }
    bad = [f"{name}: {shares[name]}" for name, ratio in ratios.items() if ratio <= 0]
    if bad or not ratios:
        raise UsageError(f"shares must be numbers above 0; got {', '.join(bad) or 'no source'}")
    total = sum(ratios.values())
    wanted = {name: ratio / total * batch_size for name, ratio in ratios.items()}
    if all(clips.denominator == 1 for clips in wanted.values()):
        return {name: int(clips) for name, clips in wanted.items()}
    raise UsageError(
        f"batch_size {batch_size} has no whole number of clips for shares {' : '.join(map(str, _whole(ratios)))} "
        f"of {', '.join(shares)}; nearest: {_nearest(ratios, wanted, batch_size)}"
    )


def _whole(ratios: Mapping[str, Fraction]) -> list[int]:
    """The same proportion in the smallest whole numbers."""
    scale = lcm(*(ratio.denominator for ratio in ratios.values()))
    parts = [int(ratio * scale) for ratio in ratios.values()]
    divisor = gcd(*parts)
    return [part // divisor for part in parts]


def _nearest(ratios: Mapping[str, Fraction], wanted: Mapping[str, Fraction], batch_size: int) -> str:
    unit = sum(_whole(ratios))
    sizes = [str(size) for size in (batch_size // unit * unit, batch_size // unit * unit + unit) if size]
    choices = [f"batch_size {' or '.join(sizes)} with these shares"]
    if batch_size >= len(wanted):
        counts = _rounded(wanted, batch_size)
        choices.append(f"shares {' : '.join(str(counts[name]) for name in wanted)} with this batch_size")
    return ", or ".join(choices)


def _rounded(wanted: Mapping[str, Fraction], batch_size: int) -> dict[str, int]:
    """Whole numbers of at least 1 that sum to `batch_size`: largest remainder, then the largest pay for the zeros."""
    counts = {name: floor(clips) for name, clips in wanted.items()}
    by_remainder = sorted(wanted, key=lambda name: counts[name] - wanted[name])
    for name in by_remainder[: batch_size - sum(counts.values())]:
        counts[name] += 1
    for name in counts:
        if counts[name] == 0:
            counts[max(counts, key=lambda other: counts[other])] -= 1
            counts[name] = 1
    return counts
