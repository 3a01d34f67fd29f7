"""Labelling without Ray: what is stored is what the teacher says, nothing is lost, runs resume to equal bytes."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import StageReport, run_stage, transcode_stages
from pipeline import AudioSpec, IntegrityError, TeacherError, UsageError
from sed_distill.cli import main
from shards import AudioReader, Dataset, LabelReader, verify
from shards.codecs import _audio_fast
from teachers import LabellerChoice, _label_command, label_stage, load_teacher
from tests.teachers.labelling_examples import LevelTeacher, packed, tiny_beats

REPOSITORY = Path(__file__).resolve().parents[2]


def label(dataset: Path, teacher: str, labels: str = "tiny", split: str = "strong", **options: object) -> StageReport:
    options = {"device": "cpu", **options}
    stage = label_stage(dataset=dataset, split=split, labels=labels, teacher=LabellerChoice.of(teacher), **options)
    return run_stage(stage, executor="local", progress=False)


def label_bytes(dataset: Path, labels: str = "tiny", split: str = "strong") -> dict[str, bytes]:
    folder = Dataset.open(dataset).labels_folder(split, labels)
    about_runs = ("report.json", "commands.json")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in about_runs}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("labelling"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_beats(tmp_path_factory.mktemp("checkpoint") / "tiny.pt")


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        ((), "10.1.2.3:6379", "workers at 10.1.2.3:6379 label on the CPU; where they have GPUs, give --device cuda\n"),
        (("--ray-address", "head:6379"), "10.1.2.3:6379", "workers at head:6379 label on the CPU"),
        ((), "", ""),
        (("--ray-address", "local"), "10.1.2.3:6379", ""),
        (("--device", "cpu"), "10.1.2.3:6379", ""),
        (("--device", "cuda"), "10.1.2.3:6379", ""),
        (("--executor", "local"), "10.1.2.3:6379", ""),
    ],
)
def test_a_cluster_is_labelled_on_as_this_machine_would_and_a_line_says_so(
    dataset: Path, checkpoint: Path, options: tuple[str, ...], environment: str, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", environment)
    monkeypatch.setattr(_label_command, "run_stages_from", lambda stages, arguments: 0)
    arguments = ["label", "--dataset", str(dataset), "--split", "strong", "--labels", "elsewhere"]
    assert main([*arguments, "--teacher", f"beats={checkpoint}", *options]) == 0
    told = capsys.readouterr().err
    assert said in told
    assert bool(told) == bool(said)


@pytest.mark.parametrize("codec", ["master", "faithful"])
def test_stored_labels_are_the_teachers_logits(dataset: Path, checkpoint: Path, codec: str) -> None:
    """As float16, or within what the codec promises."""
    report = label(dataset, f"beats={checkpoint}", labels=codec, batch_size=4, codec=codec)
    assert (report.exit_code, report.clips, report.stored, report.not_done) == (0, 6, 6, 0)
    assert verify(dataset) == ()
    teacher = load_teacher("beats", checkpoint=checkpoint)
    opened = Dataset.open(dataset)
    compared = 0
    shards = zip(opened.audio_shards("strong", AudioSpec().name), opened.label_shards("strong", codec), strict=True)
    for audio, labels in shards:
        assert (labels.target, labels.codec) == (teacher.target, codec)
        with AudioReader(audio) as clips, LabelReader(labels) as stored:
            for row in range(len(audio.clips)):
                waveform = torch.zeros(1, 160_000)
                pcm = clips.read(row)
                waveform[0, : len(pcm)] = torch.from_numpy(pcm / np.float32(32768))
                expected = teacher.frame_logits(waveform)[0].numpy()
                if codec == "master":
                    np.testing.assert_array_equal(stored.read(row), expected.astype(np.float16).astype(np.float32))
                else:
                    probabilities = [1 / (1 + np.exp(-logits)) for logits in (stored.read(row), expected)]
                    np.testing.assert_allclose(*probabilities, rtol=0, atol=0.004)
                compared += 1
    assert compared == 6


def test_a_removed_shard_is_labelled_again_to_the_same_bytes_and_nothing_else_is(
    dataset: Path, checkpoint: Path
) -> None:
    label(dataset, f"beats={checkpoint}")
    before = label_bytes(dataset)
    folder = Dataset.open(dataset).labels_folder("strong", "tiny")
    (folder / "000001.json").unlink()
    report = label(dataset, f"beats={checkpoint}")
    assert (report.shards_done_before, report.shards_done_now, report.stored) == (1, 1, 6)
    assert label_bytes(dataset) == before


def test_batch_size_does_not_change_the_labels(dataset: Path, checkpoint: Path) -> None:
    label(dataset, f"beats={checkpoint}", labels="one", batch_size=1)
    label(dataset, f"beats={checkpoint}", labels="three", batch_size=3)
    one, three = label_bytes(dataset, "one"), label_bytes(dataset, "three")
    assert {name: one[name] for name in one if name.endswith(".tar")} == {
        n: three[n] for n in three if n.endswith(".tar")
    }


def test_labels_of_another_teacher_are_refused_not_mixed(dataset: Path, checkpoint: Path, tmp_path: Path) -> None:
    label(dataset, f"beats={checkpoint}")
    other = tiny_beats(tmp_path / "other.pt", seed=1)
    with pytest.raises(UsageError, match="choose another --labels name"):
        label(dataset, f"beats={other}")


def test_labels_of_other_audio_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    first = packed(tmp_path / "a", clips=3)
    second = packed(tmp_path / "b", clips=2)
    label(first, f"beats={checkpoint}")
    source, target = (Dataset.open(d).audio_folder("strong", AudioSpec().name) for d in (second, first))
    for name in ("000000.tar", "000000.json"):
        (target / name).write_bytes((source / name).read_bytes())
    with pytest.raises(UsageError, match="other audio"):
        label(first, f"beats={checkpoint}")


@pytest.mark.parametrize("clips_per_shard", [2, 4, 6])
def test_in_a_copy_that_was_sharded_anew_labels_are_not_called_wrong(
    tmp_path: Path, dataset: Path, checkpoint: Path, clips_per_shard: int
) -> None:
    """They are bound by key, as verify says: to remove them, or to label some clips twice, would be the mistake."""
    label(dataset, f"beats={checkpoint}", labels="master", codec="master")
    out = tmp_path / "copy"
    for stage in transcode_stages(dataset=dataset, out=out, codec="pcm16", clips_per_shard=clips_per_shard):
        assert run_stage(stage, executor="local", progress=False).exit_code == 0
    assert verify(out) == ()
    folder = Dataset.open(out).labels_folder("strong", "master")
    refusal = r"00000[01]\.json .*shards made otherwise.*transcode again, or choose another"
    with pytest.raises(UsageError, match=refusal):
        label(out, f"beats={checkpoint}", labels="master", codec="master")
    assert label(out, f"beats={checkpoint}", labels="others", codec="master").stored == 6
    assert verify(out) == ()
    # Even where there is no audio shard of the number of the one label shard.
    for path in folder.glob("000000.*"):
        path.unlink()
    with pytest.raises(UsageError, match=refusal):
        label(out, f"beats={checkpoint}", labels="master", codec="master")


def test_labels_of_audio_that_was_lost_do_not_keep_the_rest_from_being_labelled(
    tmp_path: Path, checkpoint: Path
) -> None:
    dataset = packed(tmp_path, clips=4, clips_per_shard=2)
    label(dataset, f"beats={checkpoint}")
    opened = Dataset.open(dataset)
    audio, labels = opened.audio_folder("strong", AudioSpec().name), opened.labels_folder("strong", "tiny")
    for path in (audio / "000001.json", audio / "000001.tar", labels / "000000.json"):
        path.unlink()
    report = label(dataset, f"beats={checkpoint}")
    assert (report.exit_code, report.shards_done_now, report.stored) == (0, 1, 2)


def test_audio_that_cannot_be_decoded_here_is_an_error_before_any_work(
    tmp_path: Path, dataset: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker would find out, and each shard be quarantined."""
    for stage in transcode_stages(dataset=dataset, out=tmp_path, codec="fast"):
        run_stage(stage, executor="local", progress=False)
    monkeypatch.setitem(sys.modules, "numcodecs", None)
    monkeypatch.setattr(_audio_fast, "_blosc", _audio_fast._blosc.__wrapped__)
    with pytest.raises(UsageError, match="pip install"):
        label(tmp_path, f"beats={checkpoint}", labels="new")
    assert not Dataset.open(tmp_path).labels_folder("strong", "new").exists()


def test_the_local_executor_joins_no_ray(dataset: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["label", "--dataset", str(dataset), "--split", "strong", "--teacher", f"beats={checkpoint}"]
    command += ["--labels", "tiny", "--executor", "local"]
    assert main([*command, "--ray-address", "127.0.0.1:1"]) == 2
    assert "--ray-address is for --executor ray" in capsys.readouterr().err


def test_a_damaged_clip_costs_that_clip(tmp_path: Path, checkpoint: Path) -> None:
    dataset = packed(tmp_path, clips=3)
    (audio,) = Dataset.open(dataset).audio_shards("strong", AudioSpec().name)
    whole = audio.tar_path.read_bytes()
    damaged = bytearray(whole)
    damaged[audio.clips.offset[1] + 100] ^= 4
    audio.tar_path.write_bytes(damaged)
    report = label(dataset, f"beats={checkpoint}")
    assert (report.stored, report.rejected, report.exit_code) == (2, {"unreadable_audio": 1}, 0)
    assert [rejection.key for rejection in report.rejections] == [audio.clips.key[1]]
    again = label(dataset, f"beats={checkpoint}")
    assert (again.shards_done_now, again.stored) == (1, 2)
    audio.tar_path.write_bytes(whole)
    restored = label(dataset, f"beats={checkpoint}")
    assert (restored.shards_done_now, restored.stored, restored.rejected) == (1, 3, {})
    assert label(dataset, f"beats={checkpoint}").shards_done_now == 0
    assert verify(dataset) == ()


def test_a_teacher_of_the_users_own_that_gives_nan_fails_those_clips_by_name(dataset: Path) -> None:
    teacher = f"{LevelTeacher.__module__}:{LevelTeacher.__qualname__}=unused"
    report = label(dataset, teacher, labels="level")
    opened = Dataset.open(dataset)
    loud = set()
    for audio in opened.audio_shards("strong", AudioSpec().name):
        with AudioReader(audio) as reader:
            for row, key in enumerate(audio.clips.key):
                energy = np.sum((reader.read(row) / 32768.0) ** 2) / 160_000
                if 10 * np.log10(energy) > LevelTeacher.LOUD_DB:
                    loud.add(key)
    assert 0 < len(loud) < 6, "the example should have loud and quiet clips"
    assert report.rejected == {"not_finite": len(loud)}
    assert {rejection.key for rejection in report.rejections} == loud
    assert report.stored + len(loud) == report.clips == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "hard_strong"}, "choose another name"),
        ({"labels": "../x"}, "names are made of"),
        ({"split": "eval"}, "pack"),
        ({"dataset": Path("relative")}, "absolute path"),
        ({"audio": "mono-32000hz-10000ms"}, "pack"),
        ({"audio": "stereo"}, "no such audio set; it has mono-16000hz-10000ms"),
        ({"batch_size": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
        ({"device": "cuda:1"}, "needs 'cuda'"),
        ({"codec": "mp3"}, "label codec is 'mp3'"),
    ],
)
def test_wrong_use_is_an_error_before_any_work(
    dataset: Path, checkpoint: Path, options: dict[str, object], message: str
) -> None:
    teacher = LabellerChoice.of(f"beats={checkpoint}")
    arguments = {"dataset": dataset, "split": "strong", "labels": "x", "teacher": teacher}
    with pytest.raises(UsageError, match=message):
        label_stage(**{**arguments, **options})


@pytest.mark.parametrize("options", [("--executor", "local"), ("--ray-address", "local"), ()])
def test_a_gpu_that_is_not_here_is_an_error_before_anything_is_written(
    dataset: Path, checkpoint: Path, options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("RAY_ADDRESS", "")
    arguments = ["label", "--dataset", str(dataset), "--split", "strong", "--labels", "on_gpu", "--device", "cuda"]
    assert main([*arguments, "--teacher", f"beats={checkpoint}", *options]) == 2
    assert "PyTorch sees no CUDA device here" in capsys.readouterr().err
    assert not Dataset.open(dataset).labels_folder("strong", "on_gpu").exists()


def test_the_driver_needs_no_gpu_for_workers_that_have_one(dataset: Path, checkpoint: Path) -> None:
    teacher = LabellerChoice.of(f"beats={checkpoint}")
    arguments = {"dataset": dataset, "split": "strong", "labels": "x", "teacher": teacher}
    on_cpu, on_gpu = (label_stage(**arguments, device=device) for device in ("cpu", "cuda"))
    assert (on_cpu.gpus, on_gpu.gpus) == (0.0, 1.0)
    assert on_gpu.config.provenance == on_cpu.config.provenance
    with pytest.raises(TeacherError, match="device 'gpu'"):
        label_stage(**arguments, device="gpu")


def test_the_script_run_directly_gives_the_same_bytes_and_says_what_is_wrong(dataset: Path, checkpoint: Path) -> None:
    label(dataset, f"beats={checkpoint}")
    script = [sys.executable, "teachers/label_strong.py", "--teacher", f"beats={checkpoint}", "--labels", "script"]
    script += ["--device", "cpu"]
    done = subprocess.run(
        [*script, "--dataset", str(dataset), "--executor", "local"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert label_bytes(dataset, "script") == label_bytes(dataset)
    report = json.loads((Dataset.open(dataset).labels_folder("strong", "script") / "report.json").read_text())
    assert report["clips"] == report["stored"] == 6
    wrong = subprocess.run([*script, "--dataset", "relative"], cwd=REPOSITORY, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1, wrong.stderr
    assert "absolute path" in wrong.stderr


def test_a_cut_off_tar_is_a_quarantined_shard_and_the_others_go_on(tmp_path: Path, checkpoint: Path) -> None:
    dataset = packed(tmp_path, clips=6)
    first, _ = Dataset.open(dataset).audio_shards("strong", AudioSpec().name)
    content = first.tar_path.read_bytes()
    first.tar_path.write_bytes(content[: len(content) // 2])
    report = label(dataset, f"beats={checkpoint}")
    assert (report.stored, report.not_done, report.exit_code) == (3, 3, 1)
    assert [entry.shard for entry in report.quarantined] == [0]
    first.tar_path.write_bytes(content)
    report = label(dataset, f"beats={checkpoint}")
    assert (report.stored, report.not_done, report.exit_code) == (6, 0, 0)


def test_a_label_tar_that_was_cut_off_is_named_not_taken_for_done(tmp_path: Path, checkpoint: Path) -> None:
    dataset = packed(tmp_path, clips=3)
    label(dataset, f"beats={checkpoint}")
    whole = label_bytes(dataset)
    tar = Dataset.open(dataset).labels_folder("strong", "tiny") / "000000.tar"
    tar.write_bytes(tar.read_bytes()[:1_000])
    with pytest.raises(IntegrityError, match=r"000000.tar: has 1000 bytes.*delete 000000.json"):
        label(dataset, f"beats={checkpoint}")
    tar.with_suffix(".json").unlink()
    assert label(dataset, f"beats={checkpoint}").exit_code == 0
    assert label_bytes(dataset) == whole


@pytest.mark.campaign
def test_killed_at_random_moments_it_ends_with_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, checkpoint: Path, campaign: int
) -> None:
    dataset = packed(tmp_path, clips=8, clips_per_shard=1)
    label(dataset, f"beats={checkpoint}", labels="whole")
    command = [sys.executable, "teachers/label_strong.py", "--dataset", str(dataset), "--executor", "local"]
    command += ["--teacher", f"beats={checkpoint}", "--labels", "killed", "--device", "cpu"]
    folder = Dataset.open(dataset).labels_folder("strong", "killed")
    rng = np.random.default_rng(11)
    for kill in range(campaign // 1000 or 1):  # each takes two runs of some seconds
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        wanted = folder / f"{int(rng.integers(0, 7)):06d}.json"
        while not wanted.exists():
            assert process.poll() is None, f"run {kill} ended before shard {wanted.name}"
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=False).returncode == 0
        assert label_bytes(dataset, "killed") == label_bytes(dataset, "whole")
        shutil.rmtree(folder)
