"""The compiled encoder of labels against the one of NumPy, byte for byte; what both count with against plain ones."""

import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.codecs import _compiled
from shards.codecs._label import encode_label, guarantee
from shards.codecs._label_fit import fit_levels, holds
from shards.codecs._label_levels import MAX_LOGIT, levels
from shards.codecs._label_runs import decode_codes, encode_runs
from shards.codecs._label_units import PER_LOGIT, one_of, sigmoid_table, units_of
from tests.shards.kernel_ways import SAME_EXAMPLES, WAYS
from tests.shards.test_label_codec import labels, sigmoid

LOSSY = ("faithful", "small")


def in_each_way(monkeypatch, native, encode):
    """What `encode` gives with the kernels, with those for any processor, and without."""
    found = []
    for way in WAYS:
        with monkeypatch.context() as patch:
            patch.setattr(_compiled, "native", None if way == "fallback" else native)
            native.portable(way == "portable")
            try:
                found.append(encode())
            finally:
                native.portable(False)
    return found


def assert_same_bytes(monkeypatch, native, logits, codec, kind="logit"):
    logits = np.asarray(logits, np.float32)
    contents = in_each_way(
        monkeypatch, native, lambda: encode_label(logits, shape=logits.shape, kind=kind, codec=codec)
    )
    assert contents[0] == contents[2]
    assert contents[1] == contents[2]
    return contents[0]


@pytest.mark.parametrize("codec", LOSSY)
@SAME_EXAMPLES
@given(logits=labels(), kind=st.sampled_from(("logit", "logit", "probability")))
def test_any_labels(native, monkeypatch, codec, logits, kind):
    values = sigmoid(logits) if kind == "probability" else logits
    assert_same_bytes(monkeypatch, native, values, codec, kind)
    assert_same_bytes(monkeypatch, native, values[0], codec, kind)


@pytest.mark.parametrize("codec", LOSSY)
@SAME_EXAMPLES
@given(draw=st.data())
def test_labels_where_choices_are_close(native, monkeypatch, codec, draw):
    """Levels, the middle between two, where their reach ends, and neighbours of these in float32; runs alike."""
    table = levels(codec)
    between = (table.kept[1:] + table.kept[:-1]) / 2
    ends = np.flatnonzero(np.diff(table.reaches.astype(int), axis=0).any(axis=1)) / 2048 - MAX_LOGIT
    picked = [table.logits, table.keeps * (np.log(between) - np.log1p(-between)), ends, ends + 1 / 4096]
    values = np.concatenate([*picked, [0.0, -0.0, MAX_LOGIT, -MAX_LOGIT, 60000.0]]).astype(np.float32)
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32)))
    rows, frames = draw.draw(st.integers(1, 20)), draw.draw(st.sampled_from((1, 3, 50, 256, 257, 700)))
    few = rng.choice(values, draw.draw(st.integers(1, 6)))
    near = np.nextafter(few, np.float32(draw.draw(st.sampled_from((-99, 99)))))
    runs = np.repeat(rng.choice(np.concatenate((few, near)), (rows, frames)), draw.draw(st.integers(1, 9)), axis=1)
    assert_same_bytes(monkeypatch, native, runs[:, :frames], codec)


@pytest.mark.parametrize("codec", LOSSY)
def test_real_labels(native, monkeypatch, shared, codec):
    with np.load(shared / "data" / "real_logits.npz") as stored:
        clips = list(stored["logits"][:12].astype(np.float32))
    for path in sorted((shared / "parity").glob("*.npz")):
        with np.load(path) as stored:
            clips += [a.astype(np.float32) for name in stored.files if (a := stored[name]).shape == (447, 250)]
    for clip in clips:
        assert_same_bytes(monkeypatch, native, clip, codec)


def test_cells_of_a_single_row_that_are_open_are_used(native, monkeypatch):
    """Its transpose is the row itself: what is done to one in place is done to the other."""
    row = np.where(np.arange(257) % 2, 23.595562, 23.695562)[None]
    assert_same_bytes(monkeypatch, native, row, "faithful")


def test_a_long_row(native, monkeypatch):
    """Of runs too long to be stated."""
    rng = np.random.default_rng(0)
    line = np.repeat(rng.choice(np.array([-24, -7, 0.01, 24], np.float32), 60), 500)
    line[::97] += rng.normal(0, 0.05, len(line[::97])).astype(np.float32)
    for codec in LOSSY:
        assert_same_bytes(monkeypatch, native, line, codec)


@pytest.mark.parametrize("frames", [1, 7, 250, 4096])
@pytest.mark.parametrize("keeps", [1, 2])
def test_units_are_the_numbers_that_are_meant(frames, keeps):
    rng = np.random.default_rng(frames)
    logits = np.clip(rng.normal(-6, 8, (30, frames)), -MAX_LOGIT, MAX_LOGIT).astype(np.float32)
    units, x = units_of(logits, keeps), logits.astype(np.float64) / keeps
    p, entropy = sigmoid(x), np.logaddexp(0, x) - sigmoid(x) * x
    half = 0.51 / units.one
    assert np.abs(units.logit / units.one - x).max() <= half
    off = np.abs(units.probability / (units.one * PER_LOGIT) - p)
    assert np.all(off <= half / PER_LOGIT + (half + 1e-11) * np.minimum(p, 1 - p) + 1e-16)
    assert np.all(np.abs(units.given / units.one - p * x) <= 40 * half + 1e-11 * np.abs(p * x))
    assert np.all(np.abs(units.loss / units.one - entropy) <= 40 * half + 1e-6 * entropy)


@pytest.mark.parametrize("frames", [1, 250, 1 << 22])
def test_sums_of_units_do_not_depend_on_their_order(frames):
    one = one_of(frames)
    most = frames * (Fraction(MAX_LOGIT) * Fraction(one) + 1)
    assert 2 * most + frames <= 2**53
    assert frames * PER_LOGIT * one <= 2**53
    assert 4 * frames * MAX_LOGIT * one > 2**50, "a smaller unit would do"


@pytest.mark.parametrize("codec", LOSSY)
def test_levels_within_reach_are_within_the_guarantee(codec):
    """What the encoder holds every cell of a label to."""
    table, promised = levels(codec), guarantee(codec)
    lowest, highest = table.reaches.T.astype(int)
    quiet = lowest < table.quiet
    outermost = table.logits.astype(np.float64)[np.clip([lowest - quiet, highest + quiet], 0, len(table.logits) - 1)]
    assert len(lowest) == 2 * MAX_LOGIT * 2048 + 1
    for side in (-0.55, 0.55):  # of a bin, and some more for the rounding of its number
        x = np.clip((np.arange(len(lowest)) + side) / 2048 - MAX_LOGIT, -MAX_LOGIT, MAX_LOGIT)
        assert np.abs(outermost - x).max() <= promised.max_logit_error
        for temperature, error in promised.max_probability_error.items():
            assert np.abs(sigmoid(outermost / temperature) - sigmoid(x / temperature)).max() <= error - 1e-6
    assert promised.max_row_loss_change is None or table.keeps == 1


@pytest.mark.parametrize("codec", LOSSY)
def test_a_level_out_of_reach_is_not_held(way, codec):
    rng = np.random.default_rng(5)
    logits = np.clip(np.cumsum(rng.normal(0, 0.3, (20, 250)), axis=1) - 6, -MAX_LOGIT, MAX_LOGIT).astype(np.float32)
    table, promised = levels(codec), guarantee(codec)
    fitted = fit_levels(logits, table)
    assert holds(logits, fitted.levels, fitted, table, promised)
    lowest, highest = table.reach(logits)
    for row, frame in rng.integers((20, 250), size=(20, 2)):
        for level in (lowest[row, frame] - 2, highest[row, frame] + 2):
            wrong = fitted.levels.copy()
            wrong[row, frame] = level
            assert not holds(logits, wrong, fitted, table, promised)
    if promised.max_row_loss_change is not None:
        quiet = int(np.argmin(logits.max(axis=1)))
        wrong = fitted.levels.copy()
        wrong[quiet] = highest[quiet]
        assert not holds(logits, wrong, fitted, table, promised)


@SAME_EXAMPLES
@given(draw=st.data())
def test_runs_of_any_levels(native, monkeypatch, draw):
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32)))
    rows, frames = draw.draw(st.integers(1, 9)), draw.draw(st.sampled_from((1, 2, 14, 15, 16, 255, 256, 257, 271, 900)))
    top = draw.draw(st.sampled_from((1, 3, 20, 32767)))
    found = rng.integers(0, top + 1, (rows, frames)) * (rng.random((rows, frames)) < draw.draw(st.floats(0, 1)))
    found = np.repeat(found, draw.draw(st.sampled_from((1, 3, 300))), axis=1).astype(np.uint16)
    contents = in_each_way(monkeypatch, native, lambda: encode_runs(found))
    assert contents[0] == contents[1] == contents[2]
    np.testing.assert_array_equal(decode_codes(memoryview(contents[0]), 32768, found.shape, "here"), found)


def test_threads_encode_the_same_bytes(native):
    rng = np.random.default_rng(0)
    clips = [np.cumsum(rng.normal(-0.02, 0.3, (60, 250)), axis=1).astype(np.float32) for _ in range(40)]

    def encode(clip: np.ndarray) -> bytes:
        return encode_label(clip, shape=clip.shape, kind="logit", codec="small")

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(encode, clips)) == [encode(clip) for clip in clips]


def test_arguments_of_the_kernels_have_to_fit(native):
    table, promised = levels("small"), guarantee("small")
    logits = np.zeros((3, 5), np.float32)
    sums = np.empty(3), np.empty(3)

    def fit(values=logits, rows=3, frames=5, reaches=table.reaches, kept=table.kept, sigmoid=None, keeps=1, out=None):
        sigmoid = sigmoid_table() if sigmoid is None else sigmoid
        out = np.empty((3, 5), np.uint16) if out is None else out
        native.fit_levels(values, rows, frames, reaches, kept, sigmoid, keeps, table.quiet, out, *sums)

    fit()
    high = np.full_like(table.reaches, 32767)
    for wrong in (
        {"values": np.full((3, 5), np.nan, np.float32)},
        {"values": np.full((3, 5), 24.1, np.float32)},
        {"values": np.zeros((3, 5), np.float64)},
        {"rows": 4},
        {"rows": 0},
        {"frames": 1 << 40, "rows": 1 << 40},
        {"reaches": table.reaches[:-1]},
        {"reaches": high},
        {"reaches": -high},
        {"kept": table.kept[:3]},
        {"kept": np.zeros(1 << 15)},
        {"sigmoid": sigmoid_table()[:-1]},
        {"keeps": 0},
        {"out": np.empty((3, 4), np.uint16)},
    ):
        with pytest.raises(ValueError, match=r"logits are not|no label"):
            fit(**wrong)
    codes = np.zeros((3, 5), np.uint16)

    def hold(
        values=logits, rows=3, reaches=table.reaches, probabilities=table.probabilities, codes=codes, given=sums[0]
    ):
        loss = 0.01, promised.row_loss_floor
        return native.holds(values, rows, 5, reaches, probabilities, table.quiet, codes, given, sums[1], *loss)

    assert not hold()
    assert not hold(codes=np.full((3, 5), 65535, np.uint16))
    for wrong in (
        {"values": np.full((3, 5), np.inf, np.float32)},
        {"rows": 2},
        {"rows": -1},
        {"reaches": table.reaches[1:]},
        {"probabilities": np.empty(0, np.float32)},
        {"codes": codes[1:]},
        {"given": np.empty(2)},
    ):
        with pytest.raises(ValueError, match=r"logits are not|no label"):
            hold(**wrong)
    for found, tokens, side in ((codes[1:], 15, 45), (codes, 14, 45), (codes, 15, 44), (codes + 32768, 15, 45)):
        with pytest.raises(ValueError, match="levels are not"):
            native.encode_runs(found, 3, 5, np.empty(tokens, np.uint8), np.empty(side, np.uint8))
    assert math.isfinite(sums[0][0])
