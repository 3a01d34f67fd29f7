"""The index of a shard folder: what brute force reads from its sidecars, after whatever happened to folder and file."""

import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shards._index_build
import shards._index_file
from pipeline import FormatError
from shards import (
    Dataset,
    ShardIndex,
    dataset_folders,
    index_problem,
    open_index,
    read_audio_sidecar,
    read_label_sidecar,
)
from shards._index_build import build_tables, sidecar_stamps
from shards._index_file import INDEX_NAME, ShardKind, read_index
from tests.shards.dataset_examples import SPEC, TARGET, write_audio, write_dataset, write_labels

OLD_S = 1_000_000_000


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    made = write_dataset(tmp_path / "data")
    age(made.root)
    return made


@pytest.fixture
def folder(dataset: Dataset) -> Path:
    """Two shards of audio, 7 clips."""
    return dataset.audio_folder("weak", SPEC.name)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the sidecars that are parsed for an index, as it happens."""
    names: list[str] = []
    real = shards._index_build.sidecar_tables

    def noted(content: bytes, path: Path, kind: ShardKind) -> object:
        names.append(path.name)
        return real(content, path, kind)

    monkeypatch.setattr(shards._index_build, "sidecar_tables", noted)
    return names


def age(folder: Path) -> None:
    """Let the sidecars be of long ago: their times then tell one from its replacement."""
    for number, path in enumerate(sorted(folder.rglob("*.json"))):
        os.utime(path, (OLD_S + number, OLD_S + number))


def brute_force(folder: Path, kind: ShardKind) -> list[tuple[object, ...]]:
    """Every clip of every sidecar, by reading the JSON as anybody would."""
    rows: list[tuple[object, ...]] = []
    for path in sorted(folder.glob("*.json")):
        side = json.loads(path.read_text())
        clips = side["clips"]
        assert side["kind"] == kind
        for row, key in enumerate(clips["key"]):
            numbers = tuple(clips[name][row] for name in ("offset", "length", "crc32c", "samples"))
            rows.append((key, side["shard"], row, *numbers, clips["identity"][row], clips["acoustic"][row]))
    return rows


def told(index: ShardIndex) -> list[tuple[object, ...]]:
    numbers = [index.shards[place].shard for place in index.shard]
    columns = [index.row, index.offset, index.length, index.crc32c, index.samples]
    raw = [[entry.tobytes().hex() for entry in values] for values in (index.identity, index.acoustic)]
    return list(zip(index.key.to_pylist(), numbers, *(column.tolist() for column in columns), *raw, strict=True))


def check(folder: Path, kind: ShardKind = "audio") -> ShardIndex:
    """The index of `folder`, seen to be what brute force reads and to find every key."""
    index = open_index(folder, kind)
    rows = brute_force(folder, kind)
    assert told(index) == rows
    assert len(index) == len(rows)
    keys = [str(row[0]) for row in rows]
    assert index.rows_of(keys).tolist() == list(range(len(keys)))
    assert [index.rows_of([key]).tolist() for key in ("", "nobody_0", "~")] == [[-1]] * 3
    assert [keys[row] for row in index.by_key] == sorted(keys)
    return index


def test_an_index_says_what_the_sidecars_say(dataset: Dataset) -> None:
    folders = list(dataset_folders(dataset))
    assert len(folders) == 5
    for where, kind in folders:
        for _ in range(2):  # made, then read
            index = check(where, kind)
            assert index.stored
            assert index_problem(where, kind) is None
            for shard in index.shards:
                side = (read_audio_sidecar if kind == "audio" else read_label_sidecar)(shard.path)
                refused = side.rejected if kind == "audio" else side.failed  # type: ignore[union-attr]
                assert (shard.shard, shard.spec, shard.codec) == (side.shard, side.spec, side.codec)
                assert (shard.tar_path, shard.tar_bytes) == (side.tar_path, side.tar_bytes)
                assert (shard.provenance, shard.fingerprint) == (side.provenance, side.fingerprint)
                assert shard.target == (TARGET if kind == "labels" else None)
                assert sum(shard.refused.values()) == len(refused)
                assert shard.sidecar_sha256 == hashlib.sha256(shard.path.read_bytes()).hexdigest()
                assert tuple(index.key.to_pylist()[shard.clips.start : shard.clips.stop]) == side.clips.key
    assert (dataset.labels_folder("weak", "frames") / INDEX_NAME).is_file()


def test_a_failed_label_has_length_0(dataset: Dataset) -> None:
    index = check(dataset.labels_folder("weak", "frames"), "labels")
    (failed,) = np.flatnonzero(index.length == 0)
    assert index.key[int(failed)].as_py() == "ee_0"
    assert dict(index.shards[1].refused) == {"not_finite": 1}


def test_a_current_index_is_used_without_a_look_at_sidecars(folder: Path, parsed: list[str]) -> None:
    check(folder)
    assert parsed == ["000000.json", "000001.json"]
    before = (folder / INDEX_NAME).stat()
    del parsed[:]
    check(folder)
    assert parsed == []
    assert (folder / INDEX_NAME).stat().st_ino == before.st_ino


def test_only_what_changed_is_parsed(dataset: Dataset, folder: Path, parsed: list[str]) -> None:
    def now_parses(*names: str) -> None:
        del parsed[:]
        check(folder)
        assert parsed == list(names)

    now_parses("000000.json", "000001.json")
    write_audio(folder, 3, ["zz_0", "AA_0"])
    age(folder)
    # The ages of a new listing: the old two are hashed, the new one is parsed.
    now_parses("000003.json")
    (folder / "000001.json").unlink()
    now_parses()
    write_audio(folder, 0, ["cc_0", "bb_0"])
    now_parses("000000.json")
    write_audio(folder, 3, [])
    now_parses("000003.json")
    for path in folder.glob("*.json"):
        path.unlink()
    assert len(open_index(folder, "audio")) == 0
    assert open_index(folder, "audio").rows_of(["zz_0"]).tolist() == [-1]
    assert index_problem(folder, "audio") is None


def test_a_sidecar_of_the_same_size_is_told_by_its_time(tmp_path: Path, parsed: list[str]) -> None:
    write_audio(tmp_path, 0, ["aa_0"])
    age(tmp_path)
    check(tmp_path)
    size = (tmp_path / "000000.json").stat().st_size
    content = (tmp_path / "000000.json").read_bytes().replace(b'"vorbis"', b'"vorbit"')
    value = json.loads(content)
    stated = value.pop("sha256")
    spelled = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    content = content.replace(stated.encode(), hashlib.sha256(spelled.encode()).hexdigest().encode())
    (tmp_path / "000000.json").write_bytes(content)
    os.utime(tmp_path / "000000.json", (OLD_S + 1, OLD_S + 1))
    assert len(content) == size
    del parsed[:]
    index = check(tmp_path)
    assert parsed == ["000000.json"]
    assert index.shards[0].sidecar_sha256 == hashlib.sha256(content).hexdigest()


def test_a_sidecar_replaced_within_a_tick_of_the_clock_is_noticed(tmp_path: Path) -> None:
    """A file system may give both the same time: a young sidecar is therefore read again."""
    for keys in (["aa_0"], ["bb_0"]):
        write_audio(tmp_path, 0, keys)
        os.utime(tmp_path / "000000.json", ns=(now := time.time_ns() // 10**9 * 10**9, now))
        assert check(tmp_path).key.to_pylist() == keys


def test_a_copy_of_a_dataset_is_hashed_not_parsed(folder: Path, tmp_path: Path, parsed: list[str]) -> None:
    check(folder)
    del parsed[:]
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy)
    age(tmp_path / "copy")
    os.utime(tmp_path / "copy" / "000000.json", (OLD_S - 5, OLD_S - 5))
    check(tmp_path / "copy")
    assert parsed == []


def test_an_index_of_another_folder_is_not_taken(dataset: Dataset, folder: Path) -> None:
    labels = dataset.labels_folder("weak", "frames")
    other = dataset.labels_folder("weak", "other")
    for where, kind in ((folder, "audio"), (labels, "labels"), (other, "labels")):
        open_index(where, kind)  # type: ignore[arg-type]
    shutil.copy(labels / INDEX_NAME, other / INDEX_NAME)
    assert index_problem(other, "labels") is None  # it does not even claim to be of these
    assert check(other, "labels").shards[0].provenance["teacher"] == "another"
    shutil.copy(labels / INDEX_NAME, folder / INDEX_NAME)
    check(folder)


def test_a_damaged_index_is_never_believed(folder: Path, campaign: int) -> None:
    whole = (check(folder).folder / INDEX_NAME).read_bytes()
    step = 1 if campaign else 50
    for place in range(0, len(whole), step):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        (folder / INDEX_NAME).write_bytes(content)
        assert "damaged" in str(index_problem(folder, "audio"))
        if place % (50 * step) == 0:
            check(folder)
            assert (folder / INDEX_NAME).read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 32, b"x" * 33, None])
def test_what_is_no_index_is_made_anew(folder: Path, content: bytes | None) -> None:
    path = folder / INDEX_NAME
    whole = (check(folder).folder / INDEX_NAME).read_bytes()
    path.write_bytes(whole[:-1] if content is None else content)
    assert str(path) in str(index_problem(folder, "audio"))
    assert check(folder).stored
    assert path.read_bytes() == whole


def sealed(path: Path, body: bytes) -> None:
    path.write_bytes(body + hashlib.sha256(body).digest())


def resealed(folder: Path, old: bytes, new: bytes) -> None:
    body = (folder / INDEX_NAME).read_bytes()[:-32]
    assert body.count(old) == 1
    sealed(folder / INDEX_NAME, body.replace(old, new))


def test_a_forged_index_is_reported(folder: Path) -> None:
    index = check(folder)
    length = index.length[:2].astype("<i8").tobytes()
    resealed(folder, length, length[8:] + length[:8])
    assert "is not what 000000.json says" in str(index_problem(folder, "audio"))
    (folder / INDEX_NAME).unlink()
    check(folder)
    resealed(folder, b"aa_0bb_30000", b"ab_0ba_30000")
    assert "is not what 000000.json says" in str(index_problem(folder, "audio"))
    (folder / INDEX_NAME).unlink()
    # Same size and time, other content: only verify looks into sidecars that seem unchanged.
    index = check(folder)
    sidecar = folder / "000001.json"
    resealed(folder, bytes.fromhex(index.shards[1].sidecar_sha256), bytes(32))
    assert "was made from another 000001.json" in str(index_problem(folder, "audio"))
    sidecar.write_bytes(b"{}")
    assert index_problem(folder, "audio") is None  # the sidecar is at fault, and newer
    with pytest.raises(FormatError, match=r"000001\.json"):
        open_index(folder, "audio")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'{"clip_ms":1000', b'{"clip_ms":1.00'),
        (b'{"clip_ms":1000', b'{"clip_sm":1000'),
        (b'{"source":"examples","stage":"pack"}', b"[" * 36),
        (b'{"source":"examples","stage":"pack"}', b"7" * 36),
        (b'{"damaged":1}', b'{"damaged":"'),
        (b'{"damaged":1}', b'{"damage":[]}'),
    ],
)
def test_a_sealed_file_of_nonsense_is_made_anew(folder: Path, old: bytes, new: bytes) -> None:
    check(folder)
    resealed(folder, old, new)
    assert index_problem(folder, "audio") is not None
    check(folder)
    assert index_problem(folder, "audio") is None


def test_an_order_that_is_none_is_refused(folder: Path) -> None:
    order = check(folder).by_key
    assert order.tolist() != sorted(order.tolist())
    for wrong in (np.roll(order, 1), np.zeros_like(order), order + 1, order - 1):
        check(folder)
        resealed(folder, order.tobytes(), wrong.astype(np.int32).tobytes())
        assert index_problem(folder, "audio") is not None
        if wrong.tolist() != np.roll(order, 1).tolist():  # a permutation that does not sort is for verify to find
            with pytest.raises(FormatError, match="contradicts itself"):
                read_index(folder / INDEX_NAME, "audio")
            check(folder)
        (folder / INDEX_NAME).unlink(missing_ok=True)


@pytest.fixture
def read_only(folder: Path) -> Iterator[Path]:
    """A folder that refuses to be written; root writes anywhere, so for root it is one that is in the way."""
    if os.geteuid() == 0:
        (folder / INDEX_NAME).mkdir()
        yield folder
    else:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_has_its_index_in_memory(read_only: Path) -> None:
    for _ in range(2):
        assert not check(read_only).stored
    assert not list(read_only.glob(".partial-*"))


def test_a_disk_that_takes_no_more_does_no_harm(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_048, hard))
    try:
        index = open_index(folder, "audio")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not index.stored
    assert told(index) == brute_force(folder, "audio")
    assert not (folder / INDEX_NAME).exists()
    assert not list(folder.glob(".partial-*"))


def _open_often(folder: Path, seed: int) -> int:
    rng = random.Random(seed)
    wrong = 0
    for _ in range(8):
        if rng.random() < 0.5:
            (folder / INDEX_NAME).unlink(missing_ok=True)
        wrong += told(open_index(folder, "audio")) != brute_force(folder, "audio")
    return wrong


def test_processes_may_build_at_once(folder: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.starmap(_open_often, [(folder, seed) for seed in range(3)]) == [0, 0, 0]
    check(folder)
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_a_view_outlives_its_file(folder: Path) -> None:
    check(folder)
    index = open_index(folder, "audio")
    before = told(index)
    write_audio(folder, 0, ["other_0"])
    check(folder)
    assert told(index) == before


def test_a_key_in_two_shards_is_named(folder: Path) -> None:
    assert check(folder).repeated_key() is None
    write_audio(folder, 2, ["yy_0", "cc_0", "bb_0"])
    assert open_index(folder, "audio").repeated_key() == "cc_0"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.text("aZ9_-%", min_size=1, max_size=6), max_size=30), min_size=1, max_size=4), st.data())
def test_keys_are_found_by_halving_and_by_hash(groups: list[set[str]], data: st.DataObject) -> None:
    keys = list(dict.fromkeys(key for group in groups for key in sorted(group, reverse=True)))
    index = index_of(keys)
    asked = data.draw(st.lists(st.one_of(st.text("aZ9_-%", max_size=7), st.sampled_from([*keys, "x"])), max_size=20))
    expected = [keys.index(key) if key in keys else -1 for key in asked]
    assert index.rows_of(asked).tolist() == expected
    assert [index._row_of(key) for key in asked] == expected
    assert index.rows_of(pa.array(asked, pa.string())).tolist() == expected


def index_of(keys: list[str]) -> ShardIndex:
    """An index of clips of these keys, without files."""
    from shards._index_build import _sorted
    from shards._index_file import CLIPS_SCHEMA, IndexTables, shards_schema

    zeros = {field.name: [b"\0" * field.type.byte_width if pa.types.is_fixed_size_binary(field.type) else 0] * len(keys)
             for field in CLIPS_SCHEMA}  # fmt: skip
    clips = pa.table([pa.array({**zeros, "key": keys}[field.name], field.type) for field in CLIPS_SCHEMA], CLIPS_SCHEMA)
    return ShardIndex(
        Path(), "audio", IndexTables(shards_schema("audio").empty_table(), _sorted([clips])), stored=False
    )


def test_equal_sidecars_give_an_equal_file(dataset: Dataset, folder: Path) -> None:
    check(folder)
    first = (folder / INDEX_NAME).read_bytes()
    (folder / INDEX_NAME).unlink()
    check(folder)
    assert (folder / INDEX_NAME).read_bytes() == first
    stamps = sidecar_stamps(folder)
    made, read = build_tables(stamps, "audio", None), read_index(folder / INDEX_NAME, "audio")
    assert read is not None
    assert made.shards.equals(read.shards)
    assert made.clips.equals(read.clips)


def test_labels_of_all_shards_in_one_table(dataset: Dataset) -> None:
    """Texts that shards share are stored once, whatever else differs between them."""
    audio = dataset.audio_shards("weak", SPEC.name)[0]
    where = dataset.labels_folder("weak", "mixed")
    write_labels(where, audio, teacher="one")
    shutil.copy(where / "000000.tar", where / "000007.tar")
    other = write_audio(dataset.root / "elsewhere", 7, ["qq_0"])
    write_labels(where, other, teacher="two", failed=frozenset({"qq_0"}))
    index = check(where, "labels")
    assert [shard.provenance["teacher"] for shard in index.shards] == ["one", "two"]
    assert index.shards[0].target is index.shards[1].target
