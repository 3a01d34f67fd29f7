"""The mel spectrogram in decibels against librosa, where librosa defines it, and against what it must not do."""

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline import UsageError
from pipeline.features import db_mel


def signals() -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    t = np.arange(16_000) / 16_000
    found = {
        "noise": 0.1 * rng.standard_normal(16_000),
        "loud tone": np.sin(2 * np.pi * 440 * t),
        "loud then quiet": np.where(t < 0.5, np.sin(2 * np.pi * 440 * t), 1e-5 * rng.standard_normal(16_000)),
        "quiet": 1e-4 * rng.standard_normal(16_000),
        "sweep": 0.5 * np.sin(2 * np.pi * (50 * t + 3900 * t**2)),
        "silence": np.zeros(16_000),
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def by_librosa(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
    power = librosa.feature.melspectrogram(
        y=waveform.astype(np.float64), sr=16_000, n_fft=1024, hop_length=160, n_mels=64, fmin=60, fmax=7_800, htk=True,
        norm=None, pad_mode="reflect", dtype=np.float64,
    )  # fmt: skip
    return librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=80).clip(-50, 80)


@pytest.mark.parametrize("name", signals())
def test_equals_librosa(name: str) -> None:
    waveform = signals()[name]
    decibels = db_mel(torch.from_numpy(waveform)[None])
    assert decibels.shape == (1, 64, 101)
    np.testing.assert_allclose(decibels[0].numpy(), by_librosa(waveform), rtol=0, atol=1e-3)


def test_the_range_ends_80_db_below_the_loudest_of_the_same_clip() -> None:
    """Published code takes the loudest of the batch, which would raise the floor of every quiet clip in it."""
    names = list(signals())
    together = db_mel(torch.from_numpy(np.stack(list(signals().values()))))
    floor = {name: float(together[place].min()) for place, name in enumerate(names)}
    assert floor["loud then quiet"] == pytest.approx(float(together[names.index("loud then quiet")].max()) - 80.0)
    assert floor["loud then quiet"] > -45.0
    assert floor["silence"] == floor["quiet"] == -50.0
    for place, waveform in enumerate(signals().values()):
        alone = db_mel(torch.from_numpy(waveform)[None])[0]
        torch.testing.assert_close(together[place], alone, atol=1e-4, rtol=0)


def test_ten_seconds_are_1001_columns() -> None:
    assert db_mel(torch.zeros(1, 160_000)).shape == (1, 64, 1001)


@pytest.mark.parametrize("shape", [(16_000,), (1, 512), (1, 1, 16_000)])
def test_refuses_what_is_no_batch_of_clips(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="513 samples or more"):
        db_mel(torch.zeros(shape))


def test_gradients_pass_whoever_asked_first() -> None:
    """The cached window and mel bank must not stay bound to the inference mode of an earlier call."""
    with torch.inference_mode():
        db_mel(torch.ones(1, 1_600))
    waveform = torch.from_numpy(signals()["noise"])[None].requires_grad_()
    db_mel(waveform).sum().backward()
    assert waveform.grad is not None
    # decibels grow by 20 / ln 10 d(ln gain) each: Euler's theorem for homogeneous functions
    assert float((waveform.grad * waveform.detach()).sum()) == pytest.approx(64 * 101 * 20 / np.log(10), rel=1e-3)
