"""An ensemble is a teacher whose members are teachers: one decode, one computation of each front end, one average."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jobs import AVERAGES, LEAST_WEIGHT, PROBABILITY_MARGIN, Average
from pipeline import TeacherError, UsageError, Vocabulary, projection
from teachers._teacher import FrontEnd, Target, Teacher


class Ensemble(Teacher):
    """sum(w_i x_i) / sum(w_i) in float32, members in their order; x: their logits, or their probabilities.

    weights: above 0, one for each member; all alike without. A mean of probabilities is clamped to
        [PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN] and goes back to a logit.
    The vocabulary is the first member's; the columns of the others are found by MID. Members that learned from other
    kinds of labels (frames beside clips), or that lack classes, are refused without `mixed_protocols`; with it a class
    is the average over the members that have it.
    What is not finite in one member is not finite in the ensemble. Raises TeacherError, UsageError for weights and
    averages.
    """

    def __init__(
        self, members: Sequence[Teacher], *, average: Average = "logit", weights: Sequence[float] | None = None,
        mixed_protocols: bool = False,
    ) -> None:  # fmt: skip
        _check_members(members, mixed_protocols=mixed_protocols)
        check_average(average, weights, len(members))
        first = members[0]
        alike = all(member.protocol == first.protocol for member in members)
        super().__init__(
            audio_spec=first.audio_spec, vocabulary=first.vocabulary, device=first.device,
            provenance=_provenance(members, average, weights), protocol=first.protocol if alike else "clip",
            contexts_ms=tuple(c for c in first.contexts_ms if all(c in member.contexts_ms for member in members)),
        )  # fmt: skip
        self.members = tuple(members)
        self.average: Average = average
        self._weights = (1.0,) * len(members) if weights is None else tuple(map(float, weights))
        self._columns = [_columns(member.vocabulary, first.vocabulary, first.device) for member in members]
        total = torch.zeros(len(first.vocabulary), device=first.device)
        for weight, columns in zip(self._weights, self._columns, strict=True):
            total[slice(None) if columns is None else columns[0]] += weight
        self._total_weight = total

    @property
    def context_ms(self) -> int:
        return self.members[0].context_ms

    @property
    def leaves(self) -> tuple[Teacher, ...]:
        return tuple(leaf for member in self.members for leaf in member.leaves)

    @property
    def has_clip_logits(self) -> bool:
        return all(member.has_clip_logits for member in self.members)

    def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
        return self._mean("frame", features, frames)

    def _clip_logits(self, features: Tensor, frames: int) -> Tensor:
        return self._mean("clip", features, frames)

    def _mean(self, target: Target, waveforms: Tensor, frames: int) -> Tensor:
        """The ensemble's front end is the waveform: its members' are computed here, those that are equal once."""
        features: dict[FrontEnd, Tensor] = {}
        shape = (len(self.vocabulary), frames) if target == "frame" else (len(self.vocabulary),)
        total = torch.zeros(len(waveforms), *shape, device=waveforms.device)
        for member, weight, columns in zip(self.members, self._weights, self._columns, strict=True):
            if member.front_end not in features:
                features[member.front_end] = member.front_end.compute(waveforms)
            said = member._said(target, features[member.front_end], len(waveforms), frames).float()
            if self.average == "probability":
                said = said.sigmoid() + 0.0 * said  # an infinite logit is no probability of 1: it becomes NaN
            if columns is None:
                total += weight * said
            else:
                total[:, columns[0]] += weight * said[:, columns[1]]
        mean = total / self._total_weight.view(-1, *(1,) * (len(shape) - 1))
        return mean.logit(eps=PROBABILITY_MARGIN) if self.average == "probability" else mean

    def _cast(self, precision: str) -> None:
        for member in self.members:
            member.use_precision(precision)


def _provenance(members: Sequence[Teacher], average: Average, weights: Sequence[float] | None) -> dict[str, Any]:
    """The members' own dicts, not copies: what they say of their precision stays true."""
    precisions = {member.provenance["precision"] for member in members}
    return {
        "family": "ensemble",
        "precision": precisions.pop() if len(precisions) == 1 else "mixed",
        "average": average,
        "weights": None if weights is None else [float(weight) for weight in weights],
        "members": [member.provenance for member in members],
    }


def _columns(source: Vocabulary, target: Vocabulary, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """(columns of `target` that `source` has, where it has them); None: the same columns."""
    if source.mids == target.mids:
        return None
    found = torch.from_numpy(projection(source, target).copy())
    (present,) = torch.nonzero(found >= 0, as_tuple=True)
    return present.to(device), found[present].to(device)


def _check_members(members: Sequence[Teacher], *, mixed_protocols: bool) -> None:
    if not members:
        raise TeacherError("an ensemble of no members; give at least one teacher")
    first = members[0]
    for number, member in enumerate(members[1:], 2):
        who = f"member {number} of the ensemble ({member._name})"
        if member.audio_spec != first.audio_spec:
            raise TeacherError(
                f"{who} hears {member.audio_spec.name}, the first {first.audio_spec.name}; label with each on its own "
                "audio and merge"
            )
        if member.context_ms != first.context_ms:
            raise TeacherError(
                f"{who} hears {member.context_ms} ms at once, the first {first.context_ms} ms; give members of one "
                "context, or chunk the ensemble as a whole"
            )
        if member.device != first.device:
            raise TeacherError(f"{who} is on {member.device}, the first on {first.device}; load them on one device")
        common = len(set(first.vocabulary.mids) & set(member.vocabulary.mids))
        if not common:
            raise TeacherError(f"{who} has none of the first's {len(first.vocabulary)} classes; leave it out")
        if mixed_protocols:
            continue
        if member.protocol != first.protocol:
            raise TeacherError(
                f"{who} was trained on {member.protocol} labels, the first on {first.protocol} labels; their averages "
                "mean neither: leave one out, or ask for --mixed-protocols"
            )
        lacks = len(first.vocabulary) - common
        if lacks:
            raise TeacherError(
                f"{who} lacks {lacks} of the first's {len(first.vocabulary)} classes; leave it out, or average classes "
                "over the members that have them with --mixed-protocols"
            )


def check_average(average: str, weights: Sequence[float] | None, members: int) -> None:
    """Raises UsageError."""
    if average not in AVERAGES:
        raise UsageError(f"--average is {average!r}, needs one of {', '.join(AVERAGES)}")
    if weights is None:
        return
    if len(weights) != members:
        raise UsageError(f"--weights has {len(weights)} values for {members} teachers; give one for each, in order")
    if not all(LEAST_WEIGHT <= weight <= 1 / LEAST_WEIGHT for weight in weights):
        raise UsageError(
            f"--weights are {list(weights)}, need values from {LEAST_WEIGHT:g} to {1 / LEAST_WEIGHT:g}; leave out who "
            "should not count"
        )
