"""Mixup: one plan (partner, lambda) for the waveform, the hard labels and every soft target.

Mixing targets by their weights makes the weighted BCE of a mixed clip the mixture of the two clips' losses, exactly and
also where one of them has no label, because BCE is linear in the target:
    w = l w1 + (1 - l) w2,   t = (l w1 p1 + (1 - l) w2 p2) / w
    w BCE(z, t) = l w1 BCE(z, p1) + (1 - l) w2 BCE(z, p2)
Both sides need only the shape that the weights have already, so a weight [B, 1, T] stays one. For the squared error of
vectors and distances the same holds up to a term that does not depend on z: the gradients are the mixture.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline import UsageError
from shards.loader._batch import Batch
from shards.loader._kinds import check_real
from shards.loader.augment._pure import changed, check_batch, numpy_rng, per_clip, wide

Partners = Literal["within", "across"]


class MixupOptions(TypedDict):
    """How lambda is drawn: options of `mixup` and `mix_plan`."""

    probability: float
    alpha: float
    beta: float
    symmetric: bool


# Schmid et al. (EfficientSED), as their released scripts run. Theirs draw a waveform's partner from the whole dataset,
# ours from the batch, and decide on mel mixup once a batch, ours once a clip; the shares of mixed clips are the same.
# They mix mels as the network takes them: normalised log mels, not power.
MIXUP_PRESETS: Mapping[str, MixupOptions] = {
    # Both recipes, strong and weak half, on waveforms: each clip less its mean.
    "waveform": {"probability": 0.5, "alpha": 2.0, "beta": 2.0, "symmetric": True},
    # The recipe on strong clips alone, on mels.
    "mel_strong": {"probability": 0.3, "alpha": 0.2, "beta": 0.2, "symmetric": False},
    # The 50/50 recipe on mels of its strong half; Beta(0.3, 0.2) because only alpha is set and beta has a default.
    "mel_50_50_strong": {"probability": 0.3, "alpha": 0.3, "beta": 0.2, "symmetric": False},
    # The 50/50 recipe on mels of its weak half.
    "mel_50_50_weak": {"probability": 1.0, "alpha": 0.3, "beta": 0.3, "symmetric": True},
}


@dataclass(frozen=True, kw_only=True, eq=False)
class MixPlan:
    """What is mixed with what: clip i becomes share[i] of itself and 1 - share[i] of clip partner[i].

    partner: int64 [B]. share: float64 [B] in [0, 1]. Clips that are not mixed are their own partner with share 1.
    """

    partner: Tensor
    share: Tensor

    def mix(self, batch: Batch) -> Batch:
        """A new batch, mixed by this plan; `mixup` says how."""
        check_batch("a mix plan", batch)
        return changed(self.targets(batch), waveform=self._mix_waveform(batch.waveform))

    def targets(self, batch: Batch) -> Batch:
        """A new batch with mixed targets, weights and valid frames and its waveform as it was: for `mix_features`."""
        self._check(len(batch))
        partner = self.partner.to(batch.valid_frames.device)
        targets, weight = {}, {}
        for name, target in batch.targets.items():
            mixed = self._join_tracks if "track" in batch.axes[name] else self._mix_target
            targets[name], weight[name] = mixed(target, batch.weight[name], batch.axes[name])
        frames = torch.maximum(batch.valid_frames, batch.valid_frames.index_select(0, partner))
        return changed(batch, targets=targets, weight=weight, valid_frames=frames)

    def _mix_waveform(self, waveform: Tensor) -> Tensor:
        """Mixed clips lose their mean over all N samples, each channel its own; others stay bit for bit."""
        mean = mix_features(waveform.mean(dim=-1, keepdim=True), self) * per_clip(self._mixed, waveform)
        return mix_features(waveform, self).sub_(mean)

    def _mix_target(self, target: Tensor, weight: Tensor, axes: Sequence[str]) -> tuple[Tensor, Tensor]:
        share = per_clip(self.share, weight)
        partner = self.partner.to(weight.device)
        own = share * weight
        total = weight.index_select(0, partner).mul_(1 - share).add_(own)
        # Where neither clip has a label 0 / 0 would spread NaN; the target there stays as it is, and the weight is 0.
        own_part = own.div_(total).nan_to_num_(nan=1.0)
        return target.index_select(0, partner).lerp_(target, wide(own_part, target).to(target.dtype)), total

    def _join_tracks(self, target: Tensor, weight: Tensor, axes: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The partner's tracks behind the own ones; of clips without a partner they are absent."""
        axis = 1 + axes.index("track")
        full = wide(weight, target)
        full = full.expand(*full.shape[:axis], target.shape[axis], *full.shape[axis + 1 :])
        partner = self.partner.to(target.device)
        return (
            torch.cat([target, target.index_select(0, partner) * per_clip(self._mixed, target)], dim=axis),
            torch.cat([full, full.index_select(0, partner) * per_clip(self._mixed, full)], dim=axis),
        )

    @property
    def _mixed(self) -> Tensor:
        return self.partner != torch.arange(len(self.partner), device=self.partner.device)

    def _check(self, clips: int) -> None:
        if len(self.partner) != clips:
            raise UsageError(f"a mix plan for {len(self.partner)} clips got {clips}; draw one plan for every batch")


def mixup(
    batch: Batch,
    *,
    generator: torch.Generator,
    probability: float = 0.5,
    alpha: float = 2.0,
    beta: float | None = None,
    symmetric: bool = True,
    partners: Partners = "within",
    only: Collection[str] | None = None,
) -> Batch:
    """A new batch in which each clip is, with `probability`, mixed with another clip. `batch` stays as it is.

    The options are those of `mix_plan`; `MIXUP_PRESETS` has the published ones: mixup(batch, generator=generator,
    **MIXUP_PRESETS["waveform"]).
    As published, both waveforms lose their mean over all N samples before they are mixed, so the mixture has none
    either. `valid_frames` is that of the longer clip; `source` and `key` stay the clip's own.
    Targets with a "track" axis are not mixed: of two clips together both sound, so the axis doubles, the partner's
    tracks behind the own ones, with weights that lambda does not change and that are 0 for clips without a partner.
    """
    return mix_plan(
        batch,
        generator=generator,
        probability=probability,
        alpha=alpha,
        beta=beta,
        symmetric=symmetric,
        partners=partners,
        only=only,
    ).mix(batch)


def mix_plan(
    batch: Batch | Sequence[str],
    *,
    generator: torch.Generator,
    probability: float = 0.5,
    alpha: float = 2.0,
    beta: float | None = None,
    symmetric: bool = True,
    partners: Partners = "within",
    only: Collection[str] | None = None,
) -> MixPlan:
    """Partner and lambda of every clip of a batch, or of clips of which each is given by its source's name.

    b ~ Beta(alpha, beta), beta = alpha unless given; lambda = max(b, 1 - b) if `symmetric`, so that a clip stays the
    louder one, else b. Partners are drawn within a clip's own source or across the batch; a clip without a possible
    partner stays as it is. `only`: sources whose clips are mixed, and with each other only, so that two sources of
    one batch can have a plan each. The plan takes one number from `generator`, whatever its device.
    """
    if isinstance(batch, str) or not isinstance(batch, Sequence):
        check_batch("mixup", batch)
    beta = alpha if beta is None else beta
    check_real(probability=probability, alpha=alpha, beta=beta)
    if not 0 <= probability <= 1 or not alpha > 0 or not beta > 0 or partners not in get_args(Partners):
        raise UsageError(
            f"mixup got probability {probability} (needs 0 to 1), alpha {alpha} and beta {beta} (above 0) "
            f"and partners {partners!r} ({' or '.join(get_args(Partners))})"
        )
    source = batch.source if isinstance(batch, Batch) else batch
    named = {only} if isinstance(only, str) else set(source if only is None else only)
    rng = numpy_rng(generator)
    partner = _partners(source, partners, named, rng)
    shares = rng.beta(alpha, beta, len(source))
    shares = np.maximum(shares, 1 - shares) if symmetric else shares
    chosen = rng.random(len(source)) < probability
    partner = np.where(chosen, partner, np.arange(len(source)))
    shares = np.where(partner == np.arange(len(source)), 1.0, shares)
    return MixPlan(partner=torch.from_numpy(partner), share=torch.from_numpy(shares))


def mix_features(features: Tensor, plan: MixPlan) -> Tensor:
    """Features [B, ...] of a batch, e.g. mels [B, mels, T], mixed as they are by `plan`; [B, ...] of the same kind.

    Published training mixes normalised log mels, so their logarithms; hand in power mels to mix power. Targets and
    weights for them: plan.targets(batch).
    """
    plan._check(len(features))
    partner = plan.partner.to(features.device)
    return features.index_select(0, partner).lerp_(features, per_clip(plan.share, features))


def _partners(
    source: Sequence[str], partners: Partners, only: Collection[str], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """For each clip another one of its group: the next in a random round through the group."""
    partner = np.arange(len(source))
    groups: dict[str, list[int]] = {}
    for clip, name in enumerate(source):
        if name in only:
            groups.setdefault(name if partners == "within" else "", []).append(clip)
    for group in groups.values():
        members = rng.permutation(group)
        partner[members] = np.roll(members, -1)
    return partner
