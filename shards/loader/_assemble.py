"""From clips to a batch: read, decode, project onto the vocabulary, write into the batch's own memory.

All arithmetic is NumPy on views of the batch's tensors. That needs no copy and, unlike torch's own, no thread pool that
a forked process could not use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline import (
    CLIP_MS,
    FRAMES,
    AudioSpec,
    TargetSpec,
    UsageError,
    Vocabulary,
    frame_labels,
    projection,
    valid_frames,
    waveform_into,
)
from shards._reader import AudioReader, LabelReader
from shards.loader._batch import Batch
from shards.loader._join import JoinedSource, LabelRows

Cells = npt.NDArray[np.float32]


class Assembler:
    """Makes batches of clips out of `sources`, with targets over `vocabulary`."""

    def __init__(self, sources: Sequence[JoinedSource], vocabulary: Vocabulary) -> None:
        """Raises UsageError if sources cannot stand in one batch: other audio specs, other shapes of a label set."""
        self._sources = tuple(sources)
        self._vocabulary = vocabulary
        self._column = vocabulary.index()
        self._spec = _common_spec(sources)
        self._shapes = _target_shapes(sources, len(vocabulary))
        self._projections = [
            {name: _Projection.of(rows.target, vocabulary) for name, rows in source.labels.items()}
            for source in sources
        ]
        self._weak_classes = [_mask(source.hard.weak_classes, vocabulary) for source in sources]
        self._strong_classes = [_mask(source.hard.strong_classes, vocabulary) for source in sources]

    def empty(self, clips: int) -> Batch:
        """Memory for a batch; every place of it has to be filled."""
        return Batch(
            waveform=torch.empty(clips, self._spec.max_samples),
            targets={name: torch.empty(clips, *shape) for name, shape in self._shapes.items()},
            weight={name: torch.empty(clips, *shape) for name, shape in self._shapes.items()},
            valid_frames=torch.empty(clips, dtype=torch.int64),
            source=[""] * clips,
            key=[""] * clips,
        )

    def fill(self, batch: Batch, place: int, source_number: int, clip: int) -> None:
        """Put clip `clip` of a source into `batch` at `place`, over whatever is there.

        Raises IntegrityError or FormatError if its audio or one of its labels is damaged.
        """
        source = self._sources[source_number]
        samples = int(source.samples[clip])
        _fill_audio(batch.waveform[place].numpy(), source, clip)
        for name in self._shapes:
            target, weight = batch.targets[name][place].numpy(), batch.weight[name][place].numpy()
            target.fill(0)
            weight.fill(0)
            if name == "hard_weak":
                self._fill_weak(target, weight, source_number, clip)
            elif name == "hard_strong":
                self._fill_strong(target, weight, source_number, clip)
            elif name in source.labels and source.labels[name].shard[clip] >= 0:
                rows = source.labels[name]
                if rows.target.hop_ms is not None:
                    frames = rows.target.valid_frames(samples, source.spec.sample_rate)
                    target, weight = target[:, :frames], weight[:, :frames]
                _fill_soft(target, weight, rows, clip, self._projections[source_number][name])
        batch.valid_frames[place] = valid_frames(samples, source.spec.sample_rate)
        batch.source[place] = source.name
        batch.key[place] = source.keys[clip]

    def _fill_weak(self, target: Cells, weight: Cells, source_number: int, clip: int) -> None:
        mids = self._sources[source_number].hard.weak_mids(clip)
        if mids is not None:
            target[[self._column[mid] for mid in mids if mid in self._column]] = 1
            weight[self._weak_classes[source_number]] = 1

    def _fill_strong(self, target: Cells, weight: Cells, source_number: int, clip: int) -> None:
        source = self._sources[source_number]
        events = source.hard.events(clip)
        if events is not None:
            frames = valid_frames(int(source.samples[clip]), source.spec.sample_rate)
            target[:, :frames] = frame_labels(events, self._vocabulary)[:, :frames]
            weight[self._strong_classes[source_number], :frames] = 1


@dataclass(frozen=True, kw_only=True)
class _Projection:
    """Rows of a batch's target that a label set has, and the classes of the set that they come from."""

    rows: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    identical: bool

    @staticmethod
    def of(target: TargetSpec, vocabulary: Vocabulary) -> "_Projection":
        columns = projection(target.classes, vocabulary)
        rows = np.flatnonzero(columns >= 0)
        return _Projection(rows=rows, classes=columns[rows], identical=target.classes.mids == vocabulary.mids)


def _fill_audio(waveform: Cells, source: JoinedSource, clip: int) -> None:
    with AudioReader(source.audio[source.shard[clip]]) as reader:
        pcm = reader.read(int(source.row[clip]))
    waveform_into(waveform, pcm)


def _fill_soft(target: Cells, weight: Cells, rows: LabelRows, clip: int, projected: _Projection) -> None:
    """`target` and `weight` are [class] or [class, time], all 0; of the label as many frames are used as they have."""
    with LabelReader(rows.sidecars[rows.shard[clip]]) as reader:
        values = reader.read(int(rows.row[clip]))
    if rows.target.axes == ("time", "class"):
        values = values.T
    if values.ndim == 2:
        values = values[:, : target.shape[1]]
    if projected.identical:
        _to_probabilities(target, values, rows.target.kind)
        weight.fill(1)
    else:
        chosen = values[projected.classes]
        _to_probabilities(chosen, chosen, rows.target.kind)
        target[projected.rows] = chosen
        weight[projected.rows] = 1


def _to_probabilities(out: Cells, values: Cells, kind: str) -> None:
    if kind == "probability":
        np.copyto(out, values)
        return
    # exp overflows to infinity below logit -88, whose reciprocal is the 0 that is meant.
    with np.errstate(over="ignore"):
        np.negative(values, out=out)
        np.exp(out, out=out)
        np.add(out, 1, out=out)
        np.reciprocal(out, out=out)


def _common_spec(sources: Sequence[JoinedSource]) -> AudioSpec:
    specs = {source.name: source.spec for source in sources}
    if len(set(specs.values())) != 1:
        found = ", ".join(f"{name} has {spec.name}" for name, spec in specs.items())
        raise UsageError(f"sources of one mix need one audio spec; {found}: transcode one of them")
    spec = next(iter(specs.values()))
    if spec.layout != "mono" or spec.clip_ms > CLIP_MS:
        names = ", ".join(specs)
        raise UsageError(
            f"sources {names} have audio {spec.name}, the loader needs mono of at most {CLIP_MS} ms; pack it so"
        )
    return spec


def _target_shapes(sources: Sequence[JoinedSource], classes: int) -> dict[str, tuple[int, ...]]:
    """Shape of each target of one clip: hard ones first, then the label sets in the order the sources name them."""
    shapes: dict[str, tuple[int, ...]] = {"hard_weak": (classes,), "hard_strong": (classes, FRAMES)}
    for source in sources:
        for name, rows in source.labels.items():
            frames = rows.target.frames
            shape = (classes,) if frames is None else (classes, frames)
            if shapes.setdefault(name, shape) != shape:
                raise UsageError(
                    f"label set {name} of source {source.name} has shape {shape} per clip, elsewhere {shapes[name]}; "
                    "label sets of one name in one mix need one shape: label one of them under another name"
                )
    return shapes


def _mask(mids: frozenset[str], vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    return np.array([mid in mids for mid in vocabulary.mids], dtype=np.bool_)
