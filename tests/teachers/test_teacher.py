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
from teachers import FAMILIES, Teacher, load_teacher

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
    teacher = load_teacher("own_teacher:load", checkpoint=tmp_path)
    logits = teacher.frame_logits(torch.full((2, 160_000), 0.5))
    torch.testing.assert_close(logits, torch.full((2, 1, 250), 0.25).log())
    # Logits that are not finite are the business of one clip, which labelling records: they pass.
    assert torch.isinf(teacher.frame_logits(torch.zeros(1, 160_000))).all()
    with pytest.raises(TeacherError, match="loudness has no clip-level head"):
        teacher.clip_logits(torch.zeros(1, 160_000))
    with pytest.raises(TeacherError, match=r"returned a .*Path, needs a teachers\.Teacher"):
        load_teacher("own_teacher:load_nothing", checkpoint=tmp_path)
    for wrong in ("own_teacher:absent", "no_such_module:load"):
        with pytest.raises(TeacherError, match="cannot be imported"):
            load_teacher(wrong, checkpoint=tmp_path)
