"""Files that appear whole or not at all, disturbed for real."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import atomic_path, sweep_partial, write_atomic

REPOSITORY = Path(__file__).resolve().parents[2]


def test_old_content_stays_until_all_of_the_new_is_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_atomic(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"next")
        assert path.read_bytes() == b"\xc3\xa9\n"
        assert (temporary.parent, temporary.suffix) == (path.parent, ".json")
    assert path.read_bytes() == b"next"
    assert path.stat().st_mode & 0o777 == 0o644

    def disturbed() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disturbed()
    assert path.read_bytes() == b"next"
    assert os.listdir(path.parent) == ["file.json"]


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_atomic(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    assert sweep_partial(tmp_path) == 1
    assert os.listdir(tmp_path) == ["file"]
    assert sweep_partial(tmp_path / "absent") == 0
