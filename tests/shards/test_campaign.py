"""Every fault that is put into a small dataset is found; nothing is found in a whole one, however it is stored.

`make campaign CAMPAIGN=10000` injects 10,000; `python -m tests.shards.campaign --seed N` repeats one.
"""

import os
import shutil
import time

import pytest

from jobs import run_stage, transcode_stages
from shards import Dataset, verify
from tests.shards import campaign as fault_campaign
from tests.shards.faults import Whole
from tests.shards.varied_dataset import MONO, write_varied

SLICE = 200


@pytest.mark.campaign
def test_every_fault_is_found(campaign, capsys):
    outcomes = fault_campaign.run(range(campaign or SLICE), (os.cpu_count() or 1) if campaign else 1)
    if campaign:
        with capsys.disabled():
            print(f"\n{fault_campaign.table(outcomes)}")
    assert [outcome for outcome in outcomes if not outcome.found] == []
    assert [outcome for outcome in outcomes if not outcome.named] == []


def test_a_fault_is_a_function_of_its_seed_and_is_taken_out_again(tmp_path):
    whole = Whole(write_varied(tmp_path / "data"))
    kinds = set()
    for seed in range(150):
        kind, fault = fault_campaign.draw(seed, whole)
        assert (kind, fault) == fault_campaign.draw(seed, whole)
        kinds.add(kind)
        whole.apply(fault)
        whole.restore(fault)
    assert Whole(Dataset(whole.root)).files == whole.files
    assert verify(whole.root) == ()
    assert kinds == set(fault_campaign.FAULTS)


@pytest.mark.parametrize("act", [lambda: time.sleep(30), lambda: {}["x"]], ids=["hangs", "raises"])
def test_a_verify_that_gives_no_answer_has_missed_the_fault(monkeypatch, tmp_path, act):
    monkeypatch.setattr(fault_campaign, "PATIENCE_S", 1)
    monkeypatch.setattr(fault_campaign, "verify", lambda *arguments, **options: act())
    whole = Whole(write_varied(tmp_path / "data"))
    outcome = fault_campaign.inject(0, whole)
    assert not outcome.found
    assert "Hangs" in outcome.says or "KeyError" in outcome.says
    assert Whole(Dataset(whole.root)).files == whole.files


def test_a_missed_fault_is_told(monkeypatch, capsys):
    monkeypatch.setattr(fault_campaign, "verify", lambda *arguments, **options: ())
    assert fault_campaign.main(["--faults", "2", "--processes", "0"]) == 1
    told = capsys.readouterr().out
    assert "2 faults, 2 missed" in told
    assert "seed 1: " in told
    assert fault_campaign.main(["--seed", "1"]) == 1
    assert "finds nothing" in capsys.readouterr().out


@pytest.mark.parametrize(("codec", "clips_per_shard"), [("fast", None), ("pcm16", 2), ("flac", 5)])
def test_nothing_is_found_in_a_transcoded_or_resharded_copy(tmp_path, codec, clips_per_shard):
    source = write_varied(tmp_path / "data")
    stages = transcode_stages(dataset=source.root, out=tmp_path / "copy", codec=codec, clips_per_shard=clips_per_shard)
    for stage in stages:
        assert run_stage(stage, executor="local", progress=False).exit_code == 0
    for root in (tmp_path / "copy", shutil.copytree(source.root, tmp_path / "copied")):
        assert verify(root) == verify(root, quick=True) == ()
    shards = Dataset(tmp_path / "copy").audio_shards("weak", MONO.name)
    assert {sidecar.codec for sidecar in shards} == {codec}
    assert len(shards) == (3 if clips_per_shard is None else -(-9 // clips_per_shard))
