"""Verification on workers: the problems of a local one, in its order, whatever happens to the workers."""

import functools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_stages import open_killed_checks

from jobs import Interrupted, verify_job
from pipeline import IntegrityError, UsageError
from sed_distill.cli import main
from shards import survey, verify
from tests.shards.dataset_examples import SPEC, write_dataset

AUDIO = f"weak/audio/{SPEC.name}"
EXECUTORS = ("local", "ray")


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("embedded_ray")
    return str(request.param)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("whole") / "data").root


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """Damage that sidecars tell, that checksums tell, and that only decoding tells."""
    root = Path(shutil.copytree(whole, tmp_path / "data"))
    flip(root / AUDIO / "000000.tar", 3)
    flip(root / AUDIO / "000001.tar", -2_000)
    flip(root / "weak/labels/frames/000001.tar", 600)
    (root / "weak/labels/other/000000.tar").unlink()
    flip(root / "strong/hard.parquet", 50)
    return root


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_the_problems_of_a_local_verification(whole: Path, damaged: Path, executor: str) -> None:
    assert verify_job(whole, executor=executor) == ()
    for decode in (True, False):
        expected = verify(damaged, decode=decode)
        assert {problem.kind for problem in expected} >= {"member", "checksum", "tar_missing", "hard"}
        assert verify_job(damaged, decode=decode, executor=executor) == expected


def test_nothing_is_written(damaged: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in damaged.rglob("*")}
    verify_job(damaged, executor="local")
    assert {path: path.stat().st_mtime_ns for path in damaged.rglob("*")} == before


def test_killed_workers_lose_no_problem(
    damaged: Path, tmp_path: Path, embedded_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shard kills the first worker that takes it, the last one every worker."""
    shards = len(survey(damaged).shards)
    monkeypatch.setattr("jobs._verify.open_verify_worker", functools.partial(open_killed_checks, tmp_path, shards - 1))
    *problems, last = verify_job(damaged, executor="ray", workers=2)
    assert {path.name for path in tmp_path.glob("killed-*")} == {f"killed-{place}" for place in range(shards)}
    assert (last.kind, last.shard) == ("unchecked", survey(damaged).shards[-1].path)
    assert last.detail.startswith("could not be checked (3 attempts, the last: ")
    assert tuple(problems) == verify(damaged)


def test_a_shard_that_cannot_be_checked_is_not_taken_for_whole(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> object:
        raise ValueError("this cannot be")

    monkeypatch.setattr("jobs._verify.check_shard", refuse)
    problems = verify_job(whole, executor="local")
    assert {problem.kind for problem in problems} == {"unchecked"}
    assert [problem.shard for problem in problems] == [shard.path for shard in survey(whole).shards]


def test_a_store_that_cannot_be_reached_is_one_line(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is asked no more, once it did not answer, and no shard counts as checked."""
    upath = pytest.importorskip("upath", reason="universal-pathlib is not installed; stores are an optional extra")
    exceptions = pytest.importorskip("botocore.exceptions", reason="botocore is not installed; stores are an extra")
    root = "memory://store/data"
    for path in whole.rglob("*"):
        if path.is_file():
            copy = upath.UPath(root) / str(path.relative_to(whole))
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    assert verify_job(root, executor="local") == ()
    for error in (exceptions.EndpointConnectionError(endpoint_url="http://store"), OSError("no\nroute")):
        asked = []

        def fail(path: object, error: Exception = error, asked: list[object] = asked) -> object:
            asked.append(path)
            raise error

        monkeypatch.setattr("shards.checks._verify_tar.open_stream", fail)
        with pytest.raises(OSError, match=r"^[^\n]*(cannot be reached \(Could not connect|no route)[^\n]*$") as raised:
            verify_job(root, executor="local")
        assert type(raised.value) is OSError
        assert len(asked) == 1


def test_no_worker(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: object) -> object:
        raise ValueError("no libsndfile")

    monkeypatch.setattr("jobs._verify.open_verify_worker", fail)
    with pytest.raises(IntegrityError, match="is not verified: no worker could start: ValueError: no libsndfile"):
        verify_job(whole, executor="local")


def test_a_signal_ends_it_without_an_answer(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def signalled(*arguments: object, stop: Callable[[], bool], **options: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return stop()

    monkeypatch.setattr("jobs._verify.check_shard", signalled)
    with pytest.raises(Interrupted, match="SIGTERM"):
        verify_job(whole, executor="local")


def test_wrong_use(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a dataset"):
        verify_job(tmp_path, executor="local")
    with pytest.raises(UsageError, match="is relative, a job needs an absolute path"):
        verify_job(Path("data"), executor="local")
    with pytest.raises(UsageError, match="workers is 0"):
        verify_job(whole, executor="ray", workers=0)


def test_the_command_says_the_same_on_either_executor(
    damaged: Path, capsys: pytest.CaptureFixture[str], embedded_ray: None
) -> None:
    answers = []
    for options in ([], ["--executor", "ray", "--workers", "2"]):
        for more in ([], ["--json"], ["--no-decode"]):
            code = main(["verify", str(damaged), *options, *more])
            answers.append((code, capsys.readouterr().out))
    assert answers[:3] == answers[3:]
    assert {code for code, _ in answers} == {1}
    assert main(["verify", str(damaged), "--ray-address", "127.0.0.1:1"]) == 2
    assert "--ray-address is for --executor ray" in capsys.readouterr().err
