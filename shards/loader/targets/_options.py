"""How labels become targets: over which classes, at which temperature, on which grid, and sets averaged into one."""

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from math import isfinite
from numbers import Real
from types import NoneType
from typing import Literal, get_args

from pipeline import ClassMap, Grid, UsageError, Vocabulary
from shards.loader._kinds import check_each, check_kind

HARD_TARGETS = ("hard_weak", "hard_strong")
AverageDomain = Literal["logit", "probability"]


@dataclass(frozen=True)
class Average:
    """One target made of several label sets of a source, `Average("ensemble", of=("beats", "atst"))`.

    of: label sets of one vocabulary and one grid.
    domain: whether their logits are averaged, as in published ensembles, or their probabilities. The loader's
        temperature divides the averaged logit, or the logit of each probability.
    weights: one number above 0 for each set, of which only the proportion counts; all alike if not given.

    A clip that lacks one of the sets lacks the target, so that a target always means the same.
    """

    name: str
    _: KW_ONLY
    of: tuple[str, ...]
    domain: AverageDomain = "logit"
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_kind("name of an average", self.name, str, "text")
        if not isinstance(self.of, str):
            check_each(f"label sets of average {self.name}", self.of, str, "names of label sets")
        if isinstance(self.of, str) or len(set(self.of)) != len(self.of) or len(self.of) < 2:
            raise UsageError(f"average {self.name} is of {self.of!r}; needs two or more different label sets")
        object.__setattr__(self, "of", tuple(self.of))
        if self.domain not in get_args(AverageDomain):
            raise UsageError(f"average {self.name} has domain {self.domain!r}, needs logit or probability")
        if self.weights is not None:
            check_each(f"weights of average {self.name}", self.weights, Real, "numbers")
            object.__setattr__(self, "weights", tuple(float(weight) for weight in self.weights))
            if len(self.weights) != len(self.of) or not all(isfinite(w) and w > 0 for w in self.weights):
                raise UsageError(
                    f"average {self.name} has weights {self.weights} for {len(self.of)} label sets; "
                    "needs one number above 0 for each"
                )

    @property
    def shares(self) -> tuple[float, ...]:
        """The part of each label set in the average; they add up to 1."""
        weights = self.weights or (1.0,) * len(self.of)
        return tuple(weight / sum(weights) for weight in weights)


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """What every target of a loader has in common.

    vocabulary: the classes of the targets: a Vocabulary, which takes the same classes out of label sets and hard
        labels, or a ClassMap, whose classes are made of several each.
    temperature: soft targets are sigmoid(logit / temperature); of stored probabilities their logits are taken.
    grid: the frames of `hard_strong` and of label sets of class and time with a hop below 1 s. Chunk targets (a hop of
        1 s or more), and those with tracks or directions, keep their own. None: `hard_strong` has frames of 40 ms, each
        label set those it was made with.
    hard: which of `hard_weak` and `hard_strong` a batch has.
    compact: batches are CompactBatch: audio as int16, labels as codes, expanded on the device.
    """

    vocabulary: Vocabulary | ClassMap
    temperature: float = 1.0
    grid: Grid | None = None
    hard: tuple[str, ...] = HARD_TARGETS
    compact: bool = False

    def __post_init__(self) -> None:
        check_kind("vocabulary", self.vocabulary, (Vocabulary, ClassMap), "a Vocabulary or a ClassMap")
        check_kind("grid", self.grid, (Grid, NoneType), "Grid(hop_ms=64), or Grid(frames=156)")
        check_kind("hard targets", self.hard, Iterable, f"a tuple out of {', '.join(HARD_TARGETS)}")
        check_kind("temperature", self.temperature, Real, "a number")
        if not (isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"temperature is {self.temperature}; needs a number above 0, 1 for labels as they are")
        if isinstance(self.hard, str) or not set(self.hard) <= set(HARD_TARGETS):
            raise UsageError(f"hard targets are {self.hard!r}; needs a tuple out of {', '.join(HARD_TARGETS)}")
        # Their order in a batch does not depend on how they were asked for.
        object.__setattr__(self, "hard", tuple(name for name in HARD_TARGETS if name in self.hard))

    @property
    def classes(self) -> Vocabulary:
        """The classes of the targets, in the order of their columns."""
        return self.vocabulary if isinstance(self.vocabulary, Vocabulary) else self.vocabulary.vocabulary
