"""Augmentations along time: a circular roll and a crop, of the waveform and of every target that has a time axis.

Both move by whole multiples of one step, in which every target has whole frames: the least common multiple of all hops
and of the 40 ms in which valid frames are counted. So no label is ever resampled, and frame t of a target covers
[t * hop, (t + 1) * hop) of the new waveform as it did of the old.
"""

import math
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline import HOP_MS, UsageError
from shards.loader._batch import Batch
from shards.loader._kinds import check_real, check_whole
from shards.loader.augment._pure import changed, check_batch, numpy_rng, per_clip

ClipTargets = Literal["drop", "keep"]


def roll_time(batch: Batch, *, generator: torch.Generator, sigma_s: float = 1.25) -> Batch:
    """Each clip rolled along time, circularly, by its own number of steps: the nearest to N(0, sigma_s) seconds.

    Published training (EfficientSED) rolls the padded clip too, by whole mel frames, and its labels by the nearest
    40 ms. Here weights roll with their targets, so they say exactly which frames stand on audio. `valid_frames` of a
    short clip becomes its last frame on audio + 1, as the frames on audio are no longer the first ones; a weight
    without a time axis stays as it is.

    Raises UsageError if the frames of a target do not make up the clip exactly, or no step is shorter than the clip.
    """
    check_batch("roll_time", batch)
    check_real(sigma_s=sigma_s)
    if not sigma_s >= 0:
        raise UsageError(f"roll_time got sigma_s {sigma_s}; needs 0 or more")
    clip_ms, step_ms = _clip_ms(batch), _step_ms(batch)
    for name, hop_ms in batch.hop_ms.items():
        frames = batch.targets[name].shape[_time(batch, name)]
        if frames * hop_ms != clip_ms:
            raise UsageError(
                f"roll_time: {frames} frames of {float(hop_ms):g} ms of {name} do not make up a clip of "
                f"{float(clip_ms):g} ms; ask for a grid that does, or for batches without {name}"
            )
    if clip_ms % step_ms or clip_ms == step_ms:
        raise UsageError(
            f"roll_time: the targets have whole frames together every {float(step_ms):g} ms only, and a clip of "
            f"{float(clip_ms):g} ms is not several of these; ask for grids with a common multiple"
        )
    steps = int(clip_ms / step_ms)
    normal = torch.from_numpy(numpy_rng(generator).standard_normal(len(batch)))
    shift = (normal * (1000 * sigma_s / float(step_ms))).round().long().remainder(steps)
    start = (-shift).remainder(steps).to(batch.waveform.device)
    shift = shift.to(batch.valid_frames.device)
    moved = (shift * int(step_ms / HOP_MS) + batch.valid_frames).clamp_max(int(clip_ms / HOP_MS))
    return _cut(batch, start, clip_ms, torch.where(batch.valid_frames > 0, moved, 0))


def crop_to(batch: Batch, *, clip_ms: int, generator: torch.Generator, clip_targets: ClipTargets = "drop") -> Batch:
    """Of each clip `clip_ms` milliseconds from a start of its own, a multiple of the step drawn uniformly.

    A clip is cut where its audio is: starts reach to the first crop that holds its end, and no crop leaves the N
    samples that there are (the third chunk of 4 s of a 10 s clip is never whole and never drawn). `valid_frames` are
    those of the crop. Crop before you roll: a rolled clip may have its silence anywhere.
    clip_targets: what becomes of labels without a time axis. "drop" sets the weight of a clip to 0 where the crop left
    audio out, for what holds of a clip may not hold of a part; "keep" leaves them as they are.

    Raises UsageError unless `clip_ms` is a multiple of the step, and neither longer than the clip nor than any target.
    """
    check_batch("crop_to", batch)
    check_whole(clip_ms=clip_ms)
    if clip_targets not in get_args(ClipTargets):
        raise UsageError(f"crop_to got clip_targets {clip_targets!r}; needs one of {', '.join(get_args(ClipTargets))}")
    step_ms = _step_ms(batch)
    covered_ms = [batch.targets[name].shape[_time(batch, name)] * hop_ms for name, hop_ms in batch.hop_ms.items()]
    whole_ms = min([_clip_ms(batch), *covered_ms])
    if not 0 < clip_ms <= whole_ms or clip_ms % step_ms:
        raise UsageError(
            f"crop_to got {clip_ms} ms; needs a multiple of {float(step_ms):g} ms, in which all targets have whole "
            f"frames, of at most {float(whole_ms):g} ms, which all of them cover"
        )
    frames, step_frames = int(Fraction(clip_ms, HOP_MS)), int(step_ms / HOP_MS)
    valid = batch.valid_frames
    # Rounded up: the last start is the first whose crop holds the last frame on audio.
    last = (valid - frames + step_frames - 1).div(step_frames, rounding_mode="floor")
    last = last.clamp(0, int((whole_ms - clip_ms) / step_ms))
    drawn = torch.from_numpy(numpy_rng(generator).random(len(batch))).float().to(valid.device)
    start = torch.minimum((drawn * (last + 1)).long(), last)
    cropped = _cut(batch, start, Fraction(clip_ms), (valid - start * step_frames).clamp(0, frames))
    if clip_targets == "drop":
        complete = (start == 0) & (valid <= frames)
        for name, weight in batch.weight.items():
            if "time" not in batch.axes[name]:
                cropped.weight[name] = weight * per_clip(complete, weight)
    return cropped


def _cut(batch: Batch, start: Tensor, clip_ms: Fraction, valid_frames: Tensor) -> Batch:
    """`clip_ms` of each clip from step start[i] on, going on with its beginning where it ends. start: int64 [B]."""
    step_ms = _step_ms(batch)
    targets, weight = dict(batch.targets), dict(batch.weight)
    for name, hop_ms in batch.hop_ms.items():
        axis, frames = _time(batch, name), int(clip_ms / hop_ms)
        first = start * int(step_ms / hop_ms)
        targets[name] = _take(targets[name], axis, first, frames)
        if weight[name].dim() > axis and weight[name].shape[axis] > 1:
            weight[name] = _take(weight[name], axis, first, frames)
    waveform = _take_samples(
        batch, start * int(step_ms * batch.sample_rate / 1000), int(clip_ms * batch.sample_rate / 1000)
    )
    return changed(batch, waveform=waveform, targets=targets, weight=weight, valid_frames=valid_frames)


def _take(values: Tensor, axis: int, first: Tensor, count: int) -> Tensor:
    """Of values [B, ...] `count` places along `axis`, of clip i from first[i] on, circularly."""
    index = (first.unsqueeze(1) + torch.arange(count, device=first.device)).remainder(values.shape[axis])
    index = index.to(values.device).reshape(len(values), *[1] * (axis - 1), count, *[1] * (values.dim() - axis - 1))
    shape = [*values.shape[:axis], count, *values.shape[axis + 1 :]]
    return values.gather(axis, index.expand(shape))


def _take_samples(batch: Batch, first: Tensor, count: int) -> Tensor:
    """As `_take` along the last axis, in blocks that all starts, the length and the count are multiples of: one index
    a block, not one a sample."""
    *channels, samples = batch.waveform.shape[1:]
    block = math.gcd(samples, count, int(_step_ms(batch) * batch.sample_rate / 1000))
    blocks = batch.waveform.reshape(len(batch), -1, samples // block, block)
    inside = first.unsqueeze(1) // block + torch.arange(count // block, device=first.device)
    inside = inside.remainder(samples // block).unsqueeze(1)
    rows = torch.arange(len(batch) * blocks.shape[1], device=first.device).reshape(len(batch), -1, 1)
    index = (rows * (samples // block) + inside).flatten()
    taken = blocks.reshape(-1, block).index_select(0, index.to(blocks.device))
    return taken.reshape(len(batch), *channels, count)


def _step_ms(batch: Batch) -> Fraction:
    """The shortest time that is a whole number of frames of every target, of 40 ms and of samples."""
    step = Fraction(HOP_MS)
    for other in (*batch.hop_ms.values(), Fraction(1000, batch.sample_rate)):
        # In lowest terms, lcm(a / b, c / d) = lcm(a, c) / gcd(b, d).
        step = Fraction(math.lcm(step.numerator, other.numerator), math.gcd(step.denominator, other.denominator))
    return step


def _clip_ms(batch: Batch) -> Fraction:
    return Fraction(1000 * batch.waveform.shape[-1], batch.sample_rate)


def _time(batch: Batch, name: str) -> int:
    """The axis of a target, clips' included, that is its time."""
    return 1 + batch.axes[name].index("time")
