"""The manifest file: every row comes back, whole or by shard, in whatever order it was given."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import FormatError
from shards import ManifestRow, by_shard, read_manifest, write_manifest

MS = st.integers(0, 10**7)
ROWS = st.lists(
    st.builds(ManifestRow, st.uuids().map(str), st.integers(0, 5), st.text(), st.integers(-1, 2**50), MS, MS, MS),
    unique_by=lambda row: row.key,
    max_size=12,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manifest") / "manifest.parquet"


@given(rows=ROWS)
@settings(max_examples=40, deadline=None)
def test_no_row_is_lost_whatever_the_order(path: Path, rows: list[ManifestRow]) -> None:
    write_manifest(path, rows)
    assert sorted(read_manifest(path)) == sorted(rows)
    for shard in range(6):
        of_shard = tuple(row for row in rows if row.shard == shard)
        assert read_manifest(path, shard=shard) == by_shard(rows).get(shard, ()) == of_shard


def test_a_row_group_cannot_disappear(tmp_path: Path) -> None:
    """With 8 rows one flipped bit makes 0 of them in the footer, where no checksum is."""
    path = tmp_path / "manifest.parquet"
    rows = tuple(ManifestRow(f"clip{i}_0", 0, f"{i}.wav", 1000 + i) for i in range(8))
    write_manifest(path, rows)
    whole = path.read_bytes()
    counts = [match.start() + 1 for match in re.finditer(b"\x16\x10", whole)]  # thrift: an i64 that is 8
    assert len(counts) > 2
    for position in counts:
        path.write_bytes(whole[:position] + b"\0" + whole[position + 1 :])
        try:
            assert read_manifest(path) == rows
        except FormatError:
            continue


@pytest.mark.parametrize("shard", [None, 0])
def test_a_pipe_or_a_device_is_no_manifest(tmp_path: Path, shard: int | None) -> None:
    path = tmp_path / "manifest.parquet"
    os.mkfifo(path)
    with pytest.raises(FormatError, match=r"manifest\.parquet: cannot be read .*a pipe or a device"):
        read_manifest(path, shard=shard)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(FormatError, match=r"manifest\.parquet: cannot be read .*a pipe or a device"):
        read_manifest(path, shard=shard)


def test_one_shard_of_a_table_too_big_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(path, [ManifestRow(f"{n}_0", 0, "a", 1) for n in range(9)])
    monkeypatch.setattr("pipeline._sealed.MAX_TABLE_ROWS", 8)
    with pytest.raises(FormatError, match="has 9 rows"):
        read_manifest(path, shard=0)


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")) / "manifest.parquet"
    rows = (ManifestRow("a_0", 3, "a", 1),)
    write_manifest(path, rows)
    assert read_manifest(path) == read_manifest(path, shard=3) == rows
