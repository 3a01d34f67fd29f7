"""Real recordings through every stage: each one is stored or rejected with a reason, none is lost on the way."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from jobs import pack_stage, run_stage
from pipeline import AudioSpec, read_hard
from shards import Dataset, read_manifest, verify
from teachers import LabellerChoice, label_stage
from teachers._choice import DEMO_CHECKPOINT


@pytest.mark.skipif(not DEMO_CHECKPOINT.is_file(), reason="the demo teacher's checkpoint is not in this checkout")
def test_labelled_recordings_are_all_accounted_for(shared: Path, tmp_path: Path) -> None:
    recordings = shared / "recordings"
    with (recordings / "labelled.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pack = pack_stage(
        dataset=tmp_path,
        split="weak",
        folder=recordings / "labelled",
        keys="path",
        weak_csv=recordings / "labelled.csv",
        long="split",
        clips_per_shard=50,
    )
    packed = run_stage(pack, executor="local", progress=False)
    dataset, spec = Dataset.open(tmp_path), AudioSpec().name
    manifest = read_manifest(dataset.audio_folder("weak", spec) / "manifest.parquet")
    assert {row.source[:3] for row in manifest} == {row["path"].rsplit("/", 1)[1][:3] for row in rows}
    assert len(manifest) == len(rows) + sum(row.start_ms > 0 for row in manifest) > len(rows)
    assert packed.exit_code == 0
    assert packed.clips == len(manifest) == packed.stored + sum(packed.rejected.values())
    stored = [key for shard in dataset.audio_shards("weak", spec) for key in shard.clips.key]
    rejected = [key for shard in dataset.audio_shards("weak", spec) for key in shard.rejected.key]
    assert Counter(stored + rejected) == Counter(row.key for row in manifest)

    stage = label_stage(dataset=tmp_path, split="weak", labels="demo", teacher=LabellerChoice.of("demo"))
    labelled = run_stage(stage, executor="local", progress=False)
    assert labelled.exit_code == 0
    assert labelled.clips == len(stored) == labelled.stored + sum(labelled.rejected.values())
    keys = [key for shard in dataset.label_shards("weak", "demo") for key in shard.clips.key]
    assert keys == stored
    hard = {row["key"]: row for row in read_hard(dataset.hard_path("weak")).to_pylist()}
    assert set(hard) == {row.key for row in manifest}
    assert all(row["weak_mids"] and not row["strong_annotated"] for row in hard.values())
    assert verify(tmp_path) == ()


@pytest.mark.parametrize(("folder", "reasons"), [("broken", {"unreadable", "truncated"}), ("tiny", {"too_short"})])
def test_bad_recordings_are_refused_with_their_reason_and_the_run_goes_on(
    shared: Path, tmp_path: Path, folder: str, reasons: set[str]
) -> None:
    recordings = shared / "recordings" / folder
    stage = pack_stage(dataset=tmp_path, split="weak", folder=recordings, keys="path")
    report = run_stage(stage, executor="local", progress=False)
    assert (report.stored, report.not_done, report.quarantined) == (0, 0, ())
    assert report.exit_code == 1, "nothing at all was stored"
    assert report.clips == sum(report.rejected.values()) == len(list(recordings.iterdir()))
    assert set(report.rejected) <= reasons
    assert all(rejection.detail for rejection in report.rejections)
    assert verify(tmp_path) == ()


def test_every_odd_format_is_stored(shared: Path, tmp_path: Path) -> None:
    recordings = shared / "recordings" / "formats"
    stage = pack_stage(dataset=tmp_path, split="weak", folder=recordings, keys="path")
    report = run_stage(stage, executor="local", progress=False)
    assert (report.stored, report.rejected) == (len(list(recordings.iterdir())), {})
    assert verify(tmp_path) == ()
