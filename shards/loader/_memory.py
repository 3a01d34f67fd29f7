"""Memory of batches that is used again: a page that was touched once costs nothing when the next batch is written."""

import os
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

ALIGNMENT = 64
"""Bytes; where each field of a batch starts: a cache line, and the widest vector of a processor."""

_COOLING = 4
"""Slabs at most that wait for the GPU to end what it was given before; then the caller waits for it."""

Arrays = Mapping[str, npt.NDArray[Any]]
Slab = npt.NDArray[np.uint8]


class Field(NamedTuple):
    """One array of a batch: what each clip has in it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class SlabPool:
    """Slabs of memory, each for one batch of `places` clips.

    A slab comes back by itself when the last array, tensor or view of its batch is gone, so a batch that is kept stays
    as it is. Nothing here needs a lock: single operations on deque and dict are atomic, also across a fork.
    """

    def __init__(self, fields: Mapping[str, Field], places: int, *, most: int, pin_memory: bool = False) -> None:
        """most: slabs that come back; of more than that the oldest are freed like any memory when their batch is gone.

        pin_memory: page-locked where there is a GPU, for copies to it beside its work.
        """
        self._fields = dict(fields)
        self._places = places
        self._most = most
        self._pin_memory = pin_memory
        self._offsets, self._bytes = _layout(fields, places)
        self._forget()

    @property
    def _pinned(self) -> bool:
        # DataLoader's workers have no GPU of their own.
        return self._pin_memory and torch.utils.data.get_worker_info() is None and torch.cuda.is_available()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._free: deque[Slab] = deque()
        self._cooling: deque[tuple[torch.cuda.Event, Slab]] = deque()
        self._leases: dict[_Lease, None] = {}
        self._ended: deque[_Lease] = deque()
        self.allocated = 0
        """Slabs made so far."""

    def __getstate__(self) -> dict[str, Any]:
        """Without its slabs: another process makes its own."""
        kept = ("_fields", "_places", "_most", "_pin_memory", "_offsets", "_bytes")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def take(self, clips: int | None = None) -> Arrays:
        """Arrays [clips, ...] of every field, `places` clips if not given; contents are an earlier batch's, or none."""
        _let_go()
        if self._process != os.getpid():
            # Forked: the slabs are the parent's, and a GPU cannot be asked about them here, not even by a destructor.
            self._inherited = (self._free, self._cooling, self._leases, self._ended)
            self._forget()
        self._take_back()
        memory = self._free.pop() if self._free else self._allocate()
        # An array of its own over the slab for this batch: whatever is made of it keeps it alive.
        whole = np.frombuffer(memory.data, np.uint8)
        self._leases[_Lease(whole, memory, self._ended)] = None
        return {
            name: np.ndarray(
                (self._places if clips is None else clips, *field.shape), field.dtype, whole, self._offsets[name]
            )
            for name, field in self._fields.items()
        }

    def _take_back(self) -> None:
        while self._ended:
            lease = self._ended.popleft()
            if self._leases.pop(lease, lease) is not None:
                continue
            if self._pinned:
                # Copies to the GPU that were begun from it may still run: the tensors' own `to` does not wait for them.
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record()
                self._cooling.append((event, lease.memory))
            else:
                self._free.append(lease.memory)
        while self._cooling and (len(self._cooling) > _COOLING or self._cooling[0][0].query()):  # type: ignore[no-untyped-call]
            event, memory = self._cooling.popleft()
            event.synchronize()
            self._free.append(memory)
        for oldest in list(self._leases)[: max(0, len(self._leases) + 1 - self._most)]:
            self._leases.pop(oldest, None)

    def _allocate(self) -> Slab:
        self.allocated += 1
        size = self._bytes + ALIGNMENT
        pinned = self._pinned
        whole = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy() if pinned else np.empty(size, np.uint8)
        start = -whole.ctypes.data % ALIGNMENT
        return whole[start : start + self._bytes]


class _Lease(weakref.ref["npt.NDArray[np.uint8]"]):
    """Puts itself into `ended` when the array over `memory` is gone, by C code alone.

    A callback in Python, as of weakref.finalize, can be where a KeyboardInterrupt arrives, and would swallow it.
    """

    __slots__ = ("memory",)
    memory: Slab
    __hash__ = object.__hash__

    def __new__(cls, whole: npt.NDArray[np.uint8], memory: npt.NDArray[np.uint8], ended: "deque[_Lease]") -> "_Lease":
        lease = super().__new__(cls, whole, ended.append)
        lease.memory = memory
        return lease

    def __init__(self, *_: object) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return self is other


def hold_until_copied(tensors: Iterable[torch.Tensor], device: torch.device) -> None:
    """Keep `tensors`, and so their slab, until the copies started from them on `device`'s current stream are done."""
    if device.type == "cuda":
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        _held.append((os.getpid(), event, tuple(tensors)))


_held: deque[tuple[int, torch.cuda.Event, tuple[torch.Tensor, ...]]] = deque()


def _let_go() -> None:
    while _held and _held[0][0] == os.getpid() and _held[0][1].query():  # type: ignore[no-untyped-call]
        _held.popleft()


def _layout(fields: Mapping[str, Field], places: int) -> tuple[dict[str, int], int]:
    """Where each field starts, and the bytes of all of them."""
    offsets, end = {}, 0
    for name, field in fields.items():
        offsets[name] = end
        size = places * int(np.prod(field.shape, dtype=np.int64)) * field.dtype.itemsize
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, end
