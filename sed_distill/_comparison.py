"""Students that differ in what they learn from, trained alike and evaluated beside their teacher."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import Vocabulary, atomic_path
from sed_distill._evaluation import Evaluation, evaluate, label_set_model
from shards import Batch, Dataset, MixedLoader, Source, mixup
from students import TrainConfig, TrainStep, load_student, predict, save_student, train_student

TEACHER = "teacher"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What a student learns from: (split, share) of its batches and (target, coefficient) of its loss."""

    name: str
    title: str
    sources: tuple[tuple[str, float], ...]
    terms: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How every arm is trained, so that arms differ in nothing else."""

    seed: int
    width: float
    steps: int
    batch_size: int
    learning_rate: float


def train_arm(
    arm: Arm,
    dataset: Dataset,
    vocabulary: Vocabulary,
    training: Training,
    *,
    labels: str,
    path: Path,
    on_step: Callable[[TrainStep], None] | None = None,
) -> dict[str, Any]:
    """Train the student of one arm, on one core, and save it as `path`; returns clips in and out and seconds."""
    torch.set_num_threads(1)  # two arms side by side use two cores better than one arm whose threads wait on each other
    loader = MixedLoader(
        [Source(dataset, split, share=share, labels=(labels,)) for split, share in arm.sources],
        training.batch_size,
        vocabulary=vocabulary,
        seed=training.seed,
        workers=1,
    )
    config = TrainConfig(
        terms=arm.terms,
        steps=training.steps,
        learning_rate=training.learning_rate,
        warmup_steps=training.steps // 10,
        width=training.width,
        seed=training.seed,
        clip_logits="max",
        batch_norm_momentum=0.1,
        prior=0.03,
    )
    generator = torch.Generator().manual_seed(training.seed)
    batches = (mixup(batch, generator=generator) for batch in _endless(loader))
    trained = train_student(config, batches, vocabulary, on_step=on_step)
    save_student(path, trained)
    return {
        "clips_in": trained.clips,
        "clips_out": trained.clips,
        "rejected": len(loader.replaced),
        "seconds": round(trained.seconds, 2),
    }


def evaluate_arms(
    arms: Sequence[Arm], dataset: Dataset, vocabulary: Vocabulary, *, labels: str, folder: Path, probs_path: Path
) -> dict[str, Any]:
    """PSDS1 on eval of the teacher's labels and of each arm's student, each after the median filter best for it on dev.

    Keeps the probabilities in `probs_path` for pictures.
    """
    students = {arm.name: load_student(folder / f"{arm.name}.pt")[0] for arm in arms}
    models = {TEACHER: label_set_model(labels)} | {
        name: lambda batch, student=student: predict(student, batch.waveform) for name, student in students.items()
    }
    dev = evaluate(dataset, "dev", vocabulary, models, labels=(labels,))
    filters = {name: dev.best_median_filter(name) for name in models}
    final = evaluate(dataset, "eval", vocabulary, models, labels=(labels,))
    results = {name: final.psds1(name, median_frames=filters[name]) for name in models}
    titles = {TEACHER: "Teacher, as stored"} | {arm.name: arm.title for arm in arms}
    ceiling = final.ceiling()
    with atomic_path(probs_path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, keys=np.array(final.keys), **final.probs)
    provenance = dataset.label_shards("eval", labels)[0].provenance["teacher"]
    return {
        "clips_in": len(final.keys) + len(dev.keys),
        "clips_out": len(final.keys) + len(dev.keys),
        "rejected": 0,
        "teacher": f"{provenance['family']}, checkpoint sha256 {provenance['checkpoint_sha256'][:16]}",
        "psds1": {
            "ceiling": ceiling.mean,
            "clips": ceiling.clips,
            "models": [
                {
                    "name": name,
                    "title": titles[name],
                    "psds1": results[name].mean,
                    "dev_psds1": dev.psds1(name, median_frames=filters[name]).mean,
                    "median_filter": filters[name],
                    "parameters": _parameters(students[name]) if name in students else None,
                }
                for name in models
            ],
            "classes": _per_class(final, [results[name].per_class for name in models], ceiling.counted),
        },
    }


def load_probs(path: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Clip keys and each model's probabilities [clips, classes, 250] as `evaluate_arms` kept them."""
    with np.load(path, allow_pickle=False) as stored:
        return tuple(stored["keys"].tolist()), {name: stored[name] for name in stored.files if name != "keys"}


def _endless(loader: MixedLoader) -> Iterator[Batch]:
    while True:
        yield from loader


def _parameters(student: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in student.parameters())


def _per_class(final: Evaluation, per_class: list[np.ndarray], counted: tuple[int, ...]) -> list[dict[str, Any]]:
    return [
        {
            "mid": final.vocabulary.mids[column],
            "name": final.vocabulary.names[column],
            "events": sum(event.mid == final.vocabulary.mids[column] for clip in final.events for event in clip),
            "psds1": [float(values[column]) for values in per_class],
        }
        for column in counted
    ]
