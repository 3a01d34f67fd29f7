"""The lag of frame labels, against loops over frames and known shifts."""

import numpy as np
import numpy.typing as npt
import pytest

from shards.foreign._lag import LAG_FRAMES, lag_curve, summarise

Frames = npt.NDArray[np.float32]


def example(seed: int, lag: int, valid: int = 250, noise: float = 0.1) -> tuple[Frames, Frames]:
    """Labels of 12 classes, four of them active, late by `lag`; and truth."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((12, 400), np.float32)
    for row in range(4):
        onset = int(rng.integers(60, 200))
        truth[row, onset : onset + int(rng.integers(15, 80))] = 1
    labels = np.clip(np.roll(truth, lag, axis=1) * 0.8 + rng.normal(0.1, noise, truth.shape), 0, 1)
    return labels[:, 50 : 50 + 250].astype(np.float32), truth[:, 50 : 50 + 250]


def brute_force(labels: Frames, truth: Frames, valid: int, lag: int) -> float:
    spread = truth[:, :valid].std(axis=1)
    classes = [c for c in sorted(range(len(truth)), key=lambda c: -spread[c])[:10] if spread[c] > 0.05]
    top = bottom_ours = bottom_theirs = 0.0
    for c in classes:
        pairs = [(labels[c, t + lag], truth[c, t]) for t in range(valid) if 0 <= t + lag < valid]
        a, b = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
        top += ((a - a.mean()) * (b - b.mean())).sum()
        bottom_ours += ((a - a.mean()) ** 2).sum()
        bottom_theirs += ((b - b.mean()) ** 2).sum()
    return top / np.sqrt(bottom_ours * bottom_theirs) if bottom_ours * bottom_theirs > 0 else 0.0


@pytest.mark.parametrize(("valid", "lag"), [(250, 0), (250, -7), (213, 31), (104, 2)])
def test_curve_is_the_correlation_at_every_lag(valid: int, lag: int) -> None:
    labels, truth = example(valid + lag, lag)
    curve = lag_curve(labels, truth, valid)
    assert curve is not None
    for place, shift in enumerate(range(-LAG_FRAMES, LAG_FRAMES + 1)):
        if valid - abs(shift) < 50:
            assert np.isnan(curve[place])
        else:
            assert curve[place] == pytest.approx(brute_force(labels, truth, valid, shift), abs=1e-5)


@pytest.mark.parametrize("lag", [-40, -3, 0, 1, 2, 17])
def test_a_shared_lag_is_found_in_noise(lag: int) -> None:
    curves = [lag_curve(*example(seed, lag, noise=0.4), valid=250) for seed in range(30)]
    found = summarise([str(i) for i in range(30)], [curve for curve in curves if curve is not None], "truth")
    assert found.clips == 30
    assert abs(found.lag_ms - lag * 40) <= 10
    assert found.quantiles_ms[2] == lag * 40
    assert found.enough


def test_clips_that_lie_elsewhere_are_named() -> None:
    lags = [0] * 27 + [12, -30, 1]
    curves = [lag_curve(*example(seed, lag), valid=250) for seed, lag in enumerate(lags)]
    found = summarise([f"clip {i}" for i in range(30)], [curve for curve in curves if curve is not None], "truth")
    assert found.lag_ms == pytest.approx(0, abs=5)
    assert (found.outliers, dict(found.outlier_keys)) == (2, {"clip 27": 480, "clip 28": -1200})


def test_what_says_nothing_of_time_has_no_curve() -> None:
    labels, truth = example(0, 0)
    assert lag_curve(labels, np.zeros_like(truth), 250) is None
    assert lag_curve(labels, np.ones_like(truth), 250) is None
    assert lag_curve(labels, truth, 99) is None
    assert not summarise([], [], "truth").enough


def test_labels_without_relation_are_not_enough() -> None:
    rng = np.random.default_rng(2)
    curves = [lag_curve(rng.random((12, 250)).astype(np.float32), example(seed, 0)[1], valid=250) for seed in range(50)]
    assert not summarise([""] * 50, [curve for curve in curves if curve is not None], "truth").enough
