"""run_stage: what it reports, on one worker in this process and on Ray actors whose processes are killed for real."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import faulty_stages
import pytest
from faulty_stages import CLIPS, faulty_stage

from jobs import ShardResult, StageReport, describe_error, differing, machine_cpus, run_stage
from jobs._ray import RayPool, resolve_address
from jobs._report import Progress
from pipeline import IntegrityError, UsageError

EXECUTORS = ("local", "ray")


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("embedded_ray")
    return str(request.param)


def shard_files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.txt")}


def test_complete_run(tmp_path: Path, executor: str) -> None:
    (tmp_path / ".partial-of-a-killed-run").touch()
    report = run_stage(faulty_stage(tmp_path, shards=4, done=2), executor=executor, progress=False)
    assert report.exit_code == 0
    assert (report.shards, report.shards_done_before, report.shards_done_now) == (6, 2, 4)
    assert (report.clips, report.stored, report.rejected, report.not_done) == (30, 26, {"damaged": 4}, 0)
    assert report.seconds == {"work": 2.0}
    assert [entry.key for entry in report.rejections] == [f"clip{shard}_0" for shard in range(2, 6)]
    assert shard_files(tmp_path) == {f"{shard:06d}.txt" for shard in range(2, 6)}
    assert not (tmp_path / ".partial-of-a-killed-run").exists()
    written = json.loads((tmp_path / "report.json").read_text())
    assert written == json.loads(json.dumps(report.to_json()))
    assert (written["exit_code"], written["executor"]) == (0, executor)


def place_of(text: str) -> str:
    """Where faulty_stages.py has `text`."""
    lines = Path(faulty_stages.__file__).read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if f'Error("{text}' in line]
    return f"faulty_stages.py line {number}"


def test_application_error_quarantines_its_shard_at_once(tmp_path: Path, executor: str) -> None:
    report = run_stage(faulty_stage(tmp_path, shards=3, shard_1="error"), executor=executor, progress=False)
    assert report.exit_code == 1
    assert [(entry.shard, entry.attempts, entry.reason) for entry in report.quarantined] == [
        (1, 1, f"ValueError: this shard cannot be done ({place_of('this shard')})")
    ]
    assert (report.stored, report.not_done) == (8, CLIPS)
    assert shard_files(tmp_path) == {"000000.txt", "000002.txt"}
    assert json.loads((tmp_path / "report.json").read_text())["quarantined"][0]["shard"] == 1
    assert "; 1 shard quarantined, first: ValueError: this shard cannot be done" in report.summary()


def test_transient_io_is_tried_again(tmp_path: Path, executor: str) -> None:
    stage = faulty_stage(tmp_path, shards=3, open_fault="io_once", shard_0="io_once", shard_2="io")
    report = run_stage(stage, executor=executor, progress=False)
    assert shard_files(tmp_path) == {"000000.txt", "000001.txt"}
    assert [(entry.shard, entry.attempts) for entry in report.quarantined] == [(2, 3)]
    assert "Input/output error" in report.quarantined[0].reason


def test_a_stage_that_cannot_open_says_why(tmp_path: Path, executor: str) -> None:
    report = run_stage(faulty_stage(tmp_path, shards=2, open_fault="teacher"), executor=executor, progress=False)
    assert report.exit_code == 1
    assert report.stopped == "no worker could start: no checkpoint"
    assert report.not_done == 2 * CLIPS


def test_sigterm_stops_and_the_next_run_finishes(tmp_path: Path, executor: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stage = faulty_stage(tmp_path, shards=2, shard_1="hang_once")

    def terminate_when_it_hangs() -> None:
        while not (tmp_path / "attempt-1").exists():
            threading.Event().wait(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate_when_it_hangs, daemon=True).start()
    report = run_stage(stage, executor=executor, workers=1, progress=False)
    assert (report.exit_code, report.stopped, report.not_done) == (1, "SIGTERM", CLIPS)
    assert shard_files(tmp_path) == {"000000.txt"}
    assert json.loads((tmp_path / "report.json").read_text())["stopped"] == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("embedded_ray")
def test_killed_workers_cost_one_attempt_each(tmp_path: Path) -> None:
    stage = faulty_stage(tmp_path, shards=5, shard_1="kill_once", shard_2="kill")
    report = run_stage(stage, executor="ray", workers=2, progress=False)
    assert report.exit_code == 1
    assert [(entry.shard, entry.attempts) for entry in report.quarantined] == [(2, 3)]
    assert shard_files(tmp_path) == {f"{shard:06d}.txt" for shard in (0, 1, 3, 4)}
    # The next run tries the quarantined shard again.
    again = run_stage(faulty_stage(tmp_path, shards=1, done=2), executor="ray", workers=1, progress=False)
    assert again.exit_code == 0
    assert not list(tmp_path.glob(".partial-*"))
    assert (tmp_path / "000002.txt").read_text() == "2 1\n"  # OMP_NUM_THREADS is what the stage says one worker uses


def test_one_worker_has_two_shards_in_hand(tmp_path: Path, executor: str) -> None:
    faults = {
        "shard_0": "meet",
        "shard_1": "meet",
        "shard_2": "kill" if executor == "ray" else "io",
        "shard_4": "error",
    }
    stage = dataclasses.replace(faulty_stage(tmp_path, shards=5, **faults), at_once=2)
    report = run_stage(stage, executor=executor, workers=1, progress=False)
    assert {entry.shard: entry.attempts for entry in report.quarantined} == {2: 3, 4: 1}
    assert shard_files(tmp_path) == {f"{shard:06d}.txt" for shard in (0, 1, 3)}


def test_sigterm_stops_all_that_one_worker_has_in_hand(tmp_path: Path) -> None:
    stage = dataclasses.replace(faulty_stage(tmp_path, shards=3, shard_0="hang", shard_1="hang"), at_once=2)

    def terminate() -> None:
        while not (tmp_path / "hung-1").exists():
            threading.Event().wait(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    report = run_stage(stage, executor="local", progress=False)
    assert (report.exit_code, report.stopped, report.not_done) == (1, "SIGTERM", 3 * CLIPS)
    assert shard_files(tmp_path) == set()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("shard")]


def test_a_second_signal_does_not_wait_for_shards_to_be_done(tmp_path: Path) -> None:
    """The first still tells threads that have a shard in hand to leave it."""
    stage = dataclasses.replace(faulty_stage(tmp_path, shards=3, shard_0="hang", shard_1="hang"), at_once=2)

    def terminate() -> None:
        while not (tmp_path / "hung-1").exists():
            threading.Event().wait(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, executor="local", progress=False)
    assert shard_files(tmp_path) == set()
    assert json.loads((tmp_path / "report.json").read_text())["stopped"].startswith("KeyboardInterrupt")


@pytest.mark.usefixtures("embedded_ray")
def test_workers_that_die_while_opening_end_the_run(tmp_path: Path) -> None:
    stage = faulty_stage(tmp_path, shards=1, open_fault="kill")
    report = run_stage(stage, executor="ray", workers=1, progress=False)
    assert report.exit_code == 1
    assert (report.stopped or "").startswith("no worker could start: ActorDiedError")


def test_a_mistake_in_a_stage_is_reported_and_raised(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a mistake in the stage"):
        run_stage(faulty_stage(tmp_path, shards=2, shard_1="bug"), executor="local", progress=False)
    written = json.loads((tmp_path / "report.json").read_text())
    assert (written["exit_code"], written["shards_done_now"]) == (1, 1)
    assert written["stopped"] == f"TypeError: a mistake in the stage ({place_of('a mistake')})"


def test_max_rejected(tmp_path: Path) -> None:
    codes = [
        run_stage(faulty_stage(tmp_path, shards=3), executor="local", max_rejected=limit, progress=False).exit_code
        for limit in (None, 3, 2, 0)
    ]
    assert codes == [0, 0, 1, 1]


def test_wrong_use_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    stage = faulty_stage(tmp_path / "output", shards=1)
    cases = [
        (stage, {"executor": "threads"}, "executor is 'threads'"),
        (stage, {"executor": "ray", "workers": 0}, "workers is 0"),
        (stage, {"executor": "local", "workers": 2}, "has one worker"),
        (stage, {"executor": "local", "max_rejected": -1}, "max rejected is -1"),
        (faulty_stage(Path("relative"), shards=1), {"executor": "local"}, "absolute"),
        (faulty_stage(tmp_path / "a_file" / "output", shards=1), {"executor": "local"}, "cannot be written"),
    ]
    for case, arguments, message in cases:
        with pytest.raises(UsageError, match=message):
            run_stage(case, progress=False, **arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"a_file"}


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    report = run_stage(faulty_stage(tmp_path, shards=0, done=3), executor="ray", ray_address="nowhere:1")
    assert (report.exit_code, report.clips, report.stored, report.workers) == (0, 15, 15, 0)


def test_address() -> None:
    assert resolve_address(None, {}) is None
    assert resolve_address(None, {"RAY_ADDRESS": ""}) is None
    assert resolve_address(None, {"RAY_ADDRESS": "http://127.0.0.1:8265"}) is None
    assert resolve_address(None, {"RAY_ADDRESS": "127.0.0.1:6379"}) == "127.0.0.1:6379"
    assert resolve_address("other:6379", {"RAY_ADDRESS": "127.0.0.1:6379"}) == "other:6379"
    assert resolve_address("local", {"RAY_ADDRESS": "127.0.0.1:6379"}) is None


def test_nobody_listens_at_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as reserved:  # bound, not listening
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"no Ray answers at {address}"):
            run_stage(faulty_stage(tmp_path, shards=1), executor="ray", ray_address=address, progress=False)
    assert json.loads((tmp_path / "report.json").read_text())["not_done"] == CLIPS


@pytest.mark.usefixtures("embedded_ray")
def test_a_gpu_that_one_machine_will_never_have_is_not_waited_for(tmp_path: Path) -> None:
    stage = dataclasses.replace(faulty_stage(tmp_path, shards=1), gpus=1_000.0)
    with pytest.raises(UsageError, match=r"this machine has \d+ GPUs and a worker of stage faulty needs 1000"):
        run_stage(stage, executor="ray", progress=False)


@pytest.mark.usefixtures("embedded_ray")
def test_a_worker_of_more_cpus_than_there_are_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def session(address: str | None, *, cpus: int) -> contextlib.nullcontext[None]:
        asked.append(cpus)
        return contextlib.nullcontext()

    monkeypatch.setattr("jobs._ray.ray_session", session)
    stage = dataclasses.replace(faulty_stage(tmp_path, shards=1), cpus=machine_cpus() + 3)
    with RayPool(stage, workers=None, address=None) as pool:
        assert (asked, pool.workers) == ([machine_cpus() + 3], 1)


def test_report_refuses_numbers_that_do_not_add_up() -> None:
    counts = {"shards": 1, "shards_done_before": 0, "shards_done_now": 1, "clips_done_now": 5, "bytes": 0}
    common = {"stage": "s", "executor": "local", "workers": 1, "seconds": {}, "wall_s": 1.0, **counts}
    StageReport(clips=5, stored=3, rejected={"missing": 1}, not_done=1, **common)
    with pytest.raises(IntegrityError, match="5 clips are wanted, but 3 stored, 1 rejected and 0 not done"):
        StageReport(clips=5, stored=3, rejected={"missing": 1}, not_done=0, **common)


def summary(stage: str, **counts: Any) -> str:
    wanted = counts.get("stored", 0) + sum(counts.get("rejected", {}).values()) + counts.get("not_done", 0)
    common = {"shards": 1, "shards_done_before": 0, "shards_done_now": 1, "clips_done_now": 0, "bytes": 0}
    common |= {"executor": "local", "workers": 1, "seconds": {}, "wall_s": 1.0, "clips": wanted}
    return StageReport(stage=stage, **{**common, "stored": 0, "rejected": {}, "not_done": 0, **counts}).summary()


def test_a_summary_says_what_may_be_wrong_and_how_to_go_on() -> None:
    assert summary("pack", stored=1) == "pack: 1/1 shard (1 now); 1 clip = 1 stored + 0 rejected"
    assert summary("pack", rejected={"not_finite": 2}).endswith("nothing is stored: is it the right folder or list?")
    failed = summary("label", rejected={"not_finite": 2})
    assert "nothing is stored: the teacher gave NaN or infinity for every clip" in failed
    assert "right folder" not in failed
    retry = "correct the teacher, raise the version in its provenance, and give another --labels name"
    assert retry in failed
    assert retry in summary("label", stored=1, rejected={"not_finite": 1})
    unreadable = summary("label", rejected={"unreadable_audio": 2})  # done again by the same command
    assert unreadable.endswith("; nothing is stored")
    assert summary("pack", not_done=1, stopped="SIGINT").endswith(
        "stopped: SIGINT, the same command goes on from there"
    )
    assert summary("pack", not_done=1, stopped="no worker").endswith("stopped: no worker")


def test_only_the_users_own_lines_are_named(tmp_path: Path) -> None:
    """The last of them, not those of libraries it calls; our own errors and our own code name none."""
    own = tmp_path / "energy.py"
    own.write_text("import json\n\n\ndef asked(text):\n    return json.loads(text)\n")
    space: dict[str, Any] = {}
    exec(compile(own.read_text(), own, "exec"), space)
    with pytest.raises(ValueError, match="Expecting value") as caught:
        space["asked"]("?")
    said = "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
    assert describe_error(caught.value) == f"{said} (energy.py line 5)"
    with pytest.raises(ValueError, match="Expecting value") as caught:
        json.loads("?")
    assert describe_error(caught.value) == f"{said} (test_run.py line {caught.traceback[0].lineno + 1})"
    with pytest.raises(UsageError) as refused:
        run_stage(faulty_stage(tmp_path, shards=1), executor="threads")
    assert describe_error(refused.value) == str(refused.value)


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        ({"stage": "merge", "merged": []}, {"stage": "label", "codec": "npy"}, "is a merge, not a labelling"),
        (
            {"teacher": {"family": "beats", "chunk_ms": None}}, {"teacher": {"family": "beats", "chunk_ms": 4000}},
            "of teacher: chunk_ms is none, not 4000",
        ),
        ({"weights": [1.0, 2.0]}, {"weights": None}, "weights is [1.0, 2.0], not none"),
        ({"a": 0.5}, {}, "a is 0.5, not none"),
        ({"family": "beats", "sha": "1"}, {"family": "atst", "sha": "2"}, "family is beats, not atst"),
        ({"sha": "1" * 64}, {"sha": "2" * 64}, "sha differs"),
        ({"members": [{}]}, {"members": [{}, {}]}, "members differs"),
        ({"stage": "label", "codec": "npy"}, {"stage": "label", "codec": "small"}, "codec is npy, not small"),
    ],
)  # fmt: skip
def test_what_differs_is_said_with_values(found: dict[str, Any], wanted: dict[str, Any], said: str) -> None:
    assert differing(found, wanted) == said


def test_progress_lines() -> None:
    stream = io.StringIO()
    stage = faulty_stage(Path("/nowhere"), shards=10)
    progress = Progress(stage, enabled=True, stream=stream)
    done = [ShardResult(shard=shard, stored=4, rejected={"damaged": 1}) for shard in range(2)]
    for now_s in (10.0, 29.0, 31.0, 40.0, 60.0, 61.0):
        progress.update(done, [], now_s)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2, "a line every 30 s"
    # 10 clips in 31 s leave 40 for 124 s.
    assert lines[0] == (
        "faulty: 2/10 shards, 10/50 clips, 0.3 clips/s, ETA 0:02:04, 2 clips rejected, 0 shards quarantined"
    )
    silent = io.StringIO()
    Progress(stage, enabled=False, stream=silent).update(done, [], 100.0)
    assert silent.getvalue() == ""


def test_progress_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(faulty_stage(Path("/nowhere"), shards=2), enabled=True, stream=stream)
    progress.update([ShardResult(shard=0, stored=CLIPS)], [], 1.0)
    progress.close()
    assert "faulty" in stream.getvalue()
    assert "5/10" in stream.getvalue()


def test_import_is_cheap() -> None:
    code = (
        "import sys, jobs; jobs.run_stage, jobs.pack_stage, jobs.Stage;"
        "print([name for name in ('ray', 'torch', 'librosa', 'av') if name in sys.modules])"
    )
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
