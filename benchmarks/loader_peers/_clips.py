"""The clips every loader stores: the same PCM, FLAC bytes and float16 logits, and keys to tell them by."""

import io
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import soundfile
import torch

from benchmarks.label_codecs import generated_logits
from pipeline import AudioSpec
from shards import encode_audio, encode_label

SPEC = AudioSpec()
FRAME_SAMPLES = 640
SHAPE = (447, 250)
BATCH_SIZE = 64
CLIPS_PER_SHARD = 125
_ROLLS, _ROLL_FRAMES = 10, 25


class Clips:
    """`count` clips, the first half in source `weak`, the second in `strong`.

    Coloured noise whose level wanders, loud enough for about 207 KB of FLAC, as real recordings have; logits that take
    about as much room in codec `small` as those of a real model. Every tenth clip is generated, the others are the
    same rolled by a second or more along time, labels likewise: no two are equal.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.sources = {"weak": range(count // 2), "strong": range(count // 2, count)}

    @staticmethod
    def key(number: int) -> str:
        return f"clip{number:07d}_0"

    @staticmethod
    def number(key: str) -> int:
        return int(key.removeprefix("clip").removesuffix("_0"))

    def pcm(self, number: int) -> npt.NDArray[np.int16]:
        """[160000]."""
        return np.roll(_generated_pcm(number // _ROLLS), number % _ROLLS * _ROLL_FRAMES * FRAME_SAMPLES)

    def logits(self, number: int) -> npt.NDArray[np.float16]:
        """[447, 250], class-major."""
        return np.roll(_generated_logits(number // _ROLLS), number % _ROLLS * _ROLL_FRAMES, axis=1)

    def flac(self, number: int) -> bytes:
        return encode_audio(self.pcm(number), SPEC, "flac")

    def npy(self, number: int) -> bytes:
        return encode_label(self.logits(number).astype(np.float32), shape=SHAPE, kind="logit", codec="npy")

    def shards(self, source: str) -> Iterator[range]:
        """The numbers of a source's clips, shard by shard."""
        numbers = self.sources[source]
        for first in range(0, len(numbers), CLIPS_PER_SHARD):
            yield numbers[first : first + CLIPS_PER_SHARD]


def decoded_flac(content: bytes) -> torch.Tensor:
    """As the peers' users decode: float32 [160000]."""
    waveform, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    return torch.from_numpy(waveform)


def decoded_npy(content: bytes) -> torch.Tensor:
    """As the peers' users decode: float32 [447, 250]."""
    return torch.from_numpy(np.load(io.BytesIO(content))).float()


@cache
def _generated_pcm(number: int) -> npt.NDArray[np.int16]:
    rng = np.random.default_rng([1, number])
    samples = SPEC.max_samples
    hz = np.fft.rfftfreq(samples, 1 / SPEC.sample_rate)
    spectrum = rng.normal(size=(2, len(hz))) / np.maximum(hz, 60) ** rng.uniform(0.4, 1.1)
    noise = np.fft.irfft(spectrum[0] + 1j * spectrum[1], samples)
    seconds = np.arange(samples) / SPEC.sample_rate
    envelope = np.exp(np.interp(seconds, np.arange(0, 10.5, 0.5), rng.normal(0, 0.7, 21)))
    level = np.exp(rng.normal(np.log(855), 0.7)) / np.sqrt(np.mean(noise**2))
    pcm: npt.NDArray[np.int16] = np.clip(np.rint(noise * envelope * level), -32_768, 32_767).astype(np.int16)
    return pcm


@cache
def _generated_logits(number: int) -> npt.NDArray[np.float16]:
    clean = generated_logits(1, *SHAPE, seed=number)[0]
    noise = np.random.default_rng([2, number]).normal(0, 0.21, SHAPE)
    return np.asarray(clean + noise, np.float16)
