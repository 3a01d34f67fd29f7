"""How fast `verify` is: its hash and CRC passes against bare sha256 of the same tar, and its decoding pass in clips/s.

    python -m benchmarks.verify

One thread, one shard of generated soundscapes a codec, from the page cache. In each run bare sha256, the passes
without decoding (`verify --no-decode`) and those with it have their turn one after another; figures are medians of the
runs, the ratio that of the ratios. CPU beside wall: on a busy machine the CPU figures hold. About two minutes.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.audio_codecs import generated
from pipeline import AudioSpec, TargetSpec, audioset_strong_447
from shards import (
    AUDIO_CODECS,
    LABEL_CODECS,
    AudioShardWriter,
    AudioSidecar,
    LabelShardWriter,
    LabelSidecar,
    ShardKind,
    check_shard,
)

SPEC = AudioSpec()
DIFFERENT_CLIPS = 32
DIFFERENT_LABELS = 8


class Times(NamedTuple):
    """Seconds of one pass."""

    cpu: float
    wall: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=400, help="clips a shard (default: 400)")
    parser.add_argument("--runs", type=int, default=7, help="runs to take the median of (default: 7)")
    parsed = parser.parse_args(arguments)
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        sidecar = None
        for codec in AUDIO_CODECS:
            sidecar = write_audio(Path(folder) / codec, codec, parsed.clips)
            print(row(sidecar, "audio", parsed.runs), flush=True)
        if sidecar is not None:
            for codec in LABEL_CODECS:
                labels = write_labels(Path(folder) / f"labels-{codec}", sidecar, codec)
                print(row(labels, "labels", parsed.runs), flush=True)


HEADER = (
    "| shard | MB | sha256, MB/s (CPU) | without decoding, MB/s (CPU) | share (CPU) | with decoding, clips/s (CPU) |\n"
    "|---|---|---|---|---|---|"
)


def row(sidecar: AudioSidecar | LabelSidecar, kind: ShardKind, runs: int) -> str:
    """One line of the table."""
    passes = (
        lambda: bare_sha256(sidecar.tar_path),
        lambda: whole(sidecar.path, kind, decode=False),
        lambda: whole(sidecar.path, kind, decode=True),
    )
    measured = [[timed(run) for run in passes] for _ in range(runs)]
    ratios = [Times(bare.cpu / ours.cpu, bare.wall / ours.wall) for bare, ours, _ in measured]
    bare, ours, decoding = (median([run[number] for run in measured]) for number in range(3))
    megabytes, clips = sidecar.tar_bytes / 1e6, len(sidecar.clips)
    ratio = median(ratios)
    cells = (
        f"{kind} {sidecar.codec}",
        f"{megabytes:.1f}",
        f"{megabytes / bare.wall:,.0f} ({megabytes / bare.cpu:,.0f})",
        f"{megabytes / ours.wall:,.0f} ({megabytes / ours.cpu:,.0f})",
        f"{ratio.wall:.0%} ({ratio.cpu:.0%})",
        f"{clips / decoding.wall:,.0f} ({clips / decoding.cpu:,.0f})",
    )
    return f"| {' | '.join(cells)} |"


def bare_sha256(path: Path) -> None:
    """The fastest way there is to hash a file in Python: one buffer, which stays in the cache."""
    state = hashlib.sha256()
    view = memoryview(bytearray(2**18))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(view):
            state.update(view[:size])


def whole(path: Path, kind: ShardKind, *, decode: bool) -> None:
    problems = check_shard(path, kind, decode=decode)
    if problems:
        raise RuntimeError(f"the shard that was just written is not whole: {problems[0]}")


def timed(run: Callable[[], None]) -> Times:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Times(time.process_time() - cpu, time.perf_counter() - wall)


def median(times: Sequence[Times]) -> Times:
    return Times(statistics.median(one.cpu for one in times), statistics.median(one.wall for one in times))


def write_audio(folder: Path, codec: str, clips: int) -> AudioSidecar:
    different = generated(min(clips, DIFFERENT_CLIPS))
    with AudioShardWriter(folder, 0, spec=SPEC, provenance={}, codec=codec) as writer:
        for number in range(clips):
            writer.add(f"clip{number}_0", different[number % len(different)], origin="generated")
        return writer.commit()


def write_labels(folder: Path, audio: AudioSidecar, codec: str) -> LabelSidecar:
    """Logits that wander as a teacher's do: -7 at rest, above 0 for some classes some of the time."""
    target = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=audioset_strong_447())
    different = [_logits(np.random.default_rng(number), target.shape) for number in range(DIFFERENT_LABELS)]
    with LabelShardWriter(folder, audio, target=target, provenance={}, codec=codec) as writer:
        for number, key in enumerate(audio.clips.key):
            writer.add(key, different[number % len(different)])
        return writer.commit()


def _logits(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    classes, frames = shape
    steps = rng.normal(size=(classes, frames)).cumsum(axis=1) / np.sqrt(frames)
    lively = (rng.random((classes, 1)) < 0.05) * 6
    return (-7 + rng.normal(size=(classes, 1)) + steps + lively).astype(np.float32)


if __name__ == "__main__":
    main()
