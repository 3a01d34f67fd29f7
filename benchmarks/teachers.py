"""What a clip costs each teacher on this CPU, beside the published loop and the bare matrix products of its sizes.

    python -m benchmarks.teachers
    python -m benchmarks.teachers --families beats atst --reference PRETRAINEDSED
    python -m benchmarks.teachers --families beats --threads 2 --runs 15

Random weights, which cost what trained ones do; one clip after the other, from its waveform to its logits. The
published loop is that of a checkout of PretrainedSED given with --reference, where the packages that it imports are
installed (torchaudio, einops, timm, nnAudio); of BEATs a restatement is here, which needs nothing. Products: every
linear layer, attention and patch embedding as products alone, each with weights of its own, by torch.mm and torch.bmm
and by the oneDNN that ours use; BEATs' position convolution, all elementwise work and the front end are left out.

Medians over the runs, in each of which every row has its turn. CPU ms of one thread hold on a busy machine, wall ms are
beside them; of more threads they need an idle one, for threads that wait for each other spin. Two minutes a family.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.random_teachers import FAMILIES, family_of, random_teacher
from benchmarks.teacher_peers._products import by_onednn, by_torch, products
from benchmarks.teacher_peers._published_beats import published_beats as published_beats
from benchmarks.teacher_peers._reference import reference_loop
from pipeline import FRAMES

Work = Callable[[], object]
PUBLISHED, BY_TORCH, BY_ONEDNN = "published loop", "products, float32, torch", "products, float32, oneDNN"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES, help="(default: all)")
    parser.add_argument("--reference", type=Path, help="a checkout of PretrainedSED, for its loops")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument("--runs", type=int, default=7, help="to take the median of (default: 7)")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(parsed.threads)
    print(f"PyTorch {torch.__version__}, threads: {parsed.threads}; medians of {parsed.runs} runs, per clip of 10 s\n")
    for name in parsed.families:
        print(table(name, parsed.reference, parsed.runs), flush=True)


def table(name: str, reference: Path | None, runs: int) -> str:
    rows, without = works(name, reference)
    times: dict[str, list[tuple[float, float]]] = {row: [] for row in rows}
    for _ in range(runs):
        for row, work in rows.items():
            work()  # memory and caches as a long run finds them, not as the row before left them
            times[row].append(_timed(work))
    cpu = {row: statistics.median(spent[0] for spent in values) for row, values in times.items()}
    wall = {row: statistics.median(spent[1] for spent in values) for row, values in times.items()}
    operations = sum(product.operations for product in products(family_of(name)))
    lines = [
        f"{name}: {operations / 1e9:.1f} G operations in products{without}",
        "",
        "| | CPU ms | wall ms | clips per CPU-second | times the published loop | of torch's products | of oneDNN's |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        published = f"{_ratio(times, PUBLISHED, row):.2f}" if PUBLISHED in rows else ""
        bare = f"{_ratio(times, BY_TORCH, row):.0%} | {_ratio(times, BY_ONEDNN, row):.0%}"
        lines.append(f"| {row} | {cpu[row]:.0f} | {wall[row]:.0f} | {1e3 / cpu[row]:.2f} | {published} | {bare} |")
    return "\n".join(lines) + "\n"


def works(name: str, reference: Path | None) -> tuple[dict[str, Work], str]:
    """What to time, by row, and what is said of rows that are missing."""
    waveforms = 0.1 * torch.randn(1, FRAMES * 640, generator=torch.Generator().manual_seed(0))
    rows: dict[str, Work] = {}
    for precision in ("float32", "bfloat16", "float16"):
        teacher = random_teacher(name, 0, torch.device("cpu"))
        teacher.use_precision(precision)
        rows[f"ours, {precision}"] = lambda teacher=teacher: teacher.frame_logits(waveforms)
    without = ""
    if reference is not None:
        try:
            loop = reference_loop(reference, name)
            rows[PUBLISHED] = lambda: loop(waveforms)
        except ImportError as error:
            without = f"; without the published loop ({error})"
    if name == "beats":
        restated = published_beats(random_teacher(name, 0, torch.device("cpu")))
        rows[f"{PUBLISHED}, restated" if PUBLISHED in rows else PUBLISHED] = lambda: restated(waveforms)
    wanted = products(family_of(name))
    rows[BY_TORCH] = by_torch(wanted)
    rows[BY_ONEDNN] = by_onednn(wanted)
    rows["products, bfloat16, torch"] = by_torch(wanted, torch.bfloat16)
    return rows, without


def _ratio(times: dict[str, list[tuple[float, float]]], row: str, by: str) -> float:
    """How much more CPU time one row takes than another: the median over the runs, each beside its own."""
    return statistics.median(one[0] / other[0] for one, other in zip(times[row], times[by], strict=True))


def _timed(work: Work) -> tuple[float, float]:
    """CPU and wall ms."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    work()
    return (time.process_time() - cpu_s) * 1e3, (time.perf_counter() - wall_s) * 1e3


if __name__ == "__main__":
    main()
