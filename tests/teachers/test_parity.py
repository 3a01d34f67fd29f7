"""BEATs against what the published reference code computes with the same weights."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from teachers import BeatsTeacher, beats_features, load_teacher
from tests.teachers.conftest import PARITY, parity_checkpoint, parity_rules

CLIPS = ("events", "noise_then_silence", "short_padded")
LOGITS = 1e-3
FEATURES = 1e-4


def outputs(teacher: BeatsTeacher, waveforms: torch.Tensor) -> dict[str, np.ndarray]:
    """What a fixture states, of one clip [1, 160000]."""
    if teacher.provenance["layout"] == "pretrained_sed":
        return {
            "strong_logits": teacher.frame_logits(waveforms)[0].numpy(),
            "weak_logits": teacher.clip_logits(waveforms)[0].numpy(),
        }
    with torch.inference_mode():
        tokens = teacher.model.token_logits(beats_features(waveforms))[0]
    return {"token_logits": tokens.numpy(), "clip_probs": teacher.clip_logits(waveforms)[0].sigmoid().numpy()}


def read_clip(path: Path) -> torch.Tensor:
    pcm, rate = soundfile.read(path, dtype="int16")
    assert (rate, len(pcm)) == (16_000, 160_000)
    return torch.from_numpy(pcm.astype(np.float32) / 32768)[None]


@pytest.mark.parametrize("name", ["BEATs", "unilm_BEATs_finetuned"])
def test_sampled_outputs(name: str, tmp_path: Path) -> None:
    rules = parity_rules(name)
    torch.save(parity_checkpoint(rules), tmp_path / "beats.pt")
    teacher = load_teacher("beats", checkpoint=tmp_path / "beats.pt")
    got = outputs(teacher, read_clip(PARITY / "short_padded.flac"))
    assert got.keys() == rules["expected"].keys()
    for output, want in rules["expected"].items():
        assert list(got[output].shape) == want["shape"]
        np.testing.assert_allclose(got[output].ravel()[want["positions"]], want["values"], atol=LOGITS, rtol=0)


@pytest.mark.parametrize("name", ["BEATs", "unilm_BEATs_finetuned"])
def test_full_fixture(name: str, shared: Path, tmp_path: Path) -> None:
    folder = shared / "parity"
    torch.save(make_checkpoint(folder, name), tmp_path / "beats.pt")
    teacher = load_teacher("beats", checkpoint=tmp_path / "beats.pt")
    assert isinstance(teacher, BeatsTeacher)
    if name.startswith("unilm"):
        label_dict = json.loads((folder / f"{name}.tensors.json").read_text())["label_dict"]
        assert list(teacher.vocabulary.mids) == label_dict
    with np.load(folder / f"{name}.expected.npz") as expected:
        for clip in CLIPS:
            waveform = read_clip(folder / "inputs" / f"{clip}.wav")
            for output, got in outputs(teacher, waveform).items():
                np.testing.assert_allclose(got, expected[f"{clip}.{output}"], atol=LOGITS, rtol=0)


def test_features(shared: Path) -> None:
    features = beats_features(read_clip(shared / "parity" / "inputs" / "events.wav"))[0].numpy()
    with np.load(shared / "parity" / "BEATs.expected.npz") as expected:
        np.testing.assert_allclose(features, expected["events.features"][0].T, atol=FEATURES, rtol=0)


def make_checkpoint(folder: Path, name: str) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("make_checkpoint", folder / "make_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(str(folder / f"{name}.tensors.json"))
