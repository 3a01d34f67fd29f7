"""Frame targets on a student's own grid: another hop, or so many frames to the clip. All borders are exact fractions.

Frame t of a grid spans [t * hop, (t + 1) * hop) of the clip, cut at its end. What it gets of the label frames that
reach into it is the grid's rule: their mean, weighted by how long each does, or their maximum. So a frame that lies
within one frame of the label takes its value, and an equal grid takes all of them, bit for bit.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from math import ceil, isfinite
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline._errors import UsageError
from pipeline._grid import CLIP_MS

GridRule = Literal["mean", "max"]
# Keeps borders in exact 64-bit integers.
_FINEST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid of frame targets, given by `hop_ms` or by `frames` to the clip; the other one follows.

    hop_ms: an int, a float (62.5; 0.1 is meant as a tenth) or a Fraction; kept as a Fraction.
    frames: ceil(clip_ms / hop_ms).
    rule: what a frame gets of the label frames that reach into it: "mean", weighted by how long they do, or "max".
    """

    hop_ms: Fraction | float | None = None
    frames: int | None = None
    rule: GridRule = "mean"
    clip_ms: int = CLIP_MS

    def __post_init__(self) -> None:
        if self.rule not in get_args(GridRule):
            raise UsageError(f"rule of a grid is {self.rule!r}, needs one of {', '.join(get_args(GridRule))}")
        if self.clip_ms < 1:
            raise UsageError(f"a grid is of clips of {self.clip_ms} ms; needs 1 or more")
        hop = _exact(self.hop_ms, self.frames, self.clip_ms)
        if not 1 <= hop <= self.clip_ms or hop.denominator > _FINEST:
            raise UsageError(
                f"hop of a grid is {float(hop):g} ms, needs 1 to {self.clip_ms} ms in at most six decimals; "
                "for a hop of other fractions give frames, or a Fraction"
            )
        frames = ceil(self.clip_ms / hop)
        if self.frames not in (None, frames):
            raise UsageError(f"a grid of {hop} ms has {frames} frames, not {self.frames}; give hop_ms or frames")
        object.__setattr__(self, "hop_ms", hop)
        object.__setattr__(self, "frames", frames)

    @cached_property
    def hop(self) -> Fraction:
        """`hop_ms` as the Fraction that it always is."""
        return Fraction(self.hop_ms or 0)

    @cached_property
    def count(self) -> int:
        """`frames` as the int that it always is."""
        return int(self.frames or 0)

    def labelled_frames(self, frames: int, hop_ms: int) -> int:
        """Frames that begin within the first `frames` frames of a label of `hop_ms`: those that `regrid` fills.

        With the label's valid frames they are no fewer than those that begin on audio: such a frame begins in a frame
        of the label that stands on audio.
        """
        return min(self.count, ceil(frames * hop_ms / self.hop))


def regrid(
    values: npt.NDArray[np.float32], hop_ms: int, grid: Grid, out: npt.NDArray[np.float32], *, valid: int | None = None
) -> None:
    """Probabilities [..., T] of a label whose hop is `hop_ms`, on `grid`: into `out` [..., grid.count].

    valid: label frames that stand on audio, without it all. The others are not averaged in: the weights of a frame at
    the border are those of the valid frames that reach into it, scaled to 1. Frames of the grid that begin behind the
    valid ones (see `labelled_frames`) are 0. Values within [0, 1] stay there.
    """
    frames = values.shape[-1] if valid is None else min(valid, values.shape[-1])
    plan = _plan(hop_ms, frames, grid)
    filled = plan.frames.shape[1]
    out[..., filled:] = 0
    into = out[..., :filled]
    if plan.same:
        np.copyto(into, values[..., :filled])
        return
    np.take(values, plan.frames[0], axis=-1, out=into, mode="clip")
    if plan.weights is not None:
        into *= plan.weights[0]
    for turn in range(1, len(plan.frames)):
        more = np.take(values, plan.frames[turn], axis=-1, mode="clip")
        if plan.weights is None:
            np.maximum(into, more, out=into)
        else:
            more *= plan.weights[turn]
            into += more


@dataclass(frozen=True, eq=False)
class _Plan:
    """Frame t of the grid is made of label frames frames[:, t]: their maximum, or their sum weighted by weights[:, t].

    frames: int64 [most label frames in one, T]; a frame with fewer repeats its last. weights: float32, 0 for those.
    """

    frames: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32] | None
    same: bool


@lru_cache(maxsize=1024)
def _plan(hop_ms: int, frames: int, grid: Grid) -> _Plan:
    """In units of which a millisecond has as many as the hop has parts, so that everything is an integer."""
    parts = grid.hop.denominator
    hop_in, hop_out, clip = hop_ms * parts, grid.hop.numerator, grid.clip_ms * parts
    labelled = min(frames * hop_in, clip)
    start = np.arange(grid.labelled_frames(frames, hop_ms), dtype=np.int64) * hop_out
    end = np.minimum(start + hop_out, labelled)
    first, last = start // hop_in, (end - 1) // hop_in
    most = int((last - first).max(initial=0)) + 1
    chosen = np.minimum(first + np.arange(most)[:, None], last)
    same = most == 1 and bool((chosen[0] == np.arange(chosen.shape[1])).all())
    if grid.rule == "max" or most == 1:
        return _Plan(chosen, None, same)
    shared = np.minimum(end, (chosen + 1) * hop_in) - np.maximum(start, chosen * hop_in)
    shared[np.arange(most)[:, None] > last - first] = 0
    weights = (shared / (end - start)).astype(np.float32)
    # The last weight is what float32 sums leave to 1: the mean of ones is 1, and so no mean is above.
    for turn in range(1, most):
        final = last - first == turn
        before = np.zeros(len(start), dtype=np.float32)
        for weight in weights[:turn]:
            before += weight
        weights[turn, final] = 1 - before[final]
    return _Plan(chosen, weights, same)


def _exact(hop_ms: Fraction | float | None, frames: int | None, clip_ms: int) -> Fraction:
    if hop_ms is None:
        if frames is None or frames < 1:
            raise UsageError(f"a grid has hop_ms None and frames {frames}; give hop_ms, or frames of 1 or more")
        return Fraction(clip_ms, frames)
    if not isfinite(hop_ms):
        raise UsageError(f"hop of a grid is {hop_ms} ms; needs a number")
    # The shortest decimal that is this float: 0.1 as written, not the binary fraction next to it.
    return Fraction(str(hop_ms)) if isinstance(hop_ms, float) else Fraction(hop_ms)
