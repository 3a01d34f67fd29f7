"""What the mixing loader costs by the size of its dataset: start, resume, memory, and time per clip.

    python -m benchmarks.loader_scale --clips 1000000

The datasets have a weak split with two label sets and hard labels. Their sidecars, indexes and hard labels are those of
as many clips; their tars are hard links of one shard of 1,000 clips, so that every clip can be read and a million of
them take 0.2 GB. So no clip waits for a disk: these are figures of the loader, not of storage.
Everything is measured in fresh processes; a batch has 64 clips, read by 2 threads.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import AudioSpec, TargetSpec, audioset_strong_447, hard_table, write_hard
from shards import (
    AudioShardWriter,
    AudioSidecar,
    Balanced,
    BlockShuffle,
    Dataset,
    LabelShardWriter,
    LabelSidecar,
    MixedLoader,
    Shuffled,
    Source,
    open_index,
)
from shards._sidecar import sidecar_bytes
from shards._tar import tar_layout
from shards.loader.join._training import join_sources
from shards.loader.order._block_order import shuffle_quality

CLIPS_PER_SHARD, DIFFERENT_CLIPS = 1_000, 25
BATCH, BATCHES, RESUME_STEP = 64, 40, 1_000_000
LABEL_SETS = ("first", "second")
# Sidecars of the last two seconds would be hashed again, in case they are replaced within a tick of the clock.
_WRITTEN_NS = time.time_ns() - 3_600 * 10**9


_Sidecar = AudioSidecar | LabelSidecar


def main(clips: int = 1_000_000) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=clips)
    parser.add_argument("--measure", choices=("loader", "orders"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure = _measure_loader if arguments.measure == "loader" else _measure_orders
        print(json.dumps(measure(arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        _print_tables(Path(folder), max(1, arguments.clips // CLIPS_PER_SHARD) * CLIPS_PER_SHARD)


def _print_tables(folder: Path, most: int) -> None:
    sizes = sorted({min(most, 10**power) for power in range(3, 7)} | {most})
    print("| clips | make the indexes s | start to first batch s | of it join s | resume s | CPU ms/clip | memory MB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    pattern = _write_pattern(folder / "pattern")
    for clips in sizes:
        root = folder / str(clips)
        _write_dataset(root, pattern, clips)
        started = time.perf_counter()
        _make_indexes(root)
        indexed_s = time.perf_counter() - started
        got = _in_fresh_process("loader", root)
        print(
            f"| {clips:,} | {indexed_s:.1f} | {got['first_s']:.2f} | {got['join_s']:.2f} | {got['resume_s']:.2f} "
            f"| {got['cpu_ms']:.2f} | {got['memory_mb']:.0f} |",
            flush=True,
        )
    found = _in_fresh_process("orders", folder / str(sizes[-1]))
    print(f"\nOrders of {sizes[-1]:,} clips; resume is at step {RESUME_STEP:,}\n")
    print("| order | make it s | new pass s | draws of a batch us | pairs of one shard % | distance | shards open |")
    print("|---|---|---|---|---|---|---|")
    for name, row in found.items():
        print(f"| {name} | {' | '.join(row)} |")


def _write_pattern(root: Path) -> list[_Sidecar]:
    """One shard of audio and of each label set, of a few clips that the real writers made, over and over."""
    dataset, spec, rng = Dataset.create(root, keys="audioset"), AudioSpec(), np.random.default_rng(0)
    keys = [f"{clip:011d}_0" for clip in range(DIFFERENT_CLIPS)]
    sidecars: list[_Sidecar] = []
    with AudioShardWriter(dataset.audio_folder("weak", spec.name), 0, spec=spec, provenance={"made": "up"}) as audio:
        for key in keys:
            audio.add(key, _sound(rng, spec), origin="pcm")
        stored = audio.commit()
    sidecars.append(stored)
    target = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=audioset_strong_447())
    for label_set in LABEL_SETS:
        folder = dataset.labels_folder("weak", label_set)
        with LabelShardWriter(folder, stored, target=target, provenance={"made": "up"}, codec="small") as labels:
            for key in keys:
                labels.add(key, _logits(rng, target.shape))
            sidecars.append(labels.commit())
    return [_repeated(sidecar) for sidecar in sidecars]


def _repeated(sidecar: _Sidecar) -> _Sidecar:
    """The sidecar of a shard of CLIPS_PER_SHARD clips, whose tar takes the place of the one it is made of."""
    content = sidecar.tar_path.read_bytes()
    times = CLIPS_PER_SHARD // DIFFERENT_CLIPS
    columns = {field.name: getattr(sidecar.clips, field.name) * times for field in fields(sidecar.clips)}
    # Of what length a name is makes no difference up to 100 characters.
    columns["offset"], tar_bytes = tar_layout(["name"] * CLIPS_PER_SHARD, columns["length"])
    with sidecar.tar_path.open("wb") as file:
        for old, new, length in zip(sidecar.clips.offset * times, columns["offset"], columns["length"], strict=True):
            file.seek(new)
            file.write(content[old : old + length])
        file.truncate(tar_bytes)
    return replace(sidecar, clips=replace(sidecar.clips, **columns), tar_bytes=tar_bytes)


def _sound(rng: np.random.Generator, spec: AudioSpec) -> np.ndarray:
    """Noise that swells, of about as many bytes in FLAC as a recording has."""
    noise = np.convolve(rng.normal(0, 1, spec.max_samples + 7), np.hanning(8), "valid")
    swell = 0.05 + np.abs(np.sin(np.arange(spec.max_samples) / rng.uniform(4_000, 40_000)))
    return (noise * swell * 2_000).clip(-32768, 32767).astype(np.int16)


def _logits(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth in time and mostly far below 0, as a teacher's are."""
    window = np.hanning(64) / 8
    smooth = np.apply_along_axis(np.convolve, 1, rng.normal(0, 1, (shape[0], shape[1] + 63)), window, "valid")
    return (smooth + rng.normal(-8, 2, (shape[0], 1))).astype(np.float32)


def _write_dataset(root: Path, pattern: list[_Sidecar], clips: int) -> None:
    dataset = Dataset.create(root, keys="audioset")
    folders = [dataset.audio_folder("weak", AudioSpec().name), *(dataset.labels_folder("weak", s) for s in LABEL_SETS)]
    for folder in folders:
        folder.mkdir(parents=True)
    rng = np.random.default_rng(clips)
    # Random keys: their order is not that of the shards.
    numbers = rng.permutation(10**7)[:clips]
    keys = [f"{number:011d}_{number % 600 * 1000}" for number in numbers.tolist()]
    for shard in range(clips // CLIPS_PER_SHARD):
        chosen = tuple(keys[shard * CLIPS_PER_SHARD : (shard + 1) * CLIPS_PER_SHARD])
        for folder, sidecar in zip(folders, pattern, strict=True):
            path = folder / f"{shard:06d}.json"
            content = sidecar_bytes(replace(sidecar, path=path, shard=shard, clips=replace(sidecar.clips, key=chosen)))
            path.write_bytes(content)
            os.utime(path, ns=(_WRITTEN_NS, _WRITTEN_NS))
            os.link(sidecar.tar_path, path.with_suffix(".tar"))
    _write_hard_labels(dataset, keys, rng)


def _write_hard_labels(dataset: Dataset, keys: list[str], rng: np.random.Generator) -> None:
    """Two or three classes a clip, frequent and rare ones, and events in a tenth of the clips."""
    mids = pa.array(audioset_strong_447().mids)
    classes = (len(mids) * rng.random(3 * len(keys)) ** 3).astype(np.int32)
    bounds = pa.array(np.arange(0, len(classes) + 1, 3), pa.int32())
    weak = pa.table({"key": keys, "weak_mids": pa.ListArray.from_arrays(bounds, mids.take(pa.array(classes)))})
    heard = np.repeat(np.arange(0, len(keys), 10), 5)
    onset = rng.integers(0, 9_000, len(heard)).astype(np.int32)
    strong = pa.table(
        {
            "key": pa.array(keys).take(pa.array(heard)),
            "onset_ms": onset,
            "offset_ms": onset + rng.integers(50, 1_000, len(heard)).astype(np.int32),
            "mid": mids.take(pa.array(classes[: len(heard)])),
        }
    )
    write_hard(dataset.hard_path("weak"), hard_table(keys, weak=weak, strong=strong))


def _make_indexes(root: Path) -> None:
    dataset = Dataset.open(root)
    open_index(dataset.audio_folder("weak", AudioSpec().name), "audio")
    for label_set in LABEL_SETS:
        open_index(dataset.labels_folder("weak", label_set), "labels")


def _in_fresh_process(name: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.loader_scale", "--measure", name, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _loader(root: Path) -> MixedLoader:
    source = Source(root, "weak", share=BATCH, labels=LABEL_SETS)
    return MixedLoader([source], BATCH, vocabulary=audioset_strong_447(), batches_per_epoch=1_000)


def _measure_loader(root: Path) -> dict[str, float]:
    """Start and resume count from before the loader is made, imports excluded."""
    started = time.perf_counter()
    loader = _loader(root)
    join_s = time.perf_counter() - started
    batches = iter(loader)
    next(batches)
    first_s = time.perf_counter() - started
    cpu_s = time.process_time()
    for _ in range(BATCHES):
        next(batches)
    cpu_ms = (time.process_time() - cpu_s) * 1000 / (BATCHES * BATCH)
    del batches
    state = loader.state_dict()
    epoch, step = divmod(RESUME_STEP, len(loader))
    started = time.perf_counter()
    loader.load_state_dict({**state, "epoch": epoch, "step": step})
    next(iter(loader))
    resume_s = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"first_s": first_s, "join_s": join_s, "resume_s": resume_s, "cpu_ms": cpu_ms, "memory_mb": peak_mb}


def _measure_orders(root: Path) -> dict[str, list[str]]:
    (source,) = join_sources([Source(root, "weak", share=BATCH)])
    rules = {
        "Shuffled()": Shuffled(),
        "BlockShuffle(8)": BlockShuffle(8),
        "BlockShuffle(64)": BlockShuffle(64),
        'Balanced(by="weak")': Balanced(by="weak"),
        'Balanced(by="strong")': Balanced(by="strong"),
        'Balanced(by="weak"), a tenth a pass': Balanced(by="weak", replacement=False, draws=len(source) // 10),
    }
    rows = {}
    for name, rule in rules.items():
        started = time.perf_counter()
        order = rule.of(source, 0)
        made = time.perf_counter()
        order.clips(range(BATCH))
        passed = time.perf_counter()
        for step in range(1, 51):
            order.clips(range(step * BATCH, step * BATCH + BATCH))
        drawn = time.perf_counter()
        figures = [f"{made - started:.3f}", f"{passed - made:.3f}", f"{(drawn - passed) / 50 * 1e6:.0f}"]
        if order.distinct == len(source):
            quality = shuffle_quality(order, source.audio.shard, BATCH)
            figures += [f"{100 * quality.same_shard:.2f}", f"{quality.spread:.4f}", f"{quality.shards_open}"]
        rows[name] = figures + ["-"] * (6 - len(figures))
    return rows


if __name__ == "__main__":
    main()
