"""Half precision at full size stays inside what the label codec may cost: its own errors are 0.004 and 1e-4."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from teachers import Teacher, load_teacher
from tests.teachers.conftest import PARITY, parity_checkpoint, parity_rules


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("precision") / "beats.pt"
    torch.save(parity_checkpoint(parity_rules("BEATs")), path)
    return path


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    pcm, _ = soundfile.read(PARITY / "short_padded.flac", dtype="int16")
    return torch.from_numpy(pcm.astype(np.float32) / 32768)[None]


def test_float16_is_inside_the_budget_and_bfloat16_is_not(checkpoint: Path, clip: torch.Tensor) -> None:
    """The weights alone, rounded to bfloat16's 8 bits, cost more than the budget: documented, not hidden."""

    def probabilities(teacher: Teacher) -> torch.Tensor:
        return teacher.frame_logits(clip).double().sigmoid()

    want = probabilities(load_teacher("beats", checkpoint=checkpoint))
    error = {
        precision: (probabilities(load_teacher("beats", checkpoint=checkpoint, precision=precision)) - want).abs()
        for precision in ("float16", "bfloat16")
    }
    assert 0 < float(error["float16"].max()) < 0.004
    assert 0 < float(error["float16"].mean()) < 1e-4
    assert 0.004 < float(error["bfloat16"].max()) < 0.03
