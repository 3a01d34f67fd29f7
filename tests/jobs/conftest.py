"""Recordings to pack, and one embedded Ray for all tests that need it (starting one takes seconds)."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jobs._ray import ray_session

# Worker processes import the stages of these tests by name.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def embedded_ray() -> Iterator[None]:
    pytest.importorskip("ray")
    with ray_session(None, cpus=2):
        yield


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 recordings: 20 sound ones of several rates and lengths in two folders, one long, one empty, one tiny."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng([7, 1])
    (folder / "a").mkdir()
    (folder / "b ü").mkdir()
    for number in range(20):
        rate = (16_000, 44_100, 48_000, 8_000)[number % 4]
        audio = rng.normal(0, 0.1, (rate * (number % 5 + 1) // 2, 1 + number % 2)).clip(-1, 1)
        soundfile.write(folder / ("a", "b ü")[number % 2] / f"clip {number:02d}.wav", audio, rate, subtype="PCM_16")
    soundfile.write(folder / "long.flac", rng.normal(0, 0.1, 16_000 * 23).clip(-1, 1), 16_000)
    soundfile.write(folder / "tiny.wav", np.zeros(100), 16_000)
    (folder / "empty.wav").touch()
    return folder
