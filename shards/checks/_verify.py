"""Whether a dataset is whole: every file against its sidecar, and the sidecars against each other."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline import UsageError
from shards._prefetch import prefetched
from shards._store import is_remote, store_errors, to_path
from shards.checks._verify_problem import Problem
from shards.checks._verify_survey import ShardToCheck, survey
from shards.checks._verify_tar import check_shard

CheckAll = Callable[[Sequence[ShardToCheck]], Iterable[tuple[Problem, ...]]]
_STORE_THREADS = 16  # requests under way: a store answers slowly, but many at once


@dataclass(frozen=True, kw_only=True)
class VerifyProgress:
    """How far a `verify` is: sidecars read of all, then shards checked of those that can be.

    clips: rows of what is done; tar_bytes: read so far.
    """

    step: Literal["sidecars", "shards"]
    done: int
    total: int
    clips: int
    tar_bytes: int


def verify(
    root: str | Path,
    quick: bool = False,
    decode: bool = True,
    progress: Callable[[VerifyProgress], None] | None = None,
    threads: int | None = None,
    check_all: CheckAll | None = None,
) -> tuple[Problem, ...]:
    """Every problem of the dataset at `root`, a folder or a store's URL; none if it is whole. Always in one order.

    quick: sidecars, tables, sizes, completeness, and labels against audio; reads no tar. Otherwise every byte of every
    tar is checked and, with `decode`, every clip and label decoded. progress is called in this thread after every
    sidecar and shard; what it raises stops the pass. threads: shards checked at once (default: one a core, 16 on a
    store). check_all: checks the shards, unless threads here are to, and answers in their order.
    Raises UsageError if there is no dataset at `root`, OSError if a store cannot be reached.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads are {threads}, need 1 or more")
    path = to_path(root)
    remote = is_remote(path)
    at_once = threads or (_STORE_THREADS if remote else _cores())
    workers = at_once if at_once > 1 else 0
    report = progress or (lambda made: None)
    with store_errors(path):
        found = survey(
            path,
            # Parsing holds the interpreter's lock, requests do not.
            in_order=lambda read, paths: prefetched(read, paths, workers if remote else 0),
            progress=lambda done, total, clips: report(
                VerifyProgress(step="sidecars", done=done, total=total, clips=clips, tar_bytes=0)
            ),
        )
        problems = list(found.problems)
        stop = threading.Event()

        def check(shard: ShardToCheck) -> tuple[Problem, ...]:
            return check_shard(shard.path, shard.kind, decode=decode, stop=stop.is_set)

        clips = tar_bytes = 0
        shards = () if quick else found.shards
        try:
            answers = prefetched(check, shards, workers) if check_all is None else check_all(shards)
            for done, (shard, of_shard) in enumerate(zip(shards, answers, strict=True), 1):
                problems += of_shard
                clips += shard.clips
                tar_bytes += shard.tar_bytes
                report(VerifyProgress(step="shards", done=done, total=len(shards), clips=clips, tar_bytes=tar_bytes))
        finally:
            stop.set()
    return tuple(problems)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
