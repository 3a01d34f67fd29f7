"""Every family against what the published reference code computes with the same weights."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from teachers import Teacher, load_teacher
from teachers.families._strong import StrongModel
from tests.teachers.conftest import PARITY, parity_checkpoint, parity_rules

# Fixture -> family.
TEACHERS = {
    "BEATs": "beats",
    "unilm_BEATs_finetuned": "beats",
    "ATST-F": "atst",
    "fpasst": "fpasst",
    "M2D": "m2d",
    "ASIT": "asit",
}
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
        tokens = teacher.model.token_logits(teacher.front_end.compute(waveforms))[0]
    return {"token_logits": tokens.numpy(), "clip_probs": teacher.clip_logits(waveforms)[0].sigmoid().numpy()}


def in_one_pass(teacher: Teacher, features: torch.Tensor) -> dict[str, np.ndarray]:
    """The same at half the time, once the test below has held `frame_logits` and `clip_logits` to the fixture."""
    with torch.inference_mode():
        if isinstance(teacher.model, StrongModel):
            frames = teacher.model.frames(features, 250)[0]
            strong, weak = teacher.model.strong_head(frames).t(), teacher.model.weak_head(frames.mean(dim=0))
            return {"strong_logits": strong.numpy(), "weak_logits": weak.numpy()}
        tokens = teacher.model.token_logits(features)[0]
        return {"token_logits": tokens.numpy(), "clip_probs": tokens.mean(dim=0).sigmoid().numpy()}


def read_clip(path: Path) -> torch.Tensor:
    pcm, rate = soundfile.read(path, dtype="int16")
    assert (rate, len(pcm)) == (16_000, 160_000)
    return torch.from_numpy(pcm.astype(np.float32) / 32768)[None]


@pytest.fixture(scope="module", params=TEACHERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Teacher]:
    """A full-size checkpoint, written to a file by the rules and loaded as a user's would be."""
    path = tmp_path_factory.mktemp("parity") / "teacher.pt"
    torch.save(parity_checkpoint(parity_rules(request.param)), path)
    teacher = load_teacher(TEACHERS[request.param], checkpoint=path)
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
            features = teacher.front_end.compute(read_clip(shared / "parity" / "inputs" / f"{clip}.wav"))
            if f"{clip}.features" in expected:
                want = torch.from_numpy(expected[f"{clip}.features"])
                # The fixtures have frequency first; models of patches take time first.
                want = want.transpose(1, 2) if want.shape != features.shape else want
                torch.testing.assert_close(features, want, atol=FEATURES, rtol=0)
            for output, got in in_one_pass(teacher, features).items():
                np.testing.assert_allclose(got, expected[f"{clip}.{output}"], atol=LOGITS, rtol=0)
