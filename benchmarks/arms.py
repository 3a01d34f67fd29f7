"""What students learn from which labels: the demo's comparison over several seeds, each arm at its own learning rate.

    python -m benchmarks.arms --out /tmp/arms

Every seed has its own sounds, splits and students. All arms see the same number of clips. An arm's learning rate is
the one with the best PSDS1 on dev at the first seed; median filters are chosen on dev; the table shows eval. Finished
runs are kept in the folder, so a run that was stopped goes on; after a change of the code take another folder. About 35
minutes on two cores.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from pipeline import write_atomic
from sed_distill._comparison import Arm, evaluate_arms, train_arm
from sed_distill._demo import ARMS, LABELS, DemoRecipe, make_dataset
from sed_distill._processes import training_processes
from shards import Dataset

CLIP_LOSS = Arm(
    name="clip-loss",
    title="hard strong + clip loss on weak",
    sources=(("weak", 0.5), ("strong", 0.5)),
    terms=(("hard_strong", 1.0), ("hard_weak", 1.0)),
)
DISTILLED_STRONG = Arm(
    name="distilled-strong",
    title="distilled strong",
    sources=(("strong", 1.0),),
    terms=((LABELS, 0.9), ("hard_strong", 0.1)),
)
ALL_ARMS = (ARMS[0], CLIP_LOSS, DISTILLED_STRONG, ARMS[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench-out/arms"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2, 3e-2])
    parser.add_argument("--steps", type=int, default=DemoRecipe().training.steps)
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    for seed in range(arguments.seeds):
        make_dataset(out / f"seed{seed}", DemoRecipe().clips, seed)
    with training_processes(2) as processes:

        def results(runs: list[tuple[Arm, int, float]]) -> list[dict[str, Any]]:
            return list(processes.map(_run, *zip(*[(out, *run, arguments.steps) for run in runs], strict=True)))

        first = results([(arm, 0, rate) for arm in ALL_ARMS for rate in arguments.rates])
        best: dict[str, dict[str, Any]] = {}
        for result in first:
            if result["dev_psds1"] > best.get(result["arm"], {"dev_psds1": -1.0})["dev_psds1"]:
                best[result["arm"]] = result
        rest = results([(arm, s, best[arm.name]["rate"]) for arm in ALL_ARMS for s in range(1, arguments.seeds)])
    print("\nLearning rates at seed 0 (PSDS1 on dev)\n")
    print("| arm | " + " | ".join(f"{rate:g}" for rate in arguments.rates) + " |")
    print("|---|" + "---|" * len(arguments.rates))
    for arm in ALL_ARMS:
        of_arm = [result for result in first if result["arm"] == arm.name]
        print(f"| {arm.title} | " + " | ".join(f"{result['dev_psds1']:.3f}" for result in of_arm) + " |")
    clips = DemoRecipe().training.batch_size
    print(f"\nPSDS1 on eval over {arguments.seeds} seeds, {arguments.steps} steps of {clips} clips\n")
    print("| | rate | mean | std | each seed |\n|---|---|---|---|---|")
    for arm in ALL_ARMS:
        runs = [best[arm.name]] + [result for result in rest if result["arm"] == arm.name]
        _row(arm.title, f"{best[arm.name]['rate']:g}", [run["psds1"] for run in runs])
    per_seed = [best[ALL_ARMS[0].name]] + [result for result in rest if result["arm"] == ALL_ARMS[0].name]
    _row("teacher", "-", [run["teacher_psds1"] for run in per_seed])
    _row("perfect 40 ms labels", "-", [run["ceiling"] for run in per_seed])


def _row(title: str, rate: str, values: list[float]) -> None:
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    each = " ".join(f"{value:.3f}" for value in values)
    print(f"| {title} | {rate} | {statistics.mean(values):.3f} | {spread:.3f} | {each} |")


def _run(out: Path, arm: Arm, seed: int, rate: float, steps: int) -> dict[str, Any]:
    """Train and evaluate one student, or read what an earlier call found."""
    folder = out / f"seed{seed}" / f"{arm.name}-{rate:g}-{steps}"
    done = folder / "result.json"
    if not done.exists():
        torch.set_num_threads(1)
        dataset = Dataset.open(out / f"seed{seed}" / "dataset")
        vocabulary = dataset.vocabulary("strong", LABELS)
        training = dataclasses.replace(DemoRecipe().training, seed=seed, steps=steps, learning_rate=rate)
        train_arm(arm, dataset, vocabulary, training, labels=LABELS, path=folder / f"{arm.name}.pt")
        evaluated = evaluate_arms(
            (arm,), dataset, vocabulary, labels=LABELS, folder=folder, probs_path=folder / "probs.npz"
        )
        teacher, student = evaluated["psds1"]["models"]
        result = {
            "arm": arm.name,
            "seed": seed,
            "rate": rate,
            "dev_psds1": student["dev_psds1"],
            "psds1": student["psds1"],
            "teacher_psds1": teacher["psds1"],
            "ceiling": evaluated["psds1"]["ceiling"],
        }
        write_atomic(done, json.dumps(result) + "\n")
        print(f"{arm.name} seed {seed} rate {rate:g}: dev {result['dev_psds1']:.3f}", flush=True)
    found: dict[str, Any] = json.loads(done.read_text())
    return found


if __name__ == "__main__":
    main()
