"""The loss every recipe shares: one weighted BCE, absent labels included, with one documented normaliser."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline import UsageError


def weighted_bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean loss of the clips that have the label, a float32 scalar; 0 where no clip has it.

    logits, target: [B, C] or [B, C, T]; target holds probabilities. weight: 0 where the label is absent; it has the
    target's shape or its leading axes only ([B], [B, C]), and any axis but that of the clips may be 1 ([B, 1, T]): such
    a weight is that of all cells along the axis, which are counted one by one.

    A clip's loss is the sum of weight * BCE over its cells divided by the number of its cells that are present (weight
    above 0), whatever its number of classes and frames; the mean is over the clips with any present cell. So clips
    count alike, an absent label neither teaches nor dilutes, and a weight below 1, which mixup makes, does weigh less.

    Where torch.distributed runs, the clips counted are those of all ranks, and the result is scaled so that averaging
    the ranks' gradients, as DistributedDataParallel does, gives the gradient of the mean over all of them. Every rank
    must call it then, one whose batch lacks the label too.
    """
    loss_sum, clips = weighted_bce_sums(logits, target, weight)
    ranks = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        ranks = torch.distributed.get_world_size()
        torch.distributed.all_reduce(clips)
    return loss_sum * ranks / clips.clamp_min(1.0)


def weighted_bce_sums(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over clips of the loss above, number of clips with any present cell), as float32, this process alone."""
    _check(logits, target, weight)
    weight = weight.float().reshape(*weight.shape, *(1,) * (target.ndim - weight.ndim))
    present = weight > 0
    # Under an absent label anything may stand, NaN too, and neither the loss nor the gradient may hear of it.
    logits, target = (torch.where(present, values.float(), 0.0) for values in (logits, target))
    bce = weight * binary_cross_entropy_with_logits(logits, target, reduction="none")
    cells = tuple(range(1, target.ndim))
    present_cells = present.expand_as(target).sum(dim=cells)
    return (bce.sum(dim=cells) / present_cells.clamp_min(1)).sum(), (present_cells > 0).sum().float()


def _check(logits: Tensor, target: Tensor, weight: Tensor) -> None:
    fits = 0 < weight.ndim <= target.ndim and weight.shape[0] == target.shape[0]
    fits &= all(own in (1, other) for own, other in zip(weight.shape, target.shape, strict=False))
    if not fits or logits.shape != target.shape:
        raise UsageError(
            f"weighted_bce got logits {tuple(logits.shape)}, target {tuple(target.shape)} and weight "
            f"{tuple(weight.shape)}; needs equal shapes, of which the weight may have the leading axes only, and any "
            "axis but the first as 1"
        )
