"""How far frame labels lag behind the events they are labels of.

Published labels were made from audio decoded elsewhere; a clip that was cut at another place has labels that are early
or late. Per clip, labels are correlated over time with what is known to be in place; the mean over clips peaks at the
lag they share.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import HOP_MS

MAX_LAG_MS = 60  # of a whole set: more than one frame late or early
MIN_CLIPS = 10
MIN_PEAK = 0.1

LAG_FRAMES = 2000 // HOP_MS
_MIN_OVERLAP = 50
_MOST_CLASSES = 10
_MIN_DEVIATION = 0.05  # a class that hardly changes within a clip says nothing of time
_CLEAR = 0.3  # correlation from which the peak of one clip counts
_OUTLIER_FRAMES, _OUTLIER_GAIN = 5, 0.2
_LISTED = 10

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Lag:
    """lag_ms: the peak of the mean correlation over `clips`, positive where labels come late.

    against: what labels were compared with. peak: the mean correlation there. quantiles_ms: 5, 25, 50, 75 and 95 % of
    the clips' own lags, over the `clear` ones. outliers: how many of these lie 200 ms or more elsewhere and fit clearly
    better there; outlier_keys: the first of them, with their lag in ms.
    """

    against: str
    clips: int
    lag_ms: int
    peak: float
    clear: int
    quantiles_ms: tuple[int, ...]
    outliers: int
    outlier_keys: tuple[tuple[str, int], ...]

    @property
    def enough(self) -> bool:
        """Whether there is a lag to speak of: clips to compare, and a peak above what chance makes."""
        return self.clips >= MIN_CLIPS and self.peak >= MIN_PEAK


def lag_curve(labels: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], valid: int) -> Curve | None:
    """Correlation of labels at t + lag with truth at t, over frames that stand on audio: float64 [101], -2 s to +2 s.

    Pearson's, with means taken class by class and deviations over all classes; nan where the two overlap too little.

    Float32 [classes, frames] probabilities. The classes of truth that change most are used, at most ten. None where
    nothing changes or a clip is too short to tell.
    """
    deviation = truth[:, :valid].std(axis=1)
    classes = np.argsort(-deviation, kind="stable")[:_MOST_CLASSES]
    classes = classes[deviation[classes] > _MIN_DEVIATION]
    if valid < _MIN_OVERLAP * 2 or not len(classes):
        return None
    ours, theirs = (part[classes, :valid].astype(np.float64) for part in (labels, truth))
    # At every lag at once: sums over an overlap are differences of running sums, products come from np.correlate.
    lags = np.arange(-LAG_FRAMES, LAG_FRAMES + 1)
    lags = lags[valid - abs(lags) >= _MIN_OVERLAP]
    frames = valid - abs(lags)
    sums, squares = _window_sums(ours, np.maximum(lags, 0), frames)
    their_sums, their_squares = _window_sums(theirs, np.maximum(-lags, 0), frames)
    products = np.stack([np.correlate(a, b, "full") for a, b in zip(ours, theirs, strict=True)])[:, valid - 1 + lags]
    together = (products - sums * their_sums / frames).sum(axis=0)
    apart = (squares - sums**2 / frames).sum(axis=0) * (their_squares - their_sums**2 / frames).sum(axis=0)
    curve = np.full(2 * LAG_FRAMES + 1, np.nan)
    curve[lags + LAG_FRAMES] = np.where(apart > 1e-12, together / np.sqrt(np.maximum(apart, 1e-12)), 0)
    return curve


def summarise(keys: Sequence[str], curves: Sequence[Curve], against: str) -> Lag:
    """The lag that clips share, and how they scatter about it."""
    if not curves:
        return Lag(against=against, clips=0, lag_ms=0, peak=0.0, clear=0, quantiles_ms=(), outliers=0, outlier_keys=())
    table = np.stack(curves)
    known = ~np.isnan(table)
    mean = np.where(known, table, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    mean[known.sum(axis=0) * 2 < len(table)] = -1  # what most clips are too short for
    shared = int(mean.argmax())
    own = np.where(known, table, -1)
    places = own.argmax(axis=1)
    peaks = own.max(axis=1)
    clear = peaks >= _CLEAR
    near = own[:, max(shared - 1, 0) : shared + 2].max(axis=1)
    elsewhere = clear & (abs(places - shared) >= _OUTLIER_FRAMES) & (peaks - near >= _OUTLIER_GAIN)
    lags_ms = (places - LAG_FRAMES) * HOP_MS
    quantiles = np.percentile(lags_ms[clear], (5, 25, 50, 75, 95), method="nearest") if clear.any() else ()
    return Lag(
        against=against,
        clips=len(table),
        lag_ms=round((_vertex(mean, shared) - LAG_FRAMES) * HOP_MS),
        peak=round(float(mean[shared]), 4),
        clear=int(clear.sum()),
        quantiles_ms=tuple(int(lag) for lag in quantiles),
        outliers=int(elsewhere.sum()),
        outlier_keys=tuple((keys[i], int(lags_ms[i])) for i in np.flatnonzero(elsewhere)[:_LISTED]),
    )


def _window_sums(
    rows: npt.NDArray[np.float64], start: npt.NDArray[np.int64], length: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sums of values and of squares over [start, start + length), for [class, window]."""
    running = [np.pad(np.cumsum(part, axis=1), ((0, 0), (1, 0))) for part in (rows, rows**2)]
    return running[0][:, start + length] - running[0][:, start], running[1][:, start + length] - running[1][:, start]


def _vertex(curve: Curve, place: int) -> float:
    """Where the parabola through a peak and its neighbours is highest."""
    if not 0 < place < len(curve) - 1:
        return place
    left, top, right = curve[place - 1 : place + 2]
    bend = left - 2 * top + right
    return place + (0.5 * float((left - right) / bend) if bend < 0 else 0.0)
