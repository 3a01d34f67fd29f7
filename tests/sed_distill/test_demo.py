"""The demo with few clips and steps: everything real, nothing done twice, and a kill costs nothing."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import UsageError
from sed_distill._comparison import Training
from sed_distill._demo import DemoRecipe, run_demo
from shards import verify
from teachers._choice import DEMO_CHECKPOINT
from tests.jobs.test_kill import parent_and_start

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = DemoRecipe(
    clips={"strong": 6, "weak": 8, "dev": 5, "eval": 7},
    training=Training(seed=1, width=0.2, steps=2, batch_size=4, learning_rate=1e-3),
)
RUN_SMALL = """
import sys
from pathlib import Path
from sed_distill._demo import run_demo
from tests.sed_distill.test_demo import SMALL
sys.exit(run_demo(Path(sys.argv[1]), SMALL))
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert run_demo(folder, SMALL) == 0
    return folder


def test_every_clip_is_accounted_for_through_all_stages(out: Path) -> None:
    demo = json.loads((out / "demo.json").read_text())
    stages = {row["name"]: row for row in demo["stages"]}
    for split, clips in SMALL.clips.items():
        assert stages[f"generate {split}"]["clips_out"] == clips
        for stage in ("pack", "label"):
            row = stages[f"{stage} {split}"]
            assert (row["clips_in"], row["clips_out"] + row["rejected"]) == (clips, clips)
    assert verify(out / "dataset") == ()
    assert demo["clips_generated"] == 26
    assert "not a scientific result" in demo["is"]


def test_the_report_shows_teacher_both_students_and_the_ceiling(out: Path) -> None:
    demo = json.loads((out / "demo.json").read_text())
    assert [model["name"] for model in demo["psds1"]["models"]] == ["teacher", "hard", "distilled"]
    assert all(0 <= model["psds1"] <= demo["psds1"]["ceiling"] + 0.05 for model in demo["psds1"]["models"])
    for column in range(3):
        mean = sum(row["psds1"][column] for row in demo["psds1"]["classes"]) / len(demo["psds1"]["classes"])
        assert mean == pytest.approx(demo["psds1"]["models"][column]["psds1"])
    page = (out / "report.html").read_text()
    assert page.count('class="spectrogram"') == 6
    assert "http" not in page.replace("http-equiv", ""), "the report must need nothing from elsewhere"
    assert page.count("data:image/png") > 6 * 5


def test_a_second_run_does_nothing_again(out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert run_demo(out, SMALL) == 0
    changed = {path.name for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns}
    assert changed <= {"recipe.json", "demo.json", "report.html"}


def test_another_recipe_in_the_same_folder_is_refused(out: Path) -> None:
    other = DemoRecipe(
        clips=SMALL.clips, training=Training(seed=2, width=0.2, steps=2, batch_size=4, learning_rate=1e-3)
    )
    with pytest.raises(UsageError, match="another recipe"):
        run_demo(out, other)


def test_what_was_removed_is_made_again(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    before = tree(tmp_path)
    (tmp_path / "students" / "hard.pt").unlink()
    shutil.rmtree(tmp_path / "dataset" / "eval" / "labels")
    assert run_demo(tmp_path, SMALL) == 0
    after = tree(tmp_path)
    assert before.keys() == after.keys()
    made = {name for name in before if name.startswith(("dataset", "recordings", "students"))}
    assert {name: before[name] for name in made} == {name: after[name] for name in made}


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="seed is -1"):
        run_demo(tmp_path, dataclasses.replace(SMALL, training=dataclasses.replace(SMALL.training, seed=-1)))
    assert list(tmp_path.iterdir()) == []


def test_training_processes_do_not_outlive_their_owner(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from sed_distill._processes import training_processes\n"
        "if __name__ == '__main__':\n"
        "    with training_processes(2) as processes:\n"
        "        print(*{processes.submit(os.getpid).result() for _ in range(8)}, flush=True)\n"
        "        processes.submit(time.sleep, 600)\n"
        "        sys.stdin.readline()\n"
        "        1 // 0\n"
    )
    (tmp_path / "owner.py").write_text(code)
    for end in ("kill", "error"):
        owner = subprocess.Popen(
            [sys.executable, str(tmp_path / "owner.py")],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert owner.stdin is not None
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert pids
        if end == "kill":
            owner.kill()
        else:
            owner.stdin.write("\n")
            owner.stdin.flush()
        owner.wait(timeout=30)
        deadline = time.monotonic() + 30
        while any(parent_and_start(pid) for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_killed_demo_goes_on_to_the_same_shards_and_students(out: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_SMALL, str(tmp_path)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "steps" / "pack-weak.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert run_demo(tmp_path, SMALL) == 0
    for name in ("dataset", "students", "recordings"):
        assert tree(tmp_path / name) == tree(out / name)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but caches and those that tell of runs."""
    others = ("report.json", "commands.json", "index.arrow")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in others and not path.name.startswith(".")
    }


def test_the_demo_teacher_ships_with_the_project() -> None:
    assert DEMO_CHECKPOINT.is_file()
    assert DEMO_CHECKPOINT.stat().st_size <= 5_000_000
