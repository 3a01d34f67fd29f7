"""Decoding against libsndfile's full decode, self-made damage, and the real recordings."""

import csv
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from pipeline import ClipRejected, Decoded, UsageError, decode, probe_duration_ms
from pipeline._containers import cut_off

RATE = 44_100
LOSSLESS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("AIFF", "PCM_24"),
    ("AU", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("CAF", "PCM_16"),
]
LOSSY = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "MS_ADPCM")]


def noise(seconds: float, channels: int = 2, rate: int = RATE) -> np.ndarray:
    """Float64 [n, channels], a loud and a quiet stretch in turn so that neither bit rate nor position is constant."""
    samples = round(seconds * rate)
    level = 0.05 + 0.25 * (np.arange(samples) // (rate // 3) % 2)[:, np.newaxis]
    return level * np.random.default_rng([7, samples]).uniform(-1, 1, (samples, channels))


def write(path: Path, audio: np.ndarray, kind: tuple[str, str] = ("WAV", "PCM_16"), rate: int = RATE) -> Path:
    soundfile.write(path, audio, 48_000 if kind[1] == "OPUS" else rate, format=kind[0], subtype=kind[1])
    return path


def remux(path: Path, source: Path, container: str, codec: str, options: dict[str, str] | None = None) -> Path:
    """Encode `source` with FFmpeg's own encoder; no external program."""
    with av.open(str(source)) as read, av.open(str(path), "w", format=container, options=options or {}) as written:
        stream = written.add_stream(codec, rate=read.streams.audio[0].rate)
        stream.bit_rate = 128_000
        for frame in read.decode(audio=0):
            frame.pts = None
            written.mux(stream.encode(frame))
        written.mux(stream.encode(None))
    return path


def cut(source: Path, length: int) -> Path:
    path = source.with_name(f"cut_{length}_{source.name}")
    path.write_bytes(source.read_bytes()[:length])
    return path


def unstated(source: Path, length: int | None = None) -> Path:
    """An MP3 without its first frame, which holds no audio but the Xing header, cut at `length`."""
    content = source.read_bytes()
    path = source.with_name(f"unstated_{length}_{source.name}")
    path.write_bytes(content[content.index(content[:2], 10) :][:length])
    return path


def reason(path: Path, **window: int) -> str:
    with pytest.raises(ClipRejected) as caught:
        decode(path, **window)
    assert "\n" not in str(caught.value)
    assert str(path) not in str(caught.value)
    return caught.value.reason


@pytest.fixture
def lenient(tmp_path: Path) -> Callable[[str], Path]:
    """Makes 4 s recordings in containers that only PyAV opens."""
    source = write(tmp_path / "source.wav", noise(4, rate=48_000), rate=48_000)

    def make(kind: str) -> Path:
        container, codec, options = {
            "m4a": ("mp4", "aac", {}),
            "faststart": ("mp4", "aac", {"movflags": "faststart"}),
            "fragmented": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}),
            "webm": ("webm", "libopus", {}),
            "mka": ("matroska", "alac", {}),
            "adts": ("adts", "aac", {}),
            "wma": ("asf", "wmav2", {}),
        }[kind]
        return remux(tmp_path / kind, source, container, codec, options)

    return make


# ---- real recordings


def rows(shared: Path, folder: str) -> list[dict[str, str]]:
    with (shared / "recordings/formats.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["path"].startswith(f"{folder}/")]


def test_every_real_format_decodes_to_its_stated_rate_channels_and_length(shared: Path) -> None:
    for row in rows(shared, "formats"):
        path = shared / "recordings" / row["path"]
        decoded = decode(path)
        assert decoded.samples.dtype == np.float32
        assert np.isfinite(decoded.samples).all()
        if row["duration_s"]:
            assert (decoded.sample_rate, len(decoded.samples)) == (int(row["sample_rate"]), int(row["channels"]))
            # The table's durations are FFmpeg's, which keeps the padding of a last Vorbis packet.
            slack_s = 0.05 if decoded.codec == "vorbis" else 0.001
            assert abs(decoded.samples.shape[1] / decoded.sample_rate - float(row["duration_s"])) <= slack_s, path


def test_codecs_are_named_as_ffmpeg_names_them_without_byte_order(shared: Path) -> None:
    for row in rows(shared, "formats"):
        if row["codec"]:
            codec = decode(shared / "recordings" / row["path"]).codec
            expected = row["codec"] if row["codec"] == "pcm_u8" else row["codec"].removesuffix("le").removesuffix("be")
            assert codec == {"mp3float": "mp3", "adpcm_ima_qt": "adpcm_ima"}.get(expected, expected)


def test_both_decoders_agree_sample_by_sample_on_real_pcm(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pcm = [row for row in rows(shared, "formats") if row["codec"].startswith("pcm_")]
    assert len(pcm) > 30
    first = [decode(shared / "recordings" / row["path"]) for row in pcm]
    monkeypatch.setattr("pipeline._decode._open_sound", lambda file, is_cut_off: "not tried")
    for row, by_soundfile in zip(pcm, first, strict=True):
        by_pyav = decode(shared / "recordings" / row["path"])
        assert (by_soundfile.decoder, by_pyav.decoder) == ("soundfile", "pyav")
        np.testing.assert_array_equal(by_pyav.samples, by_soundfile.samples, err_msg=row["path"])


def test_every_broken_file_is_refused(shared: Path) -> None:
    for row in rows(shared, "broken"):
        assert reason(shared / "recordings" / row["path"]) in ("unreadable", "truncated"), row["path"]


def test_every_tiny_file_is_too_short(shared: Path) -> None:
    assert {reason(shared / "recordings" / row["path"]) for row in rows(shared, "tiny")} == {"too_short"}


@pytest.mark.parametrize("kind", LOSSLESS + LOSSY)
def test_decoding_in_blocks_equals_one_read(
    tmp_path: Path, kind: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "whole", noise(5), kind)
    expected, _ = soundfile.read(path, dtype="float32")
    for block_samples in (len(expected), len(expected) - 1, 7_919):
        monkeypatch.setattr("pipeline._decode._BLOCK_SAMPLES", block_samples)
        np.testing.assert_array_equal(decode(path).samples.T, expected)


# ---- content, not names


@pytest.mark.parametrize("kind", LOSSLESS + LOSSY)
@pytest.mark.parametrize(
    "name", ["clip.txt", "clip.raw", "clip.mp3", "-clip", "a\nb'\"", os.fsdecode(b"\xff\xfe.wav"), "http:x"]
)
def test_the_name_never_matters(tmp_path: Path, kind: tuple[str, str], name: str) -> None:
    path = write(tmp_path / "plain", noise(0.2, 1), kind).rename(tmp_path / name)
    expected, rate = soundfile.read(os.fsencode(path) if not name.endswith("raw") else os.open(path, os.O_RDONLY))
    decoded = decode(path)
    assert decoded.sample_rate == rate
    np.testing.assert_array_equal(decoded.samples[0], expected.astype(np.float32))


@pytest.mark.parametrize("kind", ["m4a", "faststart", "fragmented", "webm", "mka", "adts", "wma"])
def test_what_soundfile_cannot_open_is_decoded_by_pyav(lenient: Callable[[str], Path], kind: str) -> None:
    decoded = decode(lenient(kind))
    assert (decoded.decoder, decoded.sample_rate, len(decoded.samples)) == ("pyav", 48_000, 2)
    assert abs(decoded.samples.shape[1] - 4 * 48_000) <= 3_000
    assert decoded.stated_samples is None if kind == "adts" else abs(decoded.stated_samples - 4 * 48_000) < 3_000
    assert 0.05 < np.abs(decoded.samples).mean() < 0.15


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    wav = write(tmp_path / "real.wav", noise(1))
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{wav}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {wav.name}\n",
        f"ffconcat version 1.0\nfile 'file:{wav}'\n",
    ):
        playlist = tmp_path / "list.wav"
        playlist.write_text(text)
        assert reason(playlist) == "unreadable"


def test_a_video_without_sound_has_no_audio(tmp_path: Path) -> None:
    path = tmp_path / "silent.mkv"
    with av.open(str(path), "w", format="matroska") as written:
        stream = written.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        for _ in range(5):
            written.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        written.mux(stream.encode(None))
    assert reason(path) == "no_audio"


def test_what_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    os.mkfifo(tmp_path / "pipe.wav")
    assert reason(tmp_path) == "unreadable"
    assert reason(tmp_path / "pipe.wav") == "unreadable"
    assert reason(tmp_path / "empty.wav") == "unreadable"
    assert reason(tmp_path / "absent.wav") == "missing"
    assert reason(tmp_path / "empty.wav/x") == "missing"
    assert reason(tmp_path / ("long" * 100)) == "missing"


def test_what_the_machine_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "clip.wav", noise(1))

    def failing(error: OSError) -> Callable[[Path], os.stat_result]:
        def refuse(path: Path) -> os.stat_result:
            raise error

        return refuse

    monkeypatch.setattr("pipeline._decode.os.stat", failing(PermissionError(13, "Permission denied")))
    assert reason(path) == "unreadable"
    monkeypatch.setattr("pipeline._decode.os.stat", failing(OSError(23, "Too many open files in system")))
    with pytest.raises(OSError, match="Too many open files"):  # not this clip's fault: it must not cost the clip
        decode(path)


# ---- damage


@pytest.mark.parametrize("kind", [*LOSSLESS, ("W64", "PCM_16"), ("RF64", "PCM_16"), *LOSSY])
def test_a_copy_cut_anywhere_is_refused(tmp_path: Path, kind: tuple[str, str]) -> None:
    whole = write(tmp_path / "whole", noise(3), kind)
    size = whole.stat().st_size
    decode(whole)
    # In its header, and at several places in its audio.
    for length in (10, 50, 300, 5_000, size // 3, size * 2 // 3, size * 9 // 10, size - 1_000, size - 200):
        assert reason(cut(whole, length)) in ("truncated", "unreadable", "damaged"), length


def test_a_cut_big_endian_wav_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.wav"
    soundfile.write(whole, noise(1), RATE, endian="BIG")
    assert whole.read_bytes()[:4] == b"RIFX"
    assert decode(whole).samples.shape == (2, RATE)
    assert reason(cut(whole, 50_000)) == "truncated"


@pytest.mark.parametrize("kind", ["m4a", "faststart", "fragmented", "webm", "mka", "wma"])
def test_a_cut_copy_only_pyav_opens_is_refused(lenient: Callable[[str], Path], kind: str) -> None:
    whole = lenient(kind)
    size = whole.stat().st_size
    for length in (10, 300, size // 3, size * 2 // 3, size * 9 // 10, size - 500):
        assert reason(cut(whole, length)) in ("truncated", "unreadable", "damaged"), length


def test_a_wav_whose_header_is_sloppy_by_its_own_size_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.wav", noise(1, 1))
    content = bytearray(path.read_bytes())
    for size in (len(content), 0xFFFFFFFF):  # counts the header; left by a writer that could not seek
        content[40:44] = struct.pack("<I", size)
        path.write_bytes(content)
        assert decode(path).samples.shape == (1, RATE)


def test_a_flac_whose_header_leaves_its_length_out(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.flac", noise(3), ("FLAC", "PCM_16"))
    expected = decode(whole).samples
    content = bytearray(whole.read_bytes())
    content[21] &= 0xF0  # 36 bits of total samples, 0 is "unknown": what a streaming encoder writes
    content[22:26] = bytes(4)
    whole.write_bytes(content)
    decoded = decode(whole)
    np.testing.assert_array_equal(decoded.samples, expected)
    assert decoded.stated_samples is None
    assert probe_duration_ms(whole) is None
    for start_ms, length_ms in ((0, 1000), (1500, 1000), (2500, 1000)):
        window = decode(whole, start_ms=start_ms, duration_ms=length_ms).samples
        np.testing.assert_array_equal(
            window, expected[:, start_ms * RATE // 1000 : (start_ms + length_ms) * RATE // 1000]
        )
    assert reason(cut(whole, len(content) // 2)) == "damaged"


def test_an_id3_tag_in_front_changes_nothing(tmp_path: Path) -> None:
    for kind in (("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_16")):
        plain = write(tmp_path / "plain", noise(2), kind)
        tagged = tmp_path / "tagged"
        tagged.write_bytes(b"ID3\x04\x00\x00\x00\x00\x27\x10" + bytes(0x27 << 7 | 0x10) + plain.read_bytes())
        np.testing.assert_array_equal(decode(tagged).samples, decode(plain).samples)
        assert decode(tagged).decoder == "soundfile"
        assert reason(cut(tagged, tagged.stat().st_size * 2 // 3)) in ("truncated", "damaged")


def test_a_flipped_flac_never_passes_as_whole(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.flac", noise(2), ("FLAC", "PCM_16"))
    content, expected = whole.read_bytes(), decode(whole).samples
    random = np.random.default_rng(5)
    refused = 0
    for position in random.integers(0, len(content), 120):
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(random.integers(8))
        path = tmp_path / "flipped.flac"
        path.write_bytes(flipped)
        try:
            samples = decode(path).samples
        except ClipRejected:
            refused += 1
        else:
            np.testing.assert_array_equal(samples, expected)  # in a comment or in padding, a flip is harmless
    assert refused > 100


def test_a_hole_in_an_ogg_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.ogg", noise(4), ("OGG", "VORBIS"))
    content = bytearray(whole.read_bytes())
    page = content.find(b"OggS", len(content) // 2)
    content[page + 200] ^= 0xFF  # its checksum drops the page
    path = tmp_path / "hole.ogg"
    path.write_bytes(content)
    assert reason(path) in ("truncated", "damaged")


def test_an_ogg_cut_between_two_pages_is_refused(tmp_path: Path) -> None:
    for kind in (("OGG", "VORBIS"), ("OGG", "OPUS")):
        whole = write(tmp_path / "whole.ogg", noise(4), kind)
        assert reason(cut(whole, whole.read_bytes().rfind(b"OggS"))) == "truncated"


def test_the_letters_of_a_page_within_the_last_one_are_audio(tmp_path: Path) -> None:
    """Four given bytes occur by chance in the last page of one Ogg file in 100,000."""
    whole = write(tmp_path / "whole.ogg", noise(4), ("OGG", "VORBIS"))
    content = bytearray(whole.read_bytes())
    at = content.rfind(b"OggS") + 300
    content[at : at + 5] = b"OggS\x5a"
    whole.write_bytes(content)
    with whole.open("rb", buffering=0) as file:
        assert cut_off(file) is None


def test_a_header_is_not_walked_for_ever(tmp_path: Path) -> None:
    class Counting(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            Counting.reads += 1
            return super().read(size)

    zeros = bytes(2_000_000)  # 250,000 empty chunks
    boxes = (b"\0\0\0\x08free") * 250_000
    for content in (b"RIFF\xff\xff\xff\x7fWAVE" + zeros, b"\0\0\0\x08ftyp" + boxes):
        Counting.reads = 0
        assert cut_off(Counting(content)) is None
        assert Counting.reads < 101_000


def test_a_webm_that_only_states_its_duration_is_held_to_it(lenient: Callable[[str], Path]) -> None:
    whole = lenient("webm")
    content = bytearray(whole.read_bytes())
    segment = content.index(b"\x18\x53\x80\x67") + 4
    content[segment : segment + 8] = b"\x01" + b"\xff" * 7  # size unknown, as live writers leave it
    whole.write_bytes(content)
    assert decode(whole).samples.shape[1] > 3.9 * 48_000
    assert reason(cut(whole, len(content) * 2 // 3)) == "truncated"


def test_ffmpeg_never_gets_a_flac_that_libsndfile_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg passes frames whose checksum is wrong."""

    def refuse(*_: object, **__: object) -> soundfile.SoundFile:
        raise soundfile.LibsndfileError(1)

    flac, wav = write(tmp_path / "a", noise(1), ("FLAC", "PCM_16")), write(tmp_path / "b", noise(1))
    monkeypatch.setattr("pipeline._decode._Forward", refuse)
    assert decode(wav).decoder == "pyav"
    assert reason(flac) == "unreadable"
    assert probe_duration_ms(flac) is None


def test_not_finite(tmp_path: Path) -> None:
    for value in (np.nan, np.inf, -np.inf):
        audio = noise(1)
        audio[1234, 1] = value
        assert reason(write(tmp_path / "bad.wav", audio, ("WAV", "FLOAT"))) == "not_finite"
    huge = write(tmp_path / "huge.wav", noise(1) * 1e30, ("WAV", "FLOAT"))  # its squares overflow, it does not
    assert np.abs(decode(huge).samples).max() > 1e28


def test_too_short_begins_below_one_frame(tmp_path: Path) -> None:
    frame = RATE * 40 // 1000
    assert decode(write(tmp_path / "frame.wav", noise(1)[:frame])).samples.shape[1] == frame
    assert reason(write(tmp_path / "short.wav", noise(1)[: frame - 1])) == "too_short"


def test_unsupported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(write(tmp_path / "slow.wav", noise(1, 1), rate=500)) == "unsupported"
    assert reason(write(tmp_path / "wide.wav", noise(0.1, 65))) == "unsupported"
    monkeypatch.setattr("pipeline._decoded.MAX_DECODED_VALUES", 2 * RATE)
    long = write(tmp_path / "long.wav", noise(1.5))
    assert reason(long) == "unsupported"
    assert decode(long, start_ms=500, duration_ms=1000).samples.shape == (2, RATE)


def test_the_size_limit_holds_in_pyav(lenient: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    long = lenient("m4a")
    monkeypatch.setattr("pipeline._decoded.MAX_DECODED_VALUES", 2 * 48_000)
    assert reason(long) == "unsupported"
    assert decode(long, start_ms=2500, duration_ms=1000).samples.shape == (2, 48_000)


def test_an_mp3_without_a_stated_length_is_decoded_to_its_end(tmp_path: Path) -> None:
    """libsndfile guesses the length from the first frames and stops there: a loud start hides a quiet rest."""
    samples = np.arange(12 * RATE)[:, np.newaxis]
    audio = np.where(samples < 2 * RATE, noise(12, 1) * 3, 1e-4 * np.sin(samples * 0.02))
    stated = tmp_path / "stated.mp3"
    soundfile.write(stated, audio, RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0)
    assert decode(stated).stated_samples == 12 * RATE
    guessed = unstated(stated)
    with soundfile.SoundFile(guessed) as sound:
        assert abs(sound.frames - 12 * RATE) > RATE
    decoded = decode(guessed)
    assert (decoded.decoder, decoded.stated_samples) == ("pyav", None)
    assert abs(decoded.samples.shape[1] - 12 * RATE) < 3_000
    assert probe_duration_ms(guessed) is None


# ---- windows


@pytest.mark.parametrize("kind", LOSSLESS + LOSSY)
def test_windows_equal_slices(tmp_path: Path, kind: tuple[str, str]) -> None:
    path = write(tmp_path / "whole", noise(7.3), kind)
    assert_windows_tile(path, decode(path))


@pytest.mark.parametrize("quality", [0.1, 0.99])
def test_windows_of_mp3_equal_slices(tmp_path: Path, quality: float) -> None:
    """A seek in the second of these lands in another part of a frame: up to 0.36 of full scale away."""
    path = tmp_path / "whole.mp3"
    soundfile.write(
        path, noise(7.3, 2, 22_050), 22_050, format="MP3", bitrate_mode="CONSTANT", compression_level=quality
    )
    assert_windows_tile(path, decode(path))


@pytest.mark.parametrize("kind", ["m4a", "fragmented", "webm", "mka", "adts"])
def test_windows_of_pyav_equal_slices(lenient: Callable[[str], Path], kind: str) -> None:
    path = lenient(kind)
    assert_windows_tile(path, decode(path))


def assert_windows_tile(path: Path, whole: Decoded) -> None:
    rate, samples = whole.sample_rate, whole.samples.shape[1]
    duration_ms = samples * 1000 // rate
    for start_ms, length_ms in (
        (0, 1000),
        (333, 777),
        (2000, 1500),
        (duration_ms - 501, 1000),
        (duration_ms - 77, 10_000),
    ):
        window = decode(path, start_ms=start_ms, duration_ms=length_ms)
        expected = whole.samples[:, start_ms * rate // 1000 : (start_ms + length_ms) * rate // 1000]
        np.testing.assert_array_equal(window.samples, expected)
        assert window.stated_samples == whole.stated_samples
    pieces = [decode(path, start_ms=start, duration_ms=997).samples for start in range(0, duration_ms - 40, 997)]
    tiled = np.concatenate(pieces, axis=1)
    assert samples - tiled.shape[1] <= 40 * rate // 1000 + 1  # a last piece below one frame is not asked for
    np.testing.assert_array_equal(tiled, whole.samples[:, : tiled.shape[1]])
    assert reason(path, start_ms=duration_ms + 5_000, duration_ms=1000) == "too_short"


@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_a_cut_copy_still_gives_the_windows_before_the_cut(tmp_path: Path, kind: tuple[str, str]) -> None:
    whole = write(tmp_path / "whole", noise(9), kind)
    half = cut(whole, whole.stat().st_size // 2)
    np.testing.assert_allclose(  # the one MP3 comes from libsndfile, the other from FFmpeg
        decode(half, start_ms=1000, duration_ms=2000).samples,
        decode(whole, start_ms=1000, duration_ms=2000).samples,
        atol=1e-4 if kind[0] == "MP3" else 0,
    )
    assert reason(half) in ("truncated", "damaged")
    assert reason(half, start_ms=4000, duration_ms=2000) in ("truncated", "damaged")


def test_windows_that_make_no_sense(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.wav", noise(1))
    with pytest.raises(UsageError):
        decode(path, start_ms=-1)
    with pytest.raises(UsageError):
        decode(path, duration_ms=0)


# ---- probe


@pytest.mark.parametrize("kind", LOSSLESS + LOSSY)
def test_probe_equals_the_decoded_length(tmp_path: Path, kind: tuple[str, str]) -> None:
    path = write(tmp_path / "whole", noise(1.2345), kind)
    decoded = decode(path)
    assert probe_duration_ms(path) == decoded.samples.shape[1] * 1000 // decoded.sample_rate


def test_probe_of_what_states_nothing_is_none(lenient: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(np.random.default_rng(1).bytes(3_000))
    assert probe_duration_ms(tmp_path / "noise.wav") is None
    assert probe_duration_ms(tmp_path / "absent") is None
    assert probe_duration_ms(tmp_path) is None
    assert probe_duration_ms(lenient("adts")) is None
    stated = probe_duration_ms(lenient("m4a"))
    assert stated is not None
    assert abs(stated - 4_000) < 60


# ---- manners


def test_nothing_is_printed_and_no_descriptor_is_left_open(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = []
    for kind in [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("WAV", "PCM_16")]:
        whole = write(tmp_path / kind[1], noise(1), kind)
        paths += [
            cut(whole, 200),
            unstated(whole, 500) if kind[0] == "MP3" else whole,
            cut(whole, whole.stat().st_size // 2),
            whole,
        ]
    before = len(os.listdir("/proc/self/fd"))
    for path in paths:
        try:
            decode(path)
        except ClipRejected:
            probe_duration_ms(path)
    assert len(os.listdir("/proc/self/fd")) == before
    assert capfd.readouterr() == ("", "")
