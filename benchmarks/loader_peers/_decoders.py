"""Decoding alone: by library and number of threads, from memory into memory that is there."""

import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import soundfile

from benchmarks.loader_peers._clips import SHAPE, SPEC, Clips
from shards import encode_audio, encode_label
from shards.codecs import _compiled
from shards.codecs._kernels import NATIVE, decode_audio_into, decode_label_into, label_values

CLIPS = 64
_ROUNDS = 4


class Decoder(NamedTuple):
    """One way to decode `contents`. make: for each thread, what decodes one. native: with the compiled kernels."""

    title: str
    contents: Sequence[bytes]
    make: Callable[[], Callable[[bytes], object]]
    native: bool = False


def table(runs: int, threads: int) -> str:
    lines = [
        f"{CLIPS} clips of 10 s, and their labels; µs of CPU a clip on one thread, clips/s of 1 and {threads}",
        "",
        f"| decoder | bytes | µs CPU | clips/s | {threads} threads | times one |",
        "|---|---|---|---|---|---|",
    ]
    for decoder in decoders():
        with _kernels(decoder.native):
            alone = [_timed(decoder, 1) for _ in range(runs)]
            together = [_timed(decoder, threads) for _ in range(runs)]
        speed, beside = (statistics.median(wall for _, wall in times) for times in (alone, together))
        cpu_us = statistics.median(cpu for cpu, _ in alone) * 1e6
        size = statistics.mean(map(len, decoder.contents))
        cells = (decoder.title, f"{size:,.0f}", f"{cpu_us:,.0f}", f"{1 / speed:,.0f}", f"{1 / beside:,.0f}")
        lines.append(f"| {' | '.join(cells)} | {speed / beside:.2f} |")
    if not NATIVE:
        lines.append("\nwithout the compiled kernels, which are not built here")
    return "\n".join(lines)


def decoders() -> Iterator[Decoder]:
    clips = Clips(CLIPS)
    audio = {
        codec: [encode_audio(clips.pcm(number), SPEC, codec) for number in range(CLIPS)]
        for codec in ("flac", "fast", "pcm16")
    }
    labels = {
        codec: [
            encode_label(clips.logits(number).astype(np.float32), shape=SHAPE, kind="logit", codec=codec)
            for number in range(CLIPS)
        ]
        for codec in ("npy", "master", "small")
    }
    yield Decoder("FLAC, soundfile, float32", audio["flac"], lambda: _soundfile)
    yield from _miniaudio(audio["flac"])
    for native in (False, True) if NATIVE else (False,):
        how = "compiled" if native else "libraries and NumPy"
        for codec in audio:
            for dtype in ("int16", "float32"):
                yield Decoder(f"{codec}, {how}, {dtype}", audio[codec], _audio(codec, dtype), native)
        for codec in labels:
            yield Decoder(f"{codec}, {how}, probabilities", labels[codec], _label(codec, "probability"), native)
        yield Decoder(f"small, {how}, codes", labels["small"], _label("small", "code"), native)


def _audio(codec: str, dtype: str) -> Callable[[], Callable[[bytes], object]]:
    def make() -> Callable[[bytes], object]:
        out = np.empty(SPEC.max_samples, dtype)
        return lambda content: decode_audio_into(content, SPEC, SPEC.max_samples, codec, out, codec)

    return make


def _label(codec: str, what: Literal["probability", "code"]) -> Callable[[], Callable[[bytes], object]]:
    values = label_values("logit", codec, what=what)

    def make() -> Callable[[bytes], object]:
        out = np.empty(SHAPE, values.dtype)
        return lambda content: decode_label_into(content, SHAPE, "logit", codec, values, out, codec)

    return make


def _soundfile(content: bytes) -> object:
    return soundfile.read(io.BytesIO(content), dtype="float32")


def _miniaudio(contents: Sequence[bytes]) -> Iterator[Decoder]:
    """Another FLAC decoder, if it is installed."""
    try:
        import miniaudio
    except ModuleNotFoundError:
        return
    yield Decoder("FLAC, miniaudio, int16", contents, lambda: miniaudio.flac_read_s16)


@contextmanager
def _kernels(native: bool) -> Iterator[None]:
    kept = _compiled.native
    _compiled.native = kept if native else None
    try:
        yield
    finally:
        _compiled.native = kept


def _timed(decoder: Decoder, threads: int) -> tuple[float, float]:
    """(CPU, wall) seconds of one clip; every thread decodes all clips."""

    def work() -> None:
        decode = decoder.make()
        for _ in range(_ROUNDS):
            for content in decoder.contents:
                decode(content)

    with ThreadPoolExecutor(threads) as pool:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
        clips = threads * _ROUNDS * len(decoder.contents)
        return (time.process_time() - cpu_s) / clips, (time.perf_counter() - wall_s) / clips
