"""Segment and event lists into typed Arrow tables. Times are exact milliseconds; classes are MIDs.

Official AudioSet files, any subset of their rows, and lists of one's own in the same formats. Errors name file and row.
"""

import csv
import io
import posixpath
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline._errors import MetadataError
from pipeline._grid import CLIP_MS
from pipeline._keys import YTID
from pipeline._rows import SECONDS, Rows, milliseconds, read_text_bytes, unknown_class
from pipeline._specs import Vocabulary
from pipeline._vocabulary import audioset_mids

WEAK_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("ytid", pa.string(), nullable=False),
        pa.field("start_ms", pa.int64(), nullable=False),
        pa.field("end_ms", pa.int64(), nullable=False),
        pa.field("weak_mids", pa.list_(pa.string()), nullable=False),
    ]
)
STRONG_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("ytid", pa.string(), nullable=False),
        pa.field("start_ms", pa.int64(), nullable=False),
        pa.field("onset_ms", pa.int32(), nullable=False),
        pa.field("offset_ms", pa.int32(), nullable=False),
        pa.field("mid", pa.string(), nullable=False),
    ]
)
PATH_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("weak_mids", pa.list_(pa.string()), nullable=False),
    ]
)

# Four groups, no more: with a fifth RE2 leaves its one-pass matcher and takes several times as long.
_WEAK_ROW = rf'(?P<ytid>{YTID}), ?(?P<start>{SECONDS}), ?(?P<end>{SECONDS}), ?(?P<mids>"[^"]+"|[^",\s]+)'
_STRONG_HEADER = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel"
_STRONG_ROW = (
    rf"(?P<ytid>{YTID})_(?P<start>[0-9]{{1,9}})\t(?P<onset>{SECONDS})\t(?P<offset>{SECONDS})\t(?P<mid>[^\t\r\n]*)"
)


def read_weak_csv(path: Path, *, vocabulary: Vocabulary | None = None) -> pa.Table:
    """`YTID, start_s, end_s, "mid,mid"` below any number of `#` lines -> WEAK_SCHEMA, rows in file order.

    Raises MetadataError for the first row that does not parse, ends before it starts, names a class outside
    `vocabulary` (without one: both AudioSet lists) or repeats a clip.
    """
    rows = Rows(path)
    rows.skip(_comment_lines(rows))
    groups = rows.match(_WEAK_ROW, _explain_weak)
    ytid = groups.field("ytid").cast(pa.string())
    start_ms, end_ms = milliseconds(groups.field("start")), milliseconds(groups.field("end"))
    if pc.any(pc.less_equal(end_ms, start_ms)).as_py():
        index = pc.index(pc.less_equal(end_ms, start_ms), True).as_py()
        rows.fail(index, f"has start {start_ms[index]} ms and end {end_ms[index]} ms, needs an end after the start")
    mids = pc.split_pattern(pc.ascii_trim(groups.field("mids"), '"'), ",")
    rows.check_mids(mids.flatten(), vocabulary, lambda entry: int(pc.list_parent_indices(mids)[entry].as_py()))
    key = _segment_key(ytid, start_ms)
    rows.check_unique(key)
    columns = [key, ytid, start_ms, end_ms, mids.cast(pa.list_(pa.string()))]
    return pa.Table.from_arrays(columns, schema=WEAK_SCHEMA)


def read_strong_tsv(path: Path, *, vocabulary: Vocabulary | None = None) -> pa.Table:
    """Official strong labels, one row per event -> STRONG_SCHEMA, rows in file order. Times count from the clip start.

    Raises MetadataError for another header, and for the first row that does not parse, whose event is empty or ends
    after 10 s, or whose class is unknown (as in `read_weak_csv`). Events may overlap and repeat, as official ones do.
    """
    rows = Rows(path)
    if rows.line(0) != _STRONG_HEADER:
        rows.fail(0, f"has header {_short(rows.line(0))}, needs {_STRONG_HEADER!r}; put that line on top")
    rows.skip(1)
    groups = rows.match(_STRONG_ROW, _explain_strong)
    ytid, mid = groups.field("ytid").cast(pa.string()), groups.field("mid").cast(pa.string())
    start_ms = pc.cast(groups.field("start"), pa.int64())
    onset_ms, offset_ms = milliseconds(groups.field("onset")), milliseconds(groups.field("offset"))
    wrong = pc.or_(pc.less_equal(offset_ms, onset_ms), pc.greater(offset_ms, CLIP_MS))
    if pc.any(wrong).as_py():
        index = pc.index(wrong, True).as_py()
        has = f"has an event from {onset_ms[index]} to {offset_ms[index]} ms"
        rows.fail(index, f"{has}, needs an offset after the onset and at most {CLIP_MS} ms from the start of the clip")
    rows.check_mids(mid, vocabulary, int)
    columns = [_segment_key(ytid, start_ms), ytid, start_ms, onset_ms.cast(pa.int32()), offset_ms.cast(pa.int32()), mid]
    return pa.Table.from_arrays(columns, schema=STRONG_SCHEMA)


def read_path_csv(path: Path, *, vocabulary: Vocabulary | None = None) -> pa.Table:
    """A CSV with columns `path` and `mid` (others are ignored) -> PATH_SCHEMA, paths in order of first appearance.

    `path` is relative to the audio folder, with `/`. A cell of `mid` holds one MID or several joined by commas; rows of
    the same path are united. Raises MetadataError as `read_weak_csv` does.
    """
    reader = csv.reader(io.StringIO(read_text_bytes(path).decode(), newline=""), strict=True)
    known = audioset_mids() if vocabulary is None else frozenset(vocabulary.mids)
    mids_of: dict[str, dict[str, None]] = {}
    try:
        header = next(reader, [])
        if header.count("path") != 1 or header.count("mid") != 1:
            shown = _short(",".join(header))
            raise MetadataError(f"{path}:1: has header {shown}, needs one column 'path' and one 'mid'; name them so")
        path_column, mid_column = header.index("path"), header.index("mid")
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                has = f"has {len(cells)} columns, needs {len(header)}"
                raise MetadataError(f"{where}: {has}; put cells that hold commas in double quotes")
            clip_path = posixpath.normpath(cells[path_column])
            if not cells[path_column] or clip_path.startswith(("/", "../")) or clip_path in (".", ".."):
                has = f"has path {_short(cells[path_column])}"
                raise MetadataError(f"{where}: {has}, needs one relative to and inside the audio folder")
            mids = [mid.strip() for mid in cells[mid_column].split(",")]
            for mid in mids:
                if mid not in known:
                    raise MetadataError(f"{where}: {unknown_class(mid, vocabulary)}")
            mids_of.setdefault(clip_path, {}).update(dict.fromkeys(mids))
    except csv.Error as error:
        raise MetadataError(
            f"{path}:{reader.line_num}: is not CSV ({error}); quote cells with double quotes"
        ) from error
    if not mids_of:
        raise MetadataError(f"{path}: has no rows below its header; give the complete file")
    weak_mids = pa.array([list(mids) for mids in mids_of.values()], pa.list_(pa.string()))
    return pa.Table.from_arrays([pa.array(list(mids_of), pa.string()), weak_mids], schema=PATH_SCHEMA)


def _comment_lines(rows: Rows) -> int:
    count = 0
    while count < len(rows.lines) and rows.line(count).startswith("#"):
        count += 1
    return count


def _segment_key(ytid: pa.Array, start_ms: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(ytid, start_ms.cast(pa.string()), "_")


def _explain_weak(line: str) -> str:
    form = '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"'
    try:
        cells = next(csv.reader([line], skipinitialspace=True), [])
    except csv.Error:  # a NUL, which Python before 3.11 does not read
        cells = [""] * 4
    if len(cells) != 4:
        return f"has {len(cells)} columns, needs 4, several MIDs in double quotes: {form}"
    ytid, start, end, mids = cells
    if not mids:
        return "has no class, needs at least one MID; add it or remove the row"
    fallback = f"has {_short(line)}, needs a row as {form}"
    return _explain_ytid(ytid) or _explain_seconds(start) or _explain_seconds(end) or fallback


def _explain_strong(line: str) -> str:
    form = "<YouTube id>_<start ms>, onset_s, offset_s, MID, separated by tabs"
    cells = line.split("\t")
    if len(cells) != 4:
        return f"has {len(cells)} columns, needs 4: {form}"
    ytid, _, start = cells[0].rpartition("_")
    if not re.fullmatch("[0-9]{1,9}", start):
        return f"has segment id {_short(cells[0])}, needs <YouTube id>_<start ms>, for example s9d-2nhuJCQ_30000"
    fallback = f"has {_short(line)}, needs {form}"
    return _explain_ytid(ytid) or _explain_seconds(cells[1]) or _explain_seconds(cells[2]) or fallback


def _explain_ytid(ytid: str) -> str:
    return "" if re.fullmatch(YTID, ytid) else f"has YouTube id {_short(ytid)}, needs 11 characters of A-Z a-z 0-9 _ -"


def _explain_seconds(seconds: str) -> str:
    if re.fullmatch(SECONDS, seconds):
        return ""
    return f"has time {_short(seconds)}, needs seconds from 0 with at most 3 decimals, for example 30.000"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
