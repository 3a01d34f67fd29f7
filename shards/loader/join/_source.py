"""What is mixed: the clips of one split with their share of every batch; and how far their labels reach."""

from collections.abc import Collection, Iterable
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from os import PathLike
from pathlib import Path
from types import NoneType

from pipeline import AudioSpec, UsageError
from shards._dataset import Dataset
from shards.loader._kinds import check_each, check_kind, check_real, check_whole
from shards.loader.order._order import OrderRule, Shuffled
from shards.loader.targets._options import Average

TRAINING_SPLITS = ("weak", "strong")
_SHUFFLED = Shuffled()


@dataclass(frozen=True)
class Confidence:
    """Clips for which a label set is sure of something: `Confidence("beats", at_least=0.5)`.

    A clip's confidence is the highest probability of any class in any frame that stands on audio. The labels are read
    for it once, about 2 minutes for a million clips; the result is kept beside them where that can be written. On a
    store it cannot: every start reads all labels again, so that there a list of keys, `only`, is the better choice.
    """

    label_set: str
    _: KW_ONLY
    at_least: float

    def __post_init__(self) -> None:
        check_real(at_least=self.at_least)
        if not 0 <= self.at_least <= 1:
            raise UsageError(f"confidence of {self.label_set} is to be at least {self.at_least}; needs 0 to 1")


@dataclass(frozen=True)
class Source:
    """One source of a mix: clips of a training split that are stored as `audio`.

    dataset: an open Dataset or its folder.
    split: `weak` or `strong`; `dev` and `eval` are never trained on.
    share: its part of every rank's batch: counts (48 and 16) or ratios (0.75 and 0.25), only the proportion matters.
    labels: label sets to read, or averages of several, Average("ensemble", of=("beats", "atst")). What one source asks
        for is in every batch; clips of sources without it have weight 0.
    audio: name of the AudioSpec.
    including: other training splits of the dataset whose clips belong to this source too.
    order: Shuffled(), BlockShuffle(window=8) or Balanced(by="weak").
    name: how `Batch.source` calls it, the split if not given. Its order depends on its name, not on the other sources.

    Of all these clips a source may be a part; every condition that is given has to hold:
    exclude, only: clip keys to leave out, or to take alone; or the path of a list of them: text with a key a line, or
        a .csv, .tsv or .parquet with a column `key`, as the hard.parquet of a split. Keys that are not in the splits
        do no harm; what cannot be a key is refused.
    classes: MIDs of which the clip's hard labels hold at least one, weak or strong.
    confidence: what a label set has to say of the clip.
    first: so many of the clips that are left, in order of their keys.
    """

    dataset: Dataset | Path | str
    split: str
    _: KW_ONLY
    share: float
    labels: tuple[str | Average, ...] = ()
    audio: str = AudioSpec().name
    including: tuple[str, ...] = ()
    exclude: Collection[str] | Path = ()
    only: Collection[str] | Path | None = None
    classes: Collection[str] | None = None
    confidence: Confidence | None = None
    first: int | None = None
    order: OrderRule = _SHUFFLED
    name: str = ""

    def __post_init__(self) -> None:
        check_kind("dataset of a source", self.dataset, (Dataset, PathLike, str), "a folder, a URL or a Dataset")
        check_kind("split of a source", self.split, str, f"one of {', '.join(TRAINING_SPLITS)}")
        check_kind("share of a source", self.share, Real, "a number, a count or a ratio")
        check_kind("audio of a source", self.audio, str, 'the name of an AudioSpec, as AudioSpec(layout="foa").name')
        check_kind("name of a source", self.name, str, "text")
        check_kind(
            "confidence of a source", self.confidence, (Confidence, NoneType), 'Confidence("beats", at_least=0.5)'
        )
        if self.first is not None:
            check_whole(first=self.first)
        check_kind("including of a source", self.including, Iterable, "a tuple of other splits")
        if isinstance(self.including, str) or len({self.split, *self.including}) <= len(self.including):
            raise UsageError(f"source of split {self.split} includes {self.including!r}; needs a tuple of other splits")
        for split in (self.split, *self.including):
            if split not in TRAINING_SPLITS:
                raise UsageError(
                    f"split {split!r} is no training source, needs one of {', '.join(TRAINING_SPLITS)}; "
                    "read dev and eval with evaluation_batches"
                )
        if any(isinstance(names, str) for names in (self.labels, self.exclude, self.only, self.classes)):
            raise UsageError(
                "labels, exclude, only and classes of a source are collections of names; put the one name into a "
                "tuple, and a file of keys into a Path"
            )
        check_kind("labels of a source", self.labels, Iterable, "a tuple of names of label sets")
        object.__setattr__(self, "labels", tuple(self.labels))  # before it is looked at: it may give its names once
        check_each("labels of a source", self.labels, (str, Average), "names of label sets, or Average")
        for name in ("exclude", "only", "classes"):
            given = getattr(self, name)
            check_kind(f"{name} of a source", given, (Iterable, Path, NoneType), "a tuple of names, or for keys a Path")
        if self.first is not None and self.first < 1:
            raise UsageError(f"source takes the first {self.first} clips; needs 1 or more")
        if isinstance(self.order, type) or not hasattr(self.order, "of"):
            raise UsageError(f"source of split {self.split} has order {self.order!r}; needs one such as Shuffled()")
        object.__setattr__(self, "including", tuple(self.including))
        for name in ("exclude", "only", "classes"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, Path):
                object.__setattr__(self, name, frozenset(given))
        object.__setattr__(self, "name", self.name or self.split)


def label_sets(labels: Iterable[str | Average]) -> tuple[str, ...]:
    """The label sets to read for what a source asks for, each once."""
    return tuple(dict.fromkeys(name for asked in labels for name in ([asked] if isinstance(asked, str) else asked.of)))


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many of a source's clips have a target: labelled + failed + missing = clips.

    failed: the labeller has a row for them that says why there is no label. missing: no row at all.
    """

    source: str
    target: str
    clips: int
    labelled: int
    failed: int
    missing: int

    def __str__(self) -> str:
        return (
            f"{self.source}/{self.target}: {self.labelled} of {self.clips} clips labelled, "
            f"{self.failed} failed, {self.missing} missing"
        )
