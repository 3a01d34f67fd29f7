"""Copies in another codec: the same clips to the bit, the same label bytes, whatever happens on the way."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import StageReport, run_stage, transcode_stages
from jobs._transcode_labels import copy_label_shard
from jobs._transcode_plan import Span, assign
from pipeline import AudioSpec, FormatError, IntegrityError, UsageError
from sed_distill.cli import main
from shards import (
    AudioReader,
    AudioShardWriter,
    AudioSidecar,
    Dataset,
    LabelReader,
    LabelShardWriter,
    LabelSidecar,
    MixedLoader,
    Source,
    evaluation_batches,
    read_audio_sidecar,
    read_label_sidecar,
    read_manifest,
    rows_sha256,
    verify,
    write_manifest,
)
from shards._sidecar import sidecar_bytes
from shards.codecs import _audio_fast
from tests.jobs.transcode_killed import tree
from tests.shards.small_dataset import VOCABULARY, write_split
from tests.shards.varied_dataset import FOA, LABELS, MONO, PLAN, manifest_rows, write_audio_shard, write_varied

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_varied(tmp_path_factory.mktemp("varied")).root


@pytest.fixture
def source(varied: Path, tmp_path: Path) -> Path:
    """One to damage."""
    return Path(shutil.copytree(varied, tmp_path / "source"))


def copy(source: Path | str, out: Path, codec: str = "fast", **options: object) -> list[StageReport]:
    stages = transcode_stages(dataset=source, out=out, codec=codec, **options)
    return [run_stage(stage, executor="local", progress=False) for stage in stages]


def audio_shards(root: Path) -> list[AudioSidecar]:
    dataset = Dataset(root)
    folders = [(split, spec) for split in dataset.splits() for spec in dataset.audio_specs(split)]
    return [sidecar for split, spec in folders for sidecar in dataset.audio_shards(split, spec)]


def about_clips(root: Path) -> dict[tuple[str, str], tuple[object, ...]]:
    """(folder, key) -> decoded audio and every column that has nothing to do with where and how it is stored."""
    about = {}
    for sidecar in audio_shards(root):
        folder = str(sidecar.path.parent.relative_to(root))
        columns = dataclasses.asdict(sidecar.clips)
        with AudioReader(sidecar) as reader:
            for row, key in enumerate(sidecar.clips.key):
                same = {
                    name: column[row] for name, column in columns.items() if name not in ("offset", "length", "crc32c")
                }
                about[folder, key] = (reader.read(row).tobytes(), *same.values())
    return about


def rejected(root: Path) -> Counter[tuple[str, ...]]:
    return Counter(
        (str(sidecar.path.parent.relative_to(root)), *row)
        for sidecar in audio_shards(root)
        for row in zip(*dataclasses.astuple(sidecar.rejected), strict=True)
    )


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("codec", ["flac", "pcm16", "fast"])
@pytest.mark.parametrize("clips_per_shard", [None, 1, 3, 100])
def test_a_copy_is_the_dataset_in_another_codec(varied: Path, tmp_path: Path, codec: str, clips_per_shard: int) -> None:
    out = tmp_path / "copy"
    reports = copy(varied, out, codec, clips_per_shard=clips_per_shard)
    assert [report.exit_code for report in reports] == [0] * 8
    assert about_clips(out) == about_clips(varied)
    assert rejected(out) == rejected(varied)
    assert {sidecar.codec for sidecar in audio_shards(out)} == {codec}
    assert verify(out) == ()
    ours, theirs = tree(varied), tree(out)
    unchanged = {name for name in ours if "/audio/" not in name}
    assert {name: ours[name] for name in unchanged} == {name: theirs[name] for name in theirs if "/audio/" not in name}
    for split, spec in PLAN:
        manifests = [
            read_manifest(Dataset(root).audio_folder(split, spec.name) / "manifest.parquet") for root in (varied, out)
        ]
        assert [row._replace(shard=0) for row in manifests[0]] == [row._replace(shard=0) for row in manifests[1]]
        if clips_per_shard is None:
            assert manifests[0] == manifests[1]
        else:
            sizes = Counter(row.shard for row in manifests[1])
            assert list(sizes) == list(range(len(sizes)))
            assert all(size == clips_per_shard for size in list(sizes.values())[:-1])
    summary = json.loads((out / "weak" / "audio" / MONO.name / "report.json").read_text())
    assert (summary["stored"], summary["rejected"], summary["stage"]) == (
        8, {"damaged": 1}, f"transcode weak/{MONO.name}",
    )  # fmt: skip


def test_a_copy_of_a_copy_is_the_dataset_again(varied: Path, tmp_path: Path) -> None:
    copy(varied, tmp_path / "fast", clips_per_shard=3)
    copy(tmp_path / "fast", tmp_path / "flac", "flac", clips_per_shard=2)
    assert about_clips(tmp_path / "flac") == about_clips(varied)
    assert verify(tmp_path / "flac") == ()


def test_provenance_says_what_it_was_made_from(varied: Path, tmp_path: Path) -> None:
    copy(varied, tmp_path / "copy", clips_per_shard=3)
    (made,) = Dataset(tmp_path / "copy").audio_shards("weak", FOA.name)[:1]
    rows = read_manifest(made.path.parent / "manifest.parquet", shard=0)
    assert made.provenance == {
        "stage": "transcode",
        "stage_version": 1,
        "codec": "fast",
        "source": [{"stage": "pack", "codec": "pcm16"}],
        "manifest_sha256": rows_sha256(rows),
    }


@pytest.mark.parametrize("clips_per_shard", [None, 4])
def test_loaders_give_the_same_batches(tmp_path: Path, clips_per_shard: int | None) -> None:
    """Of shards without a manifest, as other programs write them."""
    dataset = Dataset.create(tmp_path / "source", keys="path")
    for split in ("weak", "strong", "dev"):
        write_split(dataset, split, 23, seed=5, fail=(3,))
    out = tmp_path / "copy"
    assert not any(report.exit_code for report in copy(dataset.root, out, clips_per_shard=clips_per_shard))
    assert [problem for problem in verify(out) if problem not in verify(dataset.root)] == []
    shards = {len(Dataset(root).audio_shards("weak", "mono-16000hz-10000ms")) for root in (dataset.root, out)}
    assert shards == ({4} if clips_per_shard is None else {4, 6})

    def batches(root: Path) -> list[dict[str, object]]:
        labels = ("frames", "clip")
        sources = [Source(root, split, share=share, labels=labels) for split, share in (("weak", 3), ("strong", 1))]
        loader = MixedLoader(sources, batch_size=8, vocabulary=VOCABULARY, seed=4, workers=0)
        found = list(loader) + list(evaluation_batches(root, "dev", 5, vocabulary=VOCABULARY, labels=labels, workers=0))
        return [dataclasses.asdict(batch) for batch in found]

    def assert_equal(ours: object, theirs: object) -> None:
        if isinstance(ours, dict) and isinstance(theirs, dict):
            assert ours.keys() == theirs.keys()
            for name in ours:
                assert_equal(ours[name], theirs[name])
        else:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))

    ours, theirs = batches(dataset.root), batches(out)
    assert len(ours) == len(theirs) > 5
    for one, other in zip(ours, theirs, strict=True):
        assert_equal(one, other)


def test_some_splits_and_specs(varied: Path, tmp_path: Path) -> None:
    copy(varied, tmp_path / "strong", splits=["strong"])
    assert Dataset(tmp_path / "strong").splits() == ("strong",)
    copy(varied, tmp_path / "foa", audio=[FOA.name])
    assert {(split, spec.name, name) for split, spec, name in LABELS if spec == FOA} == {
        (split, spec, name)
        for split in Dataset(tmp_path / "foa").splits()
        for spec in Dataset(tmp_path / "foa").audio_specs(split)
        for name in Dataset(tmp_path / "foa").label_sets(split)
    }
    for out in ("strong", "foa"):
        assert verify(tmp_path / out) == ()
    # What was left out can follow.
    copy(varied, tmp_path / "foa")
    assert about_clips(tmp_path / "foa") == about_clips(varied)


def test_again_does_nothing(varied: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    copy(varied, out, clips_per_shard=3)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != "report.json" and path.is_file()}
    reports = copy(varied, out, clips_per_shard=3)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != "report.json" and path.is_file()}
    assert after == before
    assert [report.shards_done_now for report in reports] == [0] * 8
    assert [report.exit_code for report in reports] == [0] * 8


@pytest.mark.parametrize("clips_per_shard", [None, 4])
def test_what_the_dataset_got_since_is_added(source: Path, tmp_path: Path, clips_per_shard: int | None) -> None:
    folder = Dataset(source).audio_folder("weak", MONO.name)
    whole = read_manifest(folder / "manifest.parquet")
    late = [folder / name for name in ("000002.json", "000002.tar")]
    kept = [path.read_bytes() for path in late]
    for path in late:
        path.unlink()
    for labels in ("frames", "soft", "tags"):
        for suffix in ("json", "tar"):
            (source / "weak" / "labels" / labels / f"000002.{suffix}").rename(tmp_path / f"{labels}.{suffix}")
    out = tmp_path / "copy"
    reports = copy(source, out, clips_per_shard=clips_per_shard)
    assert {report.stage: report.notes.get("not_yet_packed") for report in reports}[f"transcode weak/{MONO.name}"] == 2
    assert verify(out) == ()
    before = {name: content for name, content in tree(out).items() if name.endswith((".tar", ".json"))}
    for path, content in zip(late, kept, strict=True):
        path.write_bytes(content)
    for labels in ("frames", "soft", "tags"):
        for suffix in ("json", "tar"):
            (tmp_path / f"{labels}.{suffix}").rename(source / "weak" / "labels" / labels / f"000002.{suffix}")
    assert read_manifest(folder / "manifest.parquet") == whole
    copy(source, out, clips_per_shard=clips_per_shard)
    assert before.items() <= tree(out).items()
    assert about_clips(out) == about_clips(source)
    assert verify(out) == ()


def test_a_lost_manifest_and_lost_shards_are_written_again(varied: Path, tmp_path: Path) -> None:
    copy(varied, tmp_path / "copy", clips_per_shard=3)
    expected = tree(tmp_path / "copy")
    folder = tmp_path / "copy" / "weak" / "audio" / MONO.name
    for name in ("manifest.parquet", "000001.json", "000002.tar", "000002.json"):
        (folder / name).unlink()
    (tmp_path / "copy" / "weak" / "hard.parquet").write_bytes(b"damaged")
    (tmp_path / "copy" / "weak" / "labels" / "soft" / "000001.json").unlink()
    copy(varied, tmp_path / "copy", clips_per_shard=3)
    assert tree(tmp_path / "copy") == expected


@pytest.mark.campaign
def test_killed_at_any_point_or_without_room_nothing_half_written_is_taken_for_whole(
    tmp_path: Path, campaign: int
) -> None:
    """A small dataset, because every point is one run and one that goes on. `make campaign` takes all points."""
    dataset = Dataset.create(tmp_path / "source", keys="path")
    write_split(dataset, "weak", 9, seed=1, most_samples=900, clips_per_shard=5, labels=("clip",))
    audio = dataset.audio_folder("weak", "mono-16000hz-10000ms")
    keys = [list(sidecar.clips.key) for sidecar in dataset.audio_shards("weak", audio.name)]
    write_manifest(audio / "manifest.parquet", manifest_rows(keys))
    script = Path(__file__).parent / "transcode_killed.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, str(script), str(dataset.root), str(tmp_path / "scratch"), "1" if campaign else "5"],
        env=environment, stdout=subprocess.PIPE, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0
    found = json.loads(run.stdout)
    assert found["wrong"] == []
    assert found["points"] > (24 if campaign else 4)


@pytest.mark.parametrize("place", ["header", "clip", "end"])
def test_a_damaged_shard_is_quarantined_and_the_rest_copied(source: Path, tmp_path: Path, place: str) -> None:
    sidecar = Dataset(source).audio_shards("weak", MONO.name)[1]
    whole = sidecar.tar_path.read_bytes()
    if place == "clip":
        flip(sidecar.tar_path, sidecar.clips.offset[2] + 100)
    elif place == "end":
        sidecar.tar_path.write_bytes(whole[:-1])
    else:
        flip(sidecar.tar_path, 0)  # a name nobody needs: clips are found by offset, and checked
    out = tmp_path / "copy"
    reports = {report.stage: report for report in copy(source, out)}
    report = reports[f"transcode weak/{MONO.name}"]
    if place == "header":
        assert report.exit_code == 0
    else:
        assert report.exit_code == 1
        (quarantined,) = report.quarantined
        assert quarantined.shard == 1
        assert str(sidecar.tar_path) in quarantined.reason
        assert (report.stored, report.not_done) == (5, 3)
        assert [problem.kind for problem in verify(out, quick=True)] == ["incomplete"]
        sidecar.tar_path.write_bytes(whole)
        copy(source, out)
    assert about_clips(out).keys() == {
        (f"{split}/audio/{spec.name}", key) for (split, spec), plan in PLAN.items() for keys in plan for key in keys
    }
    assert verify(out) == ()


def test_a_clip_that_is_not_what_its_identity_says_is_not_copied(source: Path, tmp_path: Path) -> None:
    """Its checksums are right: only who knows the identity can tell."""
    sidecar = Dataset(source).audio_shards("strong", MONO.name)[0]
    identity = ("0" * 32, *sidecar.clips.identity[1:])
    forged = dataclasses.replace(sidecar, clips=dataclasses.replace(sidecar.clips, identity=identity))
    sidecar.path.write_bytes(sidecar_bytes(forged))
    (report,) = copy(source, tmp_path / "copy", splits=["strong"])[:1]
    (quarantined,) = report.quarantined
    assert "gg_0 decodes to other audio" in quarantined.reason
    assert not (tmp_path / "copy" / "strong" / "audio" / MONO.name / "000000.json").exists()


def test_a_damaged_label_shard_is_quarantined(source: Path, tmp_path: Path) -> None:
    tar = source / "weak" / "labels" / "soft" / "000002.tar"
    whole = tar.read_bytes()
    flip(tar, len(whole) - 1)
    reports = {report.stage: report for report in copy(source, tmp_path / "copy")}
    (quarantined,) = reports["copy weak/soft"].quarantined
    assert (quarantined.shard, reports["copy weak/soft"].exit_code) == (2, 1)
    assert str(tar) in quarantined.reason
    copied = tmp_path / "copy" / "weak" / "labels" / "soft"
    assert sorted(path.name for path in copied.iterdir() if path.stem.isdigit()) == [
        "000000.json", "000000.tar", "000001.json", "000001.tar",
    ]  # fmt: skip
    tar.write_bytes(whole)
    copy(source, tmp_path / "copy")
    assert verify(tmp_path / "copy") == ()


@pytest.mark.parametrize("left", ["some", "none", "of other audio"])
def test_label_shards_that_the_dataset_no_longer_has_are_refused(source: Path, tmp_path: Path, left: str) -> None:
    """They would be taken for labels of the dataset: moved to quarantine there, or made again under other numbers."""
    out = tmp_path / "copy"
    copy(source, out)
    ours, theirs = (Dataset(root).labels_folder("weak", "frames") for root in (source, out))
    for path in list(ours.glob("00000[12].*" if left == "some" else "*.*")):
        path.unlink()
    if left == "of other audio":
        for path in Dataset(source).labels_folder("weak", "directions").iterdir():
            shutil.copy(path, ours / path.name)
    message = {
        "some": r"frames/000001\.json: .*has not; move",
        "none": r"000000\.json",
        "of other audio": r"other labels",
    }
    with pytest.raises(UsageError, match=message[left]):
        copy(source, out)
    if left == "some":
        for path in list(theirs.glob("00000[12].*")):
            path.rename(tmp_path / path.name)
        copy(source, out)
        assert tree(out).keys() == tree(source).keys()
    elif left == "none":
        # What the dataset never had is the copy's own.
        theirs.rename(theirs.parent / "own")
        copy(source, out)
        assert {path.name for path in theirs.parent.iterdir()} == {"own", "soft", "tags", "directions"}


def _other_labels(shard: LabelSidecar, folder: Path) -> LabelSidecar:
    """The shard as another teacher would have written it: as many bytes, and others."""
    with LabelReader(shard) as stored:
        labels = {key: stored.read(row) for row, key in enumerate(shard.clips.key) if shard.clips.length[row]}
    audio = read_audio_sidecar(shard.path.parents[2] / "audio" / shard.spec.name / shard.path.name)
    with LabelShardWriter(
        folder, audio, target=shard.target, provenance={"stage": "another"}, codec=shard.codec
    ) as writer:
        for row, key in enumerate(shard.clips.key):
            if key in labels:
                writer.add(key, -labels[key])
            else:
                place = shard.failed.key.index(shard.clips.key[row])
                writer.fail(key, shard.failed.reason[place], shard.failed.detail[place])
        return writer.commit()


@pytest.mark.parametrize(("replaced", "expected"), [(2, {"new", "old"}), (1, {"none", "old"})])
def test_a_label_shard_that_is_replaced_meanwhile_is_copied_whole_or_not_at_all(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: int, expected: set[str]
) -> None:
    """Whoever labels again in the dataset may do so at any moment, here at each read of the sidecar in turn.

    replaced: 2 for sidecar and tar; 1 for the sidecar alone, by a program that knows of no order.
    """
    shard = Dataset(source).label_shards("weak", "frames")[0]
    other = _other_labels(shard, tmp_path / "other")
    names = (shard.path.name, shard.tar_path.name)
    before, after = ([folder / name for name in names] for folder in (shard.path.parent, other.path.parent))
    old, new = ([path.read_bytes() for path in paths] for paths in (before, after))
    assert old[0] != new[0]
    assert len(old[1]) == len(new[1])
    opened = Path.open
    reads = 0

    def replacing(path: Path, *arguments: Any, **options: Any) -> Any:
        nonlocal reads
        if path == shard.path:
            reads += 1
            if reads == point:
                for name, content in list(zip(before, new, strict=True))[:replaced]:
                    name.unlink()
                    name.write_bytes(content)
        return opened(path, *arguments, **options)

    ends = set()
    for point in range(1, 4):
        reads = 0
        out = tmp_path / f"copy-{point}"
        (stage,) = (
            stage
            for stage in transcode_stages(dataset=source, out=out, codec="pcm16")
            if stage.name.endswith("frames") and stage.output.parent.parent.name == "weak"
        )
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", replacing)
            run_stage(stage, executor="local", progress=False)
        folder = Dataset(out).labels_folder("weak", "frames")
        committed = [(folder / name).read_bytes() for name in names] if (folder / names[0]).exists() else None
        assert committed in (old, new, None)
        ends.add("none" if committed is None else "old" if committed == old else "new")
        for name, content in zip(before, old, strict=True):
            name.write_bytes(content)
    assert ends == expected


def test_a_label_shard_that_gets_in_between_is_replaced_sidecar_first(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may have committed it since this one was planned. Whatever point is the last one, no tar is there
    under the sidecar of another, and a disk that is full leaves what was there."""
    stage = next(
        stage for stage in transcode_stages(dataset=source, out=tmp_path / "copy", codec="pcm16")
        if stage.output.parent.parent.name == "weak" and stage.output.name == "frames"
    )  # fmt: skip
    shard = Dataset(source).label_shards("weak", "frames")[0]
    (task,) = (task for task in stage.tasks if task.shard == shard.shard)
    replaced = Path.replace
    writes = Path.write_bytes
    seen: list[bool] = []

    def looking(path: Path, target: Path) -> Path:
        moved = replaced(path, target)
        there = stage.output / shard.path.name
        if there.exists():
            committed = read_label_sidecar(there)
            seen.append(hashlib.sha256(committed.tar_path.read_bytes()).hexdigest() == committed.tar_sha256)
        else:
            seen.append(True)
        return moved

    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    other = _other_labels(shard, stage.output)
    before = tree(tmp_path / "copy")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        copy_label_shard(stage.config, task)
    monkeypatch.setattr(Path, "write_bytes", writes)
    assert tree(tmp_path / "copy") == before
    monkeypatch.setattr(Path, "replace", looking)
    copy_label_shard(stage.config, task)
    assert seen == [True, True]
    assert other.path.read_bytes() == shard.path.read_bytes()
    assert other.tar_path.read_bytes() == shard.tar_path.read_bytes()


def test_a_dataset_that_contradicts_itself_is_refused(source: Path, tmp_path: Path) -> None:
    folder = Dataset(source).audio_folder("weak", MONO.name)
    whole = read_manifest(folder / "manifest.parquet")
    write_manifest(folder / "manifest.parquet", whole[1:])
    with pytest.raises(FormatError, match=r"000000\.json.*manifest"):
        copy(source, tmp_path / "copy")
    (folder / "manifest.parquet").unlink()
    write_audio_shard(folder, 7, [row for row in whole if row.key == "dd_0"], spec=MONO, codec="flac")
    with pytest.raises(FormatError, match="two shards"):
        copy(source, tmp_path / "copy")
    (folder / "000007.json").write_text("{}")
    with pytest.raises(FormatError, match=r"000007\.json"):
        copy(source, tmp_path / "copy")


@pytest.mark.parametrize("clips_per_shard", [None, 3])
def test_a_dataset_that_has_changed_is_refused(source: Path, tmp_path: Path, clips_per_shard: int | None) -> None:
    out = tmp_path / "copy"
    copy(source, out, clips_per_shard=clips_per_shard)
    before = tree(out)
    folder = Dataset(source).audio_folder("strong", MONO.name)
    sidecar = read_audio_sidecar(folder / "000000.json")
    cut_samples = (0, *sidecar.clips.cut_samples[1:])
    changed = dataclasses.replace(sidecar, clips=dataclasses.replace(sidecar.clips, cut_samples=cut_samples))
    sidecar.path.write_bytes(sidecar_bytes(changed))
    with pytest.raises(UsageError, match=r"000000\.json.*clips differ.*has changed"):
        copy(source, out, clips_per_shard=clips_per_shard)
    sidecar.path.write_bytes(
        sidecar_bytes(dataclasses.replace(sidecar, provenance={"stage": "pack", "codec": "other"}))
    )
    with pytest.raises(UsageError, match="provenance differ"):
        copy(source, out, clips_per_shard=clips_per_shard)
    sidecar.path.write_bytes(sidecar_bytes(sidecar))
    with pytest.raises(UsageError, match="codec, provenance differ"):
        copy(source, out, "flac", clips_per_shard=clips_per_shard)
    other = source / "weak" / "labels" / "frames" / "000000.json"
    shutil.copy(source / "weak" / "labels" / "soft" / "000000.json", other)
    with pytest.raises(UsageError, match="other labels"):
        copy(source, out, clips_per_shard=clips_per_shard)
    assert tree(out) == before


def test_a_copy_that_was_sharded_otherwise_says_so(varied: Path, tmp_path: Path) -> None:
    copy(varied, tmp_path / "copy", clips_per_shard=2)
    with pytest.raises(UsageError, match="--clips-per-shard"):
        copy(varied, tmp_path / "copy")
    # Clips keep the shard they have, so another size is for those to come.
    assert not any(report.shards_done_now for report in copy(varied, tmp_path / "copy", clips_per_shard=5))


def test_a_copy_with_shards_of_its_own_or_damaged_ones_is_refused(varied: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    copy(varied, out)
    folder = Dataset(out).audio_folder("weak", FOA.name)
    tar = (folder / "000001.tar").read_bytes()
    (folder / "000001.tar").write_bytes(tar[:-1])
    with pytest.raises(IntegrityError, match=r"000001\.tar"):
        copy(varied, out)
    (folder / "000001.tar").write_bytes(tar)
    write_audio_shard(folder, 5, manifest_rows([["zz_0"]]), spec=FOA, codec="pcm16")
    with pytest.raises(UsageError, match=r"000005\.json"):
        copy(varied, out)


def test_wrong_use_writes_nothing(varied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "copy"
    for options, message in (
        ({"codec": "mp3"}, "needs one of flac, pcm16, fast"),
        ({"clips_per_shard": 0}, "at least 1"),
        ({"clips_per_shard": 10_001}, "at most 10000: readers refuse"),
        ({"splits": ["weak", "dev"]}, r"splits are weak, strong; there is no dev"),
        ({"audio": ["mono-16000hz-10000ms"]}, "there is no mono-16000hz-10000ms"),
        ({"out": Path("copy")}, "relative"),
        ({"out": varied}, "lie in each other"),
        ({"out": varied / "weak" / "copy"}, "lie in each other"),
        ({"source": tmp_path}, "is not a dataset"),
    ):
        arguments: dict[str, object] = {"source": varied, "out": out} | options
        with pytest.raises(UsageError, match=message):
            copy(**arguments)
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "numcodecs", None)
        absent.setattr(_audio_fast, "_blosc", _audio_fast._blosc.__wrapped__)
        with pytest.raises(UsageError, match="pip install"):
            copy(varied, out)
    assert not out.exists()
    Dataset.create(out, keys="audioset")
    with pytest.raises(UsageError, match="keyed by audioset"):
        copy(varied, out, "pcm16")


def test_a_spec_or_a_source_that_this_machine_cannot_handle_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker would find out for its shard, and all shards would be quarantined."""
    dataset = Dataset.create(tmp_path / "source", keys="path")
    spec = AudioSpec(sample_rate=700_000, clip_ms=40)
    with AudioShardWriter(
        dataset.audio_folder("weak", spec.name), 0, spec=spec, provenance={"stage": "other"}, codec="fast"
    ) as writer:
        writer.add("aa_0", np.arange(900, dtype=np.int16), origin="wav")
        writer.commit()
    with pytest.raises(UsageError, match="FLAC cannot hold mono-700000hz"):
        copy(dataset.root, tmp_path / "copy", "flac")
    monkeypatch.setitem(sys.modules, "numcodecs", None)
    monkeypatch.setattr(_audio_fast, "_blosc", _audio_fast._blosc.__wrapped__)
    with pytest.raises(UsageError, match="pip install"):
        copy(dataset.root, tmp_path / "copy", "pcm16")
    assert not (tmp_path / "copy").exists()


def test_from_a_store(varied: Path, tmp_path: Path) -> None:
    pytest.importorskip("upath")
    import fsspec

    store = fsspec.filesystem("memory")
    store.put(f"{varied}/", "/bucket/varied/", recursive=True)
    try:
        assert not any(
            report.exit_code for report in copy("memory://bucket/varied", tmp_path / "copy", clips_per_shard=3)
        )
    finally:
        store.rm("/bucket", recursive=True)
    assert about_clips(tmp_path / "copy") == about_clips(varied)
    assert verify(tmp_path / "copy") == ()


@pytest.mark.usefixtures("embedded_ray")
def test_ray_gives_the_same_bytes(varied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy(varied, tmp_path / "local", clips_per_shard=2, splits=["strong"])
    command = ["transcode", "--dataset", str(varied), "--out", str(tmp_path / "ray"), "--codec", "fast"]
    assert main([*command, "--clips-per-shard", "2", "--split", "strong", "--workers", "2"]) == 0
    assert capsys.readouterr().out.count("shards (2 now)") == 2
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["transcode", "--dataset", str(source), "--out", str(tmp_path / "copy"), "--executor", "local"]
    sidecar = Dataset(source).audio_shards("weak", MONO.name)[0]
    tar, whole = sidecar.tar_path, sidecar.tar_path.read_bytes()
    flip(tar, sidecar.clips.offset[1] + 90)
    assert main([*command, "--codec", "fast", "--split", "weak", "--audio", MONO.name]) == 1
    assert "quarantined" in capsys.readouterr().out
    tar.write_bytes(whole)
    assert main([*command, "--codec", "fast", "--split", "weak", "--audio", MONO.name]) == 0
    assert verify(tmp_path / "copy") == ()
    assert main([*command, "--codec", "flac"]) == 2
    assert "is not what this call would write" in capsys.readouterr().err
    assert main([*command, "--codec", "fast", "--ray-address", "127.0.0.1:1"]) == 2
    assert "--ray-address is for --executor ray" in capsys.readouterr().err


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 7), st.integers(0, 8), st.randoms())
def test_assignment_is_the_same_however_often_it_is_taken_up(sizes, clips_per_shard, known, random):
    """Whatever part of an earlier assignment is known by its shards, the rest falls where it would have been."""
    keys_of = {shard: [f"{shard}-{row}" for row in range(size)] for shard, size in enumerate(sizes)}

    def placed(spans: dict[int, tuple[Span, ...]]) -> dict[str, int]:
        return {
            key: shard
            for shard, of_shard in spans.items()
            for span in of_shard
            for key in keys_of[span.shard][span.start : span.stop]
        }

    whole = assign(keys_of, {}, clips_per_shard=clips_per_shard)
    order = [key for shard in keys_of for key in keys_of[shard]]
    assert placed(whole) == {key: place // clips_per_shard for place, key in enumerate(order)}
    committed = random.sample(sorted(whole), min(known, len(whole)))
    earlier = {key: shard for key, shard in placed(whole).items() if shard in committed}
    assert assign(keys_of, earlier, clips_per_shard=clips_per_shard) == whole
    later = {**keys_of, len(sizes): ["new-0", "new-1"]}
    keys_of = later
    grown = placed(assign(later, placed(whole), clips_per_shard=clips_per_shard))
    assert placed(whole).items() <= grown.items()
    assert min(grown["new-0"], grown["new-1"]) > max(placed(whole).values(), default=-1)
