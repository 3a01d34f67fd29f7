"""SIGKILL of the driver at any moment, then the same command: the same bytes as an undisturbed run.

`make campaign` makes the slice of three kills a campaign.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jobs import pack_stage, run_stage

KILLS_PER_DATASET = 4
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def many_recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng([7, 3])
    noise = rng.normal(0, 0.1, 44_100 * 24).clip(-1, 1)
    for number in range(120):
        audio = noise[number * 1000 :][: 44_100 * (25 if number % 40 == 0 else 4)]
        soundfile.write(folder / f"{number}.wav", audio, 44_100, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def undisturbed(many_recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The dataset of a run that nobody kills, and the seconds it takes in this process."""
    dataset = tmp_path_factory.mktemp("undisturbed")
    started_s = time.monotonic()
    stage = pack_stage(
        dataset=dataset, split="weak", folder=many_recordings, keys="path", long="split", clips_per_shard=20
    )
    assert run_stage(stage, executor="local", progress=False).exit_code == 0
    return tree(dataset), time.monotonic() - started_s


def tree(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "report.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def start(executor: str, dataset: Path, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, str(Path(__file__).parent / "pack_once.py"), executor, str(dataset), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    return process


@pytest.mark.campaign
def test_killed_at_random_moments(
    tmp_path: Path, many_recordings: Path, undisturbed: tuple[dict[str, bytes], float], campaign: int
) -> None:
    expected, whole_s = undisturbed
    all_kills = campaign // 200 or 3  # each takes seconds
    rng = np.random.default_rng([7, 4])
    interrupted = 0
    for first in range(0, all_kills, KILLS_PER_DATASET):
        dataset = tmp_path / str(first)
        kills = min(KILLS_PER_DATASET, all_kills - first)
        for _ in range(kills):
            process = start("local", dataset, many_recordings)
            time.sleep(rng.uniform(0, whole_s / kills))
            process.kill()
            interrupted += process.wait() == -signal.SIGKILL
        assert start("local", dataset, many_recordings).wait() == 0
        assert tree(dataset) == expected
    assert interrupted > all_kills // 2, "kills that come after the end test nothing"


def test_killed_driver_of_ray(
    tmp_path: Path, many_recordings: Path, undisturbed: tuple[dict[str, bytes], float]
) -> None:
    pytest.importorskip("ray")
    dataset = tmp_path / "d"
    process = start("ray", dataset, many_recordings)
    while not list(dataset.rglob("000000.json")):
        assert process.poll() is None, "the run ended before it committed a shard"
        time.sleep(0.01)
    started = descendants(process.pid)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(started) > 2, "the embedded Ray consists of processes of its own"
    wait_until_gone(started)
    # Which executor goes on makes no difference (test_ray_gives_the_same_bytes), and this one starts at once.
    assert start("local", dataset, many_recordings).wait() == 0
    assert tree(dataset) == undisturbed[0]


def descendants(pid: int) -> dict[int, str]:
    """Processes started by `pid`, and by those: pid -> start time, so that a number used again is not mistaken."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := parent_and_start(int(entry.name))):
            parents[int(entry.name)] = found
    known = {pid}
    while grown := {child for child, (parent, _) in parents.items() if parent in known} - known:
        known |= grown
    return {child: parents[child][1] for child in known - {pid}}


def parent_and_start(pid: int) -> tuple[int, str] | None:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if status[0] == "Z" else (int(status[1]), status[19])


def wait_until_gone(started: dict[int, str], patience_s: float = 4.0) -> None:
    """Ray's processes follow their driver, but for two agents that linger: what is left is killed by number."""
    end_s = time.monotonic() + patience_s
    while started and time.monotonic() < end_s:
        started = {pid: at for pid, at in started.items() if (found := parent_and_start(pid)) and found[1] == at}
        time.sleep(0.1)
    for pid in started:
        os.kill(pid, signal.SIGKILL)
