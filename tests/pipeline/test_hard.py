"""hard.parquet: grouping against plain Python, equal bytes, and files that must not be believed."""

from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import (
    HARD_SCHEMA,
    FormatError,
    MetadataError,
    hard_table,
    read_hard,
    read_strong_tsv,
    read_weak_csv,
    write_hard,
)
from pipeline._sealed import write_sealed

CLIPS = [f"clip{i}_0" for i in range(6)]
EVENT = st.tuples(
    st.sampled_from([*CLIPS, "elsewhere_0"]), st.integers(0, 9_000), st.integers(1, 900), st.sampled_from("abc")
)


def strong_table(rows: list[tuple[str, int, int, str]]) -> pa.Table:
    """(key, onset_ms, length_ms, mid) rows."""
    return pa.table(
        {
            "key": pa.array([key for key, *_ in rows], pa.string()),
            "onset_ms": pa.array([onset for _, onset, _, _ in rows], pa.int32()),
            "offset_ms": pa.array([onset + length for _, onset, length, _ in rows], pa.int32()),
            "mid": pa.array([mid for *_, mid in rows], pa.string()),
        }
    )


@given(
    keys=st.permutations(CLIPS).map(lambda order: order[:4]),
    weak=st.dictionaries(st.sampled_from(CLIPS), st.lists(st.sampled_from("xyz"), max_size=3, unique=True)),
    strong=st.lists(EVENT, max_size=30),
    annotated=st.sets(st.sampled_from(CLIPS)),
)
@settings(max_examples=100)
def test_rows_are_grouped_as_plain_python_would(
    keys: list[str], weak: dict[str, list[str]], strong: list[tuple[str, int, int, str]], annotated: set[str]
) -> None:
    table = hard_table(keys, weak=weak, strong=strong_table(strong), strong_annotated=annotated)
    events = defaultdict(list)
    for key, onset, length, mid in sorted(strong, key=lambda row: (row[1], row[1] + row[2], row[3])):
        events[key].append({"onset_ms": onset, "offset_ms": onset + length, "mid": mid})
    assert table.schema.equals(HARD_SCHEMA, check_metadata=True)
    assert table.to_pylist() == [
        {
            "key": key,
            "weak_mids": weak.get(key),
            "events": events[key],
            "strong_annotated": bool(events[key]) or key in annotated,
        }
        for key in keys
    ]
    weak_table = pa.table(
        {"key": pa.array(weak, pa.string()), "weak_mids": pa.array(list(weak.values()), pa.list_(pa.string()))}
    )
    assert hard_table(iter(keys), weak=weak_table, strong=strong_table(strong), strong_annotated=annotated).equals(
        table
    )


def test_labels_nobody_gave_are_absent() -> None:
    assert hard_table(["a_0"]).to_pylist() == [
        {"key": "a_0", "weak_mids": None, "events": [], "strong_annotated": False}
    ]
    assert hard_table([]).num_rows == 0


def test_real_labels_survive_the_file(shared: Path, tmp_path: Path) -> None:
    weak = read_weak_csv(shared / "data" / "eval_segments.csv")
    strong = read_strong_tsv(shared / "data" / "audioset_eval_strong_subset.tsv")
    table = hard_table(weak.column("key").to_pylist(), weak=weak, strong=strong)
    # A folder that looks like a partition must not become a column.
    path = tmp_path / "fold=1" / "hard.parquet"
    write_hard(path, table)
    back = read_hard(path)
    assert back.schema.equals(HARD_SCHEMA, check_metadata=True)
    assert back.equals(table)
    rows = back.to_pylist()
    assert len(rows) == 20_371
    assert sum(row["strong_annotated"] for row in rows) == 15_646
    assert sum(len(row["events"]) for row in rows) == 103_207
    assert [row["weak_mids"] for row in rows] == weak.column("weak_mids").to_pylist()


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    rows = [(key, 40 * i, 500, "b") for i, key in enumerate(CLIPS)]
    table = hard_table(CLIPS, weak={CLIPS[0]: ["a"]}, strong=strong_table(rows))
    in_pieces = pa.concat_tables([table.slice(0, 2), table.slice(2)]).replace_schema_metadata({"left": "over"})
    write_hard(tmp_path / "one.parquet", table)
    write_hard(tmp_path / "two.parquet", in_pieces)
    write_hard(tmp_path / "three.parquet", read_hard(tmp_path / "one.parquet"))
    first = (tmp_path / "one.parquet").read_bytes()
    assert first == (tmp_path / "two.parquet").read_bytes() == (tmp_path / "three.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.parquet", "three.parquet", "two.parquet"]


def test_a_repeated_clip_is_refused() -> None:
    with pytest.raises(MetadataError, match="hard labels: has clip a_0 more than once"):
        hard_table(["a_0", "b_0", "a_0"])


def test_events_without_a_listener_are_not_written(tmp_path: Path) -> None:
    event = {"onset_ms": 0, "offset_ms": 40, "mid": "a"}
    row = {"key": "a_0", "weak_mids": None, "events": [event], "strong_annotated": False}
    with pytest.raises(MetadataError, match=r"has events for clip a_0, which is not strong-annotated"):
        write_hard(tmp_path / "hard.parquet", pa.Table.from_pylist([row], schema=HARD_SCHEMA))
    empty = {"key": "b_0", "weak_mids": None, "events": [event, event | {"offset_ms": 0}], "strong_annotated": True}
    with pytest.raises(MetadataError, match=r"has an event of clip b_0 whose offset is not after its onset"):
        write_hard(tmp_path / "hard.parquet", pa.Table.from_pylist([row | {"events": []}, empty], schema=HARD_SCHEMA))
    with pytest.raises(MetadataError, match="unlike HARD_SCHEMA; make it with hard_table"):
        write_hard(tmp_path / "hard.parquet", pa.table({"key": ["a_0"]}))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_version_1_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hard.parquet"
    with pytest.raises(FormatError, match=r"hard\.parquet: cannot be read \(No such file"):
        read_hard(path)
    good = hard_table(["a_0"], weak={"a_0": ["x"]})
    pq.write_table(good.replace_schema_metadata(None), path)
    with pytest.raises(FormatError, match="is no hard file, this version of sed-distill reads 1"):
        read_hard(path)
    pq.write_table(good.replace_schema_metadata({"sed_distill.hard": "0"}), path)
    with pytest.raises(FormatError, match=r"has hard version 0, .* reads 1; use the version that wrote it, or pack"):
        read_hard(path)
    pq.write_table(good.drop_columns(["events"]), path)
    with pytest.raises(FormatError, match="unlike version 1; use the version"):
        read_hard(path)
    pq.write_table(good, path)
    with pytest.raises(FormatError, match=r"has no sha256 of itself, .*; sed-distill repair"):
        read_hard(path)
    contradiction = {"key": "a_0", "weak_mids": None, "events": [{"onset_ms": 0, "offset_ms": 1, "mid": "a"}]}
    table = pa.Table.from_pylist([contradiction | {"strong_annotated": False}], schema=HARD_SCHEMA)
    write_sealed(path, HARD_SCHEMA, [table], row_group_size=8)
    with pytest.raises(FormatError, match="has events for clip a_0, which is not strong-annotated; sed-distill repair"):
        read_hard(path)


def test_damage_is_seen_wherever_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "hard.parquet"
    table = hard_table(CLIPS, weak={key: ["/m/09x0r", "/m/0bt9lr"] for key in CLIPS})
    write_hard(path, table)
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"is damaged or not parquet|does not match its own sha256"):
            read_hard(path)
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :])
        with pytest.raises(FormatError, match=r"hard\.parquet: "):
            read_hard(path)
