"""The typed contracts that stages meet on: stored audio (AudioSpec), labels (TargetSpec), class order (Vocabulary)."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from pipeline._errors import MetadataError, UsageError
from pipeline._grid import CLIP_MS, FRAMES, HOP_MS, valid_frames
from pipeline._json import fields, integer, one_of, texts

Layout = Literal["mono", "foa"]
Axis = Literal["class", "time", "track", "xyz"]
ValueKind = Literal["logit", "probability", "unit_vector", "metre"]
_CHANNELS = {"mono": 1, "foa": 4}


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
    `hop_ms` and `frames` describe the time axis and are None without one.
    """

    axes: tuple[Axis, ...]
    kind: ValueKind
    vocabulary: Vocabulary
    context_ms: int = CLIP_MS
    hop_ms: int | None = HOP_MS
    frames: int | None = FRAMES

    def __post_init__(self) -> None:
        axes = set(self.axes)
        if len(axes) != len(self.axes) or not axes <= set(get_args(Axis)) or "class" not in axes:
            raise UsageError(f"target axes are {self.axes}; need different ones of {get_args(Axis)} with 'class'")
        if self.kind not in get_args(ValueKind):
            raise UsageError(f"target kind is {self.kind!r}, needs one of {', '.join(get_args(ValueKind))}")
        if axes & {"track", "xyz"}:
            raise UsageError("axes 'track' and 'xyz' are not in format version 0; use 'class' and 'time'")
        if {self.hop_ms is not None, self.frames is not None} != {"time" in axes}:
            raise UsageError("a target states hop_ms and frames exactly when it has a 'time' axis")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one clip's label, in the order of `axes`."""
        sizes = {"class": len(self.vocabulary), "time": self.frames}
        return tuple(cast(int, sizes[axis]) for axis in self.axes)

    def valid_frames(self, samples: int, sample_rate: int) -> int:
        """Frames that stand on audio: ceil(samples / hop), at most `frames`. 160,000 samples at 16 kHz -> 250."""
        if self.hop_ms is None or self.frames is None:
            raise UsageError("a target without a 'time' axis has no frames")
        return valid_frames(samples, sample_rate, hop_ms=self.hop_ms, frames=self.frames)

    def to_json(self) -> dict[str, Any]:
        return {
            "axes": list(self.axes),
            "kind": self.kind,
            "vocabulary": self.vocabulary.to_json(),
            "context_ms": self.context_ms,
            "hop_ms": self.hop_ms,
            "frames": self.frames,
        }

    @staticmethod
    def from_json(value: object, where: str) -> "TargetSpec":
        got = fields(value, where, ("axes", "kind", "vocabulary", "context_ms", "hop_ms", "frames"))
        return TargetSpec(
            axes=cast(tuple[Axis, ...], texts(got["axes"], f"{where}.axes")),
            kind=cast(ValueKind, one_of(got["kind"], f"{where}.kind", get_args(ValueKind))),
            vocabulary=Vocabulary.from_json(got["vocabulary"], f"{where}.vocabulary"),
            context_ms=integer(got["context_ms"], f"{where}.context_ms"),
            hop_ms=None if got["hop_ms"] is None else integer(got["hop_ms"], f"{where}.hop_ms", low=1),
            frames=None if got["frames"] is None else integer(got["frames"], f"{where}.frames", low=1),
        )
