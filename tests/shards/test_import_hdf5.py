"""Hostile and damaged HDF5: refused for what it states, before the library takes memory or opens files by it."""

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import FormatError, UsageError
from shards import ForeignFiles, import_labels
from shards.foreign._arrays import open_pretrained_sed
from shards.foreign._hdf5 import ForeignHdf5
from shards.foreign._names import NameMatcher

NAMES = [f"YAAAAAAAAA{i:02d}.mp3" for i in range(5)]
KEYS = frozenset(f"AAAAAAAAA{i:02d}_0" for i in range(5))


def good(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("filenames", data=np.array(NAMES, dtype="S16"))
        file.create_dataset("strong_logits", data=_logits())
    return path


def _logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 447, 250)).astype(np.float16)


def read_all(path: Path) -> int:
    labels = open_pretrained_sed(path, NameMatcher(KEYS, "audioset"))
    try:
        return sum(labels.read(key, 160_000, 16_000).shape == (447, 250) for key in labels.order)
    finally:
        labels.close()


def link(kind: str) -> Callable[[h5py.File], None]:
    def write(file: h5py.File) -> None:
        del file["strong_logits"]
        if kind == "soft":
            file["elsewhere"] = _logits()
            file["strong_logits"] = h5py.SoftLink("/elsewhere")
        elif kind == "external":
            file["strong_logits"] = h5py.ExternalLink("other.h5", "strong_logits")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((5, 447, 250), np.float16)
            layout[:] = h5py.VirtualSource("other.h5", "strong_logits", (5, 447, 250))
            file.create_virtual_dataset("strong_logits", layout)
        elif kind == "external storage":
            outside = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("strong_logits", (5, 447, 250), np.float16, external=outside)

    return write


def other(**options: object) -> Callable[[h5py.File], None]:
    def write(file: h5py.File) -> None:
        del file["strong_logits"]
        file.create_dataset("strong_logits", **options)  # type: ignore[arg-type]

    return write


def group(file: h5py.File) -> None:
    del file["strong_logits"]
    file.create_group("strong_logits")


def long_name(file: h5py.File) -> None:
    del file["filenames"]
    file.create_dataset("filenames", data=[*NAMES[:-1], "x" * 5000], dtype=h5py.string_dtype())


def unknown_filter(file: h5py.File) -> None:
    del file["strong_logits"]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((1, 447, 250))
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((5, 447, 250))
    h5py.h5d.create(file.id, b"strong_logits", h5py.h5t.IEEE_F16LE, space, plan)


def bomb(file: h5py.File) -> None:
    del file["strong_logits"]
    shape = (5, 447, 250)
    rows = file.create_dataset("strong_logits", shape, np.float16, chunks=(1, 447, 250), compression="gzip")
    packer = zlib.compressobj(9)
    content = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    for row in range(5):
        rows.id.write_direct_chunk((row, 0, 0), content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (link("soft"), "is a link"),
        (link("external"), "is a link"),
        (link("virtual"), "keeps its values in other files"),
        (link("external storage"), "keeps its values in other files"),
        (group, "is a Group"),
        (lambda file: file.__delitem__("strong_logits"), "has no dataset 'strong_logits' but filenames"),
        (other(shape=(10**9, 447, 250), dtype=np.float16), "is unfinished"),
        (other(shape=(10**9, 447, 250), dtype=np.float16, chunks=(1, 447, 250)), "is unfinished"),
        (other(shape=(10**9, 447, 250), dtype=np.float16, chunks=(10**4, 447, 250)), "has chunks of 2235000000 bytes"),
        (other(data=np.zeros((5, 250, 447), np.float16)), "needs .* of N x 447 x 250"),
        (other(data=np.zeros((5, 447, 250), np.int8)), "is int8"),
        (other(data=np.zeros((5, 447, 250), np.complex64)), "is complex64"),
        (other(data=np.zeros((0, 447, 250), np.float16)), r"of shape \(0, 447, 250\)"),
        (other(data=3.0), r"of shape \(\)"),
        (other(data=h5py.Empty(np.float16)), r"of shape \(\)"),
        (other(shape=(5,), dtype=h5py.ref_dtype), "is object of shape"),
        (other(data=np.zeros(5, [("a", np.float16)])), "is compound"),
        (other(shape=(5, 447), dtype=h5py.vlen_dtype(np.float16)), "other than 250 values|is unfinished"),
        (other(data=np.zeros((4, 447, 250), np.float16)), "5 names and 4 labels"),
        (long_name, "states a length of 5000, needs at most 512"),
        (unknown_filter, "compressed with filter 32015"),
        (bomb, "has a chunk of other than the 223500 bytes it states"),
        (other(data=_logits(), compression="lzf"), "compressed with filter 32000"),
    ],
)
def test_what_is_not_a_plain_array_is_refused(tmp_path: Path, spoil: Callable[[h5py.File], None], message: str) -> None:
    good(tmp_path / "other.h5")
    path = good(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        spoil(file)
    with pytest.raises(FormatError, match=message):
        read_all(path)


@pytest.mark.parametrize(("stored", "lie"), [(16, 0xF0000000), (16, 600), (250, 0x70000000), (250, 251)])
def test_a_length_that_lies_is_found_before_memory_is_taken_by_it(tmp_path: Path, stored: int, lie: int) -> None:
    path = tmp_path / "a.h5"
    content = ragged(path)
    assert read_all(path) == 5
    length = struct.pack("<I", stored)
    # Records are a length, an address in eight bytes and a number: two neighbours have the first two in common.
    record = next(
        i
        for i in range(len(content) - 32)
        if content[i : i + 4] == length and content[i : i + 12] == content[i + 16 : i + 28]
    )
    content[record : record + 4] = struct.pack("<I", lie)
    path.write_bytes(content)
    with pytest.raises(FormatError, match=f"states a length of {lie}"):
        read_all(path)


def ragged(path: Path) -> bytearray:
    with h5py.File(path, "w") as file:
        file.create_dataset("filenames", data=NAMES, dtype=h5py.string_dtype())
        rows = file.create_dataset("strong_logits", (5, 447), dtype=h5py.vlen_dtype(np.float16))
        for row, label in enumerate(_logits()):
            rows[row] = list(label)
    return bytearray(path.read_bytes())


def test_a_type_that_makes_the_library_crash_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    content = ragged(path)
    with h5py.File(path) as file:
        described = file["strong_logits"].id.get_type().encode()[2:]
    assert content.count(described) == 1
    path.write_bytes(content.replace(described, described[:1] + b"\x05" + described[2:]))
    assert read_all(path) == 5


@pytest.mark.parametrize("size", [0xC4, 0, 1 << 63, (1 << 64) - 1])
def test_a_heap_that_makes_the_library_loop_for_ever_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.h5"
    content = ragged(path)
    first = content.index(b"GCOL") + 16 + 8  # the size of the first object
    assert content[first : first + 8] == struct.pack("<Q", 16)
    content[first : first + 8] = struct.pack("<Q", size)
    path.write_bytes(content)
    with pytest.raises(FormatError, match="has no 16 bytes as number"):
        read_all(path)


def test_a_checksum_that_does_not_match_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    logits = _logits()
    with h5py.File(path, "w") as file:
        file.create_dataset("filenames", data=np.array(NAMES, dtype="S16"))
        rows = file.create_dataset("strong_logits", data=logits, chunks=(2, 447, 250), fletcher32=True, shuffle=True)
        place = rows.id.get_chunk_info_by_coord((2, 0, 0)).byte_offset
    assert read_all(path) == 5
    content = bytearray(path.read_bytes())
    content[place + 777] ^= 16
    path.write_bytes(content)
    with pytest.raises(FormatError, match="does not match its checksum"):
        read_all(path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (2, 100, 77)},
        {"chunks": (5, 447, 250), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (1, 3, 250), "fletcher32": True},
        {"chunks": (3, 447, 250), "compression": "gzip"},
    ],
)
@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4"])
def test_rows_are_what_the_library_reads(tmp_path: Path, dtype: str, options: dict[str, object]) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=_logits().astype(dtype), **options)
    with h5py.File(path) as theirs:
        expected = theirs["x"][:]
    with ForeignHdf5(path) as ours:
        column = ours.column("x", dtypes=("float16", "float32"), shape=(447, 250))
        for start, stop in ((0, 5), (1, 2), (3, 5)):
            np.testing.assert_array_equal(column.read(start, stop), expected[start:stop])


@pytest.mark.parametrize("options", [{}, {"chunks": (7,)}, {"chunks": (64,), "compression": "gzip", "shuffle": True}])
def test_texts_are_what_the_library_reads(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "a.h5"
    texts = ["", "é", *(f"{'x' * (i % 300)}{i}" for i in range(2000))]
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=texts, dtype=h5py.string_dtype(), **options)
    with ForeignHdf5(path) as file:
        assert [text.decode() for text in file.column("x", dtypes=("text",)).read(0, len(texts))] == texts


def test_files_cut_off_anywhere_are_refused(tmp_path: Path) -> None:
    content = good(tmp_path / "a.h5").read_bytes()
    path = tmp_path / "cut.h5"
    for size in [*range(0, 4096, 97), *range(4096, len(content), 60_013)]:
        path.write_bytes(content[:size])
        with pytest.raises(FormatError):
            read_all(path)


def test_flipped_bits_make_errors_or_labels_never_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    content = good(tmp_path / "a.h5").read_bytes()
    path = tmp_path / "flipped.h5"
    refused = 0
    for _ in range(150):
        spoiled = bytearray(content)
        spoiled[int(rng.integers(0, 4096))] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(spoiled)
        try:
            read_all(path)
        except FormatError:
            refused += 1
    assert refused


def test_what_is_no_hdf5_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"PAR1" * 100)
    with pytest.raises(FormatError, match="is not HDF5"):
        ForeignHdf5(path)
    with pytest.raises(FormatError, match="cannot be read"):
        ForeignHdf5(tmp_path / "none.h5")


def test_without_h5py_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[hdf5\]'"):
        ForeignHdf5(tmp_path / "a.h5")


def test_other_formats_need_no_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    source = ForeignFiles(format="sat", files=(tmp_path / "none.parquet",), tail="zero", chunk_ms=2_000)
    with pytest.raises(UsageError, match="not a dataset"):
        import_labels(tmp_path, "weak", "x", source)
