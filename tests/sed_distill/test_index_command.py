"""`sed-distill index` and `info` as a user gives them."""

from pathlib import Path

import pytest

from sed_distill.cli import main
from shards import open_index
from shards._index_file import INDEX_NAME
from tests.shards.dataset_examples import SPEC, write_dataset


def test_index_makes_every_index_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path)
    assert main(["index", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(", ", 1)[0] for line in lines] == [
        f"weak/audio/{SPEC.name}: 7 clips, 2 shards",
        "weak/labels/frames: 7 clips, 2 shards",
        "weak/labels/other: 7 clips, 2 shards",
        f"strong/audio/{SPEC.name}: 2 clips, 1 shards",
        "strong/labels/frames: 2 clips, 1 shards",
    ]
    assert len(list(tmp_path.rglob(INDEX_NAME))) == 5
    assert open_index(dataset.labels_folder("weak", "other"), "labels").rows_of(["cc_0"]).tolist() == [2]


def test_an_index_that_cannot_be_stored_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_dataset(tmp_path)
    (dataset.audio_folder("weak", SPEC.name) / INDEX_NAME).mkdir()
    assert main(["index", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[0].endswith("; cannot be stored there")
    assert main(["info", str(tmp_path)]) == 0
    assert "7 clips" in capsys.readouterr().out


def test_no_dataset_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("index", "info"):
        assert main([command, str(tmp_path)]) == 2
        assert "is not a dataset" in capsys.readouterr().err
