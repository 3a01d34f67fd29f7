"""The average of labels that are there already: what `teachers.Ensemble` does while it labels, in NumPy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline import TargetSpec, UsageError, projection
from shards import LabelSidecar, heard_in

Average = Literal["logit", "probability"]
AVERAGES: tuple[str, ...] = get_args(Average)
# The bounds are those of an ensemble of teachers too, which takes them from here.
# A mean of probabilities goes back to logits between sigmoid(+-16.6): float32 has nothing between 1 - 2^-24 and 1.
PROBABILITY_MARGIN = 2.0**-24
# Sums are made in float32, which ends at 1e-38 and 1e38.
LEAST_WEIGHT = 1e-6
_Values = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class AverageOf:
    """sum(w_i x_i) / sum(w_i) in float32, members in their order; x: their logits, or their probabilities.

    targets: of the members. target: of the average, whose classes are those of the first. A class is the average over
    the members that have it. One member is its own average, whatever it holds.
    """

    targets: tuple[TargetSpec, ...]
    target: TargetSpec
    average: Average
    weights: tuple[float, ...] | None

    def __call__(self, values: Sequence[_Values]) -> _Values:
        """One label of each member, float32 of their targets' shapes -> float32 of target.shape."""
        if len(values) == 1:
            return values[0]
        total = np.zeros(self.target.shape, np.float32)
        total_weight = np.zeros((len(total), *(1,) * (total.ndim - 1)), np.float32)
        for said, target, weight in zip(values, self.targets, self._weights, strict=True):
            columns = projection(target.classes, self.target.classes)
            present = columns >= 0
            total[present] += np.float32(weight) * self._averaged(said, target)[columns[present]]
            total_weight[present] += np.float32(weight)
        mean = total / total_weight
        return mean if self.average == "logit" else _logit(mean)

    def described(self, teachers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As an ensemble of those teachers describes itself."""
        stated: dict[str, Any] = {
            "family": "ensemble",
            "average": self.average,
            "weights": None if self.weights is None else list(self.weights),
            "members": list(teachers),
            "vocabulary_sha256": self.target.classes.sha256,
        }
        for name, of_several in (("precision", "mixed"), ("protocol", "clip")):
            said = {teacher.get(name) for teacher in teachers}
            if None not in said:
                stated[name] = said.pop() if len(said) == 1 else of_several
        return stated

    @property
    def _weights(self) -> tuple[float, ...]:
        return self.weights or (1.0,) * len(self.targets)

    def _averaged(self, values: _Values, target: TargetSpec) -> _Values:
        if self.average == "logit":
            return values if target.kind == "logit" else _logit(values)
        return values if target.kind == "probability" else _sigmoid(values)


def average_of(
    names: Sequence[str],
    sides: Sequence[LabelSidecar],
    *,
    average: Average = "logit",
    weights: Sequence[float] | None = None,
    mixed_protocols: bool = False,
) -> AverageOf:
    """Of label sets `names`, each with one of its sidecars. Raises UsageError where they do not go together."""
    if average not in AVERAGES:
        raise UsageError(f"--average is {average!r}, needs one of {', '.join(AVERAGES)}")
    _check_weights(names, weights)
    targets = tuple(side.target for side in sides)
    if len(sides) == 1:
        return AverageOf(targets=targets, target=targets[0], average=average, weights=None)
    _check_different(names, sides)
    for name, side in zip(names, sides, strict=True):
        _check_member(name, side, names[0], sides[0], mixed_protocols=mixed_protocols)
    return AverageOf(
        targets=targets,
        target=replace(targets[0], kind="logit"),
        average=average,
        weights=None if weights is None else tuple(map(float, weights)),
    )


def _check_weights(names: Sequence[str], weights: Sequence[float] | None) -> None:
    if weights is None:
        return
    if len(names) == 1 or len(weights) != len(names):
        raise UsageError(
            f"--weights has {len(weights)} values for {len(names)} label sets; give one for each of several"
        )
    if not all(LEAST_WEIGHT <= weight <= 1 / LEAST_WEIGHT for weight in weights):
        raise UsageError(
            f"--weights are {list(weights)}, need values from {LEAST_WEIGHT:g} to {1 / LEAST_WEIGHT:g}; leave out "
            "what should not count"
        )


def _check_different(names: Sequence[str], sides: Sequence[LabelSidecar]) -> None:
    """The same labels under two names would count twice. Labels that say nothing of how they were made may differ."""
    seen: dict[str, str] = {}
    for name, side in zip(names, sides, strict=True):
        if side.provenance and (other := seen.setdefault(side.fingerprint, name)) != name:
            raise UsageError(
                f"label set {name} has the provenance of {other}: the same labels, which would count twice; leave one "
                "out, or give the other more --weights"
            )


def _check_member(
    name: str, side: LabelSidecar, first_name: str, first: LabelSidecar, *, mixed_protocols: bool
) -> None:
    target, wanted = side.target, first.target
    if target.axes not in (("class", "time"), ("class",)) or target.kind not in ("logit", "probability"):
        raise UsageError(
            f"label set {name} holds {target.kind}s with the axes {', '.join(target.axes)}; averages are of logits or "
            "probabilities of classes"
        )
    if side.codec == "small":
        raise UsageError(
            f"label set {name} is stored as small, which promises nothing of averages; merge sets that are master or "
            "faithful, and store the result as small"
        )
    for what in ("axes", "hop_ms", "frames", "context_ms"):
        has, needs = getattr(target, what), getattr(wanted, what)
        if has != needs:
            raise UsageError(f"label set {name} has {what} {has}, {first_name} has {needs}; merge labels of one grid")
    has_rule, needs_rule = heard_in(side.provenance), heard_in(first.provenance)
    if has_rule and needs_rule and has_rule != needs_rule:
        raise UsageError(
            f"label set {name} was labelled with {_spelled(has_rule)}, {first_name} with {_spelled(needs_rule)}; "
            "merge labels of one context"
        )
    if mixed_protocols:
        return
    has, needs = _protocol(side), _protocol(first)
    if None not in (has, needs) and has != needs:
        raise UsageError(
            f"label set {name} is of a teacher of {has} labels, {first_name} of one of {needs} labels; their averages "
            "mean neither: leave one out, or ask for --mixed-protocols"
        )
    lacks = int((projection(target.classes, wanted.classes) < 0).sum())
    if lacks:
        raise UsageError(
            f"label set {name} lacks {lacks} of the {len(wanted.classes)} classes of {first_name}; leave it out, or "
            "average classes over the sets that have them with --mixed-protocols"
        )


def _spelled(rule: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(rule.items()))


def _protocol(side: LabelSidecar) -> str | None:
    """What kind of labels its teacher learned from; None where that is not stated."""
    teacher = side.provenance.get("teacher")
    stated = teacher.get("protocol") if isinstance(teacher, dict) else None
    return stated if isinstance(stated, str) else None


def _sigmoid(logits: _Values) -> _Values:
    one = np.float32(1)
    probabilities: _Values = one / (one + np.exp(-np.clip(logits, np.float32(-80), np.float32(80))))
    return probabilities


def _logit(probabilities: _Values) -> _Values:
    p = np.clip(probabilities, PROBABILITY_MARGIN, np.float32(1) - PROBABILITY_MARGIN)
    logits: _Values = np.log(p / (np.float32(1) - p))
    return logits
