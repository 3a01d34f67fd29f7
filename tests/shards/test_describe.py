"""What `info` prints: every figure against what was written, and every cause for attention with its remedy."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import AudioSpec, FormatError, UsageError
from shards import AudioShardWriter, Dataset, LabelShardWriter, describe
from tests.shards.dataset_examples import LONG_KEY, SPEC, TARGET, clip_pcm, write_audio, write_dataset, write_labels


def section(text: str, title: str) -> list[str]:
    """The lines below a title, as far as they are indented deeper; folded ones joined again."""
    lines = text.splitlines()
    start = lines.index(title)
    depth = len(title) - len(title.lstrip())
    own: list[str] = []
    for line in lines[start + 1 :]:
        indent = len(line) - len(line.lstrip())
        if indent <= depth:
            break
        if indent > depth + 2:
            own[-1] += f" {line.strip()}"
        else:
            own.append(line.strip())
    return own


def test_one_screen(tmp_path):
    dataset = write_dataset(tmp_path / ("deep" * 30))
    text = describe(dataset.root)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert len(text.splitlines()) <= 40
    assert "".join(text.splitlines()[:4]).replace(" ", "").startswith(str(dataset.root))
    assert "format version 1, keys path" in text
    assert "weak: 8 clips in hard.parquet, 8 with weak and 0 with strong labels" in text
    keys = ["aa_0", "bb_30000", "cc_0", LONG_KEY, "dd_0", "ee_0", "ff_0"]
    hours = sum(len(clip_pcm(key)) for key in keys) / SPEC.sample_rate / 3600
    tars = [sidecar.tar_bytes for sidecar in dataset.audio_shards("weak", SPEC.name)]
    stored = sum(sum(sidecar.clips.length) for sidecar in dataset.audio_shards("weak", SPEC.name))
    assert section(text, f"  audio {SPEC.name}") == [
        f"7 clips, {hours:.2f} h, flac, 2 shards, {sum(tars) / 1e6:.1f} MB, {stored // 7:,} B a clip",
        "1 rejected: damaged 1",
    ]
    lengths = sum(sum(sidecar.clips.length) for sidecar in dataset.label_shards("weak", "frames"))
    assert section(text, "  labels frames") == [
        f"6 of 7 clips (85.7%), master, 2 shards, 0.0 MB, {lengths // 6:,} B a clip",
        "1 failed: not_finite 1",
        "logit [class, time] = [3, 25], hop 40 ms, context 1000 ms",
        f"3 classes (sha256 {TARGET.vocabulary.sha256[:12]}), made by example",
    ]
    assert section(text, "  labels other")[0].startswith("7 of 7 clips (100.0%)")
    assert "!" not in text


def test_parts_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="is not a dataset"):
        describe(tmp_path)
    dataset = Dataset.create(tmp_path, keys="path")
    assert describe(tmp_path).splitlines()[-1] == "format version 1, keys path"
    write_audio(dataset.audio_folder("eval", SPEC.name), 0, [], rejected=["rr_0"])
    dataset.labels_folder("eval", "empty").mkdir(parents=True)
    text = describe(tmp_path)
    assert "eval: no hard labels" in text
    assert section(text, f"  audio {SPEC.name}") == ["0 clips, 0.00 h, flac, 1 shard, 0.0 MB", "1 rejected: damaged 1"]
    assert section(text, "  labels empty") == ["no committed shards"]


def test_labels_of_audio_that_is_elsewhere(tmp_path):
    dataset = write_dataset(tmp_path)
    shutil.rmtree(tmp_path / "strong" / "audio")
    (tmp_path / "strong" / "hard.parquet").write_bytes(b"")
    text = describe(tmp_path)
    assert "strong: hard labels cannot be read; run `sed-distill verify`" in text
    assert dataset.label_sets("strong") == ("frames",)
    told = section(text[text.index("strong:") :], "  labels frames")
    assert told[0].startswith("2 labels, no audio beside them, master, 1 shard,")
    assert f"made from {SPEC.name}, which is not stored here" in told


def test_labels_of_a_part_of_other_audio_and_of_other_clips(tmp_path):
    dataset = write_dataset(tmp_path)
    folder, labels = dataset.audio_folder("weak", SPEC.name), dataset.labels_folder("weak", "part")
    other = write_audio(tmp_path / "other", 0, ["aa_0", "yy_0", "zz_0"])
    write_labels(labels, other)
    told = section(describe(tmp_path), "  labels part")
    assert told[0].startswith("1 of 7 clips (14.3%)")
    assert "! 6 clips without a label; give the command that labelled the rest again" in told
    assert "2 labels more, of clips that are not stored here" in told
    with AudioShardWriter(folder, 1, spec=SPEC, provenance={}) as writer:
        writer.add("aa_1", np.ones(400, np.int16), origin="pcm")
        writer.commit()
    (labels / "000000.json").unlink()
    with AudioShardWriter(tmp_path / "different", 0, spec=SPEC, provenance={}) as writer:
        writer.add("bb_30000", np.ones(400, np.int16), origin="pcm")
        write_labels(labels, writer.commit())
    told = section(describe(tmp_path), "  labels part")
    assert "! 1 labels are of other audio than is stored; label the split again" in told


def test_what_needs_attention_says_what_to_do(tmp_path):
    dataset = write_dataset(tmp_path)
    folder, labels = dataset.audio_folder("weak", SPEC.name), dataset.labels_folder("weak", "frames")
    (folder / "000001.json").unlink()
    (labels / "000000.tar").write_bytes(b"")
    (labels / "000001.tar").unlink()
    write_audio(folder, 4, ["aa_0"])
    write_audio(folder, 5, ["bb_0"], spec=AudioSpec(sample_rate=16_000, clip_ms=1_000))
    text = describe(tmp_path)
    assert max(len(line) for line in text.splitlines()) <= 80
    audio = section(text, f"  audio {SPEC.name}")
    assert "! 2 of the 8 clips wanted are not packed; give the pack command again" in audio
    assert "! 000001.tar: written but not committed; give the command that wrote it again" in audio
    assert "! clip aa_0 is in two shards; run `sed-distill verify`" in audio
    assert "! shards differ in their spec; run `sed-distill verify`" in audio
    wrong = "! 000000.tar and 1 more: missing or of another size than its sidecar states; run `sed-distill verify`"
    assert wrong in section(text, "  labels frames")
    (tmp_path / "quarantine" / "weak").mkdir(parents=True)
    (tmp_path / "quarantine" / "weak" / "000000.tar").write_bytes(b"")
    assert "! 1 file aside in quarantine/; `sed-distill verify` says what is missing" in describe(tmp_path)


def test_a_damaged_sidecar_is_named(tmp_path):
    dataset = write_dataset(tmp_path)
    (dataset.audio_folder("weak", SPEC.name) / "000001.json").write_bytes(b"{}")
    with pytest.raises(FormatError, match=r"000001\.json"):
        describe(tmp_path)


@pytest.mark.parametrize(
    ("provenance", "told"),
    [
        ({"teacher": {"checkpoint_sha256": 5}}, "made by unknown 5"),
        ({"teacher": {"family": ["a"], "checkpoint_sha256": {"b": 1}}}, 'made by ["a"] {"b":1}'),
        ({"teacher": "\x1b[2J\nnext"}, r"made by \x1b[2J\nnext"),
        ({"teacher": [1, None]}, "made by [1,null]"),
        ({"teacher": 5}, "made by 5"),
        ({"teacher": {"family": "\x9b2J"}}, r"made by \x9b2J"),
        ({"stage": "\x1b", "format": {"x": "\u202e"}}, r'made by \x1b of {"x":"\u202e"}'),
    ],
)
def test_provenance_may_be_any_json(tmp_path, provenance, told):
    dataset = Dataset.create(tmp_path, keys="path")
    audio = write_audio(dataset.audio_folder("weak", SPEC.name), 0, [])
    with LabelShardWriter(dataset.labels_folder("weak", "set"), audio, target=TARGET, provenance=provenance) as writer:
        writer.commit()
    text = describe(tmp_path)
    assert section(text, "  labels set")[-1].endswith(f", {told}")
    assert text.replace("\n", "").isprintable()


def test_a_dataset_whose_path_is_not_utf8(tmp_path):
    dataset = write_dataset(Path(os.fsdecode(os.fsencode(tmp_path) + b"/da\xffta")))
    text = describe(dataset.root)
    assert "".join(text.encode().decode().split()).startswith(f"{tmp_path}/da\\udcffta")
    assert "weak: 8 clips in hard.parquet" in text
    assert (dataset.audio_folder("weak", SPEC.name) / "index.arrow").is_file()


def test_pipes_are_not_waited_on(tmp_path):
    dataset = write_dataset(tmp_path / "data")
    folder = dataset.audio_folder("weak", SPEC.name)
    for path in (folder / "manifest.parquet", dataset.hard_path("weak")):
        path.unlink()
        os.mkfifo(path)
    assert "weak: hard labels cannot be read; run `sed-distill verify`" in describe(dataset.root)
    os.mkfifo(tmp_path / "pipe")
    (folder / "000001.json").unlink()
    (folder / "000001.json").symlink_to(tmp_path / "pipe")
    with pytest.raises(FormatError, match=r"000001\.json: cannot be read .*a pipe or a device"):
        describe(dataset.root)
