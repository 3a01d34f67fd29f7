"""Damage, `repair`, exactly the commands it prints: then the dataset is whole, byte for byte what it was."""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jobs import stop_if_asked
from pipeline import AudioSpec, canonical_json
from sed_distill._verify import ProgressLine
from sed_distill.cli import main
from shards import verify
from tests.teachers.labelling_examples import tiny_beats

REPOSITORY = Path(__file__).resolve().parents[2]
AUDIO = f"weak/audio/{AudioSpec().name}"
TINY, OTHER = "weak/labels/tiny", "weak/labels/other-set"
# What tells of runs or is a cache, and what repair moved away.
NOT_THE_DATASET = ("report.json", "commands.json", "index.arrow")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Audio shards 0 and 1 of one pack command, 2 of another one over other recordings; two label sets."""
    folder = tmp_path_factory.mktemp("whole of it")  # a path with blanks has to be quoted
    rng = np.random.default_rng(8)
    for name, clips in (("a", 4), ("b", 2)):
        recordings = folder / f"recordings {name}"
        recordings.mkdir()
        for number in range(clips):
            audio = rng.normal(0, 0.1, 8_000 + 1_000 * number).clip(-1, 1)
            soundfile.write(recordings / f"{name} {number}.wav", audio, 16_000)
        (recordings / "weak.csv").write_text(
            "path,mid\n" + "".join(f"{name} {number}.wav,/m/01h8n0\n" for number in range(clips))
        )
        pack = ("pack", "--dataset", folder / "data", "--split", "weak", "--keys", "path", "--clips-per-shard", "2")
        assert local(*pack, "--folder", recordings, "--weak-csv", recordings / "weak.csv") == 0
    for seed, name in ((0, "tiny"), (1, "other-set")):
        checkpoint = tiny_beats(folder / f"{name}.pt", seed=seed)
        label = ("label", "--dataset", folder / "data", "--split", "weak", "--labels", name, "--batch-size", "2")
        label += ("--device", "cpu")
        assert local(*label, "--teacher", f"beats={checkpoint}") == 0
    assert verify(folder / "data") == ()
    return folder / "data"


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy elsewhere: commands name the dataset where it lies now."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def local(*arguments: object) -> int:
    return main([*map(str, arguments), "--executor", "local"])


def tree(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in NOT_THE_DATASET)
    return {
        name: path.read_bytes() for path in files if not (name := str(path.relative_to(root))).startswith("quarantine/")
    }


def repaired(root: Path, capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> dict[str, list[str]]:
    capsys.readouterr()
    assert main(["repair", str(root), "--json", *options]) == code
    answer: dict[str, list[str]] = json.loads(capsys.readouterr().out)
    return answer


def flip(path: Path, position: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 4
    path.write_bytes(content)


def resign(path: Path, change: Callable[[dict], None]) -> None:
    """Edit a sidecar and give it the checksum that belongs to it."""
    value = json.loads(path.read_bytes())
    del value["sha256"]
    change(value)
    value["sha256"] = hashlib.sha256(canonical_json(value).encode()).hexdigest()
    path.write_bytes(f"{canonical_json(value)}\n".encode())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def remove(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def stale(root: Path) -> None:
    """Labels of other audio: as if a clip had been decoded anew since."""
    resign(root / TINY / "000001.json", lambda value: value["clips"]["identity"].__setitem__(0, "0" * 32))


def change_places(root: Path) -> None:
    for suffix in (".json", ".tar"):
        exchange(root / AUDIO / f"000000{suffix}", root / AUDIO / f"000001{suffix}")


def exchange_label_sets(root: Path) -> None:
    for suffix in (".json", ".tar"):
        exchange(root / TINY / f"000001{suffix}", root / OTHER / f"000001{suffix}")


def exchange(a: Path, b: Path) -> None:
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def copy_shard(root: Path, folder: str, number: int, to: int) -> None:
    for suffix in (".json", ".tar"):
        shutil.copy(root / folder / f"{number:06d}{suffix}", root / folder / f"{to:06d}{suffix}")
    resign(root / folder / f"{to:06d}.json", lambda value: value.update(shard=to))


def labels_of_nothing(root: Path) -> None:
    """A label shard of clips that are not stored."""
    copy_shard(root, TINY, 2, 3)
    path = root / TINY / "000003"
    keys = json.loads(path.with_suffix(".json").read_bytes())["clips"]["key"]
    renamed = {key: "x" + key[1:] for key in keys}
    content = path.with_suffix(".tar").read_bytes()
    for key, other in renamed.items():
        content = content.replace(key.encode(), other.encode())
    # The header's own sum covers the name.
    blocks = bytearray(content)
    for start in range(0, len(blocks), 512):
        block = blocks[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    path.with_suffix(".tar").write_bytes(blocks)

    def change(value: dict) -> None:
        value["clips"]["key"] = [renamed[key] for key in keys]
        value["tar"]["sha256"] = hashlib.sha256(blocks).hexdigest()

    resign(path.with_suffix(".json"), change)


def everything(root: Path) -> None:
    remove(root / AUDIO / "000000.tar", root / TINY / "000000.json")
    for path in (root / "dataset.json", root / "weak/hard.parquet", root / AUDIO / "manifest.parquet"):
        flip(path, -40)
    flip(root / AUDIO / "000002.tar")
    cut(root / OTHER / "000002.tar")


# What is done to the dataset, and which shards and files repair has to move for it.
DAMAGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a byte of audio": (lambda root: flip(root / AUDIO / "000000.tar"), {f"{AUDIO}/000000"}),
    "audio cut off": (lambda root: cut(root / AUDIO / "000002.tar"), {f"{AUDIO}/000002"}),
    "audio gone": (lambda root: remove(root / AUDIO / "000001.tar"), {f"{AUDIO}/000001"}),
    "audio sidecar edited": (lambda root: flip(root / AUDIO / "000000.json"), {f"{AUDIO}/000000"}),
    "audio sidecar gone": (lambda root: remove(root / AUDIO / "000002.json"), {f"{AUDIO}/000002"}),
    "audio shard gone": (
        lambda root: remove(root / AUDIO / "000002.json", root / AUDIO / "000002.tar"),
        set(),
    ),
    "audio of another identity": (
        lambda root: resign(
            root / AUDIO / "000000.json", lambda value: value["clips"]["identity"].__setitem__(1, "0" * 32)
        ),
        {f"{AUDIO}/000000"},
    ),
    "audio shards change places": (change_places, {f"{AUDIO}/000000", f"{AUDIO}/000001"}),
    "a byte of labels": (lambda root: flip(root / TINY / "000002.tar"), {f"{TINY}/000002"}),
    "label sidecar gone": (lambda root: remove(root / TINY / "000000.json"), {f"{TINY}/000000"}),
    "label shard gone": (lambda root: remove(root / TINY / "000000.json", root / TINY / "000000.tar"), set()),
    "stale labels": (stale, {f"{TINY}/000001"}),
    "label sets mixed": (exchange_label_sets, {f"{TINY}/000001", f"{OTHER}/000001"}),
    "labels of nothing": (labels_of_nothing, {f"{TINY}/000003"}),
    "labels stored twice": (lambda root: copy_shard(root, TINY, 0, 9), {f"{TINY}/000009"}),
    "audio stored twice": (lambda root: copy_shard(root, AUDIO, 0, 3), {f"{AUDIO}/000003"}),
    "manifest damaged": (lambda root: flip(root / AUDIO / "manifest.parquet", -40), {f"{AUDIO}/manifest.parquet"}),
    "manifest gone": (lambda root: remove(root / AUDIO / "manifest.parquet"), set()),
    "manifest and a shard gone": (
        lambda root: remove(root / AUDIO / "manifest.parquet", root / AUDIO / "000001.json"),
        {f"{AUDIO}/000001"},
    ),
    "hard labels damaged": (lambda root: flip(root / "weak/hard.parquet", 100), {"weak/hard.parquet"}),
    "hard labels gone": (lambda root: remove(root / "weak/hard.parquet"), set()),
    "description damaged": (lambda root: flip(root / "dataset.json", 20), {"dataset.json"}),
    "description gone": (lambda root: remove(root / "dataset.json"), set()),
    "a shard outside of folders": (
        lambda root: shutil.copy(root / AUDIO / "000000.tar", root / "weak/000000.tar"),
        {"weak/000000.tar"},
    ),
    "everything": (
        everything,
        {
            "dataset.json", "weak/hard.parquet", f"{AUDIO}/manifest.parquet", f"{AUDIO}/000000", f"{AUDIO}/000002",
            f"{TINY}/000000", f"{OTHER}/000002",
        },
    ),
}  # fmt: skip


# What lies there too much is moved, and nothing is to be written for it.
NOTHING_MISSING = ("labels stored twice", "audio stored twice", "labels of nothing", "a shard outside of folders")


@pytest.mark.parametrize("name", DAMAGES)
def test_repair_and_the_commands_it_prints(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, expected = DAMAGES[name]
    before = tree(root)
    damage(root)
    damaged = tree(root)
    written_ns = {path: (root / path).stat().st_mtime_ns for path in damaged}
    assert verify(root)
    plan = repaired(root, capsys, "--dry-run", code=1)
    assert tree(root) == damaged
    answer = repaired(root, capsys)
    assert answer | {"dry_run": True} == plan
    assert answer["unresolved"] == []
    gone = {str(Path(source).relative_to(root)) for source, _ in answer["moved"]}
    assert {shard_or_file(path) for path in gone} == expected
    kept = {path: (root / "quarantine" / path).read_bytes() for path in gone}
    assert kept == {path: damaged[path] for path in gone}, "what was moved is as it was found"
    again = repaired(root, capsys)
    assert again["moved"] == []
    assert set(again["commands"]) <= set(answer["commands"])
    assert bool(answer["commands"]) == (name not in NOTHING_MISSING)
    run(answer["commands"])
    assert verify(root) == ()
    assert tree(root) == before
    for path in damaged.keys() & before.keys() - gone:
        assert (root / path).stat().st_mtime_ns == written_ns[path], f"{path} was whole and is written again"
    assert repaired(root, capsys) == {
        "dry_run": False, "problems": 0, "moved": [], "commands": [], "hints": [], "unresolved": [],
    }  # fmt: skip


def test_stale_labels_of_damaged_audio_take_a_second_round(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether they fit the audio is known once it is back."""
    before = tree(root)
    stale(root)
    resign(root / AUDIO / "000001.json", lambda value: value["clips"]["identity"].__setitem__(0, "1" * 32))
    answer = repaired(root, capsys)
    assert {shard_or_file(str(Path(source).relative_to(root))) for source, _ in answer["moved"]} == {f"{AUDIO}/000001"}
    assert answer["hints"][0].endswith("labels of audio that is to be written again stay; repair once more after that")
    run(answer["commands"])
    assert [(problem.shard, problem.kind) for problem in verify(root)] == [(root / TINY / "000001.json", "stale")]
    run(repaired(root, capsys)["commands"])
    assert verify(root) == ()
    assert tree(root) == before


def test_a_training_copy_is_restored_from_what_it_is_a_copy_of(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "training copy"
    assert local("transcode", "--dataset", root, "--out", copy, "--codec", "pcm16") == 0
    before = tree(copy)
    everything(copy)
    damaged = tree(copy)
    answer = repaired(copy, capsys)
    assert {shlex.split(line)[1] for line in answer["commands"]} == {"transcode"}
    run(answer["commands"])
    assert verify(copy) == ()
    assert tree(copy) == before != damaged


def test_inputs_that_changed_are_named_by_the_command(
    root: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lost manifest cannot be made again from recordings that are gone; what was made of them stays meanwhile."""
    recordings = Path(shutil.move(whole.parent / "recordings b", whole.parent / "away"))
    try:
        remove(root / AUDIO / "manifest.parquet")
        first, second = repaired(root, capsys)["commands"]
        run([first])
        assert local(*shlex.split(second)[1:]) == 2
        answer = capsys.readouterr()
        assert "6 clips = 6 stored + 0 rejected; 2 not in the manifest" in answer.out
        assert "recordings b is not a folder" in answer.err
    finally:
        shutil.move(recordings, whole.parent / "recordings b")
    run([second])
    assert verify(root) == ()


@pytest.mark.xdist_group("ray")
def test_what_it_prints_goes_into_a_shell(root: Path, tmp_path: Path) -> None:
    before = tree(root)
    flip(root / AUDIO / "000000.tar")
    program = tmp_path / "bin" / "sed-distill"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m sed_distill "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join((str(program.parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["sh", "-c", "sed-distill repair copy | sh -e && sed-distill verify copy"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        "copy: 1 problem; 2 files moved to quarantine/; this command restores what is missing; quarantine/ is no part"
        in (done.stderr)
    )
    assert "copy: 2 files in quarantine/ are not part of it" in done.stderr
    assert tree(root) == before


def test_what_it_cannot_repair_is_exit_code_1(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resign(root / AUDIO / "000000.json", lambda value: value.update(version=2))
    assert main(["repair", str(root)]) == 1
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "not repaired: " in answer.err
    assert main(["repair", str(root / "weak")]) == 2
    assert "is not a dataset" in capsys.readouterr().err


def test_a_path_that_is_not_text(root: Path, tmp_path: Path) -> None:
    root = root.rename(tmp_path / os.fsdecode(b"\xff data"))
    flip(root / AUDIO / "000000.tar")
    command = [sys.executable, "-m", "sed_distill", "repair", root]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.fsencode(shlex.quote(str(root))) in done.stdout


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_without_its_commands_it_is_not_whole_again(root: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    remove(root / AUDIO / "commands.json") if how == "missing" else flip(root / AUDIO / "commands.json")
    flip(root / AUDIO / "000000.tar")
    for options in ("--dry-run",), ():
        assert main(["repair", str(root), *options]) == 1
        answer = capsys.readouterr()
        assert answer.out == ""
        assert (
            f"not repaired: {root / AUDIO}: no command is recorded that writes shard 000000; give again" in answer.err
        )
        assert "1 not repaired: see above" in answer.err


def test_a_label_run_that_failed_at_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only its record and report are there; the command is given again, or its folder goes."""
    folder = root / "weak/labels/b"
    shutil.copytree(root / TINY, folder, ignore=shutil.ignore_patterns("0*", "index.arrow"))
    assert sorted(path.name for path in folder.iterdir()) == ["commands.json", "report.json"]
    assert main(["verify", str(root)]) == 1
    answer = repaired(root, capsys)
    assert (answer["moved"], len(answer["commands"]), len(answer["hints"])) == ([], 1, 1)
    remove(folder / "commands.json")
    capsys.readouterr()
    assert main(["repair", str(root)]) == 0
    assert "1 problem; 1 folder moved to quarantine/; quarantine/ is no part of the" in capsys.readouterr().err
    assert main(["verify", str(root)]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_that_nothing_was_moved(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    flip(root / AUDIO / "000000.tar")
    before = tree(root)
    monkeypatch.setattr(ProgressLine, "__call__", lambda *made: (os.kill(os.getpid(), number), stop_if_asked()))
    assert main(["repair", str(root)]) == 1
    answer = capsys.readouterr()
    assert (answer.out, answer.err) == ("", "interrupted: nothing was moved; the same command begins anew\n")
    assert tree(root) == before


def test_a_store_is_refused_before_it_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(
        "upath", reason="universal-pathlib is not installed; reading object stores is an optional extra"
    )
    monkeypatch.setattr("sed_distill._repair.find_problems", None)
    assert main(["repair", "memory://bucket/data"]) == 2
    assert capsys.readouterr().err.endswith("copy it to a disk and repair it there\n")


def run(lines: list[str]) -> None:
    """Exactly what is printed, but in this process and without starting a Ray."""
    assert len(set(lines)) == len(lines)
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "sed-distill"
        assert local(*arguments) == 0


def shard_or_file(path: str) -> str:
    return re.sub(r"(/(?:audio|labels)/[^/]+/[0-9]{6})\.(json|tar)$", r"\1", path)
