"""What the augmentations share: a new batch that leaves the given one alone, and random numbers of a torch.Generator.

An augmentation shares with the batch it was given what it does not change, tensors too; it writes into none of them.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.loader._batch import Batch
from shards.loader._kinds import check_kind


def changed(batch: Batch, **fields: Any) -> Batch:
    """`batch` with other `fields`, and dicts and lists of its own."""
    own = {"targets": dict(batch.targets), "weight": dict(batch.weight)}
    return replace(batch, **{**own, "source": list(batch.source), "key": list(batch.key), **fields})


def check_batch(what: str, batch: object) -> None:
    """Raise UsageError for what is no Batch."""
    needs = "a Batch; a CompactBatch becomes one by expand()"
    check_kind(f"what {what} got", batch, Batch, needs)


def numpy_rng(generator: torch.Generator) -> np.random.Generator:
    """Seeded by one number that it takes from `generator`, whatever its device."""
    check_kind("generator", generator, torch.Generator, "a torch.Generator, as torch.Generator().manual_seed(0)")
    seed = torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device)
    return np.random.default_rng(int(seed))


def per_clip(values: Tensor, like: Tensor) -> Tensor:
    """values [B] on the device and in the precision of `like` [B, ...], as [B, 1, ...] of as many axes."""
    return values.to(like.dtype).to(like.device).reshape(-1, *[1] * (like.dim() - 1))


def wide(weight: Tensor, target: Tensor) -> Tensor:
    """A weight that has only the leading axes of its target, with an axis of 1 for each of the others."""
    return weight.reshape(*weight.shape, *[1] * (target.dim() - weight.dim()))
