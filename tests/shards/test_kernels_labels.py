"""Labels into given memory, with the compiled kernels and without: against plain decoding.

Damage is an error or the same label on both ways.
"""

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import FormatError, UsageError
from shards.codecs._kernels import (
    decode_label_into,
    label_values,
    table_of,
)
from shards.codecs._label import decode_label_checked, encode_label
from tests.shards.kernel_ways import SAME_EXAMPLES, SHAPE, ZSTD, damaged, logits, on_both_ways


def sigmoid(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)


@pytest.mark.parametrize("codec", ["master", "faithful", "small", "npy"])
@pytest.mark.parametrize("shape", [SHAPE, (40,), (1, 1), (3, 900)], ids=str)
def test_labels_are_what_plain_decoding_gives(way, codec, shape):
    for seed in range(4):
        given_logits = logits(shape, seed)
        content = memoryview(encode_label(given_logits, shape=shape, kind="logit", codec=codec))
        plain = decode_label_checked(content, shape=shape, kind="logit", codec=codec, where="here")
        coded = codec in ("small", "faithful") and bytes(content[12 + 4 * len(shape) :][:1]) == b"\x01"
        for what, needed in (("logit", plain), ("probability", sigmoid(plain))):
            out = np.full(shape, 9, np.float32)
            assert decode_label_into(content, shape, "logit", codec, label_values("logit", codec, what=what), out, "it")
            np.testing.assert_array_equal(out, needed)
        for temperature in (0.5, 3.0):
            values = label_values("logit", codec, what="probability", temperature=temperature)
            assert decode_label_into(content, shape, "logit", codec, values, out, "it")
            np.testing.assert_allclose(out, sigmoid(plain.astype(np.float64) / temperature), rtol=1.2e-7)
        codes = np.full(shape, 65_535, np.uint16)
        values = label_values("logit", codec, what="code")
        if decode_label_into(content, shape, "logit", codec, values, codes, "it"):
            np.testing.assert_array_equal(table_of(codec, "logit")[codes], plain)
            assert coded or codec in ("master", "npy")
        else:
            assert not coded
            assert (codes == 65_535).all()


def test_a_label_that_runs_cannot_hold_has_no_codes(way):
    values = np.full((1, 8), 5.0, np.float32)
    content = encode_label(values, shape=(1, 8), kind="logit", codec="small")
    stored_as_float16 = content[:20] + b"\x00" + encode_label(values, shape=(1, 8), kind="logit", codec="master")[21:]
    out = np.zeros((1, 8), np.uint16)
    assert not decode_label_into(
        stored_as_float16, (1, 8), "logit", "small", label_values("logit", "small", what="code"), out, "it"
    )
    wanted = np.zeros((1, 8), np.float32)
    assert decode_label_into(
        stored_as_float16, (1, 8), "logit", "small", label_values("logit", "small", what="logit"), wanted, "it"
    )
    np.testing.assert_array_equal(wanted, values)


@pytest.mark.parametrize("codec", ["master", "faithful", "small", "npy"])
def test_labels_that_are_probabilities(way, codec):
    stored = sigmoid(logits()).astype(np.float16).astype(np.float32)
    stored[0, :3] = 0, 1, 0.5
    content = encode_label(stored, shape=SHAPE, kind="probability", codec=codec)
    out = np.empty(SHAPE, np.float32)

    def as_what(what: str, temperature: float = 1.0) -> np.ndarray:
        values = label_values("probability", codec, what=what, temperature=temperature)
        assert decode_label_into(content, SHAPE, "probability", codec, values, out, "it")
        return out.astype(np.float64)

    plain = decode_label_checked(content, shape=SHAPE, kind="probability", codec=codec, where="it").astype(np.float64)
    np.testing.assert_array_equal(as_what("probability"), plain)
    with np.errstate(divide="ignore"):
        odds = np.log(plain / (1 - plain))
    found = as_what("logit")
    assert np.isfinite(found).all()
    inner = np.abs(odds) < 10  # beyond, what float32 holds of 1 - p decides
    np.testing.assert_allclose(found[inner], odds[inner], atol=2e-3)
    assert (np.sign(found) == np.sign(odds))[np.abs(odds) > 1e-3].all()
    np.testing.assert_allclose(as_what("probability", 2.0), 1 / (1 + np.exp(-odds / 2)), atol=2e-4)


@pytest.mark.parametrize("codec", ["master", "npy"])
@pytest.mark.parametrize("kind", ["unit_vector", "metre"])
def test_labels_of_other_kinds_stay_as_they_are(way, codec, kind):
    shape = (4, 3, 50)
    values = np.random.default_rng(0).normal(0, 5, shape).astype(np.float16).astype(np.float32)
    content = encode_label(values, shape=shape, kind=kind, codec=codec)
    for what in ("probability", "logit"):
        out = np.empty(shape, np.float32)
        wanted = label_values(kind, codec, what=what, temperature=3.0)
        assert decode_label_into(content, shape, kind, codec, wanted, out, "it")
        np.testing.assert_array_equal(out, values)


@pytest.mark.parametrize("codec", ["master", "faithful", "small", "npy"])
@pytest.mark.parametrize("what", ["probability", "code"])
@pytest.mark.parametrize("shape", [SHAPE, (13,)], ids=str)
def test_some_rows_in_another_order(way, codec, what, shape):
    content = encode_label(logits(shape), shape=shape, kind="logit", codec=codec)
    values = label_values("logit", codec, what=what)
    whole = np.empty(shape, values.dtype)
    decode_label_into(content, shape, "logit", codec, values, whole, "it")
    rows = np.array([7, -1, 0, 12, 3], np.int64)
    out = np.full((5, *shape[1:]), 99, values.dtype)
    assert decode_label_into(content, shape, "logit", codec, values, out, "it", rows)
    np.testing.assert_array_equal(out[[0, 2, 3, 4]], whole[[7, 0, 12, 3]])
    assert (out[1] == 99).all()
    none = np.empty((0, *shape[1:]), values.dtype)
    assert decode_label_into(content, shape, "logit", codec, values, none, "it", np.empty(0, np.int64))


def test_rows_and_memory_of_labels_have_to_fit(way, native):
    content = encode_label(logits(), shape=SHAPE, kind="logit", codec="small")
    values = label_values("logit", "small", what="probability")

    def decode(out: np.ndarray, rows: np.ndarray | None = None) -> bool:
        return decode_label_into(content, SHAPE, "logit", "small", values, out, "it", rows)

    for out in (np.empty((13, 249), np.float32), np.empty(SHAPE, np.float64), np.empty((250, 13), np.float32).T):
        with pytest.raises(ValueError, match="out is"):
            decode(out)
    with pytest.raises(ValueError, match="values are of"):
        decode_label_into(content, SHAPE, "probability", "small", values, np.empty(SHAPE, np.float32), "it")
    with pytest.raises(ValueError, match="rows are"):
        decode(np.empty((2, 250), np.float32), np.array([0, 1], np.int32))
    for wrong in ([0, 13], [-2, 0], [3, 3]):
        with pytest.raises(ValueError, match="rows"):
            decode(np.empty((2, 250), np.float32), np.array(wrong, np.int64))
    tokens, table = bytes([0xE0] * 13), values.levels
    for arguments in (
        (tokens, b"", 1, 0, 13, 250, table, np.empty(SHAPE, np.float32), None),
        (tokens, b"", 0, 0, 13, 250, table, np.empty((13, 249), np.float32), None),
        (tokens, b"", 0, 0, 13, 250, table, np.empty(SHAPE, np.uint16), None),
        (tokens, b"", 0, 0, -1, 250, table, np.empty(SHAPE, np.float32), None),
        (tokens, b"", 0, 0, 1 << 62, 0, table, np.empty((13, 0), np.float32), None),
        (tokens, b"", 0, 0, 1 << 62, 1 << 62, table, np.empty(SHAPE, np.float32), None),
    ):
        with pytest.raises(ValueError, match=r"stream|out is|values"):
            native.runs(*arguments)
    with pytest.raises(ValueError, match="table"):
        native.float16(bytes(20), 2, 5, np.zeros(100, np.float32), np.zeros((2, 5), np.float32), None, False)
    with pytest.raises(ValueError, match="planes"):
        native.packed(bytes(10), bytes(9), 2, 5, np.zeros(65_536, np.float32), np.zeros((2, 5), np.float32), None, True)
    with pytest.raises(ValueError, match="values"):
        native.running_sum(bytes(8), 1, 5, np.zeros(5, np.int16))


@pytest.mark.parametrize("codec", ["master", "faithful", "small", "npy"])
@SAME_EXAMPLES
@given(draw=st.data())
def test_damaged_labels_are_an_error_or_the_same_label(native, monkeypatch, codec, draw):
    content = damaged(encode_label(logits(), shape=SHAPE, kind="logit", codec=codec), draw)
    assert_same_label(monkeypatch, content, SHAPE, codec)


@SAME_EXAMPLES
@given(draw=st.data())
def test_forged_runs_are_an_error_or_the_same_label(native, monkeypatch, draw):
    """The streams themselves, behind right frames: what mutations of a member hardly ever reach."""
    shape = (2, 300)
    token = st.integers(0, 255) | st.sampled_from((0xE0, 0xE1, 0xF0, 0x0F, 0xEF, 0xFF))
    tokens = draw.draw(st.lists(token, min_size=1, max_size=9))
    if draw.draw(st.booleans()):
        tokens += [0xE0]
    stated, jumps = sum(t >> 4 == 15 for t in tokens), sum(t & 15 == 15 for t in tokens)
    if draw.draw(st.integers(0, 5)) == 0:
        stated, jumps = draw.draw(st.integers(0, 3)), draw.draw(st.integers(0, 3))
    side = bytes(draw.draw(st.lists(st.integers(0, 255), min_size=stated, max_size=stated)))
    side += bytes(draw.draw(st.lists(st.integers(0, 255), min_size=jumps, max_size=jumps)))
    side += bytes(draw.draw(st.lists(st.sampled_from((0, 0, 1, 255)), min_size=jumps, max_size=jumps)))
    frames = [ZSTD.compress(part, asbytes=True) for part in (bytes(tokens), side)]
    head = encode_label(logits(shape), shape=shape, kind="logit", codec="small")[:20] + b"\x01"
    sizes = struct.pack("<5I", len(tokens), stated, jumps, len(frames[0]), len(frames[1]))
    assert_same_label(monkeypatch, head + sizes + frames[0] + frames[1], shape, "small")


def assert_same_label(monkeypatch: pytest.MonkeyPatch, content: bytes, shape: tuple[int, ...], codec: str) -> None:
    def decoded():
        out = np.zeros(shape, np.float32)
        values = label_values("logit", codec, what="logit")
        assert decode_label_into(memoryview(content), shape, "logit", codec, values, out, "here")
        return out.tolist()

    found, needed = on_both_ways(monkeypatch, decoded)
    assert found == needed
    if not isinstance(needed, str):
        plain = decode_label_checked(content, shape=shape, kind="logit", codec=codec, where="here")
        assert found == plain.tolist()


def forged_float16(bits: np.ndarray, kind: str, codec: str) -> bytes:
    """A label of any bit patterns, uint16 [class, time], also of such as the encoder refuses."""
    content = encode_label(np.zeros(bits.shape, np.float32), shape=bits.shape, kind=kind, codec=codec)
    if codec == "npy":
        return content[: -2 * bits.size] + bits.tobytes()
    ordered = np.where(bits >> 15, ~bits, bits | 0x8000).astype(np.uint16)
    steps = np.diff(ordered, axis=-1, prepend=np.uint16(0x8000)).view(np.int16)
    planes = (steps << 1 ^ steps >> 15).astype("<u2").view(np.uint8).reshape(-1, 2)
    high, low = (ZSTD.compress(planes[:, plane].tobytes(), asbytes=True) for plane in (1, 0))
    return content[:21] + len(high).to_bytes(4, "little") + high + low


@pytest.mark.parametrize("codec", ["master", "npy"])
@pytest.mark.parametrize("kind", ["logit", "probability"])
@pytest.mark.parametrize("what", ["probability", "logit", "code"])
def test_float16_that_is_no_value_is_refused(way, codec, kind, what):
    shape = (2, 40)
    wanted = label_values(kind, codec, what=what, temperature=2.0)
    for bits in (0, 1, 0x3BFF, 0x3C00, 0x3C01, 0x7BFF, 0x7C00, 0x7E00, 0x7FFF, 0x8000, 0x8001, 0xFBFF, 0xFC00, 0xFFFF):
        values = np.zeros(shape, np.uint16)
        values[1, 3] = bits
        value = float(values.view(np.float16)[1, 3])
        content = forged_float16(values, kind, codec)
        out = np.zeros(shape, wanted.dtype)
        if np.isfinite(value) and (kind == "logit" or 0 <= value <= 1):
            assert decode_label_into(content, shape, kind, codec, wanted, out, "here")
            assert np.isfinite(out).all()
        else:
            with pytest.raises(FormatError, match=r"^here: .*(NaN or infinity|outside \[0, 1\])"):
                decode_label_into(content, shape, kind, codec, wanted, out, "here")
        first = np.empty((1, 40), wanted.dtype)
        assert decode_label_into(content, shape, kind, codec, wanted, first, "here", np.array([0], np.int64))


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_every_float16_is_a_value_or_not_on_both_ways(native, monkeypatch, kind):
    for codec in ("master", "npy"):
        values = label_values(kind, codec, what="code")
        for bits in np.random.default_rng(0).permutation(1 << 16).astype(np.uint16)[:3_000].reshape(-1, 1, 1):
            content = forged_float16(bits, kind, codec)

            def decoded(content=content, codec=codec, values=values):
                out = np.zeros((1, 1), np.uint16)
                decode_label_into(content, (1, 1), kind, codec, values, out, "here")
                return int(out[0, 0])

            found, needed = on_both_ways(monkeypatch, decoded)
            assert found == needed
            assert isinstance(found, str) or found == bits


def test_values_of_labels_are_refused_that_are_none():
    with pytest.raises(UsageError, match="wanted as"):
        label_values("logit", "small", what="score")
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="temperature"):
            label_values("logit", "small", what="probability", temperature=temperature)


def test_values_of_labels_go_to_other_processes():
    for codec, what in (("small", "code"), ("master", "probability")):
        values = label_values("logit", codec, what=what, temperature=2.0)
        assert len(pickle.dumps(values)) < 500
        copy = pickle.loads(pickle.dumps(values))
        assert copy is values
