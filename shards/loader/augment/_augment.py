"""Augmentations that leave the time axis alone: gain, polarity, rotation of first-order ambisonics.

Each is a pure function: a new batch, on the device of the batch's tensors; the given one stays as it is.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline import UsageError
from shards.loader._batch import Batch
from shards.loader._kinds import check_real
from shards.loader.augment._pure import changed, check_batch, numpy_rng, per_clip

Angles = Literal["right", "any"]


def gain(batch: Batch, *, generator: torch.Generator, max_db: float = 7.0) -> Batch:
    """Each clip louder or softer by its own U(-max_db, max_db) dB. Samples may leave [-1, 1]; nothing is clipped.

    EfficientSED's weak training draws whole decibels from -7 to 6.
    """
    check_batch("gain", batch)
    check_real(max_db=max_db)
    if not 0 <= max_db <= 120:
        raise UsageError(f"gain got max_db {max_db}; needs 0 to 120")
    decibels = numpy_rng(generator).uniform(-max_db, max_db, len(batch))
    return _times(batch, 10 ** (decibels / 20))


def polarity(batch: Batch, *, generator: torch.Generator, probability: float = 0.5) -> Batch:
    """Each clip, with `probability`, with the sign of all its samples (all channels alike) turned."""
    check_batch("polarity", batch)
    check_real(probability=probability)
    if not 0 <= probability <= 1:
        raise UsageError(f"polarity got probability {probability}; needs 0 to 1")
    turned = numpy_rng(generator).random(len(batch)) < probability
    return _times(batch, np.where(turned, -1.0, 1.0))


def rotate_foa(batch: Batch, *, generator: torch.Generator, angles: Angles = "right", mirror: bool = True) -> Batch:
    """Each clip's sound field turned about the vertical axis by its own angle, and its directions with it.

    The waveform is [B, 4, N], channels in ACN order W, Y, Z, X (x ahead, y left, z up), whatever their normalisation;
    targets with an axis "xyz" turn along. angles: "right" draws from 0, 90, 180 and 270 degrees, "any" from U(0, 360).
    mirror: left and right change places with probability 1/2, and so do up and down. Right angles with mirrors are the
    16 patterns of channels swapped and negated that training for localisation uses (Mazzon et al., DCASE 2019); they
    are exact.

    Raises UsageError for other audio, and for a weight that tells x, y and z apart.
    """
    check_batch("rotate_foa", batch)
    if angles not in get_args(Angles):
        raise UsageError(f"rotate_foa got angles {angles!r}; needs one of {', '.join(get_args(Angles))}")
    if batch.waveform.dim() != 3 or batch.waveform.shape[1] != 4:
        raise UsageError(f"rotate_foa needs waveforms [B, 4, N] (W, Y, Z, X), got {tuple(batch.waveform.shape)}")
    turn = _turns(len(batch), numpy_rng(generator), angles, mirror)
    w, y, z, x = batch.waveform.unbind(dim=1)
    x, y, z = _turned((x, y, z), turn)
    targets = dict(batch.targets)
    for name, axes in batch.axes.items():
        if "xyz" in axes:
            axis = 1 + axes.index("xyz")
            weight = batch.weight[name]
            if weight.dim() > axis and weight.shape[axis] != 1:
                raise UsageError(f"rotate_foa: the weight of {name} has values for x, y and z apart; give one for all")
            targets[name] = torch.stack(_turned(targets[name].unbind(dim=axis), turn), dim=axis)
    return changed(batch, waveform=torch.stack([w, y, z, x], dim=1), targets=targets)


def _turns(clips: int, rng: np.random.Generator, angles: Angles, mirror: bool) -> Tensor:
    """[4, B]: the cosine and sine of each clip's angle, the sign of y before it is turned, and that of z."""
    quarter = rng.integers(4, size=clips)
    angle = rng.uniform(0, 2 * np.pi, clips)
    signs = rng.choice([-1.0, 1.0], (2, clips)) if mirror else np.ones((2, clips))
    cosine, sine = np.cos(angle), np.sin(angle)
    if angles == "right":
        # From a table: the cosine of pi / 2 in floating point is not 0.
        cosine, sine = np.array([1.0, 0.0, -1.0, 0.0])[quarter], np.array([0.0, 1.0, 0.0, -1.0])[quarter]
    return torch.from_numpy(np.stack([cosine, sine, *signs]))


def _turned(xyz: tuple[Tensor, ...], turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Products and sums of single values, not a matrix product, which a device may carry out in lower precision."""
    x, y, z = xyz
    cosine, sine, sign_y, sign_z = (per_clip(values, x) for values in turn)
    y = sign_y * y
    return cosine * x - sine * y, sine * x + cosine * y, sign_z * z


def _times(batch: Batch, factors: npt.NDArray[np.float64]) -> Batch:
    return changed(batch, waveform=batch.waveform * per_clip(torch.from_numpy(factors), batch.waveform))
