"""Segment and event lists: official files against Python's csv module and published counts; bad rows by number."""

import csv
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import (
    PATH_SCHEMA,
    STRONG_SCHEMA,
    WEAK_SCHEMA,
    MetadataError,
    Vocabulary,
    read_path_csv,
    read_strong_tsv,
    read_weak_csv,
)

HEADER = "# Segments csv created\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
ROW = '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
STRONG_HEADER = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
STRONG_ROW = "s9d-2nhuJCQ_30000\t2.627\t7.237\t/m/053hz1\n"


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "list.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "count", "labels"),
    [("balanced_train_segments.csv", 22_160, 52_882), ("eval_segments.csv", 20_371, 51_804)],
)
def test_official_weak_lists_equal_the_csv_module(shared: Path, name: str, count: int, labels: int) -> None:
    path = shared / "data" / name
    table = read_weak_csv(path)
    assert table.schema.equals(WEAK_SCHEMA)
    assert table.num_rows == count
    expected = []
    with path.open(encoding="utf-8", newline="") as file:
        for ytid, start, end, mids in csv.reader((line for line in file if line[0] != "#"), skipinitialspace=True):
            start_ms, end_ms = int(Decimal(start) * 1000), int(Decimal(end) * 1000)
            row = {"key": f"{ytid}_{start_ms}", "ytid": ytid, "start_ms": start_ms, "end_ms": end_ms}
            expected.append({**row, "weak_mids": mids.split(",")})
    assert table.to_pylist() == expected
    assert sum(len(row["weak_mids"]) for row in expected) == labels  # the file's own header states it
    assert len({mid for row in expected for mid in row["weak_mids"]}) == 527


def test_official_strong_list_equals_the_csv_module(shared: Path) -> None:
    path = shared / "data" / "audioset_eval_strong_subset.tsv"
    table = read_strong_tsv(path)
    assert table.schema.equals(STRONG_SCHEMA)
    assert table.num_rows == 103_207
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    expected = [(key, int(Decimal(on) * 1000), int(Decimal(off) * 1000), mid) for key, on, off, mid in rows]
    columns = (table.column(name).to_pylist() for name in ("key", "onset_ms", "offset_ms", "mid"))
    assert list(zip(*columns, strict=True)) == expected
    assert len(set(table.column("key").to_pylist())) == 15_646
    assert table.column("ytid").to_pylist() == [key[:11] for key, *_ in expected]
    assert table.column("start_ms").to_pylist() == [int(key[12:]) for key, *_ in expected]


def test_every_millisecond_of_a_segment_is_exact(tmp_path: Path) -> None:
    rows = [f"aaaaaaaaaaa_{ms}\t{ms // 1000}.{ms % 1000:03d}\t10\t/m/09x0r\n" for ms in range(10_000)]
    onsets = read_strong_tsv(written(tmp_path, STRONG_HEADER + "".join(rows))).column("onset_ms").to_pylist()
    assert onsets == list(range(10_000))
    large = 'aaaaaaaaaaa, 999999.998, 999999.999, "/m/09x0r"\n'
    assert read_weak_csv(written(tmp_path, large)).column("end_ms").to_pylist() == [999_999_999]


EXPECTED = [
    {
        "key": "--PJHxphWEs_30000",
        "ytid": "--PJHxphWEs",
        "start_ms": 30_000,
        "end_ms": 40_000,
        "weak_mids": ["/m/09x0r", "/t/dd00088"],
    }
]


@pytest.mark.parametrize(
    "content",
    [
        HEADER + ROW,
        ROW,
        "# one comment\n" + ROW,
        "\ufeff" + HEADER + ROW,
        (HEADER + ROW).replace("\n", "\r\n"),
        HEADER + ROW.rstrip("\n"),
        HEADER + ROW + "\n\r\n",
        HEADER + ROW.replace(", ", ","),
        HEADER + ROW.replace(".000", ""),
        HEADER + ROW.replace(".000", ".0"),
    ],
)
def test_subsets_and_line_ends(tmp_path: Path, content: str) -> None:
    assert read_weak_csv(written(tmp_path, content)).to_pylist() == EXPECTED


def test_a_single_class_needs_no_quotes(tmp_path: Path) -> None:
    assert read_weak_csv(written(tmp_path, "aaaaaaaaaaa,0,10,/m/09x0r\n")).column("weak_mids").to_pylist() == [
        ["/m/09x0r"]
    ]


def test_a_vocabulary_of_ones_own_replaces_the_official_lists(tmp_path: Path) -> None:
    own = Vocabulary(("/x/1",), ("Mine",))
    path = written(tmp_path, 'aaaaaaaaaaa, 0.000, 10.000, "/x/1"\n')
    assert read_weak_csv(path, vocabulary=own).num_rows == 1
    with pytest.raises(MetadataError, match=r"list\.csv:1: has class '/x/1', needs one of AudioSet's"):
        read_weak_csv(path)
    with pytest.raises(MetadataError, match=r"list\.csv:1: has class '/m/09x0r', needs one of the vocabulary's 1"):
        read_weak_csv(written(tmp_path, 'aaaaaaaaaaa, 0.000, 10.000, "/m/09x0r"\n'), vocabulary=own)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("aaaaaaaaaaa, 0.000, 10.000", "has 3 columns, needs 4"),
        ('aaaaaaaaaaa, 0.000, 10.000, "/m/09x0r", 1', "has 5 columns, needs 4"),
        ("aaaaaaaaaaa, 0.000, 10.000, /m/09x0r,/m/0bt9lr", "has 5 columns, needs 4, several MIDs in double quotes"),
        ("", "has 0 columns"),
        ("# a comment among the rows", "has 1 columns"),
        ('aaaaaaaaaaa, zero, 10.000, "/m/09x0r"', "has time 'zero', needs seconds"),
        ('aaaaaaaaaaa, -1.000, 10.000, "/m/09x0r"', "has time '-1.000'"),
        ('aaaaaaaaaaa, 0.000, 1e1, "/m/09x0r"', "has time '1e1'"),
        ('aaaaaaaaaaa, 0.000, nan, "/m/09x0r"', "has time 'nan'"),
        ('aaaaaaaaaaa, 0.0005, 10.000, "/m/09x0r"', "has time '0.0005', needs seconds from 0 with at most 3 decimals"),
        ('aaaaaaaaaaa, 10.000, 10.000, "/m/09x0r"', "has start 10000 ms and end 10000 ms"),
        ('aaaaaaaaaaa, 11.000, 10.000, "/m/09x0r"', "needs an end after the start"),
        ('aaaaaaaaaa, 0.000, 10.000, "/m/09x0r"', "has YouTube id 'aaaaaaaaaa', needs 11 characters"),
        ('aaaaaaaaaa!, 0.000, 10.000, "/m/09x0r"', "has YouTube id 'aaaaaaaaaa!'"),
        ('Yaaaaaaaaaaa, 0.000, 10.000, "/m/09x0r"', "has YouTube id 'Yaaaaaaaaaaa'"),
        ('aaaaaaaaaaa, 0.000, 10.000, "/m/09x0r,/m/nothing"', "has class '/m/nothing', needs one of AudioSet's"),
        ('aaaaaaaaaaa, 0.000, 10.000, "Speech"', "has class 'Speech'"),
        ('aaaaaaaaaaa, 0.000, 10.000, "/m/09x0r,"', "has an empty class"),
        ('aaaaaaaaaaa, 0.000, 10.000, ""', "has no class, needs at least one MID"),
        ('aaaaaaaaaaa, 0.000, 10.000, "/m/09x0r" ', "needs a row as --PJHxphWEs"),
        ('aaaaaaaaaaa, 0.000, 10.000, "/m/09\0x0r', r"needs"),
        ('--PJHxphWEs, 30.000, 40.000, "/m/0bt9lr"', "has clip --PJHxphWEs_30000, which row 4 already has"),
    ],
)
def test_a_bad_weak_row_is_named_by_its_number(tmp_path: Path, row: str, problem: str) -> None:
    path = written(tmp_path, HEADER + ROW + row + "\n" + 'zzzzzzzzzzz, 0.000, 10.000, "/m/09x0r"\n')
    with pytest.raises(MetadataError) as caught:
        read_weak_csv(path)
    assert str(caught.value).startswith(f"{path}:5: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_first_of_several_bad_rows_is_named(tmp_path: Path) -> None:
    bad = ROW.replace("--PJHxphWEs", "aaaaaaaaaaa").replace("/m/09x0r", "/m/x")
    path = written(tmp_path, HEADER + ROW + bad + bad.replace("aaa", "bbb"))
    with pytest.raises(MetadataError, match=r":5: has class '/m/x'"):
        read_weak_csv(path)


def test_rows_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    content = HEADER.encode() + ROW.encode() + b'aaaaaaaaaaa, 0.000, 10.000, "/m/\xe9"\n'
    for read in (read_weak_csv, read_strong_tsv, read_path_csv):
        with pytest.raises(MetadataError, match=r":5: has byte 0xe9, which is not UTF-8"):
            read(written(tmp_path, content))


@pytest.mark.parametrize("read", [read_weak_csv, read_strong_tsv, read_path_csv])
def test_nothing_to_read_is_refused(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(MetadataError, match=r"absent\.csv: cannot be read \(No such file"):
        read(tmp_path / "absent.csv")
    for content in ("", "\n\n", HEADER, STRONG_HEADER, "path,mid\n"):
        with pytest.raises(
            MetadataError, match=r"list\.csv(:1)?: (is empty|has no rows|has header|has 1 columns|has 2 col)"
        ):
            read(written(tmp_path, content))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("s9d-2nhuJCQ_30000\t0.000\t10.000", "has 3 columns, needs 4"),
        ("s9d-2nhuJCQ_30000 0.000 10.000 /m/09x0r", "has 1 columns"),
        ("s9d-2nhuJCQ\t0.000\t10.000\t/m/09x0r", "has segment id 's9d-2nhuJCQ', needs <YouTube id>_<start ms>"),
        ("s9d-2nhuJC_30000\t0.000\t10.000\t/m/09x0r", "has YouTube id 's9d-2nhuJC'"),
        ("s9d-2nhuJCQ_30000\t0.0001\t10.000\t/m/09x0r", "has time '0.0001'"),
        ("s9d-2nhuJCQ_30000\t0.000\tend\t/m/09x0r", "has time 'end'"),
        ("s9d-2nhuJCQ_30000\t2.000\t2.000\t/m/09x0r", "has an event from 2000 to 2000 ms, needs an offset after"),
        (
            "s9d-2nhuJCQ_30000\t9.000\t10.001\t/m/09x0r",
            "to 10001 ms, needs an offset after the onset and at most 10000",
        ),
        ("s9d-2nhuJCQ_30000\t0.000\t10.000\t/m/nothing", "has class '/m/nothing'"),
        ("s9d-2nhuJCQ_30000\t0.000\t10.000\t", "has an empty class"),
    ],
)
def test_a_bad_strong_row_is_named_by_its_number(tmp_path: Path, row: str, problem: str) -> None:
    path = written(tmp_path, STRONG_HEADER + STRONG_ROW + row + "\n" + STRONG_ROW)
    with pytest.raises(MetadataError) as caught:
        read_strong_tsv(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert problem in str(caught.value)


def test_strong_events_may_repeat_but_the_header_must_be_there(tmp_path: Path) -> None:
    table = read_strong_tsv(written(tmp_path, ("\ufeff" + STRONG_HEADER + STRONG_ROW * 2).replace("\n", "\r\n")))
    assert (
        table.to_pylist()
        == [
            {
                "key": "s9d-2nhuJCQ_30000",
                "ytid": "s9d-2nhuJCQ",
                "start_ms": 30_000,
                "onset_ms": 2_627,
                "offset_ms": 7_237,
                "mid": "/m/053hz1",
            }
        ]
        * 2
    )
    with pytest.raises(MetadataError, match=r":1: has header 's9d-2nhuJCQ_30000"):
        read_strong_tsv(written(tmp_path, STRONG_ROW))


def test_a_custom_list_unites_paths_and_ignores_other_columns(tmp_path: Path) -> None:
    content = (
        "licence,path,mid\r\n"
        'CC0,dogs/a.wav,/m/0bt9lr\r\n"CC0, ""so""","b, c.wav","/m/09x0r, /t/dd00088"\r\n'
        'CC0,./dogs//a.wav,"/m/09x0r,/m/0bt9lr"\r\n\r\n'
    )
    table = read_path_csv(written(tmp_path, content))
    assert table.schema.equals(PATH_SCHEMA)
    assert table.to_pylist() == [
        {"path": "dogs/a.wav", "weak_mids": ["/m/0bt9lr", "/m/09x0r"]},
        {"path": "b, c.wav", "weak_mids": ["/m/09x0r", "/t/dd00088"]},
    ]


def test_the_list_of_real_recordings(shared: Path) -> None:
    table = read_path_csv(shared / "recordings" / "labelled.csv")
    assert table.num_rows == 128
    assert all((shared / "recordings" / path).is_file() for path in table.column("path").to_pylist())
    assert len({mid for mids in table.column("weak_mids").to_pylist() for mid in mids}) == 50


@pytest.mark.parametrize(
    ("content", "row", "problem"),
    [
        ("file,mid\na.wav,/m/09x0r\n", 1, "needs one column 'path' and one 'mid'"),
        ("path,mid,mid\na.wav,/m/09x0r,/m/09x0r\n", 1, "needs one column 'path' and one 'mid'"),
        ("path,mid\na.wav,/m/09x0r\nb.wav,/m/09x0r,/m/0bt9lr\n", 3, "has 3 columns, needs 2"),
        ("path,mid\na.wav,/m/09x0r\nb.wav,Dog\n", 3, "has class 'Dog'"),
        ("path,mid\na.wav,\n", 2, "has an empty class"),
        ("path,mid\n,/m/09x0r\n", 2, "has path ''"),
        ("path,mid\n/etc/a.wav,/m/09x0r\n", 2, "needs one relative to and inside the audio folder"),
        ("path,mid\na/../../b.wav,/m/09x0r\n", 2, "needs one relative to and inside the audio folder"),
        ('path,mid\n"a.wav,/m/09x0r\n', 2, "is not CSV"),
    ],
)
def test_a_bad_custom_row_is_named_by_its_number(tmp_path: Path, content: str, row: int, problem: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(MetadataError) as caught:
        read_path_csv(path)
    assert str(caught.value).startswith(f"{path}:{row}: ")
    assert problem in str(caught.value)


def test_tables_fit_one_another(tmp_path: Path) -> None:
    weak = read_weak_csv(written(tmp_path, 's9d-2nhuJCQ, 30.000, 40.000, "/m/09x0r"\n'))
    strong = read_strong_tsv(written(tmp_path, STRONG_HEADER + STRONG_ROW))
    assert weak.column("key").to_pylist() == strong.column("key").to_pylist()
    assert pa.types.is_string(weak.schema.field("key").type)
