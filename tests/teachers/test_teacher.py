"""What every teacher promises, held by a small BEATs."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import AudioSpec, TeacherError
from teachers import FAMILIES, FrontEnd, Teacher, load_teacher
from tests.teachers.simple_teachers import Linear, noise

Save = Callable[[object], Path]


@pytest.fixture
def teacher(small_checkpoint: dict[str, Any], save: Save) -> Teacher:
    return load_teacher("beats", checkpoint=save(small_checkpoint))


def clips() -> Tensor:
    """Noise, silence, full-scale square, one impulse, almost nothing, a loud constant: [6, 160000]."""
    waveforms = torch.zeros(6, 160_000)
    generator = torch.Generator().manual_seed(0)
    waveforms[0] = 0.1 * torch.randn(160_000, generator=generator)
    waveforms[2] = torch.where(torch.arange(160_000) % 32 < 16, 1.0, -1.0)
    waveforms[3, 80_000] = 1.0
    waveforms[4] = 1e-7 * torch.randn(160_000, generator=generator)
    waveforms[5] = 0.9
    return waveforms


def test_states_what_it_hears_and_what_it_says(teacher: Teacher, tmp_path: Path) -> None:
    assert teacher.audio_spec == AudioSpec(sample_rate=16_000, layout="mono", clip_ms=10_000)
    assert teacher.target.axes == ("class", "time")
    assert teacher.target.kind == "logit"
    assert teacher.target.shape == (7, 250)
    assert teacher.target.context_ms == 10_000
    digest = hashlib.sha256((tmp_path / "beats.pt").read_bytes()).hexdigest()
    assert json.loads(json.dumps(teacher.provenance)) == {
        "family": "beats",
        "checkpoint_sha256": digest,
        "layout": "unilm",
        "precision": "float32",
        "protocol": "clip",
        "front_end": "kaldi_fbank",
        "stage_version": 1,
        "vocabulary_sha256": teacher.vocabulary.sha256,
    }


def test_logits(teacher: Teacher) -> None:
    waveforms = clips()
    kept = waveforms.clone()
    frames, clip = teacher.frame_logits(waveforms), teacher.clip_logits(waveforms)
    assert frames.shape == (6, 7, 250)
    assert clip.shape == (6, 7)
    assert frames.dtype == clip.dtype == torch.float32
    assert frames.is_inference()
    assert torch.isfinite(frames).all()
    assert not frames.requires_grad
    assert torch.equal(waveforms, kept)


def test_a_clip_does_not_hear_its_neighbours(teacher: Teacher) -> None:
    waveforms = clips()
    together = teacher.frame_logits(waveforms)
    for place in range(6):
        alone = teacher.frame_logits(waveforms[place : place + 1])[0]
        assert torch.equal(together[place], alone)
    assert torch.equal(teacher.frame_logits(waveforms.flip(0)).flip(0), together)


def test_a_cpu_hears_clips_one_by_one() -> None:
    """However a processor adds up larger products, neighbours cannot change the last bit."""
    teacher = Linear([1.0])
    teacher.frame_logits(noise(3))
    assert (teacher.calls, teacher.heard) == (3, 3)


def test_the_model_itself_keeps_clips_apart_in_a_batch(teacher: Any) -> None:
    """On an accelerator clips go through together: no statistic over the batch, only the rounding of another kernel."""
    waveforms = clips()

    def logits(batch: Tensor) -> Tensor:
        return teacher._frame_logits(teacher.front_end.compute(batch), 250)

    together = logits(waveforms)
    alone = torch.cat([logits(waveform[None]) for waveform in waveforms])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "waveforms",
    [
        torch.zeros(160_000),
        torch.zeros(0, 160_000),
        torch.zeros(1, 159_999),
        torch.zeros(2, 1, 160_000),
        torch.zeros(1, 160_000, dtype=torch.float64),
        torch.zeros(1, 160_000, dtype=torch.int16),
    ],
)
def test_another_shape_or_type_is_refused(waveforms: Tensor, teacher: Teacher) -> None:
    with pytest.raises(TeacherError, match=r"teacher beats got torch\.\w+ \(.*needs torch.float32 \[clips, 160000\]"):
        teacher.frame_logits(waveforms)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_samples_that_are_not_finite_are_refused(value: float, teacher: Teacher) -> None:
    waveforms = torch.zeros(3, 160_000)
    waveforms[1, 77] = value
    for logits in (teacher.frame_logits, teacher.clip_logits):
        with pytest.raises(TeacherError, match=r"clips \[1\] of the batch"):
            logits(waveforms)


def test_an_unknown_family_lists_the_known_ones(tmp_path: Path) -> None:
    assert "beats" in FAMILIES
    with pytest.raises(TeacherError, match="no teacher family 'beets'; known: beats"):
        load_teacher("beets", checkpoint=tmp_path)


def test_an_unknown_device(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="device 'gpu'"):
        load_teacher("beats", checkpoint=tmp_path, device="gpu")


@pytest.mark.skipif(torch.cuda.device_count() > 9, reason="this machine has a tenth CUDA device")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="device cuda:9: PyTorch sees"):
        load_teacher("beats", checkpoint=tmp_path, device="cuda:9")


def test_a_teacher_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_teacher.py").write_text(
        """
import torch
from pipeline import AudioSpec, Vocabulary
from teachers import Teacher

class Loudness(Teacher):
    def _frame_logits(self, waveforms, frames):
        return waveforms.unflatten(1, (1, 250, 640)).square().mean(dim=3).log()

def load(path, device):
    return Loudness(audio_spec=AudioSpec(), vocabulary=Vocabulary(("/m/any",), ("any",)),
                    provenance={"family": "loudness"}, device=device)

def load_nothing(path, device):
    return path
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    weights = tmp_path / "own_teacher.py"  # a file; the teacher asks for no more
    teacher = load_teacher("own_teacher:load", checkpoint=weights)
    logits = teacher.frame_logits(torch.full((2, 160_000), 0.5))
    torch.testing.assert_close(logits, torch.full((2, 1, 250), 0.25).log())
    # Logits that are not finite are the business of one clip, which labelling records: they pass.
    assert torch.isinf(teacher.frame_logits(torch.zeros(1, 160_000))).all()
    with pytest.raises(TeacherError, match="loudness has no clip-level head"):
        teacher.clip_logits(torch.zeros(1, 160_000))
    with pytest.raises(TeacherError, match=r"returned a .*Path, needs a teachers\.Teacher"):
        load_teacher("own_teacher:load_nothing", checkpoint=weights)
    for wrong in ("own_teacher:absent", "no_such_module:load"):
        with pytest.raises(TeacherError, match="cannot be imported"):
            load_teacher(wrong, checkpoint=weights)


def test_a_mistake_in_a_teacher_of_the_users_own_is_one_line_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "energy_of_test.py").write_text(
        "def load(path, device):\n    return path / 'x'\n\n\ndef wrong():\n    pass\n"
    )
    (tmp_path / "bad_of_test.py").write_text("import torch\nabsent.load()\n")
    monkeypatch.syspath_prepend(tmp_path)
    for family, said in (
        ("energy_of_test:load", r"^energy_of_test:load failed: TypeError: .* \(energy_of_test\.py line 2\)$"),
        ("energy_of_test:wrong", "TypeError: wrong.* it is called with a Path or None, and a torch.device$"),
        ("bad_of_test:load", r"cannot be imported \(NameError: .* \(bad_of_test\.py line 2\)\)"),
    ):
        with pytest.raises(TeacherError, match=said):
            load_teacher(family)


def test_logits_are_float32_and_one_for_each_clip_whatever_the_model_gives() -> None:
    class Halves(Linear):
        def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
            return super()._frame_logits(features, frames).half()

    class Twice(Linear):
        def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
            return super()._frame_logits(features, frames).repeat(2, 1, 1)

    assert Halves([1.0]).frame_logits(noise(1)).dtype == torch.float32
    with pytest.raises(TeacherError, match=r"teacher linear gave \(2, 1, 250\) logits for 1 clip, needs \(1, 250\)"):
        Twice([1.0]).frame_logits(noise(1))


def test_what_a_trainer_allows_its_own_model_is_not_for_teachers(teacher: Any) -> None:
    def allowed() -> tuple[str, torch.dtype]:
        return torch.get_float32_matmul_precision(), (torch.ones(1, 1) @ torch.ones(1, 1)).dtype

    seen = []
    model, front_end = teacher._frame_logits, teacher.front_end

    def watched_features(waveforms: Tensor) -> Tensor:
        seen.append(allowed())
        return front_end.compute(waveforms)

    def watched_model(features: Tensor, frames: int) -> Tensor:
        seen.append(allowed())
        return model(features, frames)

    expected = teacher.frame_logits(clips()[:1])
    teacher._frame_logits, teacher.front_end = watched_model, FrontEnd("watched", watched_features)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            logits = teacher.frame_logits(clips()[:1])
            assert allowed() == ("high", torch.bfloat16)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(logits, expected)
    assert seen == [("highest", torch.float32)] * 2


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="this PyTorch has one way only")
def test_tf32_by_a_way_that_cannot_be_set_aside_is_refused(teacher: Teacher) -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with pytest.raises(TeacherError, match=r"use torch\.set_float32_matmul_precision"):
            teacher.frame_logits(clips()[:1])
    finally:
        torch.set_float32_matmul_precision("highest")
    teacher.frame_logits(clips()[:1])


def test_waveforms_that_are_elsewhere_are_not_looked_at(teacher: Teacher) -> None:
    """To look is to wait for the device. A tensor without content stands in for one that is not in host memory."""
    teacher._check(torch.zeros(2, 160_000, device="meta"))
    with pytest.raises(TeacherError, match=r"needs torch\.float32"):
        teacher._check(torch.zeros(2, 160_001, device="meta"))


def test_a_gpus_shortcuts_are_those_of_the_precision_and_end_with_the_call(teacher: Any) -> None:
    def shortcuts() -> tuple[bool, bool, bool]:
        matmul = torch.backends.cuda.matmul
        sums = matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction
        return torch.backends.cudnn.allow_tf32, *sums

    seen = []
    model = teacher._frame_logits

    def watched(features: Tensor, frames: int) -> Tensor:
        seen.append(shortcuts())
        return model(features, frames)

    teacher._frame_logits = watched
    before = shortcuts()
    assert before == (True, True, True), "PyTorch's defaults: nothing is tested here otherwise"
    teacher.frame_logits(clips()[:1])
    teacher.use_precision("float16")
    teacher.frame_logits(clips()[:1])
    assert seen == [(False, False, False), (True, False, False)]
    assert shortcuts() == before
