"""The trainer examples run, on the CPU, and go on exactly where they were stopped, on another number of processes too.

They train the same student by the same seeds, so each is also held against the others.
"""

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from shards import Dataset
from tests.shards.small_dataset import write_split

ROOT = Path(__file__).parents[1]
TRAINERS = ROOT / "docs" / "trainers"
STEPS = 5
EPOCH = 3  # 12 clips of a source, 4 in every global batch

pytestmark = pytest.mark.xdist_group("trainers")  # they share the two runs in one part


@dataclass(frozen=True)
class Run:
    """losses: of steps 1, 2, ... as printed. clips: of each step and source, over all ranks."""

    losses: dict[int, str]
    clips: list[dict[str, list[str]]]

    def __add__(self, later: "Run") -> "Run":
        assert not self.losses.keys() & later.losses.keys()
        return Run(self.losses | later.losses, self.clips + later.clips)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trainers") / "dataset"
    dataset = Dataset.create(root, keys="path")
    for split in ("weak", "strong"):
        write_split(dataset, split, 4 * EPOCH, seed=5, labels=("frames",))
    return root


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    """Plain training that nothing interrupts, by the number of processes."""
    return {
        processes: run("ddp", dataset, tmp_path_factory.mktemp("whole") / "checkpoint", STEPS, processes)
        for processes in (1, 2)
    }


def test_the_runs_are_worth_comparing(whole: dict[int, Run]) -> None:
    for one in whole.values():
        assert list(one.losses) == list(range(1, STEPS + 1))
        assert len(set(one.losses.values())) == STEPS
        for split in ("weak", "strong"):
            first_epoch = [key for clips in one.clips[:EPOCH] for key in clips[split]]
            assert sorted(first_epoch) == [f"{split}-{clip:03d}_0" for clip in range(4 * EPOCH)]
    assert whole[1].clips == whole[2].clips
    assert whole[1].losses != whole[2].losses  # as each process has its own batch statistics


def test_ddp_goes_on_with_the_same_and_with_another_number_of_processes(
    whole: dict[int, Run], dataset: Path, tmp_path: Path
) -> None:
    first = run("ddp", dataset, tmp_path / "checkpoint", 2, 2)
    saved = (tmp_path / "checkpoint").read_bytes()
    assert first + run("ddp", dataset, tmp_path / "checkpoint", STEPS, 2) == whole[2]
    (tmp_path / "checkpoint").write_bytes(saved)
    assert (first + run("ddp", dataset, tmp_path / "checkpoint", STEPS, 1)).clips == whole[1].clips


def test_accelerate_goes_on(whole: dict[int, Run], dataset: Path, tmp_path: Path) -> None:
    _needs("accelerate")
    parts = [run("accelerate_trainer", dataset, tmp_path / "state", steps, 2) for steps in (2, STEPS)]
    assert parts[0] + parts[1] == whole[2]


def test_lightning_goes_on_within_an_epoch_and_at_its_end(whole: dict[int, Run], dataset: Path, tmp_path: Path) -> None:
    _needs("lightning")
    parts = [run("lightning_trainer", dataset, tmp_path / "last.ckpt", steps, 1) for steps in (2, EPOCH, STEPS)]
    assert parts[0] + parts[1] + parts[2] == whole[1]


@pytest.mark.parametrize(("name", "package"), [("ddp", "torch"), ("lightning_trainer", "lightning")])
def test_a_trainer_that_was_killed_goes_on_from_what_it_saved_last(
    name: str, package: str, whole: dict[int, Run], dataset: Path, tmp_path: Path
) -> None:
    _needs(package)
    script = tmp_path / f"{name}.py"
    script.write_text((TRAINERS / f"{name}.py").read_text().replace("SAVE_EVERY = 100", "SAVE_EVERY = 2"))
    killed = tmp_path / "killed"
    killed.mkdir()
    done = start(script, dataset, tmp_path / "last.ckpt", 1_000, 1, killed, KILLED_AFTER="3")
    assert done.returncode != 0
    assert "step 3: " in done.stdout
    later = run(name, dataset, tmp_path / "last.ckpt", STEPS, 1)
    assert later.losses == {step: whole[1].losses[step] for step in range(3, STEPS + 1)}
    assert later.clips == whole[1].clips[2:]


@pytest.mark.parametrize("name", ["ddp", "lightning_trainer", "accelerate_trainer"])
def test_a_trainer_without_arguments_says_how_it_is_called(name: str) -> None:
    if name != "ddp":
        _needs(name.removesuffix("_trainer"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, TRAINERS / f"{name}.py"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"docs/trainers/{name}.py DATASET LABEL_SET" in done.stderr
    assert "Traceback" not in done.stderr


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def run(name: str, dataset: Path, checkpoint: Path, steps: int, processes: int) -> Run:
    """From `checkpoint`, if it exists, up to `steps`."""
    notes = checkpoint.parent / f"{steps}-{processes}"
    notes.mkdir()
    done = start(TRAINERS / f"{name}.py", dataset, checkpoint, steps, processes, notes)
    assert done.returncode == 0, done.stdout + done.stderr
    losses = re.findall(r"^step (\d+): (.+)$", done.stdout, re.MULTILINE)
    return Run({int(step): printed for step, printed in losses}, _clips(notes, processes))


def start(
    script: Path, dataset: Path, checkpoint: Path, steps: int, processes: int, notes: Path, **variables: str
) -> "subprocess.CompletedProcess[str]":
    launcher: list[str] = []
    if script.stem != "lightning_trainer":
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        launcher += ["--master-addr=127.0.0.1", f"--master-port={_free_port()}"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
        "GLOO_SOCKET_IFNAME": "lo",
        **variables,
    }
    noting = [ROOT / "tests" / "trainer_clips.py", notes]
    return subprocess.run(
        [sys.executable, *launcher, *noting, script, dataset, "frames", checkpoint, str(steps)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def _clips(notes: Path, processes: int) -> list[dict[str, list[str]]]:
    ranks = [(notes / f"{rank}.jsonl").read_text().splitlines() for rank in range(processes)]
    assert len(list(notes.iterdir())) == processes
    steps = []
    for lines in zip(*ranks, strict=True):
        clips: dict[str, list[str]] = {}
        for line in lines:
            for source, key in json.loads(line):
                clips.setdefault(source, []).append(key)
        steps.append(clips)
    return steps


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
