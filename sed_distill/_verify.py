"""`sed-distill verify`: problems on stdout, one line each or as JSON; how far it is and a summary on stderr."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jobs import stop_if_asked, stop_signals, verify_job
from pipeline import UsageError
from shards import Problem, VerifyProgress, quarantined_files, verify

_TERMINAL_EVERY_S, _LOG_EVERY_S = 0.5, 30.0


def run_verify(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 1 if there are problems."""
    progress = ProgressLine()
    problems = find_problems(arguments, progress)
    if arguments.json:
        print(json.dumps([{"shard": str(p.shard), "key": p.key, "kind": p.kind, "detail": p.detail} for p in problems]))
    else:
        for problem in problems:
            print(_encodable(f"{problem.shard}\t{problem.key or '-'}\t{problem.kind}\t{problem.detail}"))
    dataset = _encodable(arguments.dataset)
    print(f"{dataset}: {progress.summary()}; {_verdict(problems, dataset)}", file=sys.stderr)
    aside = quarantined_files(arguments.dataset)
    if aside:
        print(f"{dataset}: {aside:,} files in quarantine/ are not part of it", file=sys.stderr)
    return 1 if problems else 0


def find_problems(arguments: argparse.Namespace, progress: "ProgressLine") -> tuple[Problem, ...]:
    """As the options of `verify` and `repair` say."""
    dataset = arguments.dataset if "://" in arguments.dataset else Path(arguments.dataset).absolute()
    if arguments.executor == "local" and arguments.ray_address is not None:
        raise UsageError("--ray-address is for --executor ray; leave it out, or ask for that")
    if arguments.executor != "local" and arguments.quick:
        raise UsageError("--quick reads no tar, so there is nothing for --executor ray; leave one of them out")
    with stop_signals():
        if arguments.executor == "local":
            problems = verify(
                dataset,
                quick=arguments.quick,
                decode=not arguments.no_decode,
                progress=progress,
                threads=arguments.workers,
            )
        else:
            problems = verify_job(
                dataset,
                decode=not arguments.no_decode,
                executor="ray",
                workers=arguments.workers,
                ray_address=arguments.ray_address,
                progress=progress,
            )
    progress.clear()
    return problems


def _encodable(text: str) -> str:
    """A path need not be UTF-8, what is printed has to be."""
    return text.encode(errors="backslashreplace").decode()


def _verdict(problems: Sequence[Problem], dataset: str) -> str:
    if not problems:
        return "no problems"
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(Counter(p.kind for p in problems).items()))
    count = f"{len(problems):,} problem{'' if len(problems) == 1 else 's'}"
    return f"{count} ({kinds}): sed-distill repair {dataset} puts bad shards aside and says what makes them again"


class ProgressLine:
    """Called after every sidecar and shard. A terminal gets a line that is written over, a log one now and then."""

    def __init__(self) -> None:
        self._start = self._step_start = time.monotonic()
        self._every_s = _TERMINAL_EVERY_S if sys.stderr.isatty() else _LOG_EVERY_S
        self._next = self._start + self._every_s
        self._shards = self._clips = self._checked = self._tar_bytes = 0
        self._step = "sidecars"
        self._written = False

    def __call__(self, made: VerifyProgress) -> None:
        stop_if_asked()
        now = time.monotonic()
        if made.step != self._step:
            self._step, self._step_start = made.step, now
        if made.step == "sidecars":
            self._shards, self._clips = made.total, made.clips
        else:
            self._checked, self._tar_bytes = made.clips, made.tar_bytes
        if now >= self._next:
            self._next = now + self._every_s
            rates = _rates(made.clips, made.tar_bytes, now - self._step_start)
            line = f"{made.step} {made.done:,} of {made.total:,}, {rates}"
            start, end = ("\r\x1b[K", "") if sys.stderr.isatty() else ("", "\n")
            print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
            self._written = True

    def clear(self) -> None:
        if self._written and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)

    def summary(self) -> str:
        """Shards and clips there are, and how fast they were looked at."""
        seconds = time.monotonic() - self._start
        rates = _rates(self._checked or self._clips, self._tar_bytes, seconds)
        return f"{self._shards:,} shards, {self._clips:,} clips in {seconds:.1f} s, {rates}"


def _rates(clips: int, tar_bytes: int, seconds: float) -> str:
    per_second = 1 / max(seconds, 1e-3)
    speed = f", {tar_bytes / 1e6 * per_second:,.0f} MB/s" if tar_bytes else ""
    return f"{clips * per_second:,.0f} clips/s{speed}"
