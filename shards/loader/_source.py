"""What is mixed: one split of one dataset with its share of every batch; and how far its labels reach."""

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from pipeline import AudioSpec, UsageError
from shards._dataset import Dataset

TRAINING_SPLITS = ("weak", "strong")


@dataclass(frozen=True)
class Source:
    """One source of a mix: the clips of a training split that are stored as `audio`, without those of `exclude`.

    dataset: an open Dataset or its folder.
    split: `weak` or `strong`; `dev` and `eval` are never trained on.
    share: its part of every rank's batch: counts (48 and 16) or ratios (0.75 and 0.25), only the proportion matters.
    labels: label sets to read. What one source asks for is in every batch; clips of sources without it have weight 0.
    audio: name of the AudioSpec.
    exclude: clip keys to leave out. Keys that are not in the split do no harm.
    name: how `Batch.source` calls it, the split if not given. Its order depends on its name, not on the other sources.
    """

    dataset: Dataset | Path | str
    split: str
    _: KW_ONLY
    share: float
    labels: tuple[str, ...] = ()
    audio: str = AudioSpec().name
    exclude: Collection[str] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if self.split not in TRAINING_SPLITS:
            raise UsageError(
                f"split {self.split!r} is no training source, needs one of {', '.join(TRAINING_SPLITS)}; "
                "read dev and eval with evaluation_batches"
            )
        if isinstance(self.labels, str) or isinstance(self.exclude, str):
            raise UsageError("labels and exclude of a source are collections of names; put the one name into a tuple")
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "exclude", frozenset(self.exclude))
        object.__setattr__(self, "name", self.name or self.split)


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
