"""BEATs against what the published reference code computes with the same weights."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from teachers import Teacher, beats_features, load_teacher
from teachers.families._beats_teacher import StrongBeats
from tests.teachers.conftest import PARITY, parity_checkpoint, parity_rules

CLIPS = ("events", "noise_then_silence", "short_padded")
LOGITS = 1e-3
FEATURES = 1e-4


def outputs(teacher: Teacher, waveforms: torch.Tensor) -> dict[str, np.ndarray]:
    """What a fixture states, of one clip [1, 160000]."""
    if teacher.provenance["layout"] == "pretrained_sed":
        return {
            "strong_logits": teacher.frame_logits(waveforms)[0].numpy(),
            "weak_logits": teacher.clip_logits(waveforms)[0].numpy(),
        }
    with torch.inference_mode():
        tokens = teacher.model.token_logits(beats_features(waveforms))[0]
    return {"token_logits": tokens.numpy(), "clip_probs": teacher.clip_logits(waveforms)[0].sigmoid().numpy()}


def in_one_pass(teacher: Teacher, waveforms: torch.Tensor) -> dict[str, np.ndarray]:
    """The same at half the time, once the test above has held `frame_logits` and `clip_logits` to the fixture."""
    with torch.inference_mode():
        if isinstance(teacher.model, StrongBeats):
            frames = teacher.model.frames(beats_features(waveforms), 250)[0]
            strong, weak = teacher.model.strong_head(frames).t(), teacher.model.weak_head(frames.mean(dim=0))
            return {"strong_logits": strong.numpy(), "weak_logits": weak.numpy()}
        tokens = teacher.model.token_logits(beats_features(waveforms))[0]
        return {"token_logits": tokens.numpy(), "clip_probs": tokens.mean(dim=0).sigmoid().numpy()}


def read_clip(path: Path) -> torch.Tensor:
    pcm, rate = soundfile.read(path, dtype="int16")
    assert (rate, len(pcm)) == (16_000, 160_000)
    return torch.from_numpy(pcm.astype(np.float32) / 32768)[None]


@pytest.fixture(scope="module", params=["BEATs", "unilm_BEATs_finetuned"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Teacher]:
    """A full-size checkpoint, written to a file by the rules and loaded as a user's would be."""
    path = tmp_path_factory.mktemp("parity") / "beats.pt"
    torch.save(parity_checkpoint(parity_rules(request.param)), path)
    teacher = load_teacher("beats", checkpoint=path)
    path.unlink()
    return request.param, teacher


def test_sampled_outputs(model: tuple[str, Teacher]) -> None:
    name, teacher = model
    expected = parity_rules(name)["expected"]
    got = outputs(teacher, read_clip(PARITY / "short_padded.flac"))
    assert got.keys() == expected.keys()
    for output, want in expected.items():
        assert list(got[output].shape) == want["shape"]
        np.testing.assert_allclose(got[output].ravel()[want["positions"]], want["values"], atol=LOGITS, rtol=0)


def test_full_fixture(model: tuple[str, Teacher], shared: Path) -> None:
    name, teacher = model
    with np.load(shared / "parity" / f"{name}.expected.npz") as expected:
        for clip in CLIPS:
            waveform = read_clip(shared / "parity" / "inputs" / f"{clip}.wav")
            for output, got in in_one_pass(teacher, waveform).items():
                np.testing.assert_allclose(got, expected[f"{clip}.{output}"], atol=LOGITS, rtol=0)


def test_features(shared: Path) -> None:
    features = beats_features(read_clip(shared / "parity" / "inputs" / "events.wav"))[0].numpy()
    with np.load(shared / "parity" / "BEATs.expected.npz") as expected:
        np.testing.assert_allclose(features, expected["events.features"][0].T, atol=FEATURES, rtol=0)
