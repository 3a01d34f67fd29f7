"""How a command ends: 0 complete, 1 incomplete, 2 wrong use, with errors a user can act on in one line."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs._ray import machine_cpus, ray_session, resolve_address
from jobs._report import REPORT_NAME
from jobs._run import check_run, run_stage
from jobs._stage import Stage
from jobs._stop import Interrupted
from pipeline import IntegrityError, SedDistillError, UsageError

EXIT_INCOMPLETE, EXIT_USAGE = 1, 2


def run_command(command: Callable[[], int]) -> int:
    """Run `command` and return its exit code.

    A SedDistillError becomes one line on stderr, with exit code 1 if bytes on disk are not what they should be, else 2.
    So do a missing library (2) and what a disk or its permissions refuse (1). SIGTERM is taken as Ctrl-C is, so that
    nothing started by the command stays behind. To be called in the main thread.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return command()
    except SedDistillError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_INCOMPLETE if isinstance(error, IntegrityError) else EXIT_USAGE
    except OSError as error:
        print(f"error: {error}; what was committed stays: put this right and give the same command", file=sys.stderr)
        return EXIT_INCOMPLETE
    except ModuleNotFoundError as error:
        print(f"error: {error}; install what making shards needs: pip install '.[make]'", file=sys.stderr)
        return EXIT_USAGE
    except (KeyboardInterrupt, Interrupted):
        print("interrupted: what was committed stays; the same command goes on from there", file=sys.stderr)
        return EXIT_INCOMPLETE
    finally:
        signal.signal(signal.SIGTERM, before)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments every stage command shares: where it runs and when it counts as failed."""
    parser.add_argument("--workers", type=int, help="worker processes (default: what the machine or cluster allows)")
    parser.add_argument(
        "--executor", choices=("ray", "local"), default="ray", help="local: in this process, without Ray"
    )
    parser.add_argument("--ray-address", help="cluster to join (default: RAY_ADDRESS, else an embedded local Ray)")
    parser.add_argument("--max-rejected", type=int, help="exit 1 when more clips than this are rejected")


def check_run_arguments(arguments: argparse.Namespace) -> None:
    """Raises UsageError for what `add_run_arguments` takes and no run can use: before planning writes anything."""
    check_run(arguments.executor, arguments.workers, arguments.ray_address, arguments.max_rejected)


def local_folder(text: str) -> Path:
    """The absolute path of a folder that a command writes to. Raises UsageError for an address."""
    if "://" in text:
        raise UsageError(f"{text}: is an address, and what lies in a store is only read; give a folder")
    return Path(text).absolute()


def run_stages_from(stages: Sequence[Stage], arguments: argparse.Namespace) -> int:
    """Run one stage after the other as the arguments say, in one Ray; prints a summary of each and where to read more.

    Returns the highest exit code. Once a stage is stopped, the following ones do not begin.
    """
    check_run_arguments(arguments)
    codes = []
    with contextlib.ExitStack() as session:
        if arguments.executor == "ray" and sum(bool(stage.tasks) for stage in stages) > 1:
            address = resolve_address(arguments.ray_address, os.environ)
            session.enter_context(ray_session(address, cpus=max(machine_cpus(), arguments.workers or 0)))
        for stage in stages:
            report = run_stage(
                stage,
                executor=arguments.executor,
                workers=arguments.workers,
                ray_address=arguments.ray_address,
                max_rejected=arguments.max_rejected,
            )
            codes.append(report.exit_code)
            print(report.summary())
            if report.rejected or report.exit_code:
                print(f"which and why: {stage.output / REPORT_NAME}")
            if report.stopped:
                break
    return max(codes)
