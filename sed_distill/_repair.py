"""`sed-distill repair`: the commands that restore what is bad on stdout, as a shell takes them; the rest on stderr."""

import argparse
import json
import sys

from sed_distill._verify import ProgressLine, find_problems
from shards import Repair, repair


def run_repair(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0 if all that is bad was moved away, 1 if something needs a person."""
    problems = find_problems(arguments, ProgressLine())
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
            print(line, flush=True)
    print(f"{arguments.dataset}: {_summary(made, len(problems), dry_run=arguments.dry_run)}", file=sys.stderr)
    return 1 if made.unresolved else 0


def _summary(made: Repair, problems: int, *, dry_run: bool) -> str:
    if not problems:
        return "no problems, nothing to repair"
    parts = [f"{problems:,} problem{'' if problems == 1 else 's'}"]
    files = f"{len(made.moved):,} file{'' if len(made.moved) == 1 else 's'}"
    parts.append(
        f"{files} {'would be moved' if dry_run else 'moved'} to quarantine/" if made.moved else "nothing to move"
    )
    if made.unresolved:
        parts.append(f"{len(made.unresolved):,} not repaired")
    if made.commands:
        one = len(made.commands) == 1
        parts.append(f"{'this command restores' if one else 'these commands restore, in this order,'} what is missing")
    return "; ".join(parts)
