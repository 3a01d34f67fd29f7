"""Workers as Ray actors. The only place that imports Ray, when a pool is opened, so that `import jobs` is cheap."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from jobs._driver import Done, Event, Failed, Lost, Pool, Ready
from jobs._local import describe_error
from jobs._stage import ShardTask, Stage
from pipeline import UsageError

# Ray carries paths and counts, never tensors: the smallest store it accepts is 75 MB, its default 30 % of the memory.
_OBJECT_STORE_BYTES = 100 * 2**20
_CONNECT_S = 5.0


def resolve_address(asked: str | None, environment: Mapping[str, str]) -> str | None:
    """The Ray to join, or None for an embedded one: what was asked for, else RAY_ADDRESS.

    RAY_ADDRESS that starts with `http` is the job command's dashboard, which `ray.init` cannot join. Nothing else is
    looked at: a plain `ray.init()` would join whatever cluster a leftover file of an earlier run names.
    """
    address = asked or environment.get("RAY_ADDRESS", "")
    if asked is None and address.startswith("http"):
        address = ""
    return None if address in ("", "local") else address


@contextlib.contextmanager
def ray_session(address: str | None, *, cpus: int) -> Iterator[None]:
    """Join the Ray at `address`, or start one with `cpus` CPUs for the duration. Within a session, that one is used."""
    import ray

    if ray.is_initialized():
        yield
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if address is None:
        ray.init(
            "local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    else:
        _check_listening(address)
        try:
            ray.init(address, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"no Ray answers at {address} ({describe_error(error)}); start one there, set RAY_AUTH_MODE=token "
                f"if it asks for a token, or ask for address local"
            ) from error
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end the process here and now
    try:
        yield
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Where nobody listens, Ray itself goes on trying for minutes."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray answers at {address} ({error}); start one there, or ask for address local") from error


def machine_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class RayPool(Pool):
    """One actor per worker, in which each shard in hand is a call of its own. Ray restarts none of them."""

    def __init__(self, stage: Stage, *, workers: int | None, address: str | None) -> None:
        self.workers: int = workers or 0  # 0: what there is room for, known once Ray is there
        self.at_once: int = stage.at_once
        self._stage = stage
        self._address = resolve_address(address, os.environ)
        self._actors: dict[int, Any] = {}
        # Object reference of a call in flight -> worker and shard, None while it opens the stage.
        self._calls: dict[Any, tuple[int, ShardTask | None]] = {}
        self._session = contextlib.ExitStack()

    def __enter__(self) -> "RayPool":
        cpus = max(machine_cpus(), max(1, self.workers) * self._stage.cpus)
        with contextlib.ExitStack() as session:
            session.enter_context(ray_session(self._address, cpus=cpus))
            self._check_gpus()
            if not self.workers:
                self.workers = self._room()
            self._session = session.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in list(self._actors):
            self.kill(worker)
        self._session.close()

    def spawn(self, worker: int) -> None:
        import ray

        actor: Any = ray.remote(_worker_class()).options(
            num_cpus=self._stage.cpus,
            num_gpus=self._stage.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=self.at_once,  # threads
            runtime_env={"env_vars": self._worker_environment()},
        )
        self._actors[worker] = actor.remote()
        self._calls[self._actors[worker].open.remote(self._stage.open_worker, self._stage.config)] = (worker, None)

    def assign(self, worker: int, task: ShardTask) -> None:
        self._calls[self._actors[worker].do.remote(task)] = (worker, task)

    def kill(self, worker: int) -> None:
        import ray

        actor = self._actors.pop(worker, None)
        self._calls = {call: of for call, of in self._calls.items() if of[0] != worker}
        if actor is not None:
            ray.kill(actor)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        import ray

        if not self._calls:
            return ()
        calls = list(self._calls)
        finished, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        if not finished:
            finished, _ = ray.wait(calls, num_returns=1, timeout=timeout_s)
        return [self._event(call, *self._calls.pop(call)) for call in finished]

    def _event(self, call: Any, worker: int, task: ShardTask | None) -> Event:
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError

        try:
            answer = ray.get(call)
        except RayTaskError as error:
            cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
            told = str(error)  # the traceback of the worker, where Ray itself has no other
            reason = _first_line(cause) if isinstance(cause, RayError) else describe_error(cause, told)
            if "No module named" in reason:
                reason += "; install this project on the workers, or submit it with ray job submit --working-dir"
            return Failed(worker=worker, task=task, reason=reason, transient=isinstance(cause, OSError))
        except RayError as error:
            preempted = isinstance(error, RayActorError) and bool(error.preempted)
            return Lost(worker=worker, reason=_first_line(error), preempted=preempted)
        return Ready(worker=worker) if task is None else Done(worker=worker, task=task, result=answer)

    def _check_gpus(self) -> None:
        """A cluster may still grow; on one machine a worker would wait for its GPU for ever."""
        import ray

        has = ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
        if self._address is None and has < self._stage.gpus:
            raise UsageError(
                f"this machine has {has:g} GPUs and a worker of stage {self._stage.name} needs {self._stage.gpus:g}; "
                f"run it on the CPU, or name a cluster with --ray-address"
            )

    def _room(self) -> int:
        """Workers the machine or cluster has room for now, a core left to the driver where there are more than two."""
        import ray

        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cpus = int(resources.get("CPU", 0))
        if self._address is None and cpus > 2:
            cpus -= 1
        room = cpus // self._stage.cpus
        if self._stage.gpus:
            room = min(room, int(resources.get("GPU", 0) / self._stage.gpus))
        return max(1, room)

    def _worker_environment(self) -> dict[str, str]:
        environment = {"OMP_NUM_THREADS": str(self._stage.cpus)}
        if self._address is None:
            # What the driver can import, workers can. On a cluster the job's working directory is on their path.
            environment["PYTHONPATH"] = os.pathsep.join(_own_import_folders())
        return environment


def _worker_class() -> type:
    """What lives in the actor's process.

    A local class travels whole, where a class of this module would be imported by name: on a node that lacks this
    project the process would die without a word, while a method that cannot load its arguments says what is missing.
    """

    class Worker:
        def open(self, open_worker: Any, config: Any) -> None:
            self.do_shard = open_worker(config)

        def do(self, task: Any) -> Any:
            return self.do_shard(task)

    return Worker


def _own_import_folders() -> list[str]:
    """Folders on sys.path that are not the interpreter's own, the one of this package first."""
    installed = tuple({os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix)})
    folders = [str(Path(__file__).resolve().parent.parent), *(os.path.realpath(entry) for entry in sys.path)]
    own = [folder for folder in folders if not folder.startswith(tuple(f"{prefix}{os.sep}" for prefix in installed))]
    return [folder for folder in dict.fromkeys(own) if os.path.isdir(folder)]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
