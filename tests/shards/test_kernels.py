"""Decoding into given memory, with the compiled kernels and without: against libsndfile, ffmpeg's FLAC encoder, a FLAC
encoder of every kind of stream, google-crc32c, and plain decoding. Damage is an error or the same clip on both ways.
"""

import ctypes
import io
import os
import pickle
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import av
import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import AudioSpec, FormatError, UsageError
from shards.codecs import _compiled
from shards.codecs._audio import AUDIO_CODECS, decode_audio, decode_audio_into, encode_audio
from shards.codecs._kernels import (
    NATIVE,
    ShortRead,
    WrongChecksum,
    decode_label_into,
    label_values,
    read_checked,
    table_of,
)
from shards.codecs._label import decode_label_checked, encode_label
from tests.shards.flac_streams import Choices, encode

NATIVE_MODULE = _compiled.native
WAYS = ("native", "portable", "fallback")
MONO = AudioSpec(sample_rate=16_000, clip_ms=10_000)
FOA = AudioSpec(sample_rate=24_000, layout="foa", clip_ms=5_000)
SHAPE = (13, 250)
ZSTD = pa.Codec("zstd", compression_level=1)
SAME_EXAMPLES = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    if request.param == "fallback":
        monkeypatch.setattr(_compiled, "native", None)
        yield request.param
        return
    if NATIVE_MODULE is None:
        pytest.skip("the compiled kernels are not built (pip install -e . where there is a C compiler)")
    NATIVE_MODULE.portable(request.param == "portable")
    yield request.param
    NATIVE_MODULE.portable(False)


@pytest.fixture
def native():
    if NATIVE_MODULE is None:
        pytest.skip("the compiled kernels are not built (pip install -e . where there is a C compiler)")
    return NATIVE_MODULE


def on_both_ways(monkeypatch: pytest.MonkeyPatch, decode: Callable[[], object]) -> list[object]:
    """What `decode` gives, or the message of its FormatError, with the kernels and without."""
    found = []
    for module in (NATIVE_MODULE, None):
        with monkeypatch.context() as patch:
            patch.setattr(_compiled, "native", module)
            try:
                found.append(decode())
            except FormatError as error:
                found.append(str(error))
    return found


def signals(channels: int, samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng, time = np.random.default_rng(seed), np.arange(samples)
    phase = np.arange(channels)[:, None]
    made = {
        "noise": rng.integers(-32768, 32768, (channels, samples)),
        "silence": np.zeros((channels, samples)),
        "constant": np.full((channels, samples), -32768),
        "extremes": np.where(rng.integers(0, 2, (channels, samples)), 32767, -32768),
        "tone": np.rint(30_000 * np.sin(0.05 * time + phase)),
        "coarse": rng.integers(-100, 100, (channels, samples)) * 64,
        "opposite": np.rint(32_000 * np.sin(0.03 * time)) * (1 - 2 * (phase % 2)),
        "bursts": np.where(time // 500 % 2, rng.integers(-20_000, 20_000, (channels, samples)), 1),
    }
    return {name: value.astype(np.int16) for name, value in made.items()}


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


def test_the_kernels_are_built_where_the_project_is_tested_for_others():
    if not os.environ.get("CI"):
        pytest.skip("only where the environment says CI: elsewhere there may be no compiler")
    assert NATIVE or os.environ.get("SED_DISTILL_NATIVE") == "0"


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


def damaged(content: bytes, draw: st.DataObject) -> bytes:
    """Flipped, overwritten, cut or lengthened somewhere."""
    at = draw.draw(st.integers(0, len(content) - 1) | st.integers(0, min(60, len(content) - 1)))
    kind = draw.draw(st.sampled_from(("flip", "fill", "cut", "insert", "append")))
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ draw.draw(st.integers(1, 255))]) + content[at + 1 :]
    if kind == "fill":
        length = draw.draw(st.integers(1, 64))
        return (content[:at] + draw.draw(st.sampled_from((b"\0", b"\xff"))) * length + content[at + length :])[
            : len(content)
        ]
    if kind == "cut":
        return content[:at]
    extra = draw.draw(st.binary(min_size=1, max_size=9))
    return content[:at] + extra + content[at:] if kind == "insert" else content + extra


def logits(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """Quiet for long, with bursts, so that runs are short and long and jump."""
    rng = np.random.default_rng(seed)
    slow = np.cumsum(rng.normal(0, 0.3, shape) * (rng.random(shape) < 0.2), axis=-1) - 6
    values = slow + 12 * (rng.random(shape) < 0.03)
    return values.clip(-30, 30).astype(np.float16).astype(np.float32)


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
