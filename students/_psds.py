"""PSDS1: the area under the detection curve over all thresholds, per class, exact and on arrays.

A detection is a run of frames whose probability exceeds the threshold. It is right when at least 70 % of it lies on
ground truth of its class (else it is a false positive), and an event is found when right detections cover at least 70 %
of it. The curve is the share of events found against false positives per hour, up to 100, and PSDS1 its mean height. No
cross-triggers (alpha_ct = 0).

Every distinct value of a clip is a threshold, yet no loop runs over thresholds: over all of them a clip of T frames has
at most T different detections, each the widest run around its own lowest frame, alive while the threshold lies below
that frame and not below the higher of the run's two neighbours. Counts against threshold are sums over those lives.

Times are whole milliseconds and the tolerances tenths, so a criterion met exactly is met.
Source: Bilen et al., ICASSP 2020 (the measure); Ebbers et al., ICASSP 2022 (all thresholds at once).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import HOP_MS, Event, UsageError, Vocabulary, frame_labels, merge_events
from students._median import median_filter

MAX_FALSE_POSITIVES_PER_HOUR = 100.0
_TENTHS = 7  # detection and ground-truth tolerance, 0.7 both

_Floats = npt.NDArray[np.floating]
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Psds:
    """per_class: float64 [C], NaN for a class without ground truth. counted: the columns that have some.

    mean: of the counted per-class values, the headline of the AudioSet Strong literature.
    macro: PSDS1 of the mean curve less the standard deviation across classes (alpha_st = 1), as in DCASE.
    """

    per_class: npt.NDArray[np.float64]
    counted: tuple[int, ...]
    mean: float
    macro: float
    clips: int
    hours: float


def psds1(
    probs: npt.NDArray[np.generic],
    events: Sequence[Iterable[Event]],
    durations_s: Sequence[float],
    vocabulary: Vocabulary,
) -> Psds:
    """Frame probabilities [N, len(vocabulary), T], T frames of 40 ms, and of each of the N clips its events and its
    duration in seconds -> Psds.

    Any real dtype and any monotone function of probabilities gives the same result; a memmap is read class by class. A
    frame at -inf is never detected. Same-class events of a clip that touch or overlap count as one; events of other
    classes are dropped. Durations enter only as the hours of "per hour".
    Raises UsageError on counts that differ, NaN, an empty set, a duration or an event that does not last, or no event.
    """
    if probs.ndim != 3 or not len(probs) == len(events) == len(durations_s) or probs.shape[1] != len(vocabulary):
        raise UsageError(
            f"psds1 got probabilities {probs.shape}, {len(events)} event lists, {len(durations_s)} durations and "
            f"{len(vocabulary)} classes; needs [clips, classes, frames] and one list and one duration per clip"
        )
    duration_s = float(np.sum(durations_s))
    if not len(probs) or not np.min(durations_s) > 0 or not np.isfinite(duration_s):
        raise UsageError("psds1 got no clip, or a clip duration that is not a positive number of seconds")
    truth = _truth_columns(events, vocabulary)
    counted = tuple(np.unique(truth[0]).tolist())
    if not counted:
        raise UsageError("psds1 got no event of any of its classes; there is nothing to detect")

    # Curves of all classes share one grid: the number of false positives, 0 .. what 100 per hour allow.
    allowed = int(MAX_FALSE_POSITIVES_PER_HOUR * duration_s / 3600.0) + 1
    rate = np.arange(allowed + 1) / duration_s * 3600.0
    rate = rate[rate <= MAX_FALSE_POSITIVES_PER_HOUR]
    width = np.diff(rate, append=MAX_FALSE_POSITIVES_PER_HOUR) / MAX_FALSE_POSITIVES_PER_HOUR

    curves = np.empty((len(counted), len(rate)))
    for row, column in enumerate(counted):
        clip, onset, offset = truth[1:, truth[0] == column]
        curves[row] = _events_found(probs[:, column], clip, onset, offset, len(rate) - 1) / len(clip)
    per_class = np.full(len(vocabulary), np.nan)
    per_class[list(counted)] = curves @ width
    return Psds(
        per_class=per_class,
        counted=counted,
        mean=float(np.mean(per_class[list(counted)])),
        macro=float(np.maximum(curves.mean(axis=0) - curves.std(axis=0), 0.0) @ width),
        clips=len(probs),
        hours=duration_s / 3600.0,
    )


def psds1_ceiling(
    events: Sequence[Iterable[Event]], durations_s: Sequence[float], vocabulary: Vocabulary, *, median_frames: int = 1
) -> Psds:
    """What perfect labels on the 40 ms grid reach, after a median filter if asked."""
    labels = np.stack([frame_labels(of_clip, vocabulary) for of_clip in events])
    return psds1(median_filter(labels, median_frames), events, durations_s, vocabulary)


def _truth_columns(events: Sequence[Iterable[Event]], vocabulary: Vocabulary) -> _Ints:
    """Events, merged -> int64 [4, events]: class column, clip number, onset ms, offset ms; sorted in that order."""
    column_of = vocabulary.index()
    rows: list[tuple[int, int, int, int]] = []
    for clip, of_clip in enumerate(events):
        for onset_ms, offset_ms, mid in merge_events(event for event in of_clip if event.mid in column_of):
            if not 0 <= onset_ms < offset_ms:
                raise UsageError(
                    f"psds1: clip number {clip} has an event [{onset_ms}, {offset_ms}) ms of {mid}; it must last"
                )
            rows.append((column_of[mid], clip, onset_ms, offset_ms))
    return np.array(sorted(rows), dtype=np.int64).reshape(-1, 4).T


def _events_found(
    values: npt.NDArray[np.generic], clip: _Ints, onset_ms: _Ints, offset_ms: _Ints, max_false: int
) -> _Ints:
    """One class, values [N, T] -> [max_false + 1]: at entry k the most events that a threshold with at most k false
    positives finds."""
    if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
        raise UsageError(
            f"psds1 got NaN in clip number {int(np.isnan(values).any(axis=1).argmax())}; check the model's output"
        )
    has_truth = np.zeros(len(values), dtype=bool)
    has_truth[clip] = True
    peak = values.max(axis=1)

    # A clip without ground truth whose peak is above the threshold holds at least one false positive. So once more than
    # max_false such peaks are above it, no lower threshold can count: everything at or below that peak is silence.
    others = np.sort(peak[~has_truth])[::-1]
    silent = float(others[max_false]) if len(others) > max_false else -np.inf
    wanted = has_truth | (peak > silent)
    level = np.full((int(wanted.sum()), values.shape[1] + 1), -np.inf)  # one spare frame keeps neighbouring clips apart
    level[:, :-1] = values[wanted]
    level[level <= silent] = -np.inf

    event_row = (np.cumsum(wanted) - 1)[clip]
    row, first, end, high, low = _detections(level)
    inside = _coverage(event_row, onset_ms, offset_ms, level.shape)
    right = 10 * (inside[row, end] - inside[row, first]) >= _TENTHS * HOP_MS * (end - first)
    found_at, found_change = _truth_changes(
        event_row, onset_ms, offset_ms, row[right], first[right] * HOP_MS, end[right] * HOP_MS, high[right], low[right]
    )
    false_at = np.concatenate([high[~right], low[~right]])
    false_change = np.repeat([1, -1], len(false_at) // 2)

    at = np.concatenate([found_at, false_at])
    order = np.argsort(-at)
    found = np.cumsum(np.concatenate([found_change, np.zeros_like(false_change)])[order])
    false = np.cumsum(np.concatenate([np.zeros_like(found_change), false_change])[order])
    counts = _last_of_each(at[order]) & (at[order] > -np.inf) & (false <= max_false)
    best = np.zeros(max_false + 1, dtype=np.int64)
    np.maximum.at(best, false[counts], found[counts])
    return np.maximum.accumulate(best)


def _detections(level: _Floats) -> tuple[_Ints, _Ints, _Ints, _Floats, _Floats]:
    """Rows [n, T + 1] whose last column is -inf -> every detection of every threshold, as (row, first frame, end frame,
    high, low): frames [first, end) are one detection for thresholds in [low, high)."""
    padded = np.concatenate([[-np.inf], level.ravel()])
    heard = np.flatnonzero(padded > -np.inf)
    before = _nearest(padded, heard, -1)
    after = _nearest(padded, heard, 1)
    # Of equal lowest frames in one run the leftmost stands for it: only there is the frame before strictly lower.
    stands = heard[padded[before[heard]] < padded[heard]]
    before, after = before[stands], after[stands]
    row, first = np.divmod(before, level.shape[1])  # the frame after `before`, without the leading pad
    return row, first, first + after - before - 1, padded[stands], np.maximum(padded[before], padded[after])


def _nearest(padded: _Floats, heard: _Ints, step: int) -> _Ints:
    """For each of `heard`, the nearest frame before it (step -1) not higher, or after it (step 1) lower, than it.

    Pointers jump over pointers: no frame between a frame and its pointer is an obstacle, so the pointer's own pointer
    is the next candidate. All frames at once, in a handful of rounds.
    """
    pointer = np.arange(len(padded)) + step
    moving = heard
    while len(moving):
        candidate = pointer[moving]
        passes = padded[candidate] > padded[moving] if step < 0 else padded[candidate] >= padded[moving]
        moving = moving[passes]
        pointer[moving] = pointer[candidate[passes]]
    return pointer


def _coverage(row: _Ints, onset_ms: _Ints, offset_ms: _Ints, shape: tuple[int, ...]) -> _Ints:
    """Merged events sorted by row -> `shape` = [rows, T + 1]: milliseconds of ground truth before each frame border."""
    inside = np.zeros(shape, dtype=np.int64)
    borders = np.arange(shape[1]) * HOP_MS
    starts = np.flatnonzero(_first_of_each(row))
    passed = np.clip(borders - onset_ms[:, None], 0, (offset_ms - onset_ms)[:, None])
    inside[row[starts]] = np.add.reduceat(passed, starts, axis=0)
    return inside


def _truth_changes(
    row: _Ints,
    onset_ms: _Ints,
    offset_ms: _Ints,
    detection_row: _Ints,
    start_ms: _Ints,
    end_ms: _Ints,
    high: _Floats,
    low: _Floats,
) -> tuple[_Floats, _Ints]:
    """Events and right detections, both sorted by row -> (thresholds, +1 or -1: below it an event is found or lost).

    An event is lost when its detection melts into one that lies too much beside the ground truth.
    """
    start = np.searchsorted(detection_row, row, side="left")
    count = np.searchsorted(detection_row, row, side="right") - start
    event = np.repeat(np.arange(len(row)), count)
    detection = np.arange(len(event)) + np.repeat(start - (np.cumsum(count) - count), count)
    shared_ms = np.minimum(end_ms[detection], offset_ms[event]) - np.maximum(start_ms[detection], onset_ms[event])
    meets = shared_ms > 0
    event, detection, shared_ms = event[meets], detection[meets], shared_ms[meets]

    event = np.concatenate([event, event])
    at = np.concatenate([high[detection], low[detection]])
    order = np.lexsort((-at, event))
    event, at = event[order], at[order]
    # Every detection comes and goes, if only at -inf, so each event's sum ends at 0 and the next one's begins there.
    covered = np.cumsum(np.concatenate([shared_ms, -shared_ms])[order])
    settled = _last_of_each(event) | _last_of_each(at)
    event, at, covered = event[settled], at[settled], covered[settled]
    found = (10 * covered >= _TENTHS * (offset_ms - onset_ms)[event]).astype(np.int64)
    change = np.diff(found, prepend=0)  # an event ends unfound, so the one before it does not matter
    return at[change != 0], change[change != 0]


def _first_of_each(ordered: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """True where a run of equal values begins."""
    return np.concatenate([np.ones(min(1, len(ordered)), dtype=bool), ordered[1:] != ordered[:-1]])


def _last_of_each(ordered: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """True where a run of equal values ends."""
    return _first_of_each(ordered[::-1])[::-1]
