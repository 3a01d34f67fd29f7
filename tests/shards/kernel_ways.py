"""What the tests of the kernels share: both ways to decode, clips, labels, and damage."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pipeline import AudioSpec, FormatError
from shards.codecs import _compiled

NATIVE_MODULE = _compiled.native
WAYS = ("native", "portable", "fallback")
MONO = AudioSpec(sample_rate=16_000, clip_ms=10_000)
FOA = AudioSpec(sample_rate=24_000, layout="foa", clip_ms=5_000)
SHAPE = (13, 250)
ZSTD = pa.Codec("zstd", compression_level=1)
SAME_EXAMPLES = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def on_both_ways(monkeypatch: pytest.MonkeyPatch, decode: Callable[[], object]) -> list[object]:
    """What `decode` gives, or the message of its FormatError, with the kernels and without."""
    found = []
    for module in (NATIVE_MODULE, None):
        with monkeypatch.context() as patch:
            patch.setattr(_compiled, "native", module)
            try:
                found.append(decode())
            except FormatError as error:
                found.append(str(error))
    return found


def signals(channels: int, samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng, time = np.random.default_rng(seed), np.arange(samples)
    phase = np.arange(channels)[:, None]
    made = {
        "noise": rng.integers(-32768, 32768, (channels, samples)),
        "silence": np.zeros((channels, samples)),
        "constant": np.full((channels, samples), -32768),
        "extremes": np.where(rng.integers(0, 2, (channels, samples)), 32767, -32768),
        "tone": np.rint(30_000 * np.sin(0.05 * time + phase)),
        "coarse": rng.integers(-100, 100, (channels, samples)) * 64,
        "opposite": np.rint(32_000 * np.sin(0.03 * time)) * (1 - 2 * (phase % 2)),
        "bursts": np.where(time // 500 % 2, rng.integers(-20_000, 20_000, (channels, samples)), 1),
    }
    return {name: value.astype(np.int16) for name, value in made.items()}


def damaged(content: bytes, draw: st.DataObject) -> bytes:
    """Flipped, overwritten, cut or lengthened somewhere."""
    at = draw.draw(st.integers(0, len(content) - 1) | st.integers(0, min(60, len(content) - 1)))
    kind = draw.draw(st.sampled_from(("flip", "fill", "cut", "insert", "append")))
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ draw.draw(st.integers(1, 255))]) + content[at + 1 :]
    if kind == "fill":
        length = draw.draw(st.integers(1, 64))
        return (content[:at] + draw.draw(st.sampled_from((b"\0", b"\xff"))) * length + content[at + length :])[
            : len(content)
        ]
    if kind == "cut":
        return content[:at]
    extra = draw.draw(st.binary(min_size=1, max_size=9))
    return content[:at] + extra + content[at:] if kind == "insert" else content + extra


def logits(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """Quiet for long, with bursts, so that runs are short and long and jump."""
    rng = np.random.default_rng(seed)
    slow = np.cumsum(rng.normal(0, 0.3, shape) * (rng.random(shape) < 0.2), axis=-1) - 6
    values = slow + 12 * (rng.random(shape) < 0.03)
    return values.clip(-30, 30).astype(np.float16).astype(np.float32)
