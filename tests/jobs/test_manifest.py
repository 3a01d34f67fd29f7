"""The manifest: shards of clips never change once given, whatever is added later."""

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs._manifest import merge_manifest, recover_rows
from pipeline import FormatError, UsageError
from shards import MISSING_BYTES, ManifestRow, by_shard, read_manifest, rows_sha256, spell_source, write_manifest


def row(key: str, *, shard: int = 0, size: int = 10) -> ManifestRow:
    return ManifestRow(key, shard, f"{key}.wav" if size >= 0 else "", size)


def test_new_manifest_is_sorted_and_cut() -> None:
    merged = merge_manifest([row("c_0"), row("a_0"), row("b_0")], (), (), clips_per_shard=2)
    assert [(entry.key, entry.shard) for entry in merged.rows] == [("a_0", 0), ("b_0", 0), ("c_0", 1)]
    assert {shard: len(rows) for shard, rows in by_shard(merged.rows).items()} == {0: 2, 1: 1}


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.sets(st.integers(0, 40), min_size=1), min_size=1, max_size=5),
    clips_per_shard=st.integers(1, 7),
    commit=st.booleans(),
)
def test_clips_keep_their_shard(calls: list[set[int]], clips_per_shard: int, commit: bool) -> None:
    rows: tuple[ManifestRow, ...] = ()
    shard_of: dict[str, int] = {}
    for numbers in calls:
        committed = {entry.shard for entry in rows} if commit else set()
        wanted = [row(f"k{number:02d}_0") for number in numbers]
        merged = merge_manifest(wanted, rows, committed, clips_per_shard=clips_per_shard)
        rows = merged.rows
        now = {entry.key: entry.shard for entry in rows}
        assert len(now) == len(rows)
        assert shard_of.items() <= now.items(), "what was given stays"
        assert {entry.key for entry in wanted} <= set(now)
        new_shards = {shard for key, shard in now.items() if key not in shard_of}
        assert new_shards.isdisjoint(shard_of.values()), "new clips come in new shards"
        assert max(len(group) for group in by_shard(rows).values()) <= clips_per_shard
        assert merged.vanished == (len(shard_of.keys() - {entry.key for entry in wanted}) if commit else 0)
        assert merge_manifest(wanted, rows, committed, clips_per_shard=3).rows == rows, "the same call changes nothing"
        shard_of = now


@settings(max_examples=80, deadline=None)
@given(
    calls=st.lists(st.sets(st.integers(0, 40), min_size=1), min_size=1, max_size=4),
    clips_per_shard=st.integers(1, 7),
    lost=st.sets(st.integers(0, 20)),
    order=st.randoms(use_true_random=False),
)
def test_a_lost_manifest_comes_back_by_the_same_calls(
    calls: list[set[int]], clips_per_shard: int, lost: set[int], order: Random
) -> None:
    """In any order, also if shards were lost with it; what is left keeps its clips and its rows."""
    wanted = [[row(f"k{number:02d}_0", size=number % 5 - 1) for number in sorted(numbers)] for numbers in calls]
    before: tuple[ManifestRow, ...] = ()
    for rows in wanted:
        before = merge_manifest(rows, before, {old.shard for old in before}, clips_per_shard=clips_per_shard).rows
    sidecars = {shard: packed(shard, rows) for shard, rows in by_shard(before).items() if shard not in lost}
    now: tuple[ManifestRow, ...] = ()
    order.shuffle(wanted)
    for rows in wanted:
        recovered, others = recover_rows(rows, now, sidecars.values())
        own = [entry for entry in rows if entry.key not in others]
        now = merge_manifest(own, (*now, *recovered), sidecars, clips_per_shard=clips_per_shard).rows
        sidecars |= {shard: packed(shard, rows) for shard, rows in by_shard(now).items() if shard not in sidecars}
    left = by_shard(entry for entry in before if entry.shard not in lost)
    listed = by_shard(now)
    for shard, rows_of_shard in left.items():
        assert listed.get(shard, rows_of_shard) == rows_of_shard
        # Clips that no single call has together any more, no call can list.
        assert shard in listed or not any({entry.key for entry in rows_of_shard} <= {e.key for e in w} for w in wanted)
    stored = [key for sidecar in sidecars.values() for key in (*sidecar.clips.key, *sidecar.rejected.key)]
    assert sorted(stored) == sorted(entry.key for entry in before), "every clip once"
    if not lost and all(shard in listed for shard in left):
        assert now == before


def packed(shard: int, rows: Sequence[ManifestRow]) -> Any:
    """What `recover_rows` reads of the sidecar of a shard that was packed from `rows`."""
    missing = [entry.key for entry in rows if entry.bytes == MISSING_BYTES]
    return SimpleNamespace(
        path=Path(f"{shard:06d}.json"),
        shard=shard,
        clips=SimpleNamespace(key=tuple(entry.key for entry in rows if entry.bytes != MISSING_BYTES)),
        rejected=SimpleNamespace(key=tuple(missing), reason=("missing",) * len(missing)),
        provenance={"manifest_sha256": rows_sha256(rows)},
    )


def test_rows_of_recordings_that_were_missing_then_or_are_other_ones_now() -> None:
    then = [row("a_0", shard=3, size=MISSING_BYTES), row("b_0", shard=3)]
    sidecars = [packed(3, then)]
    assert recover_rows([row("a_0"), row("b_0"), row("c_0")], (), sidecars) == (tuple(then), frozenset())
    assert recover_rows([row("b_0")], (), sidecars) == ((), {"a_0", "b_0"})
    assert recover_rows([row("a_0", size=11), row("b_0", size=11)], then, sidecars) == ((), frozenset())
    with pytest.raises(UsageError, match=r"000003\.json: no manifest has its clips"):
        recover_rows([row("a_0"), row("b_0", size=11)], (), sidecars)


def test_changed_recording_of_a_committed_shard_is_refused() -> None:
    earlier = merge_manifest([row("a_0"), row("b_0")], (), (), clips_per_shard=1).rows
    changed = [row("a_0", size=11), row("b_0")]
    with pytest.raises(UsageError, match=r"a_0\.wav has 11 bytes, shard 000000 was packed from 10; put the old"):
        merge_manifest(changed, earlier, {0}, clips_per_shard=1)
    # Not packed yet: nothing depends on the old one.
    assert merge_manifest(changed, earlier, {1}, clips_per_shard=1).rows[0].bytes == 11
    cut = [row("a_0")._replace(duration_ms=10_000), row("b_0")]
    with pytest.raises(UsageError, match="duration_ms 10000 instead of None"):
        merge_manifest(cut, earlier, {0}, clips_per_shard=1)
    moved = [row("a_0")._replace(source="elsewhere/a_0.wav"), row("b_0")]
    assert merge_manifest(moved, earlier, {0, 1}, clips_per_shard=1).rows == earlier


def test_missing_recordings() -> None:
    earlier = merge_manifest([row("a_0", size=MISSING_BYTES), row("b_0")], (), (), clips_per_shard=1).rows
    now = [row("a_0"), row("b_0", size=MISSING_BYTES)]
    committed = merge_manifest(now, earlier, {0, 1}, clips_per_shard=1)
    assert (committed.rows, committed.found_later, committed.vanished) == (earlier, 1, 1)
    assert [entry.bytes for entry in merge_manifest(now, earlier, (), clips_per_shard=1).rows] == [10, MISSING_BYTES]


def test_written_and_read_back(tmp_path: Path) -> None:
    strange = b"b \xff\xfc%/x?.wav"
    rows = (
        ManifestRow("a_0", 0, spell_source(strange), 5),
        ManifestRow("a_10000", 0, spell_source(strange), 5, 10_000, 3_000, 3_000),
        ManifestRow("b_0", 3, "", MISSING_BYTES, expected_ms=8_500),
    )
    path = tmp_path / "a=1" / "manifest.parquet"
    write_manifest(path, rows)
    assert read_manifest(path) == rows
    assert read_manifest(path, shard=0) == rows[:2]
    assert read_manifest(path, shard=3) == rows[2:]
    assert read_manifest(path, shard=1) == ()
    assert os.fsencode(rows[0].recording(Path("/folder"))) == b"/folder/" + strange
    once = path.read_bytes()
    write_manifest(path, rows)
    assert path.read_bytes() == once
    assert rows_sha256(rows[:2]) != rows_sha256(rows[:1])
    assert rows_sha256(rows[:1]) != rows_sha256((rows[0]._replace(bytes=6),))


def test_damaged_manifest(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    for content in (b"", b"PAR1 nonsense PAR1"):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"manifest\.parquet: is damaged or not parquet"):
            read_manifest(path)
    with pytest.raises(FormatError, match="cannot be read"):
        read_manifest(tmp_path / "absent.parquet")
