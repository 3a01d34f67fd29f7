"""What a teacher is to everything that labels with it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline import AudioSpec, TargetSpec, TeacherError, Vocabulary


class Teacher(ABC):
    """Maps full clips to logits. States its audio, its vocabulary and where its numbers come from.

    `provenance` is what a label set records and compares: plain JSON values, the same on every device, among them the
    checkpoint's sha256.
    A subclass supplies `_frame_logits` and, where it has them, `_clip_logits`, both on checked waveforms.
    """

    def __init__(
        self, *, audio_spec: AudioSpec, vocabulary: Vocabulary, provenance: dict[str, Any], device: torch.device
    ) -> None:
        self.audio_spec = audio_spec
        self.vocabulary = vocabulary
        self.device = device
        self.provenance = {**provenance, "vocabulary_sha256": vocabulary.sha256}

    @property
    def target(self) -> TargetSpec:
        """The frame-logit target: axes ("class", "time"), shape (len(vocabulary), 250), heard over the whole clip."""
        return TargetSpec(
            axes=("class", "time"), kind="logit", vocabulary=self.vocabulary, context_ms=self.audio_spec.clip_ms
        )

    def frame_logits(self, waveforms: Tensor) -> Tensor:
        """Float32 [B, 160000] at 16 kHz in [-1, 1], zero-padded at the end -> logits [B, classes, 250], 40 ms hop.

        A clip's logits do not depend on its neighbours in the batch. The result is on the waveforms' device;
        it is not checked for NaN, which is a matter of one clip. Raises TeacherError for another shape or type and for
        NaN or infinite samples.
        """
        return self._run(self._frame_logits, waveforms, self.target.shape)

    def clip_logits(self, waveforms: Tensor) -> Tensor:
        """As frame_logits, for the clip as a whole: [B, classes]. TeacherError where there is no clip-level head."""
        return self._run(self._clip_logits, waveforms, (len(self.vocabulary),))

    @abstractmethod
    def _frame_logits(self, waveforms: Tensor) -> Tensor: ...

    def _clip_logits(self, waveforms: Tensor) -> Tensor:
        raise TeacherError(f"{self._name} has no clip-level head; use its frame logits")

    def _run(self, model: Callable[[Tensor], Tensor], waveforms: Tensor, shape: tuple[int, ...]) -> Tensor:
        self._check(waveforms)
        # On a CPU a batch is no faster than its clips one by one (BEATs: 559 ms alone, 590 ms each among 8), and one by
        # one a clip's logits are the same to the last bit whatever stands beside it.
        step = 1 if self.device.type == "cpu" else len(waveforms)
        # TF32, the default of cuDNN's convolutions, would move logits by more than the 1e-4 that label sets promise.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            logits = torch.cat([model(part.to(self.device)) for part in waveforms.split(step)])
        if logits.shape != (len(waveforms), *shape):
            raise TeacherError(
                f"{self._name} gave {tuple(logits.shape)} logits for {len(waveforms)} clips, "
                f"needs {shape} each; correct the teacher"
            )
        return logits.to(device=waveforms.device, dtype=torch.float32)

    def _check(self, waveforms: Tensor) -> None:
        spec = self.audio_spec
        fits = waveforms.ndim == 2 and len(waveforms) > 0 and waveforms.shape[1] == spec.max_samples
        if not fits or waveforms.dtype != torch.float32:
            raise TeacherError(
                f"{self._name} got {waveforms.dtype} {tuple(waveforms.shape)}; needs torch.float32 "
                f"[clips, {spec.max_samples}] at {spec.sample_rate} Hz; pad shorter clips with zeros"
            )
        bad = (~torch.isfinite(waveforms)).any(dim=1).nonzero()[:, 0].tolist()
        if bad:
            raise TeacherError(
                f"{self._name}: clips {bad[:5]} of the batch have NaN or infinite samples; reject them first"
            )

    @property
    def _name(self) -> str:
        return f"teacher {self.provenance.get('family', type(self).__name__)}"
