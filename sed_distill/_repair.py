"""`sed-distill repair`: the commands that restore what is bad on stdout, as a shell takes them; the rest on stderr."""

import argparse
import json
import os
import sys

from jobs import Interrupted
from sed_distill._verify import ProgressLine, find_problems
from shards import Repair, repair


def run_repair(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0 if verify is clean once the commands are given, else, as after a dry run, 1."""
    repair(arguments.dataset, (), dry_run=True)  # what it refuses, as a store, need not be verified first
    progress = ProgressLine()
    try:
        problems = find_problems(arguments, progress)
    except (KeyboardInterrupt, Interrupted):
        progress.clear()
        print("interrupted: nothing was moved; the same command begins anew", file=sys.stderr)
        return 1
    made = repair(arguments.dataset, problems, dry_run=arguments.dry_run)
    for line in made.unresolved:
        print(f"not repaired: {line}", file=sys.stderr)
    if arguments.json:
        moved = [[str(source), str(destination)] for source, destination in made.moved]
        lists = {name: list(getattr(made, name)) for name in ("commands", "hints", "unresolved")}
        print(json.dumps({"dry_run": arguments.dry_run, "problems": len(problems), "moved": moved, **lists}))
    else:
        would = "would move" if arguments.dry_run else "moved"
        for source, destination in made.moved:
            print(f"{would} {source} to {destination}", file=sys.stderr)
        for line in made.hints:
            print(f"note: {line}", file=sys.stderr)
        for line in made.commands:
            _print_bytes(line)
    print(f"{arguments.dataset}: {_summary(made, len(problems), dry_run=arguments.dry_run)}", file=sys.stderr)
    return 1 if made.unresolved or (arguments.dry_run and problems) else 0


def _print_bytes(line: str) -> None:
    """A path need not be text; a shell takes it as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(f"{line}\n"))
    sys.stdout.buffer.flush()


def _summary(made: Repair, problems: int, *, dry_run: bool) -> str:
    if not problems:
        return "no problems, nothing to repair"
    parts = [_counted(problems, "problem")]
    parts.append(
        f"{_moved(made)} {'would be moved' if dry_run else 'moved'} to quarantine/" if made.moved else "nothing to move"
    )
    if made.unresolved:
        parts.append(f"{len(made.unresolved):,} not repaired: see above")
    if made.commands:
        one = len(made.commands) == 1
        parts.append(f"{'this command restores' if one else 'these commands restore, in this order,'} what is missing")
    if made.moved and not dry_run:
        parts.append("quarantine/ is no part of the dataset, it may be deleted once verify finds no problems")
    return "; ".join(parts)


def _moved(made: Repair) -> str:
    folders = sum(path.is_dir() for pair in made.moved for path in pair)
    files = len(made.moved) - folders
    counts = ((files, "file"), (folders, "folder"))
    return " and ".join(_counted(number, what) for number, what in counts if number)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
