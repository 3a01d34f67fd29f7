"""Which targets the batches of a mix have, and what each looks like: the same for every batch and every source.

Targets of classes come out class-major over the loader's classes, as probabilities. Those of other axes (tracks,
directions, distances) come as their label set has them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import HOP_MS, AudioSpec, ClassMap, TargetSpec, UsageError, Vocabulary
from pipeline._specs import MAX_TARGET_VALUES
from shards.loader.join._join import JoinedSource
from shards.loader.targets._options import HARD_TARGETS, AverageDomain, TargetOptions

REGRID_BELOW_MS = 1_000


@dataclass(frozen=True, kw_only=True)
class TargetLayout:
    """One target of one clip.

    axes, shape: of it. hop_ms: None without a time axis.
    labelled: frames from the start that labels can reach: fewer than all where they end before the clip does.
    per_class: whether the weight has an axis for classes: for targets of clips, and where a source lacks some.
    coded: whether a CompactBatch can hold the codes of the label set in place of the values.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    hop_ms: Fraction | None
    labelled: int = MAX_TARGET_VALUES
    per_class: bool = False
    coded: bool = False

    @property
    def frames(self) -> int:
        """Of the time axis; 1 without one."""
        return self.shape[self.axes.index("time")] if "time" in self.axes else 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape, with 1 for the axes along which a weight never differs."""
        wide = {"time", "class"} if self.per_class else {"time"}
        return tuple(size if axis in wide else 1 for axis, size in zip(self.axes, self.shape, strict=True))

    def valid_frames(self, samples: int, sample_rate: int) -> int:
        """Frames that stand on audio and have a label: ceil(samples / hop) at most; 1 without a time axis."""
        if self.hop_ms is None:
            return 1
        ms, parts = self.hop_ms.as_integer_ratio()
        return min(self.frames, self.labelled, -(-samples * 1000 * parts // (sample_rate * ms)))

    def from_frame(self, frame: int) -> tuple[slice, ...]:
        """What cuts the frames from `frame` on out of one clip's target or weight."""
        return (slice(None),) * self.axes.index("time") + (slice(frame, None),)


class AskedTarget(NamedTuple):
    """The label sets that make a target, the share of each, and what of them is averaged. Mostly it is one set."""

    name: str
    of: tuple[str, ...]
    shares: tuple[float, ...]
    domain: AverageDomain


def class_map_of(options: TargetOptions) -> ClassMap:
    if isinstance(options.vocabulary, Vocabulary):
        return ClassMap.one_to_one(options.vocabulary)
    return options.vocabulary


def common_spec(sources: Sequence[JoinedSource]) -> AudioSpec:
    """Raises UsageError if sources have other audio than each other."""
    if len({source.spec for source in sources}) != 1:
        found = ", ".join(f"{source.name} has {source.spec.name}" for source in sources)
        raise UsageError(f"sources of one mix need one audio spec; {found}: transcode one of them")
    return sources[0].spec


def asked_targets(source: JoinedSource) -> tuple[AskedTarget, ...]:
    """What a source was asked for besides hard labels, in that order."""
    return tuple(
        AskedTarget(target, (target,), (1.0,), "probability")
        if isinstance(target, str)
        else AskedTarget(target.name, target.of, target.shares, target.domain)
        for target in source.targets
    )


def target_layouts(sources: Sequence[JoinedSource], options: TargetOptions) -> dict[str, TargetLayout]:
    """Name -> layout: hard targets first, then soft ones in the order in which the sources name them.

    Raises UsageError where a target cannot be over the loader's classes, or looks different in another source.
    """
    classes = class_map_of(options)
    clip_ms = common_spec(sources).clip_ms
    if options.grid is not None and options.grid.clip_ms != clip_ms:
        raise UsageError(
            f"grid is of clips of {options.grid.clip_ms} ms, the audio has {clip_ms} ms; give Grid clip_ms={clip_ms}"
        )
    layouts = dict(_hard_layouts(sources, options, classes))
    for source in sources:
        seen: set[str] = set()
        for target in asked_targets(source):
            name = target.name
            if name in seen or name in HARD_TARGETS:
                raise UsageError(
                    f"source {source.name} has two targets {name}; ask for it once, and give an average another name"
                )
            seen.add(name)
            own = _soft_layout(source, target, options, classes)
            known = layouts.setdefault(name, own)
            if replace(known, per_class=own.per_class, coded=own.coded) != own:
                raise UsageError(
                    f"label set {name} of source {source.name} has shape {_described(own)} per clip, elsewhere "
                    f"{_described(known)}; label sets of one name in one mix need one shape: label one of them under "
                    "another name"
                )
            layouts[name] = replace(known, per_class=known.per_class or own.per_class, coded=known.coded and own.coded)
    return layouts


def single_rows(target: TargetSpec, classes: ClassMap) -> npt.NDArray[np.int64] | None:
    """The row of a label set that is each of the classes, -1 for none; None where it is not one to one."""
    single = classes.columns(target.classes).single()
    if single is None or len(np.unique(single[single >= 0])) < np.count_nonzero(single >= 0):
        return None
    return single


def is_of_classes(target: TargetSpec) -> bool:
    """Whether it is projected onto the loader's classes: a probability for each class, over time or for the clip."""
    return target.kind in ("logit", "probability") and set(target.axes) in ({"class"}, {"class", "time"})


def is_regridded(target: TargetSpec, options: TargetOptions) -> bool:
    """Whether its frames become those of the loader's grid; not where they are that already."""
    grid, hop_ms = options.grid, target.hop_ms
    if grid is None or hop_ms is None or hop_ms >= REGRID_BELOW_MS or not is_of_classes(target):
        return False
    return grid.hop != hop_ms or grid.count != target.frames


def _hard_layouts(
    sources: Sequence[JoinedSource], options: TargetOptions, classes: ClassMap
) -> Iterator[tuple[str, TargetLayout]]:
    if "hard_weak" in options.hard:
        yield "hard_weak", TargetLayout(axes=("class",), shape=(len(classes),), hop_ms=None, per_class=True)
    if "hard_strong" in options.hard:
        clip_ms = common_spec(sources).clip_ms
        hop_ms, frames = Fraction(HOP_MS), -(-clip_ms // HOP_MS)
        if options.grid is not None:
            hop_ms, frames = options.grid.hop, options.grid.count
        listened = [source.hard for source in sources if source.hard.strong.known.any()]
        partial = any(not classes.known(hard.strong_classes).all() for hard in listened)
        yield (
            "hard_strong",
            TargetLayout(axes=("class", "time"), shape=(len(classes), frames), hop_ms=hop_ms, per_class=partial),
        )


def _soft_layout(source: JoinedSource, target: AskedTarget, options: TargetOptions, classes: ClassMap) -> TargetLayout:
    spec = source.labels[target.of[0]].target
    for name in target.of[1:]:
        other = source.labels[name].target
        both_of_classes = is_of_classes(other) and is_of_classes(spec)
        if not both_of_classes or (other.axes, other.frames, other.hop_ms, other.classes.mids) != (
            spec.axes,
            spec.frames,
            spec.hop_ms,
            spec.classes.mids,
        ):
            raise UsageError(
                f"source {source.name} cannot average label set {name} with {target.of[0]}: an average is of "
                "probabilities or logits of the same classes and frames; ask for them as targets of their own"
            )
    if not is_of_classes(spec):
        return _own_layout(source, target.name, spec, options)
    known = classes.columns(spec.classes).known
    if not known.any():
        raise UsageError(
            f"label set {target.name} of source {source.name} has none of the loader's {len(classes)} classes; leave "
            "it out, or use its vocabulary"
        )
    regridded = is_regridded(spec, options)
    one_to_one = single_rows(spec, classes) is not None
    coded = one_to_one and len(target.of) == 1 and not regridded and spec.axes[0] == "class"
    if spec.frames is None or spec.hop_ms is None:
        return TargetLayout(axes=("class",), shape=(len(classes),), hop_ms=None, per_class=True, coded=coded)
    frames, hop_ms, labelled = spec.frames, Fraction(spec.hop_ms), spec.frames
    if regridded and options.grid is not None:
        frames, hop_ms = options.grid.count, options.grid.hop
        labelled = options.grid.labelled_frames(spec.frames, spec.hop_ms)
    return TargetLayout(
        axes=("class", "time"),
        shape=(len(classes), frames),
        hop_ms=hop_ms,
        labelled=labelled,
        per_class=not bool(known.all()),
        coded=coded,
    )


def _own_layout(source: JoinedSource, name: str, spec: TargetSpec, options: TargetOptions) -> TargetLayout:
    if spec.vocabulary is not None and spec.vocabulary.mids != options.classes.mids:
        raise UsageError(
            f"label set {name} of source {source.name} has axes {', '.join(spec.axes)} over other classes than the "
            "loader's; such targets are not projected: use its vocabulary"
        )
    hop_ms = None if spec.hop_ms is None else Fraction(spec.hop_ms)
    return TargetLayout(axes=spec.axes, shape=spec.shape, hop_ms=hop_ms)


def _described(layout: TargetLayout) -> str:
    return f"{layout.shape}" + ("" if layout.hop_ms is None else f" with a hop of {float(layout.hop_ms):g} ms")
