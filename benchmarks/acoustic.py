"""How far acoustic fingerprints can be trusted: verdicts on copies, shifted copies and other recordings.

    python -m benchmarks.acoustic                        generated soundscapes
    python -m benchmarks.acoustic --folder RECORDINGS    the first 10 s of every recording of a folder

Copies went through codecs, resamplers and filters; shifts are of the clip and of copies of it, by cutting the beginning
off or by putting silence before it. About a minute per 100 clips.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soxr

from pipeline import (
    AudioSpec,
    ClipRejected,
    acoustic_fingerprint,
    clip_from_file,
    compare_acoustic,
    scan_folder,
    write_split,
)

Pcm = npt.NDArray[np.int16]
Copy = tuple[Pcm, int]  # samples and their rate

RATE = AudioSpec().sample_rate
CODECS = {  # name: (PyAV's, container, sample rate, kbit/s)
    "mp3 48": ("libmp3lame", "mp3", RATE, 48),
    "mp3 128": ("libmp3lame", "mp3", RATE, 128),
    "opus 16": ("libopus", "ogg", 48_000, 16),
    "opus 32": ("libopus", "ogg", 48_000, 32),
    "aac 32": ("aac", "mp4", RATE, 32),
    "aac 64": ("aac", "mp4", RATE, 64),
}
OFFSETS_MS = (5, 10, 15, 20, 30)
SHIFTS_MS = tuple(40 * frames for frames in (1, 2, 3, 4, 5, 8, 12, 20, 25, 50))
SHIFTED_COPIES = ("as it is", "mp3 48", "opus 32", "8 kHz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder of recordings; default: generated soundscapes")
    parser.add_argument("--clips", type=int, default=60, help="generated soundscapes (default: 60)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        folder = arguments.folder
        if folder is None:
            write_split(temporary / "soundscapes", split="weak", clips=arguments.clips, seed=0, strong=False)
            folder = temporary / "soundscapes" / "audio"
        clips = dict(read_clips(folder))
        print(f"{len(clips)} clips, {np.median([len(clip) for clip in clips.values()]) / RATE:.1f} s (median)\n")
        verdicts, copied = compare_copies(clips, temporary)
    print_table(verdicts)
    print_pairs(clips, copied)
    print_cost()


def read_clips(folder: Path) -> Iterator[tuple[str, Pcm]]:
    for entry in scan_folder(folder):
        try:
            yield entry.path, clip_from_file(folder / entry.path, spec=AudioSpec()).pcm
        except ClipRejected as rejected:
            print(f"{entry.path} is left out: {rejected}")


def compare_copies(clips: dict[str, Pcm], temporary: Path) -> tuple[dict[str, Counter[str]], dict[str, bytes]]:
    """Counts of verdicts by what was done to the copy, and the fingerprints of the copies in low-rate mp3."""
    verdicts: dict[str, Counter[str]] = {}
    copied = {}

    def compare(row: str, stored: bytes, copy: Copy, lag_ms: int = 0) -> None:
        match = compare_acoustic(stored, acoustic_fingerprint(*copy))
        wrong = match.verdict == "shifted" and match.lag_ms != lag_ms
        verdicts.setdefault(row, Counter())["other lag" if wrong else match.verdict] += 1

    for name, clip in clips.items():
        stored = acoustic_fingerprint(clip, RATE)
        copies = dict(make_copies(clip, temporary))
        for row, copy in copies.items():
            compare(row, stored, copy)
        copied[name] = acoustic_fingerprint(*copies["mp3 48"])
        for row in SHIFTED_COPIES:
            for shift_ms in (*OFFSETS_MS, *SHIFTS_MS):
                for lag_ms in (shift_ms, -shift_ms):
                    samples, rate = copies[row]
                    if abs(lag_ms) * rate < 800 * len(samples):
                        compare(f"{shift_ms} ms {'apart' if shift_ms < 40 else 'shift'}", stored,
                                (moved(samples, lag_ms * rate // 1000), rate), lag_ms)  # fmt: skip
    return verdicts, copied


def make_copies(clip: Pcm, temporary: Path) -> Iterator[tuple[str, Copy]]:
    audio = clip.astype(np.float32)
    yield "as it is", (clip, RATE)
    for name, (codec, container, rate, kbit_s) in CODECS.items():
        yield name, (recoded(clip, temporary / f"copy.{container}", codec, rate, 1000 * kbit_s), RATE)
    for rate in (8_000, 11_025, 32_000, 44_100):
        yield f"{rate / 1000:g} kHz", (to_int16(soxr.resample(audio, RATE, rate)), rate)
    yield "8 kHz, aliased", (np.ascontiguousarray(clip[::2]), 8_000)
    yield "low-pass 3.5 kHz", (filtered(audio, lambda hz: 1 / (1 + (hz / 3500) ** 16)), RATE)
    yield "low-pass 7 kHz", (filtered(audio, lambda hz: 1 / (1 + (hz / 7000) ** 16)), RATE)
    yield "high-pass 100 Hz", (filtered(audio, lambda hz: 1 / (1 + (100 / np.maximum(hz, 1)) ** 8)), RATE)
    yield "-6 dB", (to_int16(audio / 2), RATE)
    peak = max(1.0, float(np.abs(audio).max()))
    yield "clipped by 6 dB", (to_int16(audio * (65_534 / peak)), RATE)
    noise = np.random.default_rng([len(clip), 0]).standard_normal(len(clip)) * np.sqrt(np.mean(audio**2))
    yield "noise, 40 dB SNR", (to_int16(audio + noise / 100), RATE)
    yield "noise, 20 dB SNR", (to_int16(audio + noise / 10), RATE)
    yield "20 ms longer", (np.pad(clip, (0, RATE // 50)), RATE)
    if len(clip) > RATE // 5:
        yield "100 ms shorter", (clip[: -RATE // 10], RATE)


def recoded(clip: Pcm, path: Path, codec: str, rate: int, bit_rate: int) -> Pcm:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, bit_rate=bit_rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(clip[np.newaxis], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0  # without a time the container cannot say what the encoder put before it
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return clip_from_file(path, spec=AudioSpec()).pcm


def filtered(audio: npt.NDArray[np.float32], gain: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Pcm:
    return to_int16(np.fft.irfft(np.fft.rfft(audio) * gain(np.fft.rfftfreq(len(audio), 1 / RATE)), len(audio)))


def to_int16(audio: npt.NDArray[np.floating]) -> Pcm:
    return np.clip(np.rint(audio), -32768, 32767).astype(np.int16)


def moved(clip: Pcm, samples: int) -> Pcm:
    """Later by `samples`, silence first; or earlier, without its beginning."""
    return np.pad(clip, (samples, 0)) if samples > 0 else clip[-samples:]


def print_table(verdicts: dict[str, Counter[str]]) -> None:
    columns = ("same", "shifted", "other lag", "different", "unknown")
    print(f"{'copy':<20}" + "".join(f"{column:>11}" for column in columns))
    for row, counts in verdicts.items():
        print(f"{row:<20}" + "".join(f"{counts[column]:>11}" for column in columns))


def print_pairs(clips: dict[str, Pcm], copied: dict[str, bytes]) -> None:
    counts: Counter[str] = Counter()
    found = []
    for name, clip in clips.items():
        stored = acoustic_fingerprint(clip, RATE)
        for other in clips:
            if other != name:
                match = compare_acoustic(stored, copied[other])
                counts[match.verdict] += 1
                if match.verdict in ("same", "shifted"):
                    found.append(f"  {name} and {other}: {match.verdict} {match.lag_ms} ms")
    print(f"\nevery clip against the mp3 copies of all others: {dict(counts)}", *found, sep="\n")


def print_cost() -> None:
    for rate in (16_000, 32_000):
        clip = np.random.default_rng([rate]).integers(-9999, 9999, 10 * rate).astype(np.int16)
        fingerprint = acoustic_fingerprint(clip, rate)
        start = time.process_time()
        for _ in range(50):
            acoustic_fingerprint(clip, rate)
        print(f"\nfingerprint of 10 s at {rate} Hz: {(time.process_time() - start) * 20:.2f} ms", end="")
    start = time.process_time()
    for _ in range(500):
        compare_acoustic(fingerprint, fingerprint)
    print(f"\ncomparison: {(time.process_time() - start) * 2:.3f} ms")


if __name__ == "__main__":
    main()
