"""Logits and what they come to in a loss, as whole numbers of small units: sums of them are exact in any order, so that
NumPy and the compiled kernels, which add in different orders, choose the same levels."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shards.codecs._label_levels import MAX_LOGIT

_Floats = npt.NDArray[np.float64]

# So many units are a probability of 1 where one is a logit of 1: the sums of both have room alike.
PER_LOGIT = 32.0
_STEPS = 64  # of the table to a logit


@dataclass(frozen=True)
class Units:
    """All float64 [row, time], of logits x, `one` of them a logit: x itself; p = sigmoid(x), PER_LOGIT times as many;
    given: p x; loss: that of a student that says just p, its entropy, in nats."""

    one: float
    logit: _Floats
    probability: _Floats
    given: _Floats
    loss: _Floats


def units_of(logits: npt.NDArray[np.float32], keeps: int) -> Units:
    """Of logits [row, time] within +-MAX_LOGIT at temperature `keeps`."""
    one = one_of(logits.shape[1])
    x = np.rint(logits.astype(np.float64) * (one / keeps))
    size = np.abs(x) / one
    place = np.rint(size * _STEPS)
    off = size - place / _STEPS
    exp, softplus = sigmoid_table().T[:, place.astype(np.intp)]
    # exp(-size) to 3e-13 of itself, log(1 + exp(-size)) to 1e-7.
    exp = exp * (1 - off * (1 - off * (0.5 - off * (1 / 6 - off * (1 / 24)))))
    unlikely = exp / (1 + exp)
    likely = 1 - unlikely
    softplus = softplus - off * unlikely * (1 + 0.5 * off * likely)
    p = np.where(x < 0, unlikely, likely)
    loss = (softplus + size * unlikely) * one
    return Units(one, x, np.rint(p * (one * PER_LOGIT)), np.rint(p * x), np.rint(loss))


def one_of(frames: int) -> float:
    """As small a unit as lets float64 hold all sums of a row: 2^51 of them are more than 24 times `frames`."""
    return float(2 ** (46 - frames.bit_length()))


@lru_cache(maxsize=1)
def sigmoid_table() -> _Floats:
    """[1537, 2] for the sizes 0, 1/64, 2/64, ... of a logit x: exp(-x), log(1 + exp(-x))."""
    exp = np.exp(-np.arange(int(MAX_LOGIT * _STEPS) + 1) / _STEPS)
    table = np.stack((exp, np.log1p(exp)), axis=1)
    table.flags.writeable = False
    return table
