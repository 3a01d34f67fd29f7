"""Audio codecs against soundfile, the standard library's wave module and arithmetic; damage and hostile chunks."""

import io
import struct
import subprocess
import sys
import threading
import wave

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import AudioSpec, FormatError, IntegrityError, UsageError
from shards import (
    AUDIO_CODECS,
    audio_suffix,
    check_audio_codec,
    decode_audio,
    decode_fast,
    encode_audio,
    max_audio_bytes,
)

MONO = AudioSpec(sample_rate=16_000, clip_ms=1_000)
FOA = AudioSpec(sample_rate=24_000, layout="foa", clip_ms=1_000)
RATES = (16_000, 24_000, 32_000, 44_100)
SIGNALS = ("silence", "constant", "square", "alternating", "noise", "quiet", "tone", "late")
FAST_HEADER = 14


def signal(kind: str, samples: int, seed: int) -> np.ndarray:
    """Int16 [samples]; `square` and `alternating` are full scale, where differences wrap around."""
    time = np.arange(samples)
    rng = np.random.default_rng(seed)
    made = {
        "silence": lambda: np.zeros(samples),
        "constant": lambda: np.full(samples, -32768),
        "square": lambda: np.where(time // 25 % 2, 32767, -32768),
        "alternating": lambda: np.where(time % 2, -32768, 32767),
        "noise": lambda: rng.integers(-32768, 32768, samples),
        "quiet": lambda: rng.integers(-2, 3, samples),
        "tone": lambda: np.rint(20_000 * np.sin(0.05 * time)),
        "late": lambda: np.where(time < samples // 2, 0, rng.integers(-9_000, 9_000, samples)),
    }
    return made[kind]().astype(np.int16)


def clip(spec: AudioSpec, kind: str, samples: int, seed: int = 0) -> np.ndarray:
    channels = [signal(kind, samples, seed + channel) // (1 + channel % 3) for channel in range(spec.channels)]
    return channels[0] if spec.channels == 1 else np.stack(channels)


@pytest.mark.parametrize("codec", AUDIO_CODECS)
@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from(RATES),
    layout=st.sampled_from(("mono", "foa")),
    kind=st.sampled_from(SIGNALS),
    share=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_every_codec_is_lossless_and_within_its_bound(codec, rate, layout, kind, share, seed):
    spec = AudioSpec(sample_rate=rate, layout=layout, clip_ms=200)
    pcm = clip(spec, kind, 1 + round(share * (spec.max_samples - 1)), seed)
    content = encode_audio(pcm, spec, codec)
    assert type(content) is bytes
    assert len(content) <= max_audio_bytes(spec, codec)
    decoded = decode_audio(content, spec, pcm.shape[-1], codec, "here")
    assert decoded.dtype == np.int16
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, pcm)
    assert encode_audio(pcm.copy(order="F"), spec, codec) == content


@pytest.mark.parametrize("codec", AUDIO_CODECS)
@pytest.mark.parametrize("samples", [*range(1, 18), 63, 64, 65, 127, 128, 129, 16_383, 16_384, 16_385, 160_000])
def test_lengths_around_the_blocks_of_the_libraries(codec, samples):
    spec = AudioSpec()
    for kind in SIGNALS:
        pcm = signal(kind, samples, samples)
        np.testing.assert_array_equal(
            decode_audio(encode_audio(pcm, spec, codec), spec, samples, codec, "here"), pcm, kind
        )


@pytest.mark.parametrize("spec", [MONO, FOA], ids=["mono", "foa"])
@pytest.mark.parametrize("kind", SIGNALS)
def test_other_software_reads_flac_and_wav(spec, kind):
    pcm = clip(spec, kind, 999)
    for codec in ("flac", "pcm16"):
        content = encode_audio(pcm, spec, codec)
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            assert (file.format.lower(), file.subtype, file.samplerate) == (
                audio_suffix(codec), "PCM_16", spec.sample_rate,
            )  # fmt: skip
            np.testing.assert_array_equal(file.read(dtype="int16").T, pcm)
    with wave.open(io.BytesIO(encode_audio(pcm, spec, "pcm16"))) as file:
        assert file.getparams()[:4] == (spec.channels, 2, spec.sample_rate, 999)
        interleaved = np.frombuffer(file.readframes(999), "<i2")
    np.testing.assert_array_equal(interleaved.reshape(999, spec.channels).T.reshape(pcm.shape), pcm)


def test_wav_has_the_canonical_header():
    stdlib = io.BytesIO()
    with wave.open(stdlib, "wb") as file:
        file.setparams((4, 2, 24_000, 0, "NONE", ""))
        file.writeframes(clip(FOA, "noise", 77).T.tobytes())
    assert encode_audio(clip(FOA, "noise", 77), FOA, "pcm16") == stdlib.getvalue()


@pytest.mark.parametrize("spec", [MONO, FOA], ids=["mono", "foa"])
def test_fast_is_what_the_format_says(spec):
    """Undone by hand, bit by bit, with the chunk's one block stored: Blosc leaves so little uncompressed."""
    pcm = clip(spec, "noise", 5)
    content = encode_audio(pcm, spec, "fast")
    assert content[:FAST_HEADER] == struct.pack("<4sBBII", b"SEDa", 1, spec.channels, spec.sample_rate, 5)
    chunk = content[FAST_HEADER:]
    assert struct.unpack_from("<BBxBIII", chunk) == (2, 1, 2, 10 * spec.channels, 10 * spec.channels, len(chunk))
    assert chunk[2] & 0x02  # stored as it is, not even shuffled
    differences = np.frombuffer(chunk, "<u2", offset=16).astype(int)
    sums = np.cumsum(differences) % 65_536
    np.testing.assert_array_equal(np.where(sums < 32_768, sums, sums - 65_536).reshape(pcm.shape), pcm)


@pytest.mark.parametrize("spec", [MONO, FOA], ids=["mono", "foa"])
def test_fast_is_read_without_a_sidecar(spec):
    pcm = clip(spec, "tone", 4_321)
    decoded, sample_rate = decode_fast(encode_audio(pcm, spec, "fast"))
    np.testing.assert_array_equal(decoded, pcm)
    assert sample_rate == spec.sample_rate


def test_fast_is_smaller_than_pcm_where_there_is_something_to_gain():
    sizes = {kind: len(encode_audio(signal(kind, 16_000, 0), MONO, "fast")) for kind in SIGNALS}
    assert sizes["noise"] == 32_000 + FAST_HEADER + 16
    assert max(sizes["silence"], sizes["constant"]) < 400
    assert max(sizes["quiet"], sizes["tone"], sizes["late"]) < 32_000 * 0.8


@pytest.mark.parametrize("codec", AUDIO_CODECS)
def test_another_spec_length_or_codec_is_refused(codec):
    content = encode_audio(clip(MONO, "tone", 1_000), MONO, codec)
    others = [(MONO, 999), (MONO, 1_001), (FOA, 1_000), (FOA, 250), (AudioSpec(sample_rate=32_000), 1_000)]
    for spec, samples in others:
        with pytest.raises(FormatError, match=r"^here: "):
            decode_audio(content, spec, samples, codec, "here")
    for other in set(AUDIO_CODECS) - {codec}:
        with pytest.raises(FormatError, match=r"^here: "):
            decode_audio(content, MONO, 1_000, other, "here")


@pytest.mark.parametrize("codec", AUDIO_CODECS)
def test_cut_off_or_prolonged_is_refused(codec):
    content = encode_audio(clip(MONO, "tone", 1_000), MONO, codec)
    damaged = [content[:length] for length in (*range(60), len(content) // 2, len(content) - 1)]
    if codec != "flac":  # libFLAC stops after the last frame; the CRC32C of the member is about what follows
        damaged.append(content + b"\0")
    for other in damaged:
        with pytest.raises(FormatError, match=r"^here: "):
            decode_audio(other, MONO, 1_000, codec, "here")


@pytest.mark.parametrize("codec", AUDIO_CODECS)
def test_a_flipped_bit_is_refused_or_gives_a_clip_of_the_same_shape(codec):
    """Which samples they are, checksum and identity say; here nothing may crash, hang or change shape."""
    pcm = clip(MONO, "late", 2_000)
    content = encode_audio(pcm, MONO, codec)
    rng = np.random.default_rng(0)
    header = {"flac": 0, "pcm16": 44, "fast": FAST_HEADER + 8}[codec]
    for number in range(400):
        flipped = bytearray(content)
        position = number // 8 if number < 8 * header else int(rng.integers(len(content)))
        flipped[position] ^= 1 << number % 8
        try:
            decoded = decode_audio(bytes(flipped), MONO, 2_000, codec, "here")
        except FormatError:
            continue
        # Blosc's two free flags are the only header bits without a meaning that is checked here.
        assert position >= header or (codec == "fast" and position == FAST_HEADER + 2)
        assert decoded.shape == pcm.shape


def test_hostile_chunks_neither_crash_nor_grow():
    """In a process of its own: a C library that reads or writes where it must not would take the tests with it."""
    run = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, timeout=120, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert run.returncode == 0, run.stderr
    refused, decoded = map(int, run.stdout.split())
    assert refused > 1_000
    assert decoded > 100


def _hostile() -> None:
    """Chunks whose stated sizes are right and whose insides are not: that is what reaches Blosc."""
    import resource

    rng = np.random.default_rng(0)
    clips = [signal(kind, samples, 0) for kind in SIGNALS for samples in (1, 70, 1_000, 40_000)]
    members = [encode_audio(pcm, AudioSpec(), "fast") for pcm in clips]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = decoded = 0
    for _ in range(4_000):
        which = int(rng.integers(len(clips)))
        content = bytearray(members[which])
        first = min(FAST_HEADER + 16, len(content) - 1)
        last = len(content) if rng.random() < 0.5 else min(len(content), first + 40)
        for _ in range(int(rng.integers(1, 9))):
            content[int(rng.integers(first, last))] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
        if rng.random() < 0.2:
            del content[int(rng.integers(first, len(content))) :]
        flags = int(rng.choice([0x24, 0x26, 0x34, 0x36, content[FAST_HEADER + 2]]))
        stated = 2 * len(clips[which])
        block = int(rng.choice([1, 2, 16, 127, stated, min(stated, 65_536)]))
        sizes = struct.pack("<BBBBIII", 2, 1, flags, 2, stated, min(block, stated), len(content) - FAST_HEADER)
        content[FAST_HEADER : FAST_HEADER + 16] = sizes
        try:
            decode_audio(bytes(content), AudioSpec(), len(clips[which]), "fast", "here")
            decoded += 1
        except FormatError:
            refused += 1
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown_kb > 20_000:
        raise SystemExit(f"memory grew by {grown_kb} kB")
    print(refused, decoded)


def test_stated_sizes_are_refused_before_blosc_sees_them(monkeypatch):
    content = encode_audio(clip(MONO, "tone", 1_000), MONO, "fast")
    monkeypatch.setattr("numcodecs.blosc.decompress", lambda *_: pytest.fail("was decompressed"))
    sizes = {"content": FAST_HEADER + 4, "block": FAST_HEADER + 8, "chunk": FAST_HEADER + 12}
    for offset in sizes.values():
        for value in (0, 2_001, 2**31 - 1, 2**31, 2**32 - 1):
            bomb = bytearray(content)
            bomb[offset : offset + 4] = struct.pack("<I", value)
            with pytest.raises(FormatError, match=r"^here: its chunk"):
                decode_audio(bytes(bomb), MONO, 1_000, "fast", "here")
    for offset, value in ((0, 3), (1, 2), (2, 0x44), (2, 0x21), (2, 0x84), (3, 4)):  # other formats, codecs, filters
        other = bytearray(content)
        other[FAST_HEADER + offset] = value
        with pytest.raises(FormatError, match=r"^here: its chunk"):
            decode_audio(bytes(other), MONO, 1_000, "fast", "here")
    for samples, channels in ((2**32 - 1, 255), (0, 1), (1_000, 0)):
        bomb = struct.pack("<4sBBII", b"SEDa", 1, channels, 16_000, samples) + content[FAST_HEADER:]
        with pytest.raises(FormatError):
            decode_fast(bomb)
    for other in (b"", content[:13], b"RIFF" + content[4:], b"SEDa\2" + content[5:]):
        with pytest.raises(FormatError):
            decode_fast(other)


def test_no_more_than_the_stated_samples_of_a_long_flac_are_decoded():
    long = io.BytesIO()
    soundfile.write(long, np.arange(16_000 * 600).astype(np.int16), 16_000, format="FLAC", subtype="PCM_16")
    with pytest.raises(FormatError, match=r"^here: holds"):
        decode_audio(long.getvalue(), MONO, 1_000, "flac", "here")
    lying = bytearray(long.getvalue())
    lying[21:26] = (int.from_bytes(lying[21:26], "big") >> 36 << 36 | 1_000).to_bytes(5, "big")
    np.testing.assert_array_equal(decode_audio(bytes(lying), MONO, 1_000, "flac", "here"), np.arange(1_000))


@pytest.mark.parametrize("codec", AUDIO_CODECS)
def test_what_was_encoded_wrongly_is_not_handed_out(codec, monkeypatch):
    module = f"shards.codecs._audio_{codec}.encode"
    pcm, other = clip(MONO, "tone", 500), clip(MONO, "late", 500)
    for content in (encode_audio(other, MONO, codec), encode_audio(pcm[:-1], MONO, codec)):
        monkeypatch.setattr(module, lambda *_, content=content: content)
        with pytest.raises(IntegrityError, match="another try"):
            encode_audio(pcm, MONO, codec)


def test_what_a_codec_cannot_hold():
    with pytest.raises(UsageError, match="700000hz"):
        encode_audio(np.zeros(10, np.int16), AudioSpec(sample_rate=700_000), "flac")
    with pytest.raises(UsageError, match=r"'mp3', needs one of flac, pcm16, fast"):
        encode_audio(np.zeros(10, np.int16), MONO, "mp3")


@pytest.mark.parametrize("codec", AUDIO_CODECS)
@pytest.mark.parametrize("layout", ["mono", "foa"])
@pytest.mark.parametrize("rate", [1_000, 16_000, 65_575, 192_000, 655_350, 700_000, 768_000])
def test_whether_a_codec_can_hold_a_spec_is_known_before_any_clip(codec, layout, rate):
    """FLAC has whole Hz up to 65,535, then tens of Hz up to 655,350 (RFC 9639, 9.1.2); the others have every rate."""
    spec = AudioSpec(sample_rate=rate, layout=layout, clip_ms=200)
    if codec == "flac" and (rate > 655_350 or (rate > 65_535 and rate % 10)):
        with pytest.raises(UsageError, match=f"FLAC cannot hold {spec.name}"):
            check_audio_codec(codec, spec)
        return
    check_audio_codec(codec, spec)
    pcm = clip(spec, "noise", spec.max_samples)
    np.testing.assert_array_equal(decode_audio(encode_audio(pcm, spec, codec), spec, pcm.shape[-1], codec, "it"), pcm)


def test_a_codec_that_is_none_is_named():
    with pytest.raises(UsageError, match=r"'mp3', needs one of flac, pcm16, fast"):
        check_audio_codec("mp3", MONO)


def test_without_the_library_the_message_says_what_to_install():
    """Fresh process, numcodecs made impossible to import: the other codecs work, `fast` says what it needs."""
    code = """if True:
        import sys
        sys.modules["numcodecs"] = None
        import numpy
        from pipeline import AudioSpec, UsageError
        from shards import check_audio_codec, decode_audio, encode_audio
        pcm = numpy.arange(100, dtype=numpy.int16)
        for codec in ("flac", "pcm16"):
            check_audio_codec(codec, AudioSpec())
            assert (decode_audio(encode_audio(pcm, AudioSpec(), codec), AudioSpec(), 100, codec, "here") == pcm).all()
        for asked in (lambda: encode_audio(pcm, AudioSpec(), "fast"), lambda: check_audio_codec("fast", AudioSpec())):
            try:
                asked()
            except UsageError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert done.stdout.count("pip install 'sed-distill[fast]'") == 2


def test_no_codec_library_is_loaded_before_it_is_needed_nor_uses_threads():
    code = """if True:
        import sys, numpy
        from pipeline import AudioSpec
        from shards import decode_audio, encode_audio
        pcm = numpy.arange(100_000, dtype=numpy.int16)
        encode_audio(pcm, AudioSpec(), "flac")
        assert "numcodecs" not in sys.modules
        content = encode_audio(pcm, AudioSpec(), "fast")
        def threads():
            return [line for line in open("/proc/self/status") if line.startswith("Threads")]
        before = threads()
        for _ in range(3):
            decode_audio(content, AudioSpec(), len(pcm), "fast", "here")
        assert threads() == before, (before, threads())
        import numcodecs
        assert numcodecs.blosc.use_threads is False
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={"PYTHONPATH": ":".join(sys.path)})


@pytest.mark.parametrize("codec", AUDIO_CODECS)
def test_threads_may_decode_at_once(codec):
    clips = [clip(MONO, kind, 16_000) for kind in SIGNALS]
    members = [encode_audio(pcm, MONO, codec) for pcm in clips]
    wrong: list[int] = []

    def decode_all() -> None:
        for number, (content, pcm) in enumerate(zip(members, clips, strict=True)):
            if not np.array_equal(decode_audio(content, MONO, 16_000, codec, "here"), pcm):
                wrong.append(number)

    threads = [threading.Thread(target=decode_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


if __name__ == "__main__":
    _hostile()
