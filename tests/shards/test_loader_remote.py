"""Batches from a store are those of the local dataset, whatever the network and the cache do meanwhile."""

import itertools
import logging
import os
import pickle
import shutil
import signal
import threading
import time

import pytest
from torch.utils.data import DataLoader

from pipeline import AudioSpec, IntegrityError, UsageError
from shards import BlockShuffle, Dataset, LabelShardWriter, MixedLoader, ShardCache, Source, open_index
from shards import _fetch as fetch_module
from shards import _index_build as index_build
from shards.loader import _ahead as ahead_module
from shards.loader import _cache as cache_module
from shards.loader._ahead import Ahead
from shards.loader.join._training import join_sources
from tests.shards.http_store import bytes_cached, http_store
from tests.shards.mixing import assert_same
from tests.shards.small_dataset import FRAME_LOGITS, VOCABULARY, write_split

for needed in ("upath", "aiohttp"):
    pytest.importorskip(needed, reason=f"{needed} is not installed; reading object stores is an optional extra")

DEADLINE_S = 60
SHARDS = 2 * (6 + 3)  # of audio and labels


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("local") / "data"
    dataset = Dataset.create(root, keys="path")
    for split, clips in (("weak", 24), ("strong", 12)):
        write_split(dataset, split, clips, seed=5, labels=("frames",), clips_per_shard=4)
    return root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


@pytest.fixture
def store(root, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch_module, "_PAUSES_S", (0.01, 0.02, 0.04))
    monkeypatch.setattr(cache_module, "_PART_BYTES", 10_000)
    with http_store(root) as store:
        yield store


@pytest.fixture(scope="module")
def bucket(whole):
    """The dataset in a bucket of a server of its own, as an address and as what boto3 makes of it."""
    for needed in ("s3fs", "boto3"):
        pytest.importorskip(needed, reason=f"{needed} is not installed; reading object stores is an optional extra")
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed, so there is no store to read")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "x"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("NO_PROXY", "127.0.0.1"),
        ):
            patch.setenv(name, value)
        import boto3
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()  # those of other tests have another address
        made = boto3.resource("s3").create_bucket(Bucket="test-loader")
        for path in whole.rglob("*"):
            if path.is_file():
                made.put_object(Key=f"data/{path.relative_to(whole)}", Body=path.read_bytes())
        yield "s3://test-loader/data", made
    s3fs.S3FileSystem.clear_instance_cache()
    moto.stop()


def loader_of(root, *, order=None, **how) -> MixedLoader:
    rule = {} if order is None else {"order": order}
    sources = [Source(root, split, share=2, labels=("frames",), **rule) for split in ("weak", "strong")]
    return MixedLoader(sources, 4, vocabulary=VOCABULARY, seed=3, batches_per_epoch=12, **how)


def assert_equal_batches(got, expected) -> None:
    got = list(got)
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert_same(one, other)


def largest(root) -> int:
    return max(path.stat().st_size for path in root.rglob("*.tar"))


def threads_of_loaders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shards-loader")]


@pytest.mark.parametrize("order", [None, BlockShuffle(window=2)], ids=["shuffled", "blocks"])
@pytest.mark.parametrize("workers", [0, 3])
def test_the_same_batches(whole, store, tmp_path, order, workers):
    expected = list(loader_of(whole, order=order))
    cache = ShardCache(tmp_path / "cache", max_bytes=10**8)
    loader = loader_of(store.url, order=order, workers=workers, cache=cache)
    assert_equal_batches(loader, expected)
    tars = store.of_tars()
    assert len(list((tmp_path / "cache").glob("*.tar"))) == len(tars) == SHARDS
    loader.set_epoch(0)
    assert_equal_batches(pickle.loads(pickle.dumps(loader)), expected)
    assert store.of_tars() == tars  # the copies of the first run
    assert threads_of_loaders() == []


def test_the_same_batches_without_a_cache(whole, store):
    assert_equal_batches(loader_of(store.url, workers=3), list(loader_of(whole)))
    assert store.of_tars().keys() == {f"/{path.relative_to(whole)}" for path in whole.rglob("*.tar")}


def test_the_same_batches_from_a_bucket(whole, bucket, tmp_path, monkeypatch):
    expected = list(loader_of(whole))
    cache = ShardCache(tmp_path / "cache", max_bytes=10**8)
    for how in ({}, {"cache": cache}):
        assert_equal_batches(loader_of(bucket[0], **how), expected)
    monkeypatch.setattr(index_build, "read_sidecar_bytes", None)  # from now on all indexes are here
    assert_equal_batches(loader_of(bucket[0], cache=cache), expected)
    assert len(list((tmp_path / "cache").glob("*.tar"))) == SHARDS


def test_an_index_of_a_bucket_is_kept_until_a_sidecar_changes(whole, bucket, tmp_path, monkeypatch):
    url, made = bucket
    read, real = [], index_build.read_sidecar_bytes
    monkeypatch.setattr(index_build, "read_sidecar_bytes", lambda path: read.append(path.name) or real(path))

    def opened():
        read.clear()
        index = open_index(Dataset(url).labels_folder("weak", "frames"), "labels", tmp_path / "kept")
        assert [shard.path.name for shard in index.shards] == [f"{number:06d}.json" for number in range(6)]
        assert str(index.shards[0].tar_path) == f"{url}/weak/labels/frames/000000.tar"
        return index

    first = opened()
    assert len(read) == 6
    assert opened().key.equals(first.key)
    assert read == []
    path = "weak/labels/frames/000003.json"
    audio = Dataset(whole).audio_shards("weak", AudioSpec().name)[3]
    with LabelShardWriter(tmp_path / "new", audio, target=FRAME_LOGITS, provenance={"teacher": "frames"}) as writer:
        for key in audio.clips.key:
            writer.fail(key, "not_finite", "made to fail")
        writer.commit()
    made.put_object(Key=f"data/{path}", Body=(tmp_path / "new" / "000003.json").read_bytes())
    try:
        changed = opened()
        assert read == ["000003.json"]
        assert changed.shards[3].refused == {"not_finite": 4}
    finally:
        made.put_object(Key=f"data/{path}", Body=(whole / path).read_bytes())


@pytest.mark.parametrize("workers", [0, 3])
def test_within_a_small_bound(whole, store, tmp_path, workers):
    bound = 16 * largest(whole)
    cache = ShardCache(tmp_path / "cache", max_bytes=bound)
    loader = loader_of(store.url, order=BlockShuffle(window=2), workers=workers, cache=cache)
    for got, expected in zip(loader, loader_of(whole, order=BlockShuffle(window=2)), strict=True):
        assert_same(got, expected)
        assert bytes_cached(cache) <= bound


def test_a_cache_smaller_than_what_is_read_at_a_time(whole, store, tmp_path, caplog):
    cache = ShardCache(tmp_path / "cache", max_bytes=4 * largest(whole))
    with pytest.raises(UsageError, match=r"the windows of block shuffle need \d+; give it a larger max_bytes"):
        loader_of(store.url, order=BlockShuffle(window=2), cache=cache)
    with caplog.at_level(logging.WARNING):
        loader = loader_of(store.url, cache=cache, workers=2)
    assert "most clips will fetch a shard; give the source order=BlockShuffle()" in caplog.text
    assert_equal_batches(loader, list(loader_of(whole)))  # slow, not wrong
    loader_of(whole, order=BlockShuffle(window=2), cache=cache)  # local shards need no copies


def test_open_files_do_not_keep_what_was_dropped(whole, store, tmp_path):
    """Space on the disk comes back when a copy goes, also from this process."""
    cache = ShardCache(tmp_path / "cache", max_bytes=4 * largest(whole))
    loader = loader_of(store.url, cache=cache, workers=0)
    for _ in loader:
        pass
    gone = [name for name in open_files() if str(tmp_path) in name and name.endswith("(deleted)")]
    assert len(gone) <= 2


def open_files() -> list[str]:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return found


def test_responses_that_fail_on_the_way(whole, store, tmp_path):
    loader = loader_of(store.url, cache=ShardCache(tmp_path / "cache", max_bytes=10**8), workers=3)
    store.at_first = itertools.cycle(["failing", "", "truncated", "reset", "cut", "", "flipped"])
    assert_equal_batches(loader, list(loader_of(whole)))
    assert loader.replaced == ()
    assert store.requests.total() > 1.3 * len(store.seen)


def test_worker_processes_share_a_cache(whole, store, tmp_path):
    loader = loader_of(store.url, cache=ShardCache(tmp_path / "cache", max_bytes=10**8))
    with_workers = DataLoader(loader, batch_size=None, num_workers=2, timeout=DEADLINE_S)
    assert_equal_batches(with_workers, list(loader_of(whole)))
    with_workers = DataLoader(
        loader, batch_size=None, num_workers=2, timeout=DEADLINE_S, multiprocessing_context="spawn"
    )
    assert_equal_batches(with_workers, list(loader_of(whole)))
    sizes = {f"/{path.relative_to(whole)}": path.stat().st_size for path in whole.rglob("*.tar")}
    assert store.of_tars() == {name: -(-size // 10_000) for name, size in sizes.items()}


@pytest.mark.parametrize("cached", [False, True])
def test_a_shard_deleted_while_training_is_replaced_as_a_local_one(root, store, tmp_path, cached):
    tar = sorted((root / "weak" / "labels" / "frames").glob("*.tar"))[2]

    def batches_without(place, **how):
        loader = loader_of(place, max_replaced=0.5, workers=2, **how)
        content = tar.read_bytes()
        tar.unlink()
        try:
            return list(loader), [(clip.source, clip.key) for clip in loader.replaced]
        finally:
            tar.write_bytes(content)

    expected, replaced = batches_without(root)
    cache = ShardCache(tmp_path / "cache", max_bytes=10**8) if cached else None
    got, also = batches_without(store.url, cache=cache)
    assert replaced
    assert also == replaced
    assert_equal_batches(got, expected)
    tar.unlink()
    with pytest.raises(IntegrityError, match="too many to replace"):
        list(loader_of(store.url, cache=cache, max_replaced=0))


def test_a_store_that_fails_for_good_ends_training(store, tmp_path):
    loader = loader_of(store.url, cache=ShardCache(tmp_path / "cache", max_bytes=10**8), workers=2)
    for number, _ in enumerate(loader):
        if number == 2:
            break
    store.faults = ["failing"] * 10_000
    with pytest.raises(OSError, match="requests failed"):
        list(loader)
    store.faults.clear()
    assert len(list(loader)) == 12
    assert threads_of_loaders() == []


def test_a_shard_is_fetched_before_a_batch_needs_it(whole, store, tmp_path):
    order = BlockShuffle(window=2)
    loader = loader_of(whole, order=order)  # says what is needed when
    cache = ShardCache(tmp_path / "cache", max_bytes=10**8)
    sources = join_sources([Source(store.url, split, share=2, labels=("frames",)) for split in ("weak", "strong")])
    ahead = pickle.loads(pickle.dumps(Ahead(cache, [(source, order, order.of(source, 3), 2) for source in sources])))
    batches = list(loader)
    row_of = [{source.key(clip): clip for clip in range(len(source))} for source in sources]
    with ahead.running() as begin:
        begin(0)  # 2 clips a step, 4 a shard: step 2 is the one to prepare
        keys = zip(batches[2].source, batches[2].key, strict=True)
        needed = set()
        for split, key in keys:
            source, clip = sources[split == "strong"], row_of[split == "strong"][key]
            for members in (source.audio, source.labels["frames"].members):
                needed.add(cache_module._name(members.shards[members.shard[clip]]))
        for _ in range(1000):
            copies = {path.stem for path in (tmp_path / "cache").glob("*.tar")}
            if copies >= needed:
                break
            time.sleep(0.02)
        assert copies == needed
    assert threads_of_loaders() == []


def test_fetching_ahead_ends_with_the_loader(store, tmp_path):
    loader = loader_of(
        store.url, order=BlockShuffle(window=2), workers=2, cache=ShardCache(tmp_path / "cache", max_bytes=10**8)
    )
    batches = iter(loader)
    next(batches)
    assert ahead_module.THREAD_NAME in threads_of_loaders()
    batches.close()
    assert threads_of_loaders() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupt_while_the_store_does_not_answer(store, tmp_path, workers):
    """Ends the threads long before their requests are given up."""
    loader = loader_of(store.url, workers=workers, cache=ShardCache(tmp_path / "cache", max_bytes=10**8))
    store.faults = ["stalled"] * 100

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(KeyboardInterrupt):
            next(iter(loader))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert store.stalled.is_set()
    assert threads_of_loaders() == []
    assert not list((tmp_path / "cache").glob("*.part"))
