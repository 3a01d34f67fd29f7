"""Train the demo teacher: a small BEATs on generated soundscapes, from scratch, on a CPU.

    python teachers/train_demo_teacher.py --out teachers/demo/demo_beats.pt

Clips come from the seed streams `teacher` and `teacher_dev`, which no dataset of the demo uses, and every training clip
is new. The loss is taken exactly where labels are: on the frame logits. The first part of the run sees 5 s halves
(attention costs a fraction there), the rest whole clips. The checkpoint with the best mean average precision on dev is
kept.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python puts teachers/ on the path instead of the folder that holds the packages.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline import FRAMES, SOUND_CLASSES, Vocabulary, atomic_path, frame_labels, generate_soundscape, soundscape_seed
from teachers.families._beats import Beats, BeatsConfig, beats_features

CONFIG = BeatsConfig(
    embed_dim=144,
    encoder_layers=4,
    encoder_embed_dim=144,
    encoder_ffn_embed_dim=576,
    encoder_attention_heads=3,
    conv_pos=32,
    predictor_class=len(SOUND_CLASSES),
)
VOCABULARY = Vocabulary(tuple(sound.mid for sound in SOUND_CLASSES), tuple(sound.name for sound in SOUND_CLASSES))
CLIP_SAMPLES = 160_000
PRIOR = 0.035
"""Share of active cells in a soundscape's labels; the predictor starts there."""
HALVES_SHARE = 0.75
HALF_COLUMNS = 31  # a column is 16 feature frames of 10 ms, four label frames of 40 ms


class Clips(Dataset[tuple[Tensor, Tensor]]):
    """Clip i of a split as (features [998, 128], labels [classes, 250]); a training clip also gets a random gain."""

    def __init__(self, seed: int, split: str, clips: int, *, random_gain: bool) -> None:
        self.seed, self.split, self.clips, self.random_gain = seed, split, clips, random_gain

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, clip: int) -> tuple[Tensor, Tensor]:
        seed = soundscape_seed(self.seed, self.split, clip)
        soundscape = generate_soundscape(seed)
        waveform = np.zeros(CLIP_SAMPLES, dtype=np.float32)
        waveform[: len(soundscape.waveform)] = soundscape.waveform
        if self.random_gain:
            gain = 10 ** (np.random.default_rng([*seed, 1 << 21]).uniform(-12, 12) / 20)
            waveform *= min(gain, 1 / np.abs(waveform).max())
        labels = frame_labels(soundscape.events, VOCABULARY)
        return beats_features(torch.from_numpy(waveform)[None])[0], torch.from_numpy(labels).float()


def average_precision(probabilities: npt.NDArray[np.floating], active: npt.NDArray[np.bool_]) -> float:
    """Area under one class's precision-recall steps; equal probabilities are one threshold. NaN without positives."""
    order = np.argsort(-probabilities, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    hits = np.cumsum(active[order])[last_of_ties]
    if hits[-1] == 0:
        return math.nan
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * hits / (last_of_ties + 1)))


def mean_average_precision(model: Beats, dev: list[tuple[Tensor, Tensor]]) -> tuple[float, npt.NDArray[np.float64]]:
    """Frame-level average precision on dev: the mean over classes, and every class."""
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model.frame_logits(features, FRAMES) for features, _ in dev])
    model.train()
    labels = torch.cat([labels for _, labels in dev])
    flat = logits.transpose(0, 1).flatten(1).numpy(), labels.transpose(0, 1).flatten(1).numpy() > 0.5
    per_class = np.array([average_precision(*columns) for columns in zip(*flat, strict=True)])
    return float(np.nanmean(per_class)), per_class


def half_clip_loss(model: Beats, features: Tensor, labels: Tensor) -> Tensor:
    """BCE on both halves of every clip: 31 columns against 124 label frames each, exactly 4.96 s."""
    frames = HALF_COLUMNS * model.config.input_patch_size
    halves = features[:, : 2 * frames].unflatten(1, (2, frames)).flatten(0, 1)
    columns = model(halves).unflatten(1, (HALF_COLUMNS, -1)).mean(dim=2)
    logits = F.interpolate(model.predictor(columns).transpose(1, 2), size=4 * HALF_COLUMNS, mode="linear")
    targets = labels[:, :, : 8 * HALF_COLUMNS].unflatten(2, (2, 4 * HALF_COLUMNS)).transpose(1, 2).flatten(0, 1)
    return F.binary_cross_entropy_with_logits(logits.float(), targets)


def whole_clip_loss(model: Beats, features: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(model.frame_logits(features, FRAMES).float(), labels)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 5 % of the run, then a cosine to zero."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def save_checkpoint(path: Path, model: Beats) -> None:
    """The layout of released fine-tuned BEATs checkpoints, in float16: {'cfg', 'model', 'label_dict'}."""
    weights = {name: tensor.detach().half() for name, tensor in model.state_dict().items()}
    checkpoint = {"cfg": asdict(model.config), "model": weights, "label_dict": dict(enumerate(VOCABULARY.mids))}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(checkpoint, file)


def batches(clips: Clips, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Generated in one process beside the training loop, in the order of the seeds."""
    return iter(DataLoader(clips, batch_size=batch_size, num_workers=1, prefetch_factor=8, drop_last=True))


def train(*, out: Path, clips: int, seed: int, batch_size: int, peak_learning_rate: float, threads: int) -> float:
    """Train on `clips` new clips and keep the best checkpoint at `out`; returns its mean average precision on dev."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = Beats(CONFIG)
    nn.init.constant_(model.predictor.bias, math.log(PRIOR / (1 - PRIOR)))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    dev_clips = Clips(seed, "teacher_dev", 120, random_gain=False)
    dev = list(DataLoader(dev_clips, batch_size=20))
    steps = clips // batch_size
    best, started, loss_sum, since = 0.0, time.monotonic(), 0.0, 0
    for step, (features, labels) in enumerate(batches(Clips(seed, "teacher", clips, random_gain=True), batch_size)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak_learning_rate)
        with torch.autocast("cpu", torch.bfloat16):
            loss = (half_clip_loss if step < HALVES_SHARE * steps else whole_clip_loss)(model, features, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss_sum, since = loss_sum + loss.item(), since + 1
        if (step + 1) % 250 == 0 or step + 1 == steps:
            mean, per_class = mean_average_precision(model, dev)
            worst = VOCABULARY.names[int(np.nanargmin(per_class))]
            print(
                f"{(step + 1) * batch_size:6d} clips  {time.monotonic() - started:5.0f} s  "
                f"loss {loss_sum / since:.4f}  dev mAP {mean:.3f}  worst {np.nanmin(per_class):.3f} {worst}",
                flush=True,
            )
            loss_sum, since = 0.0, 0
            if mean > best:
                best = mean
                save_checkpoint(out, model)
    for name, value in zip(VOCABULARY.names, per_class, strict=True):
        print(f"{value:.3f}  {name}")
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="checkpoint file to write")
    parser.add_argument("--clips", type=int, default=20_000, help="training clips of 10 s (default: 20000)")
    parser.add_argument("--seed", type=int, default=2_000, help="seed of soundscapes and weights (default: 2000)")
    parser.add_argument("--batch-size", type=int, default=6, help="clips per step (default: 6)")
    parser.add_argument("--peak-learning-rate", type=float, default=1e-3, help="(default: 1e-3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads (default: all cores)")
    best = train(**vars(parser.parse_args()))
    print(f"best dev mAP {best:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
