"""`sed-distill teachers`: the list, as a table and as JSON, and the precision check."""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jobs import run_command
from sed_distill._teachers import add_teachers_arguments, run_teachers
from teachers import RELEASES, PrecisionError
from tests.teachers.labelling_examples import tiny_beats


def teachers(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_teachers_arguments(parser)
    parsed = parser.parse_args([str(argument) for argument in arguments])
    return run_command(lambda: run_teachers(parsed))


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert teachers() == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines() if "  file  " not in line), "an address is in one piece"
    table = [line.split() for line in text.split("\n\n")[0].splitlines()]
    assert [row[0] for row in table[1:]] == [
        "beats=strong_1", "atst=strong_1", "fpasst=strong_1", "m2d=strong_1", "asit=strong_1", "beats=FILE", "demo",
    ]  # fmt: skip
    assert [row[-1] for row in table[1:]] == ["46.5", "45.8", "45.4", "46.3", "46.2", "-", "-"]
    words = " ".join(text.split())
    for release in RELEASES:
        for told in (release.page, release.licence, *release.checkpoints.values(), *release.trained_on):
            assert " ".join(told.split()) in words
        assert release.made_from_licence is None or f"its licence {release.made_from_licence}" in words


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert teachers("--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == len(RELEASES)
    for told, release in zip(listed, RELEASES, strict=True):
        assert set(told) == set(release.__dataclass_fields__)
        assert (told["family"], told["parameters"], told["psds1"]) == (
            release.family, release.parameters, release.psds1,
        )  # fmt: skip
        assert told["checkpoints"] == dict(release.checkpoints)
        assert told["contexts_ms"] == list(release.contexts_ms)


def test_the_check_on_generated_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = f"beats={tiny_beats(tmp_path / 'tiny.pt')}"
    code = teachers("--check", teacher, "--clips", "2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{teacher}, 2 clips"
    assert all(len(line) <= 80 for line in lines[1:])
    assert [line.split()[:2] for line in lines[2:6]] == [
        [labels, precision] for precision in ("bfloat16", "float16") for labels in ("frame", "clip")
    ]
    assert "largest <= 0.004" in " ".join(lines)
    assert teachers("--check", teacher, "--clips", "2", "--json") == code
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if all(error["fits"] for error in found) else 1)
    assert [[f"{error[name]:.1e}" for name in ("largest", "mean")] for error in found] == [
        [word.rstrip("*") for word in line.split()[2:4]] for line in lines[2:6]
    ]


def test_the_check_on_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 44_100 * 3)
    for name in ("a", "b", "d"):
        soundfile.write(folder / f"{name}.wav", noise, 44_100)
    (folder / "c.wav").write_bytes(b"not a recording")
    teacher = f"beats={tiny_beats(tmp_path / 'tiny.pt')}"
    options = ("--precision", "float16", "--json")
    assert teachers("--check", teacher, teacher, "--folder", folder, *options) == 0
    told = capsys.readouterr()
    assert "3 clips compared, 1 recordings left out" in told.err
    found = json.loads(told.out)
    assert [(error["target"], error["clips"]) for error in found] == [("frame", 3), ("clip", 3)] * 2
    assert teachers("--check", teacher, "--folder", folder, "--clips", "1", *options) == 0
    assert json.loads(capsys.readouterr().out)[0]["clips"] == 1


def test_a_precision_that_is_too_far_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    far = {
        "teacher": "demo",
        "precision": "float16",
        "target": "frame",
        "clips": 1,
        "at": "Outside, urban or manmade environment",
    }
    errors = [PrecisionError(**far, largest=0.01, mean=1e-5), PrecisionError(**far, largest=math.nan, mean=math.nan)]
    monkeypatch.setattr("teachers._precision.precision_errors", lambda *choice, **options: iter(errors))
    monkeypatch.setattr("teachers.precision_errors", lambda *choice, **options: iter(errors), raising=False)
    assert teachers("--check", "demo") == 1
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[2:6] for line in table[2:4]] == [
        ["1.0e-02*", "1.0e-05", "too", "far"], ["nan*", "nan*", "not", "finite"],
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in table)
    assert teachers("--check", "demo", "--json") == 1
    assert [error["largest"] for error in json.loads(capsys.readouterr().out)] == [0.01, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--clips", "3"), "--clips is for --check"),
        (("--folder", "x"), "--folder is for --check"),
        (("--precision", "float16"), "--precision is for --check"),
        (("--device", "cpu"), "--device is for --check"),
        (("--check", "demo", "--clips", "0"), "--clips is 0, needs at least 1"),
        (("--check", "demo", "--folder", "/absent"), "/absent is not a folder"),
        (("--check", "beats"), "--check is 'beats', needs FAMILY=CHECKPOINT"),
        (("--check", "demo", "--device", "gpu"), "device 'gpu' is not one of PyTorch's"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert teachers(*arguments) == 2
    assert message in capsys.readouterr().err
