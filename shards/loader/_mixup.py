"""Mixup: one plan (partner, lambda) for the waveform, the hard labels and every soft target.

Mixing targets by their weights makes the weighted BCE of a mixed clip the mixture of the two clips' losses, exactly and
also where one of them has no label, because BCE is linear in the target:
    w = l w1 + (1 - l) w2,   t = (l w1 p1 + (1 - l) w2 p2) / w
    w BCE(z, t) = l w1 BCE(z, p1) + (1 - l) w2 BCE(z, p2)
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline import UsageError
from shards.loader._batch import Batch

Partners = Literal["within", "across"]


def mixup(
    batch: Batch,
    *,
    generator: torch.Generator,
    probability: float = 0.5,
    alpha: float = 2.0,
    symmetric: bool = True,
    partners: Partners = "within",
) -> Batch:
    """A new batch in which each clip is, with `probability`, mixed with another clip. `batch` stays as it is.

    b ~ Beta(alpha, alpha); lambda = max(b, 1 - b) if `symmetric`, so that a clip stays the louder one, else b.
    Partners are drawn within a clip's own source or across the batch; a clip without a possible partner stays as it is.
    As published, both waveforms lose their mean over all N samples before they are mixed, so the mixture has none
    either. `valid_frames` is that of the longer clip; `source` and `key` stay the clip's own. The plan takes one number
    from `generator`, whatever its device.
    """
    if not 0 <= probability <= 1 or not alpha > 0 or partners not in get_args(Partners):
        raise UsageError(
            f"mixup got probability {probability} (needs 0 to 1), alpha {alpha} (above 0) "
            f"and partners {partners!r} ({' or '.join(get_args(Partners))})"
        )
    seed = int(torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device))
    rng = np.random.default_rng(seed)
    partner = _partners(batch.source if partners == "within" else [""] * len(batch), rng)
    shares = rng.beta(alpha, alpha, len(batch))
    shares = np.maximum(shares, 1 - shares) if symmetric else shares
    chosen = (rng.random(len(batch)) < probability) & (partner != np.arange(len(batch)))
    first = torch.from_numpy(np.flatnonzero(chosen)).to(batch.waveform.device)
    second = torch.from_numpy(partner[chosen]).to(batch.waveform.device)
    return _mix(batch, first, second, torch.from_numpy(shares[chosen]).to(batch.waveform.device))


def _mix(batch: Batch, first: Tensor, second: Tensor, share: Tensor) -> Batch:
    """Clips first[i] become share[i] of themselves and 1 - share[i] of clips second[i]: int64, int64, float64 [M]."""
    targets, weight = {}, {}
    for name in batch.targets:
        targets[name], weight[name] = _mix_target(batch.targets[name], batch.weight[name], first, second, share)
    waveform = batch.waveform.clone()
    waveform[first] = _times(share, _centred(batch.waveform[first]))
    waveform[first] += _times(1 - share, _centred(batch.waveform[second]))
    frames = batch.valid_frames.clone()
    frames[first] = torch.maximum(batch.valid_frames[first], batch.valid_frames[second])
    return Batch(
        waveform=waveform,
        targets=targets,
        weight=weight,
        valid_frames=frames,
        source=list(batch.source),
        key=list(batch.key),
    )


def _mix_target(p: Tensor, w: Tensor, first: Tensor, second: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    weight = w.clone()
    weight[first] = _times(share, w[first]) + _times(1 - share, w[second])
    # A weight may have the leading axes of its target only.
    wide, total = (values.reshape(*values.shape, *(1,) * (p.dim() - w.dim())) for values in (w, weight[first]))
    summed = _times(share, wide[first] * p[first]) + _times(1 - share, wide[second] * p[second])
    target = p.clone()
    # Where neither clip has a label 0 / 0 would spread NaN; the target there is 0, and so is its weight.
    target[first] = torch.where(total > 0, summed / total, torch.zeros_like(summed))
    return target, weight


def _partners(groups: list[str], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """For each clip another one of its group: the next in a random round through the group."""
    partner = np.arange(len(groups))
    for group in dict.fromkeys(groups):
        members = rng.permutation([clip for clip, name in enumerate(groups) if name == group])
        partner[members] = np.roll(members, -1)
    return partner


def _times(share: Tensor, values: Tensor) -> Tensor:
    """share [M] times values [M, ...], in the precision of `values`."""
    return share.to(values.dtype).reshape(-1, *[1] * (values.dim() - 1)) * values


def _centred(waveform: Tensor) -> Tensor:
    return waveform - waveform.mean(dim=-1, keepdim=True)
