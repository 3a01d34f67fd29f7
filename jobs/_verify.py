"""Verification as a job: what sidecars and tables tell is found by the driver, what tars tell by a worker a shard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs._run import Executor, StageRun, check_executor
from jobs._stage import ShardFunction, ShardResult, ShardTask, Stage
from jobs._stop import Interrupted, stop_if_asked
from pipeline import IntegrityError, UsageError
from shards import Problem, ShardToCheck, VerifyProgress, check_shard, verify


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """decode: whether clips and labels are decoded, not only compared with their checksums."""

    decode: bool


@dataclass(frozen=True, kw_only=True)
class _CheckTask(ShardTask):
    """`shard` is the place in the order of a local verification: numbers of shards repeat between folders."""

    checked: ShardToCheck


@dataclass(frozen=True, kw_only=True)
class _CheckResult(ShardResult):
    """`problems` are bounded for each shard, see `check_shard`. unreachable: why its store could not be read."""

    problems: tuple[Problem, ...] = ()
    unreachable: str | None = None


def verify_job(
    root: str | Path,
    *,
    decode: bool = True,
    executor: Executor = "ray",
    workers: int | None = None,
    ray_address: str | None = None,
    progress: Callable[[VerifyProgress], None] | None = None,
) -> tuple[Problem, ...]:
    """`shards.verify` with its shards checked by workers: the same problems in the same order. Writes nothing.

    A shard that no worker could check is a problem too, of kind "unchecked". executor, workers and ray_address are as
    for `run_stage`, the others as for `verify`; with `progress`, that of the workers is shown as of any stage.
    Raises UsageError for wrong use and where there is no dataset, IntegrityError if no worker can start, OSError if a
    store cannot be reached, Interrupted.
    """
    if isinstance(root, Path) and not root.is_absolute():
        raise UsageError(f"{root} is relative, a job needs an absolute path: it may run in another folder")
    check_executor(executor, workers)

    def check_all(shards: Sequence[ShardToCheck]) -> list[tuple[Problem, ...]]:
        tasks = (_CheckTask(shard=place, clips=shard.clips, checked=shard) for place, shard in enumerate(shards))
        stage = Stage(
            name="verify",
            open_worker=open_verify_worker,
            config=VerifyConfig(decode=decode),
            tasks=tuple(tasks),
            done=(),
            output=Path(root),
        )
        run = StageRun(stage, executor=executor, workers=workers, ray_address=ray_address)
        run.finish(progress=progress is not None)
        if run.driver.gave_up is not None:
            raise IntegrityError(f"{root}: is not verified: {run.driver.gave_up}")
        if run.stopped is not None:
            raise Interrupted(run.stopped)
        results = [result for result in run.driver.done if isinstance(result, _CheckResult)]
        for result in results:
            if result.unreachable is not None:
                raise OSError(result.unreachable)
        found = {result.shard: result.problems for result in results}
        for lost in run.driver.quarantined:
            detail = f"could not be checked ({lost.reason}); verify again"
            found[lost.shard] = (Problem(shards[lost.shard].path, None, "unchecked", detail),)
        return [found[place] for place in range(len(shards))]

    return verify(root, decode=decode, progress=progress, check_all=check_all)


def open_verify_worker(config: VerifyConfig) -> ShardFunction:
    return _Checker(config).check


class _Checker:
    """Once a store cannot be reached, nothing more is asked of it: the verification ends without an answer."""

    def __init__(self, config: VerifyConfig) -> None:
        self._config = config
        self._unreachable: str | None = None

    def check(self, task: ShardTask) -> ShardResult:
        if not isinstance(task, _CheckTask):
            raise TypeError(f"task is {type(task).__name__}, needs what verify_job made")
        shard = task.checked
        problems: tuple[Problem, ...] = ()
        if self._unreachable is None:
            try:
                problems = check_shard(shard.path, shard.kind, decode=self._config.decode, stop=_stop)
            except OSError as error:
                if isinstance(shard.path, Path):  # no store: another worker may read it
                    raise
                self._unreachable = " ".join(str(error).split())
        return _CheckResult(
            shard=task.shard,
            stored=task.clips,
            bytes=shard.tar_bytes,
            problems=problems,
            unreachable=self._unreachable,
        )


def _stop() -> bool:
    """Leave at once, rather than with what was found so far."""
    stop_if_asked()
    return False
