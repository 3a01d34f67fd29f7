"""`sed-distill demo`: generated recordings in, two students and a report out, through every stage of the pipeline.

Each step leaves its figures in `steps/<name>.json`; a demo that was stopped goes on behind the last of them, and one of
which something was removed goes back to where that was made.
"""

import contextlib
import itertools
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs import Stage, StageReport, machine_cpus, pack_stage, ray_session, run_stage
from pipeline import (
    AudioSpec,
    IntegrityError,
    UsageError,
    Vocabulary,
    canonical_json,
    write_atomic,
    write_split,
)
from sed_distill._comparison import Arm, Training, evaluate_arms, train_arm
from sed_distill._processes import training_processes
from sed_distill._report import write_report
from shards import Dataset, verify
from students import TrainStep
from teachers import LabellerChoice, label_stage

LABELS = "demo"


HARD = Arm(name="hard", title="Student, hard strong labels", sources=(("strong", 1.0),), terms=(("hard_strong", 1.0),))
DISTILLED = Arm(
    name="distilled",
    title="Student, 50/50 distilled",
    sources=(("weak", 0.5), ("strong", 0.5)),
    terms=((LABELS, 0.9), ("hard_strong", 0.1)),
)
ARMS = (HARD, DISTILLED)


@dataclass(frozen=True, kw_only=True)
class DemoRecipe:
    """What decides the demo's result. A folder holds the demo of one recipe."""

    clips: Mapping[str, int] = field(default_factory=lambda: {"strong": 40, "weak": 200, "dev": 40, "eval": 60})
    training: Training = field(
        default_factory=lambda: Training(seed=0, width=0.2, steps=300, batch_size=16, learning_rate=3e-3)
    )


def run_demo(out: Path, recipe: DemoRecipe) -> int:
    """Run or finish the demo in folder `out`; returns the exit code.

    Raises UsageError for a negative seed and if `out` holds another demo or cannot be written.
    """
    training, seed = recipe.training, recipe.training.seed
    if seed < 0:
        raise UsageError(f"the demo's seed is {seed}, needs 0 or more")
    _claim(out, recipe)
    steps = make_dataset(out, recipe.clips, seed)
    data = out / "dataset"
    checked = steps.run("verify", lambda: _verify(data), leaves=data)
    dataset = Dataset.open(data)
    vocabulary = dataset.vocabulary("strong", LABELS)
    students = out / "students"
    _train(steps, dataset, vocabulary, training, students)
    probs_path = students / "eval_probs.npz"
    evaluated = steps.run(
        "evaluate",
        lambda: evaluate_arms(ARMS, dataset, vocabulary, labels=LABELS, folder=students, probs_path=probs_path),
        leaves=probs_path,
    )
    demo = {
        "is": "a check that every part is connected, not a scientific result",
        "seed": seed,
        "clips_generated": sum(recipe.clips.values()),
        "machine": f"{machine_cpus()} cores, {platform.system()} {platform.machine()}",
        "seconds": round(sum(row["elapsed_s"] for row in steps.rows.values()), 1),
        "teacher": evaluated["teacher"],
        "verify": checked["summary"],
        "training": asdict(training),
        "psds1": evaluated["psds1"],
        "stages": [{"name": name, **row} for name, row in steps.rows.items()],
        "sizes": _sizes(dataset, out),
    }
    write_atomic(out / "demo.json", json.dumps(demo, indent=1, ensure_ascii=False) + "\n")
    write_report(out / "report.html", demo, dataset, vocabulary, probs_path)
    for model in demo["psds1"]["models"]:
        print(f"PSDS1 {model['psds1']:.3f}  {model['title']}")
    print(f"report: {out / 'report.html'}")
    return 0


def make_dataset(out: Path, clips: Mapping[str, int], seed: int) -> "_Steps":
    """Generate, pack and label the demo's splits below `out`, as far as they are not there yet."""
    steps = _Steps(out / "steps")
    dataset = Dataset(out / "dataset")
    with contextlib.ExitStack() as session:

        def complete(stage: Stage) -> dict[str, Any]:
            session.enter_context(ray_session(None, cpus=machine_cpus()))  # starts at the first stage and serves all
            return _complete(stage)

        for split, wanted in clips.items():
            steps.run(
                f"generate {split}",
                lambda split=split, wanted=wanted: _generate(out, split, wanted, seed),
                leaves=out / "recordings" / split,
            )
        for split in clips:
            steps.run(
                f"pack {split}",
                lambda split=split: complete(_pack(out, dataset.root, split)),
                leaves=dataset.audio_folder(split, AudioSpec().name),
            )
        for split in clips:
            steps.run(
                f"label {split}",
                lambda split=split: complete(_label(dataset.root, split)),
                leaves=dataset.labels_folder(split, LABELS),
            )
    return steps


class _Steps:
    """Runs each step once: its result and seconds are in a file, written when the step is complete.

    A step whose product is gone runs again, and so do all behind it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ran = False
        self.rows: dict[str, dict[str, Any]] = {}

    def done(self, name: str, leaves: Path) -> bool:
        return not self._ran and self._path(name).exists() and leaves.exists()

    def run(self, name: str, step: Callable[[], dict[str, Any]], *, leaves: Path, say: str = "") -> dict[str, Any]:
        """The step's result, a JSON object with clips_in, clips_out and rejected. `leaves`: the product of the step."""
        path = self._path(name)
        if self.done(name, leaves):
            result: dict[str, Any] = json.loads(path.read_text())
        else:
            self._ran = True
            print(f"{say or name} ...", flush=True)
            started_s = time.monotonic()
            result = step()
            result["elapsed_s"] = round(time.monotonic() - started_s, 2)
            result.setdefault("seconds", result["elapsed_s"])  # what runs beside something else brings its own
            write_atomic(path, canonical_json(result) + "\n")
        row = {field: result[field] for field in ("clips_in", "clips_out", "rejected", "seconds", "elapsed_s")}
        row["clips_per_s"] = row["clips_out"] / max(row["seconds"], 1e-9)
        self.rows[name] = row
        return result

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.json"


class _Lines:
    """Says every tenth of a training how far it is."""

    def __init__(self, name: str, steps: int) -> None:
        self._name, self._steps = name, steps

    def __call__(self, step: TrainStep) -> None:
        done = step.step + 1
        if done % max(1, self._steps // 10) == 0:
            print(f"  {self._name}: step {done}/{self._steps}, loss {step.loss:.4f}", flush=True)


def _claim(out: Path, recipe: DemoRecipe) -> None:
    path = out / "recipe.json"
    wanted = canonical_json(asdict(recipe)) + "\n"
    if path.exists() and path.read_text() != wanted:
        raise UsageError(
            f"{out}: holds a demo of another recipe ({path.read_text().strip()}); choose another --out or remove it"
        )
    try:
        write_atomic(path, wanted)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error


def _generate(out: Path, split: str, clips: int, seed: int) -> dict[str, Any]:
    write_split(out / "recordings" / split, split=split, clips=clips, seed=seed, strong=split != "weak")
    return {"clips_in": clips, "clips_out": clips, "rejected": 0}


def _pack(out: Path, data: Path, split: str) -> Stage:
    recordings = out / "recordings" / split
    return pack_stage(
        dataset=data,
        split=split,
        folder=recordings / "audio",
        keys="audioset",
        weak_csv=recordings / "weak.csv",
        strong_tsv=None if split == "weak" else recordings / "strong.tsv",
        clips_per_shard=50,
    )


def _label(data: Path, split: str) -> Stage:
    # As float16: the figures of the report are then the teacher's, without a codec's error.
    teacher = LabellerChoice.of("demo")
    return label_stage(dataset=data, split=split, labels=LABELS, teacher=teacher, codec="master", device="cpu")


def _complete(stage: Stage) -> dict[str, Any]:
    report: StageReport = run_stage(stage, progress=False)
    if report.stopped in ("SIGINT", "SIGTERM"):
        raise KeyboardInterrupt
    if report.exit_code:
        raise IntegrityError(f"{report.summary()}; see {stage.output / 'report.json'}")
    return {"clips_in": report.clips, "clips_out": report.stored, "rejected": sum(report.rejected.values())}


def _train(steps: "_Steps", dataset: Dataset, vocabulary: Vocabulary, training: Training, students: Path) -> None:
    """Both arms side by side, a process and a core each."""
    paths = {arm.name: students / f"{arm.name}.pt" for arm in ARMS}
    missing = itertools.dropwhile(lambda arm: steps.done(f"train {arm.name}", paths[arm.name]), ARMS)
    with training_processes(len(ARMS)) as processes:
        running = {
            arm.name: processes.submit(
                train_arm,
                arm,
                dataset,
                vocabulary,
                training,
                labels=LABELS,
                path=paths[arm.name],
                on_step=_Lines(arm.name, training.steps),
            )
            for arm in missing
        }
        for name, path in paths.items():
            first = name == next(iter(running), None)
            say = f"train {' and '.join(running)}, side by side" if first else f"train {name}, the rest of it"
            steps.run(f"train {name}", lambda name=name: running[name].result(), leaves=path, say=say)


def _verify(data: Path) -> dict[str, Any]:
    problems = verify(data)
    if problems:
        first = problems[0]
        raise IntegrityError(
            f"{data}: {len(problems)} problems, first {first.shard} {first.key or ''} {first.kind}: {first.detail}"
        )
    dataset = Dataset.open(data)
    clips = sum(
        len(shard.clips) for split in dataset.splits() for shard in dataset.audio_shards(split, AudioSpec().name)
    )
    return {
        "clips_in": clips,
        "clips_out": clips,
        "rejected": 0,
        "summary": f"{clips} clips and their labels, no problem",
    }


def _sizes(dataset: Dataset, out: Path) -> list[dict[str, Any]]:
    recordings = [path for path in (out / "recordings").rglob("audio/*") if path.is_file()]
    audio = [shard for split in dataset.splits() for shard in dataset.audio_shards(split, AudioSpec().name)]
    labels = [shard for split in dataset.splits() for shard in dataset.label_shards(split, LABELS)]
    return [
        {"name": name, "clips": clips, "bytes": size}
        for name, clips, size in (
            ("recordings as generated", len(recordings), sum(path.stat().st_size for path in recordings)),
            ("audio shards, FLAC 16 kHz", sum(len(s.clips) for s in audio), sum(s.tar_bytes for s in audio)),
            ("label shards, float16 logits", sum(len(s.clips) for s in labels), sum(s.tar_bytes for s in labels)),
        )
    ]
