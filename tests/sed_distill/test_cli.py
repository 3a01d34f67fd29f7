"""The command as a user types it: exit codes, one-line errors, and a folder through pack, label, verify and info."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.teachers.labelling_examples import tiny_beats

REPOSITORY = Path(__file__).resolve().parents[2]


def command(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "sed_distill", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(5)
    for number in range(5):
        soundfile.write(folder / f"clip {number}.wav", rng.normal(0, 0.1, 16_000), 16_000)
    (folder / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(folder / "tiny.flac", np.zeros(10), 16_000)
    (folder / "weak.csv").write_text("path,mid\n" + "".join(f"clip {n}.wav,/m/01h8n0\n" for n in range(5)))
    return folder


@pytest.fixture(scope="module")
def dataset(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = tmp_path_factory.mktemp("data") / "set"
    done = command(
        "pack", "--dataset", dataset, "--split", "weak", "--folder", recordings, "--keys", "path", "--executor", "local"
    )
    assert done.returncode == 0, done.stderr
    assert "7 clips = 5 stored + 2 rejected (1 too_short, 1 unreadable)" in done.stdout
    return dataset


def test_pack_label_verify_info(dataset: Path, tmp_path: Path) -> None:
    checkpoint = tiny_beats(tmp_path / "tiny.pt")
    label = ("label", "--dataset", dataset, "--split", "weak", "--teacher", f"beats={checkpoint}", "--labels", "tiny")
    done = command(*label, "--executor", "local")
    assert done.returncode == 0, done.stderr
    assert "5 clips = 5 stored + 0 rejected" in done.stdout
    again = command(*label)
    assert "(0 now)" in again.stdout
    assert command("verify", dataset).returncode == 0
    shown = command("info", dataset)
    assert shown.returncode == 0
    assert "tiny" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    tar = dataset / "weak" / "labels" / "tiny" / "000000.tar"
    content = bytearray(tar.read_bytes())
    content[5000] ^= 1
    tar.write_bytes(content)
    found = command("verify", dataset, "--json")
    assert found.returncode == 1
    assert {problem["shard"] for problem in json.loads(found.stdout)} == {str(tar)}
    tar.unlink()
    assert command("verify", "--quick", dataset).returncode == 1


def test_more_rejected_than_allowed_is_exit_code_1(recordings: Path, tmp_path: Path) -> None:
    pack = ("pack", "--dataset", tmp_path / "d", "--split", "weak", "--folder", recordings, "--keys", "path")
    assert command(*pack, "--executor", "local", "--max-rejected", 1).returncode == 1
    assert command(*pack, "--executor", "local", "--max-rejected", 2).returncode == 0


WRONG = {
    "an empty folder": (("pack", "--folder", "{empty}", "--keys", "path"), "no recordings"),
    "audioset keys without a list": (("pack", "--folder", "{recordings}", "--keys", "audioset"), "segment list"),
    "a list with a bad row": (
        ("pack", "--folder", "{recordings}", "--keys", "audioset", "--weak-csv", "{bad_row}"),
        "bad.csv:4",
    ),
    "an unknown class": (
        ("pack", "--folder", "{recordings}", "--keys", "path", "--weak-csv", "{unknown_class}"),
        "/m/nothing",
    ),
    "colliding keys": (
        ("pack", "--folder", "{colliding}", "--keys", "audioset", "--weak-csv", "{segments}"),
        "YAAAAAAAAAAA.wav",
    ),
    "an output that is no folder": (
        ("pack", "--folder", "{recordings}", "--keys", "path", "--dataset", "{recordings}/clip 0.wav"),
        "choose another",
    ),
    "no dataset": (("verify", "{empty}"), "not a dataset"),
    "an unknown teacher": (("label", "--teacher", "nothing=x", "--labels", "a"), "known: beats"),
    "a teacher without a checkpoint": (("label", "--teacher", "beats", "--labels", "a"), "FAMILY=CHECKPOINT"),
    "a checkpoint that is not there": (("label", "--teacher", "beats=/nowhere.pt", "--labels", "a"), "/nowhere.pt"),
    "a damaged checkpoint": (("label", "--teacher", "beats={bad_row}", "--labels", "a"), "bad.csv"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_wrong_use_is_one_line_and_exit_code_2(case: str, recordings: Path, dataset: Path, tmp_path: Path) -> None:
    places = {
        "empty": tmp_path / "empty",
        "recordings": recordings,
        "colliding": tmp_path / "colliding",
        "bad_row": tmp_path / "bad.csv",
        "unknown_class": tmp_path / "unknown.csv",
        "segments": tmp_path / "segments.csv",
    }
    places["empty"].mkdir()
    places["colliding"].mkdir()
    (places["colliding"] / "other").mkdir()
    for name in ("YAAAAAAAAAAA.wav", "other/AAAAAAAAAAA.wav"):
        soundfile.write(places["colliding"] / name, np.zeros(16_000), 16_000)
    places["segments"].write_text('# a\n# b\n# c\nAAAAAAAAAAA, 0.000, 10.000, "/m/09x0r"\n')
    places["bad_row"].write_text('# a\n# b\n# c\nAAAAAAAAAAA, zero, 10.000, "/m/09x0r"\n')
    places["unknown_class"].write_text("path,mid\nclip 0.wav,/m/nothing\n")
    arguments, expected = WRONG[case]
    arguments = tuple(argument.format(**places) for argument in arguments)
    if arguments[0] == "pack":
        arguments += ("--split", "weak") + (() if "--dataset" in arguments else ("--dataset", str(tmp_path / "d")))
    elif arguments[0] == "label":
        arguments += ("--split", "weak", "--dataset", str(dataset))
    done = command(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr


def test_help_of_every_command_fits_a_screen_and_shows_an_example() -> None:
    names = ("demo", "pack", "label", "merge", "teachers", "report", "verify", "info")
    overview = command("--help").stdout
    for name in names:
        assert f"    {name} " in overview
        shown = command(name, "--help").stdout
        assert f"sed-distill {name} " in shown.split("example:")[1]
        assert len(shown.splitlines()) <= 48
