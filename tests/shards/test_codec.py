"""Codecs against soundfile, numpy's own .npy reader and the struct module's half floats."""

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import AudioSpec, FormatError, UsageError
from shards import LabelRefused, decode_flac, decode_float16, encode_flac, encode_float16

MONO = AudioSpec(sample_rate=8_000, clip_ms=1_000)
FOA = AudioSpec(sample_rate=24_000, layout="foa", clip_ms=1_000)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int16, st.integers(1, 3_000)))
def test_flac_is_lossless_and_soundfile_agrees(pcm):
    content = encode_flac(pcm, MONO)
    decoded, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate == MONO.sample_rate
    np.testing.assert_array_equal(decoded, pcm)
    np.testing.assert_array_equal(decode_flac(content, MONO, len(pcm), "here"), pcm)
    assert encode_flac(pcm.copy(), MONO) == content


def test_flac_of_four_channels_is_channel_major():
    pcm = np.random.default_rng(0).integers(-32768, 32768, (4, 999)).astype(np.int16)
    content = encode_flac(pcm, FOA)
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(content), dtype="int16")[0].T, pcm)
    decoded = decode_flac(content, FOA, 999, "here")
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, pcm)


def test_flac_that_is_not_what_is_stated_is_refused():
    pcm = np.arange(1000, dtype=np.int16)
    content = encode_flac(pcm, MONO)
    for spec, samples in ((MONO, 999), (MONO, 1001), (AudioSpec(clip_ms=1_000), 1000), (FOA, 1000)):
        with pytest.raises(FormatError, match="here"):
            decode_flac(content, spec, samples, "here")
    wav = io.BytesIO()
    soundfile.write(wav, pcm, MONO.sample_rate, format="WAV", subtype="PCM_16")
    for other in (wav.getvalue(), b"", b"fLaC", content[:100], content[: len(content) // 2]):
        with pytest.raises(FormatError, match="here"):
            decode_flac(other, MONO, 1000, "here")


def test_flac_of_a_rate_it_cannot_hold():
    with pytest.raises(UsageError, match="700000hz"):
        encode_flac(np.zeros(10, np.int16), AudioSpec(sample_rate=700_000))


STORABLE = st.floats(-65504, 65504, width=32)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=STORABLE))
def test_float16_rounds_as_struct_does_and_numpy_reads_it(logits):
    content = encode_float16(logits, logits.shape)
    nearest_even = [struct.unpack("<e", struct.pack("<e", value))[0] for value in logits.ravel().tolist()]
    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    assert loaded.dtype == np.dtype("<f2")
    np.testing.assert_array_equal(loaded, np.reshape(nearest_even, logits.shape))
    np.testing.assert_array_equal(loaded, logits.astype(np.float16))
    decoded = decode_float16(content, logits.shape, "here")
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, loaded.astype(np.float32))


@pytest.mark.parametrize("shape", [(3,), (527,), (447, 250), (2, 3, 4)])
def test_npy_header_is_version_1_and_aligned(shape):
    content = encode_float16(np.zeros(shape, np.float32), shape)
    file = io.BytesIO(content)
    assert np.lib.format.read_magic(file) == (1, 0)
    assert np.lib.format.read_array_header_1_0(file) == (shape, False, np.dtype("<f2"))
    assert file.tell() % 64 == 0
    assert len(content) == file.tell() + 2 * np.prod(shape)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65505.0, -65536.0, 3e38])
def test_what_float16_cannot_hold_is_refused(value):
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = value
    with pytest.raises(LabelRefused) as refused:
        encode_float16(logits, (3, 4))
    assert refused.value.reason == "not_finite"


def test_wrong_shape_is_refused():
    with pytest.raises(LabelRefused, match=r"\(4, 3\).*\(3, 4\)") as refused:
        encode_float16(np.zeros((4, 3), np.float32), (3, 4))
    assert refused.value.reason == "wrong_shape"


def test_any_other_npy_is_refused():
    shape = (3, 4)
    content = encode_float16(np.ones(shape, np.float32), shape)
    others = [content[:-1], content + b"\0", content[:5], b""]
    for array in (np.ones(shape, ">f2"), np.asfortranarray(np.ones(shape, "<f2")), np.ones((4, 3), "<f2")):
        file = io.BytesIO()
        np.save(file, array)
        others.append(file.getvalue())
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    for other in (*others, pickled.getvalue()):
        with pytest.raises(FormatError, match="here"):
            decode_float16(other, shape, "here")
    header = len(content) - 24
    for position in range(header):
        flipped = bytearray(content)
        flipped[position] ^= 1
        with pytest.raises(FormatError):
            decode_float16(bytes(flipped), shape, "here")
