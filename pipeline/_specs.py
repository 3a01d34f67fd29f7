"""The typed contracts that stages meet on: stored audio (AudioSpec), labels (TargetSpec), class order (Vocabulary)."""

import hashlib
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, cast, get_args

from pipeline._errors import MetadataError, UsageError
from pipeline._grid import CLIP_MS, FRAMES, HOP_MS, valid_frames
from pipeline._json import fields, integer, one_of, texts

Layout = Literal["mono", "foa"]
Axis = Literal["class", "time", "track", "xyz"]
ValueKind = Literal["logit", "probability", "unit_vector", "metre"]
_CHANNELS = {"mono": 1, "foa": 4}
# Bounds what a reader allocates for one clip: an hour of 16 kHz mono fits.
MAX_CLIP_VALUES = 1 << 26
# Bounds what a reader allocates for one label: 447 classes at 40 ms fit a clip of 25 minutes.
MAX_TARGET_VALUES = 1 << 24


@dataclass(frozen=True)
class Vocabulary:
    """An ordered class list. Columns are identified by MID, never by name (12 MIDs carry two names in AudioSet)."""

    mids: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.mids) != len(self.names):
            raise MetadataError(
                f"vocabulary has {len(self.mids)} MIDs and {len(self.names)} names; give one name per MID"
            )
        if not self.mids or len(set(self.mids)) != len(self.mids):
            raise MetadataError("vocabulary is empty or repeats a MID; list every class once")

    def __len__(self) -> int:
        return len(self.mids)

    @property
    def sha256(self) -> str:
        """Hash of the MIDs in order, joined by newlines: two vocabularies are the same exactly when this is."""
        return hashlib.sha256("\n".join(self.mids).encode()).hexdigest()

    def index(self) -> dict[str, int]:
        """MID -> column."""
        return {mid: column for column, mid in enumerate(self.mids)}

    def to_json(self) -> dict[str, Any]:
        return {"mids": list(self.mids), "names": list(self.names), "sha256": self.sha256}

    @staticmethod
    def from_json(value: object, where: str) -> "Vocabulary":
        got = fields(value, where, ("mids", "names", "sha256"))
        vocabulary = Vocabulary(texts(got["mids"], f"{where}.mids"), texts(got["names"], f"{where}.names"))
        if vocabulary.sha256 != got["sha256"]:
            raise MetadataError(
                f"{where}: the class list does not have the hash written beside it; it was edited or damaged"
            )
        return vocabulary


@dataclass(frozen=True, kw_only=True)
class AudioSpec:
    """How the clips of one audio set are stored: int16 PCM, never padded, at most `clip_ms` long."""

    sample_rate: int = 16_000
    layout: Layout = "mono"
    clip_ms: int = CLIP_MS

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise UsageError(f"audio layout is {self.layout!r}, needs one of {', '.join(get_args(Layout))}")
        if not 1_000 <= self.sample_rate <= 768_000 or not HOP_MS <= self.clip_ms <= 3_600_000:
            raise UsageError(
                f"audio spec has {self.sample_rate} Hz and {self.clip_ms} ms; "
                f"needs 1000 to 768000 Hz and {HOP_MS} to 3600000 ms"
            )
        if self.max_samples * self.channels > MAX_CLIP_VALUES:
            raise UsageError(f"a clip of {self.name} has more than {MAX_CLIP_VALUES} values; make clips shorter")
        if self.sample_rate * HOP_MS % 1000:
            raise UsageError(
                f"{self.sample_rate} Hz has no whole number of samples in a {HOP_MS} ms frame; use a multiple of 25 Hz"
            )

    @property
    def channels(self) -> int:
        return _CHANNELS[self.layout]

    @property
    def max_samples(self) -> int:
        """Samples per channel of a full clip: 160,000 for 10 s at 16 kHz."""
        return self.sample_rate * self.clip_ms // 1000

    @property
    def hop_samples(self) -> int:
        """Samples per 40 ms frame: 640 at 16 kHz."""
        return self.sample_rate * HOP_MS // 1000

    @property
    def name(self) -> str:
        """Folder name under `<split>/audio/`, e.g. `mono-16000hz-10000ms`."""
        return f"{self.layout}-{self.sample_rate}hz-{self.clip_ms}ms"

    def to_json(self) -> dict[str, Any]:
        return {"sample_rate": self.sample_rate, "layout": self.layout, "clip_ms": self.clip_ms}

    @staticmethod
    def from_json(value: object, where: str) -> "AudioSpec":
        got = fields(value, where, ("sample_rate", "layout", "clip_ms"))
        return AudioSpec(
            sample_rate=integer(got["sample_rate"], f"{where}.sample_rate"),
            layout=cast(Layout, one_of(got["layout"], f"{where}.layout", get_args(Layout))),
            clip_ms=integer(got["clip_ms"], f"{where}.clip_ms"),
        )


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """One label of a label set. Frame logits of 447 classes: axes ("class", "time"), shape (447, 250), kind "logit".

    `context_ms` is how much audio the labeller heard for one value (10,000: the whole clip; 4,000: a 4 s chunk).
    What describes an axis is given exactly with it, and None without: `vocabulary` with "class", `hop_ms` and `frames`
    with "time", `tracks` (how many sounds of one class at once) with "track". "xyz" has 3 values.
    Kinds: "unit_vector" has the axis "xyz" and nothing else has it, but for "metre", which may.
    """

    axes: tuple[Axis, ...]
    kind: ValueKind
    vocabulary: Vocabulary | None = None
    context_ms: int = CLIP_MS
    hop_ms: int | None = HOP_MS
    frames: int | None = FRAMES
    tracks: int | None = None

    def __post_init__(self) -> None:
        axes = set(self.axes)
        if not axes or len(axes) != len(self.axes) or not axes <= set(get_args(Axis)):
            raise UsageError(f"target axes are {self.axes}; need different ones of {get_args(Axis)}")
        if self.kind not in get_args(ValueKind):
            raise UsageError(f"target kind is {self.kind!r}, needs one of {', '.join(get_args(ValueKind))}")
        for axis, given in (
            ("class", {self.vocabulary is not None}),
            ("time", {self.hop_ms is not None, self.frames is not None}),
            ("track", {self.tracks is not None}),
        ):
            if given != {axis in axes}:
                needs = "vocabulary" if axis == "class" else "hop_ms and frames" if axis == "time" else "tracks"
                raise UsageError(f"a target states {needs} exactly when it has a {axis!r} axis; axes are {self.axes}")
        if ("xyz" in axes) != (self.kind == "unit_vector") and self.kind != "metre":
            raise UsageError(f"a target of kind {self.kind} has axes {self.axes}; 'xyz' is for unit vectors and metres")
        if prod(self.shape) > MAX_TARGET_VALUES:
            raise UsageError(f"a target of shape {self.shape} has more than {MAX_TARGET_VALUES} values a clip")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one clip's label, in the order of `axes`."""
        classes = None if self.vocabulary is None else len(self.vocabulary)
        sizes = {"class": classes, "time": self.frames, "track": self.tracks, "xyz": 3}
        return tuple(cast(int, sizes[axis]) for axis in self.axes)

    @property
    def classes(self) -> Vocabulary:
        """The vocabulary of a target that has classes. Raises UsageError for one without."""
        if self.vocabulary is None:
            raise UsageError(f"a target of axes {self.axes} has no classes")
        return self.vocabulary

    def valid_frames(self, samples: int, sample_rate: int) -> int:
        """Frames that stand on audio: ceil(samples / hop), at most `frames`. 160,000 samples at 16 kHz -> 250."""
        if self.hop_ms is None or self.frames is None:
            raise UsageError("a target without a 'time' axis has no frames")
        return valid_frames(samples, sample_rate, hop_ms=self.hop_ms, frames=self.frames)

    def to_json(self) -> dict[str, Any]:
        return {
            "axes": list(self.axes),
            "kind": self.kind,
            "vocabulary": None if self.vocabulary is None else self.vocabulary.to_json(),
            "context_ms": self.context_ms,
            "hop_ms": self.hop_ms,
            "frames": self.frames,
            "tracks": self.tracks,
        }

    @staticmethod
    def from_json(value: object, where: str) -> "TargetSpec":
        names = ("axes", "kind", "vocabulary", "context_ms", "hop_ms", "frames", "tracks")
        got = fields(value, where, names)
        optional = {
            name: None if got[name] is None else integer(got[name], f"{where}.{name}", low=1, high=MAX_TARGET_VALUES)
            for name in ("hop_ms", "frames", "tracks")
        }
        vocabulary = got["vocabulary"]
        return TargetSpec(
            axes=cast(tuple[Axis, ...], texts(got["axes"], f"{where}.axes")),
            kind=cast(ValueKind, one_of(got["kind"], f"{where}.kind", get_args(ValueKind))),
            vocabulary=None if vocabulary is None else Vocabulary.from_json(vocabulary, f"{where}.vocabulary"),
            context_ms=integer(got["context_ms"], f"{where}.context_ms", low=1),
            **optional,
        )
