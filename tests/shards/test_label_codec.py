"""Label codecs against the guarantees they state, computed anew in float64, and against a decoder of plain loops."""

import hashlib
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import UsageError
from shards import LabelRefused
from shards.codecs._label import (
    LABEL_CODECS,
    decode_label,
    decode_label_checked,
    encode_label,
    guarantee,
    label_suffix,
    max_label_bytes,
)
from shards.codecs._label_levels import levels

LOSSY = ("faithful", "small")
FRAMES = 60
# Of the levels from 0 up in units of 1/4096, as int32: a table that changes makes stored labels say something else.
LEVELS_SHA256 = {
    "faithful": "deb07abfb03f04cb226723448de16d709bd10c0c6307b828ef64db721adda5e8",
    "small": "223747061c579b21e7547ba664e0f5569275d86ab830a574a56be8f08fd2f80e",
}


def sigmoid(logits):
    x = np.asarray(logits, np.float64)
    return np.where(x < 0, np.exp(-np.abs(x)), 1.0) / (1 + np.exp(-np.abs(x)))


def loss(target, logits):
    """-(q log p + (1 - q) log(1 - p)) of p = sigmoid(logits)."""
    x = np.asarray(logits, np.float64)
    return np.logaddexp(0, x) - target * x


def assert_held(codec, given_logits, decoded_logits, decoded_probabilities):
    promised = guarantee(codec)
    x = np.clip(np.asarray(given_logits, np.float64), -promised.max_logit, promised.max_logit)
    assert np.abs(decoded_logits - x).max() <= promised.max_logit_error
    for temperature, error in promised.max_probability_error.items():
        # Against what was given, not against what was clipped.
        difference = sigmoid(decoded_logits / temperature) - sigmoid(given_logits.astype(np.float64) / temperature)
        assert np.abs(difference).max() <= error
    np.testing.assert_allclose(decoded_probabilities, sigmoid(decoded_logits), rtol=0, atol=1e-6)
    if promised.max_row_loss_change is not None:
        rows = x.reshape(1, -1) if x.ndim == 1 else x
        was = loss(sigmoid(rows), rows).mean(axis=1)
        change = loss(decoded_probabilities.astype(np.float64).reshape(rows.shape), rows).mean(axis=1) - was
        allowed = np.maximum(promised.max_row_loss_change * was, promised.row_loss_floor)
        assert np.all(np.abs(change) <= allowed * 1.001 + 1e-9)


def check(codec, logits, kind="logit"):
    content = encode_label(logits, shape=logits.shape, kind=kind, codec=codec)
    assert len(content) <= max_label_bytes(logits.shape, codec)
    assert encode_label(logits.copy(), shape=logits.shape, kind=kind, codec=codec) == content
    decoded = decode_label(content)
    assert decoded.dtype == np.float32
    assert decoded.shape == logits.shape
    probabilities = decode_label(content, probabilities=True)
    if kind == "logit":
        assert_held(codec, logits, decoded, probabilities)
    else:
        np.testing.assert_array_equal(decoded, probabilities)
        assert np.abs(decoded.astype(np.float64) - logits).max() <= guarantee(codec).max_probability_error[1]
    return content


@st.composite
def labels(draw):
    """Logits [class, time] of many shapes: constant, walks, steps, ramps, spikes, noise, all of them huge at times."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, frames = draw(st.integers(1, 12)), draw(st.sampled_from((1, 2, 7, FRAMES, 250, 600)))
    base = rng.uniform(-20, 10, (rows, 1))
    size = draw(st.sampled_from((0.0, 1e-3, 0.1, 1.0, 10.0, 1e3)))
    form = draw(st.sampled_from(("noise", "walk", "steps", "ramp", "spike", "alternating", "interpolated")))
    noise = rng.normal(size=(rows, frames))
    shape = {
        "noise": noise,
        "walk": np.cumsum(noise, axis=1),
        "steps": np.sign(noise) * (rng.random((rows, frames)) < 0.05),
        "ramp": np.linspace(-1, 1, frames) * rng.normal(size=(rows, 1)),
        "spike": np.arange(frames) == rng.integers(0, frames, (rows, 1)),
        "alternating": np.where(np.arange(frames) % 2, 1, -1) * np.ones((rows, 1)),
        "interpolated": np.array([np.interp(np.arange(frames) / 4, np.arange(len(r[::4])), r[::4]) for r in noise]),
    }[form]
    return np.clip(base + size * shape, -65000, 65000).astype(np.float32)


@pytest.mark.parametrize("codec", LOSSY)
@settings(max_examples=150, deadline=None)
@given(logits=labels())
def test_guarantee_holds_for_logits(codec, logits):
    check(codec, logits)


@pytest.mark.parametrize("codec", LOSSY)
@settings(max_examples=40, deadline=None)
@given(logits=labels())
def test_guarantee_holds_for_probabilities(codec, logits):
    check(codec, sigmoid(logits).astype(np.float32), kind="probability")


@pytest.mark.parametrize("codec", LOSSY)
@settings(max_examples=40, deadline=None)
@given(logits=labels())
def test_guarantee_holds_without_time(codec, logits):
    check(codec, np.ascontiguousarray(logits[:, 0]))
    check(codec, np.ascontiguousarray(logits[0]))


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize(
    "logits",
    [
        np.full((4, FRAMES), 60000.0),
        np.full((4, FRAMES), -60000.0),
        np.where(np.arange(FRAMES) % 2, 60000.0, -60000.0) * np.ones((4, 1)),
        np.zeros((1, 1)),
        np.full((1, 1), -0.0),
        np.linspace(-24.1, 24.1, 4 * FRAMES).reshape(4, FRAMES),
        np.random.default_rng(1).uniform(-24, 24, (40, 250)),
    ],
    ids=["high", "low", "alternating", "one", "minus zero", "ramp", "noise"],
)
def test_guarantee_holds_for_extremes(codec, logits):
    check(codec, logits.astype(np.float32))


@pytest.mark.parametrize("codec", LOSSY)
def test_probabilities_of_zero_and_one(codec):
    probabilities = np.random.default_rng(0).integers(0, 2, (5, FRAMES)).astype(np.float32)
    content = check(codec, probabilities, kind="probability")
    np.testing.assert_array_equal(np.rint(decode_label(content)), probabilities)


@settings(max_examples=60, deadline=None)
@given(logits=labels(), members=st.integers(2, 5), seed=st.integers(0, 2**32))
def test_faithful_labels_can_be_merged(logits, members, seed):
    promised = guarantee("faithful")
    spread = np.random.default_rng(seed).uniform(0, promised.merged_spread, (members, *logits.shape))
    sets = np.clip(logits, -20, 16) + spread.astype(np.float32)
    decoded = [decode_label(encode_label(one, shape=one.shape, kind="logit", codec="faithful")) for one in sets]
    for temperature in promised.max_probability_error:
        merged = sigmoid(np.mean(decoded, axis=0, dtype=np.float64) / temperature)
        wanted = sigmoid(np.mean(sets, axis=0, dtype=np.float64) / temperature)
        assert np.abs(merged - wanted).max() <= promised.max_merged_probability_error


@pytest.mark.parametrize("codec", ["master", "npy"])
def test_every_finite_float16_comes_back_bit_exact(codec):
    patterns = np.arange(1 << 16, dtype=np.uint16)
    patterns = patterns[np.isfinite(patterns.view(np.float16))]
    assert len(patterns) == 63_488
    for order in (patterns, np.random.default_rng(0).permutation(patterns)):
        for shape in ((63_488,), (248, 256), (31, 64, 32)):
            values = order.view(np.float16).astype(np.float32).reshape(shape)
            content = encode_label(values, shape=shape, kind="metre", codec=codec)
            assert len(content) <= max_label_bytes(shape, codec)
            decoded = decode_label(content)
            np.testing.assert_array_equal(decoded.astype(np.float16).view(np.uint16).ravel(), order)
            np.testing.assert_array_equal(
                decode_label_checked(content, shape=shape, kind="metre", codec=codec, where="here"), decoded
            )


def test_rows_that_hardly_change_need_no_float16():
    """Their runs cannot be moved as a whole, nor from the first frame on: cells within them have to."""
    rng = np.random.default_rng(0)
    drift = np.cumsum(rng.normal(0, 0.012, (200, 250)), axis=1)
    values = (rng.uniform(-5.5, -3, (200, 1)) + drift).astype(np.float32)
    content = encode_label(values, shape=values.shape, kind="logit", codec="small")
    assert content[20] == 1  # after the head and two axes: runs of levels
    assert len(content) < 12_000


@pytest.mark.parametrize("codec", LABEL_CODECS)
def test_a_view_in_another_order_is_the_same_label(codec):
    """Many teachers end in a transposition."""
    values = np.random.default_rng(0).normal(-3, 4, (40, 31)).astype(np.float32).T
    views = (values, np.ascontiguousarray(values), np.repeat(values, 2, axis=1)[:, ::2])
    contents = {encode_label(view, shape=(31, 40), kind="logit", codec=codec) for view in views}
    assert len(contents) == 1


@settings(max_examples=60, deadline=None)
@given(values=labels())
def test_master_rounds_as_the_struct_module_does(values):
    content = encode_label(values, shape=values.shape, kind="logit", codec="master")
    expected = [struct.unpack("<e", struct.pack("<e", value))[0] for value in values.ravel().tolist()]
    np.testing.assert_array_equal(decode_label(content).ravel(), np.array(expected, np.float32))


@pytest.mark.parametrize("codec", LOSSY)
@settings(max_examples=60, deadline=None)
@given(logits=labels())
def test_runs_decode_as_the_format_is_written_down(codec, logits):
    content = encode_label(logits, shape=logits.shape, kind="logit", codec=codec)
    if content[20]:
        np.testing.assert_array_equal(decode_label(content), decoded_by_hand(content, levels(codec).logits))


def decoded_by_hand(content, table):
    """Run by run, out of the words of the format alone."""
    magic, version, _, kind, axes, cells, rows, frames = struct.unpack_from("<4s4B3I", content)
    assert (magic, version, kind, axes, cells) == (b"SEDL", 1, 0, 2, rows * frames)
    runs, lengths, steps, token_bytes, side_bytes = struct.unpack_from("<5I", content, 21)
    zstd = pa.Codec("zstd")
    tokens = zstd.decompress(content[41 : 41 + token_bytes], runs, asbytes=True)
    assert len(content) == 41 + token_bytes + side_bytes
    side = zstd.decompress(content[41 + token_bytes :], lengths + 2 * steps, asbytes=True)
    stated_lengths = iter(side[:lengths])
    stated_steps = iter(zip(side[lengths : lengths + steps], side[lengths + steps :], strict=True))
    decoded, row, level = [], [], 0
    for token in tokens:
        length, step = token >> 4, token & 15
        if step == 15:
            low, high = next(stated_steps)
            zigzag = low + 256 * high
            level += -(zigzag + 1) // 2 if zigzag % 2 else zigzag // 2
        else:
            level += -(step + 1) // 2 if step % 2 else step // 2 + 1
        if length == 14:
            row += [table[level]] * (frames - len(row))
            decoded.append(row)
            row = []
        else:
            row += [table[level]] * (next(stated_lengths) + 15 if length == 15 else length + 1)
    return np.array(decoded, np.float32)


@pytest.mark.parametrize("codec", LOSSY)
def test_levels_are_part_of_the_format(codec):
    units = levels(codec).logits.astype(np.float64) * 4096
    positive = units[len(units) // 2 :].astype("<i4")
    np.testing.assert_array_equal(positive, units[len(units) // 2 :])
    assert positive[0] == 0
    assert hashlib.sha256(positive.tobytes()).hexdigest() == LEVELS_SHA256[codec]


def test_levels_are_ascending_and_symmetric():
    for codec in LOSSY:
        table = levels(codec).logits
        assert np.all(np.diff(table) > 0)
        np.testing.assert_array_equal(table, -table[::-1])


def test_what_cannot_be_stored_is_refused():
    good = np.zeros((3, 4), np.float32)
    for codec in LABEL_CODECS:
        with pytest.raises(LabelRefused, match=r"\(4, 3\)") as refused:
            encode_label(good, shape=(4, 3), kind="logit", codec=codec)
        assert refused.value.reason == "wrong_shape"
        for value in (np.nan, np.inf, -np.inf, 65520.0, -1e30):
            bad = good.copy()
            bad[1, 2] = value
            with pytest.raises(LabelRefused) as refused:
                encode_label(bad, shape=(3, 4), kind="logit", codec=codec)
            assert refused.value.reason == "not_finite"
        for value in (-1e-6, 1.0001):
            with pytest.raises(LabelRefused, match="outside"):
                encode_label(good + np.float32(value), shape=(3, 4), kind="probability", codec=codec)


def test_codecs_say_what_they_are_not_for():
    vectors = np.zeros((5, 3, 2), np.float32)
    for codec in LOSSY:
        for shape, kind in (((5, 3, 2), "logit"), ((5, 6), "unit_vector"), ((5, 6), "metre"), ((1 << 23,), "logit")):
            with pytest.raises(UsageError, match="use master"):
                encode_label(np.zeros(shape, np.float32), shape=shape, kind=kind, codec=codec)
    with pytest.raises(UsageError, match="tiny"):
        encode_label(vectors, shape=vectors.shape, kind="logit", codec="tiny")
    with pytest.raises(UsageError, match="percent"):
        encode_label(vectors, shape=vectors.shape, kind="percent", codec="master")
    with pytest.raises(UsageError, match="cannot be stored"):
        encode_label(np.zeros((0, 3), np.float32), shape=(0, 3), kind="logit", codec="master")


def test_suffixes():
    assert {codec: label_suffix(codec) for codec in LABEL_CODECS} == {
        "master": "label",
        "faithful": "label",
        "small": "label",
        "npy": "npy",
    }


def test_small_keeps_the_loss_of_rows_that_hardly_ever_say_anything():
    """asin(sqrt(p)) in 8 bits, rounded, says exactly 0 for all of these."""
    rng = np.random.default_rng(3)
    logits = (rng.uniform(-14, -9, (100, 1)) + np.cumsum(rng.normal(0, 0.2, (100, 250)), axis=1)).astype(np.float32)
    decoded = decode_label(encode_label(logits, shape=logits.shape, kind="logit", codec="small"), probabilities=True)
    was = loss(sigmoid(logits), logits).mean()
    assert abs(loss(decoded.astype(np.float64), logits).mean() / was - 1) < 1e-3


@pytest.mark.parametrize(("codec", "most_bytes"), [("small", 6_500), ("faithful", 16_000)])
def test_real_logits(shared, codec, most_bytes):
    logits = np.load(shared / "data" / "real_logits.npz")["logits"].astype(np.float32)
    contents = [encode_label(clip, shape=clip.shape, kind="logit", codec=codec) for clip in logits]
    assert np.mean([len(content) for content in contents]) <= most_bytes
    assert all(content[20] for content in contents), "a clip was stored as float16"
    x = logits.astype(np.float64)
    p = sigmoid(x)
    q = np.stack([decode_label(content, probabilities=True) for content in contents]).astype(np.float64)
    assert np.abs(q - p).max() <= 0.004
    noisy = x + np.random.default_rng(0).normal(0, 1, x.shape)
    likely = p.max(axis=(0, 2)) > 0.01
    for student in (x, noisy):
        was, is_ = loss(p, student), loss(q, student)
        assert abs(is_.mean() / was.mean() - 1) <= 0.001
        per_class = is_.mean(axis=(0, 2)) / was.mean(axis=(0, 2)) - 1
        assert np.abs(per_class[likely]).max() <= 0.01


def test_real_logits_master(shared):
    logits = np.load(shared / "data" / "real_logits.npz")["logits"]
    contents = [
        encode_label(clip.astype(np.float32), shape=clip.shape, kind="logit", codec="master") for clip in logits
    ]
    for clip, content in zip(logits, contents, strict=True):
        np.testing.assert_array_equal(decode_label(content).astype(np.float16).view(np.uint16), clip.view(np.uint16))
    assert np.mean([len(content) for content in contents]) < 223_500 / 2
