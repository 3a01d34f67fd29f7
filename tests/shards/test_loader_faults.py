"""Damage put into the files for real, and loaders left in every way: nothing hangs, nothing stays behind."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from time import monotonic
from typing import cast

import pytest
import torch

from pipeline import IntegrityError
from shards import Batch, Dataset, MixedLoader, evaluation_batches
from shards.codecs._kernels import NATIVE
from tests.shards.mixing import assert_same, expected_keys, loader_of, loader_threads, make_mix
from tests.shards.small_dataset import SPEC, VOCABULARY

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mix(tmp_path_factory.mktemp("mixed") / "data", "path")[0]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A dataset of the test's own, to damage."""
    return make_mix(tmp_path / "data", "path")[0]


def flip(root: Path, split: str, folder: str, key: str) -> None:
    """One bit in the middle of the member of `key`."""
    dataset = Dataset(root)
    shards = dataset.audio_shards(split, SPEC.name) if folder == "audio" else dataset.label_shards(split, folder)
    for sidecar in shards:
        if key in sidecar.clips.key:
            row = sidecar.clips.key.index(key)
            with sidecar.tar_path.open("r+b") as file:
                file.seek(sidecar.clips.offset[row] + sidecar.clips.length[row] // 2)
                (byte,) = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ 8]))
            return
    raise KeyError(key)


@pytest.mark.parametrize("folder", ["audio", "frames"])
@pytest.mark.parametrize("workers", [0, 3])
def test_a_flipped_bit_costs_that_clip_and_is_counted(
    own: Path, folder: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    shares = {"weak": 3, "strong": 2}
    undamaged = list(loader_of(own, batches_per_epoch=20))
    flip(own, "strong", folder, "strong-005_0")
    loader = loader_of(own, batches_per_epoch=20, workers=workers)
    stood_in = 0
    for step, batch in enumerate(loader):
        wanted = expected_keys(step, shares, seed=0)
        later = {ahead: expected_keys(step + ahead, shares, seed=0) for ahead in (1, 2, 3)}
        for place, (source, key) in enumerate(wanted):
            got, ahead = (source, key), 0
            while got == ("strong", "strong-005_0"):
                ahead += 1
                got = later[ahead][place]
            stood_in += ahead > 0
            assert (batch.source[place], batch.key[place]) == got
            if not ahead:
                assert torch.equal(batch.waveform[place], undamaged[step].waveform[place])
                assert torch.equal(batch.targets["frames"][place], undamaged[step].targets["frames"][place])
    assert stood_in == 3  # 40 draws from 14 clips, two passes and most of a third
    (replaced,) = loader.replaced
    assert (replaced.source, replaced.key) == ("strong", "strong-005_0")
    assert "what was written" in replaced.reason
    assert len([record for record in caplog.records if "strong-005_0" in record.getMessage()]) == 1


@pytest.mark.parametrize("workers", [0, 3])
def test_too_much_damage_stops_with_the_list(own: Path, workers: int) -> None:
    damaged = [f"weak-{clip:03d}_0" for clip in (1, 5, 7, 8, 15, 20)]
    for key in damaged[:5]:
        flip(own, "weak", "audio", key)
    loader = loader_of(own, workers=workers)
    assert len(list(loader)) == 8
    assert sorted(clip.key for clip in loader.replaced) == damaged[:5]
    flip(own, "weak", "clip", damaged[5])
    loader = loader_of(own, workers=workers)
    given_out: list[Batch] = []
    with pytest.raises(IntegrityError) as stopped:
        given_out.extend(loader)
    last = max(step for step in range(8) for _, key in expected_keys(step, {"weak": 3}, seed=0) if key in damaged[:6])
    assert len(given_out) <= last
    assert "6 clips cannot be read" in str(stopped.value)
    assert all(key in str(stopped.value) for key in damaged)
    assert not loader_threads()


def test_evaluation_replaces_nothing(own: Path) -> None:
    flip(own, "weak", "audio", "weak-012_0")
    with pytest.raises(IntegrityError, match="weak-012_0"):
        list(evaluation_batches(own, "weak", 4, vocabulary=VOCABULARY))
    assert not loader_threads()


def test_an_evaluation_that_is_left_leaves_no_thread(made: Path) -> None:
    batches = evaluation_batches(made, "weak", 4, vocabulary=VOCABULARY, workers=3, prefetch=4)
    next(batches)
    assert loader_threads()
    del batches
    assert not loader_threads()


def _finish(batches: Iterator[Batch]) -> None:
    list(batches)


def _drop(batches: Iterator[Batch]) -> None:
    next(batches)


def _interrupt(batches: Iterator[Batch]) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        for _ in batches:
            raise KeyboardInterrupt


@pytest.mark.parametrize("use", [_finish, _drop, _interrupt])
def test_no_thread_is_left(made: Path, use: Callable[[Iterator[Batch]], None]) -> None:
    batches = iter(loader_of(made, workers=4))
    use(batches)
    del batches
    gc.collect()
    assert not loader_threads()


def _keys_in_child(loader: MixedLoader, answer: "multiprocessing.queues.Queue[list[list[str]]]") -> None:
    answer.put([batch.key for batch in loader])


def test_a_forked_process_reads_the_same(made: Path) -> None:
    """Forked while the parent has an iterator open and has used torch's own threads."""
    torch.rand(500, 500) @ torch.rand(500, 500)
    loader = loader_of(made)
    half = iter(loader)
    next(half)
    context = multiprocessing.get_context("fork")
    answer: multiprocessing.queues.Queue[list[list[str]]] = context.Queue()
    child = context.Process(target=_keys_in_child, args=(loader_of(made), answer))
    child.start()
    keys = answer.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    assert keys == [batch.key for batch in loader_of(made)]


def test_a_forked_process_needs_no_thread_of_its_parent(made: Path) -> None:
    """A process forked in the middle of an iteration makes its own iterator, with threads of its own."""
    loader = loader_of(made)
    batches = iter(loader)
    next(batches)
    child = os.fork()
    if not child:
        code = 1
        try:
            timer = threading.Timer(50, os.kill, (os.getpid(), signal.SIGKILL))
            timer.start()
            code = 0 if len(list(loader)) == len(loader) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(list(batches)) == len(loader) - 1


def test_a_loader_can_be_sent_to_another_process(made: Path) -> None:
    loader = loader_of(made)
    next(iter(loader))
    copied = pickle.loads(pickle.dumps(loader))
    for one, other in zip(loader, copied, strict=True):
        assert_same(one, other)


IN_ITS_OWN_THREAD = pytest.param(
    0,
    marks=pytest.mark.skipif(
        not NATIVE,
        reason="without the compiled kernels soundfile decodes, which swallows what arrives in its callbacks",
    ),
)


@pytest.mark.parametrize("workers", [IN_ITS_OWN_THREAD, 2])
def test_every_interrupt_arrives_at_once(made: Path, workers: int) -> None:
    """Also one that comes while a batch's memory is given back, or in any other line."""
    loader = loader_of(made, batches_per_epoch=10**6, workers=workers)
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for number in range(40):
            batches = cast("Generator[Batch, None, None]", iter(loader))
            next(batches)
            with pytest.raises(KeyboardInterrupt):
                _interrupted(batches, 0.002 + number * 0.0003)
            batches.close()  # what the error's frames hold is not gone by itself
            assert not loader_threads()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def _interrupted(batches: Iterator[Batch], after_s: float) -> None:
    deadline = monotonic() + 20
    signal.setitimer(signal.ITIMER_REAL, after_s)
    for _ in batches:
        if monotonic() > deadline:
            break


_SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
from shards import MixedLoader, Source
from tests.shards.small_dataset import VOCABULARY
source = Source(sys.argv[1], "weak", share=1)
loader = MixedLoader([source], 5, vocabulary=VOCABULARY, batches_per_epoch=10**6, workers=int(sys.argv[3]))
batches = iter(loader)
next(batches)
print("ready", flush=True)
if sys.argv[2] == "until interrupted":
    for batch in batches: pass
"""


@pytest.mark.parametrize("way", ["until interrupted", "and leave"])
@pytest.mark.parametrize("workers", [IN_ITS_OWN_THREAD, 2])
def test_a_process_ends_with_an_iterator_open(made: Path, way: str, workers: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(made), way, str(workers)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if way == "until interrupted":
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (0 if way == "and leave" else -signal.SIGINT), errors
    assert errors.count("Traceback") == (way == "until interrupted")
