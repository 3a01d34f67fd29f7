"""Decode with FFmpeg's libraries what libsndfile cannot open: AAC, ALAC, WMA, WavPack, Speex, WebM, ..."""

from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt

from pipeline._decoded import Decoded, Window, check_size, check_supported, joined, reason_text
from pipeline._errors import ClipRejected

# How much shorter than its header a recording may be. Encoder delay and padding are counted in some headers and removed
# by the decoder: 704 samples seen in AAC, up to 4,096 in WMA (93 ms).
TRUNCATED_TOLERANCE_MS = 100

# The demuxers to use: plain containers. Playlists (hls, concat, dash) would open other files and addresses; FLAC is
# libsndfile's alone, because FFmpeg passes frames whose checksum is wrong. The first write down no duration: FFmpeg
# estimates it from the bit rate.
_ESTIMATE_DURATION = ("aac", "ac3", "amr", "dts", "eac3", "flv", "loas", "mp3", "mpeg", "mpegts", "voc", "xwma")
_STATE_DURATION = (
    *("aiff", "ape", "asf", "au", "avi", "caf", "matroska", "mov"),
    *("mpc", "mpc8", "ogg", "tta", "w64", "wav", "wv"),
)
# FFmpeg sample format, packed or planar -> numpy type, value of silence, full scale.
_FORMATS: dict[str, tuple[str, int, float]] = {
    "u8": ("u1", 128, 2.0**7),
    "s16": ("i2", 0, 2.0**15),
    "s32": ("i4", 0, 2.0**31),
    "s64": ("i8", 0, 2.0**63),
    "flt": ("f4", 0, 1.0),
    "dbl": ("f8", 0, 1.0),
}


def decode_pyav(file: BinaryIO, window: Window) -> tuple[Decoded, bool]:
    """The window of the first audio stream, and whether it reaches the end of the recording. Raises ClipRejected."""
    blocks: list[npt.NDArray[np.float32]] = []
    position = sample_rate = channels = start = 0
    stop: int | None = None
    at_end = True
    try:
        with _open(file) as container:
            stream = _audio_stream(container)
            codec = str(stream.codec_context.name).removesuffix("float")
            stated_s = _stated_duration_s(container, stream)
            for frame in container.decode(stream):  # flushes the decoder at the end
                values = _values(frame)
                if position == 0:
                    # The first frame knows: the header of an HE-AAC stream has half its rate.
                    sample_rate, channels = int(frame.sample_rate), values.shape[1]
                    check_supported(channels, sample_rate)
                    start, stop = window.samples(sample_rate)
                elif (sample_rate, channels) != (int(frame.sample_rate), values.shape[1]):
                    raise ClipRejected(
                        "unsupported", f"its sample rate or channel count changes after {position} samples"
                    )
                end = position + len(values) if stop is None else min(stop, position + len(values))
                if end > start:
                    blocks.append(values[max(0, start - position) : end - position])
                    check_size(channels, end - start)
                position += len(values)
                if stop is not None and position > stop:
                    at_end = False
                    break
    except (av.FFmpegError, UnicodeDecodeError) as error:
        if position == 0:
            raise ClipRejected("unreadable", reason_text(error)) from None
        raise ClipRejected("damaged", f"decoding fails after {position} samples: {reason_text(error)}") from None
    if position == 0:
        raise ClipRejected("unreadable", "its audio stream decodes to nothing")
    stated = None if stated_s is None else round(stated_s * sample_rate)
    if at_end and stated is not None and (stated - position) * 1000 > TRUNCATED_TOLERANCE_MS * sample_rate:
        raise ClipRejected("truncated", f"decodes to {position} samples, its header states {stated}")
    samples = joined(blocks, channels)
    return Decoded(samples=samples, sample_rate=sample_rate, codec=codec, decoder="pyav", stated_samples=stated), at_end


def stated_duration_ms(file: BinaryIO) -> int | None:
    """What the header states, in whole ms rounded down; None where it does not say or cannot be read."""
    try:
        with _open(file) as container:
            stated_s = _stated_duration_s(container, _audio_stream(container))
    except (av.FFmpegError, UnicodeDecodeError, ClipRejected):
        return None
    return None if stated_s is None else int(stated_s * 1000)


def _open(file: BinaryIO) -> Any:
    """The open file, never its name, which FFmpeg reads as an address. Tags that are not UTF-8 are let pass."""
    file.seek(0)
    options = {"format_whitelist": ",".join((*_ESTIMATE_DURATION, *_STATE_DURATION)), "protocol_whitelist": "none"}
    return av.open(file, mode="r", metadata_errors="replace", options=options)


def _audio_stream(container: Any) -> Any:
    if not container.streams.audio:
        raise ClipRejected("no_audio", f"a container ({container.format.name}) without an audio stream")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise ClipRejected("unreadable", "no decoder knows the codec of its audio stream")
    return stream


def _values(frame: Any) -> npt.NDArray[np.float32]:
    """Float32 [n, channels] of a frame. From its buffers, because PyAV's own conversion lacks s64."""
    name = str(frame.format.name)
    dtype, silence, scale = _FORMATS[name.removesuffix("p")]
    channels, samples = int(frame.layout.nb_channels), int(frame.samples)
    if name.endswith("p"):
        raw = np.stack([np.frombuffer(plane, dtype, count=samples) for plane in frame.planes], axis=1)
    else:
        raw = np.frombuffer(frame.planes[0], dtype, count=samples * channels).reshape(samples, channels)
    if scale == 1.0:
        return raw.astype(np.float32)
    return ((raw.astype(np.float64) - silence) / scale).astype(np.float32)


def _stated_duration_s(container: Any, stream: Any) -> float | None:
    if not set(_STATE_DURATION) & set(container.format.name.split(",")):
        return None
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:  # of several streams it is the longest one's
        return float(container.duration) / 1e6
    return None
