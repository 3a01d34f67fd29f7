"""The mixing loader beside its peers: clips/s, and CPU time a clip over all processes.

    python -m benchmarks.loader                      every loader that is installed, the limits, the need
    python -m benchmarks.loader --check              whether each delivers every key's own waveform and label
    python -m benchmarks.loader --decoders           what decoding costs, by library and number of threads

2,000 clips of 10 s at 16 kHz in two sources, the same FLAC bytes and float16 logits [447, 250] for every loader that
takes them; batches of 64 clips, half of each source, as float32 tensors; two workers. Every run of a loader is a
process of its own; once its queues are full, wall and CPU time of the next 2,000 clips are taken, from the page cache.
Loaders take turns, figures are medians of the runs, ratios medians of those of each round. CPU beside wall: on a busy
machine the CPU figures hold. Linux only.

Peers get what their documentation advises: shuffle buffers, several shards a worker, workers that stay. They check
nothing, have no hard labels and leave logits as logits; ours has CRC32C, exact shares, hard labels, probabilities and
state on. What compact batches still need on the device is not counted. benchmarks/loader_peers/requirements.txt says
how to get the peers; those that are not installed are left out. 7 GB on disk with all of them, 2 GB without.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loader_peers import _decoders, _need
from benchmarks.loader_peers._clips import BATCH_SIZE, Clips
from benchmarks.loader_peers._measure import checked, measured

_TIMEOUT_S = 900


@dataclass(frozen=True)
class Row:
    """One loader. place: its module and, after a colon, what in it. data: the folder of its clips, shared by name."""

    name: str
    title: str
    place: str
    data: str
    distribution: str = ""

    @property
    def loader(self) -> Any:
        module, _, attribute = self.place.partition(":")
        found = importlib.import_module(f"benchmarks.loader_peers.{module}")
        return getattr(found, attribute) if attribute else found


PEERS = (
    Row("hdf5", "HDF5, mp3 and float16", "_hdf5", "hdf5", "h5py"),
    Row("webdataset", "webdataset RandomMix", "_webdataset", "webdataset", "webdataset"),
    Row("mosaicml", "mosaicml-streaming, two streams", "_mosaicml", "mosaicml", "mosaicml-streaming"),
    Row("litdata", "litdata Combined", "_litdata", "litdata", "litdata"),
    Row("energon", "Energon blend", "_energon", "energon", "megatron-energon"),
    Row("lhotse", "lhotse Shar mux", "_lhotse", "lhotse", "lhotse"),
)
OURS = (
    Row("flac", "sed-distill, FLAC and float16, as float32", "_ours:FLAC", "ours-flac-npy"),
    Row("fast", "sed-distill, fast and small, as float32", "_ours:FAST", "ours-fast-small"),
    Row("fast-weak", "sed-distill, fast and small, float32, no hard_strong", "_ours:FAST_WEAK", "ours-fast-small"),
    Row("fast-compact", "sed-distill, fast and small, compact", "_ours:FAST_COMPACT", "ours-fast-small"),
    Row("pcm16-compact", "sed-distill, pcm16 and small, compact", "_ours:PCM_COMPACT", "ours-pcm16-small"),
)
LIMITS = (
    Row("limit-flac", "FLAC and float16, as float32", "_limit:FLAC", "ours-flac-npy"),
    Row("limit-fast", "fast and small, as float32", "_limit:FAST", "ours-fast-small"),
    Row("limit-fast-compact", "fast and small, compact", "_limit:FAST_COMPACT", "ours-fast-small"),
)
ROWS = {row.name: row for row in (*PEERS, *OURS, *LIMITS)}


@dataclass(frozen=True)
class Figures:
    """One run of one loader."""

    clips_per_s: float
    cpu_ms: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2_000, help="clips stored, and clips measured (default: 2000)")
    parser.add_argument("--runs", type=int, default=5, help="runs to take the median of (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes or threads (default: 2)")
    parser.add_argument("--only", nargs="+", choices=tuple(ROWS), default=tuple(ROWS), metavar="LOADER", help=_NAMES)
    parser.add_argument("--data", type=Path, help="keep the clips here for the next call (default: removed)")
    parser.add_argument("--check", action="store_true", help="compare what is delivered with what was stored")
    parser.add_argument("--decoders", action="store_true", help="time decoding alone")
    parser.add_argument("--inside", nargs=2, metavar=("ACTION", "LOADER"), help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.inside:
        action, name = parsed.inside
        print(json.dumps(_INSIDE[action](ROWS[name].loader, parsed)))
    elif parsed.decoders:
        print(_decoders.table(parsed.runs, parsed.workers))
    elif parsed.data:
        report(parsed, parsed.data)
    else:
        with tempfile.TemporaryDirectory() as folder:
            report(parsed, Path(folder))


_NAMES = f"loaders to run, out of {', '.join(ROWS)} (default: all)"


def report(parsed: argparse.Namespace, folder: Path) -> None:
    rows = [row for row in map(ROWS.__getitem__, parsed.only) if _written(row, parsed, folder)]
    if parsed.check:
        for row in (row for row in rows if row not in LIMITS):  # those deliver nothing
            got = json.loads(_in_fresh_process("check", row, parsed, folder))
            print(f"{_title(row)}: all {got['delivered']:,} right, of {got['clips']:,} keys", flush=True)
        return
    runs: dict[str, list[Figures]] = {row.name: [] for row in rows}
    for number in range(parsed.runs):
        for row in tuple(rows):
            try:
                got = json.loads(_in_fresh_process("measure", row, parsed, folder))
            except subprocess.CalledProcessError as error:
                _give_up(row, error)
                rows.remove(row)
                continue
            figures = Figures(got["clips"] / got["wall_s"], got["cpu_s"] * 1e3 / got["clips"])
            runs[row.name].append(figures)
            line = f"{number + 1}/{parsed.runs} {row.name}: {figures.clips_per_s:,.0f} clips/s, {figures.cpu_ms:.3f} ms"
            print(line, file=sys.stderr, flush=True)
    print(f"\n{parsed.clips:,} clips, {parsed.workers} workers, {os.cpu_count()} cores; median of {parsed.runs} runs\n")
    print(table([row for row in rows if row not in LIMITS], runs))
    print(limits_table(runs))
    print(_need.table({name: _median_cpu_ms(runs[name]) for name in ("flac", "fast", "fast-compact") if name in runs}))


def table(rows: Sequence[Row], runs: dict[str, list[Figures]]) -> str:
    """Every loader but the limits; ratios to the peer with most clips/s, and to that with least CPU time."""
    peers = [row.name for row in rows if row in PEERS]
    fastest = max(peers, key=lambda name: _median_speed(runs[name]), default=None)
    leanest = min(peers, key=lambda name: _median_cpu_ms(runs[name]), default=None)
    lines = ["| loader | clips/s | CPU ms/clip | times the best peer, clips/s | CPU |", "|---|---|---|---|---|"]
    for row in rows:
        own = runs[row.name]
        ratios = ("-", "-")
        if fastest is not None and leanest is not None:
            wall = statistics.median(
                run.clips_per_s / peer.clips_per_s for run, peer in zip(own, runs[fastest], strict=True)
            )
            cpu = statistics.median(peer.cpu_ms / run.cpu_ms for run, peer in zip(own, runs[leanest], strict=True))
            ratios = (f"{wall:.2f}", f"{cpu:.2f}")
        cells = (_title(row), f"{_median_speed(own):,.0f}", f"{_median_cpu_ms(own):.3f}", *ratios)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def limits_table(runs: dict[str, list[Figures]]) -> str:
    """What bare loops take, and the share of their speed that our loaders reach.

    hard_strong is as large as the labels, and a bare loop has none: one row is without it.
    """
    lines = ["| bare loop of pread and decoding | clips/s | CPU ms/clip | ours reaches, clips/s | CPU |"]
    lines.append("|---|---|---|---|---|")
    for limit in LIMITS:
        name = limit.name.removeprefix("limit-")
        for own, title in ((name, limit.title), (f"{name}-weak", f"{limit.title}; ours without hard_strong")):
            if own in runs and limit.name in runs:
                bounds = runs[limit.name]
                pairs = list(zip(runs[own], bounds, strict=True))
                wall = statistics.median(run.clips_per_s / bound.clips_per_s for run, bound in pairs)
                cpu = statistics.median(bound.cpu_ms / run.cpu_ms for run, bound in pairs)
                cells = (f"{_median_speed(bounds):,.0f}", f"{_median_cpu_ms(bounds):.3f}", f"{wall:.0%}", f"{cpu:.0%}")
                lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _median_speed(runs: Sequence[Figures]) -> float:
    return statistics.median(run.clips_per_s for run in runs)


def _median_cpu_ms(runs: Sequence[Figures]) -> float:
    return statistics.median(run.cpu_ms for run in runs)


def _title(row: Row) -> str:
    return (
        f"{row.title} ({row.distribution} {importlib.metadata.version(row.distribution)})"
        if row in PEERS
        else row.title
    )


def _written(row: Row, parsed: argparse.Namespace, folder: Path) -> bool:
    """Whether the loader can be run here; its clips are then on disk."""
    missing = _missing(row)
    if missing:
        print(f"without {row.title}: {missing}", flush=True)
        return False
    data = _data(row, parsed.clips, folder)
    done = data.with_suffix(".done")
    if not done.exists():
        shutil.rmtree(data, ignore_errors=True)
        data.parent.mkdir(parents=True, exist_ok=True)
        try:
            _in_fresh_process("write", row, parsed, folder)
        except subprocess.CalledProcessError as error:
            _give_up(row, error)
            return False
        done.touch()
    return True


def _give_up(row: Row, error: subprocess.CalledProcessError) -> None:
    """A peer that fails is left out; a loader of ours that fails ends the benchmark."""
    if row not in PEERS:
        raise error
    print(f"without {row.title}: {error.stderr.strip().rpartition(chr(10))[2]}", flush=True)


def _missing(row: Row) -> str:
    if row not in PEERS:
        return str(row.loader.missing)
    try:
        importlib.metadata.version(row.distribution)
    except importlib.metadata.PackageNotFoundError:
        return f"{row.distribution} is not installed"
    return ""


def _data(row: Row, clips: int, folder: Path) -> Path:
    return folder / f"{row.data}-{clips}"


def _in_fresh_process(action: str, row: Row, parsed: argparse.Namespace, folder: Path) -> str:
    """The JSON that the action prints last."""
    options = ["--clips", str(parsed.clips), "--workers", str(parsed.workers), "--data", str(folder)]
    command = [sys.executable, "-m", "benchmarks.loader", "--inside", action, row.name, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S)
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    return done.stdout.strip().rpartition("\n")[2]


def _write(loader: Any, parsed: argparse.Namespace) -> None:
    row = ROWS[parsed.inside[1]]
    loader.write(_data(row, parsed.clips, parsed.data), Clips(parsed.clips))


def _measure(loader: Any, parsed: argparse.Namespace) -> dict[str, float]:
    folder = _data(ROWS[parsed.inside[1]], parsed.clips, parsed.data)
    return measured(loader, folder, parsed.workers, -(-parsed.clips // BATCH_SIZE))


def _check(loader: Any, parsed: argparse.Namespace) -> dict[str, float]:
    folder = _data(ROWS[parsed.inside[1]], parsed.clips, parsed.data)
    return checked(loader, folder, parsed.workers, Clips(parsed.clips))


_INSIDE = {"write": _write, "measure": _measure, "check": _check}

if __name__ == "__main__":
    main()
