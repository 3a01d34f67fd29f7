"""The device under a labelling run: memory that runs out, devices that are lost, what a GPU would be asked in which
order, batch sizes, compilation. Without a GPU the events of one are played."""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs import Interrupted, run_stage
from pipeline import AudioSpec, TeacherError, Vocabulary
from shards import AudioShardWriter, Dataset, LabelReader, Problem, verify
from teachers import LabellerChoice, Teacher, label_stage
from teachers.labelling import _batch
from teachers.labelling._batch import Batch
from teachers.labelling._device import (
    Asked,
    CudaRunner,
    DeviceLost,
    OutOfMemory,
    compile_teacher,
    device_errors,
    find_batch_size,
)
from teachers.labelling._seconds import Seconds
from teachers.labelling._shard import LabelWorker
from tests.teachers.labelling_examples import MIDS, packed, tiny_beats
from tests.teachers.test_labelling import label_bytes

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Levels(Teacher):
    """Logits are the level of the first samples; like a GPU it takes a batch as a whole, of at most `room` clips."""

    def __init__(self, room: int = 10_000) -> None:
        super().__init__(
            audio_spec=AudioSpec(), vocabulary=Vocabulary(MIDS, MIDS), provenance={"family": "levels"}, device=CPU
        )
        self.room = room
        self.sizes: list[int] = []

    def frame_logits(self, waveforms: Tensor, samples: Sequence[int] | None = None) -> Tensor:
        self.sizes.append(len(waveforms))
        if len(waveforms) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self._frame_logits(waveforms, self.frames)

    def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
        return features[:, :1, None].expand(-1, len(MIDS), frames).clone()


def clips(count: int) -> Tensor:
    """Clip i starts with i + 1."""
    waveforms = torch.zeros(count, 160_000)
    waveforms[:, 0] = torch.arange(1, count + 1)
    return waveforms


@pytest.mark.parametrize(("room", "left"), [(8, 5), (3, 3), (1, 1)])
def test_out_of_memory_the_same_clips_are_done_in_smaller_parts(
    room: int, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = Levels(room)
    asked = Asked(teacher, "frame", 10)
    logits = asked.logits(clips(10), [160_000] * 10)
    assert logits[:, 0, 0].tolist() == list(range(1, 11))
    assert asked.batch_size == left
    assert "out of memory with 10 clips at once" in capsys.readouterr().err
    del teacher.sizes[:]
    asked.logits(clips(10), [160_000] * 10)
    assert max(teacher.sizes) == left, "what did not fit is not tried again"


def test_out_of_memory_with_one_clip_is_an_error_that_says_so() -> None:
    with pytest.raises(TeacherError, match="runs out of memory with a single clip"):
        Asked(Levels(room=0), "frame", 4).logits(clips(3), [160_000] * 3)


def test_what_a_failed_attempt_held_is_free_before_the_next() -> None:
    """An exception at hand keeps alive the frames it passed, and all they had allocated."""
    alive: set[int] = set()

    class Held:
        def __init__(self) -> None:
            alive.add(id(self))

        def __del__(self) -> None:
            alive.discard(id(self))

    class Hungry(Levels):
        def frame_logits(self, waveforms: Tensor, samples: Sequence[int] | None = None) -> Tensor:
            assert not alive
            held = Held()
            logits = super().frame_logits(waveforms, samples)
            del held
            return logits

    assert len(Asked(Hungry(room=2), "frame", 16).logits(clips(16), [160_000] * 16)) == 16


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), OutOfMemory),
        (RuntimeError("CUDA error: out of memory"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemory),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceLost),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        *(
            [(torch.AcceleratorError("the device is gone", 999), DeviceLost)]
            if hasattr(torch, "AcceleratorError")
            else []
        ),
    ],
)
def test_what_a_library_calls_runtime_error(error: RuntimeError, kind: type[BaseException]) -> None:
    with pytest.raises(kind) as raised, device_errors():
        raise error
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("fits", "gains_up_to", "most", "found"),
    [
        (10_000, 256, 512, 256),
        (10_000, 10_000, 512, 512),
        (10_000, 10_000, 300, 300),
        (10_000, 10_000, 7, 7),
        (10_000, 1, 512, 128),
        (300, 10_000, 512, 256),
        (40, 10_000, 512, 32),
        (1, 10_000, 512, 1),
    ],
)
def test_batch_sizes_double_while_it_pays_and_memory_lasts(fits: int, gains_up_to: int, most: int, found: int) -> None:
    def clips_per_s(size: int) -> float:
        if size > fits:
            raise OutOfMemory
        return float(min(size, gains_up_to))

    assert find_batch_size(clips_per_s, most=most) == found


def test_no_batch_size_is_found_where_nothing_fits() -> None:
    def clips_per_s(size: int) -> float:
        raise OutOfMemory

    with pytest.raises(TeacherError, match="single clip"):
        find_batch_size(clips_per_s, most=64)


def test_compiled_it_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All members, each by itself; traced without gaps, though not by the compiler of a GPU."""
    compiled: list[Any] = []
    compiler = torch.compile

    def traced(function: Any, *, options: dict[str, Any], **others: Any) -> Any:
        compiled.append(function)
        compiler(function, options=options, **others)  # refuses options that PyTorch's own compiler does not know
        if "deterministic" in torch._inductor.list_options():
            assert options == {"deterministic": True}, "kernels would be chosen by timing"
        return compiler(function, backend="eager", fullgraph=True, **others)

    monkeypatch.setattr(torch, "compile", traced)
    texts = [f"beats={tiny_beats(tmp_path / f'{seed}.pt', seed=seed)}" for seed in range(3)]
    teacher = LabellerChoice.of(texts).open("cpu")
    waveforms = torch.randn(2, 160_000, generator=torch.Generator().manual_seed(0)) * 0.1
    expected = teacher.frame_logits(waveforms)
    assert compile_teacher(Asked(teacher, "frame", 2))
    assert len(compiled) == 3
    torch.testing.assert_close(teacher.frame_logits(waveforms), expected, rtol=0, atol=1e-5)


def test_what_cannot_be_compiled_runs_as_it_is_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compiled(function: Any, **options: Any) -> Any:
        def broken(*arguments: Any) -> Any:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

        return broken

    monkeypatch.setattr(torch, "compile", compiled)
    teacher = LabellerChoice.of(f"beats={tiny_beats(tmp_path / 'tiny.pt')}").open("cpu")
    expected = teacher.frame_logits(clips(1))
    assert not compile_teacher(Asked(teacher, "frame", 2))
    assert "runs uncompiled: Failed to find C compiler. Please" in capsys.readouterr().err
    torch.testing.assert_close(teacher.frame_logits(clips(1)), expected, rtol=0, atol=0)


def test_where_pytorch_does_not_compile_at_all_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(function: Any, **options: Any) -> Any:
        raise RuntimeError("Dynamo is not supported on this Python")

    monkeypatch.setattr(torch, "compile", refused)
    teacher = LabellerChoice.of(f"beats={tiny_beats(tmp_path / 'tiny.pt')}").open("cpu")
    assert not compile_teacher(Asked(teacher, "frame", 2))
    assert "runs uncompiled: Dynamo is not supported" in capsys.readouterr().err
    assert teacher.frame_logits(clips(1)).isfinite().all()


class PlayedEvent:
    """A point of a stream: it is reached at once. Waiting for one that nobody recorded would last for ever."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.recorded_on: str | None = None

    def record(self, stream: "PlayedStream") -> None:
        self.recorded_on = stream.name

    def synchronize(self) -> None:
        assert self.recorded_on is not None

    def elapsed_time(self, end: "PlayedEvent") -> float:
        assert self.recorded_on is not None
        assert end.recorded_on is not None
        return 1.0


class PlayedStream:
    names = iter("")

    def __init__(self, device: object = None, name: str = "") -> None:
        self.name = name or next(PlayedStream.names)
        self.waited: list[str | None] = []

    def wait_event(self, event: PlayedEvent) -> None:
        assert event.recorded_on not in (None, self.name)
        self.waited.append(event.recorded_on)


@pytest.fixture
def played_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, PlayedStream]:
    """Streams by name; `CudaRunner` then runs on the CPU, with memory that is not pinned."""
    streams: dict[str, PlayedStream] = {}

    def new(device: object = None) -> PlayedStream:
        name = ("in", "out")[len(streams) - 1]
        streams[name] = PlayedStream(name=name)
        return streams[name]

    streams["compute"] = PlayedStream(name="compute")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: streams["compute"])
    monkeypatch.setattr(torch.cuda, "Stream", new)
    monkeypatch.setattr(torch.cuda, "Event", PlayedEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(CudaRunner, "pinned", False)
    return streams


def test_a_gpus_batches_keep_their_clips_and_wait_for_the_right_things(played_gpu: dict[str, PlayedStream]) -> None:
    runner = CudaRunner(Asked(Levels(room=3), "frame", 4), compiled=False)
    seconds = Seconds()
    batches = [Batch(4, 160_000, (len(MIDS), 250), pinned=False) for _ in range(3)]
    for number, batch in enumerate(batches):
        batch.begin(range(4 * number, 4 * number + 4))
        batch.waveforms[:, 0] = torch.arange(4) + 10.0 * number
        runner.begin(batch, seconds)
        if number:
            runner.finish(batches[number - 1], seconds)
    runner.finish(batches[2], seconds)
    for number, batch in enumerate(batches):
        assert batch.logits is not None
        assert batch.logits[:, 0, 0].tolist() == [10.0 * number + place for place in range(4)]
    assert played_gpu["compute"].waited == ["in"] * 3, "each batch is heard once it is there"
    assert played_gpu["out"].waited == ["compute"] * 3, "and copied back once it is heard"
    assert played_gpu["in"].waited == ["compute"], "memory is filled again once what it held is heard"
    assert seconds.total() == pytest.approx({"copy": 6e-3, "device": 3e-3, "idle": 2e-3})


def test_any_thread_may_compile_what_memory_that_ran_out_asks_for(played_gpu: dict[str, PlayedStream]) -> None:
    """What is set of PyTorch's compiler is set for one thread, and shards have threads of their own."""
    runner = CudaRunner(Asked(Levels(), "frame", 2), compiled=True)

    def begun() -> int:
        runner.begin(Batch(2, 160_000, (len(MIDS), 250), pinned=False), Seconds())
        return int(torch._dynamo.config.cache_size_limit)

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(begun).result() >= 64


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("device"), clips=8, clips_per_shard=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_beats(tmp_path_factory.mktemp("checkpoint") / "tiny.pt")


def test_on_a_played_gpu_with_two_shards_at_once_the_labels_are_the_same(
    dataset: Path, checkpoint: Path, played_gpu: dict[str, PlayedStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Static batches of 3 for shards of 4: the last one is mostly padding."""
    teacher = LabellerChoice.of(f"beats={checkpoint}")
    options = {"dataset": dataset, "split": "strong", "teacher": teacher, "device": "cpu"}
    assert run_stage(label_stage(labels="cpu", **options), executor="local", progress=False).exit_code == 0
    stage = label_stage(labels="gpu", **options, batch_size=3, threads=3)
    monkeypatch.setattr(
        "teachers.labelling._shard.open_runner",
        lambda teacher, target, **others: CudaRunner(Asked(teacher, target, 3), compiled=False),
    )
    label = stage.open_worker(stage.config)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(label, stage.tasks))
    assert tars(label_bytes(dataset, "gpu")) == tars(label_bytes(dataset, "cpu"))
    assert problems(dataset, "gpu") == []


def test_shards_of_none_one_and_many_clips_some_damaged_on_a_played_gpu(
    tmp_path: Path, checkpoint: Path, played_gpu: dict[str, PlayedStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, bad = (1, 0, 5, 2, 7), {0: [0], 3: [0, 1], 4: [0, 3, 6]}
    dataset = noises(tmp_path / "noises", sizes)
    for audio in Dataset.open(dataset).audio_shards("strong", AudioSpec().name):
        content = bytearray(audio.tar_path.read_bytes())
        for row in bad.get(audio.shard, []):
            content[audio.clips.offset[row] + audio.clips.length[row] // 2] ^= 1
        audio.tar_path.write_bytes(content)
    options = {"dataset": dataset, "split": "strong", "teacher": LabellerChoice.of(f"beats={checkpoint}")}
    run_stage(label_stage(labels="cpu", device="cpu", **options), executor="local", progress=False)
    monkeypatch.setattr(
        "teachers.labelling._shard.open_runner",
        lambda teacher, target, **others: CudaRunner(Asked(teacher, target, 3), compiled=False),
    )
    stage = dataclasses.replace(label_stage(labels="gpu", device="cpu", threads=4, **options), at_once=2)
    report = run_stage(stage, executor="local", progress=False)
    assert (report.exit_code, report.stored, report.rejected) == (0, 9, {"unreadable_audio": 6})
    assert tars(label_bytes(dataset, "gpu")) == tars(label_bytes(dataset, "cpu"))


def noises(folder: Path, sizes: Sequence[int]) -> Path:
    """A dataset with shards of so many clips, of any length."""
    audio = Dataset.create(folder, keys="audioset").audio_folder("strong", AudioSpec().name)
    audio.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for shard, size in enumerate(sizes):
        with AudioShardWriter(audio, shard, spec=AudioSpec(), provenance={"stage": "pack"}) as writer:
            writer.reject(f"rejected{shard}_0", "missing", "no source has it")
            for number in range(size):
                pcm = rng.normal(0, 3000, int(rng.integers(1, 160_001))).astype(np.int16)
                writer.add(f"clip{shard}{number}_0", pcm, origin="flac")
            writer.commit()
    return folder


def problems(dataset: Path, labels: str) -> list[Problem]:
    return [problem for problem in verify(dataset) if problem.shard.parent.name == labels]


def tars(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.endswith(".tar")}


class Told(Teacher):
    """Of the user's own: `path` is a folder, and the names of the files in it are what goes wrong."""

    def __init__(self, path: Path, device: torch.device) -> None:
        super().__init__(
            audio_spec=AudioSpec(), vocabulary=Vocabulary(MIDS, MIDS), device=device,
            provenance={"family": "told", "checkpoint_sha256": "0" * 64},
        )  # fmt: skip
        self.path = path

    def frame_logits(self, waveforms: Tensor, samples: Sequence[int] | None = None) -> Tensor:
        for fault in self.path.glob("*"):
            if fault.name == "lost_once":
                fault.unlink()
                raise RuntimeError("CUDA error: unspecified launch failure")
            if fault.name == "lost":
                raise RuntimeError("CUDA error: unspecified launch failure")
            if fault.name == "shape":
                return torch.zeros(len(waveforms), len(MIDS), 125)
            if fault.name == "stop":
                raise Interrupted("SIGTERM")
            if fault.name == "terminated_once":
                fault.unlink()
                os.kill(os.getpid(), signal.SIGTERM)
        return super().frame_logits(waveforms, samples)

    def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
        return features[:, ::640].abs()[:, None, :frames].expand(-1, len(MIDS), -1)


def told(dataset: Path, folder: Path, labels: str, *faults: str) -> Any:
    folder.mkdir(exist_ok=True)
    for fault in faults:
        (folder / fault).touch()
    teacher = LabellerChoice.of(f"{Told.__module__}:{Told.__qualname__}={folder}")
    return label_stage(dataset=dataset, split="strong", labels=labels, teacher=teacher, device="cpu", batch_size=2)


def test_sigterm_ends_the_run_between_two_batches_and_the_next_one_finishes(dataset: Path, tmp_path: Path) -> None:
    stage = told(dataset, tmp_path / "t", "ended", "terminated_once")
    report = run_stage(stage, executor="local", progress=False)
    assert (report.exit_code, report.stopped, report.stored, report.not_done) == (1, "SIGTERM", 0, 8)
    assert label_bytes(dataset, "ended") == {}, "no tar, not even a temporary one"
    report = run_stage(told(dataset, tmp_path / "t", "ended"), executor="local", progress=False)
    assert (report.exit_code, report.stored) == (0, 8)
    run_stage(told(dataset, tmp_path / "t", "undisturbed"), executor="local", progress=False)
    assert tars(label_bytes(dataset, "ended")) == tars(label_bytes(dataset, "undisturbed"))


def test_a_device_that_is_lost_costs_an_attempt_and_no_clip(dataset: Path, tmp_path: Path) -> None:
    run_stage(told(dataset, tmp_path / "whole", "whole"), executor="local", progress=False)
    report = run_stage(told(dataset, tmp_path / "once", "once", "lost_once"), executor="local", progress=False)
    assert (report.exit_code, report.stored, report.quarantined) == (0, 8, ())
    assert tars(label_bytes(dataset, "once")) == tars(label_bytes(dataset, "whole"))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("CUDA error: unspecified launch failure", DeviceLost, "the device failed"),
        ("CUDA error: out of memory", MemoryError, "no host memory for 2 more clips .*--batch-size"),
    ],
)
def test_memory_that_cannot_be_pinned(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, kind: type[Exception], message: str
) -> None:
    """A shard that is being read while another meets a lost device finds it lost here, and is tried again, too."""
    stage = told(dataset, tmp_path / "t", "pinned")
    worker = LabelWorker(stage.config)

    def pin(*arguments: object, **options: object) -> Batch:
        raise RuntimeError(error)

    monkeypatch.setattr("teachers.labelling._shard.Batch", pin)
    with pytest.raises(kind, match=message):
        worker.label(stage.tasks[0])


def test_memory_of_one_shard_is_that_of_the_next(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Batch] = []

    class Counted(Batch):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.waveforms.fill_(torch.nan)
            made.append(self)

    monkeypatch.setattr("teachers.labelling._shard.Batch", Counted)
    stage = told(dataset, tmp_path / "t", "reused")
    worker = LabelWorker(stage.config)
    worker.label(stage.tasks[0])
    taken = len(made)
    worker.label(stage.tasks[1])
    assert len(made) == taken
    assert problems(dataset, "reused") == []


def test_what_a_reading_thread_raises_is_tried_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([OSError(5, "Input/output error")])
    decode = _batch.decode_audio_into

    def failing(*arguments: Any) -> None:
        for error in failures:
            raise error
        decode(*arguments)

    monkeypatch.setattr(_batch, "decode_audio_into", failing)
    report = run_stage(told(dataset, tmp_path / "t", "reread"), executor="local", progress=False)
    assert (report.exit_code, report.stored) == (0, 8)
    assert problems(dataset, "reread") == []


def test_a_device_that_stays_lost_leaves_nothing_behind(dataset: Path, tmp_path: Path) -> None:
    report = run_stage(told(dataset, tmp_path / "t", "gone", "lost"), executor="local", progress=False)
    assert (report.exit_code, report.stored, report.not_done) == (1, 0, 8)
    assert {entry.attempts for entry in report.quarantined} == {3}
    assert all("the device failed: CUDA error" in entry.reason for entry in report.quarantined)
    assert label_bytes(dataset, "gone") == {}


def test_a_wrong_shape_stores_nothing_and_names_the_clips(dataset: Path, tmp_path: Path) -> None:
    report = run_stage(told(dataset, tmp_path / "t", "shape", "shape"), executor="local", progress=False)
    (first, second), keys = report.quarantined, Dataset.open(dataset).audio_shards("strong", AudioSpec().name)
    assert f"clips {keys[0].clips.key[0]} to {keys[0].clips.key[1]}: the teacher gave (2, 3, 125)" in first.reason
    assert keys[1].clips.key[0] in second.reason
    assert label_bytes(dataset, "shape") == {}


def test_stopped_within_a_shard_the_next_shard_has_its_turn(dataset: Path, tmp_path: Path) -> None:
    """The device is not left taken by a shard that ended early."""
    stage = told(dataset, tmp_path / "t", "turn", "stop")
    worker = LabelWorker(stage.config)
    with pytest.raises(Interrupted):
        worker.label(stage.tasks[0])
    (tmp_path / "t" / "stop").unlink()
    assert worker.label(stage.tasks[1]).stored == 4
    assert worker.label(stage.tasks[0]).stored == 4
    assert problems(dataset, "turn") == []


def test_a_second_shard_is_read_while_the_first_has_the_device(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = told(dataset, tmp_path / "t", "ahead")
    worker = LabelWorker(stage.config)
    read, order = threading.Event(), []
    begin, heard = Batch.read, type(worker.runner).begin

    def reading(batch: Batch, reader: Any, rows: range, seconds: Seconds) -> None:
        begin(batch, reader, rows, seconds)
        if reader.sidecar.shard == 1:
            read.set()

    def hearing(runner: Any, batch: Batch, seconds: Seconds) -> None:
        if not order:
            second.start()
            assert read.wait(20), "nothing of the second shard was read"
        order.append(threading.current_thread())
        heard(runner, batch, seconds)

    monkeypatch.setattr(Batch, "read", reading)
    monkeypatch.setattr(type(worker.runner), "begin", hearing)
    second = threading.Thread(target=worker.label, args=(stage.tasks[1],))
    worker.label(stage.tasks[0])
    second.join()
    assert order == [threading.current_thread()] * 2 + [second] * 2, "one shard after the other"


def test_seconds_of_all_steps_are_in_the_report(dataset: Path, tmp_path: Path) -> None:
    report = run_stage(told(dataset, tmp_path / "t", "steps"), executor="local", progress=False)
    steps = {"read", "decode", "wait", "device", "encode", "write", "commit"}
    assert set(report.seconds) == steps
    assert all(report.seconds[step] >= 0 for step in steps)


def test_clip_logits_are_labels_too(dataset: Path, checkpoint: Path) -> None:
    choice = LabellerChoice.of(f"beats={checkpoint}", target="clip")
    stage = label_stage(dataset=dataset, split="strong", labels="clip", teacher=choice, codec="master", device="cpu")
    assert run_stage(stage, executor="local", progress=False).exit_code == 0
    assert problems(dataset, "clip") == []
    (shard, _) = Dataset.open(dataset).label_shards("strong", "clip")
    assert (shard.target.axes, shard.target.shape) == (("class",), (len(MIDS),))
    assert shard.provenance["target"] == "clip"


def test_a_shard_of_which_no_clip_was_stored_has_a_label_shard_of_none(tmp_path: Path) -> None:
    empty = Dataset.create(tmp_path / "empty", keys="audioset")
    folder = empty.audio_folder("strong", AudioSpec().name)
    folder.mkdir(parents=True)
    with AudioShardWriter(folder, 0, spec=AudioSpec(), provenance={"stage": "pack"}) as writer:
        writer.reject("-abcdefghij_0", "missing", "no source has it")
        writer.commit()
    report = run_stage(told(tmp_path / "empty", tmp_path / "t", "none"), executor="local", progress=False)
    assert (report.exit_code, report.clips, report.shards_done_now) == (0, 0, 1)


def test_options_reach_the_worker_and_the_recorded_command(dataset: Path, checkpoint: Path) -> None:
    choice = LabellerChoice.of(f"beats={checkpoint}", precision="bfloat16")
    stage = label_stage(
        dataset=dataset, split="strong", labels="x", teacher=choice, device="cuda", batch_size=12, compile=False
    )
    assert stage.at_once == 2
    assert (stage.config.batch_size, stage.config.compile, stage.config.threads) == (12, False, stage.cpus)
    line = " ".join(stage.command)
    assert "--batch-size 12" in line
    assert "--no-compile" in line
    assert "--precision bfloat16" in line
    default = label_stage(dataset=dataset, split="strong", labels="x", teacher=choice, device="cpu")
    assert (default.at_once, default.config.batch_size, default.cpus) == (1, None, 1)
    assert dataclasses.replace(default.config, teacher=choice) == default.config


@needs_cuda
def test_on_a_gpu_labels_are_those_of_the_cpu(dataset: Path, checkpoint: Path) -> None:
    choice = LabellerChoice.of(f"beats={checkpoint}")
    found = {}
    for device in ("cpu", "cuda"):
        stage = label_stage(
            dataset=dataset, split="strong", labels=device, teacher=choice, codec="npy", device=device, compile=False
        )
        label = stage.open_worker(stage.config)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(label, stage.tasks))
        found[device] = Dataset.open(dataset).label_shards("strong", device)
        assert problems(dataset, device) == []
    for on_cpu, on_gpu in zip(found["cpu"], found["cuda"], strict=True):
        with LabelReader(on_cpu) as one, LabelReader(on_gpu) as other:
            for row in range(len(on_cpu.clips)):
                np.testing.assert_allclose(one.read(row), other.read(row), rtol=2e-3, atol=1e-3)  # float16


@needs_cuda
def test_a_gpu_out_of_memory_goes_on_with_less(tmp_path: Path) -> None:
    class Greedy(Levels):
        def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
            torch.empty(len(features) << 36, dtype=torch.uint8, device=features.device)  # 64 GiB a clip
            return super()._frame_logits(features, frames)

    teacher = Greedy()
    teacher.device = torch.device("cuda")
    asked = Asked(teacher, "frame", 32)
    with contextlib.suppress(TeacherError):  # a small card does not have room for one
        assert len(asked.logits(clips(32).cuda(), [160_000] * 32)) == 32
    assert asked.batch_size < 32
