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

    `order` decides which of the calls in flight is answered next. Checks what the driver may not do.
    """

    def __init__(
        self, workers: int, script: dict[int, list[str]], starts: list[str], order: list[int], at_once: int = 1
    ) -> None:
        self.workers = workers
        self.at_once = at_once
        self.script = {shard: list(outcomes) for shard, outcomes in script.items()}
        self.starts = list(starts)
        self.order = list(order)
        self.starting: set[int] = set()
        self.in_hand: dict[int, list[ShardTask]] = {}
        self.failed: set[int] = set()
        self.used: set[int] = set()
        self.attempts: Counter[int] = Counter()
        self.counted: Counter[int] = Counter()
        self.most_at_once = 0

    def spawn(self, worker: int) -> None:
        assert worker not in self.used, "worker numbers are not used twice"
        assert len(self.starting) + len(self.in_hand) < self.workers
        self.used.add(worker)
        self.starting.add(worker)

    def assign(self, worker: int, task: ShardTask) -> None:
        assert worker in self.in_hand, "only ready workers get shards"
        assert worker not in self.failed, "a worker is given nothing after an error"
        others = self.in_hand[worker]
        assert len(others) < self.at_once
        assert not others or not any(self.counted[of.shard] for of in (*others, task)), "suspects are tried alone"
        others.append(task)
        self.most_at_once = max(self.most_at_once, len(others))
        self.attempts[task.shard] += 1

    def kill(self, worker: int) -> None:
        self.starting.discard(worker)
        self.in_hand.pop(worker, None)

    def wait(self, timeout_s: float) -> list[Event]:
        calls = [*((worker, None) for worker in sorted(self.starting))]
        calls += [(worker, task) for worker in sorted(self.in_hand) for task in self.in_hand[worker]]
        assert calls, "waiting for nobody would last for ever"
        assert all(self.in_hand.values()), "idle workers get a shard or are given back before the driver waits"
        worker, task = calls[(self.order.pop() if self.order else 0) % len(calls)]
        outcomes = self.starts if task is None else self.script.get(task.shard, [])
        outcome = outcomes.pop(0) if outcomes else "done"
        if outcome in ("lost", "preempted"):
            if outcome == "lost":
                self.counted.update(of.shard for of in self.in_hand.get(worker, ()))
            self.kill(worker)
            return [Lost(worker=worker, reason=outcome, preempted=outcome == "preempted")]
        if task is None:
            self.starting.remove(worker)
        else:
            self.in_hand[worker].remove(task)
        if outcome != "done":
            self.failed.add(worker)
            self.counted.update([task.shard] if task else ())
            return [Failed(worker=worker, task=task, reason=outcome, transient=outcome == "transient")]
        if task is None:
            self.in_hand[worker] = []
            return [Ready(worker=worker)]
        return [Done(worker=worker, task=task, result=ShardResult(shard=task.shard, stored=task.clips))]


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


@settings(max_examples=200, deadline=None)
@given(
    script=st.lists(st.lists(st.sampled_from(OUTCOMES), max_size=6), min_size=1, max_size=12),
    workers=st.integers(1, 4),
    at_once=st.integers(2, 3),
    starts=st.lists(st.sampled_from(("done", "done", "preempted", "done")), max_size=8),
    order=st.lists(st.integers(0, 9), max_size=60),
)
def test_with_several_shards_in_hand_each_ends_once_and_only_for_faults_of_its_own(
    script: list[list[str]], workers: int, at_once: int, starts: list[str], order: list[int]
) -> None:
    """A shard may pay one attempt for another's fault, never more: tried again, it is alone."""
    pool = ScriptedPool(workers, dict(enumerate(script)), starts, order, at_once)
    driver = drive(pool, len(script))
    assert driver.gave_up is None
    done = sorted(result.shard for result in driver.done)
    quarantined = sorted(entry.shard for entry in driver.quarantined)
    assert sorted(done + quarantined) == list(range(len(script)))
    for shard, outcomes in enumerate(script):
        met = outcomes[: len(outcomes) - len(pool.script[shard])]
        own = sum(outcome in ("lost", "transient", "error") for outcome in met)
        assert own <= pool.counted[shard] <= own + 1
        assert (shard in quarantined) == ("error" in met or pool.counted[shard] >= MAX_ATTEMPTS)


def test_a_shard_that_always_ends_its_worker_ends_no_other() -> None:
    pool = ScriptedPool(1, {2: ["lost"] * 9}, [], [], at_once=2)
    driver = drive(pool, 6)
    assert pool.most_at_once == 2
    assert [(entry.shard, entry.attempts) for entry in driver.quarantined] == [(2, MAX_ATTEMPTS)]
    assert sorted(result.shard for result in driver.done) == [0, 1, 3, 4, 5]
    assert max(pool.attempts[shard] for shard in (0, 1, 3, 4, 5)) <= 2


def test_what_else_a_worker_has_in_hand_survives_the_error_of_one_shard() -> None:
    """And the worker ends after it."""
    pool = ScriptedPool(1, {0: ["error"], 3: ["transient"]}, [], [], at_once=2)
    driver = drive(pool, 5)
    assert [entry.shard for entry in driver.quarantined] == [0]
    assert sorted(result.shard for result in driver.done) == [1, 2, 3, 4]
    assert pool.attempts == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1}
    assert len(pool.used) == 3


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
                Done(
                    worker=event.worker,
                    task=event.task,
                    result=ShardResult(shard=event.result.shard, stored=CLIPS - 1),
                )
                if isinstance(event, Done)
                else event
                for event in super().wait(timeout_s)
            ]

    driver = drive(Forgetful(1, {}, [], []), 1)
    assert driver.done == []
    assert "with 2 clips, the manifest has shard 0 with 3" in driver.quarantined[0].reason


def test_stop_gives_up_every_worker() -> None:
    pool = ScriptedPool(3, {}, [], [0, 0], at_once=2)
    driver = Driver([ShardTask(shard=shard, clips=CLIPS) for shard in range(9)], pool)
    driver.step(1.0)
    driver.step(1.0)
    assert pool.starting
    assert pool.in_hand
    driver.stop()
    assert not pool.starting
    assert not pool.in_hand
    assert driver.finished is False, "what is in the queue is not done"
