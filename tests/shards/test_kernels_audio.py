"""Audio into given memory, with the compiled kernels and without: against libsndfile, ffmpeg's FLAC encoder and a FLAC
encoder of every kind of stream. Damage is an error or the same clip on both ways.
"""

import io

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from shards.codecs._audio import AUDIO_CODECS, decode_audio_into, encode_audio
from tests.shards.flac_streams import Choices, encode
from tests.shards.kernel_ways import FOA, MONO, SAME_EXAMPLES, damaged, on_both_ways, signals


def flac_of_libsndfile(pcm: np.ndarray, rate: int, level: float) -> bytes:
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", rate, len(pcm), "PCM_16", format="FLAC", compression_level=level
    ) as file:  # fmt: skip
        file.write(pcm.T)
    return buffer.getvalue()


def flac_of_ffmpeg(pcm: np.ndarray, rate: int, frame_size: int, options: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac", options={"fflags": "+bitexact"}) as container:  # without a comment
        layout = {1: "mono", 2: "stereo", 4: "quad", 8: "7.1"}[len(pcm)]
        stream = container.add_stream("flac", rate=rate, layout=layout, options=options)
        stream.codec_context.format = "s16"
        stream.codec_context.open()
        for start in range(0, pcm.shape[1], frame_size):
            block = np.ascontiguousarray(pcm[:, start : start + frame_size].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout=layout)
            frame.sample_rate = rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def assert_flac(native, content: bytes, rate: int, pcm: np.ndarray) -> None:
    """Decoded by the kernel itself to `pcm`, and not a value beyond it is written."""
    channels, samples = pcm.shape
    for dtype, scale in ((np.int16, 1), (np.float32, np.float32(1 / 32768))):
        room = np.full((channels, samples + 3), 7, dtype)
        assert native.flac(content, rate, channels, samples, room)
        np.testing.assert_array_equal(room[:, :samples], pcm * scale)
        assert (room[:, samples:] == 7).all()


@pytest.mark.parametrize("way", ["native", "portable"], indirect=True)
@pytest.mark.parametrize("channels", [1, 2, 4, 8])
@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_flac_of_libsndfile(way, native, channels, level):
    for pcm in signals(channels, 9_000).values():
        assert_flac(native, flac_of_libsndfile(pcm, 16_000, level), 16_000, pcm)


@pytest.mark.parametrize("way", ["native", "portable"], indirect=True)
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"lpc_type": "none", "compression_level": "0"},
        {"lpc_type": "fixed", "compression_level": "5"},
        {"lpc_type": "levinson", "compression_level": "8", "max_prediction_order": "32", "min_prediction_order": "10"},
        {"lpc_type": "cholesky", "lpc_passes": "2", "compression_level": "12", "lpc_coeff_precision": "15"},
        {"ch_mode": "mid_side"},
        {"ch_mode": "left_side", "exact_rice_parameters": "1", "max_partition_order": "8"},
        {"ch_mode": "right_side", "max_partition_order": "3"},
    ],
)
@pytest.mark.parametrize("frame_size", [256, 4_608])
def test_flac_of_ffmpeg(way, native, channels, options, frame_size):
    for name, pcm in signals(channels, 10_000).items():
        if name in ("noise", "tone", "opposite", "bursts", "coarse"):
            assert_flac(native, flac_of_ffmpeg(pcm, 24_000, frame_size, options), 24_000, pcm)


@pytest.mark.parametrize("way", ["native", "portable"], indirect=True)
@pytest.mark.parametrize("seed", range(40))
def test_flac_of_every_kind(way, native, seed):
    rng = np.random.default_rng(seed)
    channels, samples = int(rng.choice([1, 1, 2, 2, 3, 8])), int(rng.integers(1, 1_500))
    rate = int(rng.choice([16_000, 24_000, 44_100, 1_000, 11_025, 655_000, 65_535]))
    pcm = list(signals(channels, samples, seed).values())[seed % 8]
    content = encode(pcm, rate, Choices(rng))
    assert_flac(native, content, rate, pcm)
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        np.testing.assert_array_equal(file.read(dtype="int16", always_2d=True).T, pcm)


def test_flac_of_other_clips_is_left_to_libsndfile(native):
    pcm = signals(2, 5_000)["tone"]
    content = flac_of_libsndfile(pcm, 16_000, 0.5)
    out = np.empty((2, 5_000), np.int16)
    assert native.flac(content, 16_000, 2, 5_000, out)
    assert not native.flac(content, 24_000, 2, 5_000, out)
    assert not native.flac(content, 16_000, 2, 4_999, out)
    assert not native.flac(content, 16_000, 1, 5_000, out[0])
    assert not native.flac(content + b"\0", 16_000, 2, 5_000, out)
    wide = io.BytesIO()
    soundfile.write(wide, pcm.T, 16_000, format="FLAC", subtype="PCM_24")
    assert not native.flac(wide.getvalue(), 16_000, 2, 5_000, out)
    assert not native.flac(b"", 16_000, 2, 5_000, out)
    no_samples = content[:21] + b"\xf0" + bytes(4) + content[26:86]
    assert not native.flac(no_samples, 16_000, 2, 0, out)


def test_flac_that_libsndfile_reads_as_something_else_is_left_to_it(native):
    """Frames with numbers out of sequence, which it moves; metadata that change what it reads or that it refuses."""
    pcm = signals(1, 500)["noise"]
    out = np.empty((1, 500), np.int16)
    for number in (0, 1, 16, 1 << 35):
        content = encode(pcm, 16_000, Choices(np.random.default_rng(0)), number=number)
        assert native.flac(content, 16_000, 1, 500, out) == (number == 0)
    content = flac_of_libsndfile(pcm, 16_000, 0.5)
    for kind, block, known in (
        (1, bytes(9), True),
        (4, b"\3\0\0\0abc\0\0\0\0", True),
        (4, b"\4\0\0\0abc\0\0\0\0", False),
        (4, b"\3\0\0\0abc\1\0\0\0", False),
        (4, b"\0\0\0\0", False),
        (0, content[8:42], False),
        (3, bytes(18), False),
        (127, b"", False),
    ):
        more = content[:42] + bytes([kind]) + len(block).to_bytes(3, "big") + block + content[42:]
        assert native.flac(more, 16_000, 1, 500, out) == known, (kind, block)


def test_real_recordings(way, shared):
    found = sorted(path for path in (shared / "recordings" / "labelled").iterdir() if path.suffix in (".wav", ".ogg"))[
        :12
    ]
    assert found
    for path in found:
        with soundfile.SoundFile(path) as file:
            pcm = file.read(160_000, dtype="int16", always_2d=True).T[0]
        for codec in AUDIO_CODECS:
            content = memoryview(encode_audio(pcm, MONO, codec))
            out = np.empty(len(pcm), np.float32)
            decode_audio_into(content, MONO, len(pcm), codec, out, "here")
            np.testing.assert_array_equal(out, pcm.astype(np.float32) / 32768)


@pytest.mark.parametrize("codec", AUDIO_CODECS)
@pytest.mark.parametrize("spec", [MONO, FOA], ids=["mono", "foa"])
@pytest.mark.parametrize("samples", [1, 2, 7, 8, 9, 4_096, 24_001])
def test_audio_into_memory_of_a_batch(way, codec, spec, samples):
    for name, pcm in signals(spec.channels, samples, seed=samples).items():
        clip = pcm[0] if spec.channels == 1 else pcm
        content = memoryview(encode_audio(clip, spec, codec))
        for dtype, scale in ((np.int16, 1), (np.float32, np.float32(1 / 32768))):
            batch = np.full((3, 2 * spec.channels, samples + 5), 9, dtype)
            out = batch[1, 0] if spec.channels == 1 else batch[1, ::2]  # rows apart from each other
            decode_audio_into(content, spec, samples, codec, out, "here")
            np.testing.assert_array_equal(out[..., :samples], clip * scale, err_msg=name)
            written = batch != 9
            assert not written[[0, 2]].any()
            assert not written[1, 1::2].any()
            assert not written[..., samples:].any()


@pytest.mark.parametrize("codec", AUDIO_CODECS)
def test_out_has_to_fit(way, codec):
    content = encode_audio(np.arange(100, dtype=np.int16), MONO, codec)
    for out in (
        np.empty(99, np.int16),
        np.empty((1, 100), np.int16),
        np.empty(100, np.float64),
        np.empty(100, np.uint16),
        np.empty(200, np.int16)[::2],
    ):
        with pytest.raises(ValueError, match="out"):
            decode_audio_into(content, MONO, 100, codec, out, "here")


@pytest.mark.parametrize("codec", AUDIO_CODECS)
@SAME_EXAMPLES
@given(draw=st.data())
def test_damaged_audio_is_an_error_or_the_same_clip(native, monkeypatch, codec, draw):
    pcm = signals(1, 3_000)[draw.draw(st.sampled_from(("tone", "noise", "bursts")))][0]
    content = damaged(encode_audio(pcm, MONO, codec), draw)

    def decoded():
        out = np.zeros(len(pcm), np.int16)
        decode_audio_into(memoryview(content), MONO, len(pcm), codec, out, "here")
        return out.tolist()

    found, needed = on_both_ways(monkeypatch, decoded)
    assert found == needed


@pytest.mark.parametrize("seed", range(60))
def test_frames_with_flipped_bits_and_right_checksums_are_what_libsndfile_makes_of_them(native, seed):
    rng = np.random.default_rng(seed)
    pcm = list(signals(1 + seed % 2, 900, seed).values())[seed % 8]
    content = encode(pcm, 16_000, Choices(rng, damage=True))
    out = np.empty(pcm.shape, np.int16)
    if native.flac(content, 16_000, len(pcm), pcm.shape[1], out):
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            np.testing.assert_array_equal(out, file.read(dtype="int16", always_2d=True).T)
