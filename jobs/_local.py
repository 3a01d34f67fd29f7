"""One worker inside the calling process: the same stages without Ray, for tests, debugging and small machines."""

from collections import deque
from collections.abc import Sequence
from types import TracebackType

from jobs._driver import Done, Event, Failed, Pool, Ready
from jobs._stage import ShardFunction, ShardTask, Stage
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


class InProcessPool(Pool):
    """`wait` does the work itself, so it lasts as long as the work. A crash of the stage is one of this process."""

    workers: int = 1

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._opened: dict[int, ShardFunction | None] = {}
        self._todo: deque[tuple[int, ShardTask | None]] = deque()

    def __enter__(self) -> "InProcessPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.clear()

    def spawn(self, worker: int) -> None:
        self._todo.append((worker, None))

    def assign(self, worker: int, task: ShardTask) -> None:
        self._todo.append((worker, task))

    def kill(self, worker: int) -> None:
        self._opened.pop(worker, None)
        self._todo = deque(entry for entry in self._todo if entry[0] != worker)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        worker, task = self._todo.popleft()
        try:
            return (self._do(worker, task),)
        except APPLICATION_ERRORS as error:
            return (Failed(worker=worker, reason=describe_error(error), transient=isinstance(error, OSError)),)

    def _do(self, worker: int, task: ShardTask | None) -> Event:
        function = self._opened.get(worker)
        if task is None or function is None:
            self._opened[worker] = self._stage.open_worker(self._stage.config)
            return Ready(worker=worker)
        return Done(worker=worker, result=function(task))


def describe_error(error: BaseException) -> str:
    """One line for the report: our own errors speak for themselves, others say what they are."""
    message = " ".join(str(error).split())
    return message if isinstance(error, SedDistillError) else f"{type(error).__name__}: {message}"
