"""The labelling benchmark labels what it says, and its parts print their tables. Figures are not looked at."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks import labelling
from benchmarks.random_teachers import FAMILIES, random_teacher
from shards import Dataset, verify


def test_a_run_labels_every_clip_and_says_where_the_time_went(tmp_path: Path) -> None:
    setting = labelling.Setting(
        device=torch.device("cpu"), precision="float32", clips=(3, 4, 2), compile=False, batch_size=None, threads=2
    )
    labelling.write_clips(tmp_path, setting.clips, seconds=1.0)
    got = labelling.labelled(setting, tmp_path, ("small",))
    assert (got.clips, got.batch_size) == (6, 4), "the first shard is for warming up"
    assert got.clips_per_s > 0
    assert (
        {"read", "decode", "wait", "device", "encode", "write", "commit"} <= set(got.seconds) <= set(labelling._STEPS)
    )
    assert sum(len(shard.clips) for shard in Dataset.open(tmp_path).label_shards("weak", "small")) == 9
    assert [problem.kind for problem in verify(tmp_path)] == ["hard"], "nobody listened to them"


def test_memory_is_printed_as_clips_are_labelled(capsys: pytest.CaptureFixture[str]) -> None:
    labelling.main(["--memory", "--clips", "12", "--device", "cpu"])
    assert re.search(r"^\| 12 \| \d+ \|$", capsys.readouterr().out, re.M)


@pytest.mark.parametrize("name", FAMILIES)
def test_random_teachers_are_full_size(name: str) -> None:
    teacher = random_teacher(name, 1, torch.device("cpu"))
    parameters = sum(parameter.numel() for parameter in teacher.model.parameters())
    assert 85e6 < parameters < 92e6
    assert teacher.provenance["family"] == name
