"""What the index of a shard folder costs and saves, against parsing its sidecars.

    python -m benchmarks.index --clips 1000000

Sidecars as the pack command spells them, without tars, in a temporary folder (0.6 GB for a million clips) that is
removed. Loading and parsing are measured in fresh processes after their imports; memory is what the process then has
more of, mapped pages included, and its peak.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline import ACOUSTIC_BYTES, AudioSpec
from shards import read_audio_sidecar
from shards._dataset import sidecar_paths
from shards._index import ShardIndex, open_index
from shards._index_file import INDEX_NAME
from shards._sidecar import AudioClips, AudioSidecar, Refusals, sidecar_bytes
from shards._tar import tar_layout

CLIPS_PER_SHARD = 1_000
LOOKUPS = 1_000
# Sidecars of the last two seconds would be hashed again, in case they are replaced within a tick of the clock.
_WRITTEN_NS = time.time_ns() - 3_600 * 10**9


def main(clips: int = 1_000_000) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=clips)
    parser.add_argument("--measure", choices=tuple(_MEASURED), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_MEASURED[arguments.measure](arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        _print_table(Path(folder), arguments.clips)


def _print_table(folder: Path, clips: int) -> None:
    _write_sidecars(folder, clips)
    sidecars_mb = sum(path.stat().st_size for path in sidecar_paths(folder)) / 1e6
    results = {name: _in_fresh_process(name, folder) for name in ("build", "load", "parse")}
    index_mb = (folder / INDEX_NAME).stat().st_size / 1e6
    print(f"\nIndex of {clips:,} clips in {-(-clips // CLIPS_PER_SHARD):,} shards\n")
    print("| | seconds | memory MB | peak MB | on disk MB |\n|---|---|---|---|---|")
    for name, title, size in (
        ("build", "make the index", index_mb),
        ("load", "load the index", index_mb),
        ("parse", "parse the sidecars", sidecars_mb),
    ):
        got = results[name]
        print(f"| {title} | {got['seconds']:.2f} | {got['memory_mb']:.0f} | {got['peak_mb']:.0f} | {size:.0f} |")
    load = results["load"]
    print(
        f"\nLookup of a key {load['one_us']:.0f} us, of all {clips:,} keys {load['all_s']:.2f} s; after both and a "
        f"look at every column {load['touched_mb']:.0f} MB, peak {load['touched_peak_mb']:.0f} MB"
    )


def _write_sidecars(folder: Path, clips: int) -> None:
    spec = AudioSpec()
    for shard in range(-(-clips // CLIPS_PER_SHARD)):
        rng = np.random.default_rng([clips, shard])
        count = min(CLIPS_PER_SHARD, clips - shard * CLIPS_PER_SHARD)
        keys = tuple(f"{rng.bytes(5).hex()}A_{start}" for start in (rng.integers(0, 600, count) * 1_000).tolist())
        lengths = tuple(rng.integers(150_000, 250_000, count).tolist())
        offsets, tar_bytes = tar_layout([f"{key}.flac" for key in keys], lengths)
        columns = AudioClips(
            key=keys, offset=offsets, length=lengths, crc32c=tuple(rng.integers(0, 2**32, count).tolist()),
            identity=tuple(rng.bytes(16).hex() for _ in keys), samples=(spec.max_samples,) * count,
            acoustic=tuple(f"fa{rng.bytes(ACOUSTIC_BYTES - 1).hex()}" for _ in keys), origin=("opus",) * count,
            cut_samples=(0,) * count, clipped_samples=(0,) * count, flags=((),) * count,
        )  # fmt: skip
        path = folder / f"{shard:06d}.json"
        sidecar = AudioSidecar(
            path=path, shard=shard, spec=spec, codec="flac", tar_bytes=tar_bytes, tar_sha256="0" * 64,
            provenance={"rows": shard}, software={}, clips=columns, rejected=Refusals(),
        )  # fmt: skip
        path.write_bytes(sidecar_bytes(sidecar))
        os.utime(path, ns=(_WRITTEN_NS, _WRITTEN_NS))


def _in_fresh_process(name: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.index", "--measure", name, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measure_build(folder: Path) -> dict[str, float]:
    return _cost(lambda: open_index(folder, "audio"))


def _measure_load(folder: Path) -> dict[str, float]:
    """Opened, and one key looked up; then many, all, and every byte of every column."""

    def load() -> ShardIndex:
        index = open_index(folder, "audio")
        index.rows_of(["nobody_0"])
        return index

    before_mb = _memory_mb("VmRSS")
    found = _cost(load)
    index = load()
    some = index.key.take(np.random.default_rng(0).integers(0, len(index), LOOKUPS)).to_pylist()
    started = time.perf_counter()
    for key in some:
        index.rows_of([key])
    one_us = (time.perf_counter() - started) / LOOKUPS * 1e6
    started = time.perf_counter()
    index.rows_of(index.key)
    all_s = time.perf_counter() - started
    for values in (
        index.offset,
        index.length,
        index.crc32c,
        index.samples,
        index.identity,
        index.acoustic,
        index.shard,
    ):
        values.max()
    touched_mb, peak_mb = _memory_mb("VmRSS") - before_mb, _memory_mb("VmHWM") - before_mb
    return {**found, "one_us": one_us, "all_s": all_s, "touched_mb": touched_mb, "touched_peak_mb": peak_mb}


def _measure_parse(folder: Path) -> dict[str, float]:
    """What there is without an index: every sidecar parsed and kept, and a dictionary of keys."""

    def parse() -> object:
        sidecars = [read_audio_sidecar(path) for path in sidecar_paths(folder)]
        places = {key: (i, row) for i, sidecar in enumerate(sidecars) for row, key in enumerate(sidecar.clips.key)}
        return sidecars, places

    return _cost(parse)


def _cost(work: Callable[[], object]) -> dict[str, float]:
    before_mb = _memory_mb("VmRSS")
    started = time.perf_counter()
    made = work()
    seconds = time.perf_counter() - started
    found = {"memory_mb": _memory_mb("VmRSS") - before_mb, "peak_mb": _memory_mb("VmHWM") - before_mb}
    del made
    return {"seconds": seconds, **found}


def _memory_mb(name: str) -> float:
    """Resident memory of this process (VmRSS) or the most it had (VmHWM), of Linux's own account."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status has no {name}")


_MEASURED: dict[str, Callable[[Path], dict[str, float]]] = {
    "build": _measure_build,
    "load": _measure_load,
    "parse": _measure_parse,
}

if __name__ == "__main__":
    main()
