"""docs/own_teacher.py labels a split, as its first line says, and the labels are what its model says."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import AudioSpec, waveform_into
from shards import AudioReader, Dataset, LabelReader, verify
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


def test_without_its_file_it_says_what_it_needs(dataset: Path) -> None:
    done = label(dataset, "own_teacher:load")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "error: own_teacher:load needs the weights; give own_teacher:load=own.pt"
    )
