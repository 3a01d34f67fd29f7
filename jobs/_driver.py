"""Which worker does which shard, and what happens when a worker is lost: logic over a pool, without Ray or a clock."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs._stage import ShardResult, ShardTask

MAX_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The worker opened the stage and can take a shard."""

    worker: int


@dataclass(frozen=True, kw_only=True)
class Done:
    """The worker committed its shard."""

    worker: int
    result: ShardResult


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The stage raised, while opening or in a shard. Worth another try only if `transient` (I/O)."""

    worker: int
    reason: str
    transient: bool


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The worker's process or node is gone. `preempted`: taken away by the platform, which is nobody's fault."""

    worker: int
    reason: str
    preempted: bool = False


Event = Ready | Done | Failed | Lost


class Pool(Protocol):
    """Workers by number. Numbers are never used twice, so an answer of a worker given up on cannot be mistaken."""

    workers: int  # at most this many at once

    def spawn(self, worker: int) -> None:
        """Ask for a worker; `wait` says Ready once it has opened the stage."""

    def assign(self, worker: int, task: ShardTask) -> None:
        """Hand a shard to a worker that is ready and idle."""

    def kill(self, worker: int) -> None:
        """Give up a worker, whatever it does; nothing is heard of it again."""

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """What happened since the last call; blocks until something does, at most `timeout_s`."""


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A shard given up for this run. Nothing of it is committed; the next run tries it again."""

    shard: int
    clips: int
    attempts: int
    reason: str


class Driver:
    """Hands `tasks` to the workers of `pool` until each is done or quarantined.

    A shard whose worker is lost, or that meets a transient error, goes to the end of the queue, until it has had
    `max_attempts`; preemptions do not count. Any other error quarantines at once. A worker is not used after an error.
    """

    def __init__(self, tasks: Sequence[ShardTask], pool: Pool, *, max_attempts: int = MAX_ATTEMPTS) -> None:
        self.done: list[ShardResult] = []
        self.quarantined: list[Quarantined] = []
        self.gave_up: str | None = None  # why no worker can be had, if so
        self._pool = pool
        self._max_attempts = max_attempts
        self._queue = deque(tasks)
        self._attempts: Counter[int] = Counter()
        self._starting: set[int] = set()
        self._idle: set[int] = set()
        self._running: dict[int, ShardTask] = {}
        self._spawned = 0
        self._failed_starts = 0  # in a row
        self._start_failure = ""

    @property
    def finished(self) -> bool:
        return self.gave_up is not None or not (self._queue or self._running)

    def step(self, timeout_s: float) -> None:
        """Assign and spawn what is useful now, then take in what happens within `timeout_s`."""
        self._assign()
        self._spawn_or_trim()
        if self.finished:
            return
        for event in self._pool.wait(timeout_s):
            self._handle(event)

    def stop(self) -> None:
        """Give up every worker. Nothing of a running shard is committed."""
        for worker in [*self._running, *self._idle, *self._starting]:
            self._pool.kill(worker)
        self._running.clear()
        self._idle.clear()
        self._starting.clear()

    def _assign(self) -> None:
        # Shards go to workers that said Ready, never to pending ones: those may wait for a node that never comes.
        while self._queue and self._idle:
            worker = min(self._idle)
            self._idle.remove(worker)
            self._running[worker] = self._queue.popleft()
            self._pool.assign(worker, self._running[worker])

    def _spawn_or_trim(self) -> None:
        if not self._queue:
            # The tail: workers without work keep nodes alive that could go.
            for worker in sorted(self._idle | self._starting):
                self._pool.kill(worker)
            self._idle.clear()
            self._starting.clear()
            return
        alive = len(self._starting) + len(self._running)  # none is idle while the queue is not empty
        if self._failed_starts >= self._max_attempts:
            if alive == 0:
                self.gave_up = f"no worker could start: {self._start_failure}"
            return
        for _ in range(min(self._pool.workers, len(self._queue) + len(self._running)) - alive):
            self._spawned += 1
            self._starting.add(self._spawned)
            self._pool.spawn(self._spawned)

    def _handle(self, event: Event) -> None:
        worker = event.worker
        if isinstance(event, Ready):
            if worker in self._starting:
                self._starting.remove(worker)
                self._idle.add(worker)
                self._failed_starts = 0
        elif isinstance(event, Done):
            if worker in self._running:
                self._finish(self._running.pop(worker), event.result)
                self._idle.add(worker)
        else:
            self._fail(worker, event)

    def _finish(self, task: ShardTask, result: ShardResult) -> None:
        if (result.shard, result.clips) == (task.shard, task.clips):
            self.done.append(result)
        else:
            has = f"the worker answered for shard {result.shard} with {result.clips} clips"
            self._quarantine(task, f"{has}, the manifest has shard {task.shard} with {task.clips}")

    def _fail(self, worker: int, event: Failed | Lost) -> None:
        preempted = isinstance(event, Lost) and event.preempted
        if worker in self._starting:
            self._starting.remove(worker)
            self._start_failure = event.reason
            lasting = isinstance(event, Failed) and not event.transient
            self._failed_starts += self._max_attempts if lasting else not preempted
        elif worker in self._running:
            task = self._running.pop(worker)
            self._attempts[task.shard] += not preempted
            attempts = self._attempts[task.shard]
            if isinstance(event, Failed) and not event.transient:
                self._quarantine(task, event.reason)
            elif attempts >= self._max_attempts:
                self._quarantine(task, f"{attempts} attempts, the last: {event.reason}")
            else:
                self._queue.append(task)
        self._idle.discard(worker)
        self._pool.kill(worker)

    def _quarantine(self, task: ShardTask, reason: str) -> None:
        attempts = max(1, self._attempts[task.shard])
        self.quarantined.append(Quarantined(shard=task.shard, clips=task.clips, attempts=attempts, reason=reason))
