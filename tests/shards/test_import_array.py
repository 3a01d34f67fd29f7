"""Clip logits of EfficientAT: every index and array that is one, and those that are not."""

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline import FormatError, MetadataError, UsageError, audioset_weak_527
from shards import ForeignFiles, import_labels
from shards.foreign._arrays import open_efficientat
from shards.foreign._names import NameMatcher
from tests.shards.import_examples import Example, stored_labels, write_example


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return write_example(tmp_path_factory.mktemp("array") / "data")


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def write_efficientat(folder: Path, names: Sequence[str], logits: npt.NDArray[np.generic]) -> ForeignFiles:
    path, index = folder / "logits.npy", folder / "index.json"
    np.save(path, logits)
    index.write_text(json.dumps({name: row for row, name in enumerate(names)}))
    return ForeignFiles(format="efficientat", files=(path,), index=(index,))


@pytest.mark.parametrize("spelling", ["json", "list", "csv"])
def test_efficientat_with_every_index(example: Example, tmp_path: Path, spelling: str) -> None:
    order = np.random.default_rng(3).permutation(len(example.keys))
    names = [example.keys[i].rpartition("_")[0] for i in order]
    source = write_efficientat(tmp_path, names, example.weak[order])
    if spelling == "list":
        source.index[0].write_text(json.dumps(names))
    elif spelling == "csv":
        rows = "".join(f"{name},{row}\n" for row, name in reversed(list(enumerate(names))))
        source.index[0].write_text("filename,index\n" + rows)
    report = import_labels(example.dataset, "strong", spelling, source)
    assert (report.stored, report.lag) == (len(names), None)
    target = example.dataset.label_shards("strong", spelling)[0].target
    assert (target.axes, target.kind, target.shape) == (("class",), "logit", (527,))
    stored = stored_labels(example.dataset, "strong", spelling)
    for row, key in enumerate(example.keys):
        assert (stored[key].astype(np.float16).view(np.uint16) == example.weak[row].view(np.uint16)).all()


def test_an_index_that_maps_to_other_clips_is_refused(example: Example, tmp_path: Path) -> None:
    """As a published one once did."""
    names = [example.names[i] for i in np.random.default_rng(2).permutation(len(example.names))]
    with pytest.raises(UsageError, match="a wrong index"):
        import_labels(example.dataset, "strong", "x", write_efficientat(tmp_path, names, example.weak))


def test_a_pickle_is_never_loaded_and_the_remedy_works(example: Example, tmp_path: Path) -> None:
    source = write_efficientat(tmp_path, example.names, example.weak)
    index = tmp_path / "index.pkl"

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "harm",)  # type: ignore[return-value]

    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        index.write_bytes(pickle.dumps(Harm(), protocol))
        with pytest.raises(UsageError, match="is a pickle"):
            import_labels(example.dataset, "strong", "x", replace(source, index=(index,)))
        with pytest.raises(UsageError, match="is a pickle"):
            import_labels(example.dataset, "strong", "x", replace(source, files=(index,)))
        assert not (tmp_path / "harm").exists()
        rows = {name: row * 300 for row, name in enumerate(example.names)}
        index.write_bytes(pickle.dumps(rows, protocol))
        with pytest.raises(UsageError) as refused:
            import_labels(example.dataset, "strong", "x", replace(source, index=(index,)))
        script = str(refused.value).split('python -c "')[1].split('"')[0]
        subprocess.run([sys.executable, "-c", script, index, tmp_path / "index.json"], check=True)
        assert json.loads((tmp_path / "index.json").read_text()) == rows


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("", "is no index"),
        ("name,row\na,1\n", "is no index"),
        ("filename,index\na\n", "is no index"),
        ("filename,index\na,one\n", "is no index"),
        ('{"a": 1', "is no index"),
        ('{"a": 1.5}', "needs a name and a row"),
        ('{"a": true}', "needs a name and a row"),
        ('{"a": {"b": 1}}', "needs a name and a row"),
        ("[1, 2]", "needs a name and a row"),
        ('{"a": -1}', "rows 0 to 119"),
        ('{"a": 120}', "rows 0 to 119"),
        ('{"a": 3, "b": 3}', "row 3 to two names"),
        ("[" * 100_000, "is no index"),
        ('{"\\ud800": 0}', r"has the name '\\ud800', which is no Unicode text"),
        ('["a\\udc80"]', r"has the name 'a\\udc80', which is no Unicode text"),
    ],
)
def test_indexes_that_are_wrong(example: Example, tmp_path: Path, index: str, message: str) -> None:
    source = write_efficientat(tmp_path, example.names, example.weak)
    source.index[0].write_text(index)
    with pytest.raises(FormatError, match=message):
        import_labels(example.dataset, "strong", "x", source)


def test_a_name_that_an_index_has_twice_is_refused(example: Example, tmp_path: Path) -> None:
    source = write_efficientat(tmp_path, example.names, example.weak)
    source.index[0].write_text(f'{{"{example.names[0]}": 0, "{example.names[0]}": 1}}')
    with pytest.raises(MetadataError, match="both are clip"):
        import_labels(example.dataset, "strong", "x", source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((120, 527)), "holds <f8 of shape"),
        (np.zeros((120, 447), np.float16), r"holds <f2 of shape \(120, 447\)"),
        (np.zeros((0, 527), np.float16), r"of shape \(0, 527\)"),
        (np.array([{}], dtype=object), r"holds \|O of shape"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f2', 'fortran_order': False, 'shape': (10**9, 527)}", "is not .npy"),
        (b"\x93NUMPY\x09\x00", "version"),
        (npy_header("-" * 8_000 + "1"), "is not .npy"),
        (npy_header("[" * 8_000), "is not .npy"),
        (npy_header("(" * 90 + ")" * 90), "is not .npy"),
        (
            npy_header("{'descr': '<f2', 'fortran_order': False, 'shape': (" + "-" * 8_000 + "120, 527), }"),
            "is not .npy",
        ),
        (npy_header("{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (120, 527), }"), "is not .npy"),
        (npy_header("{'descr': '<f2', 'fortran_order': False, 'shape': (" + "1, " * 3_000 + "), }"), "of shape"),
        (npy_header("{'descr': '<f2', 'fortran_order': False, 'shape': (999999999999999, 527), }"), "bytes of values"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 20_000, "is not .npy"),
        (b"", "is not .npy"),
    ],
)
def test_arrays_that_are_wrong(example: Example, tmp_path: Path, content: object, message: str) -> None:
    source = write_efficientat(tmp_path, example.names, example.weak)
    if isinstance(content, bytes):
        source.files[0].write_bytes(content)
    else:
        np.save(source.files[0], content, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=message):
        import_labels(example.dataset, "strong", "x", source)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_arrays_as_numpy_writes_them(
    example: Example, tmp_path: Path, version: tuple[int, int], order: str, dtype: type
) -> None:
    source = write_efficientat(tmp_path, example.names, example.weak)
    array = np.asarray(example.weak.astype(dtype), order=order)  # type: ignore[call-overload]
    with source.files[0].open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    labels = open_efficientat(source.files[0], source.index[0], NameMatcher(frozenset(example.keys), "audioset"))
    for row, key in enumerate(example.keys):
        assert (labels.read(key, 10_000, 1_000) == example.weak[row]).all()


def test_an_array_that_is_cut_off_is_refused(example: Example, tmp_path: Path) -> None:
    source = write_efficientat(tmp_path, example.names, example.weak)
    content = source.files[0].read_bytes()
    for size in (len(content) - 1, len(content) // 2, 100, 60, 7):
        source.files[0].write_bytes(content[:size])
        with pytest.raises(FormatError, match=r"is not .npy|bytes of values"):
            import_labels(example.dataset, "strong", "x", source)


def test_columns_sorted_by_mid_are_refused_and_named(example: Example, tmp_path: Path) -> None:
    by_mid = np.argsort(audioset_weak_527().mids)
    source = write_efficientat(tmp_path, example.names, example.weak[:, by_mid])
    with pytest.raises(UsageError, match="'sorted by MID' fits"):
        import_labels(example.dataset, "strong", "x", source)
