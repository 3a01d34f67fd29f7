"""One worker inside the calling process: the same stages without Ray, for tests, debugging and small machines."""

import os
import re
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from types import TracebackType

from jobs._driver import Done, Event, Failed, Pool, Ready
from jobs._stage import ShardFunction, ShardResult, ShardTask, Stage
from jobs._stop import Interrupted
from pipeline import SedDistillError

# What a stage may raise on the way through a shard. Others (TypeError, AttributeError, ...) are mistakes in the stage's
# own code, which one wants to see with their traceback at the first shard, not once per shard in a report.
APPLICATION_ERRORS = (
    SedDistillError,
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
)

_ROOT = Path(__file__).resolve().parents[1]
_OWN_PACKAGES = ("jobs", "pipeline", "sed_distill", "shards", "students", "teachers")
_OWN_FOLDERS = tuple(f"{_ROOT / package}{os.sep}" for package in _OWN_PACKAGES)
_LIBRARIES = re.compile(r"[/\\](site-packages|dist-packages|lib[/\\]python3\.\d+)[/\\]", re.IGNORECASE)
_FRAME = re.compile(r'^ *File "([^<"][^"]*)", line (\d+), in ', re.MULTILINE)


class InProcessPool(Pool):
    """`wait` does the work itself, so it lasts as long as the work; or threads do, where the stage takes several shards
    at once. A crash of the stage is one of this process."""

    workers: int = 1

    def __init__(self, stage: Stage) -> None:
        self.at_once: int = stage.at_once
        self._stage = stage
        self._opened: dict[int, ShardFunction] = {}
        self._todo: deque[tuple[int, ShardTask | None]] = deque()
        self._threads = futures.ThreadPoolExecutor(stage.at_once, thread_name_prefix="shard")
        self._running: dict[futures.Future[ShardResult], tuple[int, ShardTask]] = {}

    def __enter__(self) -> "InProcessPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._opened.clear()

    def spawn(self, worker: int) -> None:
        self._todo.append((worker, None))

    def assign(self, worker: int, task: ShardTask) -> None:
        if self.at_once == 1:
            self._todo.append((worker, task))
        else:
            self._running[self._threads.submit(self._opened[worker], task)] = (worker, task)

    def kill(self, worker: int) -> None:
        """Waits for what threads have begun, which a signal ends at its next safe point."""
        self._todo = deque(entry for entry in self._todo if entry[0] != worker)
        begun = [call for call, (of, _) in self._running.items() if of == worker]
        futures.wait(begun)
        for call in begun:
            del self._running[call]
        self._opened.pop(worker, None)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        if self._todo:
            worker, task = self._todo.popleft()
            return (_answer(worker, task, lambda: self._do(worker, task)),)
        ended, _ = futures.wait(self._running, timeout_s, futures.FIRST_COMPLETED)
        return [
            _answer(*self._running.pop(call), call.result)
            for call in ended
            if not isinstance(call.exception(), Interrupted)  # the run is about to be stopped, and this call with it
        ]

    def _do(self, worker: int, task: ShardTask | None) -> ShardResult | None:
        if task is not None:
            return self._opened[worker](task)
        self._opened[worker] = self._stage.open_worker(self._stage.config)
        return None


def _answer(worker: int, task: ShardTask | None, work: Callable[[], ShardResult | None]) -> Event:
    try:
        result = work()
    except APPLICATION_ERRORS as error:
        transient = isinstance(error, OSError)
        return Failed(worker=worker, task=task, reason=describe_error(error), transient=transient)
    return Ready(worker=worker) if task is None or result is None else Done(worker=worker, task=task, result=result)


def describe_error(error: BaseException, told: str | None = None) -> str:
    """One line for the report: our own errors speak for themselves, others say what they are and, where a user's own
    code is on the way to them, its last line there: `TypeError: ... (energy.py line 21)`.

    told: the traceback as text, of an error that comes from another process without one.
    """
    message = " ".join(str(error).split())
    if isinstance(error, SedDistillError):
        return message
    frames = _FRAME.findall("".join(traceback.format_exception(error)) if told is None else told)
    places = [f" ({Path(file).name} line {line})" for file, line in frames if _is_users(file)]
    return f"{type(error).__name__}: {message}{places[-1] if places else ''}"


def _is_users(file: str) -> bool:
    return not _LIBRARIES.search(file) and not os.path.realpath(file).startswith(_OWN_FOLDERS)
