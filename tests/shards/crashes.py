"""What is found after disturbed writes. Each function runs alone in a process and returns its complaints, one a line.

The work: make the dataset, write hard labels and a manifest, replace one committed audio shard, write another, label
it, and write one without clips.
"""

import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import hard_table, write_hard
from shards import AudioShardWriter, Dataset
from tests.shards import interrupted
from tests.shards.dataset_examples import SPEC, write_audio, write_labels, write_manifest
from tests.shards.interrupted import DONE, REFUSED, Stopping, Work, ended, leftovers, tree
from tests.shards.scratch import scratch_folder

OLD, NEW, NEXT = ["old_0", "older_0"], ["aa_0", "bb_0"], ["cc_0"]


def before(root: Path) -> None:
    """What was committed earlier: a shard that will be replaced, its manifest, and a shard that nobody touches."""
    dataset = Dataset.create(root, keys="path")
    audio = dataset.audio_folder("weak", SPEC.name)
    write_manifest(audio / "manifest.parquet", [(key, 0) for key in OLD])
    write_audio(audio, 0, OLD)
    write_audio(dataset.audio_folder("eval", SPEC.name), 5, OLD)


def work(root: Path) -> None:
    dataset = Dataset.create(root, keys="path")
    audio = dataset.audio_folder("weak", SPEC.name)
    write_hard(dataset.hard_path("weak"), hard_table([*NEW, *NEXT]))
    write_manifest(audio / "manifest.parquet", [*((key, 0) for key in NEW), *((key, 1) for key in NEXT)])
    write_audio(audio, 0, NEW)
    write_labels(dataset.labels_folder("weak", "frames"), write_audio(audio, 1, NEXT))
    # The only shard whose sidecar is bigger than its tar: a full disk can begin in either.
    with AudioShardWriter(audio, 2, spec=SPEC, provenance={"note": "x" * 20_000}) as writer:
        writer.commit()


def killed_at_every_point(stride: int, first: int) -> list[str]:
    """Kill before every `stride`-th line, from line `first` on."""
    old, new = _trees()
    with _copy() as root:
        points = interrupted.points(lambda: work(root))
    return [
        complaint
        for point in range(first % stride, points, stride)
        for complaint in _disturbed(
            f"killed at point {point}",
            old,
            new,
            lambda job, point=point: interrupted.killed_at(point, job),
            -signal.SIGKILL,
        )
    ]


def killed_at_random_times(kills: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    old, new = _trees()
    with _copy() as root:
        begin_s = time.monotonic()
        ended(interrupted.in_child(lambda: work(root)))
        whole_s = time.monotonic() - begin_s
    complaints = []
    for _ in range(kills):
        after_s = rng.uniform(0, whole_s)
        complaints += _disturbed(
            f"killed after {1000 * after_s:.2f} ms",
            old,
            new,
            lambda job, s=after_s: interrupted.killed_after(s, job),
            -signal.SIGKILL,
            DONE,
        )
    return complaints


def full_at_every_call(stride: int) -> list[str]:
    """No space left from the n-th thing on that is asked of the file system, for every `stride`-th n."""
    old, new = _trees()
    with _copy() as root:
        calls = interrupted.file_calls(lambda: work(root))
    assert calls > 20, calls
    return [
        complaint
        for call in range(0, calls, stride)
        for complaint in _disturbed(
            f"full at call {call}", old, new, lambda job, call=call: interrupted.full_at_call(call, job), REFUSED
        )
    ]


def at_every_size(stride: int) -> list[str]:
    """No file can grow beyond n bytes, for every `stride`-th n up to the biggest file: the write fails, or it is killed
    in the middle, with the n bytes written."""
    old, new = _trees()
    sizes = {*range(0, max(map(len, new.values())), stride), *(len(content) - 1 for content in new.values())}
    return [
        complaint
        for size in sorted(sizes)
        for what, disturb, ending in (
            ("full", interrupted.full_at_byte, REFUSED),
            ("killed", interrupted.killed_at_byte, -signal.SIGXFSZ),
        )
        for complaint in _disturbed(
            f"{what} at byte {size}", old, new, lambda job, size=size, disturb=disturb: disturb(size, job), ending
        )
    ]


def without_rights() -> list[str]:
    """First where everybody may write, so that the refusal afterwards is for want of rights and nothing else."""
    old, new = _trees()
    complaints = []
    with _copy() as root:
        _allow(root, 0o777)
        if interrupted.without_rights(lambda: work(root)) != DONE or tree(root) != new:
            complaints.append("where everybody may write: does not write")
    with _copy() as root:
        _allow(root, 0o555)
        if interrupted.without_rights(lambda: work(root)) != REFUSED:
            complaints.append("read-only: was not refused")
        if tree(root) != old or list(leftovers(root)):
            complaints.append(f"read-only: left {sorted(tree(root))}")
        _allow(root, 0o755)
        complaints += _finishes("read-only", root, new)
    return complaints


def two_writers(pairs: int, seed: int) -> list[str]:
    """Two processes write one shard; each stops before a line of it, drawn by chance, while the other goes on.

    Whatever they end with, the shard is of one of them, or absent and one of them says so.
    """
    rng = random.Random(seed)
    contents = (NEW, ["dd_0", "ee_0", "ff_0"])
    complaints = []
    with scratch_folder() as folder:
        whole = []
        for number, keys in enumerate(contents):
            write_audio(folder / str(number), 0, keys)
            whole.append(tree(folder / str(number)))
        points = [interrupted.points(lambda keys=keys: write_audio(folder / "counted", 0, keys)) for keys in contents]  # type: ignore[misc]
        for attempt in range(pairs):
            place = folder / f"attempt-{attempt}"
            # Most of them in the commit, where writers meet; before it each has only a file of its own.
            a, b = (max(0, last - rng.choice((rng.randrange(90), rng.randrange(last + 1)))) for last in points)
            place = folder / f"{a}-{b}"
            writers = []
            for point, keys in zip((a, b), contents, strict=True):
                writers.append(Stopping(point, lambda place=place, keys=keys: write_audio(place, 0, keys)))  # type: ignore[misc]
                writers[-1].stopped_or_ended()
            statuses = [writer.go() for writer in writers]
            complaints += _one_or_none(f"stopped at {a} and {b}", place, whole, statuses)
            shutil.rmtree(place)
    return complaints


def _disturbed(
    what: str, old: dict[str, bytes], new: dict[str, bytes], disturb: Callable[[Work], int], *endings: int
) -> Iterator[str]:
    """Do the work in a copy of what was committed, disturbed; then look, and do it again."""
    with _copy() as root:
        status = disturb(lambda: work(root))
        if status not in endings:
            yield f"{what}: ended with {status}"
        left = tree(root)
        for name, content in left.items():
            if content not in (old.get(name), new.get(name)):
                yield f"{what}: {name} is neither what it was nor what it becomes"
        for name in left:
            pair = [name, f"{name.removesuffix('.json')}.tar"]
            if re.search("/[0-9]*.json", name) and all(
                [left.get(file) for file in pair] != [whole.get(file) for file in pair] for whole in (old, new)
            ):
                yield f"{what}: {name} is not of the tar beside it"
        replaced = f"weak/audio/{SPEC.name}/000000"
        for name in old.keys() - left.keys():
            # A shard that is being replaced may be gone in between: its sidecar goes first.
            if name != f"{replaced}.json" and not (name == f"{replaced}.tar" and f"{replaced}.json" not in left):
                yield f"{what}: {name} was committed and is gone"
        if status >= 0:
            yield from (f"{what}: {path} is left" for path in leftovers(root))
        yield from _finishes(what, root, new)


def _finishes(what: str, root: Path, new: dict[str, bytes]) -> Iterator[str]:
    """The same call again finishes the work, whatever was left of it."""
    status = ended(interrupted.in_child(lambda: work(root)))
    if status != DONE or tree(root) != new:
        yield f"{what}: the same work done again ended with {status} and made something else"


def _one_or_none(what: str, folder: Path, whole: list[dict[str, bytes]], statuses: list[int]) -> Iterator[str]:
    left = tree(folder)
    if not set(statuses) <= {DONE, REFUSED}:
        yield f"{what}: ended with {statuses}"
    if "000000.json" in left and left not in whole:
        yield f"{what}: the shard is of neither writer"
    if "000000.json" not in left and REFUSED not in statuses:
        yield f"{what}: the shard is gone and nobody was told"
    yield from (f"{what}: {path.name} is left" for path in leftovers(folder))


@contextmanager
def _copy() -> Iterator[Path]:
    """A dataset as it was before the work."""
    with scratch_folder() as folder:
        before(folder / "data")
        yield folder / "data"


def _trees() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """All files before and after the work."""
    with _copy() as root:
        old = tree(root)
        work(root)
        return old, tree(root)


def _allow(root: Path, mode: int) -> None:
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            path.chmod(mode)
