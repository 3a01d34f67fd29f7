"""docs/own_teacher.py labels a split, as its first line says, and the labels are what its model says."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import AudioSpec, Vocabulary, waveform_into
from shards import AudioReader, Dataset, LabelReader, verify
from teachers import PRECISIONS, Chunked, FrontEnd, Teacher
from tests.teachers.labelling_examples import packed

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("own"), clips=3)


def label(dataset: Path, teacher: str) -> "subprocess.CompletedProcess[str]":
    path = f"{REPOSITORY / 'docs'}{os.pathsep}{REPOSITORY}"
    command = ["label", "--dataset", dataset, "--split", "strong", "--teacher", teacher, "--labels", "own"]
    return subprocess.run(
        [sys.executable, "-m", "sed_distill", *command, "--codec", "master", "--executor", "local"],
        env={**os.environ, "PYTHONPATH": path}, cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_example_is_short_and_labels(dataset: Path, tmp_path: Path) -> None:
    script = (REPOSITORY / "docs" / "own_teacher.py").read_text()
    assert len([line for line in script.splitlines() if line]) <= 30
    weights = nn.Conv1d(1, 2, kernel_size=9, padding=4)
    torch.save(weights.state_dict(), tmp_path / "own.pt")
    done = label(dataset, f"own_teacher:load={tmp_path / 'own.pt'}")
    assert done.returncode == 0, done.stderr
    assert verify(dataset) == ()
    opened = Dataset.open(dataset)
    (audio,) = opened.audio_shards("strong", AudioSpec().name)
    (labels,) = opened.label_shards("strong", "own")
    assert labels.provenance["teacher"]["family"] == "own_teacher:load"
    digest = hashlib.sha256((tmp_path / "own.pt").read_bytes()).hexdigest()
    assert labels.provenance["teacher"]["checkpoint_sha256"] == digest
    with AudioReader(audio) as clips, LabelReader(labels) as stored, torch.no_grad():
        for row in range(len(audio.clips)):
            waveform = np.zeros(160_000, dtype=np.float32)
            waveform_into(waveform, clips.read(row))
            power = (waveform.astype(np.float64).reshape(250, 640) ** 2).mean(axis=1)
            expected = weights(torch.from_numpy(np.log10(power + 1e-9).astype(np.float32))[None, None])[0]
            np.testing.assert_allclose(stored.read(row), expected.numpy(), atol=4e-3)  # float16


def test_what_else_a_teacher_may_state() -> None:
    """As docs/teachers.md lists it."""
    power = FrontEnd("power", lambda waveforms: waveforms.unflatten(1, (1, -1, 640)).square().mean(dim=3))

    class Full(Teacher):
        def __init__(self) -> None:
            super().__init__(
                audio_spec=AudioSpec(), vocabulary=Vocabulary(("/m/1", "/m/2"), ("One", "Two")), provenance={},
                device=torch.device("cpu"), protocol="clip", front_end=power, contexts_ms=(10_000, 4_000),
            )  # fmt: skip
            self.model = nn.Conv1d(1, 2, kernel_size=9, padding=4)

        def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
            return self.model(features.to(self.model.weight.dtype))

        def _clip_logits(self, features: Tensor, frames: int) -> Tensor:
            return self._frame_logits(features, frames).mean(dim=2)

        def _cast(self, precision: str) -> None:
            self.model.to(PRECISIONS[precision])

    teacher = Full()
    clip = torch.linspace(-1, 1, 160_000)[None]
    frames = teacher.frame_logits(clip)
    torch.testing.assert_close(teacher.clip_logits(clip), frames.mean(dim=2))
    assert Chunked(teacher, 4_000).frame_logits(clip).shape == (1, 2, 250)
    assert (teacher.protocol, teacher.provenance["front_end"]) == ("clip", "power")
    teacher.use_precision("bfloat16")
    halved = teacher.frame_logits(clip)
    assert halved.dtype == torch.float32
    assert 0 < float((halved - frames).abs().max()) < 0.02


def test_without_its_file_it_says_what_it_needs(dataset: Path) -> None:
    done = label(dataset, "own_teacher:load")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "error: own_teacher:load needs the weights; give own_teacher:load=own.pt"
    )
