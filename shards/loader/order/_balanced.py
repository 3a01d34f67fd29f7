"""Draws by class-balanced weights, with or without replacement: the same clips on every machine.

Weights are integers, their running sums too, and logarithms are made of additions, multiplications and divisions, which
IEEE 754 rounds in one way: libraries' own differ in the last bit, and one bit can change a clip.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, get_args

import numpy as np
import numpy.typing as npt

from pipeline import HOP_MS, UsageError
from shards.loader._kinds import check_whole
from shards.loader.order._order import Clips, Order, random_words
from shards.loader.order._weights import PUBLISHED_OFFSET, By, clip_weights

if TYPE_CHECKING:
    from shards.loader.join._join import JoinedSource

# Draws with replacement have no passes; their words are made so many at a time.
_BLOCK = 1 << 16
_BITS, _STEP_BITS = 63, np.uint64(7)
_LN2, _SQRT_HALF = 0.6931471805599453, 0.7071067811865476
_LAST_TERM = 23  # s is at most 0.172: the next term is below 1e-19 of the first


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """Clips drawn by the published weights, clips with rare classes more often; clips without such labels never.

    by: "strong" weighs a clip by sum over classes of frames_c * 1000 / (offset + N_c), "weak" by the sum over its
    classes of 1000 / (offset + n_c). Counts are of the clips of the source, subsets and exclusions applied.
    offset: 30 for strong and 100 for weak if not given.
    replacement: every draw on its own, so a batch may hold a clip twice. Without it a pass is `draws` different clips,
    drawn one after the other by their weights; the closer `draws` is to the number of clips, the less is balanced.
    The published recipe for the weak split: Balanced(by="weak", replacement=False, draws=100_000).
    """

    by: By
    offset: int | None = None
    replacement: bool = True
    draws: int | None = None

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise UsageError(f"balanced order is by {self.by!r}, needs one of {', '.join(get_args(By))}")
        for name in ("offset", "draws"):
            if getattr(self, name) is not None:
                check_whole(**{name: getattr(self, name)})
        if self.offset is not None and self.offset < 0:
            raise UsageError(f"balanced order has offset {self.offset}; needs 0 or more")
        if self.replacement != (self.draws is None) or (self.draws is not None and self.draws < 1):
            raise UsageError(
                f"balanced order has replacement={self.replacement} and draws={self.draws}; without replacement a pass "
                "is draws=1 or more clips, with it there are no passes: leave draws out"
            )

    def of(self, source: "JoinedSource", seed: int) -> Order:
        offset = PUBLISHED_OFFSET[self.by] if self.offset is None else self.offset
        weights = weights_of(source, self.by, offset)
        drawn = int(np.count_nonzero(weights))
        if not drawn:
            raise UsageError(
                f"source {source.name} has no clip with a {self.by} hard label to be balanced by; pack its split with "
                f"them, or draw it with order=Shuffled()"
            )
        made_of = hashlib.sha256(weights.astype("<i8").tobytes()).hexdigest()[:16]
        identity = f"balanced by {self.by}, offset {offset}, weights {made_of}"
        if self.draws is None:
            make = partial(_drawn_again, thresholds(weights), seed, source.name)
            return Order(f"{identity}, with replacement", _BLOCK, 0, make)
        if self.draws > drawn:
            raise UsageError(
                f"source {source.name} has {drawn} clips with a {self.by} hard label, less than the {self.draws} draws "
                "of a pass without replacement; make draws smaller"
            )
        make = partial(_drawn_once, weights, self.draws, seed, source.name)
        return Order(f"{identity}, {self.draws} without replacement", self.draws, self.draws, make)


def weights_of(source: "JoinedSource", by: By, offset: int) -> npt.NDArray[np.int64]:
    """The weights of the clips of a source, see clip_weights: a tenth of a second for a million, so nothing is kept."""
    hop = source.spec.sample_rate * HOP_MS
    return clip_weights(source.hard, by, offset, -(-source.samples.astype(np.int64) * 1000 // hop))


def thresholds(weights: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """floor(2**63 * running sum / sum) of the weights, uint64: clip i has [thresholds[i - 1], thresholds[i]).

    A long division, as the product has more than 64 bits. The sum is below 2**57: see clip_weights.
    """
    rest: npt.NDArray[np.uint64] = np.cumsum(weights.astype(np.uint64))
    total = rest[-1]
    quotient: npt.NDArray[np.uint64] = rest // total
    rest %= total
    for _ in range(_BITS // int(_STEP_BITS)):
        rest <<= _STEP_BITS
        quotient <<= _STEP_BITS
        quotient += rest // total
        rest %= total
    return quotient


def minus_log(u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """-ln(u) for 0 < u <= 1 within 1e-15 of it, by operations that IEEE 754 rounds in one way.

    u = m * 2**e with m next to 1, and ln m = 2 artanh(s) = 2 (s + s**3 / 3 + s**5 / 5 + ...), s = (m - 1) / (m + 1).
    """
    mantissa, exponent = np.frexp(u)
    low = mantissa < _SQRT_HALF
    mantissa, exponent = np.where(low, 2 * mantissa, mantissa), exponent - low
    s = (mantissa - 1) / (mantissa + 1)
    series = np.zeros_like(s)
    for odd in range(_LAST_TERM, 0, -2):
        series = series * (s * s) + 1 / odd
    result: npt.NDArray[np.float64] = -(exponent * _LN2 + 2 * s * series)
    return result


def _drawn_again(borders: npt.NDArray[np.uint64], seed: int, source: str, block: int) -> Clips:
    words = random_words(_BLOCK, seed, source, block, "with replacement")
    drawn: Clips = np.searchsorted(borders, words >> np.uint64(1), side="right")
    return drawn


def _drawn_once(weights: npt.NDArray[np.int64], draws: int, seed: int, source: str, pass_number: int) -> Clips:
    """Clips of the smallest -ln(u) / weight, smallest first: as if drawn one by one among those that are left.

    Source: Efraimidis and Spirakis, Information Processing Letters 97 (2006), algorithm A.
    """
    clips = np.flatnonzero(weights)
    words = random_words(len(clips), seed, source, pass_number, "without replacement")
    u = ((words >> np.uint64(12)).astype(np.float64) + 0.5) / 2**52
    drawn: Clips = clips[np.argsort(minus_log(u) / weights[clips], kind="stable")[:draws]]
    return drawn
