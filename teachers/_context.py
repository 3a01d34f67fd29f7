"""Clips of other lengths than the teacher hears at once: consecutive chunks of a short context, or overlapping windows.

Both run the teacher on pieces of one context length and put the frames back in their place on the 40 ms grid.
"""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline import HOP_MS, AudioSpec, TeacherError
from pipeline import valid_frames as frames_of
from teachers._teacher import Teacher

# Audio in one forward pass, in frames, from however many clips: bounds what an hour of it takes.
AT_ONCE = 64 * 250
# The logit of frames behind the end of the audio, which no teacher was asked about: the lowest that every codec holds.
NO_SOUND = -24.0


class Piece(NamedTuple):
    """start: its first frame. weight: of each frame that it says something about; over all pieces a frame's sum to 1.

    layer: pieces of one layer have no frame in common. They are added up layer by layer.
    """

    start: int
    layer: int
    weight: npt.NDArray[np.float32]


Plan = Callable[[int, int], list[Piece]]
"""Of frames with audio, and of frames of the context."""


def chunk_pieces(frames: int, context: int) -> list[Piece]:
    """Frames [0, C), [C, 2 C), ... of `frames`, the last shorter."""
    starts = range(0, frames, context)
    return [Piece(start, 0, np.ones(min(context, frames - start), np.float32)) for start in starts]


def window_pieces(frames: int, context: int) -> list[Piece]:
    """Windows of C frames every half C (rounded up), the last up to the end of the audio; one where they all fit in.

    Cross-faded by raised cosines, divided by their sum.
    """
    last, hop = max(0, frames - context), window_hop(context)
    starts = [*range(0, last, hop), last] if frames else []
    phase = (torch.arange(context, dtype=torch.float64) + 0.5) / context
    fade = torch.sin(math.pi * phase).square().numpy()
    total = np.zeros(max(frames, context))
    for start in starts:
        total[start : start + context] += fade
    # Every second window has no frame in common. The last may meet the two before it and is added to their sum, which
    # is the same in either order: so a sum does not depend on which windows were heard together.
    return [
        Piece(
            start,
            2 if start % hop else start // hop % 2,
            (fade / total[start : start + context])[: min(frames, context)].astype(np.float32),
        )
        for start in starts
    ]


def window_hop(context: int) -> int:
    return -(-context // 2)


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
        hop_ms = window_hop(teacher.frames) * HOP_MS
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
    """[B, classes, frames] of waveforms [B, N] on their device; NO_SOUND behind the end of each clip's samples.

    A few operations for all pieces of a forward pass, so that a GPU does not wait for Python; which frames are whose is
    worked out on the host.
    """
    spec = teacher.audio_spec
    context = -(-context_ms // HOP_MS)
    audible = [frames_of(length, spec.sample_rate, frames=frames) for length in samples]
    plans = {length: plan(length, context) for length in {frames, *audible}}
    pieces = [(clip, piece) for clip, length in enumerate(audible) for piece in plans[length]]
    at_once = min(max(1, AT_ONCE // context), len(waveforms) * len(plans[frames]))
    with torch.inference_mode():
        logits = waveforms.new_zeros((len(waveforms), len(teacher.vocabulary), frames))
        for first in range(0, len(pieces), at_once):
            part = pieces[first : first + at_once]
            part.sort(key=lambda placed: _group(placed[1], context, frames))
            heard = _cut(
                waveforms, part, size=_size(teacher.device, len(part), at_once),
                samples=spec.sample_rate * context_ms // 1000, hop_samples=spec.hop_samples,
            )  # fmt: skip
            _add(logits, teacher._heard("frame", heard, context), part)
        if min(audible) < frames:
            ends = _sent(np.array(audible), logits.device)
            logits.masked_fill_(torch.arange(frames, device=logits.device) >= ends[:, None, None], NO_SOUND)
    return logits


def _cut(waveforms: Tensor, part: Sequence[tuple[int, Piece]], *, size: int, samples: int, hop_samples: int) -> Tensor:
    """[size, samples]: the audio of each piece of `part`, with zeros behind its end; then what nobody will look at."""
    clips, starts = np.array([(clip, piece.start) for clip, piece in part]).T
    clip, start = clips.min(), starts.min()
    end = starts.max() * hop_samples + samples
    audio = waveforms[clip : clips.max() + 1, start * hop_samples : end]
    missing = int(end - start * hop_samples) - audio.shape[1]
    if missing > 0:
        audio = torch.nn.functional.pad(audio, (0, missing))
    places = np.zeros((2, size), np.int64)
    places[:, : len(part)] = clips - clip, starts - start
    of_clip, of_start = _sent(places, waveforms.device)
    return audio.unfold(1, samples, hop_samples)[of_clip, of_start]


def _add(logits: Tensor, said: Tensor, part: Sequence[tuple[int, Piece]]) -> None:
    """Add what was said of each piece of `part`, which is sorted by group, to its clip."""
    frames, context = logits.shape[2], said.shape[2]
    weights = np.zeros((len(part), context), np.float32)
    for row, (_, piece) in enumerate(part):
        weights[row, : len(piece.weight)] = piece.weight
    weight = _sent(weights, logits.device)
    clip, start = _sent(np.array([(clip, piece.start) for clip, piece in part]).T, logits.device)
    frame = start[:, None] + torch.arange(context, device=logits.device)
    by_class, end = logits.transpose(0, 1), 0
    for (_, width), group in groupby(part, lambda placed: _group(placed[1], context, frames)):
        rows = slice(end, end := end + len(list(group)))
        heard = said[rows, :, :width] * weight[rows, None, :width]
        by_class[:, clip[rows, None], frame[rows, :width]] += heard.transpose(0, 1)


def _group(piece: Piece, context: int, frames: int) -> tuple[int, int]:
    """Layer and width of pieces that are added at once."""
    return piece.layer, min(context, frames - piece.start)


def _sent(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """On `device`, without waiting for it."""
    here = torch.from_numpy(np.ascontiguousarray(values))
    return (here.pin_memory() if device.type == "cuda" else here).to(device, non_blocking=True)


def _size(device: torch.device, pieces: int, at_once: int) -> int:
    """A graph compiled for one size serves all: an accelerator hears any audio in place of missing pieces."""
    return pieces if device.type == "cpu" else at_once
