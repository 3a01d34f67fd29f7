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
    ray_address: of a running Ray; else RAY_ADDRESS; else, or with "local", an embedded one is started.
    max_rejected: more rejected clips than this make the exit code 1.

    SIGTERM and Ctrl-C stop the run, in this process after the clip or batch in work; what is committed stays and the
    same call finishes the rest.
    Raises UsageError before any work if the arguments, the address or the output folder cannot be used.
    """
    _check(stage, executor, workers, max_rejected)
    started_s = time.monotonic()
    pool: InProcessPool | RayPool
    pool = InProcessPool(stage) if executor == "local" else RayPool(stage, workers=workers, address=ray_address)
    driver = Driver(stage.tasks, pool)
    shown = Progress(stage, enabled=progress)
    stopped: str | None = None
    try:
        if stage.tasks:
            with pool, stop_signals() as stopped_by:
                while not driver.finished and stopped_by() is None:
                    driver.step(_POLL_S)
                    shown.update(driver.done, driver.quarantined, time.monotonic() - started_s)
                driver.stop()
                stopped = stopped_by() or driver.gave_up
    except Interrupted as interrupted:
        stopped = str(interrupted)
    except BaseException as error:
        stopped = describe_error(error)
        raise
    finally:
        shown.close()
        report = build_report(
            stage,
            driver.done,
            driver.quarantined,
            executor=executor,
            workers=pool.workers if stage.tasks else 0,
            wall_s=time.monotonic() - started_s,
            max_rejected=max_rejected,
            stopped=stopped,
        )
        report.write(stage.output)
    return report


def _check(stage: Stage, executor: str, workers: int | None, max_rejected: int | None) -> None:
    if executor not in get_args(Executor):
        raise UsageError(f"executor is {executor!r}, needs one of {', '.join(get_args(Executor))}")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}, needs at least 1")
    if executor == "local" and workers not in (None, 1):
        raise UsageError(f"the local executor has one worker, {workers} are asked for; use the ray executor")
    if max_rejected is not None and max_rejected < 0:
        raise UsageError(f"max rejected is {max_rejected}, needs 0 or more")
    if not stage.output.is_absolute():
        raise UsageError(
            f"output {stage.output} is relative, a job needs an absolute path: it may run in another folder"
        )
    try:
        stage.output.mkdir(parents=True, exist_ok=True)
        sweep_partial(stage.output)
    except OSError as error:
        raise UsageError(
            f"output {stage.output} cannot be written ({error.strerror}); choose another folder"
        ) from error
