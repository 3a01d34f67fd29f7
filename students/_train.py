"""The distillation trainer: any iterable of batches, any weighted sum of soft and hard label terms, one student."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline import SedDistillError, UsageError, Vocabulary
from pipeline.features import jittered_band
from shards import Batch, weighted_bce
from students._student import StudentLogits, StudentModel, frame_mobilenet

ClipLogits = Literal["head", "max"]


class TrainingError(SedDistillError):
    """The loss is not a number any more; names the step and the clips of its batch."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a student is trained.

    terms: (target name, coefficient) of every loss term. Frame targets meet frame logits, clip targets clip logits.
    clip_logits: "head" is the student's own clip head, as published; "max" a class's highest frame logit, so that a
        clip label teaches the frame head too.
    learning_rate: of Adam without weight decay, reached after `warmup_steps` and brought to 0 on a cosine.
    batch_norm_momentum: 0.01 as published wants thousands of steps; a run of some hundred needs 0.1.
    prior: probability that fresh heads give every class: 0.5 as published. Labels are mostly zeros, so a short run that
        starts near their mean spends its steps on sounds instead of on silence.
    mel_jitter: move the mel filters' ends a little, anew for every batch.
    bfloat16: run the network (not its front end, loss or weights) in bfloat16.
    """

    terms: tuple[tuple[str, float], ...]
    steps: int
    learning_rate: float = 3e-3
    warmup_steps: int = 0
    width: float = 0.4
    seed: int = 0
    clip_logits: ClipLogits = "head"
    batch_norm_momentum: float = 0.01
    prior: float = 0.5
    mel_jitter: bool = True
    bfloat16: bool = False

    def __post_init__(self) -> None:
        names = [name for name, _ in self.terms]
        if not names or len(set(names)) != len(names) or not all(c > 0 and math.isfinite(c) for _, c in self.terms):
            raise UsageError(
                f"loss terms are {self.terms}; needs distinct target names, each with a coefficient above 0"
            )
        if not 0 <= self.warmup_steps < self.steps:
            raise UsageError(f"{self.warmup_steps} warm-up steps of {self.steps}; needs 0 <= warm-up < steps")
        if not self.learning_rate > 0 or not 0 < self.batch_norm_momentum <= 1:
            raise UsageError("the learning rate must be above 0 and the batch-norm momentum in (0, 1]")
        if not 0 < self.prior < 1:
            raise UsageError(f"the prior is {self.prior}, needs a probability between 0 and 1")
        if self.clip_logits not in get_args(ClipLogits):
            raise UsageError(f"clip_logits is {self.clip_logits!r}, needs one of {', '.join(get_args(ClipLogits))}")

    def learning_rate_at(self, step: int) -> float:
        """Of step 0 .. steps - 1: linear up to `learning_rate`, then half a cosine that would reach 0 at `steps`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """One step as reported: the loss and each term's own mean before its coefficient."""

    step: int
    loss: float
    terms: dict[str, float]
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class TrainedStudent:
    student: StudentModel
    config: TrainConfig
    vocabulary: Vocabulary
    history: tuple[TrainStep, ...] = field(repr=False)
    clips: int
    seconds: float


def train_student(
    config: TrainConfig,
    batches: Iterable[Batch],
    vocabulary: Vocabulary,
    *,
    device: str = "cpu",
    on_step: Callable[[TrainStep], None] | None = None,
) -> TrainedStudent:
    """Train a fresh student of `config.width` for exactly `config.steps` batches.

    Mixing is the caller's: pass batches already mixed. On the CPU, equal batches, configuration and thread count give
    equal weights. Raises UsageError where batches run out or lack a target, TrainingError where the loss is not finite.
    """
    student = frame_mobilenet(config.width, len(vocabulary), seed=config.seed, prior=config.prior).to(device)
    student = student.to(memory_format=torch.channels_last)  # a quarter to a third faster on a CPU
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = config.batch_norm_momentum
    student.train()
    optimizer = torch.optim.Adam(student.parameters(), lr=config.learning_rate)
    generator = torch.Generator().manual_seed(config.seed)
    history: list[TrainStep] = []
    clips = 0
    started = time.monotonic()
    for step, batch in enumerate(_exactly(config.steps, batches)):
        learning_rate = config.learning_rate_at(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        band = jittered_band(generator) if config.mel_jitter else None
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=config.bfloat16):
            logits = student(batch.waveform.to(device, non_blocking=True), band)
        terms = _loss_terms(config, logits, batch)
        loss = torch.stack([coefficient * terms[name] for name, coefficient in config.terms]).sum()
        report = TrainStep(
            step=step,
            loss=loss.item(),
            terms={name: term.item() for name, term in terms.items()},
            learning_rate=learning_rate,
        )
        if not math.isfinite(report.loss):
            raise TrainingError(
                f"the loss is {report.loss} at step {step} on clips {', '.join(batch.key)}; "
                f"lower the learning rate of {config.learning_rate} or look at these clips"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(report)
        clips += len(batch)
        if on_step is not None:
            on_step(report)
    return TrainedStudent(
        student=student.eval(),
        config=config,
        vocabulary=vocabulary,
        history=tuple(history),
        clips=clips,
        seconds=time.monotonic() - started,
    )


@torch.inference_mode()
def predict(student: StudentModel, waveforms: Tensor, *, batch_size: int = 16) -> Tensor:
    """Float32 [N, 160000] -> frame probabilities float32 [N, C, 250], on the CPU. The student is put into eval mode."""
    student.eval()
    device = next(student.parameters()).device
    return torch.cat([student(part.to(device)).frame.float().sigmoid().cpu() for part in waveforms.split(batch_size)])


def _exactly(steps: int, batches: Iterable[Batch]) -> Iterator[Batch]:
    iterator = iter(batches)
    for step in range(steps):
        batch = next(iterator, None)
        if batch is None:
            raise UsageError(
                f"the batches ended after {step} of {steps} steps; pass a longer loader or ask for fewer steps"
            )
        yield batch


def _loss_terms(config: TrainConfig, logits: StudentLogits, batch: Batch) -> dict[str, Tensor]:
    device = logits.frame.device
    terms = {}
    for name, _ in config.terms:
        if name not in batch.targets:
            raise UsageError(f"the batches have no target {name!r}, only {', '.join(sorted(batch.targets))}")
        target, weight = (values[name].to(device, non_blocking=True) for values in (batch.targets, batch.weight))
        if target.ndim == 3:
            against = logits.frame
        else:
            against = logits.clip if config.clip_logits == "head" else logits.frame.amax(dim=2)
        terms[name] = weighted_bce(against, target, weight)
    return terms
