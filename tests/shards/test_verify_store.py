"""A dataset on an object store is read and verified as a local one is: against a server of the protocol on loopback."""

import errno
import logging
import multiprocessing
import sys
import zlib

import numpy as np
import pytest

from pipeline import IntegrityError, UsageError
from sed_distill.cli import main
from shards import AudioReader, Dataset, LabelReader, check_shard, survey, verify
from shards._reader import check_tar_size
from tests.shards.dataset_examples import LONG_KEY, SPEC, clip_logits, clip_pcm, write_dataset

for needed in ("upath", "s3fs", "boto3"):
    pytest.importorskip(needed, reason=f"{needed} is not installed; reading object stores is an optional extra")
moto_server = pytest.importorskip("moto.server", reason="moto[server] is not installed, so there is no store to read")

AUDIO, FRAMES = f"weak/audio/{SPEC.name}", "weak/labels/frames"


@pytest.fixture(scope="module")
def endpoint():
    """Address of a server of its own on a free port, which stops with the tests."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = write_dataset(tmp_path_factory.mktemp("whole") / "data").root
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def credentials(endpoint, monkeypatch):
    """Names of the standard, as users set them; the store takes any."""
    for name, value in (("ENDPOINT_URL", endpoint), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def bucket(request, files):
    """A bucket with the dataset below the prefix `data`."""
    import boto3

    name = f"test-{zlib.crc32(request.node.name.encode())}"
    made = boto3.resource("s3").create_bucket(Bucket=name)
    for path, content in files.items():
        made.put_object(Key=f"data/{path}", Body=content)
    return made


def url(bucket) -> str:
    return f"s3://{bucket.name}/data"


def found(bucket, **how) -> list[tuple[str, str | None, str]]:
    problems = verify(url(bucket), **how)
    return [(str(p.shard).removeprefix(f"{url(bucket)}/"), p.key, p.kind) for p in problems]


def test_a_whole_dataset_has_no_problems(bucket, files):
    assert verify(url(bucket)) == verify(f"{url(bucket)}/", quick=True) == ()
    assert survey(url(bucket)).clips == 25
    assert check_shard(f"{url(bucket)}/{AUDIO}/000000.json", "audio") == ()


def test_faults(bucket, files):
    def put(path: str, content: bytes) -> None:
        bucket.put_object(Key=f"data/{path}", Body=content)

    def flipped(path: str) -> bytes:
        content = bytearray(files[path])
        content[700] ^= 1
        return bytes(content)

    for path, problem in (
        (f"{AUDIO}/000000.tar", ("aa_0", "checksum")),
        (f"{FRAMES}/000001.tar", ("dd_0", "checksum")),
        (f"{AUDIO}/000001.json", (None, "sidecar")),
        (f"{AUDIO}/manifest.parquet", (None, "manifest")),
        ("weak/hard.parquet", (None, "hard")),
    ):
        put(path, flipped(path))
        assert found(bucket) == [(path, *problem)]
        put(path, files[path])
    tar = f"{AUDIO}/000001.tar"
    put(tar, files[tar][:-1])
    assert found(bucket, quick=True) == [(tar, None, "tar_size")]
    bucket.Object(f"data/{tar}").delete()
    assert found(bucket, quick=True) == found(bucket) == [(tar, None, "tar_missing")]
    assert [p.kind for p in check_shard(f"{url(bucket)}/{AUDIO}/000001.json", "audio")] == ["tar_missing"]
    bucket.Object(f"data/{AUDIO}/000001.json").delete()
    assert found(bucket) == [(f"{AUDIO}/000001.json", None, "incomplete")]
    bucket.Object("data/dataset.json").delete()
    assert ("dataset.json", None, "dataset") in found(bucket)


def test_single_clips_and_labels(bucket, files):
    dataset = Dataset.open(url(bucket))
    (audio, _), (labels, _) = dataset.audio_shards("weak", SPEC.name), dataset.label_shards("weak", "frames")
    assert dataset.splits() == ("weak", "strong")
    assert dataset.label_sets("weak") == ("frames", "other")
    check_tar_size(audio)
    with AudioReader(audio) as clips, LabelReader(labels) as logits:
        for row in (3, 0):
            key = audio.clips.key[row]
            np.testing.assert_array_equal(clips.read(row), clip_pcm(key))
            np.testing.assert_array_equal(logits.read(row), clip_logits(key).astype(np.float16).astype(np.float32))
        assert key == "aa_0"
        assert audio.clips.key[3] == LONG_KEY
        for content in (files[f"{AUDIO}/000000.tar"][:1000], files[f"{AUDIO}/000000.tar"][:9000]):
            bucket.put_object(Key=f"data/{AUDIO}/000000.tar", Body=content)
            with pytest.raises(IntegrityError, match="the tar ends in it"):
                clips.read(3)
        bucket.Object(f"data/{AUDIO}/000000.tar").delete()
        with pytest.raises(IntegrityError, match="cannot be read"):
            clips.read(0)
    with pytest.raises(IntegrityError, match="is not there"):
        check_tar_size(Dataset(url(bucket)).audio_shards("weak", SPEC.name)[0])


def first_clip(sidecar):
    with AudioReader(sidecar) as reader:
        return reader.read(0)


def test_a_forked_process_reads_on(bucket):
    """As workers of a loader are, which get what their parent has opened."""
    sidecar = Dataset(url(bucket)).audio_shards("weak", SPEC.name)[0]
    before = first_clip(sidecar)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(first_clip, (sidecar,)).get(timeout=60), before)


def test_the_command(bucket, files, capsys):
    assert main(["verify", url(bucket)]) == 0
    assert "no problems" in capsys.readouterr().err
    tar = f"{AUDIO}/000000.tar"
    bucket.put_object(Key=f"data/{tar}", Body=files[tar][:-1])
    assert main(["verify", "--quick", url(bucket)]) == 1
    assert capsys.readouterr().out.startswith(f"{url(bucket)}/{tar}\t-\ttar_size\t")


def test_what_is_not_there(bucket):
    for place in (f"s3://{bucket.name}/other", "s3://no-such-bucket/data"):
        with pytest.raises(UsageError, match="is not a dataset"):
            verify(place)
    with pytest.raises(UsageError, match="stores are only read"):
        Dataset.create(f"s3://{bucket.name}/new", keys="path")


@pytest.fixture
def unreachable(bucket, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_that_cannot_be_reached(bucket, unreachable):
    """Says nothing about the shards, so it is no problem of theirs."""
    with pytest.raises(OSError, match="cannot be reached"):
        verify(url(bucket))


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "{url}"),
        ("index", "{url}"),
        ("verify", "{url}"),
        ("transcode", "--dataset", "{url}", "--out", "{out}", "--codec", "fast"),
        ("export-labels", "--dataset", "{url}", "--split", "weak", "--labels", "frames", "--format", "pretrained-sed",
         "--out", "{out}"),
        ("attach", "--from", "nowhere", "--dataset", "{url}", "--split", "weak", "--labels", "new"),
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_every_command_says_that_a_store_cannot_be_reached(bucket, unreachable, arguments, tmp_path, capsys):
    assert main([part.format(url=url(bucket), out=tmp_path / "out") for part in arguments]) == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_a_look_that_fails_once_is_no_answer(bucket, monkeypatch):
    """Libraries take one for that of a file that is not there: then a split would be missing, or a table."""
    from aiobotocore.client import AioBaseClient

    real, asked, failing = AioBaseClient._make_api_call, [], -1

    async def request(self, *what):
        asked.append(what)
        if len(asked) - 1 == failing:
            raise OSError(errno.EIO, "Input/output error")
        return await real(self, *what)

    monkeypatch.setattr(AioBaseClient, "_make_api_call", request)
    for look, answer in (
        (lambda: Dataset(url(bucket)).splits(), ("weak", "strong")),
        (lambda: Dataset.open(url(bucket)).keys, "path"),
        (lambda: verify(url(bucket), quick=True, threads=1), ()),
    ):
        asked.clear()
        failing = -1
        assert look() == answer
        requests = len(asked)
        assert requests
        for number in range(requests):
            failing = number
            asked.clear()
            with pytest.raises(OSError, match="Input/output error"):
                look()


def test_without_the_libraries_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[s3\]'"):
        Dataset("s3://bucket/data")
