"""What repair moves and what it leaves, on shards written by hand, and the record of the commands that write shards."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import FormatError, UsageError, canonical_json
from shards import (
    COMMANDS_NAME,
    Problem,
    RecordedCommand,
    Repair,
    command_arguments,
    quarantined_files,
    read_audio_sidecar,
    read_commands,
    record_command,
    repair,
    verify,
)
from tests.shards.dataset_examples import LONG_KEY, SPEC, write_audio, write_dataset, write_labels, write_manifest

AUDIO = f"weak/audio/{SPEC.name}"
FRAMES, OTHER = "weak/labels/frames", "weak/labels/other"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("whole") / "data").root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def repaired(root: Path, **options: bool) -> Repair:
    return repair(root, verify(root), **options)


def moved(made: Repair, root: Path) -> dict[str, str]:
    return {str(a.relative_to(root)): str(b.relative_to(root / "quarantine")) for a, b in made.moved}


def shard(folder: str, number: int, ending: str = "") -> dict[str, str]:
    names = [f"{folder}/{number:06d}{suffix}" for suffix in (".json", ".tar")]
    return {name: name + ending for name in names}


def resign(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit a JSON file and give it the checksum that belongs to it."""
    value = json.loads(path.read_bytes())
    del value["sha256"]
    change(value)
    value["sha256"] = hashlib.sha256(canonical_json(value).encode()).hexdigest()
    path.write_bytes(f"{canonical_json(value)}\n".encode())


def copy_shard(root: Path, folder: str, number: int, to: int) -> None:
    for suffix in (".json", ".tar"):
        shutil.copy(root / folder / f"{number:06d}{suffix}", root / folder / f"{to:06d}{suffix}")
    resign(root / folder / f"{to:06d}.json", lambda value: value.update(shard=to))


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_clean_dataset_is_left_alone(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert repaired(root) == Repair(moved=(), commands=(), hints=(), unresolved=())
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_without_a_recorded_command_it_says_what_is_known(root: Path) -> None:
    damage(root / AUDIO / "000001.tar")
    damage(root / FRAMES / "000000.tar")
    made = repaired(root)
    assert moved(made, root) == shard(AUDIO, 1) | shard(FRAMES, 0)
    assert made.commands == ()
    audio, labels = made.hints
    assert audio.startswith(f"{root / AUDIO}: no command is recorded that writes shard 000001; give again the one that")
    assert '{"source":"examples","stage":"pack"}' in audio
    assert '{"stage":"label","teacher":"example"}' in labels


def test_what_is_moved_again_gets_a_number(root: Path) -> None:
    for ending in ("", ".1", ".2"):
        damage(root / FRAMES / "000000.tar")
        before = (root / FRAMES / "000000.tar").read_bytes()
        expected = shard(FRAMES, 0, ending)
        assert moved(repaired(root, dry_run=True), root) == expected
        assert moved(repaired(root), root) == expected
        assert (root / "quarantine" / f"{FRAMES}/000000.tar{ending}").read_bytes() == before
        write_labels(root / FRAMES, read_audio_sidecar(root / AUDIO / "000000.json"))
        assert verify(root) == ()
    assert quarantined_files(root) == 6


def test_a_tar_moved_without_its_sidecar_takes_the_number_of_neither(root: Path) -> None:
    """A pair keeps one number, also where only one of the two names is taken."""
    (root / FRAMES / "000000.json").unlink()
    assert moved(repaired(root), root) == {f"{FRAMES}/000000.tar": f"{FRAMES}/000000.tar"}
    write_labels(root / FRAMES, read_audio_sidecar(root / AUDIO / "000000.json"))
    damage(root / FRAMES / "000000.tar")
    assert moved(repaired(root), root) == shard(FRAMES, 0, ".1")


@pytest.mark.parametrize("place", ["quarantine", "quarantine/weak", f"quarantine/{FRAMES}"])
def test_links_in_quarantine_are_refused_before_anything_is_moved(root: Path, tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).symlink_to(elsewhere)
    damage(root / AUDIO / "000000.tar")
    damage(root / FRAMES / "000000.tar")
    with pytest.raises(UsageError, match=f"{place}: is not a folder of this dataset"):
        repaired(root)
    assert list(elsewhere.iterdir()) == []
    assert (root / AUDIO / "000000.tar").exists()


def test_a_file_that_cannot_be_moved_is_named_and_the_others_go(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(root / AUDIO / "000000.tar")
    damage(root / FRAMES / "000000.tar")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.parent == root / AUDIO:
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    made = repaired(root)
    assert made.unresolved == (f"{root / AUDIO}/000000.json: cannot be moved to quarantine/ (Permission denied)",)
    assert moved(made, root) == shard(FRAMES, 0)


def test_what_later_versions_wrote_is_left_alone(root: Path) -> None:
    resign(root / AUDIO / "000000.json", lambda value: value.update(version=2))
    made = repaired(root)
    assert made.moved == ()
    assert len(made.unresolved) == 1
    assert "000000.json: sidecar: has format version 2" in made.unresolved[0]
    resign(root / "dataset.json", lambda value: value.update(version=2))
    with pytest.raises(FormatError, match="is of a later version; update sed-distill, nothing was moved"):
        repaired(root)
    # A version that is only damaged does not fit the checksum.
    path = root / AUDIO / "000000.json"
    path.write_bytes(path.read_bytes().replace(b'"version":2', b'"version":3'))
    shutil.copy(root / "dataset.json", root / "kept.json")
    (root / "dataset.json").unlink()
    assert shard(AUDIO, 0).items() <= moved(repaired(root), root).items()


def test_what_is_no_file_is_moved_as_it_is(root: Path) -> None:
    (root / "dataset.json").unlink()
    os.mkfifo(root / "dataset.json")
    for path in (root / AUDIO / "000000.json", root / FRAMES / "000001.tar"):
        path.unlink()
        path.symlink_to("/dev/zero")
    expected = {"dataset.json": "dataset.json"} | shard(AUDIO, 0) | shard(FRAMES, 1)
    assert moved(repaired(root), root) == expected
    assert (root / "quarantine" / AUDIO / "000000.json").is_symlink()


def test_the_minority_of_a_mixed_set_goes_wherever_it_stands(root: Path) -> None:
    audio = [read_audio_sidecar(root / AUDIO / f"00000{number}.json") for number in (0, 1)]
    audio.append(write_audio(root / AUDIO, 2, ["zz_0"]))
    (root / AUDIO / "manifest.parquet").unlink()
    (root / "weak" / "hard.parquet").unlink()
    shutil.rmtree(root / OTHER)
    write_labels(root / FRAMES, audio[2])
    write_labels(root / FRAMES, audio[0], teacher="another")
    problems = [problem for problem in verify(root) if problem.kind == "mixed"]
    assert moved(repair(root, problems), root) == shard(FRAMES, 0)
    # Of two ways of making, one shard each, nobody can say which is meant.
    write_labels(root / FRAMES, audio[0], teacher="another")
    for suffix in (".json", ".tar"):
        (root / FRAMES / f"000002{suffix}").unlink()
    problems = [problem for problem in verify(root) if problem.kind == "mixed"]
    assert moved(repair(root, problems), root) == shard(FRAMES, 0, ".1") | shard(FRAMES, 1)


def test_of_a_clip_stored_twice_the_first_stays(root: Path) -> None:
    (root / AUDIO / "manifest.parquet").unlink()
    copy_shard(root, AUDIO, 0, 2)
    copy_shard(root, AUDIO, 0, 3)
    assert moved(repaired(root), root) == shard(AUDIO, 2) | shard(AUDIO, 3)
    assert verify(root) == ()


def test_if_the_first_copy_is_damaged_the_second_stays(root: Path) -> None:
    (root / AUDIO / "manifest.parquet").unlink()
    copy_shard(root, AUDIO, 0, 2)
    damage(root / AUDIO / "000000.tar")
    assert moved(repaired(root), root) == shard(AUDIO, 0)


def test_a_clip_in_two_splits_needs_a_person(root: Path) -> None:
    folder = root / "strong" / "audio" / SPEC.name
    write_audio(folder, 1, ["dd_0"])
    (folder / "manifest.parquet").unlink()
    problems = [problem for problem in verify(root) if problem.kind == "duplicate"]
    made = repair(root, problems)
    assert made.moved == ()
    assert len(made.unresolved) == 1
    assert "dd_0: duplicate: is also stored in weak" in made.unresolved[0]
    # One whose shard goes anyway is no longer in two.
    damage(root / AUDIO / "000001.tar")
    problems = [problem for problem in verify(root) if problem.kind in ("duplicate", "tar_size")]
    made = repair(root, problems)
    assert (moved(made, root), made.unresolved) == (shard(AUDIO, 1), ())


def test_hard_labels_without_stored_clips_go(root: Path) -> None:
    shutil.copy(root / "strong" / "hard.parquet", root / "weak" / "hard.parquet")
    made = repaired(root)
    assert moved(made, root) == {"weak/hard.parquet": "weak/hard.parquet"}
    assert made.hints == (f"{root / 'weak'}: no command is recorded that writes hard.parquet; pack the split again",)


def test_labels_whose_audio_is_written_again_stay(root: Path) -> None:
    """The sidecar of an audio shard says other identities: audio and labels disagree, and the audio is wrong."""
    resign(root / AUDIO / "000001.json", lambda value: value["clips"]["identity"].__setitem__(0, "0" * 32))
    assert {problem.kind for problem in verify(root)} == {"audio", "stale"}
    more = Problem(root / FRAMES / "000001.json", None, "stale", "7 more problems")
    made = repair(root, [*verify(root), more])
    assert moved(made, root) == shard(AUDIO, 1)
    assert [hint.partition(": labels of audio")[0] for hint in made.hints[1:]] == [
        str(root / FRAMES),
        str(root / OTHER),
    ]


def test_stale_labels_go_where_the_audio_is_whole(root: Path) -> None:
    resign(root / FRAMES / "000001.json", lambda value: value["clips"]["identity"].__setitem__(0, "0" * 32))
    assert moved(repaired(root), root) == shard(FRAMES, 1)


def test_orphans_wait_while_the_manifest_is_lost(root: Path) -> None:
    write_manifest(root / AUDIO / "manifest.parquet", [("aa_0", 0)])
    damage(root / AUDIO / "manifest.parquet")
    for suffix in (".json", ".tar"):
        (root / AUDIO / f"000001{suffix}").unlink()
    assert "orphan" in {problem.kind for problem in verify(root)}
    assert moved(repaired(root), root) == {f"{AUDIO}/manifest.parquet": f"{AUDIO}/manifest.parquet"}


def test_an_index_is_moved_and_needs_no_command(root: Path) -> None:
    path = root / AUDIO / "index.arrow"
    path.write_bytes(b"no index")
    made = repair(root, [Problem(path, None, "index", "is damaged")])
    assert moved(made, root) == {f"{AUDIO}/index.arrow": f"{AUDIO}/index.arrow"}
    assert (made.commands, made.hints, made.unresolved) == ((), (), ())


def test_an_unknown_problem_is_left_to_a_person(root: Path, tmp_path: Path) -> None:
    for path in (root / "weak" / "audio", tmp_path / "elsewhere" / "000000.tar", root / "weak" / "000000.json"):
        problem = Problem(path, None, "incomplete", "is not there")
        assert repair(root, [problem]).unresolved == (str(problem),)
    unchecked = Problem(root / AUDIO / "000000.json", None, "unchecked", "could not be checked")
    made = repair(root, [unchecked])
    assert (made.moved, made.unresolved) == ((), (str(unchecked),))


KILLED = """
import os, signal, sys
from pathlib import Path
from shards import repair, verify
root, left = Path(sys.argv[1]), int(sys.argv[2])
rename = Path.rename
def killing(path, target):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return rename(path, target)
problems = verify(root)
Path.rename = killing
repair(root, problems)
"""


def test_killed_in_between_the_next_run_finishes(root: Path, tmp_path: Path) -> None:
    for folder in (AUDIO, FRAMES, OTHER):
        record_command(root / folder, ("pack" if folder == AUDIO else "label", "--out", folder), (0, 1))
    for path in (root / AUDIO / "000000.tar", root / FRAMES / "000001.json", root / "weak/hard.parquet"):
        damage(path)
    undisturbed = Path(shutil.copytree(root, tmp_path / "undisturbed"))
    expected = repaired(undisturbed)
    assert len(expected.moved) == 5
    left = {path.relative_to(undisturbed): path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    for kill_at in (0, 1, 2, 4):
        copy = Path(shutil.copytree(root, tmp_path / f"killed at {kill_at}"))
        done = subprocess.run([sys.executable, "-c", KILLED, copy, str(kill_at)], cwd=REPOSITORY, check=False)
        assert done.returncode == -signal.SIGKILL
        assert quarantined_files(copy) == kill_at
        made = repaired(copy)
        assert (made.commands, made.unresolved) == (expected.commands, ())
        assert len(made.moved) == 5 - kill_at
        assert {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == left


def test_commands_are_recorded_by_shard(tmp_path: Path) -> None:
    folder = tmp_path / "data set" / "weak" / "audio" / "x"
    folder.mkdir(parents=True)
    first = command_arguments("pack", dataset=tmp_path / "data set", folder=Path("/a b"), long=None, clips_per_shard=5)
    assert first == ("pack", "--dataset", str(tmp_path / "data set"), "--folder", "/a b", "--clips-per-shard", "5")
    second = (*first[:-1], "6")
    record_command(folder, first, range(3))
    record_command(folder, second, (2, 3))
    assert read_commands(folder) == (
        RecordedCommand(arguments=first, shards=(0, 1)),
        RecordedCommand(arguments=second, shards=(2, 3)),
    )
    assert read_commands(folder)[0].line.startswith("sed-distill pack --dataset '/")
    record_command(folder, first, (4,))
    assert [command.shards for command in read_commands(folder)] == [(2, 3), (0, 1, 4)]
    record_command(folder, first, ())
    assert [command.shards for command in read_commands(folder)] == [(2, 3), (0, 1, 4)]
    # The dataset is where it lies now.
    (tmp_path / "data set").rename(tmp_path / "moved")
    assert read_commands(tmp_path / "moved/weak/audio/x")[1].arguments[2] == str(tmp_path / "moved")
    assert str(tmp_path) not in (tmp_path / "moved/weak/audio/x" / COMMANDS_NAME).read_text()


@settings(max_examples=40, deadline=None)
@given(calls=st.lists(st.tuples(st.sampled_from("abc"), st.sets(st.integers(0, 5))), max_size=6))
def test_every_shard_is_of_the_last_command_that_wrote_it(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[str, set[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("d") / "weak" / "audio" / "x"
    folder.mkdir(parents=True)
    writer: dict[int, str] = {}
    for name, shards in calls:
        record_command(folder, (name,), shards)
        writer |= dict.fromkeys(shards, name)
    recorded = read_commands(folder)
    assert {number: command.arguments[0] for command in recorded for number in command.shards} == writer
    last = list(dict.fromkeys(name for name, _ in reversed(calls)))
    assert [command.arguments[0] for command in recorded] == last[::-1]


def test_labels_of_clips_packed_later_come_by_the_command_of_their_set(root: Path) -> None:
    record_command(root / FRAMES, ("label", "--labels", "frames"), (0, 1))
    shutil.rmtree(root / OTHER)
    write_audio(root / AUDIO, 2, ["zz_0"])
    (root / AUDIO / "manifest.parquet").unlink()
    problems = [problem for problem in verify(root) if problem.kind == "incomplete"]
    made = repair(root, problems)
    assert (made.moved, made.commands, made.hints) == ((), ("sed-distill label --labels frames",), ())


def test_labels_that_lie_in_other_shards_than_their_clips_cannot_be_made_anew_there(root: Path) -> None:
    """The audio was sharded anew since, and one of its clips has no label."""
    (root / AUDIO / "manifest.parquet").unlink()
    shutil.rmtree(root / OTHER)
    write_audio(root / AUDIO, 0, ["aa_0", "zz_0"])
    write_audio(root / AUDIO, 1, ["bb_30000", "cc_0", LONG_KEY, "dd_0", "ee_0", "ff_0"])
    problems = verify(root)
    assert {problem.kind for problem in problems} == {"incomplete", "no_hard"}
    (line,) = repair(root, [problem for problem in problems if problem.kind == "incomplete"]).unresolved
    assert line.endswith("its labels are of other clips; label the split into another set")
    # Where they are of no other clips, they are made anew with the missing one.
    write_audio(root / AUDIO, 0, ["aa_0", "bb_30000", "cc_0", LONG_KEY, "zz_0"])
    write_audio(root / AUDIO, 1, ["dd_0", "ee_0", "ff_0"])
    problems = [problem for problem in verify(root) if problem.kind == "incomplete"]
    assert moved(repair(root, problems), root) == shard(FRAMES, 0)


def test_a_damaged_or_hostile_record_is_no_record(tmp_path: Path) -> None:
    folder = tmp_path / "weak" / "audio" / "x"
    folder.mkdir(parents=True)
    record_command(folder, ("pack", "--folder", "/a"), (0,))
    path = folder / COMMANDS_NAME
    content = path.read_bytes()
    for position in range(0, len(content), 3):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert read_commands(folder) == ()
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda value: value["commands"][0].update(arguments=["pack\n rm -rf"]),
        lambda value: value["commands"][0].update(arguments=["pack", "\x1b[2J"]),
        lambda value: value["commands"][0].update(arguments="pack"),
        lambda value: value["commands"][0].update(shards=[1e9]),
        lambda value: value.update(commands={}),
        lambda value: value.update(version=2),
        lambda value: value.update(more=1),
    ]
    for change in changes:
        path.write_bytes(content)
        resign(path, change)
        assert read_commands(folder) == ()
    for other in (b"", b"[" * 100_000, b"\xff", b"null\n"):
        path.write_bytes(other)
        assert read_commands(folder) == ()
    path.unlink()
    assert read_commands(folder) == ()
    os.mkfifo(path)
    assert read_commands(folder) == ()
    path.unlink()
    (tmp_path / "elsewhere.json").write_bytes(content)
    path.symlink_to(tmp_path / "elsewhere.json")
    assert read_commands(folder) == ()
    path.unlink()
    record_command(folder, ("pack", "a\nb"), (0,))
    record_command(folder, ("pack", os.fsdecode(b"\xff")), (0,))
    assert not path.exists()
