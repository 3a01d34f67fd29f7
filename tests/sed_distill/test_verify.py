"""`sed-distill verify` as it is typed: lines, JSON, exit codes, and what stderr says."""

import json
import os
from pathlib import Path

import pytest

from sed_distill import _verify
from sed_distill.cli import main
from shards import read_audio_sidecar
from tests.shards.dataset_examples import SPEC, write_dataset


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path / "data").root


def test_a_whole_dataset(root, capsys):
    for options in ([], ["--quick"], ["--no-decode"], ["--workers", "1"]):
        assert main(["verify", str(root), *options]) == 0
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"{root}: 8 shards, 25 clips in ")
        assert err.endswith("; no problems\n")
        assert ("MB/s" in err) == (options != ["--quick"])
    assert main(["verify", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_problems_are_lines_or_json(root, capsys):
    sidecar = read_audio_sidecar(root / "weak" / "audio" / SPEC.name / "000000.json")
    content = bytearray(sidecar.tar_path.read_bytes())
    content[sidecar.clips.offset[1]] ^= 1
    sidecar.tar_path.write_bytes(content)
    (root / "weak" / "hard.parquet").unlink()
    assert main(["verify", str(root)]) == 1
    out, err = capsys.readouterr()
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[:3] for line in lines] == [
        [str(root / "weak" / "hard.parquet"), "-", "hard"],
        [str(sidecar.tar_path), "bb_30000", "checksum"],
    ]
    assert "2 problems (checksum 1, hard 1): sed-distill repair" in err
    assert main(["verify", str(root), "--json"]) == 1
    listed = json.loads(capsys.readouterr().out)
    as_lines = [[entry["shard"], entry["key"] or "-", entry["kind"], entry["detail"]] for entry in listed]
    assert as_lines == lines
    assert main(["verify", str(root), "--no-decode"]) == 1
    assert capsys.readouterr().out == out
    assert main(["verify", str(root), "--quick"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_how_far_it_is(root, capsys, monkeypatch):
    monkeypatch.setattr(_verify, "_LOG_EVERY_S", 0.0)
    assert main(["verify", str(root)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 17
    assert lines[7].startswith("sidecars 8 of 8, ")
    assert lines[15].startswith("shards 8 of 8, ")
    assert lines[15].endswith(" MB/s")


@pytest.mark.parametrize("options", [["--quick", "--no-decode"], ["--workers", "many"]])
def test_wrong_use(root, options):
    with pytest.raises(SystemExit, match="2"):
        main(["verify", str(root), *options])


def test_errors_are_one_line(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert main(["verify", str(tmp_path), "--workers", "0"]) == 2
    assert "is not a dataset" in capsys.readouterr().err


def test_quick_is_not_for_a_cluster(root, capsys):
    for command in ("verify", "repair"):
        assert main([command, str(root), "--quick", "--executor", "ray"]) == 2
        assert "--quick reads no tar" in capsys.readouterr().err


def test_a_path_that_is_not_utf8(root, capsys):
    other = Path(os.fsdecode(os.fsencode(root) + b"\xff"))
    root.rename(other)
    (other / "weak" / "hard.parquet").unlink()
    assert main(["verify", str(other)]) == 1
    assert capsys.readouterr().out.encode().startswith(f"{root}\\udcff/weak/hard.parquet\t-\thard".encode())
