"""One audio shard becomes one label shard, on a worker that has the teacher loaded.

A clip's way: `_read` (threads: bytes, checksum, decoding into the memory of its batch), `_heard` (the device: its
logits), `_encoded` (threads: the bytes of its label), `_store` (this thread: the tar, in the order of the shard). Each
step is at work on another batch at the same time, and a second shard may be read while this one has the device.
"""

import contextlib
import itertools
import platform
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from jobs import ShardFunction, ShardResult, ShardTask, result_of, stop_if_asked
from pipeline import AudioSpec, TeacherError
from shards import (
    AudioReader,
    AudioSidecar,
    Dataset,
    LabelRefused,
    LabelShardWriter,
    check_tar_size,
    read_audio_sidecar,
)
from teachers._labeller import LabellerChoice
from teachers.labelling._batch import Batch
from teachers.labelling._device import OutOfMemory, Runner, device_errors, open_runner
from teachers.labelling._provenance import parsed_provenance, provenance_of
from teachers.labelling._seconds import Seconds

# Damage can be undone, unlike what a teacher says of a clip: shards with this reason are labelled again.
UNREADABLE = "unreadable_audio"
# Batches that are read while another is on its way to the device, and encoded while another is written.
_READ_AHEAD = 1
_ENCODED_BEHIND = 1


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """What a worker needs to label shards of one split.

    provenance: the canonical JSON every shard must carry. batch_size: None to find the best. clips: of the largest
    shard. threads: for torch on a CPU, and for reading and encoding.
    """

    dataset: Path
    split: str
    audio: str
    spec: AudioSpec
    labels: str
    teacher: LabellerChoice
    provenance: str
    codec: str
    device: str
    batch_size: int | None
    threads: int
    compile: bool
    clips: int


def open_label_worker(config: LabelConfig) -> ShardFunction:
    """Load the teacher once in this process and return the function that labels one shard.

    Two threads may call it at once: one has the device, the other reads ahead.
    """
    return LabelWorker(config).label


class LabelWorker:
    """A teacher on its device, asked by one shard at a time."""

    def __init__(self, config: LabelConfig) -> None:
        """Raises TeacherError where the teacher is not the one that the job was planned with."""
        on_cpu = config.device == "cpu"
        torch.set_num_threads(config.threads if on_cpu else 1)
        teacher = config.teacher.open(config.device, config.spec)
        if provenance_of(teacher, config.split, config.audio, config.codec, config.teacher.target) != config.provenance:
            raise TeacherError(
                f"teacher {config.teacher.text} on {platform.node()} is not the one the job was started with; "
                "put the same checkpoint file on every node"
            )
        self._config = config
        self._teacher = teacher
        self.runner: Runner = open_runner(
            teacher, config.teacher.target, batch_size=config.batch_size, clips=config.clips, compiled=config.compile
        )
        self._device_turn = threading.Lock()
        self._memory: list[Batch] = []  # of batches that are stored, of whatever shard

    def label(self, task: ShardTask) -> ShardResult:
        """Label every clip of one audio shard and commit the label shard.

        SIGTERM is heeded between two batches. Raises DeviceLost and other errors of the machine (OSError), after which
        nothing of the shard is committed; TeacherError where the teacher is not what it says or the device too small.
        """
        config = self._config
        dataset = Dataset.open(config.dataset)
        audio = read_audio_sidecar(dataset.audio_folder(config.split, config.audio) / f"{task.shard:06d}.json")
        check_tar_size(audio)  # a damaged clip costs that clip, a cut-off tar is a damaged shard
        seconds = Seconds()
        with (
            LabelShardWriter(
                dataset.labels_folder(config.split, config.labels), audio, target=self.runner.asked.target,
                provenance=parsed_provenance(config.provenance), codec=config.codec, software=self._recorded(),
            ) as writer,
            AudioReader(audio) as reader,
            _threads(config.threads) as threads,
        ):  # fmt: skip
            batches = self._read(reader, threads, seconds)
            with contextlib.closing(self._heard(batches, audio, seconds)) as heard:
                for batch, members in _encoded(heard, writer, threads, seconds):
                    with seconds.of("write"):
                        _store(writer, audio, batch, members)
                    self._memory.append(batch)
            with seconds.of("commit"):
                sidecar = writer.commit()
        return result_of(sidecar, seconds=seconds.total())

    def _read(self, reader: AudioReader, threads: ThreadPoolExecutor, seconds: Seconds) -> Iterator[Batch]:
        """Batches with their audio, in the order of the shard; while the caller has one, the next is being read."""
        clips, size = len(reader.sidecar.clips), self.runner.batch_size
        ahead: deque[tuple[Batch, list[Future[None]]]] = deque()

        def first_read() -> Batch:
            batch, parts = ahead.popleft()
            with seconds.of("wait"):
                for part in parts:
                    part.result()
            return batch

        for start in range(0, clips, size):
            batch = self._free_batch()
            batch.begin(range(start, min(start + size, clips)))
            ahead.append((batch, [threads.submit(batch.read, reader, rows, seconds) for rows in batch.parts()]))
            if len(ahead) > _READ_AHEAD:
                yield first_read()
        while ahead:
            yield first_read()

    def _heard(self, batches: Iterator[Batch], audio: AudioSidecar, seconds: Seconds) -> Generator[Batch, None, None]:
        """Batches with their logits; the device has the next one before the caller has one.

        The shard keeps the device until its last batch has begun, so that shards come to an end one after the other.
        """
        first = list(itertools.islice(batches, 1))  # read before it is this shard's turn
        running: deque[Batch] = deque()
        with self._device_turn:
            for batch in itertools.chain(first, batches):
                stop_if_asked()
                try:
                    self.runner.begin(batch, seconds)
                except TeacherError as error:
                    keys = audio.clips.key
                    raise TeacherError(f"clips {keys[batch.rows[0]]} to {keys[batch.rows[-1]]}: {error}") from error
                running.append(batch)
                if len(running) > 1:
                    yield self._finished(running.popleft(), seconds)
        while running:
            yield self._finished(running.popleft(), seconds)

    def _finished(self, batch: Batch, seconds: Seconds) -> Batch:
        self.runner.finish(batch, seconds)
        return batch

    def _free_batch(self) -> Batch:
        """One that is stored, or a new one: to pin memory takes a while, in which a GPU may have to wait."""
        with contextlib.suppress(IndexError):
            return self._memory.pop()
        runner, samples = self.runner, self._teacher.audio_spec.max_samples
        try:
            with device_errors():
                return Batch(runner.batch_size, samples, runner.asked.target.shape, pinned=runner.pinned)
        except OutOfMemory as error:
            raise MemoryError(
                f"no host memory for {runner.batch_size} more clips that a GPU can read ({error}); give a smaller "
                "--batch-size"
            ) from error

    def _recorded(self) -> dict[str, str]:
        """Beside what decides the labels; not compared between runs."""
        return {
            "torch": torch.__version__,
            "device": self._config.device,
            "batch_size": str(self.runner.asked.batch_size),
            "threads": str(self._config.threads),
            "compiled": "yes" if self.runner.compiled else "no",
        }


def _encoded(
    heard: Iterator[Batch], writer: LabelShardWriter, threads: ThreadPoolExecutor, seconds: Seconds
) -> Iterator[tuple[Batch, list[bytes | LabelRefused]]]:
    """Batches with the members of their clips; while the caller has one, the next is being encoded."""
    behind: deque[tuple[Batch, list[Future[list[bytes | LabelRefused]]]]] = deque()

    def first_encoded() -> tuple[Batch, list[bytes | LabelRefused]]:
        batch, parts = behind.popleft()
        return batch, [member for part in parts for member in part.result()]

    for batch in heard:
        behind.append((batch, [threads.submit(batch.encode, writer, rows, seconds) for rows in batch.parts()]))
        if len(behind) > _ENCODED_BEHIND:
            yield first_encoded()
    while behind:
        yield first_encoded()


def _store(writer: LabelShardWriter, audio: AudioSidecar, batch: Batch, members: list[bytes | LabelRefused]) -> None:
    for row, member in zip(batch.rows, members, strict=True):
        key = audio.clips.key[row]
        if row in batch.unreadable:
            writer.fail(key, UNREADABLE, batch.unreadable[row])
        elif isinstance(member, LabelRefused):
            writer.fail(key, member.reason, str(member))
        else:
            writer.store(key, member)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Ended when the block is left; what has not begun then is not done."""
    threads = ThreadPoolExecutor(count, thread_name_prefix="label")
    try:
        yield threads
    finally:
        threads.shutdown(wait=True, cancel_futures=True)
