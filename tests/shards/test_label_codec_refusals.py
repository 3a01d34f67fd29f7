"""Members that are damaged, forged or of another kind: refused by name, in bounded memory, never a crash."""

import struct
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import FormatError
from pipeline._specs import MAX_TARGET_VALUES
from shards.codecs._label import (
    LABEL_CODECS,
    MAX_LOSSY_VALUES,
    decode_label,
    decode_label_checked,
    encode_label,
)

SHAPE = (30, 60)
ZSTD = pa.Codec("zstd")
CLIP = (np.cumsum(np.random.default_rng(0).normal(0, 0.2, SHAPE), axis=1) - 7).astype(np.float32)
MEMBERS = {codec: encode_label(CLIP, shape=SHAPE, kind="logit", codec=codec) for codec in LABEL_CODECS}
BODY = 21  # of a compressed member of two axes: 12 bytes, two axes, the coding


def checked(content, codec, shape=SHAPE, kind="logit"):
    return decode_label_checked(content, shape=shape, kind=kind, codec=codec, where="here")


def head(codec=2, kind=0, shape=SHAPE, version=1, cells=None, coding=1, magic=b"SEDL"):
    cells = int(np.prod(shape)) if cells is None else cells
    axes = struct.pack(f"<{len(shape)}I", *shape)
    return struct.pack("<4s4BI", magic, version, codec, kind, len(shape), cells) + axes + bytes([coding])


def runs(tokens, side=b"", lengths=0, steps=0, count=None):
    streams = [ZSTD.compress(bytes(stream), asbytes=True) for stream in (tokens, side)]
    count = len(tokens) if count is None else count
    return struct.pack("<5I", count, lengths, steps, *map(len, streams)) + b"".join(streams)


@pytest.mark.parametrize("codec", LABEL_CODECS)
def test_another_shape_kind_or_codec_is_refused(codec):
    content = MEMBERS[codec]
    np.testing.assert_array_equal(checked(content, codec), decode_label(content))
    for shape in ((60, 30), (30, 61), (1800,), (30, 60, 1)):
        with pytest.raises(FormatError, match="here"):
            checked(content, codec, shape)
    for other in LABEL_CODECS:
        if other != codec:
            with pytest.raises(FormatError, match="here"):
                checked(content, other)
    if codec != "npy":
        with pytest.raises(FormatError, match="here"):
            checked(content, codec, kind="probability")


@pytest.mark.parametrize("codec", LABEL_CODECS)
def test_every_truncation_and_anything_behind_is_refused(codec):
    content = MEMBERS[codec]
    for size in {*range(80), *range(80, len(content), 37), len(content) - 1}:
        with pytest.raises(FormatError, match="here"):
            checked(content[:size], codec)
        with pytest.raises(FormatError):
            decode_label(content[:size])
    for more in (b"\0", b"\0" * 100, content):
        with pytest.raises(FormatError, match="here"):
            checked(content + more, codec)


@pytest.mark.parametrize("shape", ["1 2", "1, ", ", ,", "30,,60", "30 60", "", "9" * 5_000, "1, " * 300])
def test_npy_with_a_shape_that_is_none_is_refused(shape):
    content = MEMBERS["npy"].replace(b"(30, 60)", f"({shape})".encode())
    assert content != MEMBERS["npy"]
    with pytest.raises(FormatError, match="is not a float16"):
        decode_label(content)


@pytest.mark.parametrize("codec", LABEL_CODECS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_gives_a_label_of_that_shape(codec, data):
    content = bytearray(MEMBERS[codec])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, len(content) - 1), st.integers(0, 60)))
        content[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = checked(bytes(content), codec)
    except FormatError:
        with pytest.raises(FormatError, match="here: "):
            checked(bytes(content), codec)
    else:
        assert decoded.shape == SHAPE
        assert decoded.dtype == np.float32
    try:
        decoded = decode_label(bytes(content))
    except FormatError:
        return
    assert decoded.dtype == np.float32
    assert decoded.size <= 100 * CLIP.size


@settings(max_examples=300, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(lambda rest: head() + rest)))
def test_noise_is_refused(content):
    with pytest.raises(FormatError):
        decode_label(content)


@pytest.mark.parametrize(
    "content",
    [
        head(version=0),
        head(version=2),
        head(magic=b"SEDX"),
        head(codec=3),
        head(kind=4),
        head(coding=2),
        head(cells=7),
        head(shape=()),
        head(shape=(0,)),
        head(shape=(1 << 31, 1 << 31), cells=1 << 20),
        head(shape=(MAX_LOSSY_VALUES + 1,)),
        head(shape=(30, 6, 10)) + MEMBERS["small"][BODY:],
        head(kind=2) + MEMBERS["small"][BODY:],
        head(codec=0, shape=(MAX_TARGET_VALUES + 1,), coding=0),
        head(codec=0, coding=1) + MEMBERS["small"][BODY:],  # master is float16 alone
        struct.pack("<4s4BI", b"SEDL", 1, 2, 0, 255, 1),
    ],
)
def test_headers_that_say_something_else(content):
    with pytest.raises(FormatError):
        decode_label(content)


LAST = 14 << 4
UP = 0  # a step of +1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (runs([LAST | UP] * 29), "streams"),  # a row too few
        (runs([LAST | UP] * 31), "side stream"),  # one too many
        (runs([LAST | UP] * 29 + [UP]), "side stream"),  # the last row does not end
        (runs([LAST | UP] * 30 + [UP]), "side stream"),  # a run behind the last row
        (runs([13 << 4 | UP] * 5 + [LAST | UP] * 30), "leave its rows"),  # a row of 70 frames
        (runs([LAST | 1] * 30), "levels"),  # below the first level
        (runs([LAST | UP] * 29 + [LAST | 15], b"\xff\xff", steps=1), "levels"),
        (runs([LAST | UP] * 29 + [LAST | 15]), "side stream"),
        (runs([LAST | UP] * 30, b"\0", lengths=1), "side stream"),
        (runs([LAST | UP] * 30, count=31), "decompress"),
        (runs([LAST | UP] * 30, b"\0"), "decompress"),
        (runs([LAST | UP] * 30, count=1 << 31), "streams"),
        (runs([LAST | UP] * 30, lengths=1 << 31), "streams"),
        (struct.pack("<5I", 30, 0, 0, 0, 0), "decompress"),
        (struct.pack("<5I", 30, 0, 0, 1 << 31, 1 << 31), "streams"),
    ],
)
def test_forged_runs_are_refused(body, reason):
    with pytest.raises(FormatError, match=reason):
        checked(head() + body, "small")
    with pytest.raises(FormatError, match=reason):
        decode_label(head() + body)


def test_runs_that_are_in_order_are_read():
    decoded = checked(head() + runs([LAST | UP] * 30), "small")
    assert np.all(np.diff(decoded[:, 0]) > 0)
    np.testing.assert_array_equal(decoded, decoded[:, :1] * np.ones((1, 60), np.float32))


def test_a_decompression_bomb_stays_small():
    bomb = ZSTD.compress(bytes(1 << 28), asbytes=True)
    assert len(bomb) < 1 << 15
    contents = [
        head() + struct.pack("<5I", 1800, 0, 0, len(bomb), 0) + bomb,
        head() + struct.pack("<5I", 1 << 28, 0, 0, len(bomb), 0) + bomb,
        head(codec=0, coding=0) + len(bomb).to_bytes(4, "little") + bomb + bomb,
        head(codec=2, coding=0) + len(bomb).to_bytes(4, "little") + bomb + bomb,
    ]
    for content in contents:
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        with pytest.raises(FormatError):
            decode_label(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        assert pa.total_allocated_bytes() - before < 1 << 20
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY" + b"\xff" * 200,
        MEMBERS["npy"].replace(b"(30, 60)", b"(60, 30)")[:-1],
        MEMBERS["npy"].replace(b"<f2", b"<f4"),
        MEMBERS["npy"].replace(b"(30, 60)", b"(0,    )"),
        MEMBERS["npy"].replace(b"False", b"True "),
        MEMBERS["npy"].replace(b"(30, 60), }  ", b"(30, 9999), }"),
        MEMBERS["npy"].replace(b"(30, 60), }           ", b"(999999999, 999999999)"),
    ],
)
def test_npy_members_of_another_kind_are_refused(content):
    with pytest.raises(FormatError):
        decode_label(content)


def test_npy_members_are_numpys():
    for shape in ((7,), (3, 5), (2, 3, 4), (1, 1)):
        values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        content = encode_label(values, shape=shape, kind="metre", codec="npy")
        np.testing.assert_array_equal(decode_label(content), values.astype(np.float16))
