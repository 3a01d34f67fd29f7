"""Label sets that are damaged or forged: nothing of what somebody else publishes is used before it is checked."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import FormatError, IntegrityError
from shards import Dataset, LabelShardWriter, fingerprint, verify
from shards._sidecar import sealed_json
from shards.codecs._label import encode_label
from tests.shards.attach_examples import (
    KEYS,
    MADE,
    SPEC,
    TARGET,
    Pcm,
    attach,
    files,
    label_of,
    make_originals,
    publish,
    write_audio,
)


@pytest.fixture(scope="module")
def originals() -> dict[str, Pcm]:
    return make_originals()


@pytest.fixture(scope="module")
def published(originals: dict[str, Pcm], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("lab"), originals)


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a sidecar, `clips__key` being key in clips, and sign it anew."""
    value = json.loads(path.read_bytes())
    del value["sha256"]
    for name, changed in changes.items():
        inner = value
        *outer, last = name.split("__")
        for step in outer:
            inner = inner[step]
        inner[last] = changed(inner[last]) if callable(changed) else changed
    value["fingerprint"] = fingerprint(value["provenance"])
    path.write_bytes(sealed_json(value))


class TestHostileFolder:
    """Nothing of what somebody else publishes is used before it is checked."""

    @pytest.fixture
    def copy(self, originals: dict[str, Pcm], tmp_path: Path) -> Dataset:
        return write_audio(tmp_path / "copy", originals, clips_per_shard=20)

    @pytest.fixture
    def folder(self, published: Path, tmp_path: Path) -> Path:
        shutil.copytree(published, tmp_path / "hostile")
        return tmp_path / "hostile"

    def refused(self, copy: Dataset, folder: Path, message: str) -> None:
        with pytest.raises((FormatError, IntegrityError), match=message):
            attach(copy, folder)
        labels = copy.labels_folder("weak", "teacher")
        assert not [name for name in files(labels) if name.endswith((".tar", ".json")) and name[0] == "0"]

    @pytest.mark.parametrize("content", [b"{}", b"[" * 100_000, b"\xff", b"", b'{"format":"sed-distill/shard"}'])
    def test_wrong_json(self, copy: Dataset, folder: Path, content: bytes) -> None:
        (folder / "000001.json").write_bytes(content)
        self.refused(copy, folder, r"000001\.json")

    def test_unsigned_edit(self, copy: Dataset, folder: Path) -> None:
        path = folder / "000000.json"
        path.write_bytes(path.read_bytes().replace(KEYS[0].encode(), b"clip99_0"))
        self.refused(copy, folder, "its own checksum")

    @pytest.mark.parametrize("name", ["000001.json", "000001.tar"])
    def test_links_and_pipes(self, copy: Dataset, folder: Path, name: str, tmp_path: Path) -> None:
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        self.refused(copy, folder, f"{name}: is a link")
        (folder / name).unlink()
        os.mkfifo(folder / name)
        self.refused(copy, folder, f"{name}: is a special file")

    def test_tar_missing_or_of_another_size(self, copy: Dataset, folder: Path) -> None:
        tar = folder / "000002.tar"
        tar.write_bytes(tar.read_bytes()[:-512])
        self.refused(copy, folder, r"000002\.tar: has \d+ bytes")
        tar.unlink()
        self.refused(copy, folder, r"000002\.tar: is not there")

    def test_flipped_bytes(self, copy: Dataset, folder: Path) -> None:
        tar = folder / "000000.tar"
        content = bytearray(tar.read_bytes())
        content[700] ^= 1
        tar.write_bytes(content)
        self.refused(copy, folder, f"clip {KEYS[0]}: is not what was published")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"provenance": {"stage": "label", "teacher": "another"}}, "another provenance"),
            ({"target__context_ms": 4_000}, "another target"),
            ({"spec__sample_rate": 32_000}, "another audio spec"),
            ({"target__kind": "probability"}, "another target"),
            ({"codec": "faithful"}, "another codec"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_set_of_two(self, copy: Dataset, folder: Path, change: dict[str, Any], message: str) -> None:
        edit(folder / "000001.json", **change)
        self.refused(copy, folder, message)

    def test_no_fingerprint(self, copy: Dataset, folder: Path) -> None:
        edit(
            folder / "000000.json",
            clips__identity=lambda column: ["0" * 32, *column[1:]],
            clips__acoustic=lambda column: ["ff" * 64, *column[1:]],
        )
        self.refused(copy, folder, r"000000\.json: clips\.acoustic: a fingerprint")

    def test_a_clip_in_two_shards(self, copy: Dataset, folder: Path) -> None:
        for suffix in ("tar", "json"):
            shutil.copy(folder / f"000000.{suffix}", folder / f"000007.{suffix}")
        edit(folder / "000007.json", shard=7)
        self.refused(copy, folder, r"000007\.json: holds clip clip\d\d_0, which an earlier shard holds too")

    def test_not_a_number(self, originals: dict[str, Pcm], copy: Dataset, tmp_path: Path) -> None:
        folder = tmp_path / "not-a-number"
        audio = copy.audio_shards("weak", SPEC.name)[0]
        with LabelShardWriter(folder, audio, target=TARGET, provenance=MADE, codec="npy") as writer:
            for key in audio.clips.key:
                content = bytearray(encode_label(label_of(key), shape=TARGET.shape, kind="logit", codec="npy"))
                content[-2:] = np.float16(np.nan).tobytes()
                writer.store(key, bytes(content))
            writer.commit()
        self.refused(copy, folder, "holds NaN or infinity")

    def test_what_is_whole_by_then_stays(
        self, originals: dict[str, Pcm], folder: Path, published: Path, tmp_path: Path
    ) -> None:
        dataset = write_audio(tmp_path / "small shards", originals, clips_per_shard=5)
        tar = folder / "000001.tar"
        whole = tar.read_bytes()
        tar.write_bytes(whole.replace(b"SEDL", b"SEDX"))
        with pytest.raises(IntegrityError, match="download the tar again"):
            attach(dataset, folder)
        tar.write_bytes(whole)
        report = attach(dataset, folder)
        assert report.shards_kept == 1
        assert not verify(dataset.root)
