"""What repair moves and what it leaves, on shards written by hand, and the record of the commands that write shards."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import AudioSpec, FormatError, UsageError, canonical_json, hard_table, write_hard
from shards import (
    COMMANDS_NAME,
    AudioShardWriter,
    AudioSidecar,
    LabelSidecar,
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
from shards.checks._repair_shards import Shard, read_shard
from tests.shards.dataset_examples import (
    LONG_KEY,
    SPEC,
    clip_pcm,
    write_audio,
    write_dataset,
    write_labels,
    write_manifest,
)

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
    audio, labels = made.unresolved
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
    assert made.unresolved[-1] == f"{root / AUDIO}/000000.json: cannot be moved to quarantine/ (Permission denied)"
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
    made = repair(root, problems)
    assert (made.moved, made.commands) == ((), ())
    (line,) = made.unresolved
    assert line.startswith(f"{root / FRAMES}: mixed: has 1 shard like 000000.json and 1 shard like 000001.json, so ")
    # One of them is damaged: then the other one is right.
    damage(root / FRAMES / "000000.tar")
    problems = [problem for problem in verify(root) if problem.kind in ("mixed", "tar_size")]
    assert moved(repair(root, problems), root) == shard(FRAMES, 0, ".1")


def test_of_two_audio_codecs_neither_goes_where_none_has_more_shards(root: Path) -> None:
    sidecar = read_audio_sidecar(root / AUDIO / "000001.json")
    with AudioShardWriter(root / AUDIO, 1, spec=SPEC, provenance=dict(sidecar.provenance), codec="pcm16") as writer:
        for key in sidecar.clips.key:
            writer.add(key, clip_pcm(key), origin="vorbis", cut_samples=3, clipped_samples=1, flags=("clipped",))
        for key in sidecar.rejected.key:
            writer.reject(key, "damaged", "stops early")
        writer.commit()
    assert {problem.kind for problem in verify(root)} == {"mixed"}
    made = repaired(root)
    assert (made.moved, made.commands) == ((), ())
    (line,) = made.unresolved
    assert line.startswith(f"{root / AUDIO}: mixed: has 1 shard like 000000.json and 1 shard like 000001.json, so ")


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
    assert moved(made, root) == shard(AUDIO, 1)
    assert not any("duplicate" in line for line in made.unresolved)


def test_other_splits_are_read_once_however_many_clips_they_share(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "strong" / "audio" / SPEC.name
    (folder / "manifest.parquet").unlink()
    shutil.rmtree(root / "strong" / "labels")
    write_audio(folder, 1, ["dd_0", "ee_0", "ff_0"])
    problems = [problem for problem in verify(root) if problem.kind == "duplicate"]
    assert [problem.key for problem in problems] == ["dd_0", "ee_0", "ff_0"]
    reads: Counter[Path] = Counter()

    def counting(shard: Shard) -> AudioSidecar | LabelSidecar | None:
        reads[shard.sidecar] += 1
        return read_shard(shard)

    monkeypatch.setattr("shards.checks._repair_shards.read_shard", counting)
    made = repair(root, problems)
    in_weak = {path: count for path, count in reads.items() if path.parent == root / AUDIO}
    assert in_weak == {root / AUDIO / f"00000{number}.json": 1 for number in (0, 1)}
    (line,) = made.unresolved
    assert "dd_0: duplicate: is also stored in weak" in line
    assert "(and 2 clips more of this shard)" in line


def test_hard_labels_without_stored_clips_go(root: Path) -> None:
    shutil.copy(root / "strong" / "hard.parquet", root / "weak" / "hard.parquet")
    made = repaired(root)
    assert moved(made, root) == {"weak/hard.parquet": "weak/hard.parquet"}
    assert made.unresolved == (
        f"{root / 'weak'}: no command is recorded that writes hard.parquet; pack the split again",
    )


def test_one_clip_is_said_as_one(root: Path) -> None:
    hard = root / "weak/hard.parquet"
    keys = ["aa_0", "bb_30000", "cc_0", LONG_KEY, "dd_0", "ee_0", "rr_0"]
    write_hard(hard, hard_table(keys, weak={key: ["/m/a"] for key in keys}))
    (problem,) = verify(root)
    assert problem.detail.startswith("1 clip is without a row in hard.parquet of weak;")
    write_hard(hard, hard_table(keys[2:], weak={key: ["/m/a"] for key in keys}))
    assert verify(root)[0].detail.startswith("2 clips, this one first, are without a row in hard.parquet of weak;")


def test_labels_whose_audio_is_written_again_stay(root: Path) -> None:
    """The sidecar of an audio shard says other identities: audio and labels disagree, and the audio is wrong."""
    resign(root / AUDIO / "000001.json", lambda value: value["clips"]["identity"].__setitem__(0, "0" * 32))
    assert {problem.kind for problem in verify(root)} == {"audio", "stale"}
    more = Problem(root / FRAMES / "000001.json", None, "stale", "7 more problems")
    made = repair(root, [*verify(root), more])
    assert moved(made, root) == shard(AUDIO, 1)
    assert [hint.partition(": labels of audio")[0] for hint in made.hints] == [
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


def test_a_renamed_audio_folder_is_renamed_back_not_emptied(root: Path) -> None:
    before = {path.name: path.read_bytes() for path in (root / AUDIO).iterdir()}
    record_command(root / AUDIO, ("pack", "--split", "weak"), (0, 1))
    renamed = root / f"{AUDIO}x"
    (root / AUDIO).rename(renamed)
    (problem,) = verify(root)
    assert (problem.shard, problem.kind) == (renamed, "sidecar")
    assert problem.detail == f"is named {SPEC.name}x, its shards are of {SPEC.name}; rename the folder to {SPEC.name}"
    assert repaired(root) == Repair(moved=(), commands=(), hints=(), unresolved=(str(problem),))
    # Whatever else is wrong waits: its command would write into a folder of the right name.
    damage(renamed / "000001.tar")
    damage(root / FRAMES / "000001.tar")
    made = repaired(root)
    assert (made.moved, made.commands) == ((), ())
    assert made.unresolved[1] == f"{root}: 2 other problems: repair again after that; nothing is moved before"
    renamed.rename(root / AUDIO)
    assert moved(repaired(root), root) == shard(AUDIO, 1) | shard(FRAMES, 1)
    assert before["000000.tar"] == (root / AUDIO / "000000.tar").read_bytes()


def test_shards_of_another_spec_that_has_a_folder_are_misplaced(root: Path) -> None:
    (root / "weak/audio/other").mkdir()
    for suffix in (".json", ".tar"):
        shutil.copy(root / AUDIO / f"000000{suffix}", root / f"weak/audio/other/000000{suffix}")
    assert moved(repaired(root), root) == shard("weak/audio/other", 0)
    assert moved(repaired(root), root) == {"weak/audio/other": "weak/audio/other.1"}
    assert verify(root) == ()


def test_labels_stay_where_their_audio_is_gone(root: Path) -> None:
    """There is other audio in the split: the labels are orphans, but not to blame."""
    other = AudioSpec(sample_rate=16_000, clip_ms=1_000)
    audio = write_audio(root / f"weak/audio/{other.name}", 0, ["aa_0"], spec=other)
    write_labels(root / "weak/labels/more", audio)
    (root / AUDIO).rename(root.parent / "away")
    assert {problem.kind for problem in verify(root)} == {"orphan"}
    made = repaired(root)
    assert (made.moved, made.commands, made.hints) == ((), (), ())
    assert [line.partition(", which is not there; restore that folder, or attach")[0] for line in made.unresolved] == [
        f"{root / folder}: orphan: its labels are of {root / AUDIO}" for folder in (FRAMES, OTHER)
    ]
    # The same where the folder is there, and nothing in it.
    (root / AUDIO).mkdir()
    made = repaired(root)
    assert (made.moved, made.commands, made.hints) == ((), (), ())
    assert made.unresolved[0].startswith(f"{root / AUDIO}: has no shards, and no command is recorded that writes them;")
    assert [line.partition(", which has no shards; restore")[0] for line in made.unresolved[1:]] == [
        f"{root / folder}: orphan: its labels are of {root / AUDIO}" for folder in (FRAMES, OTHER)
    ]


def test_folders_without_a_shard_go_whole(root: Path) -> None:
    (root / "weak/audio/foo").mkdir()
    (root / "weak/labels/b").mkdir()
    (root / "weak/labels/b/report.json").write_text("{}")
    (root / "weak/audio/mono-16000hz-1000ms").mkdir()
    write_manifest(root / "weak/audio/mono-16000hz-1000ms/manifest.parquet", [("aa_0", 0), ("dd_0", 1)])
    assert {problem.kind for problem in verify(root)} == {"incomplete"}
    expected = {name: name for name in ("weak/audio/foo", "weak/audio/mono-16000hz-1000ms", "weak/labels/b")}
    assert moved(repaired(root, dry_run=True), root) == expected
    made = repaired(root)
    assert (moved(made, root), made.commands, made.unresolved) == (expected, (), ())
    assert (root / "quarantine/weak/labels/b/report.json").read_text() == "{}"
    assert verify(root) == ()


def test_a_folder_that_a_command_can_fill_stays(root: Path) -> None:
    (root / "weak/labels/b").mkdir()
    record_command(root / "weak/labels/b", ("label", "--labels", "b"), (0, 1))
    for _ in range(2):
        made = repaired(root)
        assert (made.moved, made.commands, made.unresolved) == ((), ("sed-distill label --labels b",), ())
        (hint,) = made.hints
        assert hint.startswith(
            f"{root / 'weak/labels/b'}: has no shards, as if the command that writes them had never "
        )
    # No command writes audio into a folder of such a name.
    (root / f"{AUDIO}x").mkdir()
    record_command(root / f"{AUDIO}x", ("pack",), (0, 1))
    made = repaired(root)
    assert moved(made, root) == {f"{AUDIO}x": f"{AUDIO}x"}
    assert made.commands == ("sed-distill label --labels b",)


def test_the_only_audio_of_a_split_is_missed(root: Path) -> None:
    shutil.rmtree(root / "strong/labels")
    for path in (root / "strong/audio" / SPEC.name).iterdir():
        path.unlink()
    made = repaired(root)
    assert (made.moved, made.commands) == ((), ())
    (line,) = made.unresolved
    assert "strong/audio" in line
    assert line.endswith("restore it or pack the split again, or remove the folder")


def test_a_copied_label_shard_leaves_nothing_to_restore(root: Path) -> None:
    for folder in (AUDIO, FRAMES, OTHER):
        record_command(root / folder, ("pack" if folder == AUDIO else "label", "--out", folder), (0, 1))
    copy_shard(root, FRAMES, 0, 9)
    copy_shard(root, AUDIO, 0, 8)  # one that the manifest does not want
    made = repaired(root)
    assert moved(made, root) == shard(FRAMES, 9) | shard(AUDIO, 8)
    assert (made.commands, made.hints, made.unresolved) == ((), (), ())
    assert verify(root) == ()


@pytest.mark.parametrize("recorded", [False, True])
def test_a_copy_in_the_place_of_a_shard_is_missed(root: Path, recorded: bool) -> None:
    if recorded:
        record_command(root / FRAMES, ("label", "--labels", "frames"), (0, 1))
    copy_shard(root, FRAMES, 0, 1)
    made = repaired(root)
    assert moved(made, root) == shard(FRAMES, 1)
    assert made.commands == (("sed-distill label --labels frames",) if recorded else ())
    assert len(made.unresolved) == (not recorded)


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
