"""Real recordings: labelled as they are, the labels attached to mp3 copies of half of them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jobs import pack_stage, run_stage
from pipeline import AudioSpec, clip_from_file
from shards import Dataset, LabelShardWriter, verify
from tests.shards.attach_examples import MADE, SPEC, TARGET, attach, label_of, stored_labels

Labelled = tuple[Path, dict[str, Path]]


@pytest.fixture(scope="module")
def labelled(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """The folder of a label set, and the recordings that were labelled, under names as YouTube would give them."""
    recordings = sorted((shared / "recordings" / "labelled").iterdir())
    names = {f"{number:011d}": path for number, path in enumerate(recordings)}
    dataset = packed(tmp_path_factory.mktemp("originals"), names, clips_per_shard=50)
    folder = dataset.labels_folder("weak", "teacher")
    for audio in dataset.audio_shards("weak", SPEC.name):
        with LabelShardWriter(folder, audio, target=TARGET, provenance=MADE) as writer:
            for key in audio.clips.key:
                writer.add(key, label_of(key))
            writer.commit()
    return folder, names


def packed(root: Path, names: Mapping[str, Path], *, clips_per_shard: int) -> Dataset:
    """AudioSet keys: an original and its mp3 copy have the same one, whatever their suffix."""
    folder = root / "recordings"
    folder.mkdir()
    rows = ["# a\n# b\n# YTID, start_seconds, end_seconds, positive_labels\n"]
    for name, path in names.items():
        (folder / f"Y{name}{path.suffix}").symlink_to(path)
        end_s = clip_from_file(path, spec=SPEC).samples / SPEC.sample_rate
        rows.append(f'{name}, 0.000, {end_s:.3f}, "/m/09x0r"\n')
    weak_csv = root / "weak.csv"
    weak_csv.write_text("".join(rows))
    stage = pack_stage(
        dataset=root / "data", split="weak", folder=folder, weak_csv=weak_csv, clips_per_shard=clips_per_shard
    )
    report = run_stage(stage, executor="local", progress=False)
    assert report.exit_code == 0
    return Dataset.open(root / "data")


def mp3_of_half(names: Mapping[str, Path], folder: Path, *, later_ms: int = 0) -> dict[str, Path]:
    copies = {}
    for name, path in list(names.items())[::2]:
        clip = clip_from_file(path, spec=AudioSpec()).pcm
        copies[name] = folder / f"{name}.mp3"
        later = np.pad(clip, (16 * later_ms, 0))
        soundfile.write(copies[name], later, 16_000, format="MP3", subtype="MPEG_LAYER_III")
    return copies


def test_a_partial_copy_in_mp3(labelled: Labelled, tmp_path: Path) -> None:
    source, names = labelled
    dataset = packed(tmp_path, mp3_of_half(names, tmp_path), clips_per_shard=30)
    report = attach(dataset, source)
    assert (report.refused, report.problem) == ((), "")
    assert report.attached == report.clips >= 60
    assert report.counts["same_decode"] == 0
    assert report.counts["confirmed"] >= 0.9 * report.clips
    assert report.clips + report.extra == len(names)
    published = stored_labels(Dataset(source.parents[2]))
    assert stored_labels(dataset) == {key: published[key] for key in stored_labels(dataset)}
    assert not verify(dataset.root)


def test_a_copy_shifted_by_80_ms(labelled: Labelled, tmp_path: Path) -> None:
    source, names = labelled
    dataset = packed(tmp_path, mp3_of_half(names, tmp_path, later_ms=80), clips_per_shard=30)
    report = attach(dataset, source)
    assert report.problem
    told = {key: detail for key, reason, detail in report.refused if reason == "audio_shifted"}
    assert set(told.values()) == {"has its sound 80 ms later than the audio that was labelled"}
    assert len(told) >= 0.9 * report.clips
    # What is left are clips whose sound cannot tell; their length does, where the shift did not push the end past 10 s.
    assert report.attached <= 2
    assert report.attached + len(report.refused) == report.clips
    assert not dataset.labels_folder("weak", "teacher").exists()
