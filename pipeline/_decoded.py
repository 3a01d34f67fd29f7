"""What decoding gives and the limits both decoders hold it to."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline._errors import ClipRejected

MAX_DECODED_VALUES = 3600 * 48_000 * 2  # samples x channels: an hour of 48 kHz stereo, 1.4 GB of float32
MAX_CHANNELS = 64
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A recording, or a window of one.

    `samples` is float32 [channels, n], full scale 1.0, with the overshoot of lossy codecs, in any memory order.
    `stated_samples` counts the whole recording by its header; None where the header only estimates or does not say."""

    samples: npt.NDArray[np.float32]
    sample_rate: int
    codec: str
    decoder: Literal["soundfile", "pyav"]
    stated_samples: int | None


@dataclass(frozen=True)
class Window:
    """[start_ms, start_ms + duration_ms) of a recording, to its end without a duration."""

    start_ms: int
    duration_ms: int | None

    def samples(self, sample_rate: int) -> tuple[int, int | None]:
        """First sample and one past the last, in integers: windows that touch in ms touch in samples."""
        stop_ms = None if self.duration_ms is None else self.start_ms + self.duration_ms
        return self.start_ms * sample_rate // 1000, None if stop_ms is None else stop_ms * sample_rate // 1000


def check_supported(channels: int, sample_rate: int) -> None:
    if not 1 <= channels <= MAX_CHANNELS or not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        can_take = f"1 to {MAX_CHANNELS} channels at {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz can be taken"
        raise ClipRejected("unsupported", f"{channels} channels at {sample_rate} Hz; {can_take}")


def check_size(channels: int, samples: int) -> None:
    if channels * samples > MAX_DECODED_VALUES:
        size = f"{samples} samples of {channels} channels are more than {MAX_DECODED_VALUES} values"
        raise ClipRejected("unsupported", f"{size}; cut the recording into clips")


def joined(blocks: list[npt.NDArray[np.float32]], channels: int) -> npt.NDArray[np.float32]:
    """Blocks of [n, channels] as one [channels, n]; a single block, the usual case, is not copied."""
    whole = blocks[0] if len(blocks) == 1 else np.concatenate([*blocks, np.zeros((0, channels), np.float32)])
    samples: npt.NDArray[np.float32] = whole.T
    return samples


def reason_text(error: Exception) -> str:
    """A decoder's message in one line, without the name it made up for an open file."""
    message = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
    return " ".join(message.split()) or type(error).__name__
