"""Exported files, read the way PretrainedSED's training code reads them."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from pipeline import AudioSpec, IntegrityError, TargetSpec, UsageError, Vocabulary, audioset_strong_447, path_key
from shards import AudioShardWriter, Dataset, ExportReport, LabelShardWriter, export_labels

REPOSITORY = Path(__file__).resolve().parents[2]
SPEC = AudioSpec(sample_rate=1_000)
KEYS = [f"-Ab_YcdEf{i:02d}_{i * 1000}" for i in range(7)]
FRAMES = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=audioset_strong_447())


def write(
    root: Path,
    target: TargetSpec = FRAMES,
    keys: list[str] = KEYS,
    *,
    mode: str = "audioset",
    failed: tuple[int, ...] = (),
) -> Dataset:
    dataset = Dataset.create(root, keys=mode)  # type: ignore[arg-type]
    for shard, part in enumerate((keys[:4], keys[4:])):
        folder, made = dataset.audio_folder("strong", SPEC.name), {"made": "by a test"}
        with AudioShardWriter(folder, shard, spec=SPEC, provenance=made) as audio:
            for key in part:
                audio.add(key, np.ones(1_000, np.int16), origin="pcm")
            side = audio.commit()
        with LabelShardWriter(dataset.labels_folder("strong", "set"), side, target=target, provenance=made) as labels:
            for key in part:
                if keys.index(key) in failed:
                    labels.fail(key, "not_finite", "made to fail")
                else:
                    values = logits(key, target.shape).astype(np.float32)
                    labels.add(key, 1 / (1 + np.exp(-values)) if target.kind == "probability" else values)
            labels.commit()
    return dataset


def logits(key: str, shape: tuple[int, ...]) -> npt.NDArray[np.float16]:
    values = np.random.default_rng(list(key.encode())).normal(-4, 4, shape).astype(np.float16)
    values[..., 0] = np.float16(-0.0)
    return values


class Theirs:
    """A dictionary from name to row, and the row of a name, in the words of their transform."""

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "r")
        self.row_of = {name.decode("UTF-8"): row for row, name in enumerate(self._file["filenames"])}

    def __getitem__(self, name: str) -> npt.NDArray[np.float16]:
        return np.stack(self._file["strong_logits"][self.row_of[name]])


def export(dataset: Dataset, out: Path) -> ExportReport:
    return export_labels(dataset, "strong", "set", out)


def test_their_code_finds_every_label_bit_for_bit(tmp_path: Path) -> None:
    report = export(write(tmp_path / "data", failed=(2, 5)), tmp_path / "out.h5")
    assert (report.clips, report.exported, report.without_label) == (7, 5, 2)
    theirs = Theirs(tmp_path / "out.h5")
    kept = [key for i, key in enumerate(KEYS) if i not in (2, 5)]
    assert list(theirs.row_of) == [f"Y{key[:11]}.mp3" for key in kept]
    for key in kept:
        got = theirs[f"Y{key[:11]}.mp3"]
        assert got.dtype == np.float16
        assert (got.view(np.uint16) == logits(key, (447, 250)).view(np.uint16)).all()


def test_classes_in_another_order_are_put_into_theirs(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(447)
    theirs = audioset_strong_447()
    vocabulary = Vocabulary(tuple(theirs.mids[i] for i in order), tuple(theirs.names[i] for i in order))
    dataset = write(tmp_path / "data", TargetSpec(axes=("class", "time"), kind="logit", vocabulary=vocabulary))
    export(dataset, tmp_path / "out.h5")
    for key in KEYS:
        np.testing.assert_array_equal(Theirs(tmp_path / "out.h5")[f"Y{key[:11]}.mp3"][order], logits(key, (447, 250)))


def test_time_first_is_turned(tmp_path: Path) -> None:
    dataset = write(tmp_path / "data", TargetSpec(axes=("time", "class"), kind="logit", vocabulary=FRAMES.vocabulary))
    export(dataset, tmp_path / "out.h5")
    for key in KEYS:
        np.testing.assert_array_equal(Theirs(tmp_path / "out.h5")[f"Y{key[:11]}.mp3"].T, logits(key, (250, 447)))


SOME = Vocabulary(audioset_strong_447().mids[:446], audioset_strong_447().names[:446])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (TargetSpec(axes=("class", "time"), kind="logit", vocabulary=SOME), "446 classes, 446 of them among"),
        (TargetSpec(axes=("class", "time"), kind="probability", vocabulary=FRAMES.vocabulary), "holds probability"),
        (TargetSpec(axes=("class",), kind="logit", vocabulary=FRAMES.vocabulary, hop_ms=None, frames=None), "axes"),
        (
            TargetSpec(axes=("class", "time"), kind="logit", vocabulary=FRAMES.vocabulary, hop_ms=2000, frames=5),
            "hop 2000 ms",
        ),
    ],
)
def test_what_is_no_label_of_theirs_is_refused(tmp_path: Path, target: TargetSpec, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export(write(tmp_path / "data", target), tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_two_clips_of_one_recording_cannot_share_a_name(tmp_path: Path) -> None:
    dataset = write(tmp_path / "data", keys=["AAAAAAAAAAA_0", "AAAAAAAAAAA_10000"])
    with pytest.raises(UsageError, match=r"A_0 and A{11}_10000, which both would be named YA{11}\.mp3"):
        export(dataset, tmp_path / "out.h5")


def test_clips_keyed_by_path_keep_their_path(tmp_path: Path) -> None:
    dataset = write(tmp_path / "data", keys=[path_key("a/é b.wav"), path_key("c.mp3")], mode="path")
    export(dataset, tmp_path / "out.h5")
    assert list(Theirs(tmp_path / "out.h5").row_of) == ["a/é b.wav", "c.mp3"]


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    dataset = write(tmp_path / "data")
    for name in ("a.h5", "b.h5"):
        export(dataset, tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def damage(dataset: Dataset) -> None:
    tar = dataset.labels_folder("strong", "set") / "000001.tar"
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 1
    tar.write_bytes(content)


def cut(dataset: Dataset) -> None:
    tar = dataset.labels_folder("strong", "set") / "000001.tar"
    tar.write_bytes(tar.read_bytes()[:5000])


@pytest.mark.parametrize("spoil", [damage, cut])
def test_damaged_labels_leave_no_file(tmp_path: Path, spoil: Callable[[Dataset], None]) -> None:
    dataset = write(tmp_path / "data")
    spoil(dataset)
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError):
        export(dataset, tmp_path / "out" / "out.h5")
    assert not list((tmp_path / "out").iterdir())


FULL_DISK = """
import resource, sys
from pathlib import Path
from shards import export_labels
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    export_labels(sys.argv[1], "strong", "set", Path(sys.argv[2]))
except OSError as error:
    assert "cannot be written" in str(error), error
    print("OSError")
"""


@pytest.mark.parametrize("limit", [400_000, 1_560_000])
def test_a_full_disk_leaves_no_file(tmp_path: Path, limit: int) -> None:
    """Files may have so many bytes and no more, which HDF5 meets as it meets a full disk."""
    dataset = write(tmp_path / "data")
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", FULL_DISK, dataset.root, tmp_path / "out" / "out.h5", limit]
    done = subprocess.run(list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == "OSError\n", done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_with_too_little_room_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write(tmp_path / "data")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2_000_000))
    with pytest.raises(OSError, match="1 MB are free, 1 MB are needed") as refused:
        export(dataset, tmp_path / "out.h5")
    assert refused.value.errno == errno.ENOSPC
    assert not (tmp_path / "out.h5").exists()


def test_an_existing_file_and_a_missing_set_are_refused(tmp_path: Path) -> None:
    dataset = write(tmp_path / "data")
    (tmp_path / "out.h5").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        export(dataset, tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_bytes() == b"mine"
    with pytest.raises(UsageError, match="the split has set"):
        export_labels(dataset, "strong", "none", tmp_path / "b.h5")
    with pytest.raises(UsageError, match="has no label for any clip"):
        export(write(tmp_path / "failed", failed=tuple(range(7))), tmp_path / "b.h5")
