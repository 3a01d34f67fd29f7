"""Where the caller of a loader is, in global steps, and where iterators start: in this process and a DataLoader's."""

from typing import Any

import torch
from torch.utils.data import get_worker_info

from pipeline import UsageError


class Position:
    """Steps [e * length, (e + 1) * length) are epoch e.

    An iterator of this process starts where the last one ended, or after a break with its epoch. One in a worker of a
    DataLoader starts where its copy of this object would have, or where `go_to` has sent the original since: memory
    that both see tells it of that, as a worker that persists is not copied again.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.next = 0
        """Step of the batch that the caller gets next."""
        self._start = 0
        self._begun = False
        self._sent = 0  # how often it was sent somewhere
        self._shared = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._shared.is_shared():  # a plain copy has its own
            self._shared.share_memory_()

    @property
    def epoch(self) -> int:
        return self.next // self.length

    def go_to(self, step: int) -> None:
        """The next iterator starts with `step`."""
        self.next = self._start = step
        self._sent += 1
        # In this order: who sees the second sees the first.
        self._shared[0] = step
        self._shared[1] = self._sent

    def go_to_epoch(self, epoch: int) -> None:
        """The next iterator starts with that epoch, or where in it it would have started anyway."""
        self.go_to(self._start if self._start // self.length == epoch else epoch * self.length)

    def begin(self) -> range:
        """The steps of an iterator, the rest of an epoch; in a worker of a DataLoader those of all workers."""
        if get_worker_info() is not None:
            self._hear()
        first = self.next = self._start
        epoch = first // self.length
        if get_worker_info() is None:
            self._start = epoch * self.length
        return range(first, (epoch + 1) * self.length)

    def reach(self, step: int) -> None:
        """The caller has all batches before `step`."""
        # Not told to workers: one that has nothing left to give may not even have begun.
        self.next = step
        if step % self.length == 0:
            self._start = step

    def _hear(self) -> None:
        step, sent = self._shared.tolist()
        if sent != self._sent:
            self._start, self._sent, self._begun = step, sent, False
        if self._begun:
            raise UsageError(
                "workers of a DataLoader that persist begin an epoch again, and do not see how the last one ended; "
                "call set_epoch before every epoch"
            )
        self._begun = True
