"""Label codecs side by side: bytes, errors, what becomes of the distillation loss, time; ours and what others do.

    python -m benchmarks.label_codecs [--logits FILE.npz] [--clips N]

FILE.npz holds `logits` [clip, class, time]; without it, logits are generated. "Loss" is the BCE that distillation
minimises, with the decoded label as the target at temperature T, for a student that says what the teacher says and for
one that is off by normal noise of one logit. "Worst class": of the classes whose probability exceeds 0.01 anywhere.
Times are CPU time on one core, the median over runs; decoding is to float32 logits, or probabilities where a codec
holds these.

Then what the compiled encoder saves, whose bytes are those of NumPy, and labels per second of several threads.

Last comes how short the levels of `small` and `faithful` could be written: the code length of an adaptive arithmetic
coder that knows of each cell its class's level, how much and how long ago it changed, and learns from all clips.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import lgamma, log
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.codecs import _compiled
from shards.codecs._label import decode_label, encode_label
from shards.codecs._label_fit import fit_levels
from shards.codecs._label_levels import MAX_LOGIT, LossyCodec, levels

Floats = npt.NDArray[np.floating]
TEMPERATURES = (1, 2, 4)
ZSTD = pa.Codec("zstd", compression_level=3)


@dataclass(frozen=True, kw_only=True)
class Codec:
    """encode: float32 logits [class, time] -> bytes; decode: back to logits, or to probabilities."""

    name: str
    encode: Callable[[Floats], bytes]
    decode: Callable[[bytes, tuple[int, ...]], Floats]
    probabilities: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, help="a .npz with `logits` [clip, class, time]")
    parser.add_argument("--clips", type=int, default=40)
    parsed = parser.parse_args(arguments)
    if parsed.logits:
        logits = np.load(parsed.logits)["logits"][: parsed.clips].astype(np.float32)
        source = parsed.logits.name
    else:
        logits, source = generated_logits(parsed.clips), "generated logits, seed 0"
    print(f"{len(logits)} clips of {logits.shape[1:]}, {source}; {os.cpu_count()} cores\n")
    report(logits)
    encoders(logits)
    limits(logits)


def report(logits: Floats) -> None:
    rows = [(codec, *measured(codec, logits)) for codec in all_codecs()]
    print("| codec | B/clip | max error p, T = 1 | T = 2 | T = 4 | mean error p | encode ms | decode ms |")
    print("|---|---|---|---|---|---|---|---|")
    x = logits.astype(np.float64)
    for codec, size, decoded, encode_ms, decode_ms in rows:
        errors = [np.abs(at(decoded, codec, t) - sigmoid(x / t)) for t in TEMPERATURES]
        cells = " | ".join(f"{error.max():.1e}" for error in errors)
        print(f"| {codec.name} | {size:,.0f} | {cells} | {errors[0].mean():.1e} | {encode_ms:.2f} | {decode_ms:.3f} |")
    noisy = x + np.random.default_rng(0).normal(0, 1, x.shape)
    likely = sigmoid(x).max(axis=(0, 2)) > 0.01
    print(f"\nChange of the loss in percent: mean / worst of {likely.sum()} classes\n")
    names = ("student = teacher", "teacher + noise")
    print("| codec | " + " | ".join(f"{name}, T = {t}" for name in names for t in TEMPERATURES) + " |")
    print("|---|" + "---|" * 2 * len(TEMPERATURES))
    for codec, _, decoded, *_ in rows:
        cells = [loss_change(at(decoded, codec, t), x, s, t, likely) for s in (x, noisy) for t in TEMPERATURES]
        print(f"| {codec.name} | " + " | ".join(f"{mean:+.3f} / {worst:.2f}" for mean, worst in cells) + " |")


def measured(codec: Codec, logits: Floats) -> tuple[float, Floats, float, float]:
    """(bytes a clip, what was decoded, ms to encode a clip, ms to decode one)."""
    shape = logits.shape[1:]
    codec.decode(codec.encode(logits[0]), shape)  # tables are built on first use
    encoded, encode_ms = timed(lambda: [codec.encode(clip) for clip in logits], 1)
    decoded = np.stack([codec.decode(content, shape) for content in encoded])

    def decode() -> None:
        for content in encoded:
            codec.decode(content, shape)

    _, decode_ms = timed(decode, 9)
    return sum(map(len, encoded)) / len(encoded), decoded, encode_ms / len(logits), decode_ms / len(logits)


def encoders(logits: Floats) -> None:
    counts = sorted({1, 2, os.cpu_count() or 1})
    heads = " | ".join(f"labels/s, {count} thread{'s' * (count > 1)}" for count in counts)
    print(f"\n| codec | NumPy, CPU ms | compiled, CPU ms | {heads} |\n|{'---|' * (3 + len(counts))}")
    for codec in ("faithful", "small", "master"):

        def encode(clip: Floats, codec: str = codec) -> bytes:
            return encode_label(clip, shape=clip.shape, kind="logit", codec=codec)

        times, contents = [], []
        native = _compiled.native
        for _compiled.native in (None, native):
            found, ms = timed(lambda encode=encode: [encode(clip) for clip in logits], 5)
            times.append(f"{ms / len(logits):.2f}")
            contents.append(found)
        if contents[0] != contents[1]:
            raise SystemExit(f"{codec}: the compiled encoder writes other bytes than NumPy")
        rates = []
        for count in counts:
            with ThreadPoolExecutor(count) as threads:
                before = time.perf_counter()
                for _ in range(5):
                    list(threads.map(encode, logits))
                rates.append(f"{5 * len(logits) / (time.perf_counter() - before):,.0f}")
        print(f"| {codec} | {' | '.join([*times, *rates])} |")


def timed(work: Callable[[], object], runs: int) -> tuple[object, float]:
    times, result = [], None
    for _ in range(runs):
        before = time.process_time()
        result = work()
        times.append((time.process_time() - before) * 1e3)
    return result, float(np.median(times))


def at(decoded: Floats, codec: Codec, temperature: int) -> Floats:
    """Decoded labels as probabilities at a temperature, float64."""
    values = decoded.astype(np.float64)
    if not codec.probabilities:
        return sigmoid(values / temperature)
    yes, no = values ** (1 / temperature), (1 - values) ** (1 / temperature)
    return yes / (yes + no)


def loss_change(
    target: Floats, teacher: Floats, student: Floats, temperature: int, likely: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """(of the mean loss, the largest of a likely class), in percent."""
    x = student / temperature
    was = (np.logaddexp(0, x) - sigmoid(teacher / temperature) * x).mean(axis=(0, 2))
    per_class = (np.logaddexp(0, x) - target * x).mean(axis=(0, 2)) / was - 1
    return 100 * float(np.average(per_class, weights=was)), 100 * float(np.abs(per_class[likely]).max())


def all_codecs() -> list[Codec]:
    ours = [
        Codec(
            name=name,
            encode=lambda x, name=name: encode_label(x, shape=x.shape, kind="logit", codec=name),
            decode=lambda content, shape: decode_label(content),
        )
        for name in ("npy", "master", "faithful", "small")
    ]
    affine = np.linspace(-12, 8, 256)
    theta = np.sin(np.linspace(0, np.pi / 2, 256)) ** 2
    return [
        Codec(
            name="float16, zstd",
            encode=lambda x: compress(x.astype(np.float16)),
            decode=lambda content, shape: expand(content, shape, np.float16).astype(np.float32),
        ),
        in_levels("u8 affine [-12, 8], delta", lambda x: (np.clip(x, -12, 8) + 12) / 20, affine, False),
        in_levels("u8 hybrid, delta", hybrid, inverse_of_hybrid(), True),
        in_levels("u8 asin(sqrt p), delta", angle, theta, True),
        in_levels("u8 linear p, delta", lambda x: 1 / (1 + np.exp(-x)), np.linspace(0, 1, 256), True),
        *ours,
    ]


def in_levels(name: str, unit: Callable[[Floats], Floats], table: Floats, probabilities: bool) -> Codec:
    """256 equal steps of unit(logit) in [0, 1], differences along time, zstd; decoded through a table."""
    values = table.astype(np.float32)

    def encode(x: Floats) -> bytes:
        steps = np.rint(255 * unit(x)).astype(np.uint8)
        return compress(np.diff(steps, axis=-1, prepend=np.uint8(0)))

    def decode(content: bytes, shape: tuple[int, ...]) -> Floats:
        return values[np.add.accumulate(expand(content, shape, np.uint8), axis=-1, dtype=np.uint8)]

    return Codec(name=name, encode=encode, decode=decode, probabilities=probabilities)


def angle(x: Floats) -> Floats:
    return np.arcsin(np.sqrt(1 / (1 + np.exp(-x)))) * (2 / np.pi)


def hybrid(x: Floats) -> Floats:
    return 0.75 * angle(x) + 0.25 * (np.clip(x, -12, 8) + 12) / 20


def inverse_of_hybrid() -> Floats:
    x = np.linspace(-30, 30, 600_001)
    return sigmoid(np.interp(np.linspace(0, 1, 256), hybrid(x), x))


def compress(values: Floats) -> bytes:
    content: bytes = ZSTD.compress(values.tobytes(), asbytes=True)
    return content


def expand(content: bytes, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Floats:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(ZSTD.decompress(content, decompressed_size=size), dtype).reshape(shape)


def limits(logits: Floats) -> None:
    print("\nThe levels by an ideal adaptive coder, B/clip\n\n| codec | stored | given no context | given the best |")
    print("|---|---|---|---|")
    names: tuple[LossyCodec, ...] = ("faithful", "small")
    for codec in names:
        clipped = np.clip(logits, -MAX_LOGIT, MAX_LOGIT)
        chosen = np.stack([fit_levels(clip, levels(codec)).levels for clip in clipped]).astype(np.int64)
        stored = np.mean([len(encode_label(clip, shape=clip.shape, kind="logit", codec=codec)) for clip in logits])
        without, with_ = (bits / 8 / len(logits) for bits in level_bits(chosen, len(levels(codec).logits)))
        print(f"| {codec} | {stored:,.0f} | {without:,.0f} | {with_:,.0f} |")


def level_bits(chosen: npt.NDArray[np.int64], table: int) -> tuple[float, float]:
    """Bits for levels [clip, class, time]: with no context for a step, and with a good one."""
    rows = chosen.reshape(-1, chosen.shape[-1])
    steps = np.diff(rows, axis=1)
    nothing = np.zeros_like(steps)
    first = code_bits(rows[:, 0], nothing[:, 0])
    moved = steps != 0
    # Of the past of each cell alone: frames since the last change, its direction, the changes of the last 8 and 40.
    frame = np.arange(steps.shape[1])
    last = np.maximum.accumulate(np.where(moved, frame, -1), axis=1)
    last = np.concatenate((np.full((len(rows), 1), -1), last[:, :-1]), axis=1)
    direction = np.where(last < 0, 0, np.sign(np.take_along_axis(steps, np.maximum(last, 0), axis=1)))
    age = np.where(last < 0, 5, np.digitize(frame - last, (2, 3, 5, 9)))
    before = np.concatenate((np.zeros((len(rows), 1), np.int64), np.cumsum(moved, axis=1)), axis=1)
    recent = [before[:, :-1] - before[:, np.maximum(frame - span, 0)] for span in (8, 40)]
    level = rows[:, :-1] * 12 // table
    context = [np.digitize(recent[0], (1, 2, 3, 5)), np.digitize(recent[1], (1, 2, 4, 8, 14, 22)), age, direction + 1]
    known = level
    for values, size in zip(context, (5, 7, 6, 3), strict=True):
        known = known * size + values
    return first + code_bits(steps, nothing), first + code_bits(steps, known)


def code_bits(symbols: npt.NDArray[np.int64], context: npt.NDArray[np.int64], prior: float = 0.03) -> float:
    """Code length of an adaptive coder with a Dirichlet prior of `prior` a symbol: the same in any order."""
    _, symbol = np.unique(symbols, return_inverse=True)
    alphabet = int(symbol.max()) + 1
    pairs, counts = np.unique(context.ravel() * alphabet + symbol.ravel(), return_counts=True)
    totals = np.bincount(np.unique(pairs // alphabet, return_inverse=True)[1], weights=counts)
    seen = sum(lgamma(count + prior) - lgamma(prior) for count in counts.tolist())
    whole = sum(lgamma(alphabet * prior) - lgamma(total + alphabet * prior) for total in totals.tolist())
    return -(seen + whole) / log(2)


def sigmoid(logits: Floats) -> Floats:
    small = np.exp(-np.abs(logits))
    return np.where(logits < 0, small, 1) / (1 + small)


def generated_logits(clips: int, classes: int = 447, frames: int = 250, seed: int = 0) -> Floats:
    """Classes at levels of their own, drifting; a few of them active for a while. [clip, class, time] float32."""
    rng = np.random.default_rng([seed, classes])
    level = rng.normal(-11, 1.5, (1, classes, 1)) + rng.normal(0, 1, (clips, classes, 1))
    drift = np.cumsum(rng.normal(0, 0.15, (clips, classes, frames)), axis=2)
    drift -= drift.mean(axis=2, keepdims=True)
    active = np.zeros_like(drift)
    for clip in range(clips):
        for class_ in rng.choice(classes, 12, replace=False):
            start, length = rng.integers(0, frames), rng.integers(5, frames)
            ramp = np.clip(np.minimum(np.arange(frames) - start, start + length - np.arange(frames)) / 5, -1, 1)
            active[clip, class_] = (ramp + 1) / 2 * rng.uniform(4, 14)
    return np.clip(level + drift + active, -16.1, 8).astype(np.float32)


if __name__ == "__main__":
    main()
