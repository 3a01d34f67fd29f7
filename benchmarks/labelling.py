"""Labelling end to end, from committed FLAC shards to committed label shards, and where its limit is.

    python -m benchmarks.labelling                    on CUDA if it is there; else a few clips on the CPU
    python -m benchmarks.labelling --only labelling   one part out of: products, loop, labelling, ensemble
    python -m benchmarks.labelling --memory           resident memory over 50,000 clips of a teacher that is no model

Teachers have random weights: speed does not depend on them. The clips are those of benchmarks.loader, about 207 KB of
FLAC each, read from the page cache. Labels are stored as `faithful`. A run of `labelling` or `ensemble` opens a worker
as the job does (load, batch size, compilation: its start-up), labels one shard to warm up and then times the others,
two at a time on CUDA. Stage times are seconds of all threads a 1,000 clips; `idle` is what the device had nothing to
run between two batches, by its own clock.

MFU: operations of the matrix products of one clip (linear layers, attention, patches: as benchmarks.teachers counts
them) times clips/s, by the rate of one large product in the same run. `loop` is the published way, restated in
benchmarks.teacher_peers: one clip after the other, eager, float32; then the same in batches with half weights, the best
of all sizes. It is given decoded clips, and its logits go to host memory, no further. Made to take less than 8 minutes
on one H200 with 16 cores; 4 GB of disk.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.loader_peers._clips import SPEC, Clips
from benchmarks.random_teachers import FAMILIES, family_of, random_teacher
from benchmarks.teacher_peers._products import products
from benchmarks.teacher_peers._published_beats import published_beats
from jobs import ShardResult, machine_cpus
from shards import AudioShardWriter, Dataset
from teachers import LabellerChoice, label_stage
from teachers.labelling._shard import LabelWorker

PARTS = ("products", "loop", "labelling", "ensemble")
CLIPS_PER_SHARD = 1_000
_MEMORY_CLIPS = 50_000
_WEAK_CLIPS, _ALL_MODELS = 2_000_000, 15
_STEPS = ("read", "decode", "wait", "copy", "device", "idle", "encode", "write", "commit")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all parts share. clips: shards of how many clips, the first to warm up."""

    device: torch.device
    precision: str
    clips: tuple[int, ...]
    compile: bool
    batch_size: int | None
    threads: int | None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One run after its warm-up."""

    clips_per_s: float
    start_up_s: float
    seconds: dict[str, float]
    clips: int
    batch_size: int


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cpu or cuda (default: cuda where it is)")
    parser.add_argument("--precision", default=None, help="of ours (default: float16 on CUDA, float32 on a CPU)")
    parser.add_argument("--clips", type=int, help="clips to label (default: 16000 on CUDA, 12 on a CPU)")
    parser.add_argument("--batch-size", type=int, help="of ours (default: found)")
    parser.add_argument("--threads", type=int, help="of ours (default: as sed-distill label has it)")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--members", nargs="+", choices=FAMILIES, default=FAMILIES, help="of the ensemble")
    parser.add_argument("--memory", action="store_true", help="show that memory stays as it is, and nothing else")
    parsed = parser.parse_args(arguments)
    name = parsed.device if parsed.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    with tempfile.TemporaryDirectory() as folder:
        if parsed.memory:
            memory_stays(Path(folder), parsed.clips or _MEMORY_CLIPS, name)
            return
        gpu = device.type == "cuda"
        setting = Setting(
            device=device, precision=parsed.precision or ("float16" if gpu else "float32"),
            compile=not parsed.no_compile, batch_size=parsed.batch_size, threads=parsed.threads,
            clips=_shards(parsed.clips or (16_000 if gpu else 12), CLIPS_PER_SHARD if gpu else 4),
        )  # fmt: skip
        place = torch.cuda.get_device_name(device) if gpu else "CPU"
        print(f"{place}, {machine_cpus()} cores, PyTorch {torch.__version__}, {setting.precision}\n", flush=True)
        rates = rates_of_products(setting) if "products" in parsed.only else {}
        loops = loop(setting) if "loop" in parsed.only else {}
        if {"labelling", "ensemble"} & set(parsed.only):
            write_clips(Path(folder), setting.clips)
        if "labelling" in parsed.only:
            labelling(setting, Path(folder), rates, loops)
        if "ensemble" in parsed.only:
            ensemble(setting, Path(folder), parsed.members)


def rates_of_products(setting: Setting) -> dict[str, float]:
    """Operations a second of one large matrix product, by type; printed."""
    size = 8_192 if setting.on_gpu else 1_024
    rates = {}
    for precision in ("bfloat16", "float16", "float32") if setting.on_gpu else ("float32", "bfloat16"):
        a, b = (torch.randn(size, size, device=setting.device).to(getattr(torch, precision)) for _ in range(2))
        spent_s = statistics.median(timed(lambda a=a, b=b: a @ b, setting.device, runs=20))
        rates[precision] = 2 * size**3 / spent_s
    print("| product of two matrices | TFLOP/s |\n|---|---|")
    for precision, rate in rates.items():
        print(f"| {precision}, {size} x {size} | {rate / 1e12:.1f} |")
    print(flush=True)
    return rates


def loop(setting: Setting) -> dict[str, float]:
    """Clips/s of the published way; printed."""
    teacher = random_teacher("beats", 0, setting.device)
    speeds: dict[str, float] = {}
    for dtype in (torch.float16, torch.bfloat16) if setting.on_gpu else ():
        halves = published_beats(teacher, dtype)
        for size in (32, 64, 128, 256):
            speeds[f"{str(dtype).removeprefix('torch.')}, batch {size}"] = _loop_speed(setting, halves, size)
    best = sorted(speeds, key=lambda name: speeds[name])[-1:]
    loops = {"float32, batch 1": _loop_speed(setting, published_beats(teacher), 1)}
    loops.update({name: speeds[name] for name in best})
    print("| published loop, eager, BEATs | clips/s |\n|---|---|")
    for name, speed in loops.items():
        print(f"| {name} | {speed:,.1f} |")
    print(flush=True)
    return loops


def _loop_speed(setting: Setting, published: Callable[[Tensor], Tensor], size: int) -> float:
    """0 where memory does not last."""
    clips = max(size, 64 if setting.on_gpu else 3)
    waveforms = 0.1 * torch.randn(clips, SPEC.max_samples)

    def run() -> None:
        for part in waveforms.split(size):
            published(part.to(setting.device)).cpu()

    try:
        return clips / statistics.median(timed(run, setting.device, runs=3, warm_up=1))
    except torch.cuda.OutOfMemoryError:
        return 0.0


def labelling(setting: Setting, folder: Path, rates: dict[str, float], loops: dict[str, float]) -> None:
    got = labelled(setting, folder, ("beats",))
    print("| BEATs, FLAC shards to label shards | |\n|---|---|")
    print(f"| clips/s | {got.clips_per_s:,.1f} |")
    print(f"| batch size; start-up | {got.batch_size}; {got.start_up_s:.0f} s |")
    if setting.on_gpu:
        print(f"| GPU-hours for 2 M clips | {_hours(got.clips_per_s):.2f} |")
    operations = sum(product.operations for product in products(family_of("beats")))
    for precision, rate in rates.items():
        print(f"| MFU by the {precision} product | {got.clips_per_s * operations / rate:.1%} |")
    for name, speed in loops.items():
        print(f"| times the published loop, {name} | {got.clips_per_s / speed:.2f} |")
    print_steps(setting, got)


def ensemble(setting: Setting, folder: Path, members: Sequence[str]) -> None:
    """Beside what its members alone would take on the device, one after the other, at the same batch size."""
    alone: dict[str, float] = {}
    got = labelled(setting, folder, members, alone)
    bound = 1 / sum(1 / speed for speed in alone.values())
    print("| ensemble, FLAC shards to label shards | clips/s |\n|---|---|")
    for name, speed in alone.items():
        print(f"| {name} alone, on the device, in memory | {speed:,.1f} |")
    print(f"| what these allow together | {bound:,.1f} |")
    print(f"| ensemble, end to end | {got.clips_per_s:,.1f} ({got.clips_per_s / bound:.1%}) |")
    if setting.on_gpu:
        hours, models = _hours(got.clips_per_s) * _ALL_MODELS / len(members), f"{_ALL_MODELS} such models"
        print(f"| GPU-hours for 2 M clips with {models} | {hours:.1f} |")
    print_steps(setting, got)


def _hours(clips_per_s: float) -> float:
    return _WEAK_CLIPS / clips_per_s / 3_600


def labelled(setting: Setting, folder: Path, members: Sequence[str], alone: dict[str, float] | None = None) -> Labelled:
    """Label all clips; into `alone` goes each member's own speed, where it is asked for."""
    texts = [f"benchmarks.random_teachers:{name}=0" for name in members]
    stage = label_stage(
        dataset=folder, split="weak", labels="-".join(members),
        teacher=LabellerChoice.of(texts, precision=setting.precision),
        device=setting.device.type, batch_size=setting.batch_size, threads=setting.threads, compile=setting.compile,
    )  # fmt: skip
    start_s = time.perf_counter()
    worker = LabelWorker(stage.config)
    label, runner = worker.label, worker.runner
    start_up_s = time.perf_counter() - start_s
    if alone is not None:
        for name, leaf in zip(members, runner.asked.teacher.leaves, strict=True):
            waveforms = torch.zeros(runner.asked.batch_size, SPEC.max_samples, device=setting.device)
            spent_s = timed(
                lambda leaf=leaf, w=waveforms: leaf.frame_logits(w), setting.device, runs=5 if setting.on_gpu else 1
            )
            alone[name] = len(waveforms) / statistics.median(spent_s)
    label(stage.tasks[0])
    start_s = time.perf_counter()
    with ThreadPoolExecutor(stage.at_once) as threads:
        results = list(threads.map(label, stage.tasks[1:]))
    wall_s = time.perf_counter() - start_s
    clips = sum(result.stored for result in results)
    if clips != sum(setting.clips[1:]):
        raise RuntimeError(f"{clips} clips have labels, {sum(setting.clips[1:])} should")
    return Labelled(
        clips_per_s=clips / wall_s, start_up_s=start_up_s, seconds=_sum(results), clips=clips,
        batch_size=runner.asked.batch_size,
    )  # fmt: skip


def print_steps(setting: Setting, got: Labelled) -> None:
    print("\n| seconds a 1,000 clips, of all threads | " + " | ".join(_STEPS) + " |\n|---|" + "---|" * len(_STEPS))
    cells = [f"{got.seconds.get(step, 0) / got.clips * 1000:.3f}" for step in _STEPS]
    print(f"| by {1000 / got.clips_per_s:.3f} s of wall time | " + " | ".join(cells) + " |")
    if setting.on_gpu:
        busy, idle = got.seconds["device"], got.seconds.get("idle", 0.0)
        print(f"\nThe device is idle {idle / (busy + idle):.1%} of the time.")
    print(flush=True)


def memory_stays(folder: Path, clips: int, device: str) -> None:
    """Resident memory of a worker, shard by shard."""
    sizes = _shards(clips, CLIPS_PER_SHARD)
    write_clips(folder, sizes, seconds=0.5)
    stage = label_stage(
        dataset=folder, split="weak", labels="small", teacher=LabellerChoice.of("benchmarks.random_teachers:small"),
        device=device,
    )  # fmt: skip
    label = stage.open_worker(stage.config)
    print("| clips | resident MiB |\n|---|---|")
    done, found = 0, []
    with ThreadPoolExecutor(stage.at_once) as threads:
        for result in threads.map(label, stage.tasks):
            done += result.stored
            found.append(_resident_mib())
            if done % 5_000 == 0 or done == clips:
                print(f"| {done:,} | {found[-1]:.0f} |", flush=True)
    print(f"\nThe last shard ends {found[-1] - found[min(4, len(found) - 1)]:+.0f} MiB from the fifth.")


def write_clips(folder: Path, sizes: Sequence[int], seconds: float = 10.0) -> None:
    dataset = Dataset.create(folder, keys="audioset")
    audio = dataset.audio_folder("weak", SPEC.name)
    audio.mkdir(parents=True)
    firsts = [sum(sizes[:shard]) for shard in range(len(sizes))]
    workers = max(1, machine_cpus() - 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        samples = round(seconds * SPEC.sample_rate)
        jobs = zip([audio] * len(sizes), range(len(sizes)), firsts, sizes, [samples] * len(sizes), strict=True)
        list(pool.map(_write_shard, *zip(*jobs, strict=True)))


def _write_shard(audio: Path, shard: int, first: int, clips: int, samples: int) -> None:
    made = Clips(first + clips)
    with AudioShardWriter(audio, shard, spec=SPEC, provenance={"stage": "benchmark"}) as writer:
        for number in range(first, first + clips):
            # A recording is used a hundred times over: making them would take longer than labelling them.
            writer.add(made.key(number), made.pcm(number % 160)[:samples], origin="flac")
        writer.commit()


def timed(work: Callable[[], object], device: torch.device, *, runs: int, warm_up: int = 2) -> list[float]:
    """Seconds of each run."""
    spent_s = []
    for run in range(warm_up + runs):
        start_s = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if run >= warm_up:
            spent_s.append(time.perf_counter() - start_s)
    return spent_s


def _shards(clips: int, size: int) -> tuple[int, ...]:
    return tuple(min(size, clips - first) for first in range(0, clips, size))


def _sum(results: Iterable[ShardResult]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.seconds)
    return dict(total)


def _resident_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
