"""What the audio codecs cost: bytes, and time to encode and decode, on generated soundscapes or on a folder.

    python -m benchmarks.audio_codecs
    python -m benchmarks.audio_codecs --folder RECORDINGS

All figures are per 10 s of 16 kHz mono, so that short recordings count as what they are. Encoding includes decoding
again and comparing, as every writer does. Times are of one thread:
CPU ms, which hold on a busy machine, with wall ms beside them; medians over the runs, in each of which every codec has
its turn. About 20 seconds.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline import (
    CLIP_MS,
    AudioSpec,
    ClipRejected,
    clip_from_file,
    generate_soundscape,
    scan_folder,
    soundscape_seed,
)
from shards import AUDIO_CODECS, decode_audio, encode_audio

Pcm = npt.NDArray[np.int16]
SPEC = AudioSpec()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="recordings of any format, instead of generated soundscapes")
    parser.add_argument("--clips", type=int, default=64, help="soundscapes to generate (default: 64)")
    parser.add_argument("--runs", type=int, default=7, help="runs to take the median of (default: 7)")
    parsed = parser.parse_args(arguments)
    clips = recorded(parsed.folder) if parsed.folder else generated(parsed.clips)
    if not clips:
        parser.error(f"{parsed.folder}: has no recording that decodes")
    print(table(clips, parsed.runs))


def generated(clips: int) -> list[Pcm]:
    made = [generate_soundscape(soundscape_seed(0, "weak", number)).waveform for number in range(clips)]
    return [np.rint(waveform * 32767).astype(np.int16) for waveform in made]


def recorded(folder: Path) -> list[Pcm]:
    """The first 10 s of every recording below `folder` that can be stored."""
    clips = []
    for entry in scan_folder(folder):
        try:
            clips.append(clip_from_file(folder / entry.path, spec=SPEC).pcm)
        except ClipRejected as rejected:
            print(f"without {entry.path}: {rejected}")
    return clips


def table(clips: Sequence[Pcm], runs: int) -> str:
    spans = sum(map(len, clips)) * 1000 / (SPEC.sample_rate * CLIP_MS)
    members = {codec: [encode_audio(pcm, SPEC, codec) for pcm in clips] for codec in AUDIO_CODECS}
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(runs):
        for codec in AUDIO_CODECS:
            for what, work in (
                ("encode", _encoding(clips, codec)),
                ("decode", _decoding(clips, members[codec], codec)),
            ):
                times.setdefault((codec, what), []).append(_timed(work, spans))
    cpu = {key: statistics.median(run[0] for run in values) for key, values in times.items()}
    wall = {key: statistics.median(run[1] for run in values) for key, values in times.items()}
    size = {codec: sum(map(len, members[codec])) / spans for codec in AUDIO_CODECS}
    lines = [
        f"{len(clips)} clips, {spans * CLIP_MS / 1000:.0f} s; per 10 s, CPU ms (wall ms)",
        "",
        "| codec | bytes | of FLAC's | encode | decode | of FLAC's |",
        "|---|---|---|---|---|---|",
    ]
    for codec in AUDIO_CODECS:
        encode, decode = (f"{cpu[codec, what]:.3f} ({wall[codec, what]:.3f})" for what in ("encode", "decode"))
        bytes_of_flac, time_of_flac = size[codec] / size["flac"], cpu[codec, "decode"] / cpu["flac", "decode"]
        lines.append(
            f"| {codec} | {size[codec]:,.0f} | {bytes_of_flac:.2f} | {encode} | {decode} | {time_of_flac:.3f} |"
        )
    return "\n".join(lines)


def _encoding(clips: Sequence[Pcm], codec: str) -> Callable[[], None]:
    def work() -> None:
        for pcm in clips:
            encode_audio(pcm, SPEC, codec)

    return work


def _decoding(clips: Sequence[Pcm], members: Sequence[bytes], codec: str) -> Callable[[], None]:
    def work() -> None:
        for pcm, content in zip(clips, members, strict=True):
            decode_audio(content, SPEC, len(pcm), codec, codec)

    return work


def _timed(work: Callable[[], None], spans: float) -> tuple[float, float]:
    """CPU and wall ms per 10 s of audio."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    work()
    return (time.process_time() - cpu_s) * 1e3 / spans, (time.perf_counter() - wall_s) * 1e3 / spans


if __name__ == "__main__":
    main()
