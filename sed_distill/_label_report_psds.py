"""PSDS1 of a label set where people listened for events, a few classes at a time: exact, in bounded memory."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import FRAMES, HOP_MS, Vocabulary
from sed_distill._evaluation import Evaluation
from sed_distill._label_report_set import OpenLabels, Progress
from shards import HardRows
from students import psds1_ceiling

MEDIAN_FRAMES = 9  # of the published evaluation
MOST_CLIPS = 20_000  # all 16,996 of AudioSet's own evaluation
BLOCK_BYTES = 1 << 29
_SEED = 20_250_601


@dataclass(frozen=True, kw_only=True)
class LabelPsds:
    """PSDS1 after the published median filter. of_clips: how many could be asked; `clips` of them were.

    per_class: [classes], NaN without events. mean: of the `classes` with events. ceiling: what perfect labels on the
    40 ms grid reach through the same filter.
    """

    per_class: npt.NDArray[np.float64]
    mean: float
    ceiling: float
    classes: int
    events: int
    clips: int
    of_clips: int


def label_psds(labels: OpenLabels, hard: HardRows, progress: Progress) -> LabelPsds | None:
    """None for labels that are not 40 ms frames of 10 s, and where no event is of one of their classes."""
    target = labels.target
    if (target.hop_ms, target.frames) != (HOP_MS, FRAMES):
        return None
    asked = labels.rows[hard.strong.known[labels.rows]]
    rows = asked
    if len(asked) > MOST_CLIPS:
        rows = np.sort(np.random.default_rng(_SEED).choice(asked, MOST_CLIPS, replace=False))
    column = target.classes.index()
    events = [tuple(event for event in hard.events(row) or () if event.mid in column) for row in rows.tolist()]
    heard = sorted({column[event.mid] for of_clip in events for event in of_clip})
    if not heard:
        return None
    durations_s = (labels.index.samples[rows] / labels.spec.sample_rate).tolist()
    per_class, ceiling = np.full(len(target.classes), np.nan), np.full(len(target.classes), np.nan)
    size = max(1, BLOCK_BYTES // (4 * FRAMES * len(rows)))
    for first in range(0, len(heard), size):
        block = heard[first : first + size]
        classes = Vocabulary(*(tuple(part[c] for c in block) for part in (target.classes.mids, target.classes.names)))
        mids = set(classes.mids)
        of_block = [tuple(event for event in of_clip if event.mid in mids) for of_clip in events]
        evaluation = Evaluation(
            vocabulary=classes,
            keys=(),
            events=tuple(of_block),
            durations_s=tuple(durations_s),
            probs={labels.name: _probabilities(labels, rows, block, progress)},
        )
        per_class[block] = evaluation.psds1(labels.name, median_frames=MEDIAN_FRAMES).per_class
        ceiling[block] = psds1_ceiling(of_block, durations_s, classes, median_frames=MEDIAN_FRAMES).per_class
    return LabelPsds(
        per_class=per_class,
        mean=float(np.nanmean(per_class)),
        ceiling=float(np.nanmean(ceiling)),
        classes=len(heard),
        events=sum(map(len, events)),
        clips=len(rows),
        of_clips=len(asked),
    )


def _probabilities(
    labels: OpenLabels, rows: npt.NDArray[np.int64], columns: list[int], progress: Progress
) -> npt.NDArray[np.float32]:
    """[rows, columns, 250], frames without audio at -inf."""
    found = np.full((len(rows), len(columns), FRAMES), -np.inf, np.float32)
    read = labels.read(rows, lambda _, label: label[columns], progress)
    for place, (_, label) in enumerate(read):
        found[place, :, : label.shape[1]] = label
    return found
