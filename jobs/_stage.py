"""The stage interface: work reaches an executor as a plain function and a frozen configuration, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ShardFunction = Callable[["ShardTask"], "ShardResult"]


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One unit of work: everything about it is derived from the shard's number and the stage's configuration."""

    shard: int
    clips: int


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """One clip that was not stored, with a reason out of the stage's closed list."""

    key: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What became of one shard. `rejected` counts clips by reason; stored + rejected = the task's clips.

    `rejections` names them for the report (it keeps a bounded number; the counts are always complete).
    `seconds` is wall time by step (decode, device, encode, ...). Small on purpose: this is all that travels back.
    """

    shard: int
    stored: int
    rejected: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    rejections: tuple[Rejection, ...] = ()

    @property
    def clips(self) -> int:
        return self.stored + sum(self.rejected.values())


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the pipeline as the driver sees it.

    open_worker: an importable plain function. Called once per worker process with `config`; returns the function that
        does one shard, which is called once per task. It loads what is expensive (a teacher) before it returns.
    config: a frozen, picklable dataclass of small values (paths, specs), never arrays or models.
    tasks: the shards that are missing; what is committed is not among them.
    done: results of the shards that were already committed, so that the report accounts for every clip of the manifest.
    output: folder that receives shards and report.json; absolute, because a job may run anywhere.
    cpus, gpus: what one worker uses. OMP_NUM_THREADS is `cpus` in worker processes, before any library is loaded.
    at_once: shards that a worker is given at a time, by threads of its own: with 2, one is read while the other has the
        GPU. What open_worker returns is then called from several threads.
    notes: counts found while planning that belong in the report (recordings that nobody asked for, ...).
    command: arguments of `sed-distill` that make this stage, recorded beside what it writes; empty if there are none.
    """

    name: str
    open_worker: Callable[[Any], ShardFunction]
    config: Any
    tasks: tuple[ShardTask, ...]
    done: tuple[ShardResult, ...]
    output: Path
    cpus: int = 1
    gpus: float = 0.0
    at_once: int = 1
    notes: dict[str, int] = field(default_factory=dict)
    command: tuple[str, ...] = ()
