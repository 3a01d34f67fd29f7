"""Foreign HDF5 files, read with suspicion: what a file states is checked before anything of it is believed.

HDF5 can point outside itself (external links, external storage, virtual datasets), load code to undo a filter, declare
any shape without storing it, expand a chunk beyond its stated size, and state any length for a text. So the library
only says what there is and where it lies; the bytes of plain datasets are read and undone here, within bounds.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline import FormatError, UsageError
from shards.foreign._heap import RECORD_BYTES, GlobalHeap
from shards.foreign._names import printable

MAX_NAME_BYTES = 512

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAX_CHUNK_BYTES = 64 << 20
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, zlib.error)  # what h5py raises


def require_h5py() -> Any:
    """The h5py module. Raises UsageError where it is not installed."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise UsageError("HDF5 label files need the package h5py: pip install '.[hdf5]'") from error
    return h5py


class ForeignHdf5:
    """`with ForeignHdf5(path) as file: rows = file.column("strong_logits", dtypes=("float16",), shape=(447, 250))`.

    Raises FormatError for a file that is missing, damaged or not HDF5.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        h5py = require_h5py()
        try:
            self._raw = path.open("rb")
        except OSError as error:
            raise FormatError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        try:
            signature = self._raw.read(len(_SIGNATURE))
            if signature != _SIGNATURE:
                has = f"is not HDF5 but begins with {signature!r}"
                raise FormatError(f"{path}: {has}; download it again or check --format")
            self._file = h5py.File(path, "r", locking=False)
            if self._file.id.get_create_plist().get_sizes() != (8, 8):
                raise FormatError(f"{path}: has addresses of other than 8 bytes; repack it with h5repack")
        except FormatError:
            self._raw.close()
            raise
        except _DAMAGED as error:
            self._raw.close()
            raise self._damaged(error) from error

    def __enter__(self) -> "ForeignHdf5":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def has(self, name: str) -> bool:
        try:
            return self._file.get(name, getlink=True) is not None
        except _DAMAGED as error:
            raise self._damaged(error) from error

    def column(self, name: str, *, dtypes: Sequence[str], shape: tuple[int | None, ...] = ()) -> "Column":
        """Dataset `name` of shape (rows, *shape), None for any size, of one of the numpy types `dtypes`.

        "text" among `dtypes` means strings of at most 512 bytes, "ragged float16" that the last of `shape` is stored as
        arrays of that length. Raises FormatError for anything else.
        """
        try:
            dataset = self._plain_dataset(name)
            column = Column(f"{self.path}: {name!r}", dataset, self._raw, shape, dtypes)
        except _DAMAGED as error:
            raise self._damaged(error) from error
        return column

    def _plain_dataset(self, name: str) -> Any:
        h5py = require_h5py()
        link = self._file.get(name, getlink=True)
        if link is None:
            has = printable(", ".join(sorted(self._file)[:10])[:200]) or "nothing"
            raise FormatError(f"{self.path}: has no dataset {name!r} but {has}; check --format")
        if not isinstance(link, h5py.HardLink):
            raise FormatError(
                f"{self.path}: {name!r} is a link ({type(link).__name__}), needs a dataset of the file itself; "
                "copy what it points to into one file"
            )
        dataset = self._file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise FormatError(f"{self.path}: {name!r} is a {type(dataset).__name__}, needs a dataset; check --format")
        if dataset.is_virtual or dataset.external is not None:
            raise FormatError(
                f"{self.path}: {name!r} keeps its values in other files, needs them inside; repack it with h5repack"
            )
        return dataset

    def _damaged(self, error: BaseException) -> FormatError:
        return FormatError(f"{self.path}: is damaged ({_one_line(error)}); download it again")


class Column:
    """One checked dataset. `len(column)` rows; `read(start, stop)` gives them as one array."""

    def __init__(
        self, where: str, dataset: Any, raw: BinaryIO, shape: tuple[int | None, ...], dtypes: Sequence[str]
    ) -> None:
        self._where = where
        self._dataset = dataset
        self._raw = raw
        self._heap = GlobalHeap(raw)
        self._last: tuple[tuple[int, ...], npt.NDArray[np.uint8]] | None = None  # the chunk read last
        self._check_type(shape, dtypes)
        self._check_storage()

    def __len__(self) -> int:
        return int(self._dataset.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """With the length of ragged rows as the last."""
        stored: tuple[int, ...] = self._dataset.shape
        return stored if self._ragged is None else (*stored, self._most_items)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop); texts are an array of bytes objects. Raises FormatError if they cannot be read."""
        try:
            stored = self._chunked(start, stop) if self._dataset.chunks else self._contiguous(start, stop)
            if not self._most_items:
                values: npt.NDArray[Any] = stored.view(self._dataset.dtype)[..., 0]
                return values
            item_bytes = 1 if self._ragged is None else self._ragged.itemsize
            contents = self._heap.content(stored.reshape(-1, RECORD_BYTES), item_bytes, self._most_items)
            if self._ragged is None:
                return np.array(contents, dtype=object)
            if {len(content) for content in contents} != {self._most_items * item_bytes}:
                raise ValueError(f"has rows of other than {self._most_items} values")
            rows = np.frombuffer(b"".join(contents), self._ragged)
            return rows.reshape(*stored.shape[:-1], self._most_items)
        except _DAMAGED as error:
            raise FormatError(f"{self._where}: is damaged ({_one_line(error)}); download the file again") from error

    def _check_type(self, shape: tuple[int | None, ...], dtypes: Sequence[str]) -> None:
        h5py = require_h5py()
        stored: tuple[int, ...] = self._dataset.shape or ()
        dtype = self._dataset.dtype
        text, ragged = h5py.check_string_dtype(dtype), h5py.check_vlen_dtype(dtype)
        self._ragged: np.dtype[Any] | None = None
        self._most_items = 0  # of a text or ragged row; 0 where values are stored in place
        if text is not None:
            found = "text" if text.length is None or text.length <= MAX_NAME_BYTES else f"text of {text.length} bytes"
            self._most_items = MAX_NAME_BYTES if text.length is None else 0
        elif ragged is not None:
            found = f"ragged {ragged}"
            if found in dtypes and shape[-1] is not None:
                self._ragged, self._most_items = ragged, shape[-1]
                shape = shape[:-1]
        else:
            found = str(dtype.newbyteorder("=")) if dtype.names is None else "compound"
        needed = (None, *shape)
        fits = len(stored) == len(needed) and all(n in (None, has) for n, has in zip(needed, stored, strict=True))
        if found not in dtypes or not fits or not stored[0]:
            wanted = " x ".join("N" if size is None else str(size) for size in needed)
            raise FormatError(
                f"{self._where}: is {found} of shape {stored}, needs {' or '.join(dtypes)} of {wanted}; check --format"
            )
        self._item = RECORD_BYTES if self._most_items else dtype.itemsize

    def _check_storage(self) -> None:
        """No filter but the common ones, no chunk too large, and every value stored: what is not reads as zero."""
        dataset, plan = self._dataset, self._dataset.id.get_create_plist()
        self._filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        unknown = sorted(set(self._filters) - {_DEFLATE, _SHUFFLE, _FLETCHER32})
        if unknown:
            raise FormatError(
                f"{self._where}: is compressed with filter {unknown[0]}, needs gzip or none; "
                "repack it with h5repack -f GZIP=1"
            )
        if dataset.chunks is None:
            stored, needed, unit = dataset.id.get_storage_size(), dataset.size * self._item, "bytes"
        else:
            self._chunk_bytes = int(np.prod(dataset.chunks, dtype=object)) * self._item
            if self._chunk_bytes > _MAX_CHUNK_BYTES:
                raise FormatError(
                    f"{self._where}: has chunks of {self._chunk_bytes} bytes, needs at most {_MAX_CHUNK_BYTES}; "
                    "repack it with h5repack -l CHUNK=..., one row a chunk"
                )
            grid = [-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
            stored, needed, unit = dataset.id.get_num_chunks(), int(np.prod(grid, dtype=object)), "chunks"
        if stored < needed:
            raise FormatError(
                f"{self._where}: states shape {dataset.shape} and stores {stored} of its {needed} {unit}: "
                "the file is unfinished; download it again"
            )

    def _contiguous(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Rows as they are stored: uint8 [rows, ..., bytes of a value]."""
        offset = self._dataset.id.get_offset()
        if offset is None:
            raise ValueError("is kept in the header of the dataset; repack it with h5repack -l CONTI")
        shape = (stop - start, *self._dataset.shape[1:], self._item)
        row = int(np.prod(shape[1:], dtype=object))
        self._raw.seek(offset + start * row)
        content = self._raw.read((stop - start) * row)
        return np.frombuffer(content, np.uint8).reshape(shape)  # raises if the file ends before

    def _chunked(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        rows = np.empty((stop - start, *self._dataset.shape[1:], self._item), np.uint8)
        selection = (slice(start, stop), *(slice(None) for _ in self._dataset.shape[1:]))
        for parts in self._dataset.iter_chunks(selection):
            corner = tuple(part.start // chunk * chunk for part, chunk in zip(parts, self._dataset.chunks, strict=True))
            inside = tuple(slice(part.start - at, part.stop - at) for part, at in zip(parts, corner, strict=True))
            place = (slice(parts[0].start - start, parts[0].stop - start), *parts[1:])
            rows[place] = self._chunk(corner)[inside]
        return rows

    def _chunk(self, corner: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """One chunk with its filters undone; never more than its stated size is made of it."""
        if self._last is not None and self._last[0] == corner:
            return self._last[1]
        limit = self._chunk_bytes
        stored = self._dataset.id.get_chunk_info_by_coord(corner).size
        if stored > limit + (limit >> 4) + 4096:  # what does not compress grows a little
            raise ValueError(f"stores {stored} bytes for a chunk of {limit}")
        skipped, content = self._dataset.id.read_direct_chunk(corner)
        for place in reversed(range(len(self._filters))):
            if skipped >> place & 1:
                continue
            if self._filters[place] == _FLETCHER32:
                content = _checked_fletcher32(content)
            elif self._filters[place] == _DEFLATE:
                content = zlib.decompressobj().decompress(content, limit + 4 + 1)  # a checksum may be inside
            else:
                content = np.frombuffer(content, np.uint8).reshape(self._item, -1).T.tobytes()
        if len(content) != limit:
            raise ValueError(f"has a chunk of other than the {limit} bytes it states")
        self._last = corner, np.frombuffer(content, np.uint8).reshape(*self._dataset.chunks, self._item)
        return self._last[1]


def _checked_fletcher32(content: bytes) -> bytes:
    """Content without the checksum at its end. Raises ValueError if that is of something else."""
    body, stated = content[:-4], int.from_bytes(content[-4:], "little")
    words = np.frombuffer(body + b"\0" * (len(body) % 2), ">u2").astype(np.uint64)
    # Both sums are modulo 65535, whose multiples HDF5 writes as 65535 or as 0. n words of 16 bits fit 64 bits.
    first = int(words.sum()) % 65535
    second = int((words % 65535 * (np.arange(len(words), 0, -1, dtype=np.uint64) % 65535)).sum()) % 65535
    if (first, second) != (stated % 65536 % 65535, (stated >> 16) % 65535):
        raise ValueError("has a chunk that does not match its checksum")
    return body


def _one_line(error: BaseException) -> str:
    return printable(" ".join(str(error).split())[:200]) or type(error).__name__
