"""Where a teacher runs: on the CPU, or on a GPU that runs one batch while others are copied to it and back.

`begin` starts a batch, `finish` waits until its logits are in host memory. In between the next batch can begin.
"""

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline import AudioSpec, TeacherError
from teachers._teacher import Teacher
from teachers.labelling._batch import Batch
from teachers.labelling._seconds import Seconds

CPU_BATCH = 8  # a CPU runs clips one by one; between two batches it is asked whether to stop
# Clips of 10 s; of longer ones a batch has fewer. A GPU may be busy with fewer than the first, but what Python does for
# a batch, while other threads want the same lock, has to be done before the GPU is through with the one before it.
FIRST_BATCH, LARGEST_BATCH = 128, 512
_WORTH = 1.03  # a batch of twice the size has to be so much faster
_RUNS = 2
# One model in one shape is one compilation; 15 members in two shapes are more than PyTorch allows by default.
_COMPILATIONS = 64


class DeviceLost(OSError):
    """The device failed under a batch. Nothing of its shard is committed; another worker may do it."""


class OutOfMemory(MemoryError):
    """The device has no room for so many clips at once, or the host for as many that a device can read."""


class Asked:
    """One question to a teacher: the logits of its target, for as many clips at once as the device has room for.

    batch_size: halved whenever memory runs out, for good. The clips are then asked for again, so none is lost.
    """

    def __init__(self, teacher: Teacher, target: str, batch_size: int) -> None:
        self.teacher = teacher
        self.target = teacher.clip_target if target == "clip" else teacher.target
        self.batch_size = batch_size
        self.method = "_clip_logits" if target == "clip" else "_frame_logits"

    def logits(self, waveforms: Tensor, samples: Sequence[int]) -> Tensor:
        """Float32 [B, *target.shape] where the waveforms are. Raises TeacherError, DeviceLost."""
        while True:
            with contextlib.suppress(OutOfMemory):
                return self.in_parts(waveforms, samples)
            # Not in an `except`: as long as the error is at hand, so is all that the attempt had allocated.
            self._halve(len(waveforms))

    def in_parts(self, waveforms: Tensor, samples: Sequence[int]) -> Tensor:
        """One attempt. Raises OutOfMemory too."""
        size = self.batch_size
        parts = range(0, len(waveforms), size)
        with device_errors():
            logits = [self._once(waveforms[part : part + size], samples[part : part + size]) for part in parts]
            return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _once(self, waveforms: Tensor, samples: Sequence[int]) -> Tensor:
        if self.method == "_clip_logits":
            logits = self.teacher.clip_logits(waveforms)
        else:
            logits = self.teacher.frame_logits(waveforms, samples)
        if logits.shape != (len(waveforms), *self.target.shape):
            raise TeacherError(
                f"the teacher gave {tuple(logits.shape)} logits for {len(waveforms)} clips, needs {self.target.shape} "
                "each; correct the teacher"
            )
        return logits

    def _halve(self, clips: int) -> None:
        tried = min(self.batch_size, clips)
        if tried == 1:
            raise TeacherError(
                f"{self.teacher.device} runs out of memory with a single clip: end what else uses it, or give "
                "--precision float16 or fewer teachers"
            )
        self.batch_size = -(-tried // 2)
        say(f"{self.teacher.device} is out of memory with {tried} clips at once, goes on with {self.batch_size}")
        gc.collect()
        if self.teacher.device.type == "cuda":
            torch.cuda.empty_cache()


class CpuRunner:
    """The teacher in this thread."""

    pinned = False
    compiled = False

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.batch_size = asked.batch_size

    def begin(self, batch: Batch, seconds: Seconds) -> None:
        used = len(batch.rows)
        with seconds.of("device"):
            batch.logits = self.asked.logits(batch.waveforms[:used], batch.samples[:used])

    def finish(self, batch: Batch, seconds: Seconds) -> None:
        pass


@dataclass(frozen=True)
class _Running:
    """A batch on the GPU: its logits there, and the events between which it was copied in, ran and was copied out."""

    logits: Tensor
    copy_in: tuple[Any, Any]
    ran: tuple[Any, Any]
    copy_out: tuple[Any, Any]
    ran_before: Any  # end of the batch before it, or None


class CudaRunner:
    """The teacher on a GPU. Batches have one shape, places not in use included; nothing here waits but `finish`.

    One thread at a time may begin batches; finishing is any thread's.
    """

    pinned = True

    def __init__(self, asked: Asked, *, compiled: bool) -> None:
        self.asked = asked
        self.compiled = compiled
        self.batch_size = asked.batch_size
        device = asked.teacher.device
        self._stream = torch.cuda.current_stream(device)
        # Two ways of their own: on one, a copy in would queue behind a copy out, which waits for the batch before.
        self._way_in, self._way_out = torch.cuda.Stream(device), torch.cuda.Stream(device)
        # Two places for waveforms, used in turn: one is filled while the teacher hears the other.
        shape = (asked.batch_size, asked.teacher.audio_spec.max_samples)
        self._waveforms = [torch.empty(shape, device=device) for _ in range(2)]
        self._heard: list[Any] = [None, None]  # end of the batch that was last in each place
        self._begun = 0
        torch.cuda.synchronize(device)  # nothing is left that writes to this memory

    def begin(self, batch: Batch, seconds: Seconds) -> None:
        if self.compiled:
            _allow_compilations()
        place, before = self._begun % 2, self._heard[(self._begun - 1) % 2]
        waveforms = self._waveforms[place]
        with device_errors(), torch.cuda.stream(self._way_in):
            if self._heard[place] is not None:
                self._way_in.wait_event(self._heard[place])
            copy_from = _now(self._way_in)
            waveforms.copy_(batch.waveforms, non_blocking=True)
            copied_in = _now(self._way_in)
        with device_errors(), torch.cuda.stream(self._stream):
            self._stream.wait_event(copied_in)
            started = _now(self._stream)
            logits = self.asked.logits(waveforms, batch.samples)
            ended = _now(self._stream)
        with device_errors(), torch.cuda.stream(self._way_out):
            self._way_out.wait_event(ended)
            copy_back = _now(self._way_out)
            batch.logits.copy_(logits, non_blocking=True)
            copied_out = _now(self._way_out)
        batch.running = _Running(logits, (copy_from, copied_in), (started, ended), (copy_back, copied_out), before)
        self._heard[place] = ended
        self._begun += 1

    def finish(self, batch: Batch, seconds: Seconds) -> None:
        running, batch.running = batch.running, None
        with device_errors():
            running.copy_out[1].synchronize()
            seconds.add("copy", _between(running.copy_in) + _between(running.copy_out))
            seconds.add("device", _between(running.ran))
            if running.ran_before is not None:
                seconds.add("idle", _between((running.ran_before, running.ran[0])))


Runner = CpuRunner | CudaRunner


def open_runner(teacher: Teacher, target: str, *, batch_size: int | None, clips: int, compiled: bool) -> Runner:
    """A runner whose batch size is `batch_size`, or the best one for shards of `clips` clips."""
    if teacher.device.type != "cuda":
        return CpuRunner(Asked(teacher, target, min(batch_size or CPU_BATCH, clips)))
    if batch_size is None:
        most = max(1, LARGEST_BATCH * AudioSpec().max_samples // teacher.audio_spec.max_samples)
        best = find_batch_size(lambda size: _clips_per_s(teacher, target, size), most=min(most, clips))
        torch.cuda.empty_cache()
        batch_size = -(-clips // -(-clips // best))  # the last batch of a shard as full as the others
    asked = Asked(teacher, target, min(batch_size, clips))
    compiled = compiled and compile_teacher(asked)
    return CudaRunner(asked, compiled=compiled)


def find_batch_size(clips_per_s: Callable[[int], float], *, most: int) -> int:
    """The first size that twice as many clips are no faster than, or the last there is memory for.

    clips_per_s raises OutOfMemory. Raises TeacherError where not even one clip fits.
    """
    size, speed = min(FIRST_BATCH, most), 0.0
    while not speed:
        try:
            speed = clips_per_s(size)
        except OutOfMemory:
            if size == 1:
                raise TeacherError("the device runs out of memory with a single clip; see --precision") from None
            size = -(-size // 2)
    while size < most:
        larger = min(2 * size, most)
        try:
            faster = clips_per_s(larger)
        except OutOfMemory:
            break
        if faster < _WORTH * speed:
            break
        size, speed = larger, faster
    return size


def compile_teacher(asked: Asked) -> bool:
    """Have PyTorch compile the models for batches of `asked`; False where it cannot, which a line then says.

    Kernels that add up are chosen by rule, not by how fast they were just now, which may differ from run to run and
    with it the last bits of a logit.
    """
    leaves = asked.teacher.leaves
    try:
        _allow_compilations()
        options: dict[str, Any] = {name: True for name in ("deterministic",) if name in torch._inductor.list_options()}
        for leaf in leaves:
            compiled = torch.compile(getattr(leaf, asked.method), dynamic=False, options=options)
            setattr(leaf, asked.method, compiled)
        shape = (asked.batch_size, asked.teacher.audio_spec.max_samples)
        asked.logits(torch.zeros(shape, device=asked.teacher.device), [shape[1]] * shape[0])
        return True
    except (RuntimeError, ImportError) as error:  # no compiler, no Triton, code that it does not know
        say(f"the teacher runs uncompiled: {' '.join(str(error).split())[:300]}")
    for leaf in leaves:
        vars(leaf).pop(asked.method, None)
    return False


def _allow_compilations() -> None:
    """Settings of PyTorch's compiler are those of a thread, and any may be the one that memory runs out in."""
    torch._dynamo.config.cache_size_limit = max(_COMPILATIONS, torch._dynamo.config.cache_size_limit)


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """What a GPU's library calls RuntimeError: OutOfMemory, DeviceLost, or a mistake in the teacher, left as it is."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in text for sign in _NO_MEMORY):
            raise OutOfMemory(text) from None
        if isinstance(error, _ACCELERATOR) or any(sign in text for sign in _LOST):
            raise DeviceLost(f"the device failed: {text[:300]}") from error
        raise


_NO_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
_LOST = ("CUDA error", "CUDA driver error", "cuDNN error", "NCCL error")
_ACCELERATOR: tuple[type, ...] = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()


def say(line: str) -> None:
    """To the log of the worker."""
    print(f"label: {line}", file=sys.stderr, flush=True)


def _clips_per_s(teacher: Teacher, target: str, size: int) -> float:
    """As long as nothing is compiled, which would take a minute a size. Raises OutOfMemory."""
    asked = Asked(teacher, target, size)
    with device_errors():
        waveforms = torch.zeros((size, teacher.audio_spec.max_samples), device=teacher.device)
        samples = [waveforms.shape[1]] * size
        asked.in_parts(waveforms, samples)  # the first run also chooses kernels
        torch.cuda.synchronize(teacher.device)
        start_s = time.perf_counter()
        for _ in range(_RUNS):
            asked.in_parts(waveforms, samples)
        torch.cuda.synchronize(teacher.device)
        return size * _RUNS / (time.perf_counter() - start_s)


def _now(stream: Any) -> Any:
    """An event that says when `stream` has come so far."""
    event = torch.cuda.Event(enable_timing=True)
    event.record(stream)
    return event


def _between(events: tuple[Any, Any]) -> float:
    return float(events[0].elapsed_time(events[1])) / 1e3
