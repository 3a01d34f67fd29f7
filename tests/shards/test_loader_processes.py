"""The loader in a DataLoader's worker processes: the same sequence, resumed too, and a worker that is killed."""

import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from pipeline import UsageError
from shards import Batch, MixedLoader
from shards.loader import _position as position_module
from tests.shards.mixing import assert_same, expected_keys, loader_of, make_mix

REPOSITORY = Path(__file__).resolve().parents[2]
SHARES = {"weak": 3, "strong": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mix(tmp_path_factory.mktemp("mixed") / "data", "path")[0]


def through(loader: MixedLoader, processes: int, **options: object) -> "DataLoader[Batch]":
    return DataLoader(loader, batch_size=None, num_workers=processes, timeout=60 if processes else 0, **options)  # type: ignore[arg-type]


def keys(batch: Batch) -> list[tuple[str, str]]:
    return list(zip(batch.source, batch.key, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("processes", [0, 1, 3])
def test_processes_give_the_sequence_of_one(made: Path, processes: int) -> None:
    loader = loader_of(made, batches_per_epoch=8)
    assert isinstance(loader, IterableDataset)
    data = through(loader, processes, **({"multiprocessing_context": "fork"} if processes else {}))
    assert len(data) == 8
    batches = list(data)
    assert len(batches) == 8
    for one, other in zip(loader_of(made, batches_per_epoch=8), batches, strict=True):
        assert_same(one, other)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@given(
    processes=st.integers(1, 3),
    length=st.integers(1, 7),
    stop=st.integers(0, 6),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_resumes_in_processes_where_the_caller_says_it_was(
    made: Path, processes: int, length: int, stop: int, epoch: int, seed: int
) -> None:
    stop %= length
    first = loader_of(made, batches_per_epoch=length, seed=seed)
    first.set_epoch(epoch)
    for given_out, _ in enumerate(through(first, 2)):
        if given_out == stop:
            break
        first.advance()
    assert first.epoch == epoch
    resumed = loader_of(made, batches_per_epoch=length, seed=seed)
    resumed.load_state_dict(first.state_dict())
    resumed.set_epoch(epoch)  # as a loop over epochs calls it: the place in it stays
    got = []
    for batch in through(resumed, processes):
        got.append(keys(batch))
        resumed.advance()
    steps = range(epoch * length + stop, (epoch + 1) * length)
    assert got == [expected_keys(step, SHARES, seed=seed) for step in steps]
    assert (resumed.epoch, resumed.state_dict()["step"]) == (epoch + 1, 0)
    # What follows is the next epoch, by whichever way.
    assert keys(next(iter(through(resumed, 1)))) == expected_keys((epoch + 1) * length, SHARES, seed=seed)


@pytest.mark.parametrize(("method", "processes"), [("fork", 2), ("spawn", 1)])
def test_an_epoch_that_is_set_reaches_workers_that_persist(made: Path, method: str, processes: int) -> None:
    loader = loader_of(made, batches_per_epoch=3)
    data = through(loader, processes, persistent_workers=True, multiprocessing_context=method)
    for epoch in (0, 1, 5, 2):
        loader.set_epoch(epoch)
        wanted = [expected_keys(step, SHARES, seed=0) for step in range(3 * epoch, 3 * epoch + 3)]
        assert [keys(batch) for batch in data] == wanted
    loader.set_epoch(6)
    for _ in data:  # left early
        break
    loader.set_epoch(7)
    assert [keys(batch) for batch in data] == [expected_keys(step, SHARES, seed=0) for step in (21, 22, 23)]
    with pytest.raises(UsageError, match="call set_epoch before every epoch"):
        list(data)


def test_a_worker_that_begins_when_all_batches_are_out_has_none(made: Path) -> None:
    """The caller may have been given the last one before it, and have gone on to the next epoch."""
    position = loader_of(made, batches_per_epoch=2)._position
    position.go_to(1)
    late = pickle.loads(ForkingPickler.dumps(position))
    position.reach(2)
    assert position.begin() == range(2, 4)
    with mock.patch.object(position_module, "get_worker_info", return_value="a worker"):
        assert late.begin() == range(1, 2)


def test_what_cannot_be_advanced_is_refused(made: Path) -> None:
    loader = loader_of(made, batches_per_epoch=3)
    loader.advance(2)
    for batches in (-1, 2):
        with pytest.raises(UsageError, match=f"advance by {batches} batches: epoch 0 has 1 left"):
            loader.advance(batches)


class _AsksForState(IterableDataset[object]):
    def __init__(self, loader: MixedLoader) -> None:
        self.loader = loader

    def __iter__(self):  # type: ignore[no-untyped-def]
        yield self.loader.state_dict()


def test_state_of_a_workers_copy_is_refused(made: Path) -> None:
    with pytest.raises(UsageError, match="state_dict of a loader in a worker of a DataLoader"):
        list(DataLoader(_AsksForState(loader_of(made)), batch_size=None, num_workers=1, timeout=60))


_KILLS = """
import multiprocessing, os, signal, sys
from torch.utils.data import DataLoader
from shards import MixedLoader, Source
from tests.shards.small_dataset import VOCABULARY
loader = MixedLoader([Source(sys.argv[1], "weak", share=1)], 5, vocabulary=VOCABULARY, batches_per_epoch=10**6)
for step, batch in enumerate(DataLoader(loader, batch_size=None, num_workers=2)):
    if step == 2:
        os.kill(multiprocessing.active_children()[1].pid, signal.SIGKILL)
"""


def test_a_worker_that_is_killed_ends_the_run_with_an_error(made: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", _KILLS, str(made)], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    # Torch names the killed process, or fails on what it was just sending: which it meets first is chance.
    assert process.returncode == 1
    assert "Error" in process.stderr
