"""Stages that fail on demand, importable by name in worker processes."""

import functools
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jobs import Rejection, ShardFunction, ShardResult, ShardTask, Stage, VerifyConfig, stop_if_asked
from jobs._verify import open_verify_worker
from pipeline import TeacherError, write_atomic

CLIPS = 5


@dataclass(frozen=True, kw_only=True)
class FaultyConfig:
    """faults: shard -> what happens to it. A fault ending in `_once` happens on the first attempt only."""

    output: Path
    faults: Mapping[int, str] = field(default_factory=dict)
    open_fault: str = ""


def faulty_stage(output: Path, *, shards: int, done: int = 0, open_fault: str = "", **faults: str) -> Stage:
    """`shards` tasks, numbered from `done`; faults are given as shard_3="kill"."""
    config = FaultyConfig(
        output=output,
        faults={int(name.removeprefix("shard_")): fault for name, fault in faults.items()},
        open_fault=open_fault,
    )
    return Stage(
        name="faulty",
        open_worker=open_faulty,
        config=config,
        tasks=tuple(ShardTask(shard=shard, clips=CLIPS) for shard in range(done, done + shards)),
        done=tuple(ShardResult(shard=shard, stored=CLIPS) for shard in range(done)),
        output=output,
    )


def open_faulty(config: FaultyConfig) -> ShardFunction:
    if config.open_fault == "teacher":
        raise TeacherError("no checkpoint")
    if config.open_fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.open_fault == "io_once" and _first_time(config.output / "opened"):
        raise OSError(5, "Input/output error")
    return functools.partial(do_shard, config)


def do_shard(config: FaultyConfig, task: ShardTask) -> ShardResult:
    fault = config.faults.get(task.shard, "")
    if not fault.endswith("_once") or _first_time(config.output / f"attempt-{task.shard}"):
        _fail(fault.removesuffix("_once"), config.output / f".partial-{task.shard}")
    write_atomic(config.output / f"{task.shard:06d}.txt", f"{task.shard} {os.environ.get('OMP_NUM_THREADS', '')}\n")
    return ShardResult(
        shard=task.shard,
        stored=CLIPS - 1,
        rejected={"damaged": 1},
        seconds={"work": 0.5},
        rejections=(Rejection(key=f"clip{task.shard}_0", reason="damaged", detail="as asked"),),
    )


def _fail(fault: str, partial: Path) -> None:
    if fault == "kill":
        partial.write_text("left behind")
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "error":
        raise ValueError("this shard\ncannot be done")
    elif fault == "io":
        raise OSError(5, "Input/output error")
    elif fault == "bug":
        raise TypeError("a mistake in the stage")
    elif fault == "meet":
        partial.with_name(f"here-{partial.name}").touch()
        for _ in range(300):
            if len(list(partial.parent.glob("here-*"))) > 1:
                return
            time.sleep(0.1)
        raise ValueError("no other shard was in hand")
    elif fault == "hang":
        partial.with_name(partial.name.replace(".partial", "hung")).touch()
        for _ in range(600):
            time.sleep(0.1)
            stop_if_asked()


def _first_time(marker: Path) -> bool:
    if marker.exists():
        return False
    marker.touch()
    return True


def open_killed_checks(folder: Path, always: int, config: VerifyConfig) -> ShardFunction:
    """Checks of shards whose first worker is killed, that of task `always` whenever it is tried."""
    check = open_verify_worker(config)

    def killed(task: ShardTask) -> ShardResult:
        if _first_time(folder / f"killed-{task.shard}") or task.shard == always:
            os.kill(os.getpid(), signal.SIGKILL)
        return check(task)

    return killed
