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
    """The worker committed a shard: the one of `task`, if all is well."""

    worker: int
    task: ShardTask
    result: ShardResult


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The stage raised, in the shard of `task` or, with None, while opening. Worth another try only if `transient`
    (I/O)."""

    worker: int
    task: ShardTask | None
    reason: str
    transient: bool


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The worker's process or node is gone, with all it had in hand. `preempted`: taken away by the platform, which is
    nobody's fault."""

    worker: int
    reason: str
    preempted: bool = False


Event = Ready | Done | Failed | Lost


class Pool(Protocol):
    """Workers by number. Numbers are never used twice, so an answer of a worker given up on cannot be mistaken."""

    workers: int  # at most this many at once
    at_once: int  # shards that a worker takes at a time

    def spawn(self, worker: int) -> None:
        """Ask for a worker; `wait` says Ready once it has opened the stage."""

    def assign(self, worker: int, task: ShardTask) -> None:
        """Hand a shard to a worker that is ready and has fewer than `at_once`."""

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
    `max_attempts`; preemptions do not count. Any other error quarantines at once. After an error a worker is given
    nothing more, and it is given up once it has ended what else it has in hand.

    Of several shards that a worker had in hand when it was lost, any may be the reason. So a shard that counts an
    attempt is tried again on a worker of its own: one that ends its worker ends no other shard.
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
        self._in_hand: dict[int, list[ShardTask]] = {}  # of every worker that is ready
        self._ending: set[int] = set()  # those of them that get nothing more
        self._spawned = 0
        self._failed_starts = 0  # in a row
        self._start_failure = ""

    @property
    def finished(self) -> bool:
        return self.gave_up is not None or not (self._queue or any(self._in_hand.values()))

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
        for worker in [*self._in_hand, *self._starting]:
            self._give_up(worker)

    def _assign(self) -> None:
        # Shards go to workers that said Ready, never to pending ones: those may wait for a node that never comes.
        while self._queue and (worker := self._taker(self._queue[0])) is not None:
            task = self._queue.popleft()
            self._in_hand[worker].append(task)
            self._pool.assign(worker, task)

    def _taker(self, task: ShardTask) -> int | None:
        """The worker with least in hand that may be given `task` too."""
        alone = self._attempts[task.shard] > 0
        open_to = [
            (len(tasks), worker)
            for worker, tasks in self._in_hand.items()
            if worker not in self._ending
            and len(tasks) < (1 if alone else self._pool.at_once)
            and not any(self._attempts[other.shard] for other in tasks)
        ]
        return min(open_to)[1] if open_to else None

    def _spawn_or_trim(self) -> None:
        if not self._queue:
            # The tail: workers without work keep nodes alive that could go.
            for worker in [*self._starting, *(worker for worker, tasks in self._in_hand.items() if not tasks)]:
                self._give_up(worker)
            return
        alive = len(self._starting) + len(self._in_hand)
        if self._failed_starts >= self._max_attempts:
            if alive == 0:
                self.gave_up = f"no worker could start: {self._start_failure}"
            return
        busy = sum(map(bool, self._in_hand.values()))
        for _ in range(min(self._pool.workers, len(self._queue) + busy) - alive):
            self._spawned += 1
            self._starting.add(self._spawned)
            self._pool.spawn(self._spawned)

    def _handle(self, event: Event) -> None:
        worker = event.worker
        if isinstance(event, Ready):
            if worker in self._starting:
                self._starting.remove(worker)
                self._in_hand[worker] = []
                self._failed_starts = 0
        elif worker in self._starting:
            if not isinstance(event, Done):
                self._fail_start(event)
        elif worker in self._in_hand:
            if isinstance(event, Lost):
                self._lose(event)
            elif event.task in self._in_hand[worker]:
                self._in_hand[worker].remove(event.task)
                if isinstance(event, Done):
                    self._finish(event.task, event.result)
                else:
                    self._fail(event.task, event)
            if worker in self._ending and not self._in_hand[worker]:
                self._give_up(worker)

    def _finish(self, task: ShardTask, result: ShardResult) -> None:
        if (result.shard, result.clips) == (task.shard, task.clips):
            self.done.append(result)
        else:
            has = f"the worker answered for shard {result.shard} with {result.clips} clips"
            self._quarantine(task, f"{has}, the manifest has shard {task.shard} with {task.clips}")

    def _fail_start(self, event: Failed | Lost) -> None:
        self._start_failure = event.reason
        lasting = isinstance(event, Failed) and not event.transient
        preempted = isinstance(event, Lost) and event.preempted
        self._failed_starts += self._max_attempts if lasting else not preempted
        self._give_up(event.worker)

    def _lose(self, event: Lost) -> None:
        for task in self._in_hand[event.worker]:
            self._again(task, event.reason, counts=not event.preempted)
        self._in_hand[event.worker] = []
        self._ending.add(event.worker)

    def _fail(self, task: ShardTask, event: Failed) -> None:
        if event.transient:
            self._again(task, event.reason, counts=True)
        else:
            self._attempts[task.shard] += 1
            self._quarantine(task, event.reason)
        self._ending.add(event.worker)

    def _again(self, task: ShardTask, reason: str, *, counts: bool) -> None:
        self._attempts[task.shard] += counts
        attempts = self._attempts[task.shard]
        if attempts >= self._max_attempts:
            self._quarantine(task, f"{attempts} attempts, the last: {reason}")
        else:
            self._queue.append(task)

    def _quarantine(self, task: ShardTask, reason: str) -> None:
        attempts = max(1, self._attempts[task.shard])
        self.quarantined.append(Quarantined(shard=task.shard, clips=task.clips, attempts=attempts, reason=reason))

    def _give_up(self, worker: int) -> None:
        self._starting.discard(worker)
        self._in_hand.pop(worker, None)
        self._ending.discard(worker)
        self._pool.kill(worker)
