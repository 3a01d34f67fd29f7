"""What half precision costs a teacher, beside what the label codec may cost anyway."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline import AudioSpec, TeacherError
from shards import guarantee
from teachers._choice import TeacherChoice
from teachers._teacher import Teacher

MAX_ERROR = guarantee("faithful").max_probability_error[1]
MEAN_ERROR = 1e-4


@dataclass(frozen=True, kw_only=True)
class PrecisionError:
    """How far probabilities lie from those of float32: over all clips, classes and frames.

    target: "frame" or "clip", the labels that are compared. largest, mean: NaN where logits are not finite.
    at: the class of the largest.
    """

    teacher: str
    precision: str
    target: str
    clips: int
    largest: float
    mean: float
    at: str

    @property
    def fits(self) -> bool:
        """Whether both errors are within the budget: MAX_ERROR, which is the codec's own, and MEAN_ERROR."""
        return self.largest <= MAX_ERROR and self.mean <= MEAN_ERROR


def precision_errors(
    choice: TeacherChoice, clips: Callable[[AudioSpec], Tensor], *, precisions: Sequence[str], device: str = "cpu"
) -> Iterator[PrecisionError]:
    """For each precision, of the frame labels and, where the teacher has them, of the clip labels.

    clips: gives float32 [clips, N] of what the teacher hears, as for `Teacher.frame_logits`. The teacher is loaded once
    for each precision, one after the other. Raises what `TeacherChoice.open` and `Teacher.use_precision` do, and
    TeacherError for a teacher of float32 alone.
    """
    exact = choice.open(device)
    if type(exact)._cast is Teacher._cast:
        raise TeacherError(f"{choice.text}: runs in float32 only: nothing to compare; leave it out")
    waveforms = clips(exact.audio_spec)
    references = _probabilities(exact, waveforms)
    names = exact.vocabulary.names
    del exact
    for precision in precisions:
        teacher = choice.open(device)
        teacher.use_precision(precision)
        for target, probabilities in _probabilities(teacher, waveforms).items():
            errors = (probabilities - references[target]).abs()
            by_class = errors.transpose(0, 1).flatten(1).amax(dim=1)
            worst = int(by_class.argmax())  # NaN is the largest
            yield PrecisionError(
                teacher=choice.text, precision=precision, target=target, clips=len(waveforms),
                largest=float(by_class[worst]), mean=float(errors.mean()), at=names[worst],
            )  # fmt: skip


def _probabilities(teacher: Teacher, waveforms: Tensor) -> dict[str, Tensor]:
    """Target -> float64 [clips, classes] or [clips, classes, frames], on the CPU; clips one by one."""
    ways = {"frame": teacher.frame_logits} | ({"clip": teacher.clip_logits} if teacher.has_clip_logits else {})
    return {
        target: torch.cat([torch.sigmoid(logits(clip).double()).cpu() for clip in waveforms.split(1)])
        for target, logits in ways.items()
    }
