"""Where a loader's time goes, in figures that cost next to nothing to keep."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


class Stages:
    """Seconds that one task spent in each stage of filling clips."""

    __slots__ = ("audio_s", "labels_s", "read_s")

    def __init__(self) -> None:
        self.read_s = 0.0
        self.audio_s = 0.0
        self.labels_s = 0.0

    def add(self, other: "Stages") -> None:
        self.read_s += other.read_s
        self.audio_s += other.audio_s
        self.labels_s += other.labels_s


@dataclass(frozen=True, kw_only=True)
class LoaderMetrics:
    """What a loader has done so far in this process. DataLoader's workers count in their own copies.

    batches, clips: delivered. clips_per_source: the same by source; clips that stand in for others are among them.
    wait_s: how long the caller waited for batches. Much of a training step: more workers, or a faster codec.
    read_s, audio_s, labels_s: seconds in all threads together for reading and checking bytes, decoding audio, making
        targets.
    ready: batches that were done ahead when the last one was delivered; 0 again and again: the loader is the slower.
    replaced: different clips that could not be read.
    """

    batches: int
    clips: int
    clips_per_source: Mapping[str, int]
    wait_s: float
    read_s: float
    audio_s: float
    labels_s: float
    ready: int
    replaced: int

    def __str__(self) -> str:
        each = ", ".join(f"{name} {count}" for name, count in self.clips_per_source.items())
        return (
            f"{self.batches} batches, {self.clips} clips ({each}); waited {self.wait_s:.2f} s, {self.ready} ready; "
            f"threads: read {self.read_s:.2f} s, audio {self.audio_s:.2f} s, labels {self.labels_s:.2f} s; "
            f"{self.replaced} replaced"
        )


class Meter:
    """Counts what is delivered."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._batches = 0
        self._clips = Counter(dict.fromkeys(sources, 0))
        self._stages = Stages()
        self.wait_s = 0.0
        self.ready = 0

    def deliver(self, source: Sequence[str], stages: Iterable[Stages]) -> None:
        """A batch of clips of these sources, and what its tasks spent."""
        self._batches += 1
        self._clips.update(source)
        for task in stages:
            self._stages.add(task)

    def metrics(self, replaced: int) -> LoaderMetrics:
        return LoaderMetrics(
            batches=self._batches,
            clips=self._clips.total(),
            clips_per_source=dict(self._clips),
            wait_s=self.wait_s,
            read_s=self._stages.read_s,
            audio_s=self._stages.audio_s,
            labels_s=self._stages.labels_s,
            ready=self.ready,
            replaced=replaced,
        )
