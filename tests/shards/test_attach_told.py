"""What `attach` says where it writes nothing, or not everything: it names the cause, and no more than fits a screen."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import UsageError
from sed_distill.cli import main
from shards import ATTACH_REPORT_NAME, Dataset, verify
from tests.shards.attach_examples import (
    FAILED,
    KEYS,
    SPEC,
    Pcm,
    attach,
    make_originals,
    member_of,
    publish,
    stored_labels,
    write_audio,
)


@pytest.fixture(scope="module")
def originals() -> dict[str, Pcm]:
    return make_originals()


@pytest.fixture(scope="module")
def published(originals: dict[str, Pcm], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("lab"), originals)


@pytest.fixture(scope="module")
def late(originals: dict[str, Pcm], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eleven clips with their sound 80 ms later, the one that the labeller failed on, and one of no set."""
    clips = {key: np.pad(originals[key], (1280, 0))[:160_000] for key in KEYS[:11]}
    clips |= {FAILED: originals[FAILED], "stranger_0": originals[KEYS[0]]}
    return write_audio(tmp_path_factory.mktemp("late") / "copy", clips, clips_per_shard=5)


def command(dataset: Dataset, source: Path, *options: str) -> list[str]:
    place = ["--dataset", str(dataset.root), "--split", "weak", "--labels", "told"]
    return ["attach", "--from", str(source), *place, *options]


@pytest.mark.parametrize("max_refused", [0, 100])
def test_all_refused_is_not_nothing_in_common(late: Dataset, published: Path, max_refused: int) -> None:
    problem = attach(late, published, max_refused=max_refused).problem
    assert problem.startswith(
        "no clip of the set that is stored here gets a label, 11 refused, 1 that its labeller failed on: "
        "the set was made from other audio, or from audio cut elsewhere"
    )
    assert "--max-refused" not in problem  # of no use where no label is left


def test_only_clips_that_the_labeller_failed_on(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    dataset = write_audio(tmp_path / "copy", {FAILED: originals[FAILED]}, clips_per_shard=4)
    assert attach(dataset, published).problem.startswith("its labeller failed on every clip of the set")


def test_ten_are_named_and_the_report_has_all(
    late: Dataset, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert main(command(late, published, "--report", str(report))) == 1
    told = capsys.readouterr().out.splitlines()
    refused = [line for line in told if line.startswith("refused ")]
    assert len(refused) == 11
    assert refused[10] == "refused 1 more; --report FILE names all 11"
    kept = json.loads(report.read_text())
    assert sorted(key for key, _, _ in kept["refused"]) == sorted(KEYS[:11])
    assert told[-1] == f"attach: nothing written: {kept['problem']}"
    for wrong in (tmp_path / "none" / "report.json", tmp_path):
        assert main(command(late, published, "--report", str(wrong))) == 2
        assert f"--report {wrong}: cannot be written there" in capsys.readouterr().err


def test_where_it_writes_attach_json_has_all(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    clips = {key: np.pad(originals[key], (1280, 0))[:160_000] for key in KEYS[1:]} | {KEYS[0]: originals[KEYS[0]]}
    clips[FAILED] = originals[FAILED]
    clips["silence_0"] = originals[KEYS[0]]
    dataset = write_audio(tmp_path / "copy", clips, clips_per_shard=20)
    report = attach(dataset, published, max_refused=11)
    assert (len(report.refused), report.problem) == (11, "")
    assert "refused 1 more; attach.json beside the shards names all 11" in report.lines()
    kept = json.loads((dataset.labels_folder("weak", "teacher") / ATTACH_REPORT_NAME).read_text())
    assert len(kept["refused"]) == 11


@pytest.mark.parametrize(
    ("gone", "lacks", "told"),
    [
        (("000001.json", "000001.tar"), ((1, 1),), "! shard 000001 is not whole in "),
        (("000001.json",), ((1, 1),), "! shard 000001 is not whole in "),
        (("000002.json",), ((2, 2),), "! shard 000002 is not whole in "),
        (("000000.json", "000001.json"), ((0, 1),), "! shards 000000 to 000001 are not whole in "),
        (("000000.json", "000002.json"), ((0, 0), (2, 2)), "! shards 000000, 000002 are not whole in "),
    ],
)
def test_a_set_that_is_downloaded_in_part(
    originals: dict[str, Pcm],
    published: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    gone: tuple[str, ...],
    lacks: tuple[tuple[int, int], ...],
    told: str,
) -> None:
    part = tmp_path / "part"
    shutil.copytree(published, part, ignore=shutil.ignore_patterns(*gone))
    dataset = write_audio(tmp_path / "copy", originals, clips_per_shard=20)
    assert attach(dataset, part).lacks == lacks
    assert main(command(dataset, part)) == 1
    assert f"{told}{part}: download the rest and attach again" in capsys.readouterr().out.splitlines()
    for name in gone:
        shutil.copy(published / name, part)
    assert main(command(dataset, part)) == 0
    assert "! " not in capsys.readouterr().out
    attach(dataset, part)
    assert stored_labels(dataset) == {key: None if key == FAILED else member_of(key) for key in originals}
    assert not verify(dataset.root)


def test_a_part_that_has_all_the_clips_is_enough(
    originals: dict[str, Pcm], published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    shutil.copytree(published, part, ignore=shutil.ignore_patterns("000000.*"))
    clips = {key: originals[key] for key in KEYS[5:7]}
    assert main(command(write_audio(tmp_path / "copy", clips, clips_per_shard=20), part)) == 0
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith("! shard 000000 is not whole") for line in told)
    assert told[-1] == "attach: 1 shard (1 now); 2 clips = 2 labelled + 0 without label"


def test_numbers_far_apart_are_told_in_short(originals: dict[str, Pcm], published: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(published, part)
    for number in range(100, 999_999, 50_000):
        (part / f"{number:06d}.tar").write_bytes(b"")
    (part / "999999.tar.json").write_bytes(b"")
    report = attach(write_audio(tmp_path / "copy", originals, clips_per_shard=20), part)
    assert report.lacks == ((3, 950_100),)


def test_what_is_no_label_set(late: Dataset, published: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"000000\.json: is an audio shard, not labels; give the folder of a label set"
    ):
        attach(late, late.audio_folder("weak", SPEC.name))
    with pytest.raises(UsageError, match=r"nope: is not there; check --from"):
        attach(late, tmp_path / "nope")
    with pytest.raises(UsageError, match="holds no label shard"):
        attach(late, tmp_path)
