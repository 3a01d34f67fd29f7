"""What `info` prints: every figure against what was written."""

import shutil

import pytest

from pipeline import FormatError, UsageError
from shards import Dataset, describe
from tests.shards.dataset_examples import LONG_KEY, SPEC, TARGET, clip_pcm, write_audio, write_dataset


def section(text: str, title: str) -> list[str]:
    """The lines below a title, as far as they are indented deeper."""
    lines = text.splitlines()
    start = lines.index(title)
    depth = len(title) - len(title.lstrip())
    own = []
    for line in lines[start + 1 :]:
        if len(line) - len(line.lstrip()) <= depth:
            break
        own.append(line.strip())
    return own


def test_one_screen(tmp_path):
    dataset = write_dataset(tmp_path / ("deep" * 30))
    text = describe(dataset.root)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert len(text.splitlines()) <= 40
    assert "format 0, keys audioset" in text
    assert "weak: 8 clips in hard.parquet, 8 with weak and 0 with strong labels" in text
    keys = ["aa_0", "bb_30000", "cc_0", LONG_KEY, "dd_0", "ee_0", "ff_0"]
    hours = sum(len(clip_pcm(key)) for key in keys) / SPEC.sample_rate / 3600
    tars = [sidecar.tar_bytes for sidecar in dataset.audio_shards("weak", SPEC.name)]
    stored = sum(sum(sidecar.clips.length) for sidecar in dataset.audio_shards("weak", SPEC.name))
    assert section(text, f"  audio {SPEC.name}") == [
        f"7 clips, {hours:.2f} h, 2 shards, {sum(tars) / 1e6:.1f} MB, {stored // 7:,} B a clip",
        "1 rejected: damaged 1",
    ]
    frames = section(text, "  labels frames")
    assert frames[0].startswith("6 of 7 clips (85.7%), 2 shards, ")
    assert frames[1:] == [
        "1 failed: not_finite 1",
        "logit [class, time] = [3, 25], hop 40 ms, context 1000 ms",
        f"vocabulary of 3 classes, sha256 {TARGET.vocabulary.sha256[:12]}",
        "teacher example",
    ]
    assert section(text, "  labels other")[0].startswith("7 of 7 clips (100.0%)")


def test_parts_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="is not a dataset"):
        describe(tmp_path)
    dataset = Dataset.create(tmp_path, keys="path")
    assert describe(tmp_path).splitlines()[1:] == ["format 0, keys path"]
    write_audio(dataset.audio_folder("eval", SPEC.name), 0, [], rejected=["rr_0"])
    dataset.labels_folder("eval", "empty").mkdir(parents=True)
    text = describe(tmp_path)
    assert "eval: no hard labels" in text
    assert section(text, f"  audio {SPEC.name}") == ["0 clips, 0.00 h, 1 shards, 0.0 MB", "1 rejected: damaged 1"]
    assert section(text, "  labels empty") == ["no committed shards"]


def test_labels_of_audio_that_is_elsewhere(tmp_path):
    dataset = write_dataset(tmp_path)
    shutil.rmtree(tmp_path / "strong" / "audio")
    (tmp_path / "strong" / "hard.parquet").write_bytes(b"")
    text = describe(tmp_path)
    assert "strong: hard labels cannot be read; run verify" in text
    assert dataset.label_sets("strong") == ("frames",)
    assert "2 of 0 clips, 1 shards" in text


def test_a_damaged_sidecar_is_named(tmp_path):
    dataset = write_dataset(tmp_path)
    (dataset.audio_folder("weak", SPEC.name) / "000001.json").write_bytes(b"{}")
    with pytest.raises(FormatError, match=r"000001\.json"):
        describe(tmp_path)
