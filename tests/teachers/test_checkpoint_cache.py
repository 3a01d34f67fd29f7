"""Checkpoints from the web: whole and of the right hash or not at all, whatever happens on the way; once per node."""

import errno
import fcntl
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jobs import _stop
from pipeline import TeacherError, UsageError
from teachers import TeacherChoice, load_teacher
from teachers import _checkpoint_cache as cache_module
from teachers import _download as download_module
from teachers._checkpoint_cache import cached_checkpoint
from tests.teachers.checkpoint_server import CheckpointServer, checkpoint_server
from tests.teachers.labelling_examples import MIDS, tiny_beats

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_beats(tmp_path_factory.mktemp("tiny") / "tiny.pt").read_bytes()


@pytest.fixture
def server(content: bytes) -> Iterator[CheckpointServer]:
    with checkpoint_server(content) as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SED_DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download_module, "_PAUSES_S", (0.0, 0.0, 0.0))
    return tmp_path / "cache" / "checkpoints"


def fetched(server: CheckpointServer, *, path: str = "/tiny.pt", sha256: str | None = None) -> Path:
    return cached_checkpoint(server.url + path, sha256=sha256, archive=True)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def kept(cache: Path) -> list[str]:
    """Names in the cache but those of empty lock files."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_fetched_once_under_its_hash(
    server: CheckpointServer, content: bytes, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = fetched(server)
    told = f"fetched {server.url}/tiny.pt: {len(content):,} bytes, sha256={digest_of(content)}\n"
    assert capfd.readouterr().err == told
    assert path == cache / f"{digest_of(content)}.pt"
    assert path.read_bytes() == content
    assert fetched(server) == path
    assert fetched(server, sha256=digest_of(content)) == path
    ((_, headers),) = server.requests
    assert (headers["User-Agent"], headers["Accept-Encoding"]) == ("sed-distill", "identity")
    assert fetched(server, path="/elsewhere/copy.pt", sha256=digest_of(content)) == path
    assert len(server.requests) == 1
    assert len(kept(cache)) == 2  # the file, and which address gave it


def test_a_long_download_tells_how_far_it_is(
    server: CheckpointServer, content: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download_module, "_PROGRESS_S", -1.0)
    fetched(server)
    assert f"fetching {server.url}/tiny.pt: 0 of {len(content) / 1e6:.0f} MB\n" in capfd.readouterr().err


@pytest.mark.parametrize("how", ["strong", "date"])
def test_a_broken_download_is_gone_on_from(server: CheckpointServer, content: bytes, how: str) -> None:
    server.tag, server.cuts = how, [30_000, 10_000, 10_000, 10_000, 10_000, 5_000]
    assert fetched(server).read_bytes() == content
    assert server.ranges_asked == [None, *(f"bytes={n}-" for n in (30_000, 40_000, 50_000, 60_000, 70_000, 75_000))]
    assert all(headers["If-Range"] == server.version for _, headers in server.requests[1:])


def test_tries_that_bring_nothing_end_and_the_next_call_goes_on(server: CheckpointServer, content: bytes) -> None:
    server.cuts = [30_000, 0, 0, 0, 0]
    with pytest.raises(ConnectionError, match=r"tiny\.pt: the connection ended after 30,000 of .* 4 times"):
        fetched(server)
    assert len(server.requests) == 4
    server.cuts = []
    assert fetched(server).read_bytes() == content
    assert server.ranges_asked[-1] == "bytes=30000-"


def test_a_server_without_ranges_gives_all_of_it_again(server: CheckpointServer, content: bytes) -> None:
    server.ranges, server.cuts = False, [60_000, 20_000]
    assert fetched(server).read_bytes() == content
    assert len(server.requests) == 3


@pytest.mark.parametrize("how", ["weak", "none"])
def test_without_a_version_nothing_is_appended_but_to_what_a_hash_will_tell(
    server: CheckpointServer, content: bytes, how: str
) -> None:
    server.tag, server.cuts = how, [60_000]
    assert fetched(server).read_bytes() == content
    assert server.ranges_asked == [None, None]
    server.requests.clear()
    server.cuts = [60_000]
    path = fetched(server, path="/other.bin", sha256=digest_of(content))
    assert path.read_bytes() == content
    assert server.ranges_asked == [None, "bytes=60000-"]


@pytest.mark.parametrize("checks", [True, False], ids=["told by the server", "told by the answer"])
def test_a_file_that_changes_between_two_answers_is_fetched_anew(
    server: CheckpointServer, content: bytes, checks: bool, tmp_path: Path
) -> None:
    server.checks_version = checks
    newer = tiny_beats(tmp_path / "tiny.pt", seed=1).read_bytes()
    assert len(newer) == len(content)
    url = f"{server.url}/weights.bin"
    server.cuts = [30_000, 0, 0, 0]
    with pytest.raises(ConnectionError):
        cached_checkpoint(url, sha256=None, archive=False)
    server.content = newer
    path = cached_checkpoint(url, sha256=None, archive=False)  # nothing but the server's word tells a mixture
    assert path.read_bytes() == newer
    assert path.name == f"{digest_of(newer)}.bin"


@pytest.mark.parametrize("lie", ["another place", "another size", "no place"])
def test_an_answer_that_does_not_go_on_is_not_appended(
    server: CheckpointServer, content: bytes, cache: Path, lie: str
) -> None:
    server.cuts = [30_000, 0, 0, 0]
    with pytest.raises(ConnectionError):
        cached_checkpoint(f"{server.url}/tiny.pt", sha256=None, archive=False)
    size = len(content)
    span, body = {
        "another place": (f"bytes 20000-{size - 10_001}/{size}", bytes(size - 30_000)),
        "another size": (f"bytes 30000-{size + 4}/{size + 5}", bytes(size + 5 - 30_000)),
        "no place": ("", bytes(size - 30_000)),
    }[lie]
    assert server.version is not None
    server.answers = {"/tiny.pt": (206, {"Content-Range": span, "ETag": server.version}, body)}
    with pytest.raises(TeacherError, match="answered with 206"):  # to the request for all of it
        cached_checkpoint(f"{server.url}/tiny.pt", sha256=None, archive=False)
    assert kept(cache) == []


def test_a_server_that_gives_no_more_than_so_much_of_a_range(server: CheckpointServer, content: bytes) -> None:
    server.cuts, server.most = [30_000], 100_000
    assert fetched(server).read_bytes() == content
    assert server.ranges_asked == [None, "bytes=30000-", "bytes=130000-"]


def test_a_file_that_changes_unnoticed_is_found_by_its_hash(
    server: CheckpointServer, content: bytes, tmp_path: Path
) -> None:
    newer = tiny_beats(tmp_path / "tiny.pt", seed=1).read_bytes()
    server.tag, server.cuts, server.content = "none", [30_000, 0, 0, 0], newer
    with pytest.raises(ConnectionError):
        fetched(server, sha256=digest_of(content))
    server.content = content
    assert fetched(server, sha256=digest_of(content)).read_bytes() == content
    assert server.ranges_asked[-2:] == ["bytes=30000-", None]  # joined, of the wrong hash, and once more in one piece


def test_a_wrong_hash_is_refused_and_not_kept(server: CheckpointServer, content: bytes, cache: Path) -> None:
    with pytest.raises(TeacherError, match=rf"has sha256 {digest_of(content)}, {'0' * 64} is asked for"):
        fetched(server, sha256="0" * 64)
    assert kept(cache) == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_a_file_of_the_cache_is_whole(
    server: CheckpointServer, content: bytes, cache: Path, tmp_path: Path, seed: int
) -> None:
    """Servers of all kinds, cut anywhere, that change the file in between; calls that fail and calls that go on."""
    rng = np.random.default_rng(seed)
    versions = [content, tiny_beats(tmp_path / "tiny.pt", seed=1).read_bytes()]
    pinned = digest_of(content) if rng.integers(2) else None
    ends: list[str] = []
    for _ in range(8):
        server.tag = str(rng.choice(["strong", "weak", "date", "none"]))
        server.length = str(rng.choice(["stated", "chunked", "none"]))
        server.ranges, server.checks_version = bool(rng.integers(4)), bool(rng.integers(2))
        server.content = versions[int(rng.integers(2))]
        server.cuts = [int(cut) for cut in rng.integers(0, 120_000, rng.integers(1, 7))]
        try:
            given = fetched(server, sha256=pinned)
        except (ConnectionError, TeacherError) as error:
            ends.append(type(error).__name__)
        else:
            assert given.read_bytes() in ([content] if pinned else versions)
            ends.append("whole")
        for path in cache.glob("*.pt"):
            assert path.name == f"{digest_of(path.read_bytes())}.pt"
            assert path.read_bytes() in versions
    server.cuts, server.length, server.content = [], "stated", content
    assert fetched(server, sha256=pinned).read_bytes() in ([content] if pinned else versions)
    assert set(ends) <= {"whole", "ConnectionError", "TeacherError"}


def test_a_server_that_does_not_say_how_long_it_is(server: CheckpointServer, content: bytes, cache: Path) -> None:
    server.length = "none"
    with pytest.raises(TeacherError, match=r"does not say how long the file is.* #sha256=HEX"):
        fetched(server)
    server.cuts = [50_000]
    with pytest.raises(TeacherError, match="is asked for"):
        fetched(server, sha256=digest_of(content))
    assert fetched(server, sha256=digest_of(content)).read_bytes() == content
    server.length, server.cuts = "chunked", [50_000, 10_000]
    assert fetched(server, path="/chunked.bin").read_bytes() == content
    assert server.ranges_asked[-2:] == ["bytes=50000-", "bytes=60000-"]


def page(text: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": text}, b"<!doctype html><title>Sign in</title>"


def test_what_is_no_checkpoint_is_refused_and_not_kept(server: CheckpointServer, content: bytes, cache: Path) -> None:
    server.answers = {
        "/page": page("text/html; charset=utf-8"),
        "/disguised": page("application/octet-stream"),
        "/absent": (404, {}, b""),
        "/secret": (403, {}, b""),
        "/half": (200, {}, content[: len(content) // 2]),
        "/flipped": (200, {}, content[:40_000] + bytes([content[40_000] ^ 1]) + content[40_001:]),
        "/moved": (302, {"Location": "/absent"}, b""),
        "/part": (206, {"Content-Range": f"bytes 0-4/{len(content)}"}, content[:5]),
        "/nothing": (204, {}, b""),
    }
    for path, message in {
        "/page": "gives a web page, not a file; give the address of the file itself",
        "/disguised": "37 bytes, not a whole PyTorch checkpoint",
        "/absent": "answers 404 Not Found; check the address",
        "/secret": "answers 403 Forbidden",
        "/half": "not a whole PyTorch checkpoint",
        "/flipped": "does not match its CRC",
        "/moved": "answers 404 Not Found",
        "/part": "is answered with 206, not with a whole file",
        "/nothing": "is answered with 204, not with a whole file",
    }.items():
        server.requests.clear()
        with pytest.raises(TeacherError, match=f"^{server.url}{path}: .*{message}") as caught:
            fetched(server, path=path)
        assert "\n" not in str(caught.value)
        assert len(server.requests) == (2 if path == "/moved" else 1)
        assert kept(cache) == []


def test_an_overloaded_server_is_asked_again(server: CheckpointServer, content: bytes) -> None:
    server.answers = {"/tiny.pt": (503, {}, b"")}
    with pytest.raises(ConnectionError, match="the server answers 503 Service Unavailable, 4 times"):
        fetched(server)
    assert len(server.requests) == 4
    del server.answers["/tiny.pt"]
    assert fetched(server).read_bytes() == content


def test_a_redirect_is_followed_and_gone_on_from(server: CheckpointServer, content: bytes) -> None:
    server.answers = {"/release.pt": (302, {"Location": "/signed/elsewhere"}, b"")}
    server.cuts = [30_000]
    assert fetched(server, path="/release.pt").read_bytes() == content
    assert [path for path, _ in server.requests] == ["/release.pt", "/signed/elsewhere"] * 2
    assert server.ranges_asked == [None, None, "bytes=30000-", "bytes=30000-"]


def test_a_redirect_that_leads_nowhere(server: CheckpointServer, cache: Path) -> None:
    server.answers = {"/round": (302, {"Location": "/round"}, b"")}
    with pytest.raises(TeacherError, match=r"round: the server answers 302 .*infinite loop") as caught:
        fetched(server, path="/round")
    assert str(caught.value).isprintable()
    for address in ("http://[::1/", "http://a..b/", "http://127.0.0.1:port/"):
        server.answers["/away"] = (302, {"Location": address}, b"")
        with pytest.raises(ConnectionError, match=r"away: cannot be reached \(.*\), 4 times"):
            fetched(server, path="/away")
    assert kept(cache) == []


def test_a_way_out_of_encryption_is_not_taken(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    answer = SimpleNamespace(url="http://elsewhere/tiny.pt?key=secret", close=lambda: None)
    monkeypatch.setattr("urllib.request.urlopen", lambda request, timeout: answer)
    with pytest.raises(TeacherError, match=r"leads to http://elsewhere/tiny\.pt, which is not encrypted"):
        cached_checkpoint("https://host/tiny.pt", sha256=None, archive=True)
    assert kept(cache) == []


def test_nobody_there(server: CheckpointServer) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"cannot be reached \(.*refused\), 4 times; check the network"):
        fetched(server)
    server.server_close = lambda: None


def test_a_silent_server_is_given_up(server: CheckpointServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "_SILENCE_S", 0.1)
    server.hold_at = 20_000
    with pytest.raises(ConnectionError, match="the connection broke after 20,000 bytes"):
        fetched(server)


def test_a_copy_that_is_damaged_on_the_disk_is_fetched_again(
    server: CheckpointServer, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = fetched(server)
    path.write_bytes(content[:-1] + b"x")
    assert fetched(server).read_bytes() == content
    assert len(server.requests) == 2
    assert f"{path}: was damaged" in capfd.readouterr().err


def test_a_leftover_part_that_is_too_long_or_nobodys_is_dropped(
    server: CheckpointServer, content: bytes, cache: Path
) -> None:
    server.cuts = [30_000, 0, 0, 0]
    with pytest.raises(ConnectionError):
        fetched(server)
    (part,) = cache.glob("*.part")
    part.write_bytes(content + b"more")
    assert fetched(server).read_bytes() == content
    assert server.ranges_asked[-1] is None
    part.write_bytes(b"of nobody")
    (cache / f"{digest_of(content)}.pt").unlink()
    assert fetched(server).read_bytes() == content
    assert server.ranges_asked[-1] is None


def test_a_part_beyond_the_end_of_another_version_is_dropped(server: CheckpointServer, content: bytes) -> None:
    """Without a version to compare the server can only answer that there is nothing there."""
    server.tag, server.cuts = "none", [30_000, 0, 0, 0]
    with pytest.raises(ConnectionError):
        fetched(server, sha256=digest_of(content))
    server.content = content[:20_000]
    path = cached_checkpoint(f"{server.url}/tiny.pt", sha256=digest_of(server.content), archive=False)
    assert path.read_bytes() == server.content
    assert server.ranges_asked[-2:] == ["bytes=30000-", None]


def test_a_part_that_is_complete_needs_no_server(server: CheckpointServer, content: bytes, cache: Path) -> None:
    """Killed between the last byte and the rename."""
    server.cuts = [30_000, 0, 0, 0]
    with pytest.raises(ConnectionError):
        fetched(server)
    next(cache.glob("*.part")).write_bytes(content)
    asked = len(server.requests)
    assert fetched(server).read_bytes() == content
    assert len(server.requests) == asked


def test_a_cache_that_cannot_be_written_to(
    server: CheckpointServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("SED_DISTILL_CACHE", str(tmp_path / "taken"))
    with pytest.raises(
        UsageError, match=r"taken/checkpoints: checkpoints cannot be kept there.* set SED_DISTILL_CACHE"
    ):
        fetched(server)


def test_a_full_disk_leaves_what_came_and_says_so(server: CheckpointServer, content: bytes) -> None:
    """No file may grow beyond 50,000 bytes: the disk's answer is another number, and the same way out."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, most[1]))
    try:
        with pytest.raises(OSError, match="the disk is full; free some space, or set SED_DISTILL_CACHE") as caught:
            fetched(server)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert caught.value.errno == errno.EFBIG
    assert fetched(server).read_bytes() == content
    assert server.ranges_asked == [None, "bytes=50000-"]


FETCH = """
import sys
from teachers._checkpoint_cache import cached_checkpoint
print(cached_checkpoint(sys.argv[1], sha256=None, archive=True))
"""


def start_fetching(server: CheckpointServer, stderr: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FETCH, f"{server.url}/tiny.pt"]
    with stderr.open("w") as told:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=told, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_download_is_gone_on_from(
    server: CheckpointServer, content: bytes, cache: Path, tmp_path: Path
) -> None:
    server.hold_at = 50_000
    process = start_fetching(server, tmp_path / "stderr")
    wait_for(lambda: any(part.stat().st_size == 50_000 for part in cache.glob("*.part")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(cache.glob("*.pt"))
    server.hold_at = None
    server.go_on.set()
    path = fetched(server)
    assert path.read_bytes() == content
    assert server.ranges_asked == [None, "bytes=50000-"]
    assert len(kept(cache)) == 2


@pytest.mark.parametrize("killed", [False, True], ids=["both live", "the first is killed"])
def test_processes_of_a_node_fetch_it_once(
    server: CheckpointServer, content: bytes, cache: Path, tmp_path: Path, killed: bool
) -> None:
    server.hold_at = 50_000
    first = start_fetching(server, tmp_path / "first")
    wait_for(server.held.is_set)
    second = start_fetching(server, tmp_path / "second")
    wait_for(lambda: "waiting for another process" in (tmp_path / "second").read_text())
    if killed:
        first.send_signal(signal.SIGKILL)
    server.go_on.set()
    answers = [process.communicate(timeout=60)[0] for process in (first, second)]
    for process, answer in ((first, answers[0]), (second, answers[1]))[killed:]:
        assert process.returncode == 0
        assert answer.strip() == str(cache / f"{digest_of(content)}.pt")
        assert Path(answer.strip()).read_bytes() == content
    assert len(server.requests) == (2 if killed else 1)


def test_a_stop_is_heeded_while_downloading(
    server: CheckpointServer, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(_stop, "_asked", ["SIGTERM"])
        with pytest.raises(_stop.Interrupted):
            fetched(server)
    assert fetched(server).read_bytes() == content


def test_a_stop_is_heeded_while_another_process_fetches(
    server: CheckpointServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(server)
    next(cache.glob("*.pt")).unlink()
    monkeypatch.setattr(_stop, "_asked", ["SIGTERM"])
    with next(cache.glob("*.lock")).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(_stop.Interrupted):
            fetched(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize("path", ["/weights.bin", "/weights", "/weights." + "x" * 300, "/weights.b%20n"])
def test_files_of_the_users_own_may_hold_and_be_called_anything(server: CheckpointServer, path: str) -> None:
    server.content = b"of no kind that is known here"
    given = cached_checkpoint(server.url + path, sha256=None, archive=False)
    assert given.read_bytes() == server.content
    assert given.name == digest_of(server.content) + (".bin" if path == "/weights.bin" else "")


def test_a_teacher_from_an_address(server: CheckpointServer, content: bytes, tmp_path: Path) -> None:
    local = tmp_path / "local.pt"
    local.write_bytes(content)
    choice = TeacherChoice.parse(f"beats={server.url}/tiny.pt#sha256={digest_of(content)}")
    teacher, same = choice.open("cpu"), load_teacher("beats", checkpoint=local)
    assert teacher.vocabulary.mids == MIDS
    assert teacher.provenance == same.provenance
    waveforms = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (1, 160_000)).astype(np.float32))
    assert torch.equal(teacher.frame_logits(waveforms), same.frame_logits(waveforms))


def test_what_is_wrong_with_a_checkpoint_is_said_of_its_address(server: CheckpointServer, tmp_path: Path) -> None:
    torch.save({"model.atst.x": torch.zeros(1)}, tmp_path / "other.pt")
    server.content = (tmp_path / "other.pt").read_bytes()
    with pytest.raises(TeacherError, match=rf"^{server.url}/tiny\.pt: .*\.pt: tensors of ATST-F"):
        load_teacher("beats", checkpoint=f"{server.url}/tiny.pt")


def test_the_record_names_the_address(server: CheckpointServer, content: bytes, cache: Path) -> None:
    fetched(server)
    (record,) = cache.glob("*.json")
    assert json.loads(record.read_text()) == {"sha256": digest_of(content), "url": f"{server.url}/tiny.pt"}
    record.write_text("{")
    assert fetched(server).read_bytes() == content
    assert len(server.requests) == 2


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SED_DISTILL_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_module._folder() == Path("/home/someone/.cache/sed-distill/checkpoints")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry in passwd
    with pytest.raises(UsageError, match="no home folder to keep checkpoints in; set SED_DISTILL_CACHE"):
        cache_module._folder()
