"""Single faults, repaired: what is moved is enough, and what is printed writes all of it again.

The commands stand for the real ones: each writes the files of its folder that are not there, as they were.
"""

import shlex
from pathlib import Path

import pytest

from shards import record_command, repair, verify
from tests.shards.campaign import draw
from tests.shards.faults import Whole
from tests.shards.scratch import scratch_folder
from tests.shards.varied_dataset import write_varied

# Which of two splits, which of manifest and shard is meant, a person or the real command can know; of labels and audio
# that is whole but another, labels are made anew, which these commands cannot.
UNDECIDED = {"clip in two splits", "manifest of other rows", "audio written anew"}
# Labels of damaged audio are judged once it is back.
ROUNDS = 2


@pytest.mark.campaign
def test_every_single_fault_is_repaired(campaign: int) -> None:
    with scratch_folder() as folder:
        whole = Whole(write_varied(folder / "data"))
        folders = {Path(shard).parent for shard in whole.shards}
        for seed in range(campaign // 10 or 60):
            kind, fault = draw(seed, whole)
            if fault.what.endswith(": version"):  # what later versions wrote is not repaired, see test_repair
                continue
            for shards in folders:
                command = "pack" if shards.parent.name == "audio" else "label"
                record_command(whole.root / shards, (command, "--folder", str(shards)), range(10))
            whole.apply(fault)
            where = f"seed {seed}: {kind}: {fault.what}"
            for _ in range(ROUNDS):
                problems = verify(whole.root, threads=1)
                made = repair(whole.root, problems)
                # Shards of two folders may be swapped, of which one has shards enough to tell which is wrong.
                tied = {line.partition(": mixed: has 1 shard like")[0] for line in made.unresolved if "1 shard" in line}
                undecided = kind in UNDECIDED or tied
                assert not made.unresolved or undecided, where
                otherwise = {problem.shard.with_suffix("") for problem in problems if problem.kind != "mixed"}
                for source, _ in made.moved:
                    assert str(source.parent) not in tied or source.with_suffix("") in otherwise, where
                for line in made.commands:
                    write_again(whole, shlex.split(line))
            if not undecided:
                assert verify(whole.root, threads=1) == (), where
                assert all(name.endswith("index.arrow") for name in lost(whole)), where  # made again when it is needed
                there = {name: content for name, content in whole.files.items() if (whole.root / name).exists()}
                assert {name: (whole.root / name).read_bytes() for name in there} == there, where
            clear(whole)


def lost(whole: Whole) -> set[str]:
    return {name for name in whole.files if not (whole.root / name).exists()}


def write_again(whole: Whole, command: list[str]) -> None:
    """Only what is missing, like the commands themselves."""
    program, name, _, folder = command
    assert program == "sed-distill"
    own = [path for path in lost(whole) if path.startswith(f"{folder}/") and not path.endswith("index.arrow")]
    if name == "pack":
        own += [path for path in lost(whole) if path in ("dataset.json", f"{Path(folder).parents[1]}/hard.parquet")]
    for path in own:
        (whole.root / path).parent.mkdir(parents=True, exist_ok=True)
        (whole.root / path).write_bytes(whole.files[path])


def clear(whole: Whole) -> None:
    """Make the dataset what it was, however it was left."""
    for path in sorted(whole.root.rglob("*"), reverse=True):
        name = path.relative_to(whole.root).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif name not in whole.files or path.is_symlink():
            path.unlink()
    for name, content in whole.files.items():
        (whole.root / name).parent.mkdir(parents=True, exist_ok=True)
        (whole.root / name).write_bytes(content)
