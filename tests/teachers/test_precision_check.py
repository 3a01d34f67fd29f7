"""The precision check counts what a plain computation counts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import AudioSpec, TeacherError, Vocabulary
from teachers import MAX_ERROR, MEAN_ERROR, PrecisionError, Teacher, TeacherChoice, load_teacher, precision_errors
from tests.teachers.labelling_examples import tiny_beats


class Shifted(Teacher):
    """Its logits are the first sample of a clip; in half precision one class of it is off by `by`."""

    def __init__(self, by: float) -> None:
        vocabulary = Vocabulary(("/m/1", "/m/2", "/m/3"), ("One", "Two", "Three"))
        super().__init__(audio_spec=AudioSpec(), vocabulary=vocabulary, provenance={}, device=torch.device("cpu"))
        self.by, self.off = by, 0.0

    def _frame_logits(self, waveforms: Tensor, frames: int) -> Tensor:
        logits = waveforms[:, :1, None].repeat(1, 3, frames)
        logits[:, 1, 7] += self.off
        return logits

    def _cast(self, precision: str) -> None:
        self.off = self.by


@dataclass
class Choice:
    by: float
    text: str = "shifted"

    def open(self, device: str) -> Teacher:
        return Shifted(self.by)


def clips(spec: AudioSpec, count: int = 2) -> Tensor:
    return 0.3 * torch.randn(count, spec.max_samples, generator=torch.Generator().manual_seed(1))


def test_the_largest_and_the_mean_error() -> None:
    (found,) = precision_errors(Choice(0.5), clips, precisions=("bfloat16",))
    first = clips(AudioSpec())[:, 0].double().numpy()
    errors = 1 / (1 + np.exp(-first - 0.5)) - 1 / (1 + np.exp(-first))
    assert (found.teacher, found.precision, found.target, found.clips, found.at) == (
        "shifted", "bfloat16", "frame", 2, "Two",
    )  # fmt: skip
    assert found.largest == pytest.approx(errors.max(), rel=1e-5)
    assert found.mean == pytest.approx(errors.sum() / (2 * 3 * 250), rel=1e-5)
    assert not found.fits
    assert next(iter(precision_errors(Choice(0.0), clips, precisions=("float16",)))).fits


@pytest.mark.parametrize(
    ("largest", "mean", "fits"),
    [(0.004, 1e-4, True), (0.0041, 1e-4, False), (0.004, 1.1e-4, False), (np.nan, np.nan, False)],
)
def test_both_have_to_fit(largest: float, mean: float, fits: bool) -> None:
    told = {"teacher": "a", "precision": "float16", "target": "frame", "clips": 1, "at": "One"}
    assert PrecisionError(**told, largest=largest, mean=mean).fits is fits


def test_errors_are_of_probabilities_not_of_their_rounding() -> None:
    """In float32 sigmoids next to 1 would differ by steps of 6e-8, or not at all."""

    class Loud(Shifted):
        def _frame_logits(self, waveforms: Tensor, frames: int) -> Tensor:
            return super()._frame_logits(waveforms, frames) + 20

    choice = Choice(0.0)
    choice.open = lambda device: Loud(1.0)
    (found,) = precision_errors(choice, lambda spec: 0 * clips(spec), precisions=("float16",))
    assert found.largest == pytest.approx(1 / (1 + np.exp(-21)) - 1 / (1 + np.exp(-20)), rel=1e-3)


def test_logits_that_are_not_finite_never_fit() -> None:
    (found,) = precision_errors(Choice(float("nan")), clips, precisions=("float16",))
    assert np.isnan(found.largest)
    assert np.isnan(found.mean)
    assert found.at == "Two"
    assert not found.fits


def test_a_checkpoints_frames_and_clips(tmp_path: Path) -> None:
    path = tiny_beats(tmp_path / "tiny.pt")
    found = list(precision_errors(TeacherChoice.parse(f"beats={path}"), clips, precisions=("bfloat16", "float16")))
    assert [(error.precision, error.target) for error in found] == [
        ("bfloat16", "frame"), ("bfloat16", "clip"), ("float16", "frame"), ("float16", "clip"),
    ]  # fmt: skip
    exact = load_teacher("beats", checkpoint=path)
    for error in found:
        half = load_teacher("beats", checkpoint=path, precision=error.precision)
        both = [getattr(teacher, f"{error.target}_logits")(clips(AudioSpec())) for teacher in (exact, half)]
        differences = np.abs(np.subtract(*(1 / (1 + np.exp(-logits.double().numpy())) for logits in both)))
        assert error.largest == pytest.approx(differences.max())
        assert error.mean == pytest.approx(differences.mean())
        assert error.largest > 0
    assert found[2].largest < found[0].largest


def test_the_budget_is_the_codecs() -> None:
    assert (MAX_ERROR, MEAN_ERROR) == (0.004, 1e-4)


def test_a_teacher_of_one_precision_says_so() -> None:
    class OnlyFloat32(Shifted):
        _cast = Teacher._cast

    choice = Choice(0.0)
    choice.open = lambda device: OnlyFloat32(0.0)
    with pytest.raises(TeacherError, match="shifted: runs in float32 only: nothing to compare"):
        list(precision_errors(choice, clips, precisions=("float16",)))
