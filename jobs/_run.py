"""Run one stage on an executor until each of its shards is committed or quarantined, and write what came of it."""

import time
from typing import Literal, get_args

from jobs._driver import Driver
from jobs._local import InProcessPool, describe_error
from jobs._ray import RayPool
from jobs._report import Progress, StageReport, build_report
from jobs._stage import Stage
from jobs._stop import Interrupted, stop_signals
from pipeline import UsageError, sweep_partial
from shards import record_command

Executor = Literal["ray", "local"]
_POLL_S = 1.0


def run_stage(
    stage: Stage,
    *,
    executor: Executor = "ray",
    workers: int | None = None,
    ray_address: str | None = None,
    max_rejected: int | None = None,
    progress: bool = True,
) -> StageReport:
    """Do the stage's missing shards and write report.json into its output folder, also if the run fails or is stopped.

    executor: "ray" (actors; an embedded local Ray where no cluster is named) or "local" (one worker, this process).
        Both write the same bytes.
    workers: at most this many at once; by default what the machine or cluster has room for.
    ray_address: of a running Ray, for executor "ray"; else RAY_ADDRESS; else, or with "local", an embedded one starts.
    max_rejected: more rejected clips than this make the exit code 1.

    SIGTERM and Ctrl-C stop the run, in this process after the clip or batch in work; what is committed stays and the
    same call finishes the rest.
    Raises UsageError before any work if the arguments, the address or the output folder cannot be used.
    """
    check_run(executor, workers, ray_address, max_rejected)
    run = StageRun(stage, executor=executor, workers=workers, ray_address=ray_address)
    _open_output(stage)
    try:
        run.finish(progress=progress)
    finally:
        report = build_report(
            stage,
            run.driver.done,
            run.driver.quarantined,
            executor=executor,
            workers=run.pool.workers if stage.tasks else 0,
            wall_s=run.wall_s,
            max_rejected=max_rejected,
            stopped=run.stopped,
        )
        report.write(stage.output)
    return report


class StageRun:
    """The run itself, without its report: `driver.done` has the results, also if finish() raises."""

    def __init__(
        self, stage: Stage, *, executor: Executor = "ray", workers: int | None = None, ray_address: str | None = None
    ) -> None:
        """Raises UsageError for arguments that cannot be used."""
        check_executor(executor, workers)
        self.stage = stage
        self.pool: InProcessPool | RayPool
        self.pool = (
            InProcessPool(stage) if executor == "local" else RayPool(stage, workers=workers, address=ray_address)
        )
        self.driver = Driver(stage.tasks, self.pool)
        self.stopped: str | None = None  # why the run ended early, if it did
        self.wall_s = 0.0

    def finish(self, *, progress: bool) -> None:
        """Work until every task is done or quarantined, or a signal stops it."""
        started_s = time.monotonic()
        shown = Progress(self.stage, enabled=progress)
        try:
            if self.stage.tasks:
                # A signal is heard until the pool has ended what it has in hand.
                with stop_signals() as stopped_by, self.pool:
                    while not self.driver.finished and stopped_by() is None:
                        self.driver.step(_POLL_S)
                        shown.update(self.driver.done, self.driver.quarantined, time.monotonic() - started_s)
                    self.driver.stop()
                    self.stopped = stopped_by() or self.driver.gave_up
        except Interrupted as interrupted:
            self.stopped = str(interrupted)
        except BaseException as error:
            self.stopped = describe_error(error)
            raise
        finally:
            shown.close()
            self.wall_s = time.monotonic() - started_s


def check_run(executor: str, workers: int | None, ray_address: str | None, max_rejected: int | None) -> None:
    """Raises UsageError for what no run can use."""
    check_executor(executor, workers)
    if executor == "local" and ray_address is not None:
        raise UsageError("--ray-address is for --executor ray; leave it out, or ask for that")
    if max_rejected is not None and max_rejected < 0:
        raise UsageError(f"max rejected is {max_rejected}, needs 0 or more")


def check_executor(executor: str, workers: int | None) -> None:
    if executor not in get_args(Executor):
        raise UsageError(f"executor is {executor!r}, needs one of {', '.join(get_args(Executor))}")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}, needs at least 1")
    if executor == "local" and workers not in (None, 1):
        raise UsageError(f"the local executor has one worker, {workers} are asked for; use the ray executor")


def _open_output(stage: Stage) -> None:
    if not stage.output.is_absolute():
        raise UsageError(
            f"output {stage.output} is relative, a job needs an absolute path: it may run in another folder"
        )
    try:
        stage.output.mkdir(parents=True, exist_ok=True)
        sweep_partial(stage.output)
        if stage.command:
            record_command(stage.output, stage.command, (task.shard for task in stage.tasks))
    except OSError as error:
        raise UsageError(
            f"output {stage.output} cannot be written ({error.strerror}); choose another folder"
        ) from error
