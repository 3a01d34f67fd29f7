"""The global heap of an HDF5 file, where texts and arrays of varying length lie.

Read here and not by the library: it allocates by the lengths a file states, and some damaged heaps make it crash or
loop for ever (HDF5 2.0). Layout: HDF5 File Format Specification, III.E, for addresses and lengths of 8 bytes.
"""

import struct
from collections import OrderedDict
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

RECORD_BYTES = 16  # of one text or array: its length, the address of a collection, a number within it

_MAGIC = b"GCOL\x01"
_COLLECTION = struct.Struct("<5s3xQ")
_OBJECT = struct.Struct("<HH4xQ")
_MAX_COLLECTION_BYTES = 4 << 20
_CACHED = 16


class HeapDamaged(ValueError):
    """A record that points to nothing."""


class GlobalHeap:
    """Content by record. At most 16 collections of at most 4 MB are held."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._collections: OrderedDict[int, tuple[bytes, dict[int, tuple[int, int]]]] = OrderedDict()

    def content(self, records: npt.NDArray[np.uint8], item_bytes: int, most_items: int) -> list[bytes]:
        """Uint8 [n, 16] -> content of each. Raises HeapDamaged for a length over `most_items`, or without content."""
        parts = np.ascontiguousarray(records).view([("items", "<u4"), ("address", "<u8"), ("number", "<u4")]).ravel()
        if len(parts) and parts["items"].max() > most_items:
            raise HeapDamaged(f"states a length of {parts['items'].max()}, needs at most {most_items}")
        return [
            self._get(int(address), int(number), int(items) * item_bytes) if items else b""
            for items, address, number in parts.tolist()
        ]

    def _get(self, address: int, number: int, size: int) -> bytes:
        if address not in self._collections:
            self._collections[address] = self._read(address)
            if len(self._collections) > _CACHED:
                self._collections.popitem(last=False)
        content, places = self._collections[address]
        start, stored = places.get(number, (0, -1))
        if stored < size:
            raise HeapDamaged(f"has no {size} bytes as number {number} of the heap at {address}")
        return content[start : start + size]

    def _read(self, address: int) -> tuple[bytes, dict[int, tuple[int, int]]]:
        """A collection, and where its objects lie in it: (start, size) by number."""
        try:
            self._file.seek(address)
            head = self._file.read(_COLLECTION.size)
            magic, size = _COLLECTION.unpack(head)
        except (OSError, ValueError, OverflowError, struct.error) as error:
            raise HeapDamaged(f"has no heap at {address}") from error
        if magic != _MAGIC or not _COLLECTION.size <= size <= _MAX_COLLECTION_BYTES:
            raise HeapDamaged(f"has no heap at {address}")
        content = head + self._file.read(size - len(head))
        places: dict[int, tuple[int, int]] = {}
        at = _COLLECTION.size
        while at + _OBJECT.size <= len(content):
            number, _, stored = _OBJECT.unpack_from(content, at)
            start = at + _OBJECT.size
            if number == 0 or start + stored > len(content):  # 0 is what is free
                break
            places[number] = (start, stored)
            at = start + (stored + 7) // 8 * 8
        return content, places
