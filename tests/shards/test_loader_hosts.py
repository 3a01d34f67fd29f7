"""The loader within whatever people train in: spawned ranks, event loops, notebooks; and how all of it ends."""

import asyncio
import code
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.multiprocessing
from torch.utils.data import DataLoader

from shards import Batch, Dataset
from tests.shards.mixing import assert_same, expected_keys, loader_of, loader_threads, make_mix
from tests.shards.small_dataset import write_split

REPOSITORY = Path(__file__).resolve().parents[2]
SHARES = {"weak": 3, "strong": 2}
DEADLINE_S = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mix(tmp_path_factory.mktemp("mixed") / "data", "path")[0]


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of up to 10 s in FLAC: whoever stops the loader most likely meets it in a decoder."""
    root = tmp_path_factory.mktemp("long") / "data"
    write_split(Dataset.create(root, keys="path"), "weak", 12, seed=7, most_samples=160_000, labels=("frames",))
    return root


def keys(batch: Batch) -> list[tuple[str, str]]:
    return list(zip(batch.source, batch.key, strict=True))


def test_workers_of_a_fork_server_give_the_same(made: Path) -> None:
    """Like spawned ones, they get the loader pickled; unlike these, they are forks of a process with torch in it."""
    data = DataLoader(
        loader_of(made), batch_size=None, num_workers=2, timeout=DEADLINE_S, multiprocessing_context="forkserver"
    )
    for one, other in zip(loader_of(made), data, strict=True):
        assert_same(one, other)


def _train(rank: int, root: Path, folder: Path) -> None:
    loader = loader_of(root, rank=rank, world_size=2, batches_per_epoch=3)
    loader.set_epoch(1)
    torch.save([keys(batch) for batch in loader], folder / f"{rank}.pt")


def test_spawned_ranks_share_out_the_batches(made: Path, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_train, (made, tmp_path), nprocs=2)
    for rank in range(2):
        wanted = [expected_keys(step, SHARES, seed=0, rank=rank, world_size=2) for step in range(3, 6)]
        assert torch.load(tmp_path / f"{rank}.pt") == wanted


def test_loaders_and_iterators_side_by_side(made: Path) -> None:
    one, other = loader_of(made, seed=1), loader_of(made, seed=2, workers=3)
    for step, batches in enumerate(zip(one, other, loader_of(made, seed=1, workers=0), one, strict=True)):
        for batch, seed in zip(batches, (1, 2, 1, 1), strict=True):
            assert keys(batch) == expected_keys(step, SHARES, seed=seed)
        assert_same(batches[0], batches[2])
        assert_same(batches[0], batches[3])
    assert not loader_threads()


def test_an_event_loop_in_a_thread_of_its_own(made: Path) -> None:
    """Batches awaited one after another, each `next` in whichever thread of the loop's executor is free."""
    got: list[list[tuple[str, str]]] = []

    async def train() -> None:
        batches = iter(loader_of(made))
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            got.append(keys(batch))
        for step, batch in enumerate(loader_of(made, seed=4)):
            assert keys(batch) == expected_keys(step, SHARES, seed=4)
            await asyncio.sleep(0)

    thread = threading.Thread(target=asyncio.run, args=(train(),))
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert got == [expected_keys(step, SHARES, seed=0) for step in range(8)]
    assert not loader_threads()


class _Interpreter(code.InteractiveInterpreter):
    def write(self, data: str) -> None:
        """Tracebacks are for people."""


def _shell(names: dict[str, object]) -> tuple[Callable[[str], object], dict[str, object]]:
    """What runs a cell, and its variables: of a notebook where IPython is installed, else of the standard library."""
    try:
        from IPython.core.interactiveshell import InteractiveShell
    except ImportError:
        interpreter = _Interpreter(names)
        return lambda cell: interpreter.runcode(compile(cell, "<cell>", "exec")), names
    shell = InteractiveShell()
    shell.history_manager.enabled = False
    shell.user_ns.update(names)
    return lambda cell: shell.run_cell(cell), shell.user_ns


def test_cells_of_a_notebook(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in a cell is kept for its debugger, and all frames with it, but no thread goes on."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    run, names = _shell({"loader": loader_of(made)})
    try:
        run("for batch in loader:\n    if loader.state_dict()['step'] == 3: raise ZeroDivisionError")
        assert isinstance(sys.last_value, ZeroDivisionError)
        assert not loader_threads()
    finally:
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)
    run("kept = list(loader)")
    assert [keys(batch) for batch in names["kept"]] == [expected_keys(step, SHARES, seed=0) for step in range(8)]
    run("for batch in loader: break")
    assert not loader_threads()
    run("batches = iter(loader); first = next(batches)")
    assert loader_threads()
    run("del batches")
    assert not loader_threads()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
@pytest.mark.parametrize(
    ("how", "stop", "whom"),
    [
        ("caller", signal.SIGINT, "process"),
        ("threads", signal.SIGINT, "process"),
        ("fork", signal.SIGINT, "process"),
        ("fork", signal.SIGINT, "group"),  # as a terminal sends it
        ("threads", signal.SIGKILL, "process"),
        ("fork", signal.SIGKILL, "process"),
        ("spawn,file_system", signal.SIGKILL, "process"),
    ],
)
def test_a_process_that_is_stopped_leaves_nothing(long_clips: Path, how: str, stop: signal.Signals, whom: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.shards.iterating", long_clips, how],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    family: dict[int, str] = {}
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        family = _family(process.pid)
        assert len(family) >= (1 if how in ("caller", "threads") else 3)
        shared = _shared_memory(family)
        if whom == "group":
            os.killpg(process.pid, stop)
        else:
            process.send_signal(stop)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == -stop, errors
        if stop == signal.SIGINT:
            assert "KeyboardInterrupt" in errors.splitlines()
            # Processes of a DataLoader may have something of their own to say, in the middle of it.
            assert errors.count("Traceback") == 1 or len(family) > 1, errors
        _until(lambda: not _alive(family))
        _until(lambda: not [path for path in shared if path.exists()])
        assert not [path for path in Path("/dev/shm").iterdir() if _made_by(path, family)]
    finally:
        process.kill()
        process.wait()
        for pid in _alive(family):
            os.kill(pid, signal.SIGKILL)


def _family(pid: int) -> dict[int, str]:
    """The process and all its descendants, each with its start time."""
    found = {pid: _start_time(pid)}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found |= _family(int(child))
    return found


def _start_time(pid: int) -> str:
    """Empty for a process that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _alive(family: dict[int, str]) -> list[int]:
    return [pid for pid, start_time in family.items() if start_time and _start_time(pid) == start_time]


def _shared_memory(family: dict[int, str]) -> list[Path]:
    """What they have mapped there that still has a name."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in family)
    return [Path(path) for path in re.findall(r"(/dev/shm/\S+)$", maps, re.MULTILINE)]


def _made_by(path: Path, family: dict[int, str]) -> bool:
    return any(f"_{pid}_" in path.name for pid in family)


def _until(happened: Callable[[], bool]) -> None:
    ends = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.05)
