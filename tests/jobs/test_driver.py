"""The driver against a pool that plays a script: no processes, no clock."""

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs._driver import MAX_ATTEMPTS, Done, Driver, Event, Failed, Lost, Ready
from jobs._stage import ShardResult, ShardTask

CLIPS = 3
OUTCOMES = ("done", "lost", "preempted", "transient", "error")


class ScriptedPool:
    """`script[shard]` are the outcomes of its attempts (then "done"), `starts` those of workers in order of spawning.

    `order` decides which of the waiting workers answers next. Checks what the driver may not do.
    """

    def __init__(self, workers: int, script: dict[int, list[str]], starts: list[str], order: list[int]) -> None:
        self.workers = workers
        self.script = {shard: list(outcomes) for shard, outcomes in script.items()}
        self.starts = list(starts)
        self.order = list(order)
        self.pending: dict[int, ShardTask | None] = {}
        self.idle: set[int] = set()
        self.used: set[int] = set()
        self.attempts: Counter[int] = Counter()

    def spawn(self, worker: int) -> None:
        assert worker not in self.used, "worker numbers are not used twice"
        assert len(self.pending) + len(self.idle) < self.workers
        self.used.add(worker)
        self.pending[worker] = None

    def assign(self, worker: int, task: ShardTask) -> None:
        assert worker in self.idle, "only ready and idle workers get shards"
        self.idle.remove(worker)
        self.pending[worker] = task
        self.attempts[task.shard] += 1

    def kill(self, worker: int) -> None:
        self.pending.pop(worker, None)
        self.idle.discard(worker)

    def wait(self, timeout_s: float) -> list[Event]:
        assert self.pending, "waiting for nobody would last for ever"
        assert not self.idle, "idle workers get a shard or are given back before the driver waits"
        workers = sorted(self.pending)
        worker = workers[(self.order.pop() if self.order else 0) % len(workers)]
        task = self.pending.pop(worker)
        outcomes = self.starts if task is None else self.script.get(task.shard, [])
        outcome = outcomes.pop(0) if outcomes else "done"
        if outcome == "done":
            self.idle.add(worker)
            if task is None:
                return [Ready(worker=worker)]
            return [Done(worker=worker, result=ShardResult(shard=task.shard, stored=task.clips))]
        if outcome in ("transient", "error"):
            return [Failed(worker=worker, reason=outcome, transient=outcome == "transient")]
        return [Lost(worker=worker, reason=outcome, preempted=outcome == "preempted")]


def drive(pool: ScriptedPool, shards: int) -> Driver:
    driver = Driver([ShardTask(shard=shard, clips=CLIPS) for shard in range(shards)], pool)
    for _ in range(10_000):
        if driver.finished:
            break
        driver.step(1.0)
    assert driver.finished
    return driver


def expected_end(outcomes: list[str]) -> tuple[str, int]:
    """What the rules say of one shard: how it ends and after how many attempts."""
    counted = 0
    for attempt, outcome in enumerate([*outcomes, "done"], start=1):
        if outcome == "done":
            return "done", attempt
        if outcome == "error":
            return "quarantined", attempt
        counted += outcome != "preempted"
        if counted == MAX_ATTEMPTS:
            return "quarantined", attempt
    raise AssertionError


@settings(max_examples=200, deadline=None)
@given(
    script=st.lists(st.lists(st.sampled_from(OUTCOMES), max_size=6), min_size=1, max_size=12),
    workers=st.integers(1, 5),
    starts=st.lists(st.sampled_from(("done", "done", "preempted", "done")), max_size=8),
    order=st.lists(st.integers(0, 4), max_size=60),
)
def test_every_shard_ends_as_its_outcomes_say(
    script: list[list[str]], workers: int, starts: list[str], order: list[int]
) -> None:
    pool = ScriptedPool(workers, dict(enumerate(script)), starts, order)
    driver = drive(pool, len(script))
    ends: dict[int, list[str]] = defaultdict(list)
    for result in driver.done:
        ends[result.shard].append("done")
    for shard in driver.quarantined:
        ends[shard.shard].append("quarantined")
    assert driver.gave_up is None
    assert {shard: (*end, pool.attempts[shard]) for shard, end in ends.items()} == {
        shard: expected_end(outcomes) for shard, outcomes in enumerate(script)
    }


def test_a_lost_shard_goes_behind_the_others() -> None:
    pool = ScriptedPool(1, {0: ["lost"]}, [], [])
    driver = drive(pool, 4)
    assert [result.shard for result in driver.done] == [1, 2, 3, 0]


def test_no_more_workers_than_shards() -> None:
    pool = ScriptedPool(50, {}, [], [])
    drive(pool, 3)
    assert len(pool.used) == 3


def test_workers_that_cannot_start_end_the_run() -> None:
    for outcome, spawned in (("lost", MAX_ATTEMPTS), ("transient", MAX_ATTEMPTS), ("error", 1)):
        pool = ScriptedPool(1, {}, [outcome] * 100, [])
        driver = drive(pool, 2)
        assert driver.gave_up == f"no worker could start: {outcome}"
        assert len(pool.used) == spawned
        assert (driver.done, driver.quarantined) == ([], [])


def test_the_others_go_on_when_one_worker_cannot_start() -> None:
    pool = ScriptedPool(2, {}, ["error"], [])
    driver = drive(pool, 5)
    assert driver.gave_up is None
    assert sorted(result.shard for result in driver.done) == [0, 1, 2, 3, 4]


def test_a_result_that_does_not_add_up_is_no_result() -> None:
    class Forgetful(ScriptedPool):
        def wait(self, timeout_s: float) -> list[Event]:
            return [
                Done(worker=event.worker, result=ShardResult(shard=event.result.shard, stored=CLIPS - 1))
                if isinstance(event, Done)
                else event
                for event in super().wait(timeout_s)
            ]

    driver = drive(Forgetful(1, {}, [], []), 1)
    assert driver.done == []
    assert "with 2 clips, the manifest has shard 0 with 3" in driver.quarantined[0].reason


def test_stop_gives_up_every_worker() -> None:
    pool = ScriptedPool(3, {}, [], [0, 0])
    driver = Driver([ShardTask(shard=shard, clips=CLIPS) for shard in range(9)], pool)
    driver.step(1.0)
    driver.step(1.0)
    assert pool.pending
    driver.stop()
    assert not pool.pending
    assert not pool.idle
