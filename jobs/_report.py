"""What a run says while it runs (a bar or lines) and when it ends (report.json)."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from jobs._driver import Quarantined
from jobs._stage import Rejection, ShardResult, Stage
from pipeline import IntegrityError, write_atomic

REPORT_NAME = "report.json"
LISTED_REJECTIONS = 1_000
_LINE_EVERY_S = 30.0
_SIGNALS = ("SIGINT", "SIGTERM")


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One run of one stage. clips = stored + rejected + not_done, always; `not_done` are those of unfinished shards.

    `seconds` is worker time by step over the shards of this run; `wall_s` is the run's own, with start-up.
    `rejections` lists the first 1,000 by shard; `rejected` counts all. `stopped` says why a run ended early.
    """

    stage: str
    executor: str
    workers: int
    shards: int
    shards_done_before: int
    shards_done_now: int
    clips: int
    clips_done_now: int
    stored: int
    rejected: dict[str, int]
    not_done: int
    bytes: int
    seconds: dict[str, float]
    wall_s: float
    max_rejected: int | None = None
    stopped: str | None = None
    quarantined: tuple[Quarantined, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    notes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.clips != self.stored + sum(self.rejected.values()) + self.not_done:
            raise IntegrityError(
                f"stage {self.stage}: {self.clips} clips are wanted, but {self.stored} stored, "
                f"{sum(self.rejected.values())} rejected and {self.not_done} not done; shards and manifest do not "
                f"belong together: run verify, and pack into a new folder if it finds nothing"
            )

    @property
    def clips_per_s(self) -> float:
        """Clips finished by this run per second of wall time."""
        return self.clips_done_now / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def exit_code(self) -> int:
        """0: complete, rejections are listed. 1: incomplete, too many clips rejected, or of all clips none stored."""
        return int(bool(self.not_done or self.quarantined or self.stopped or self._too_many or self._nothing))

    @property
    def _too_many(self) -> bool:
        return self.max_rejected is not None and sum(self.rejected.values()) > self.max_rejected

    @property
    def _nothing(self) -> bool:
        """The sign of a wrong folder or list, or of a broken teacher, which should not end a script's step in green."""
        return bool(self.clips) and not self.stored

    @property
    def _why_nothing(self) -> str:
        if self.stage != "label":
            return "nothing is stored: is it the right folder or list?"
        if self.rejected.keys() == {"not_finite"}:
            return (
                "nothing is stored: the teacher gave NaN or infinity for every clip, as a broken checkpoint does, or "
                "float16 that overflows"
            )
        return "nothing is stored"

    def to_json(self) -> dict[str, Any]:
        derived = {
            "format": "sed-distill/report",
            "exit_code": self.exit_code,
            "clips_per_s": round(self.clips_per_s, 2),
        }
        return derived | asdict(self)

    def write(self, folder: Path) -> None:
        write_atomic(
            folder / REPORT_NAME, json.dumps(self.to_json(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        )

    def summary(self) -> str:
        """The run in one line, for the end of a terminal session or a job log."""
        shards = f"{self.shards_done_before + self.shards_done_now}/{_counted(self.shards, 'shard')}"
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
        parts = [
            f"{self.stage}: {shards} ({self.shards_done_now} now)",
            f"{_counted(self.clips, 'clip')} = {self.stored} stored + {sum(self.rejected.values())} rejected",
        ]
        if reasons:
            parts[-1] += f" ({reasons})"
        if self.not_done:
            parts[-1] += f" + {self.not_done} not done"
        if self._too_many:
            parts.append(f"more rejected than the {self.max_rejected} allowed")
        if self._nothing and not self.not_done:
            parts.append(self._why_nothing)
        if self.stage == "label" and self.rejected.keys() - {"unreadable_audio"}:
            parts.append(
                "a clip that a teacher failed on stays failed: correct the teacher, raise the version in its "
                "provenance, and give another --labels name"
            )
        parts += [f"{count} {note.replace('_', ' ')}" for note, count in self.notes.items() if count]
        if self.quarantined:
            parts.append(f"{_counted(len(self.quarantined), 'shard')} quarantined, first: {self.quarantined[0].reason}")
        if self.stopped:
            goes_on = ", the same command goes on from there" if self.stopped in _SIGNALS else ""
            parts.append(f"stopped: {self.stopped}{goes_on}")
        if self.clips_done_now:
            parts.append(f"{self.clips_per_s:.1f} clips/s, {_clock(self.wall_s)}")
        return "; ".join(parts)


def build_report(
    stage: Stage,
    done_now: Sequence[ShardResult],
    quarantined: Sequence[Quarantined],
    *,
    executor: str,
    workers: int,
    wall_s: float,
    max_rejected: int | None,
    stopped: str | None,
) -> StageReport:
    """Add up what was committed before and now. Raises IntegrityError if clips are missing or counted twice."""
    results = sorted([*stage.done, *done_now], key=lambda result: result.shard)
    finished = {result.shard for result in results}
    tasks_clips = {task.shard: task.clips for task in stage.tasks}
    listed = [rejection for result in results for rejection in result.rejections]
    return StageReport(
        stage=stage.name,
        executor=executor,
        workers=workers,
        shards=len(stage.done) + len(stage.tasks),
        shards_done_before=len(stage.done),
        shards_done_now=len(done_now),
        clips=sum(result.clips for result in stage.done) + sum(tasks_clips.values()),
        clips_done_now=sum(result.clips for result in done_now),
        stored=sum(result.stored for result in results),
        rejected=_add(result.rejected for result in results),
        not_done=sum(clips for shard, clips in tasks_clips.items() if shard not in finished),
        bytes=sum(result.bytes for result in results),
        seconds={step: round(spent, 3) for step, spent in _add(result.seconds for result in done_now).items()},
        wall_s=round(wall_s, 3),
        max_rejected=max_rejected,
        stopped=stopped,
        quarantined=tuple(sorted(quarantined, key=lambda entry: entry.shard)),
        rejections=tuple(listed[:LISTED_REJECTIONS]),
        notes=dict(stage.notes),
    )


class Progress:
    """A bar over clips on a terminal, otherwise a line every 30 s. `now_s` is any clock that starts near 0."""

    def __init__(self, stage: Stage, *, enabled: bool, stream: TextIO | None = None) -> None:
        self._name = stage.name
        self._stream = sys.stderr if stream is None else stream
        self._shards = len(stage.tasks)
        self._clips = sum(task.clips for task in stage.tasks)
        self._next_line_s = _LINE_EVERY_S
        self._enabled = enabled
        self._bar: Any = None
        if enabled and self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._clips, desc=stage.name, unit=" clips", file=self._stream, dynamic_ncols=True)

    def update(self, done: Sequence[ShardResult], quarantined: Sequence[Quarantined], now_s: float) -> None:
        rejected = sum(sum(result.rejected.values()) for result in done)
        failures = f"{_counted(rejected, 'clip')} rejected, {_counted(len(quarantined), 'shard')} quarantined"
        clips = sum(result.clips for result in done)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{len(done)}/{_counted(self._shards, 'shard')}, {failures}", refresh=False)
            self._bar.update(clips - self._bar.n)
        elif self._enabled and now_s >= self._next_line_s:
            self._next_line_s = now_s + _LINE_EVERY_S
            rate = clips / now_s
            eta = _clock((self._clips - clips) / rate) if rate > 0 else "unknown"
            counts = f"{len(done)}/{_counted(self._shards, 'shard')}, {clips}/{_counted(self._clips, 'clip')}"
            print(f"{self._name}: {counts}, {rate:.1f} clips/s, ETA {eta}, {failures}", file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _add(counts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
