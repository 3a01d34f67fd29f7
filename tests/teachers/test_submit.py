"""`ray job submit` against a real head on loopback gives the same bytes as labelling directly, and verifies them."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards import Dataset, verify
from tests.teachers.labelling_examples import packed, tiny_beats
from tests.teachers.test_labelling import label, label_bytes

pytest.importorskip("ray.dashboard.modules.job.cli", reason="ray job submit needs ray[default]")

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def head() -> Iterator[str]:
    """Address of a head's dashboard; the head runs in the foreground of its own process and ends with it."""
    port, dashboard_port = free_port(), free_port()
    # Unix sockets lie below it, whose paths have at most 107 characters.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    process = subprocess.Popen(
        [
            *RAY, "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}", f"--temp-dir={folder}",
            f"--dashboard-agent-listen-port={free_port()}",  # its default may be another Ray's
            "--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats",
        ],
        # `python` in a job is the first one on the head's path.
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield f"http://127.0.0.1:{dashboard_port}"
    process.terminate()
    process.wait(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def submit(head: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A fresh head answers before it can take jobs; until then submitting is repeated."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_ADDRESS": head}
    command = [*RAY, "job", "submit", "--working-dir", ".", "--", "python", *arguments]
    for _ in range(60):
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        if "No available agent" not in done.stderr and "Failed to connect" not in done.stderr:
            break
        time.sleep(1.0)
    return done


def test_a_submitted_job_writes_the_same_bytes_as_a_direct_run(head: str, tmp_path: Path) -> None:
    dataset = packed(tmp_path, split="weak", clips=4, clips_per_shard=2)
    checkpoint = tiny_beats(tmp_path / "tiny.pt")
    assert label(dataset, f"beats={checkpoint}", labels="direct", split="weak").exit_code == 0
    arguments = ("--dataset", str(dataset), "--teacher", f"beats={checkpoint}", "--labels", "submitted")
    arguments += ("--device", "cpu")
    label_weak = "teachers/label_weak.py"
    done = submit(head, label_weak, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 clips = 4 stored + 0 rejected" in done.stdout
    assert label_bytes(dataset, "submitted", "weak") == label_bytes(dataset, "direct", "weak")
    wrong = submit(head, label_weak, *arguments[2:], "--dataset", "relative")
    assert wrong.returncode == 1
    assert "needs an absolute path" in wrong.stdout
    tar = Dataset(dataset).labels_folder("weak", "submitted") / "000001.tar"
    tar.write_bytes(tar.read_bytes()[:600] + b"damaged" + tar.read_bytes()[607:])
    found = submit(head, "-m", "sed_distill", "verify", str(dataset), "--executor", "ray", "--workers", "1")
    assert found.returncode == 1
    (problem,) = verify(dataset)
    assert f"{tar}\t{problem.key}\tchecksum\t" in found.stdout
