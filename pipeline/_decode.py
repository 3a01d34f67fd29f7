"""Decode a recording of any format: soundfile where it can, PyAV where it cannot; by content, never by file name.

A decoder's success proves nothing: cut-off copies decode without an error, so every length is checked against what the
header and the structure of the file state.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from pipeline._containers import cut_off, mp3_states_length
from pipeline._decoded import MAX_DECODED_VALUES, Decoded, Window, check_size, check_supported, joined, reason_text
from pipeline._errors import ClipRejected, UsageError
from pipeline._grid import HOP_MS

_BLOCK_SAMPLES = 1 << 20  # covers a 10 s clip in one read
_NO_LENGTH = "an MP3 without a length to trust"
_LENGTH_UNKNOWN = (1 << 63) - 1  # what libsndfile has for the FLAC of a streaming encoder
# Where libsndfile's seek is exact. In Vorbis and MP3 it is not (another page, a part of a frame), so everything else is
# decoded from its beginning: test_windows_equal_slices.
_EXACT_SEEK_FORMATS = {"WAV", "WAVEX", "AIFF", "AU", "FLAC", "W64", "RF64", "CAF"}
_EXACT_SEEK_CODECS = {
    "PCM_S8": "pcm_s8",
    "PCM_U8": "pcm_u8",
    "PCM_16": "pcm_s16",
    "PCM_24": "pcm_s24",
    "PCM_32": "pcm_s32",
    "FLOAT": "pcm_f32",
    "DOUBLE": "pcm_f64",
    "ULAW": "pcm_mulaw",
    "ALAW": "pcm_alaw",
}
_CODECS = {**_EXACT_SEEK_CODECS, "MPEG_LAYER_III": "mp3", "MS_ADPCM": "adpcm_ms", "IMA_ADPCM": "adpcm_ima"}


def decode(path: Path, *, start_ms: int = 0, duration_ms: int | None = None) -> Decoded:
    """All of a recording, or the samples [start_ms * rate // 1000, (start_ms + duration_ms) * rate // 1000) of it.

    Consecutive windows tile a recording exactly; one that reaches past the end is as long as what is there. A window is
    judged by what it covers: a copy that was cut off still gives the windows before the cut.
    Raises ClipRejected (missing, unreadable, damaged, truncated, no_audio, too_short, not_finite, unsupported)."""
    if start_ms < 0 or (duration_ms is not None and duration_ms <= 0):
        raise UsageError(f"cannot decode {duration_ms} ms from {start_ms} ms; start at 0 or later, last 1 ms or more")
    with _open(path) as file:
        missing = cut_off(file)
        if missing and start_ms == 0 and duration_ms is None:
            raise ClipRejected("truncated", missing)
        decoded, at_end = _decode_open(file, Window(start_ms, duration_ms), is_cut_off=missing is not None)
    if missing and at_end:
        raise ClipRejected("truncated", missing)
    samples = decoded.samples.shape[1]
    if samples * 1000 < HOP_MS * decoded.sample_rate:
        raise ClipRejected("too_short", f"{samples} samples at {decoded.sample_rate} Hz are less than {HOP_MS} ms")
    _check_finite(decoded.samples)
    return decoded


def probe_duration_ms(path: Path) -> int | None:
    """What the header states, in whole ms rounded down, without decoding; None where it does not say or is broken."""
    try:
        with _open(path) as file:
            sound = _open_sound(file, is_cut_off=cut_off(file) is not None)
            if isinstance(sound, str):
                from pipeline._pyav import stated_duration_ms

                return stated_duration_ms(file)
            with sound:
                stated = _stated_samples(sound)
                return None if stated is None else stated * 1000 // int(sound.samplerate)
    except ClipRejected:
        return None


def _open(path: Path) -> BinaryIO:
    """Unbuffered: the decoders share its position. Other OS errors are the machine's trouble, not the clip's."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ClipRejected("unreadable", "it is a folder or device, not a file")
        if found.st_size == 0:
            raise ClipRejected("unreadable", "the file is empty")
        return open(path, "rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError):
        raise ClipRejected("missing", "there is no such file") from None
    except PermissionError:
        raise ClipRejected("unreadable", "no permission to read it") from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG):
            raise
        raise ClipRejected("missing", str(error.strerror)) from None


def _decode_open(file: BinaryIO, window: Window, *, is_cut_off: bool) -> tuple[Decoded, bool]:
    """The window, and whether it reaches the end of what the decoder has."""
    sound = _open_sound(file, is_cut_off=is_cut_off)
    if not isinstance(sound, str):
        with sound:
            return _decode_soundfile(sound, window)
    from pipeline._pyav import decode_pyav  # PyAV only where it is needed: it comes with the extra for making shards

    try:
        return decode_pyav(file, window)
    except ClipRejected as error:
        if error.reason != "unreadable":
            raise
        raise ClipRejected("unreadable", f"libsndfile: {sound}; FFmpeg: {error.detail}") from None


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """Reads on without the seek that soundfile adds to every read, which fails in FLAC of unknown length."""

    def seekable(self) -> bool:
        return False


def _open_sound(file: BinaryIO, *, is_cut_off: bool) -> soundfile.SoundFile | str:
    """Or why this is not for libsndfile. It gets a descriptor, so no extension can lead it, and owns its position."""
    states_length = mp3_states_length(file)
    # libsndfile stops at its guess of the length of an MP3 that states none, and prints warnings about a cut one.
    if states_length is False or (states_length and is_cut_off):
        return _NO_LENGTH
    try:
        sound = _Forward(file.fileno(), closefd=False)
    except soundfile.LibsndfileError as error:
        return reason_text(error).rstrip(".")
    if sound.subtype == "MPEG_LAYER_III" and not states_length:  # MP3 in WAV, or behind other bytes
        sound.close()
        return _NO_LENGTH
    return sound


def _stated_samples(sound: soundfile.SoundFile) -> int | None:
    return None if sound.frames == _LENGTH_UNKNOWN else int(sound.frames)


def _decode_soundfile(sound: soundfile.SoundFile, window: Window) -> tuple[Decoded, bool]:
    channels, sample_rate, stated = int(sound.channels), int(sound.samplerate), _stated_samples(sound)
    check_supported(channels, sample_rate)
    start, stop = window.samples(sample_rate)
    available = start + MAX_DECODED_VALUES // channels + 1 if stated is None else stated
    end = available if stop is None else min(stop, available)
    position = 0
    blocks: list[npt.NDArray[np.float32]] = []
    try:
        if stated is not None:
            check_size(channels, end - start)
        if 0 < start < end and sound.format in _EXACT_SEEK_FORMATS and sound.subtype in _EXACT_SEEK_CODECS:
            position = int(sound.seek(start))
        while position < end:
            wanted = min(end - position, _BLOCK_SAMPLES)
            block = sound.read(wanted, dtype="float32", always_2d=True)
            if position + len(block) > start:
                blocks.append(block[max(0, start - position) :])
            position += len(block)
            if len(block) < wanted:
                break
    except soundfile.LibsndfileError as error:
        raise ClipRejected("damaged", f"decoding fails after {position} samples: {reason_text(error)}") from None
    if stated is None:
        check_size(channels, position - start)
    elif position < end:
        raise ClipRejected("truncated", f"decodes to {position} samples, its header states {stated}")
    codec = "flac" if sound.format == "FLAC" else _CODECS.get(sound.subtype, sound.subtype.lower())
    samples = joined(blocks, channels)
    decoded = Decoded(samples=samples, sample_rate=sample_rate, codec=codec, decoder="soundfile", stated_samples=stated)
    return decoded, position < end or end == stated


def _check_finite(samples: npt.NDArray[np.float32]) -> None:
    flat = samples.ravel(order="K")
    # The sum of squares is finite unless a value is not, or is huge: one fast pass for every sound clip.
    with np.errstate(over="ignore", invalid="ignore"):
        energy = np.dot(flat, flat)
    if not np.isfinite(energy) and not np.isfinite(flat).all():
        raise ClipRejected("not_finite", f"{np.count_nonzero(~np.isfinite(flat))} samples are NaN or infinite")
