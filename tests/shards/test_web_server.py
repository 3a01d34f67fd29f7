"""A dataset behind a web server that lists its folders is read and verified as a local one is."""

import socket
import sys
import threading

import numpy as np
import pytest

from pipeline import FormatError, IntegrityError, UsageError, read_hard
from shards import AudioReader, Dataset, describe, open_index, verify
from shards import _fetch as fetch_module
from shards import _index_build as index_build
from tests.shards.dataset_examples import SPEC, clip_pcm, write_dataset
from tests.shards.http_store import http_store

for needed in ("upath", "aiohttp"):
    pytest.importorskip(needed, reason=f"{needed} is not installed; reading object stores is an optional extra")


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch_module, "_PAUSES_S", (0.01, 0.02, 0.04))
    root = write_dataset(tmp_path / "data").root
    with http_store(root) as store:
        store.root = root
        yield store


def test_it_is_the_same_dataset(store):
    here, there = Dataset.open(store.root), Dataset.open(store.url)
    assert there.splits() == here.splits() == ("weak", "strong")
    assert there.audio_specs("weak") == here.audio_specs("weak")
    assert there.label_sets("weak") == here.label_sets("weak") == ("frames", "other")
    for folder, kind in (("audio", "audio"), ("labels", "labels")):
        name = SPEC.name if kind == "audio" else "frames"
        one, other = (open_index(root / "weak" / folder / name, kind) for root in (here.root, there.root))
        assert one.key.equals(other.key)
        for column in ("row", "offset", "length", "crc32c", "samples"):
            np.testing.assert_array_equal(getattr(one, column), getattr(other, column))
    assert verify(store.url) == verify(store.url, quick=True) == ()
    assert "!" not in describe(store.url)
    assert Dataset.open(f"{store.url}/").splits() == here.splits()
    assert open_index(there.audio_folder("dev", SPEC.name), "audio").shards == ()


def test_a_tar_of_another_size_or_none(store):
    first, second = sorted((store.root / "weak" / "audio" / SPEC.name).glob("*.tar"))
    first.write_bytes(first.read_bytes()[:-1])
    second.unlink()
    assert [problem.kind for problem in verify(store.url, quick=True)] == ["tar_size", "tar_missing"]
    assert describe(store.url).count("missing or of another size") == 1


def test_clips_by_ranged_requests_that_fail_at_times(store):
    sidecar = Dataset(store.url).audio_shards("weak", SPEC.name)[0]
    key = sidecar.clips.key[1]
    for faults in (["failing"], ["reset", "truncated"], ["cut", "failing"]):
        store.faults = [*faults]
        with AudioReader(sidecar) as reader:
            np.testing.assert_array_equal(reader.read(1), clip_pcm(key))
        assert not store.faults
    store.faults = ["failing"] * 4
    with AudioReader(sidecar) as reader, pytest.raises(OSError, match=r"000000.tar: 4 requests failed, the last one"):
        reader.read(1)
    tar = store.root / "weak" / "audio" / SPEC.name / "000000.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    with AudioReader(sidecar) as reader:
        for row in (0, 3):  # it ends in the one, and before the other
            with pytest.raises(IntegrityError, match="the tar ends in it"):
                reader.read(row)


@pytest.mark.parametrize("refusal", [403, 404])
def test_a_server_without_listing(store, refusal):
    store.no_listing = refusal
    with pytest.raises(UsageError, match="cannot be listed; a web server needs its directory listing switched on"):
        Dataset.open(store.url)


def test_a_server_that_does_not_answer_says_nothing_of_the_dataset(store):
    gone = f"http://127.0.0.1:{unused_port()}/data"
    for read in (lambda: Dataset.open(gone), lambda: read_hard(Dataset(gone).hard_path("weak"))):
        with pytest.raises(OSError) as refused:  # noqa: PT011 - not of the kinds that mean an answer
            read()
        assert not isinstance(refused.value, FileNotFoundError | FormatError | UsageError)
    with pytest.raises(FormatError, match=r"hard\.parquet: cannot be read \(is not there\)"):
        read_hard(Dataset(store.url).hard_path("eval"))


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_the_sidecars_of_a_store_are_read_at_the_same_time(store, monkeypatch):
    """Each takes a round trip: here none is answered before two have been asked for."""
    real, both = index_build.read_sidecar_bytes, threading.Barrier(2, timeout=30)

    def read(path):
        both.wait()
        return real(path)

    monkeypatch.setattr(index_build, "read_sidecar_bytes", read)
    assert len(open_index(Dataset(store.url).audio_folder("weak", SPEC.name), "audio")) == 7


def test_a_password_in_an_address_is_refused_and_not_shown():
    with pytest.raises(UsageError, match=r"http://example\.org: holds a password") as refused:
        Dataset("http://user:secret@example.org/data")
    assert "secret" not in str(refused.value)


def test_without_the_libraries_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[s3\]'"):
        Dataset("http://example.org/data")
