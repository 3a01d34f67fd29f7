"""Top-k labels of CED and SAT: published layouts, against the arrays they were made of."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import FormatError, UsageError, audioset_weak_527
from shards import ForeignFiles, import_labels
from shards.foreign._chunks import Tail, open_sat
from shards.foreign._names import NameMatcher
from tests.shards.import_examples import Example, stored_labels, write_example

K = 20


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return write_example(tmp_path_factory.mktemp("topk") / "data")


@pytest.fixture(scope="module")
def probabilities(example: Example) -> npt.NDArray[np.float32]:
    """[clips, 527]"""
    return 1 / (1 + np.exp(-example.weak.astype(np.float32)))


def samples_of(example: Example) -> dict[str, int]:
    shards = example.dataset.audio_shards("strong", "mono-1000hz-10000ms")
    return {key: n for side in shards for key, n in zip(side.clips.key, side.clips.samples, strict=True)}


def write_ced(
    folder: Path,
    names: Sequence[str],
    dense: npt.NDArray[np.float32],
    *,
    seeds: bool = False,
    k: int = K,
    rank: int = 0,
) -> ForeignFiles:
    classes = np.argsort(-dense, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(dense, classes, axis=1)
    path, index = folder / f"logits_ep1_{rank}.h5", folder / f"logits_ep1_{rank}.parquet"
    with h5py.File(path, "w") as file:
        file.create_dataset("topk_values", data=values.astype(np.float16), maxshape=(None, K))
        file.create_dataset("topk_indexes", data=classes.astype(np.int16), maxshape=(None, K))
        if seeds:
            file.create_dataset("seeds", data=np.arange(len(names), dtype=np.int32), maxshape=(None,))
    columns = {
        "filename": list(names),
        "start": pa.array([0.0] * len(names), pa.float32()),
        "end": pa.array([9.98] * len(names), pa.float32()),
    }
    pq.write_table(pa.table(columns), index, compression="brotli")
    return ForeignFiles(format="ced", files=(path,), index=(index,), tail="zero")


@pytest.mark.parametrize(
    ("rule", "fill"),
    [
        ("zero", lambda smallest: 0.0),
        ("last-mean", lambda smallest: smallest / (527 - K)),
        ("last-half", lambda smallest: smallest / 2),
        ("constant=0.0002", lambda smallest: np.minimum(smallest, 0.0002)),
    ],
)
def test_ced_with_every_tail(
    example: Example, probabilities: npt.NDArray[np.float32], tmp_path: Path, rule: str, fill: object
) -> None:
    names = [f"{key.rpartition('_')[0]}_{int(key.rpartition('_')[2]) // 1000}.000.wav" for key in example.keys]
    source = replace(write_ced(tmp_path, names, probabilities), tail=rule)
    labels = rule.replace("=", "-")
    report = import_labels(example.dataset, "strong", labels, source)
    assert (report.stored, report.lag) == (len(names), None)
    side = example.dataset.label_shards("strong", labels)[0]
    assert (side.target.axes, side.target.kind, side.target.context_ms) == (("class",), "probability", 10_000)
    assert side.target.vocabulary == audioset_weak_527()
    assert (side.provenance["tail"], side.provenance["chunk_ms"]) == (rule, 10_000)
    assert side.provenance["files"][0]["name"] == "logits_ep1_0.h5"
    stored = stored_labels(example.dataset, "strong", labels)
    for row, key in enumerate(example.keys):
        likeliest = np.argsort(-probabilities[row], kind="stable")[:K]
        top = probabilities[row, likeliest].astype(np.float16).astype(np.float32)
        expected = np.full(527, fill(top.min()), np.float32)  # type: ignore[operator]
        expected[likeliest] = top
        np.testing.assert_array_equal(stored[key], expected.astype(np.float16).astype(np.float32))


def test_ced_of_several_processes(example: Example, probabilities: npt.NDArray[np.float32], tmp_path: Path) -> None:
    parts = [
        write_ced(tmp_path, [example.names[i] for i in rows], probabilities[rows], rank=rank)
        for rank, rows in enumerate(np.array_split(np.arange(len(example.keys)), 3))
    ]
    source = ForeignFiles(
        format="ced", files=sum((p.files for p in parts), ()), index=sum((p.index for p in parts), ()), tail="zero"
    )
    assert import_labels(example.dataset, "strong", "ranks", source).stored == len(example.keys)
    swapped = replace(source, index=(source.index[1], source.index[0], source.index[2]))
    with pytest.raises(UsageError, match=r"a wrong index|many rows"):
        import_labels(example.dataset, "strong", "swapped", swapped)
    twice = replace(source, files=source.files * 2, index=source.index * 2)
    with pytest.raises(FormatError, match="two rows for chunk 0"):
        import_labels(example.dataset, "strong", "x", twice)


@pytest.mark.parametrize("stored", [40, 80, 119])
def test_ced_with_an_index_longer_than_the_file(
    example: Example,
    probabilities: npt.NDArray[np.float32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored: int,
) -> None:
    """Also where the file ends with a batch of the index."""
    monkeypatch.setattr("shards.foreign._parquet._BATCH_ROWS", 40)
    whole = write_ced(tmp_path, example.names, probabilities)
    short = write_ced(tmp_path, example.names[:stored], probabilities[:stored], rank=1)
    with pytest.raises(FormatError, match=f"has {stored} rows of values .* does not have as many"):
        import_labels(example.dataset, "strong", "x", replace(short, index=whole.index))
    assert import_labels(example.dataset, "strong", f"batches{stored}", whole).stored == 120


def test_views_with_seeds_have_to_be_asked_for(
    example: Example, probabilities: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    source = write_ced(tmp_path, example.names, probabilities, seeds=True)
    with pytest.raises(UsageError, match=r"a seed for every row.*--augmented"):
        import_labels(example.dataset, "strong", "views", source)
    import_labels(example.dataset, "strong", "views", replace(source, augmented=True))
    assert "augmented" in example.dataset.label_shards("strong", "views")[0].provenance["views"]


def test_absent_cannot_be_stored_and_says_why() -> None:
    with pytest.raises(UsageError, match="--tail absent: a label has a value for every class"):
        ForeignFiles(format="ced", files=(Path("a"),), index=(Path("b"),), tail="absent")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v, i: (v, i + 520), "a class outside of 0 to 526"),
        (lambda v, i: (v, -i - 1), "a class outside of 0 to 526"),
        (lambda v, i: (v, i * 0), "names a class twice"),
        (lambda v, i: (v * 8, i), "needs probabilities"),
        (lambda v, i: (np.log(v), i), "needs probabilities"),
        (lambda v, i: (v[:-1], i[:-1]), "does not have as many"),
        (lambda v, i: (v, i[:-1]), "does not have as many"),
        (lambda v, i: (v, i[:, :-1]), "needs as many"),
        (lambda v, i: (v, i.astype(np.int64)), "is int64"),
        (lambda v, i: (np.repeat(v, 10, 1), np.repeat(i, 10, 1)), "1 to 128"),
    ],
)
def test_ced_files_that_are_wrong(
    example: Example, probabilities: npt.NDArray[np.float32], tmp_path: Path, spoil: object, message: str
) -> None:
    source = write_ced(tmp_path, example.names, probabilities)
    with h5py.File(source.files[0], "a") as file:
        values, classes = spoil(file["topk_values"][:], file["topk_indexes"][:])  # type: ignore[operator]
        del file["topk_values"], file["topk_indexes"]
        file["topk_values"], file["topk_indexes"] = values, classes
    with pytest.raises(FormatError, match=message):
        import_labels(example.dataset, "strong", "x", source)


def test_a_row_with_nan_costs_its_clip(
    example: Example, probabilities: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    source = write_ced(tmp_path, example.names, probabilities)
    with h5py.File(source.files[0], "a") as file:
        file["topk_values"][7, 3] = np.nan
    assert import_labels(example.dataset, "strong", "nan", source).failed == {"not_finite": 1}


def write_sat(
    path: Path,
    rows: list[tuple[str, float, float]],
    dense: npt.NDArray[np.float32],
    *,
    k: int = 10,
    lists: bool = False,
) -> ForeignFiles:
    classes = np.argsort(-dense, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(dense, classes, axis=1)
    spell = list if lists else lambda numbers: ";".join(str(number) for number in numbers)
    columns = {
        "filename": [name for name, _, _ in rows],
        "start": [start for _, start, _ in rows],
        "end": [end for _, _, end in rows],
        "prob": [spell(row) for row in values.round(4)],
        "idxs": [spell(row) for row in classes],
    }
    pq.write_table(pa.table(columns), path)
    return ForeignFiles(format="sat", files=(path,), tail="zero", chunk_ms=4_000)


def sat_rows(
    example: Example, chunk_s: int
) -> tuple[list[tuple[str, float, float]], npt.NDArray[np.float32], list[int]]:
    """A row for every chunk of half a chunk or more, as published; and which clips lack their short last one."""
    rng = np.random.default_rng(8)
    rows, dense, short = [], [], []
    samples = samples_of(example)
    for i, key in enumerate(example.keys):
        length_s = samples[key] / 1000
        for start in range(0, 10, chunk_s):
            if length_s <= start:
                break
            if length_s - start < chunk_s / 2:
                short.append(i)
                break
            rows.append((example.names[i], float(start), min(start + chunk_s, length_s)))
            dense.append(1 / (1 + np.exp(-(example.weak[i].astype(np.float32) + rng.normal(0, 0.5, 527)))))
    return rows, np.array(dense, np.float32), short


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("chunk_s", [2, 4])
def test_sat_makes_frames_of_chunks(example: Example, tmp_path: Path, chunk_s: int, lists: bool) -> None:
    rows, dense, short = sat_rows(example, chunk_s)
    order = np.random.default_rng(1).permutation(len(rows))
    source = write_sat(tmp_path / "a.parquet", [rows[i] for i in order], dense[order], lists=lists)
    labels = f"sat{chunk_s}{lists}".lower()
    report = import_labels(example.dataset, "strong", labels, replace(source, chunk_ms=chunk_s * 1000))
    assert short
    assert report.failed == {"absent": len(short)}
    assert f"({chunk_s}000 ms each)" in report.failures[0][2]
    target = example.dataset.label_shards("strong", labels)[0].target
    frames = -(-10 // chunk_s)
    assert (target.axes, target.shape) == (("class", "time"), (527, frames))
    assert (target.hop_ms, target.context_ms) == (chunk_s * 1000, chunk_s * 1000)
    stored = stored_labels(example.dataset, "strong", labels)
    expected = {key: np.zeros((527, frames), np.float32) for i, key in enumerate(example.keys) if i not in short}
    key_of = dict(zip(example.names, example.keys, strict=True))
    for (name, start, _), row in zip(rows, dense, strict=True):
        if key_of[name] in expected:
            likeliest = np.argsort(-row, kind="stable")[:10]
            expected[key_of[name]][likeliest, int(start) // chunk_s] = row[likeliest].round(4)
    assert set(stored) == set(expected)
    for key in expected:
        np.testing.assert_array_equal(stored[key], expected[key].astype(np.float16).astype(np.float32))


def test_a_missing_chunk_costs_its_clip(example: Example, tmp_path: Path) -> None:
    rows, dense, short = sat_rows(example, 2)
    first = next(i for i in range(len(example.keys)) if i not in short)
    gone = [i for i, (name, start, _) in enumerate(rows) if name == example.names[first] and start == 2.0]
    kept = [i for i in range(len(rows)) if i not in gone]
    source = write_sat(tmp_path / "a.parquet", [rows[i] for i in kept], dense[kept])
    report = import_labels(example.dataset, "strong", "gap", replace(source, chunk_ms=2_000))
    assert report.failed == {"absent": len(short) + 1}
    assert (example.keys[first], "absent", "the file has no row for chunk 1 of 5 (2000 ms each)") in report.failures


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 1.0}, "none of the chunks of 4 s"),
        ({"end": 5.0}, "none of the chunks of 4 s"),
        ({"start": -4.0, "end": 0.0}, "none of the chunks of 4 s"),
        ({"end": float("nan")}, "none of the chunks of 4 s"),
        ({"prob": ";".join(["0.1"] * 9 + ["oops"])}, "no list of numbers"),
        ({"prob": "0.5"}, "one number for all"),
        ({"idxs": ";".join(["3"] * 10)}, "names a class twice"),
        ({"filename": "x" * 600}, "a text of 600 bytes"),
        ({"filename": None}, "1 nulls"),
        ({"prob": "0;" * 5000}, "a text of 10000 bytes"),
    ],
)
def test_sat_files_that_are_wrong(example: Example, tmp_path: Path, change: dict[str, object], message: str) -> None:
    rows, dense, _ = sat_rows(example, 4)
    source = write_sat(tmp_path / "a.parquet", rows, dense)
    table = pq.read_table(source.files[0])
    listed = table.to_pylist()
    listed[4] |= change
    pq.write_table(pa.Table.from_pylist(listed, schema=table.schema), source.files[0])
    with pytest.raises((FormatError, UsageError), match=message):
        import_labels(example.dataset, "strong", "x", source)


def test_repeated_chunks_other_columns_and_damage_are_refused(example: Example, tmp_path: Path) -> None:
    rows, dense, _ = sat_rows(example, 4)
    twice = write_sat(tmp_path / "a.parquet", [*rows, rows[0]], np.concatenate([dense, dense[:1]]))
    with pytest.raises(FormatError, match="two rows for chunk 0"):
        import_labels(example.dataset, "strong", "x", twice)
    table = pq.read_table(twice.files[0]).rename_columns(["filename", "from", "to", "prob", "idxs"])
    pq.write_table(table, twice.files[0])
    with pytest.raises(FormatError, match="needs filename, prob, idxs, start, end"):
        import_labels(example.dataset, "strong", "x", twice)
    content = twice.files[0].read_bytes()
    twice.files[0].write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="damaged"):
        import_labels(example.dataset, "strong", "x", twice)


def test_flipped_bytes_of_parquet_make_errors_or_labels_never_anything_else(example: Example, tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    rows, dense, _ = sat_rows(example, 4)
    path = write_sat(tmp_path / "a.parquet", rows[:60], dense[:60]).files[0]
    content = path.read_bytes()
    refused = 0
    for _ in range(200):
        spoiled = bytearray(content)
        spoiled[int(rng.integers(0, len(content)))] = int(rng.integers(0, 256))
        path.write_bytes(spoiled)
        matcher = NameMatcher(frozenset(example.keys), "audioset")
        try:
            labels = open_sat(path, matcher, chunk_ms=4_000, clip_ms=10_000, tail=Tail("zero"))
        except (FormatError, UsageError):
            refused += 1
        else:
            assert labels.target.shape == (527, 3)
    assert refused > 20
