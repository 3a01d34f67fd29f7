"""`import-labels` and `export-labels` as they are typed."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from sed_distill.cli import main
from shards import Dataset, read_commands, verify
from tests.shards.import_examples import Example, stored_labels, write_example


@pytest.fixture
def example(tmp_path: Path) -> Example:
    example = write_example(tmp_path / "data", clips=30)
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file.create_dataset("filenames", data=np.array([name.encode() for name in example.names]))
        file.create_dataset("strong_logits", data=example.logits)
    return example


def place(dataset: Dataset, labels: str) -> list[str]:
    return ["--dataset", str(dataset.root), "--split", "strong", "--labels", labels, "--format", "pretrained-sed"]


def test_there_and_back(example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import-labels", *place(example.dataset, "theirs"), "--file", str(tmp_path / "theirs.h5")]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "30 in the file, 30 of the 30 clips matched" in told
    assert "agreement with hard labels: AUC" in told
    assert "lag against the strong hard labels: " in told
    assert "values (logit): -" in told
    assert told.splitlines()[-1] == "import-labels: 3 shards (3 now); 30 clips = 30 stored + 0 without label"
    assert main(command) == 0
    assert "3 shards (0 now)" in capsys.readouterr().out
    assert (example.dataset.labels_folder("strong", "theirs") / "import.json").is_file()
    assert not verify(example.dataset.root)

    back = ["export-labels", *place(example.dataset, "theirs"), "--out", str(tmp_path / "ours.h5")]
    assert main(back) == 0
    assert capsys.readouterr().out == "export-labels: 30 clips = 30 exported + 0 without label\n"
    assert main(back) == 2
    assert "exists already" in capsys.readouterr().err
    with h5py.File(tmp_path / "ours.h5") as ours:
        assert len(ours["filenames"]) == 30


def test_a_small_codec_and_the_recorded_command(example: Example, tmp_path: Path) -> None:
    command = [*place(example.dataset, "small"), "--file", str(tmp_path / "theirs.h5"), "--codec", "faithful"]
    assert main(["import-labels", *command]) == 0
    folder = example.dataset.labels_folder("strong", "small")
    assert {side.codec for side in example.dataset.label_shards("strong", "small")} == {"faithful"}
    before = (folder / "000001.json").read_bytes()
    (folder / "000001.json").unlink()
    (folder / "000001.tar").unlink()
    (recorded,) = read_commands(folder)
    assert recorded.shards == (0, 1, 2)
    assert main(recorded.arguments) == 0
    assert (folder / "000001.json").read_bytes() == before
    stored = stored_labels(example.dataset, "strong", "small")
    probability = [1 / (1 + np.exp(-part.astype(np.float64))) for part in (stored[example.keys[3]], example.logits[3])]
    assert np.abs(probability[0] - probability[1]).max() < 0.01


def test_what_is_wrong_is_one_line_and_exit_code_2(
    example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ["--file", str(tmp_path / "theirs.h5")]
    for options in (
        ["--tail", "zero"],
        ["--chunk-s", "2"],
        ["--index", "a.csv"],
        ["--reference", "none"],
        ["--augmented"],
        ["--tail", "zero", "--chunk-s", "nan"],
        ["--tail", "zero", "--chunk-s", "inf"],
        ["--tail", "zero", "--chunk-s", "1e307"],
    ):
        assert main(["import-labels", *place(example.dataset, "x"), *file, *options]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    sat = [*place(example.dataset, "x")[:-1], "sat", *file, "--tail", "zero"]
    assert main(["import-labels", *sat]) == 2
    assert capsys.readouterr().err.startswith("error: --format sat needs --chunk-s: ")
    assert main(["import-labels", *place(example.dataset, "x"), "--file", str(tmp_path / "none.h5")]) == 2
    assert not example.dataset.label_shards("strong", "x")
