"""What a teacher is to everything that labels with it."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pipeline import CLIP_MS, HOP_MS, AudioSpec, TargetSpec, TeacherError, Vocabulary

Protocol = Literal["frame", "clip"]
"""What people told the teacher in training: which frames a sound is in, or only which clips."""
Target = Literal["frame", "clip"]
"""What a teacher is asked for: logits of every frame, or of the clip as a whole."""
TARGETS: tuple[str, ...] = get_args(Target)


@dataclass(frozen=True)
class FrontEnd:
    """Waveforms [B, N] -> features, whatever the model takes; float32, batched, each clip on its own.

    Members of an ensemble whose front ends are equal share one computation. `name` goes into the provenance.
    """

    name: str
    compute: Callable[[Tensor], Tensor]


def _as_they_are(waveforms: Tensor) -> Tensor:
    return waveforms


WAVEFORM = FrontEnd("waveform", _as_they_are)


class Teacher(ABC):
    """Maps full clips to logits. States its audio, its vocabulary and where its numbers come from.

    provenance: what a label set records and compares: plain JSON values, the same on every device, among them the
        checkpoint's sha256. `precision`, `protocol`, `front_end` and `vocabulary_sha256` are added.
    contexts_ms: how much audio the model can hear at once, longest first; its own clip is among them.
    A subclass supplies `_frame_logits` and, where it has them, `_clip_logits`, both on the features of its front end.
    """

    def __init__(
        self, *, audio_spec: AudioSpec, vocabulary: Vocabulary, provenance: Mapping[str, Any], device: torch.device,
        protocol: Protocol = "frame", front_end: FrontEnd = WAVEFORM, contexts_ms: tuple[int, ...] = (CLIP_MS,),
    ) -> None:  # fmt: skip
        self.audio_spec = audio_spec
        self.vocabulary = vocabulary
        self.device = device
        self.protocol: Protocol = protocol
        self.front_end = front_end
        self.contexts_ms = contexts_ms
        self.provenance: dict[str, Any] = {
            "precision": "float32", **provenance, "protocol": protocol, "front_end": front_end.name,
            "vocabulary_sha256": vocabulary.sha256,
        }  # fmt: skip

    @property
    def context_ms(self) -> int:
        """Audio that one value of a label was heard in."""
        return self.audio_spec.clip_ms

    @property
    def frames(self) -> int:
        """40 ms frames of a full clip: 250 for 10 s."""
        return -(-self.audio_spec.clip_ms // HOP_MS)

    @property
    def target(self) -> TargetSpec:
        """The frame-logit target: axes ("class", "time"), shape (len(vocabulary), frames)."""
        return TargetSpec(
            axes=("class", "time"), kind="logit", vocabulary=self.vocabulary, context_ms=self.context_ms,
            frames=self.frames,
        )  # fmt: skip

    @property
    def clip_target(self) -> TargetSpec:
        """The clip-logit target: axis ("class",)."""
        return TargetSpec(
            axes=("class",), kind="logit", vocabulary=self.vocabulary, context_ms=self.context_ms, hop_ms=None,
            frames=None,
        )  # fmt: skip

    @property
    def has_clip_logits(self) -> bool:
        """Whether `clip_logits` has a head to ask."""
        return type(self)._clip_logits is not Teacher._clip_logits

    @property
    def leaves(self) -> tuple["Teacher", ...]:
        """The teachers with a model of their own: this one, or those that it is made of."""
        return (self,)

    def use_precision(self, precision: str) -> None:
        """Run from now on in "float32" (as loaded), "bfloat16" or "float16"; once. The provenance says which.

        Raises TeacherError where this teacher has no other than float32, or has left it already.
        """
        runs_in = self.provenance["precision"]
        if precision == runs_in:
            return
        if runs_in != "float32":
            raise TeacherError(f"{self._name} runs in {runs_in} already, {precision} is asked for; load it anew")
        self._cast(precision)
        self.provenance["precision"] = precision

    def frame_logits(self, waveforms: Tensor, samples: Sequence[int] | None = None) -> Tensor:
        """Float32 [B, 160000] at 16 kHz in [-1, 1], zero-padded at the end -> logits [B, classes, 250], 40 ms hop.

        samples: each clip's length without its padding. It is of use to teachers of clips longer than what they hear
        at once (`Windows`, `Chunked`), which leave out what holds no audio. All others ignore it.
        A clip's logits do not depend on its neighbours in the batch. The result is on the waveforms' device;
        it is not checked for NaN, which is a matter of one clip. Raises TeacherError for another shape or type and,
        where the waveforms are in host memory, for NaN or infinite samples: to look at them elsewhere is to wait for
        the device.
        """
        self._check(waveforms)
        return self._heard("frame", waveforms, self.frames)

    def clip_logits(self, waveforms: Tensor) -> Tensor:
        """As frame_logits, for the clip as a whole: [B, classes]. TeacherError where there is no clip-level head."""
        if not self.has_clip_logits:
            raise TeacherError(f"{self._name} has no clip-level head; use its frame logits")
        self._check(waveforms)
        return self._heard("clip", waveforms, self.frames)

    @abstractmethod
    def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
        """[B, classes, frames] of clips, or of shorter contexts, that are `frames` long.

        Others may have the same features: they are left as they are.
        """

    def _clip_logits(self, features: Tensor, frames: int) -> Tensor:
        """[B, classes] of the same. Only called where there is such a head."""
        raise TypeError(f"{self._name} has no clip-level head")

    def _cast(self, precision: str) -> None:
        raise TeacherError(f"{self._name} runs in float32 only, {precision} is asked for; leave --precision out")

    def _heard(self, target: Target, waveforms: Tensor, frames: int) -> Tensor:
        """Logits of contexts [B, N], each `frames` long, in float32 and on the waveforms' device."""
        # On a CPU a batch is no faster than its clips one by one, and one by one a clip's logits are the same to the
        # last bit whatever stands beside it.
        step = 1 if self.device.type == "cpu" else len(waveforms)
        with torch.inference_mode(), _true_float32(self.device):
            logits = torch.cat(
                [
                    self._said(target, self.front_end.compute(part.to(self.device)), len(part), frames)
                    for part in waveforms.split(step)
                ]
            )
        return logits.to(device=waveforms.device, dtype=torch.float32)

    def _said(self, target: Target, features: Tensor, clips: int, frames: int) -> Tensor:
        """What the model says of the features of `clips` contexts. Raises TeacherError where that has a wrong shape."""
        with _sums_of(self.provenance["precision"]):
            logits = (self._frame_logits if target == "frame" else self._clip_logits)(features, frames)
        shape = (len(self.vocabulary), frames) if target == "frame" else (len(self.vocabulary),)
        if logits.shape != (clips, *shape):
            raise TeacherError(
                f"{self._name} gave {tuple(logits.shape)} logits for {clips} clip{'' if clips == 1 else 's'}, "
                f"needs {shape} each; correct the teacher"
            )
        return logits

    def _check(self, waveforms: Tensor) -> None:
        spec = self.audio_spec
        fits = waveforms.ndim == 2 and len(waveforms) > 0 and waveforms.shape[1] == spec.max_samples
        if not fits or waveforms.dtype != torch.float32:
            raise TeacherError(
                f"{self._name} got {waveforms.dtype} {tuple(waveforms.shape)}; needs torch.float32 "
                f"[clips, {spec.max_samples}] at {spec.sample_rate} Hz; pad shorter clips with zeros, give longer ones "
                "to label_recording"
            )
        self._check_finite(waveforms)

    def _check_finite(self, waveforms: Tensor) -> None:
        if waveforms.device.type != "cpu":
            return
        bad = (~torch.isfinite(waveforms)).any(dim=1).nonzero()[:, 0].tolist()
        if bad:
            raise TeacherError(
                f"{self._name}: clips {bad[:5]} of the batch have NaN or infinite samples; reject them first"
            )

    @property
    def _name(self) -> str:
        return f"teacher {self.provenance.get('family', type(self).__name__)}"


@contextlib.contextmanager
def _true_float32(device: torch.device) -> Iterator[None]:
    """Products of float32 are made in float32: a trainer's autocast and TF32 are for its own model."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError as error:
        raise TeacherError(
            "this process allows TF32 by PyTorch's fp32_precision, which teachers cannot set aside; use "
            "torch.set_float32_matmul_precision instead"
        ) from error
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _sums_of(precision: str) -> Iterator[None]:
    """How exact a GPU is inside: what it may do by default would cost more than label sets promise.

    In float32 TF32, the default of cuDNN's convolutions, moves logits by more than 1e-4. In half precision convolutions
    may have it: its 11 bits are float16's own. Products of halves are always added in float32.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_fp16_reduced_precision_reduction = matmul.allow_bf16_reduced_precision_reduction = False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=precision != "float32"):
            yield
    finally:
        matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction = before
