"""What all kernels have in common: that they are built, checked bytes (google-crc32c is the oracle), threads."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import numpy as np
import pytest

from shards.codecs._audio import AUDIO_CODECS, decode_audio, decode_audio_into, encode_audio
from shards.codecs._kernels import (
    NATIVE,
    ShortRead,
    WrongChecksum,
    decode_label_into,
    label_values,
    read_checked,
)
from shards.codecs._label import decode_label_checked, encode_label
from tests.shards.kernel_ways import MONO, logits, signals


def test_the_kernels_are_built_where_the_project_is_tested_for_others():
    if not os.environ.get("CI"):
        pytest.skip("only where the environment says CI: elsewhere there may be no compiler")
    assert NATIVE or os.environ.get("SED_DISTILL_NATIVE") == "0"


def test_no_name_of_another_library_stands_in_for_a_kernel(native):
    names = ctypes.CDLL(native.__file__)
    assert names.PyInit__native
    for name in ("crc32c", "decode_flac", "running_sum"):
        assert not hasattr(names, name)


def test_crc32c(way, native):
    rng = np.random.default_rng(0)
    for size in (*range(70), 1_023, 1_024, 3_071, 3_072, 3_073, 3_080, 6_145, 200_003):
        content = rng.bytes(size)
        assert native.crc32c(content) == google_crc32c.value(content)


def test_reading_checks_every_byte(way, tmp_path):
    content = np.random.default_rng(0).bytes(5_000)
    path = tmp_path / "tar"
    path.write_bytes(content)
    scratch = bytearray(4_000)
    with path.open("rb", buffering=0) as file:
        for offset, length in ((0, 0), (0, 1), (17, 4_000), (4_999, 1), (0, 5_000)):
            part = content[offset : offset + length]
            read = read_checked(file.fileno(), offset, length, google_crc32c.value(part), scratch)
            assert read == part
            assert (read.obj is scratch) == (length <= 4_000)
        with pytest.raises(ShortRead):
            read_checked(file.fileno(), 4_000, 1_001, 0, scratch)
        with pytest.raises(ShortRead):
            read_checked(file.fileno(), 9_000, 1, 0, scratch)
        with pytest.raises(WrongChecksum):
            read_checked(file.fileno(), 0, 100, google_crc32c.value(content[:100]) ^ 1, scratch)
        closed = file.fileno()
    with pytest.raises(OSError, match="descriptor"):
        read_checked(closed, 0, 10, 0, scratch)


def test_threads_decode_at_once(way):
    clips = list(signals(1, 20_000).values())
    given_logits = [logits((50, 250), seed) for seed in range(4)]
    values = label_values("logit", "small", what="logit")
    members = [
        (
            codec,
            pcm[0],
            encode_audio(pcm[0], MONO, codec),
            encode_label(label, shape=(50, 250), kind="logit", codec="small"),
        )
        for pcm, label in zip(clips, given_logits * 2, strict=True)
        for codec in AUDIO_CODECS
    ] * 4

    def decode(member: tuple[str, np.ndarray, bytes, bytes]) -> bool:
        codec, pcm, audio, label = member
        out, soft = np.empty(len(pcm), np.int16), np.empty((50, 250), np.float32)
        decode_audio_into(audio, MONO, len(pcm), codec, out, "here")
        decode_label_into(label, (50, 250), "logit", "small", values, soft, "here")
        plain = decode_label_checked(label, shape=(50, 250), kind="logit", codec="small", where="here")
        return np.array_equal(out, pcm) and np.array_equal(soft, plain)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(decode, members))


def test_plain_decoding_takes_views_too():
    pcm = np.arange(500, dtype=np.int16)
    for codec in AUDIO_CODECS:
        content = memoryview(encode_audio(pcm, MONO, codec))
        np.testing.assert_array_equal(decode_audio(content, MONO, 500, codec, "here"), pcm)
