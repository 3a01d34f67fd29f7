"""Clips of other lengths than the teacher hears at once: consecutive chunks of a short context, or overlapping windows.

Both run the teacher on pieces of one context length and put the frames back in their place on the 40 ms grid.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline import HOP_MS, AudioSpec, TeacherError
from pipeline import valid_frames as frames_of
from teachers._teacher import Teacher

# Audio in one forward pass, in frames, from however many clips: bounds what an hour of it takes.
AT_ONCE = 64 * 250
# The logit of frames behind the end of the audio, which no teacher was asked about: the lowest that every codec holds.
NO_SOUND = -24.0

Piece = tuple[int, Tensor]
"""First frame, and the weight of each frame that it says something about. Over all pieces a frame's sum to 1."""
Plan = Callable[[int, int, torch.device], list[Piece]]
"""(frames with audio, frames of the context, where the weights are needed: a copy would wait for that device)."""


def chunk_pieces(frames: int, context: int, device: torch.device) -> list[Piece]:
    """Frames [0, C), [C, 2 C), ... of `frames`, the last shorter."""
    starts = range(0, frames, context)
    return [(start, torch.ones(min(context, frames - start), device=device)) for start in starts]


def window_pieces(frames: int, context: int, device: torch.device) -> list[Piece]:
    """Windows of C frames every C // 2, the last up to the end of the audio; one where they all fit into one.

    Cross-faded by raised cosines, divided by their sum.
    """
    last = max(0, frames - context)
    starts = [*range(0, last, max(1, context // 2)), last] if frames else []
    phase = (torch.arange(context, device=device, dtype=torch.float64) + 0.5) / context
    fade = torch.sin(math.pi * phase).square()
    total = torch.zeros(max(frames, context), device=device, dtype=torch.float64)
    for start in starts:
        total[start : start + context] += fade
    length = min(frames, context)
    return [(start, (fade / total[start : start + context])[:length].float()) for start in starts]


class _InPieces(Teacher):
    """`teacher` asked about pieces of `context_ms` of the clips of `audio_spec`."""

    def __init__(
        self, teacher: Teacher, audio_spec: AudioSpec, *, context_ms: int, rule: dict[str, Any], plan: Plan
    ) -> None:
        heard = teacher.audio_spec
        if (audio_spec.sample_rate, audio_spec.layout) != (heard.sample_rate, heard.layout):
            raise TeacherError(
                f"{teacher._name} hears {heard.layout} at {heard.sample_rate} Hz, the clips are {audio_spec.name}; "
                "pack the audio so"
            )
        if teacher.context_ms != heard.clip_ms:
            raise TeacherError(
                f"{teacher._name} hears its clips in pieces of {teacher.context_ms} ms already; give the teacher itself"
            )
        super().__init__(
            audio_spec=audio_spec, vocabulary=teacher.vocabulary, provenance={}, device=teacher.device,
            protocol=teacher.protocol, contexts_ms=(context_ms,),
        )  # fmt: skip
        self.provenance = {**teacher.provenance, **rule}
        self.teacher = teacher
        self._plan = plan

    @property
    def context_ms(self) -> int:
        return self.contexts_ms[0]

    @property
    def has_clip_logits(self) -> bool:
        return False

    @property
    def leaves(self) -> tuple[Teacher, ...]:
        return self.teacher.leaves

    def frame_logits(self, waveforms: Tensor, samples: Sequence[int] | None = None) -> Tensor:
        self._check(waveforms)
        return self._in_pieces(waveforms, samples)

    def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
        return self._in_pieces(features, None)

    def _in_pieces(self, waveforms: Tensor, samples: Sequence[int] | None) -> Tensor:
        lengths = [waveforms.shape[1]] * len(waveforms) if samples is None else samples
        if len(lengths) != len(waveforms) or not all(0 <= length <= waveforms.shape[1] for length in lengths):
            raise TeacherError(
                f"{self._name} got {len(lengths)} lengths from {min(lengths, default=0)} to {max(lengths, default=0)} "
                f"for {len(waveforms)} clips of {waveforms.shape[1]} samples; give each clip's length before padding"
            )
        return _heard_in_pieces(self.teacher, waveforms, lengths, self.frames, self.context_ms, self._plan)

    def _cast(self, precision: str) -> None:
        self.teacher.use_precision(precision)


class Chunked(_InPieces):
    """Clips cut into consecutive chunks of `context_ms`, each heard alone, the last padded with zeros.

    audio_spec: of the clips, where they are not the teacher's own. Raises TeacherError for a context that the teacher
    was not made for.
    """

    def __init__(self, teacher: Teacher, context_ms: int, audio_spec: AudioSpec | None = None) -> None:
        if context_ms not in teacher.contexts_ms or context_ms % HOP_MS:
            made_for = ", ".join(str(context) for context in teacher.contexts_ms if context % HOP_MS == 0)
            unable = [leaf._name for leaf in teacher.leaves if context_ms not in leaf.contexts_ms] or [teacher._name]
            raise TeacherError(
                f"{', '.join(dict.fromkeys(unable))} was not made for contexts of {context_ms} ms; --context-ms can be "
                f"{made_for}"
            )
        super().__init__(
            teacher, audio_spec or teacher.audio_spec, context_ms=context_ms, rule={"chunk_ms": context_ms},
            plan=chunk_pieces,
        )  # fmt: skip


class Windows(_InPieces):
    """Clips of any length, heard in overlapping windows of the teacher's own length whose logits are cross-faded.

    A clip shorter than a window is padded with zeros; in a longer one no window reaches beyond the end of the audio.
    """

    def __init__(self, teacher: Teacher, audio_spec: AudioSpec) -> None:
        window_ms = teacher.audio_spec.clip_ms
        hop_ms = teacher.frames // 2 * HOP_MS
        rule = {"window_ms": window_ms, "window_hop_ms": hop_ms, "window_fade": "raised_cosine"}
        super().__init__(teacher, audio_spec, context_ms=window_ms, rule=rule, plan=window_pieces)


def label_recording(teacher: Teacher, waveform: Tensor) -> Tensor:
    """A recording of any length, float32 [N] in [-1, 1] at the teacher's rate -> logits [classes, ceil(N / 640)].

    As `Windows` does it: for N samples the same logits as of a clip of N samples. Raises TeacherError for another shape
    or type, and for NaN or infinite samples.
    """
    spec = teacher.audio_spec
    if waveform.ndim != 1 or not len(waveform) or waveform.dtype != torch.float32:
        raise TeacherError(
            f"{teacher._name} got {waveform.dtype} {tuple(waveform.shape)}; needs torch.float32 [samples] at "
            f"{spec.sample_rate} Hz"
        )
    teacher._check_finite(waveform[None])
    frames = -(-len(waveform) // spec.hop_samples)
    return _heard_in_pieces(teacher, waveform[None], [len(waveform)], frames, spec.clip_ms, window_pieces)[0]


def _heard_in_pieces(
    teacher: Teacher, waveforms: Tensor, samples: Sequence[int], frames: int, context_ms: int, plan: Plan
) -> Tensor:
    """[B, classes, frames] of waveforms [B, N] on their device; NO_SOUND behind the end of each clip's samples."""
    spec = teacher.audio_spec
    context = -(-context_ms // HOP_MS)
    context_samples = spec.sample_rate * context_ms // 1000
    where = waveforms.device
    audible = [frames_of(length, spec.sample_rate, frames=frames) for length in samples]
    pieces = [(clip, *piece) for clip, length in enumerate(audible) for piece in plan(length, context, where)]
    at_once = min(max(1, AT_ONCE // context), len(waveforms) * len(plan(frames, context, where)))
    with torch.inference_mode():
        logits = waveforms.new_full((len(waveforms), len(teacher.vocabulary), frames), NO_SOUND)
        for clip, length in enumerate(audible):
            logits[clip, :, :length] = 0.0
        for first in range(0, len(pieces), at_once):
            part = pieces[first : first + at_once]
            heard = waveforms.new_zeros(_size(teacher.device, len(part), at_once), context_samples)
            for place, (clip, start, _) in enumerate(part):
                cut = waveforms[clip, start * spec.hop_samples :][:context_samples]
                heard[place, : len(cut)] = cut
            said = teacher._heard("frame", heard, context)
            for place, (clip, start, weight) in enumerate(part):
                logits[clip, :, start : start + len(weight)] += said[place, :, : len(weight)] * weight
    return logits


def _size(device: torch.device, pieces: int, at_once: int) -> int:
    """A graph compiled for one size serves all: an accelerator hears silence in place of pieces that are not there."""
    return pieces if device.type == "cpu" else at_once
