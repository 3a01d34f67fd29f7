"""Where things lie, what is not a dataset, and what is ignored in one."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import FormatError, UsageError
from shards import Dataset
from tests.shards.dataset_examples import SPEC, TARGET, write_dataset


def test_layout(tmp_path):
    dataset = Dataset(tmp_path / "data")
    assert dataset.audio_folder("weak", SPEC.name) == tmp_path / "data/weak/audio/mono-8000hz-1000ms"
    assert dataset.labels_folder("dev", "beats.v1") == tmp_path / "data/dev/labels/beats.v1"
    assert dataset.hard_path("eval") == tmp_path / "data/eval/hard.parquet"
    assert dataset.splits() == ()
    assert dataset.audio_specs("weak") == dataset.label_sets("weak") == ()
    assert dataset.audio_shards("weak", SPEC.name) == dataset.label_shards("weak", "beats.v1") == ()
    assert Dataset((tmp_path / "with space").as_uri()).root == tmp_path / "with space"


def test_create_is_idempotent_and_open_needs_one(tmp_path):
    with pytest.raises(UsageError, match="is not a dataset"):
        Dataset.open(tmp_path)
    assert Dataset.create(tmp_path, keys="path").keys == "path"
    before = (tmp_path / "dataset.json").read_bytes()
    body = b'{"format":"sed-distill","keys":"path","version":1}'
    checksum = hashlib.sha256(body).hexdigest().encode()
    # The checksum is over all else, spelled the same way; its name sorts between the others'.
    assert before == b'{"format":"sed-distill","keys":"path","sha256":"%s","version":1}\n' % checksum
    assert Dataset.create(tmp_path, keys="path") == Dataset.open(str(tmp_path))
    with pytest.raises(UsageError, match="keyed by path, not by audioset"):
        Dataset.create(tmp_path, keys="audioset")
    assert (tmp_path / "dataset.json").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"format":"sed-distill","version":1}',
        b'{"format":"sed-distill","version":1,"keys":"audioset","more":1}',
        b'{"format":"sed-distill","version":1,"keys":"guess"}',
        b'{"format":"sed-distill","version":1,"keys":["audioset"]}',
        b'{"format":"sed-distill","version":false,"keys":"audioset"}',
        b'{"format":"other","version":1,"keys":"audioset"}',
        b"[" * 60_000,
        b'{"format":"sed-distill","keys":"path","sha256":"' + b"0" * 64 + b'","version":1}\n',
        b" " * 100_000 + b'{"format":"sed-distill","version":1,"keys":"audioset"}',
    ],
)
def test_damaged_description_is_a_format_error(tmp_path, content):
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"dataset\.json"):
        Dataset.open(tmp_path)


def test_a_later_version_says_what_to_do(tmp_path):
    (tmp_path / "dataset.json").write_bytes(b'{"format":"sed-distill","version":2,"keys":"audioset"}')
    with pytest.raises(FormatError, match="has format version 2, this version of sed-distill reads 1; use the version"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "", "Upper", "é", "a\n"])
def test_names_that_are_not_names(tmp_path, name):
    dataset = Dataset(tmp_path)
    with pytest.raises(UsageError):
        dataset.labels_folder("weak", name)
    with pytest.raises(UsageError):
        dataset.audio_folder("weak", name)
    with pytest.raises(UsageError):
        dataset.hard_path(name)


@pytest.mark.parametrize("name", ["hard_weak", "hard_strong"])
def test_reserved_targets_are_no_label_sets(tmp_path, name):
    with pytest.raises(UsageError, match=r"hard\.parquet"):
        Dataset(tmp_path).labels_folder("weak", name)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("file://host/data", "names another machine"),
        ("nothing://bucket/data", "no store that fsspec knows|needs libraries that are not here"),
    ],
)
def test_places_that_cannot_be_read(uri, says):
    with pytest.raises(UsageError, match=says):
        Dataset(uri)


def test_local_folders_need_no_library_of_stores(tmp_path):
    write_dataset(tmp_path)
    lines = "import sys, shards; shards.verify(sys.argv[1]); print({'upath', 'fsspec', 's3fs'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", lines, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_shards_come_in_order_and_other_names_are_ignored(tmp_path):
    dataset = write_dataset(tmp_path)
    folder = dataset.audio_folder("weak", SPEC.name)
    expected = dataset.audio_shards("weak", SPEC.name)
    for name in ("report.json", "0000002.json", "00002.json", "000003.tar", ".partial-x.json", "000004.json.bak"):
        (folder / name).write_bytes(b"not a shard")
    (tmp_path / "weak" / "labels" / "Not a set").mkdir()
    (tmp_path / "weak" / "labels" / "file").write_bytes(b"")
    assert dataset.splits() == ("weak", "strong")
    assert dataset.audio_specs("weak") == (SPEC.name,)
    assert dataset.label_sets("weak") == ("frames", "other")
    assert [sidecar.shard for sidecar in expected] == [0, 1]
    assert dataset.audio_shards("weak", SPEC.name) == expected
    labels = dataset.label_shards("weak", "frames")
    assert [sidecar.clips.key for sidecar in labels] == [sidecar.clips.key for sidecar in expected]


def test_the_vocabulary_of_a_label_set(tmp_path):
    dataset = write_dataset(tmp_path)
    assert dataset.vocabulary("weak", "frames") == TARGET.vocabulary
    with pytest.raises(UsageError, match="no label set beats; it has frames, other"):
        dataset.vocabulary("weak", "beats")


def test_a_pipe_is_no_description(tmp_path):
    os.mkfifo(tmp_path / "dataset.json")
    for look in (Dataset.open, lambda root: Dataset.create(root, keys="path")):
        with pytest.raises(FormatError, match=r"dataset\.json: cannot be read .*a pipe or a device"):
            look(tmp_path)


def test_splits_may_be_links_and_a_failed_look_is_an_error(tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "data")
    (dataset.root / "weak").rename(tmp_path / "elsewhere")
    (dataset.root / "weak").symlink_to(tmp_path / "elsewhere")
    (dataset.root / "dev").symlink_to(tmp_path / "nowhere")
    (dataset.root / "eval").symlink_to(dataset.root / "eval")
    assert dataset.splits() == ("weak", "strong")
    real = Path.stat

    def failing(path, **options):
        if path.name == "weak":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", failing)
    # As is_dir does from Python 3.14 on.
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    with pytest.raises(PermissionError):
        dataset.splits()
