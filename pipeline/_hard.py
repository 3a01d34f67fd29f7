"""`hard.parquet` of a split: the labels that people gave, one row per clip.

`weak_mids` null means unknown. Where `strong_annotated` is false nobody listened for events, so strong labels are
absent, not zero; where it is true an empty `events` means that the clip holds none.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline._errors import FormatError, MetadataError
from pipeline._sealed import read_sealed, write_sealed

_VERSION_KEY = b"sed_distill.hard"
_VERSION = b"1"
_REMEDY = "sed-distill repair says which command writes it again"
_EVENT = pa.struct(
    [
        pa.field("onset_ms", pa.int32(), nullable=False),
        pa.field("offset_ms", pa.int32(), nullable=False),
        pa.field("mid", pa.string(), nullable=False),
    ]
)
HARD_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("weak_mids", pa.list_(pa.string())),
        pa.field("events", pa.list_(_EVENT), nullable=False),
        pa.field("strong_annotated", pa.bool_(), nullable=False),
    ],
    metadata={_VERSION_KEY: _VERSION},
)


def hard_table(
    keys: Iterable[str],
    *,
    weak: pa.Table | Mapping[str, Collection[str]] | None = None,
    strong: pa.Table | None = None,
    strong_annotated: Collection[str] = (),
) -> pa.Table:
    """Hard labels of the clips `keys`, one row each in their order -> HARD_SCHEMA.

    `weak`: columns `key` and `weak_mids`, or MIDs by key; clips it lacks get null. `strong`: columns `key`, `onset_ms`,
    `offset_ms`, `mid`; its clips are strong-annotated, and so are those named in `strong_annotated` (without events
    they are known to be silent). Rows of other clips are left out. Raises MetadataError if a key is repeated.
    """
    key = pa.array(keys, pa.string())
    events, annotated = _events(key, strong)
    if strong_annotated:
        annotated = pc.or_(annotated, pc.is_in(key, value_set=pa.array(sorted(strong_annotated), pa.string())))
    table = pa.Table.from_arrays([key, _weak_mids(key, weak), events, annotated], schema=HARD_SCHEMA)
    problem = _problem(table)
    if problem:
        raise MetadataError(f"hard labels: {problem}")
    return table


def write_hard(path: Path, table: pa.Table) -> None:
    """Write a table of HARD_SCHEMA so that `path` is complete or untouched. The same table gives the same bytes.

    Raises MetadataError if the table is not one of HARD_SCHEMA or contradicts itself.
    """
    if not table.schema.equals(HARD_SCHEMA):
        has = f"table has columns {table.schema.names} or types unlike HARD_SCHEMA"
        raise MetadataError(f"{path}: {has}; make it with hard_table")
    # Chunks decide page borders and field metadata is written too: without them the bytes are a function of the rows.
    table = table.combine_chunks().cast(HARD_SCHEMA)
    problem = _problem(table)
    if problem:
        raise MetadataError(f"{path}: {problem}")
    write_sealed(path, HARD_SCHEMA, [table], row_group_size=1 << 17)


def read_hard(path: Path) -> pa.Table:
    """The table of HARD_SCHEMA at `path`, every bit of it verified.

    Raises FormatError if the file is missing, damaged, of another version or contradicts itself.
    """
    table = read_sealed(path, HARD_SCHEMA, _REMEDY)
    problem = _problem(table)
    if problem:
        raise FormatError(f"{path}: {problem}; {_REMEDY}")
    return table


def _weak_mids(key: pa.Array, weak: pa.Table | Mapping[str, Collection[str]] | None) -> pa.Array:
    if weak is None:
        return pa.nulls(len(key), HARD_SCHEMA.field("weak_mids").type)
    if isinstance(weak, Mapping):
        mids = [list(weak[name]) if name in weak else None for name in key.to_pylist()]
        return pa.array(mids, HARD_SCHEMA.field("weak_mids").type)
    row = pc.index_in(key, value_set=one_chunk(weak.column("key")))
    return one_chunk(weak.column("weak_mids")).take(row)


def _events(key: pa.Array, strong: pa.Table | None) -> tuple[pa.Array, pa.Array]:
    """Per clip its events, sorted by onset, offset and MID, and whether `strong` has the clip at all."""
    if strong is None:
        strong = pa.schema([pa.field("key", pa.string()), *_EVENT]).empty_table()
    clip = pc.index_in(strong.column("key"), value_set=key)
    wanted = strong.append_column("clip", clip).filter(pc.is_valid(clip))
    wanted = wanted.sort_by([(name, "ascending") for name in ("clip", "onset_ms", "offset_ms", "mid")])
    counts = np.bincount(wanted.column("clip").to_numpy(), minlength=len(key))
    bounds = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    columns = [one_chunk(wanted.column(field.name)).cast(field.type) for field in _EVENT]
    events = pa.StructArray.from_arrays(columns, fields=list(_EVENT))
    return pa.ListArray.from_arrays(bounds, events), pa.array(counts > 0)


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; `combine_chunks` gives an array or a chunked array, by version of pyarrow."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _problem(table: pa.Table) -> str:
    """What makes the rows contradict themselves, or nothing."""
    key, events = table.column("key"), table.column("events")
    if any(table.column(field.name).null_count for field in HARD_SCHEMA if not field.nullable):
        return "has a null outside weak_mids, which alone may be unknown"
    if pc.count_distinct(key).as_py() != len(key):
        repeated = pc.value_counts(key).to_pylist()
        clip = next(entry["values"] for entry in repeated if entry["counts"] > 1)
        return f"has clip {clip} more than once, needs one row per clip"
    unheard = pc.and_(pc.invert(table.column("strong_annotated")), pc.greater(pc.list_value_length(events), 0))
    if pc.any(unheard).as_py():
        return f"has events for clip {key[pc.index(unheard, True).as_py()]}, which is not strong-annotated"
    each = pc.list_flatten(events)
    empty = pc.less_equal(pc.struct_field(each, "offset_ms"), pc.struct_field(each, "onset_ms"))
    if pc.any(empty).as_py():
        clip = key[pc.list_parent_indices(events)[pc.index(empty, True).as_py()].as_py()]
        return f"has an event of clip {clip} whose offset is not after its onset"
    return ""
