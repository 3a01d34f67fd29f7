"""What is looked at before foreign labels are written: their values, agreement with hard labels, and lag."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline import FRAMES, HOP_MS, TargetSpec, UsageError, frame_labels, projection
from shards._counted import counted
from shards._dataset import Dataset
from shards._failures import LabelRefused
from shards._hard import HardRows, join_hard
from shards._reader import LabelReader
from shards.foreign._agreement import MIN_POSITIVES, Agreement, agreement
from shards.foreign._lag import MAX_LAG_MS, MIN_CLIPS, MIN_PEAK, Curve, Lag, lag_curve, summarise

SAMPLE_CLIPS = 2_000

_SEED = 20_250_111


class Labels(Protocol):
    """Labels of clips, with a number for each that tells in which order reading is fastest."""

    target: TargetSpec
    order: dict[str, int]

    def read(self, key: str, samples: int, sample_rate: int) -> npt.NDArray[np.float32]:
        """Float32 of target.shape for a clip of so many samples. Raises LabelRefused for a clip without a label."""

    def close(self) -> None:
        """Let go of what is open."""


@dataclass(frozen=True, kw_only=True)
class Values:
    """Of `clips` clips examined, `not_finite` hold NaN or infinity; `lowest` and `highest` are of all others, None
    without any. kind: what the format says that they are."""

    kind: str
    clips: int
    not_finite: int
    lowest: float | None
    highest: float | None

    @property
    def problem(self) -> str:
        """Why they cannot be right, empty if they can."""
        if self.lowest is None or self.highest is None:
            return self.of_not_finite if self.not_finite else ""
        if self.kind == "logit" and self.lowest >= 0 and self.highest <= 1:
            return (
                f"the labels lie between {self.lowest:.3g} and {self.highest:.3g} in all clips examined: these look "
                "like probabilities, the format has logits"
            )
        return ""

    @property
    def of_not_finite(self) -> str:
        return f"the labels of {self.not_finite} of the {counted(self.clips, 'clip')} examined hold NaN or infinity"


def examine(
    dataset: Dataset,
    split: str,
    labels: Labels,
    samples: Mapping[str, int],
    sample_rate: int,
    reference: str | None,
    progress: Callable[[str, int, int], None],
) -> tuple[Values, Agreement | None, Lag | None]:
    """Values, agreement and lag over at most 2,000 clips, drawn with a fixed seed from those that say most.

    Agreement is None without hard labels; lag is None for labels without 40 ms frames.
    """
    target = labels.target
    has_frames = target.hop_ms == HOP_MS and target.frames == FRAMES
    if reference is not None and not has_frames:
        raise UsageError("--reference is for the lag of 40 ms frame labels, these have none; leave it out")
    keys = sorted(labels.order)
    hard = join_hard(dataset, split, keys) if dataset.hard_path(split).is_file() else None
    other = None if reference is None else _Reference(dataset, split, reference, target)
    rows = _sample(hard, len(keys), strong_first=has_frames and other is None)
    rows.sort(key=lambda row: labels.order[keys[row]])
    values, weak, strong, curve_keys, curves = [], [], [], [], []
    lowest, highest, not_finite = np.inf, -np.inf, 0
    for done, row in enumerate(rows):
        progress("checking clips", done, len(rows))
        key = keys[row]
        try:
            label = labels.read(key, samples[key], sample_rate)
        except LabelRefused as refused:
            not_finite += refused.reason == "not_finite"
            continue
        if not np.isfinite(label).all():
            not_finite += 1
            continue
        lowest, highest = min(lowest, float(label.min())), max(highest, float(label.max()))
        values.append(_largest(label, target, samples[key], sample_rate))
        events = None if hard is None else hard.events(row)
        mids = None if hard is None else hard.weak_mids(row)
        weak.append(None if mids is None else frozenset(mids))
        strong.append(None if events is None else frozenset(event.mid for event in events))
        if has_frames:
            valid = target.valid_frames(samples[key], sample_rate)
            curve: Curve | None = None
            if other is not None:
                curve = other.curve(key, _probabilities(label, target), valid)
            elif events:
                truth = frame_labels(events, target.classes).astype(np.float32)
                curve = lag_curve(_probabilities(label, target), truth, valid)
            if curve is not None:
                curve_keys.append(key)
                curves.append(curve)
    against = "the strong hard labels" if reference is None else f"label set {reference}"
    return (
        Values(
            kind=target.kind,
            clips=len(rows),
            not_finite=not_finite,
            lowest=round(lowest, 4) if values else None,
            highest=round(highest, 4) if values else None,
        ),
        agreement(np.stack(values), target.classes, (weak, strong)) if hard is not None and values else None,
        summarise(curve_keys, curves, against) if has_frames else None,
    )


def refuse(values: Values, found: Agreement | None, lag: Lag | None, *, unchecked: bool, allow_lag: bool) -> None:
    """Raise UsageError for labels that cannot be right, or of which that cannot be told, unless it was asked for."""
    if not unchecked:
        if values.problem:
            remedy = (
                "get a whole one"
                if values.lowest is None
                else "convert them with log(p / (1 - p)), in float32 and with p kept between 1e-6 and 1 - 1e-6"
            )
            raise UsageError(f"{values.problem}; {remedy} (--unchecked imports the file all the same)")
        if found is None or not found.enough:
            positives = 0 if found is None else found.positives
            others = f"{values.of_not_finite}; without them " if values.not_finite else ""
            raise UsageError(
                f"{others}class order and names cannot be checked: the clips have {counted(positives, 'hard label')} "
                f"in the classes of the file, {MIN_POSITIVES} are needed; pack the split with its segment list, or "
                "import --unchecked"
            )
        if found.problem:
            raise UsageError(f"{found.problem}; get the right file or index (--unchecked imports it all the same)")
    if lag is not None and not allow_lag:
        if not lag.enough:
            raise UsageError(
                f"the lag of the frame labels cannot be estimated: {counted(lag.clips, 'clip')} can be compared with "
                f"{lag.against}, at a correlation of {lag.peak:.2f}; {MIN_CLIPS} are needed at {MIN_PEAK}: "
                "give a label set of the same clips with --reference, or import with --allow-lag"
            )
        if abs(lag.lag_ms) > MAX_LAG_MS:
            raise UsageError(
                f"the frame labels are {abs(lag.lag_ms)} ms {'late' if lag.lag_ms > 0 else 'early'} against "
                f"{lag.against} (over {counted(lag.clips, 'clip')}, at most {MAX_LAG_MS} ms is taken): they were made "
                "from audio cut elsewhere; --allow-lag imports them all the same"
            )


def _sample(hard: HardRows | None, clips: int, *, strong_first: bool) -> list[int]:
    """Rows of at most 2,000 clips: those with events, those with any hard label, then all others."""
    order = np.random.default_rng(_SEED).permutation(clips)
    if hard is None:
        return [int(row) for row in order[:SAMPLE_CLIPS]]
    rank = np.where(hard.weak.known | hard.strong.known, 1, 2)
    if strong_first:
        rank[hard.strong.known & (np.diff(hard.strong.bounds) > 0)] = 0
    order = order[np.argsort(rank[order], kind="stable")]
    return [int(row) for row in order[:SAMPLE_CLIPS]]


def _largest(
    label: npt.NDArray[np.float32], target: TargetSpec, samples: int, sample_rate: int
) -> npt.NDArray[np.float32]:
    """[class] or [class, time] -> [class]: the largest value of a class over the frames that stand on audio."""
    if label.ndim == 1:
        return label
    largest: npt.NDArray[np.float32] = label[:, : target.valid_frames(samples, sample_rate)].max(axis=1)
    return largest


def _probabilities(label: npt.NDArray[np.float32], target: TargetSpec) -> npt.NDArray[np.float32]:
    if target.kind == "probability":
        return label
    probabilities: npt.NDArray[np.float32] = (1 / (1 + np.exp(-np.clip(label, -60, 60)))).astype(np.float32)
    return probabilities


class _Reference:
    """A label set that is in place: its classes are joined to those of the target by MID."""

    def __init__(self, dataset: Dataset, split: str, name: str, target: TargetSpec) -> None:
        sidecars = dataset.label_shards(split, name)
        if not sidecars:
            raise UsageError(
                f"{dataset.root}: split {split} has no label set {name} to compare with; check --reference"
            )
        own = sidecars[0].target
        if own.axes != ("class", "time") or (own.hop_ms, own.frames) != (HOP_MS, FRAMES) or own.kind not in (
            "logit", "probability"
        ):  # fmt: skip
            raise UsageError(f"label set {name} has axes {own.axes}, --reference needs 40 ms frames of classes")
        columns = projection(own.classes, target.classes)
        self._target, self._columns, self._places = own, columns[columns >= 0], np.flatnonzero(columns >= 0)
        if not len(self._places):
            raise UsageError(f"label set {name} has none of the classes of the file; check --reference")
        self._where = {
            key: (side, row) for side in sidecars for row, key in enumerate(side.clips.key) if side.clips.length[row]
        }

    def curve(self, key: str, probabilities: npt.NDArray[np.float32], valid: int) -> Curve | None:
        if key not in self._where:
            return None
        side, row = self._where[key]
        with LabelReader(side) as reader:
            theirs = _probabilities(reader.read(row), self._target)
        return lag_curve(probabilities[self._places], theirs[self._columns], valid)
