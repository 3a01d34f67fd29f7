"""Copies of remote tars on a local disk: whole or absent, fetched once, bounded, whoever is killed."""

import contextlib
import errno
import multiprocessing
import os
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline import IntegrityError, UsageError
from shards import Dataset, open_index
from shards import _fetch as fetch_module
from shards._fetch import FetchStopped
from shards.loader import _cache as cache_module
from shards.loader._cache import ShardCache
from shards.loader._read import Tars
from tests.shards.dataset_examples import SPEC, write_audio
from tests.shards.http_store import FAULTS, bytes_cached, http_store

for needed in ("upath", "aiohttp"):
    pytest.importorskip(needed, reason=f"{needed} is not installed; reading object stores is an optional extra")

SHARDS = 5
DEADLINE_S = 60
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Small parts, so that a tar has several, and short pauses. No proxy between the tests and loopback."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    _hasten()
    yield
    _usual()


def _hasten() -> None:
    fetch_module._PAUSES_S, cache_module._PART_BYTES = (0.01, 0.02, 0.04), 10_000


def _usual(was=(fetch_module._PAUSES_S, cache_module._PART_BYTES)) -> None:
    fetch_module._PAUSES_S, cache_module._PART_BYTES = was


@pytest.fixture
def root(tmp_path):
    dataset = Dataset.create(tmp_path / "data", keys="path")
    for number in range(SHARDS):
        write_audio(dataset.audio_folder("weak", SPEC.name), number, [f"{number}{letter}_0" for letter in "abcd"])
    return dataset.root


@pytest.fixture
def store(root):
    with http_store(root) as store:
        yield store


@pytest.fixture
def shards(store):
    return indexed(store.url)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def indexed_clips(url):
    return open_index(Dataset(url).audio_folder("weak", SPEC.name), "audio")


def indexed(url):
    return indexed_clips(url).shards


def tar_of(root: Path, shard) -> Path:
    return root / "weak" / "audio" / SPEC.name / shard.tar_path.name


def content_of(cache, shard, **how) -> bytes:
    descriptor = cache.open_tar(shard, **how)
    try:
        return os.pread(descriptor, shard.tar_bytes + 1, 0)
    finally:
        os.close(descriptor)


def left_in(folder) -> list[str]:
    """Suffixes of what lies in the cache, its lock aside."""
    return sorted(path.suffix for path in folder.iterdir() if path.name != "lock")


def test_fetched_once_and_kept_for_the_next_run(root, store, shards, folder):
    for run in range(2):
        cache = ShardCache(folder, max_bytes=10**7)
        for shard in (*shards, *shards):
            assert content_of(cache, shard) == tar_of(root, shard).read_bytes()
        if not run:
            first = store.of_tars()
    assert store.of_tars() == first
    assert all(first[f"/weak/audio/{SPEC.name}/{s.tar_path.name}"] == -(-s.tar_bytes // 10_000) for s in shards)
    assert left_in(folder) == [".tar"] * SHARDS


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_response_that_fails_is_asked_for_again(root, store, shards, folder, fault, times, monkeypatch):
    monkeypatch.setattr(fetch_module, "_REQUEST_S", 0.3)
    cache = ShardCache(folder, max_bytes=10**7)
    store.faults = [""] + [fault] * times
    if fault == "cut" and times > 1:
        # The same length twice is how a server says that the object ends.
        with pytest.raises(IntegrityError, match="its sidecar states"):
            content_of(cache, shards[0])
        assert left_in(folder) == []
        return
    assert content_of(cache, shards[0]) == tar_of(root, shards[0]).read_bytes()
    assert not store.faults
    assert left_in(folder) == [".tar"]


def test_a_store_that_never_answers_is_one_error(store, shards, folder):
    cache = ShardCache(folder, max_bytes=10**7)
    store.faults = ["failing"] * 4
    with pytest.raises(OSError, match=r"^http://[^\n]*/000000.tar: 4 requests failed[^\n]*503[^\n]*$"):
        content_of(cache, shards[0])
    assert left_in(folder) == []
    content_of(cache, shards[0])


def test_a_server_without_ranges(root, store, shards, folder):
    """As the one of Python's standard library: it sends everything at once."""
    store.ranges = False
    cache = ShardCache(folder, max_bytes=10**7)
    assert content_of(cache, shards[0]) == tar_of(root, shards[0]).read_bytes()
    assert set(store.of_tars().values()) == {1}
    assert fetch_module.read_range(shards[0].tar_path, 600, 50) == tar_of(root, shards[0]).read_bytes()[600:650]


def test_what_the_store_lost(root, store, shards, folder):
    cache = ShardCache(folder, max_bytes=10**7)
    tar_of(root, shards[0]).unlink()
    tar_of(root, shards[1]).write_bytes(tar_of(root, shards[1]).read_bytes()[:-1])
    tar_of(root, shards[2]).with_suffix(".json").unlink()
    sidecar = tar_of(root, shards[3]).with_suffix(".json")
    sidecar.write_bytes(sidecar.read_bytes() + b"\n")
    for shard, message in zip(
        shards,
        ("000000.tar: is not there", "has .* bytes, its sidecar states", "is not there", "replaced"),
        strict=False,
    ):
        with pytest.raises(IntegrityError, match=message):
            content_of(cache, shard)
        asked = store.requests.total()
        with pytest.raises(IntegrityError, match=message):  # and so for each of its clips, without another request
            content_of(cache, shard)
        assert store.requests.total() == asked
    assert left_in(folder) == []


def test_a_tar_that_the_store_has_damaged_is_left_to_the_checksums_of_clips(root, store, shards, folder, caplog):
    tar = tar_of(root, shards[0])
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    assert content_of(ShardCache(folder, max_bytes=10**7), shards[0]) == content
    assert "is not what its sidecar says" in caplog.text


def test_a_copy_that_was_cut_here_is_fetched_again(root, shards, folder):
    cache = ShardCache(folder, max_bytes=10**7)
    content_of(cache, shards[0])
    (copy,) = folder.glob("*.tar")
    os.truncate(copy, 1000)
    assert content_of(cache, shards[0]) == tar_of(root, shards[0]).read_bytes()


def test_another_shard_of_the_same_name_is_another_copy(root, store, shards, folder):
    cache = ShardCache(folder, max_bytes=10**7)
    content_of(cache, shards[0])
    tar_of(root, shards[0]).with_suffix(".json").unlink()
    write_audio(tar_of(root, shards[0]).parent, 0, ["new_0", "other_0"])
    assert content_of(cache, indexed(store.url)[0]) == tar_of(root, shards[0]).read_bytes()
    assert left_in(folder) == [".tar"] * 2


def test_the_copy_opened_longest_ago_goes_and_stays_readable(root, store, shards, folder):
    d, a, b, c = sorted(shards, key=lambda shard: shard.tar_bytes)[:4]
    cache = ShardCache(folder, max_bytes=sum(shard.tar_bytes for shard in (a, b, c)))
    held = [cache.open_tar(shard) for shard in (a, b, c)]
    os.close(cache.open_tar(a))
    content_of(cache, d)  # instead of b, though a is older
    asked = store.of_tars()
    content_of(cache, a)
    assert store.of_tars() == asked
    assert [os.fstat(descriptor).st_nlink for descriptor in held] == [1, 0, 1]
    assert os.pread(held[1], b.tar_bytes, 0) == tar_of(root, b).read_bytes()
    for descriptor in held:
        os.close(descriptor)


def test_what_is_in_use_goes_last(root, shards, folder):
    a, b, c, *_ = shards
    cache = ShardCache(folder, max_bytes=sum(shard.tar_bytes for shard in (a, b, c)) - 1)
    held = cache.open_tar(a)
    os.close(cache.open_tar(b))
    os.close(cache.open_tar(c, in_use=[held]))
    assert os.fstat(held).st_nlink == 1
    os.close(held)


def test_what_a_loader_reads_from_stays(root, store, folder):
    """However long ago it was opened: or the shards of a slow source would come and go with those of a fast one."""
    index = indexed_clips(store.url)
    d, a, b, c = sorted(index.shards, key=lambda shard: shard.tar_bytes)[:4]
    tars = Tars(ShardCache(folder, max_bytes=sum(shard.tar_bytes for shard in (a, b, c))))

    def read(shard) -> None:
        clip = shard.clips[1]
        place, length, crc32c = (int(column[clip]) for column in (index.offset, index.length, index.crc32c))
        assert tars.read(shard, place, length, crc32c, "key") == tar_of(root, shard).read_bytes()[place:][:length]

    for shard in (a, b, c, a, d):  # for d goes b
        read(shard)
    asked = store.of_tars()
    for shard in (a, c, d):
        read(shard)
    assert store.of_tars() == asked
    read(b)
    assert store.of_tars() != asked


def test_local_tars_are_not_touched(root, store, folder):
    here, there = indexed_clips(root), indexed_clips(store.url)
    tars = Tars(ShardCache(folder, max_bytes=10**7))
    before = [(path, path.stat().st_mtime_ns) for path in root.rglob("*.tar")]
    for index in (here, there, here, there):
        for shard in index.shards:
            clip = shard.clips[0]
            tars.read(shard, *(int(column[clip]) for column in (index.offset, index.length, index.crc32c)), "key")
    assert before == [(path, path.stat().st_mtime_ns) for path in root.rglob("*.tar")]


def test_a_bound_that_is_too_small(shards, folder):
    with pytest.raises(UsageError, match=f"has {shards[0].tar_bytes} bytes, the cache .* may hold 1000; give it"):
        ShardCache(folder, max_bytes=1000).open_tar(shards[0])
    with pytest.raises(UsageError, match="max_bytes is 0"):
        ShardCache(folder, max_bytes=0)


def test_who_waits_goes_on_where_a_fetch_fails(root, store, shards, folder):
    cache = ShardCache(folder, max_bytes=10**7)
    store.faults = ["", "stalled", "failing", "failing", "failing"]
    with ThreadPoolExecutor(2) as threads:
        fails = threads.submit(content_of, cache, shards[0])
        assert store.stalled.wait(DEADLINE_S)
        waits = threads.submit(content_of, cache, shards[0])
        time.sleep(0.2)
        store.go_on.set()
        with pytest.raises(OSError, match="4 requests failed"):
            fails.result(timeout=DEADLINE_S)
        assert waits.result(timeout=DEADLINE_S) == tar_of(root, shards[0]).read_bytes()
    assert left_in(folder) == [".tar"]


def test_a_file_that_another_removes_before_it_is_locked(root, store, shards, folder, monkeypatch):
    """As who makes room does, when it finds one that nobody holds."""
    real, left = cache_module._try_lock, [1, 1]

    def lock(descriptor):
        if left and left.pop():
            next(folder.glob("*.part")).unlink()
        return real(descriptor)

    monkeypatch.setattr(cache_module, "_try_lock", lock)
    assert content_of(ShardCache(folder, max_bytes=10**7), shards[0]) == tar_of(root, shards[0]).read_bytes()
    assert not left
    assert left_in(folder) == [".tar"]


def test_nobody_waits_for_a_fetch_that_is_stopped(store, shards, folder):
    stop = threading.Event()
    cache = ShardCache(folder, max_bytes=10**7)
    store.faults = ["stalled"]
    with ThreadPoolExecutor(2) as threads:
        fetches = [threads.submit(cache.open_tar, shards[0], (), stop.is_set) for _ in range(2)]
        assert store.stalled.wait(DEADLINE_S)
        stop.set()
        for fetch in fetches:
            with pytest.raises(FetchStopped):
                fetch.result(timeout=DEADLINE_S)
    assert left_in(folder) == []


def test_many_threads_within_a_bound(root, store, shards, folder):
    bound = 2 * max(shard.tar_bytes for shard in shards)
    cache = ShardCache(folder, max_bytes=bound)
    wanted = np.random.default_rng([1, 2]).integers(0, SHARDS, 120).tolist()
    most, done = [], threading.Event()

    def watch() -> None:
        folder.mkdir(exist_ok=True)
        while not done.is_set():
            most.append(bytes_cached(cache))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(6) as threads:
        for number, content in zip(
            wanted, threads.map(lambda n: content_of(cache, shards[n]), wanted, timeout=DEADLINE_S), strict=True
        ):
            assert content == tar_of(root, shards[number]).read_bytes()
    done.set()
    watcher.join()
    assert bound // 2 <= max(most) <= bound
    assert set(left_in(folder)) == {".tar"}


def read_all(url, folder, order, bound, results) -> None:
    _hasten()
    cache = ShardCache(folder, max_bytes=bound)
    shards = indexed(url)
    with ThreadPoolExecutor(3) as threads:
        results.put(list(threads.map(lambda number: content_of(cache, shards[number]), order)))


@contextlib.contextmanager
def started(function, *arguments):
    """A fresh process that does `function(*arguments, results)`, with the queue of its results."""
    results = SPAWN.Queue()
    process = SPAWN.Process(target=function, args=(*arguments, results), daemon=True)
    process.start()
    try:
        yield process, results
    finally:
        process.kill()
        process.join(DEADLINE_S)


def test_processes_that_share_a_folder_fetch_each_tar_once(root, store, shards, folder):
    orders = [list(range(SHARDS)), list(reversed(range(SHARDS))), [2, 0, 1, 4, 3]]
    with contextlib.ExitStack() as stack:
        queues = [stack.enter_context(started(read_all, store.url, folder, order, 10**7))[1] for order in orders]
        got = [queue.get(timeout=DEADLINE_S) for queue in queues]
    whole = {tar_of(root, shard).read_bytes() for shard in shards}
    assert all(set(contents) == whole for contents in got)
    assert store.of_tars() == {
        f"/weak/audio/{SPEC.name}/{shard.tar_path.name}": -(-shard.tar_bytes // 10_000) for shard in shards
    }


def test_a_fetch_that_is_killed_is_taken_over(root, store, shards, folder):
    """By whom waits for it; what it wrote is never taken for whole."""
    store.faults = ["", "stalled"]
    with started(read_all, store.url, folder, [0], 10**7) as (first, _), ThreadPoolExecutor(1) as waiting:
        assert store.stalled.wait(DEADLINE_S)
        assert left_in(folder) == [".part"]
        waits = waiting.submit(content_of, ShardCache(folder, max_bytes=10**7), shards[0])
        time.sleep(0.2)
        assert not waits.done()
        first.kill()
        assert waits.result(timeout=DEADLINE_S) == tar_of(root, shards[0]).read_bytes()
    assert left_in(folder) == [".tar"]


def test_room_that_a_killed_process_took_is_free_again(root, store, shards, folder):
    store.faults = ["", "stalled"]
    bound = max(shards[0].tar_bytes, shards[1].tar_bytes)
    with started(read_all, store.url, folder, [0], bound) as (first, _), ThreadPoolExecutor(1) as waiting:
        assert store.stalled.wait(DEADLINE_S)
        waits = waiting.submit(content_of, ShardCache(folder, max_bytes=bound), shards[1])
        time.sleep(0.2)
        assert not waits.done()  # the other's fetch is not thrown out for it
        first.kill()
        assert waits.result(timeout=DEADLINE_S) == tar_of(root, shards[1]).read_bytes()
    assert left_in(folder) == [".tar"]


def test_another_process_that_does_not_go_on_is_no_hang(store, shards, folder, monkeypatch):
    store.faults = ["stalled"]
    monkeypatch.setattr(cache_module, "_STALLED_S", 0.3)
    with started(read_all, store.url, folder, [0], 10**7) as (first, _):
        assert store.stalled.wait(DEADLINE_S)
        os.kill(first.pid, signal.SIGSTOP)
        with pytest.raises(OSError, match="does not go on; end it, or give this run a cache folder of its own"):
            content_of(ShardCache(folder, max_bytes=10**7), shards[0])


def fetch_with_files_below(url, folder, limit, results) -> None:
    """No file grows beyond `limit`: what a full disk does, for a process of any user."""
    cache, (shard, *_) = ShardCache(folder, max_bytes=10**7), indexed(url)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        cache.open_tar(shard)
    except OSError as error:
        results.put((error.errno, str(error)))


def test_a_disk_that_is_full(store, shards, folder, monkeypatch):
    with started(fetch_with_files_below, store.url, folder, 20_000) as (_, results):
        number, message = results.get(timeout=DEADLINE_S)
    assert number == errno.EFBIG
    assert f"{folder}: the disk is full" in message
    assert left_in(folder) == []

    def full(*_) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module.os, "pwrite", full)
    with pytest.raises(
        OSError, match=rf"{folder}: the disk is full .* smaller max_bytes, at least {shards[0].tar_bytes}"
    ):
        content_of(ShardCache(folder, max_bytes=10**7), shards[0])
    assert left_in(folder) == []


def test_a_forked_process_fetches(root, store, shards, folder):
    """As workers of a loader do, with what their parent has opened."""
    cache = ShardCache(folder, max_bytes=10**7)
    content_of(cache, shards[0])
    with multiprocessing.get_context("fork").Pool(1) as pool:
        got = pool.apply_async(content_of, (cache, shards[1])).get(timeout=DEADLINE_S)
    assert got == tar_of(root, shards[1]).read_bytes()


def fork_while_fetching(url, folder, results) -> None:
    cache, (shard, *_) = ShardCache(folder, max_bytes=10**7), indexed(url)
    thread = threading.Thread(target=cache.open_tar, args=(shard,))
    thread.start()
    while not any(path.suffix == ".part" and path.stat().st_size for path in folder.glob("*")):
        time.sleep(0.01)
    child = os.fork()
    if not child:
        time.sleep(DEADLINE_S)
        os._exit(0)
    results.put(child)
    thread.join()


def test_a_forked_process_keeps_no_lock_of_a_parent_that_is_killed(root, store, shards, folder):
    store.faults = ["stalled"]
    with started(fork_while_fetching, store.url, folder) as (parent, results):
        child = results.get(timeout=DEADLINE_S)
        assert store.stalled.wait(DEADLINE_S)
        parent.kill()
        try:
            assert content_of(ShardCache(folder, max_bytes=10**7), shards[0]) == tar_of(root, shards[0]).read_bytes()
            os.kill(child, 0)  # it still is there
        finally:
            os.kill(child, signal.SIGKILL)
