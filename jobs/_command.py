"""How a command ends: 0 complete, 1 incomplete, 2 wrong use, with errors a user can act on in one line."""

import argparse
import sys
from collections.abc import Callable

from jobs._run import run_stage
from jobs._stage import Stage
from pipeline import SedDistillError

EXIT_COMPLETE, EXIT_INCOMPLETE, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def run_command(command: Callable[[], int]) -> int:
    """Run `command` and return its exit code; a SedDistillError becomes one line on stderr and exit code 2."""
    try:
        return command()
    except SedDistillError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted: what was committed stays; the same command goes on from there", file=sys.stderr)
        return EXIT_INTERRUPTED


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments every stage command shares: where it runs and when it counts as failed."""
    parser.add_argument("--workers", type=int, help="worker processes (default: what the machine or cluster allows)")
    parser.add_argument(
        "--executor", choices=("ray", "local"), default="ray", help="local: in this process, without Ray"
    )
    parser.add_argument("--ray-address", help="cluster to join (default: RAY_ADDRESS, else an embedded local Ray)")
    parser.add_argument("--max-rejected", type=int, help="exit 1 when more clips than this are rejected")


def run_stage_from(stage: Stage, arguments: argparse.Namespace) -> int:
    """Run `stage` as the arguments say; prints its summary and returns the exit code."""
    report = run_stage(
        stage,
        executor=arguments.executor,
        workers=arguments.workers,
        ray_address=arguments.ray_address,
        max_rejected=arguments.max_rejected,
    )
    print(report.summary())
    return report.exit_code
