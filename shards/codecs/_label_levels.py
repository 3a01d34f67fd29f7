"""What the lossy label codecs promise, and the logits they can say: one table of levels for each."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

LossyCodec = Literal["faithful", "small"]

# Logits beyond it are stored as +-24: a probability of 4e-11, at temperature 4 of 0.0025.
MAX_LOGIT = 24.0
# Levels are multiples of 1/4096, so that no difference in the last bit of somebody's exp() moves one.
_LEVEL_GRID = 4096
_BINS_PER_LOGIT = 2048


@dataclass(frozen=True, kw_only=True)
class LabelGuarantee:
    """What separates a decoded label from the one that was given, at most; the encoder checks it for every clip.

    max_probability_error: |sigmoid(decoded / T) - sigmoid(given / T)| of any cell, by temperature T.
    max_logit_error: |decoded - given| of any cell, where logits beyond +-`max_logit` count as +-`max_logit`.
    max_merged_probability_error: the first, at any of the temperatures, for the mean of the logits of several label
    sets, where they lie within `merged_spread` of each other. None: not promised.
    max_row_loss_change: the loss -(target log p + (1 - target) log(1 - p)) of a student that gives p as the teacher
    does, averaged over the frames of a class (over the classes, where there is no time axis), changes by at most this
    share of itself, or by `row_loss_floor` (nats) where that is more. None: not promised.
    """

    max_probability_error: dict[int, float]
    max_logit_error: float
    max_logit: float
    max_merged_probability_error: float | None = None
    merged_spread: float = 0.0
    max_row_loss_change: float | None = None
    row_loss_floor: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Tube:
    """How far from a logit a level may lie: the least of what each temperature, `theta` and `logit` allow.

    probability: temperature -> error of the probability. theta: error of asin(sqrt(p)), in which equal steps cost
    equal Kullback-Leibler divergence. logit: error of the logit. freedom: number of levels within reach of a logit,
    on average; with 1 there is no choice, with more the encoder stays on a level for longer. quiet: below this logit
    the encoder may go one level further than that to keep a row's loss, and it is the loss at temperature `keeps`.
    """

    probability: dict[int, float]
    theta: float
    logit: float
    freedom: float
    quiet: float = -MAX_LOGIT
    keeps: int = 1

    def half_width(self, logit: float) -> float:
        """Reach to either side of `logit`, in logits."""
        reach = min(self.logit, 2 * self.theta / math.sqrt(_slope(logit)))
        for temperature, error in self.probability.items():
            reach = min(reach, error * temperature / _slope(logit / temperature))
        return reach


# What decides the table (all but `quiet` and `keeps`) is part of the format: other numbers are another codec.
TUBES: dict[LossyCodec, Tube] = {
    "faithful": Tube(probability={1: 0.0039, 2: 0.0039, 4: 0.0039}, theta=1.0, logit=0.49, freedom=2.0, keeps=2),
    "small": Tube(probability={1: 0.0037}, theta=0.005, logit=2.0, freedom=3.0, quiet=-5.0),
}
GUARANTEES: dict[LossyCodec, LabelGuarantee] = {
    "faithful": LabelGuarantee(
        max_probability_error={1: 0.004, 2: 0.004, 4: 0.004},
        max_logit_error=0.5,
        max_logit=MAX_LOGIT,
        max_merged_probability_error=0.008,
        merged_spread=4.0,
    ),
    "small": LabelGuarantee(
        max_probability_error={1: 0.004, 2: 0.01, 4: 0.05},
        max_logit_error=3.5,
        max_logit=MAX_LOGIT,
        max_row_loss_change=0.01,
        row_loss_floor=5e-6,
    ),
}


@dataclass(frozen=True)
class Levels:
    """The table of one codec, ascending float32 [levels], and for the encoder the levels within reach of a logit.

    keeps, kept: the tube's `keeps`, and the probabilities at that temperature, float64. quiet: the first level not
    below the tube's `quiet`. reaches: int16 [bin, 2], the first and the last level within reach of the logits of a bin.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    keeps: int
    kept: npt.NDArray[np.float64]
    quiet: int
    reaches: npt.NDArray[np.int16]

    def reach(self, logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
        """The first and the last level that may stand for each logit, out of [-MAX_LOGIT, MAX_LOGIT]."""
        bins = ((logits + np.float32(MAX_LOGIT)) * np.float32(_BINS_PER_LOGIT) + np.float32(0.5)).astype(np.int32)
        return self.reaches[:, 0][bins], self.reaches[:, 1][bins]


@lru_cache(maxsize=2)
def levels(codec: LossyCodec) -> Levels:
    """Built on first use, in milliseconds. The same numbers everywhere: they are part of the format."""
    tube = TUBES[codec]
    positive = [0]
    while positive[-1] < MAX_LOGIT * _LEVEL_GRID:
        step = 2 * tube.half_width(positive[-1] / _LEVEL_GRID) / tube.freedom
        positive.append(min(positive[-1] + int(step * _LEVEL_GRID), int(MAX_LOGIT * _LEVEL_GRID)))
    table = np.array([-level for level in positive[:0:-1]] + positive, np.float64) / _LEVEL_GRID
    bins = np.arange(-MAX_LOGIT, MAX_LOGIT + 1 / _BINS_PER_LOGIT, 1 / _BINS_PER_LOGIT)
    position = np.interp(bins, table, np.arange(len(table)))
    nearest = np.floor(position + 0.5)
    lowest = np.minimum(np.ceil(position - tube.freedom / 2), nearest)
    highest = np.maximum(np.floor(position + tube.freedom / 2), nearest)
    return Levels(
        table.astype(np.float32),
        (1 / (1 + np.exp(-table))).astype(np.float32),
        tube.keeps,
        1 / (1 + np.exp(-table / tube.keeps)),
        int(np.searchsorted(table, tube.quiet)),
        np.stack((np.maximum(lowest, 0), np.minimum(highest, len(table) - 1)), axis=1).astype(np.int16),
    )


def _slope(logit: float) -> float:
    """p (1 - p), the derivative of the sigmoid."""
    p = 1 / (1 + math.exp(-abs(logit)))
    return p * (1 - p)
