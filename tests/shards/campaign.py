"""A fault campaign: seeded single faults put into a small dataset, each of which `verify` has to find.

python -m tests.shards.campaign --faults 10000       # all of a campaign; exit code 1 if a fault was missed
python -m tests.shards.campaign --seed 4711          # one fault of it again
"""

import argparse
import collections
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

from pipeline import SedDistillError
from shards import verify
from tests.shards import faults, forgeries, sidecar_edits
from tests.shards.faults import Fault, Make, Whole
from tests.shards.scratch import scratch_folder
from tests.shards.varied_dataset import write_varied

PATIENCE_S = 20


class Hangs(BaseException):
    """Of no kind that anything in between takes for its own."""


# A verify that raises any of these has found nothing: it says what is wrong with itself, not with the dataset.
_NO_ANSWER = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    Hangs,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SedDistillError,
    TypeError,
    ValueError,
)
# Kind of fault -> how it is made, and how many of it for one of others.
FAULTS: dict[str, tuple[Make, int]] = {
    "bit of a clip or label": (faults.flip_in_member, 3),
    "bit of a tar header": (faults.flip_in_header, 3),
    "bit of padding or end marker": (faults.flip_between_members, 3),
    "bit of a sidecar or dataset.json": (faults.flip_in(".json"), 3),
    "bit of a manifest": (faults.flip_in("manifest.parquet"), 3),
    "bit of hard labels": (faults.flip_in("hard.parquet"), 3),
    "bit of an index": (faults.flip_in("index.arrow"), 2),
    "bytes overwritten": (faults.overwritten, 4),
    "file cut": (faults.cut, 4),
    "file grown": (faults.grown, 2),
    "bytes moved": (faults.moved_bytes, 2),
    "file deleted": (faults.deleted, 1),
    "shard deleted": (faults.shard_deleted, 1),
    "file renamed": (faults.renamed, 1),
    "shard renumbered": (faults.shard_renumbered, 1),
    "tars swapped": (faults.swapped_files(".tar"), 1),
    "sidecars swapped": (faults.swapped_files(".json"), 1),
    "shards swapped": (faults.swapped_shards, 2),
    "shard of elsewhere": (faults.shard_of_elsewhere, 2),
    "not a file": (faults.not_a_file, 2),
    "members swapped": (forgeries.members_exchanged, 3),
    "sidecar edited": (sidecar_edits.edited, 3),
    "sidecar edited and signed": (sidecar_edits.signed_edit, 8),
    "audio written anew": (forgeries.audio_written_anew, 3),
    "labels written anew": (forgeries.labels_written_anew, 3),
    "shard stored again": (forgeries.clip_stored_again, 1),
    "clip in two splits": (forgeries.clip_in_two_splits, 1),
    "hard labels without a clip": (forgeries.hard_rows_dropped, 1),
    "manifest of other rows": (forgeries.manifest_edited, 2),
}


@dataclass(frozen=True)
class Outcome:
    """`found`: by full verify. `named`: also as what it is. `quick`: found without reading tars. `says`: findings."""

    seed: int
    kind: str
    what: str
    found: bool
    named: bool
    quick: bool
    says: str


def draw(seed: int, whole: Whole) -> tuple[str, Fault]:
    """The fault of a seed and its kind. What would change nothing is drawn again."""
    rng = random.Random(seed)
    while True:
        kind = rng.choices(list(FAULTS), [weight for _, weight in FAULTS.values()])[0]
        fault = FAULTS[kind][0](rng, whole)
        if whole.changed_by(fault.changes):
            return kind, fault


def inject(seed: int, whole: Whole) -> Outcome:
    kind, fault = draw(seed, whole)
    whole.apply(fault)
    try:
        with _impatient():
            problems = verify(whole.root, threads=1)
            quick = verify(whole.root, quick=True)
    except _NO_ANSWER as error:
        return Outcome(seed, kind, fault.what, False, False, False, f"{type(error).__name__}: {error}")
    finally:
        whole.restore(fault)
    named = [
        problem
        for problem in problems
        if fault.is_named_by(problem.kind, problem.shard.relative_to(whole.root).as_posix())
    ]
    says = "; ".join(str(problem) for problem in problems[:3])
    return Outcome(seed, kind, fault.what, bool(problems), bool(named), bool(quick), says)


def run(seeds: Sequence[int], processes: int, progress: Callable[[int], None] = lambda done: None) -> list[Outcome]:
    """Outcomes in order of seed; with 0 `processes` in this one.

    Raises RuntimeError if the clean dataset has a problem, before or after.
    """
    parts = [seeds[start : start + 50] for start in range(0, len(seeds), 50)]
    outcomes: list[Outcome] = []
    with ExitStack() as open_pool:
        results: Iterable[list[Outcome]] = map(_part, parts)
        if processes:
            # Each process keeps to one core: threads of theirs would wait for each other.
            open_pool.enter_context(mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}))
            pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
            results = open_pool.enter_context(pool).map(_part, parts)
        for result in results:
            outcomes += result
            progress(len(outcomes))
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    by_kind: dict[str, list[Outcome]] = collections.defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.kind].append(outcome)
    lines = [f"{'fault':34}{'injected':>10}{'found':>10}{'named':>10}{'by --quick':>12}"]
    for kind, group in [*sorted(by_kind.items()), ("all", list(outcomes))]:
        counts = [sum(getattr(outcome, column) for outcome in group) for column in ("found", "named", "quick")]
        lines.append(
            f"{kind:34}{len(group):>10}{counts[0]:>10}{counts[1]:>10}{100 * counts[2] / max(len(group), 1):>11.0f}%"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.shards.campaign", description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=10_000, help="how many, of seeds 0, 1, ... (default 10000)")
    parser.add_argument("--seed", type=int, help="inject only the fault of this seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    if options.seed is not None:
        (outcome,) = run([options.seed], 0)
        print(f"{outcome.kind}: {outcome.what}")
        print(f"full verify: {outcome.says or 'finds nothing'}")
        print(f"--quick finds it: {outcome.quick}")
        return 0 if outcome.found else 1
    outcomes = run(range(options.faults), options.processes, _progress(options.faults))
    print(table(outcomes))
    missed = [outcome for outcome in outcomes if not outcome.found]
    for outcome in outcomes:
        if not outcome.named:
            says = f"found as: {outcome.says}" if outcome.found else f"MISSED {outcome.says}"
            print(f"seed {outcome.seed}: {outcome.kind}: {outcome.what}: {says}")
    print(f"{len(outcomes)} faults, {len(missed)} missed")
    return 1 if missed else 0


def _progress(total: int) -> Callable[[int], None]:
    def show(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def _part(seeds: Sequence[int]) -> list[Outcome]:
    """One dataset takes many faults, one after another."""
    with scratch_folder() as folder:
        whole = Whole(write_varied(folder / "data"))
        outcomes = []
        for seed in (None, *seeds, None):
            if seed is not None:
                outcomes.append(inject(seed, whole))
            elif problems := verify(whole.root):
                raise RuntimeError(f"false alarm, the dataset is whole: {problems[0]}")
        return outcomes


@contextmanager
def _impatient() -> Iterator[None]:
    """A verify that hangs ends with Hangs."""

    def stop(*_: object) -> None:
        raise Hangs(f"verify took more than {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    sys.exit(main())
