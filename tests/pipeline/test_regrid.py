"""Grids and regridding against brute force: every frame cut into the finest pieces that any border makes."""

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import Grid, GridRule, UsageError, regrid

HOPS = st.one_of(
    st.sampled_from([Fraction(10), Fraction(40), Fraction(64), Fraction(100), Fraction(125, 2), Fraction(1000)]),
    st.integers(1, 400).map(lambda frames: Fraction(10_000, frames)),
    st.builds(Fraction, st.integers(20_000, 9_000_000), st.just(1000)),
)
RULES = st.sampled_from(["mean", "max"])


def by_hand(values: list[float], hop_ms: int, grid: Grid, valid: int) -> list[float]:
    """Each frame of the grid out of its exact overlaps with the label frames around it."""
    made = []
    for frame in range(grid.count):
        start, end = frame * grid.hop, min((frame + 1) * grid.hop, Fraction(grid.clip_ms))
        around = range(max(int(start / hop_ms) - 1, 0), min(int(end / hop_ms) + 2, valid))
        overlaps = {n: min(end, (n + 1) * hop_ms) - max(start, n * hop_ms) for n in around}
        touched = [(float(shared), values[n]) for n, shared in overlaps.items() if shared > 0]
        if grid.rule == "max":
            made.append(max((value for _, value in touched), default=0.0))
        else:
            total = math.fsum(shared for shared, _ in touched)
            made.append(math.fsum(shared * value for shared, value in touched) / total if touched else 0.0)
    return made


def regridded(values: np.ndarray, hop_ms: int, grid: Grid, valid: int | None = None) -> np.ndarray:
    out = np.full((*values.shape[:-1], grid.count), np.nan, dtype=np.float32)
    regrid(values, hop_ms, grid, out, valid=valid)
    return out


@given(
    hop_in=st.sampled_from([40, 20, 160, 250, 2000, 4000]),
    hop=HOPS,
    rule=RULES,
    short=st.integers(0, 250),
    seed=st.integers(0, 9),
)
@example(hop_in=40, hop=Fraction(64), rule="mean", short=60, seed=0)
@example(hop_in=40, hop=Fraction(10_000, 156), rule="mean", short=1, seed=0)
@settings(max_examples=60, deadline=None)
def test_against_exact_overlaps(hop_in: int, hop: Fraction, rule: GridRule, short: int, seed: int) -> None:
    grid = Grid(hop_ms=hop, rule=rule)
    frames = math.ceil(Fraction(10_000, hop_in))
    valid = max(frames - short, 0)
    values = np.random.default_rng(seed).random((2, frames), dtype=np.float32)
    values[:, valid:] = np.nan  # what lies behind the audio must not be heard
    got = regridded(values, hop_in, grid, valid)
    for row in range(2):
        wanted = by_hand(values[row].tolist(), hop_in, grid, valid)
        # Sums in float32: each label frame in a mean may cost a rounding.
        np.testing.assert_allclose(got[row], wanted, rtol=1.2e-7 * (3 + hop / hop_in) if rule == "mean" else 0)
    labelled = grid.labelled_frames(valid, hop_in)
    assert not got[:, labelled:].any()
    assert labelled == sum(frame * grid.hop < valid * hop_in for frame in range(grid.count))


@pytest.mark.parametrize("rule", ["mean", "max"])
@pytest.mark.parametrize("hop_ms", [10, 64, 100, 125, 370])
def test_against_a_clip_drawn_at_1_ms(hop_ms: int, rule: GridRule) -> None:
    values = np.random.default_rng(1).random((3, 250), dtype=np.float32)
    drawn = np.repeat(values.astype(np.float64), 40, axis=1)
    grid = Grid(hop_ms=hop_ms, rule=rule)
    pieces = [drawn[:, start : start + hop_ms] for start in range(0, 10_000, hop_ms)]
    wanted = np.stack([getattr(piece, rule)(axis=1) for piece in pieces], axis=1)
    assert grid.count == len(pieces)
    np.testing.assert_allclose(regridded(values, 40, grid), wanted, rtol=1e-6)


@pytest.mark.parametrize("rule", ["mean", "max"])
def test_an_equal_grid_keeps_every_bit(rule: GridRule) -> None:
    values = np.random.default_rng(2).random((447, 250), dtype=np.float32)
    for grid in (Grid(hop_ms=40, rule=rule), Grid(frames=250, rule=rule)):
        assert regridded(values, 40, grid).tobytes() == values.tobytes()
    short = regridded(values, 40, Grid(hop_ms=40, rule=rule), 100)
    assert short[:, :100].tobytes() == values[:, :100].tobytes()
    assert not short[:, 100:].any()


@pytest.mark.parametrize("rule", ["mean", "max"])
def test_a_finer_grid_repeats(rule: GridRule) -> None:
    values = np.random.default_rng(3).random((5, 250), dtype=np.float32)
    assert np.array_equal(regridded(values, 40, Grid(hop_ms=10, rule=rule)), np.repeat(values, 4, axis=1))
    chunks = np.array([[0.25, 0.5, 1.0]], dtype=np.float32)
    assert np.array_equal(regridded(chunks, 4000, Grid(hop_ms=40, rule=rule)), np.repeat(chunks, 100, axis=1)[:, :250])


def test_a_chunk_that_reaches_over_the_end_counts_by_what_lies_within() -> None:
    chunks = np.array([0.0, 0.0, 1.0], dtype=np.float32)
    assert regridded(chunks, 4000, Grid(frames=1)).tolist() == [pytest.approx(0.2)]
    assert regridded(chunks, 4000, Grid(frames=1, rule="max")).tolist() == [1.0]


@given(hop=HOPS, valid=st.integers(1, 250))
@settings(max_examples=80, deadline=None)
def test_the_mean_of_ones_is_one_and_no_mean_is_above_one(hop: Fraction, valid: int) -> None:
    grid = Grid(hop_ms=hop)
    ones = np.ones((1, 250), dtype=np.float32)
    assert (regridded(ones, 40, grid, valid)[:, : grid.labelled_frames(valid, 40)] == 1).all()
    near = np.nextafter(ones, 0) * np.random.default_rng(valid).choice([1, 0.5], 250).astype(np.float32)
    made = regridded(near, 40, grid, valid)
    assert made.max() <= 1
    assert made.min() >= 0


@given(hop=HOPS, samples=st.integers(0, 170_000), sample_rate=st.sampled_from([16_000, 24_000, 44_100]))
@settings(max_examples=150, deadline=None)
def test_frames_that_begin_on_audio_are_labelled(hop: Fraction, samples: int, sample_rate: int) -> None:
    grid = Grid(hop_ms=hop)
    length_ms = Fraction(samples * 1000, sample_rate)
    on_audio = sum(frame * hop < length_ms for frame in range(grid.count))
    for hop_in in (40, 4000):
        assert grid.labelled_frames(math.ceil(length_ms / hop_in), hop_in) >= on_audio


def test_what_a_grid_is_given_by() -> None:
    assert Grid(hop_ms=40) == Grid(hop_ms=40.0) == Grid(frames=250) == Grid(hop_ms=Fraction(40))
    assert Grid(hop_ms=40) != Grid(hop_ms=40, rule="max")
    assert (Grid(hop_ms=64).count, Grid(hop_ms=64).hop) == (157, 64)
    assert Grid(frames=156).hop == Fraction(10_000, 156)
    assert Grid(hop_ms=62.5).hop == Fraction(125, 2)
    assert Grid(hop_ms=1.1).hop == Fraction(11, 10)
    assert Grid(hop_ms=40, clip_ms=5000).count == 125
    grid = Grid(frames=156, rule="max")
    assert pickle.loads(pickle.dumps(grid)) == grid
    assert hash(grid) == hash(Grid(hop_ms=Fraction(2500, 39), rule="max"))


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        ({}, "give hop_ms, or frames"),
        ({"frames": 0}, "1 or more"),
        ({"hop_ms": 40, "frames": 251}, "has 250 frames, not 251"),
        ({"hop_ms": 0}, "1 to 10000 ms"),
        ({"hop_ms": 10_001}, "1 to 10000 ms"),
        ({"hop_ms": math.nan}, "needs a number"),
        ({"hop_ms": 10_000 / 156}, "give frames"),
        ({"hop_ms": 40, "rule": "min"}, "mean, max"),
        ({"hop_ms": 40, "clip_ms": 0}, "clips of 0 ms"),
        ({"frames": 10_001}, "1 to 10000 ms"),
    ],
)
def test_refusals(given_: dict[str, object], wanted: str) -> None:
    with pytest.raises(UsageError, match=wanted):
        Grid(**given_)  # type: ignore[arg-type]
