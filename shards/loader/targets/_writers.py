"""Writers of a batch as it is: each puts one target of one source, and its weight, into a clip's place."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shards.loader._metrics import Stages
from shards.loader._read import Tars
from shards.loader.join._join import JoinedSource
from shards.loader.targets._hard_targets import HardStrong, HardWeak
from shards.loader.targets._options import TargetOptions
from shards.loader.targets._soft import Scratch, SoftTarget
from shards.loader.targets._targets import TargetLayout, asked_targets, class_map_of

Arrays = Mapping[str, npt.NDArray[Any]]
FieldOf = tuple[type[np.generic], tuple[int, ...]]
MadeTarget = HardWeak | HardStrong | SoftTarget | None


class Clip:
    """A clip on its way into a place of a batch. extra: what a compact batch keeps of it outside of the arrays."""

    __slots__ = ("clip", "extra", "key", "place", "samples", "stages")

    def __init__(self, place: int, clip: int, key: str, samples: int, stages: Stages) -> None:
        self.place, self.clip = place, clip
        self.key, self.samples, self.stages = key, samples, stages
        self.extra: Any = None


class Writer(Protocol):
    """Puts one target of one source into the place of a clip."""

    def write(self, arrays: Arrays, at: Clip) -> object: ...


def dense_fields(layouts: Mapping[str, TargetLayout]) -> dict[str, FieldOf]:
    return {
        f"{what}/{name}": (np.float32, layout.shape if what == "target" else layout.weight_shape)
        for what in ("target", "weight")
        for name, layout in layouts.items()
    }


def dense_writers(
    sources: Sequence[JoinedSource],
    layouts: Mapping[str, TargetLayout],
    options: TargetOptions,
    tars: Tars,
    scratch: Scratch,
) -> list[list[Writer]]:
    """The writers of each source, one for each target."""
    return [
        [
            _writer(name, made, layouts[name], source.spec.sample_rate, scratch)
            for name, made in made_targets(source, layouts, options, tars)
        ]
        for source in sources
    ]


def made_targets(
    source: JoinedSource, layouts: Mapping[str, TargetLayout], options: TargetOptions, tars: Tars
) -> Iterator[tuple[str, MadeTarget]]:
    """For each target of the batch what makes it for a source; None where no clip of the source has any."""
    classes = class_map_of(options)
    asked = {target.name: target for target in asked_targets(source)}
    for name, layout in layouts.items():
        made: MadeTarget = None
        if name == "hard_weak" and source.hard.weak.known.any():
            made = HardWeak(source.hard, classes)
        elif name == "hard_strong" and source.hard.strong.known.any():
            made = HardStrong(source.hard, classes, layout)
        elif name in asked:
            made = SoftTarget(source, asked[name], options, tars)
        yield name, made


def _clear(target: npt.NDArray[Any]) -> None:
    """Zeros in all of it, C-contiguous. NumPy sets bytes in two thirds of the time it sets float32 in."""
    target.view(np.uint8).fill(0)


class SoftValues:
    """Writes a soft target without its weight."""

    def __init__(self, name: str, soft: SoftTarget, layout: TargetLayout, sample_rate: int, scratch: Scratch) -> None:
        self._target, self._soft, self._layout = f"target/{name}", soft, layout
        self._rate, self._frames, self._scratch = sample_rate, layout.frames, scratch

    def write(self, arrays: Arrays, at: Clip) -> int:
        """Valid frames of the target; 0 where the clip has none."""
        target = arrays[self._target][at.place]
        if not self._soft.has(at.clip):
            _clear(target)
            return 0
        self._soft.write(at.clip, at.key, at.samples, target, self._scratch, at.stages)
        frames = self._layout.valid_frames(at.samples, self._rate)
        if frames < self._frames:
            target[self._layout.from_frame(frames)] = 0
        return frames


def _writer(name: str, made: MadeTarget, layout: TargetLayout, sample_rate: int, scratch: Scratch) -> Writer:
    if made is None:
        return _Absent(name)
    weight = _Weight(name, layout, made.known)
    if isinstance(made, HardWeak | HardStrong):
        return _Hard(name, made, layout, sample_rate, weight)
    return _Soft(SoftValues(name, made, layout, sample_rate, scratch), weight)


class _Absent:
    """A target that a source does not have."""

    def __init__(self, name: str) -> None:
        self._target, self._weight = f"target/{name}", f"weight/{name}"

    def write(self, arrays: Arrays, at: Clip) -> None:
        _clear(arrays[self._target][at.place])
        arrays[self._weight][at.place].fill(0)


class _Weight:
    """Writes the weight of a target that a clip has."""

    def __init__(self, name: str, layout: TargetLayout, known: npt.NDArray[np.bool_] | None) -> None:
        self._weight, self._layout, self._frames = f"weight/{name}", layout, layout.frames
        # Of a clip whose frames all stand on audio, with size 1 where all classes or frames are alike.
        self._whole = np.ones((1,) * len(layout.axes), np.float32)
        if known is not None and not known.all():
            shape = tuple(len(known) if axis == "class" else 1 for axis in layout.axes)
            self._whole = known.astype(np.float32).reshape(shape)

    def write(self, arrays: Arrays, at: Clip, frames: int) -> None:
        weight = arrays[self._weight][at.place]
        if not frames:
            weight.fill(0)
            return
        np.copyto(weight, self._whole)
        if frames < self._frames:
            weight[self._layout.from_frame(frames)] = 0


class _Hard:
    def __init__(
        self, name: str, hard: HardWeak | HardStrong, layout: TargetLayout, sample_rate: int, weight: _Weight
    ) -> None:
        self._target, self._hard, self._weight = f"target/{name}", hard, weight
        self._layout, self._rate = layout, sample_rate

    def write(self, arrays: Arrays, at: Clip) -> None:
        target = arrays[self._target][at.place]
        _clear(target)
        frames = self._layout.valid_frames(at.samples, self._rate)
        runs = self._hard.runs(at.clip, frames)
        if runs is not None:
            cells, (starts, lengths) = target.reshape(-1), runs
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                cells[start : start + length] = 1
        self._weight.write(arrays, at, 0 if runs is None else frames)


class _Soft:
    def __init__(self, values: SoftValues, weight: _Weight) -> None:
        self._values, self._weight = values, weight

    def write(self, arrays: Arrays, at: Clip) -> None:
        self._weight.write(arrays, at, self._values.write(arrays, at))
