"""The order of the mix, as pure functions of (seed, source, step): no state, no generator that runs along.

Every source is an endless sequence of draws: pass 0 over its clips, then pass 1, ..., each pass a permutation of its
own, so a source repeats but never ends. Global step g takes the next `share * world_size` draws of every source and
cuts them into `world_size` equal parts, one per rank. Which ranks and workers there are therefore changes who reads a
clip, not which clips a global batch holds.

The permutation is the stable argsort of n words of Philox-4x64, keyed with a hash of (seed, source, pass). NumPy keeps
the raw stream of its bit generators for good, but not what `Generator.permutation` and `shuffle` make of it; and a
stable sort has one result.
"""

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from math import floor, gcd, inf, lcm

import numpy as np
import numpy.typing as npt

from pipeline import UsageError


# Every batch reads each source within one pass or across the border of two: enough for 30 sources, and not much memory,
# because passes over a big source are long.
@lru_cache(maxsize=64)
def permutation(clips: int, seed: int, source: str, pass_number: int) -> npt.NDArray[np.int64]:
    """The order of clips 0..clips-1 in one pass over a source: int64 [clips], read-only."""
    digest = hashlib.sha256(f"{seed}\n{source}\n{pass_number}".encode()).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(clips)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)
    return order


def clip_at(draw: int, *, clips: int, seed: int, source: str) -> int:
    """The clip (0..clips-1) at position `draw` of the endless sequence of a source."""
    pass_number, place = divmod(draw, clips)
    return int(permutation(clips, seed, source, pass_number)[place])


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
