"""What a run labels with, as the command line says it: parsed, recorded, opened; long recordings from end to end."""

import argparse
import json
import pickle
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import AudioSpec, TeacherError, UsageError
from sed_distill.cli import main
from shards import AudioReader, Dataset, LabelReader, evaluation_batches, read_commands, verify
from teachers import (
    Chunked,
    Ensemble,
    LabellerChoice,
    TeacherChoice,
    Windows,
    add_labeller_arguments,
    label_recording,
    load_teacher,
)
from teachers._catalogue import DEMO_CHECKPOINT
from teachers._ensemble import AVERAGES
from teachers._teacher import TARGETS
from teachers.families._parts import PRECISIONS
from tests.teachers.labelling_examples import packed, tiny_beats
from tests.teachers.simple_teachers import Linear

RATE = 16_000


def parsed(*words: str) -> LabellerChoice:
    parser = argparse.ArgumentParser()
    add_labeller_arguments(parser)
    return LabellerChoice.parse(parser.parse_args(words))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return [tiny_beats(folder / f"{seed}.pt", seed=seed) for seed in range(3)]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--average", "probability"),
        ("--weights", "1", "0.1"),
        ("--mixed-protocols",),
        ("--precision", "bfloat16"),
        ("--context-ms", "4000"),
        ("--target", "clip"),
        ("--average", "probability", "--weights", "3.5", "1e-05", "--precision", "float16", "--context-ms", "2000"),
    ],
)
def test_the_arguments_it_records_give_the_same_choice(options: tuple[str, ...]) -> None:
    choice = parsed("--teacher", "beats=/models/a.pt", "--teacher", "beats=/models/b.pt", *options)
    assert choice.teachers == (TeacherChoice.parse("beats=/models/a.pt"), TeacherChoice.parse("beats=/models/b.pt"))
    assert parsed(*choice.arguments) == choice
    assert len(choice.arguments) == 4 + len(options), "what is as by default is left out"
    assert pickle.loads(pickle.dumps(choice)) == choice
    assert len(pickle.dumps(choice)) < 2_000
    assert choice.text == "beats=/models/a.pt + beats=/models/b.pt"


def test_every_option_reaches_the_choice() -> None:
    choice = parsed(
        "--teacher", "demo", "--teacher", "beats=/b.pt", "--average", "probability", "--weights", "2", "1",
        "--mixed-protocols", "--precision", "float16", "--context-ms", "5000", "--target", "clip",
    )  # fmt: skip
    assert choice == LabellerChoice(
        teachers=(TeacherChoice.parse("demo"), TeacherChoice.parse("beats=/b.pt")), average="probability",
        weights=(2.0, 1.0), mixed_protocols=True, precision="float16", context_ms=5_000, target="clip",
    )  # fmt: skip


def test_the_command_line_offers_what_there_is() -> None:
    """It is read without loading torch, so it has words of its own."""
    parser = argparse.ArgumentParser()
    add_labeller_arguments(parser)
    offered = {action.dest: action.choices for action in parser._actions if action.choices}
    assert offered == {"average": AVERAGES, "precision": tuple(PRECISIONS), "target": TARGETS}


@pytest.mark.parametrize(
    ("teachers", "options", "reason"),
    [
        ([], {}, "no --teacher is given"),
        (["demo", "demo"], {}, "--teacher demo is given 2 times.*--weights"),
        (["beats=/a.pt"], {"weights": (1.0,)}, "--weights is for several teachers"),
        (["beats=/a.pt"], {"average": "probability"}, "--average is for several teachers"),
        (["beats=/a.pt"], {"precision": "float8"}, "--precision is 'float8', needs one of float32, bfloat16, float16"),
        (["beats=/a.pt"], {"mixed_protocols": True}, "--mixed-protocols is for several teachers"),
        (["beats=/a.pt", "demo"], {"weights": (1.0,)}, "--weights has 1 values for 2 teachers"),
        (["beats=/a.pt", "demo"], {"average": "median"}, "--average is 'median', needs one of logit, probability"),
        (["demo"], {"target": "frames"}, "--target is 'frames', needs one of frame, clip"),
        (["beets"], {}, "--teacher is 'beets'"),
    ],
)
def test_choices_that_mean_nothing_are_refused(teachers: list[str], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        LabellerChoice.of(teachers, **options)


def test_opens_what_was_chosen(checkpoints: list[Path]) -> None:
    one, *_ = texts = [f"beats={path}" for path in checkpoints]
    own, minute = AudioSpec(), AudioSpec(clip_ms=60_000)
    single = LabellerChoice.of(one).open("cpu")
    assert single.provenance == load_teacher("beats", checkpoint=checkpoints[0]).provenance
    assert LabellerChoice.of(one).open("cpu", own).provenance == single.provenance
    assert LabellerChoice.of(one, context_ms=10_000).open("cpu", own).provenance == single.provenance
    ensemble = LabellerChoice.of(texts, average="probability", weights=(1.0, 2.0, 3.0)).open("cpu")
    assert isinstance(ensemble, Ensemble)
    assert ensemble.provenance["weights"] == [1.0, 2.0, 3.0]
    assert [m["checkpoint_sha256"] for m in ensemble.provenance["members"]] == [
        load_teacher("beats", checkpoint=path).provenance["checkpoint_sha256"] for path in checkpoints
    ]
    chunked = LabellerChoice.of(texts, context_ms=4_000).open("cpu", own)
    assert isinstance(chunked, Chunked)
    assert isinstance(chunked.teacher, Ensemble)
    assert (chunked.context_ms, chunked.audio_spec) == (4_000, own)
    windows = LabellerChoice.of(one).open("cpu", minute)
    assert isinstance(windows, Windows)
    assert (windows.context_ms, windows.audio_spec) == (10_000, minute)
    whole = LabellerChoice.of(one, context_ms=10_000).open("cpu", minute)
    assert isinstance(whole, Chunked)
    assert (whole.context_ms, whole.audio_spec) == (10_000, minute)
    half = LabellerChoice.of(texts, precision="bfloat16", context_ms=2_000).open("cpu", minute)
    assert half.provenance["precision"] == "bfloat16"
    assert {leaf.provenance["precision"] for leaf in half.leaves} == {"bfloat16"}


def test_clip_logits_are_of_whole_clips_with_a_head(checkpoints: list[Path]) -> None:
    choice = LabellerChoice.of(f"beats={checkpoints[0]}", target="clip")
    assert choice.open("cpu").has_clip_logits
    minute = AudioSpec(clip_ms=60_000)
    long = "needs clips of 10 s, these are 60 s; pack them with --clip-ms 10000, or leave out --target"
    for spec, context, reason in (
        (minute, None, long), (minute, 4_000, long),
        (AudioSpec(), 4_000, "leave out --context-ms: a chunk is not the clip"),
    ):  # fmt: skip
        other = LabellerChoice(teachers=choice.teachers, target="clip", context_ms=context)
        with pytest.raises(UsageError, match=f"^--target clip: {reason}$"):
            other.open("cpu", spec)
    assert LabellerChoice(teachers=choice.teachers, target="clip", context_ms=10_000).open("cpu").has_clip_logits
    both = ("tests.teachers.test_labeller:many_classes", "tests.teachers.test_labeller:headless")
    with pytest.raises(UsageError, match=r"^--target clip: teacher headless has no clip-level head"):
        LabellerChoice.of(both, target="clip").open("cpu")


def headless(path: Path | None, device: torch.device) -> Linear:
    return Linear([1.0] * 447, name="headless", clip_head=False)


def test_a_copy_of_a_checkpoint_is_the_same_teacher(checkpoints: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.pt"
    shutil.copy(checkpoints[0], copy)
    texts = [f"beats={path}" for path in (*checkpoints[:2], copy)]
    with pytest.raises(UsageError, match=f"^--teacher {texts[2]} is the same checkpoint as {texts[0]}; .* --weights$"):
        LabellerChoice.of(texts).open("cpu")
    # without a file nothing tells two of the user's own apart but what they say of themselves
    own = ("tests.teachers.test_labeller:many_classes", "tests.teachers.test_labeller:as_many")
    assert len(LabellerChoice.of(own).open("cpu").leaves) == 2


def test_classes_that_an_ensemble_leaves_out_are_told_of() -> None:
    few, many = "tests.teachers.test_labeller:few_classes", "tests.teachers.test_labeller:many_classes"
    told: list[str] = []
    assert len(LabellerChoice.of((few, many)).open("cpu", say=told.append).vocabulary) == 2
    assert told == [f"classes that are left out: 445 of {many}; the first teacher, {few}, has 2"]
    LabellerChoice.of((many, few), mixed_protocols=True).open("cpu", say=told.append)
    assert len(told) == 1


def few_classes(path: Path | None, device: torch.device) -> Linear:
    return Linear([1.0] * 2)


def as_many(path: Path | None, device: torch.device) -> Linear:
    return many_classes(path, device)


def test_what_cannot_be_heard_is_refused(checkpoints: list[Path]) -> None:
    choice = LabellerChoice.of(f"beats={checkpoints[0]}")
    for spec in (AudioSpec(sample_rate=32_000), AudioSpec(layout="foa"), AudioSpec(sample_rate=8_000, clip_ms=60_000)):
        with pytest.raises(TeacherError, match=f"hears mono at 16000 Hz, the clips are {spec.name}"):
            choice.open("cpu", spec)
    with pytest.raises(TeacherError, match="not made for contexts of 3000 ms"):
        LabellerChoice(teachers=choice.teachers, context_ms=3_000).open("cpu")


def test_clips_too_long_for_one_label_are_refused_before_anything_runs() -> None:
    choice = LabellerChoice.of("tests.teachers.test_labeller:many_classes")
    assert choice.open("cpu", AudioSpec(clip_ms=1_500_000)).frames == 37_500
    for context_ms in (None, 4_000):
        long = LabellerChoice(teachers=choice.teachers, context_ms=context_ms)
        with pytest.raises(UsageError, match=r"shape \(447, 45000\) has more than 16777216 values.*--long split"):
            long.open("cpu", AudioSpec(clip_ms=1_800_000))


def many_classes(path: Path | None, device: torch.device) -> Linear:
    return Linear([1.0] * 447)


def recording(path: Path, seconds: float, seed: int) -> None:
    """Tone bursts in noise as a 16-bit wav."""
    rng = np.random.default_rng([seed, 7])
    time = np.arange(int(seconds * RATE)) / RATE
    burst = np.sin(2 * np.pi * (400 + 300 * seed) * time) * (np.sin(2 * np.pi * 0.15 * time) > 0.4)
    samples = 0.3 * burst + 0.02 * rng.standard_normal(len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@pytest.mark.skipif(not DEMO_CHECKPOINT.is_file(), reason="the demo teacher's checkpoint is not in this checkout")
def test_long_recordings_from_file_to_label(tmp_path: Path) -> None:
    recording(tmp_path / "recordings" / "street.wav", 100.3, seed=1)
    recording(tmp_path / "recordings" / "door.wav", 4.5, seed=2)
    dataset = str(tmp_path / "dataset")
    pack = ["pack", "--dataset", dataset, "--split", "weak", "--folder", str(tmp_path / "recordings"), "--keys", "path"]
    run = ["--executor", "local"]
    assert main([*pack, "--clip-ms", "60000", "--long", "split", *run]) == 0
    label = ["label", "--dataset", dataset, "--split", "weak", "--teacher", "demo", *run]
    assert main([*label, "--labels", "windows", "--codec", "master"]) == 0
    assert main([*label, "--labels", "chunks", "--codec", "master", "--context-ms", "4000", "--batch-size", "2"]) == 0
    assert main([*label, "--labels", "small", "--codec", "small"]) == 0
    assert verify(tmp_path / "dataset") == ()
    teacher = load_teacher("beats", checkpoint=DEMO_CHECKPOINT)
    opened, spec = Dataset.open(tmp_path / "dataset"), AudioSpec(clip_ms=60_000)
    (audio,) = opened.audio_shards("weak", spec.name)
    assert sorted(audio.clips.samples) == [72_000, 644_800, 960_000]
    (windows,), (chunks,), (small,) = (opened.label_shards("weak", name) for name in ("windows", "chunks", "small"))
    assert windows.target.shape == chunks.target.shape == (len(teacher.vocabulary), 1500)
    assert (windows.target.context_ms, chunks.target.context_ms) == (10_000, 4_000)
    assert windows.provenance["teacher"]["window_ms"] == 10_000
    assert json.loads(json.dumps(chunks.provenance))["teacher"]["chunk_ms"] == 4_000
    with (
        AudioReader(audio) as clips, LabelReader(windows) as in_windows, LabelReader(chunks) as in_chunks,
        LabelReader(small) as coded,
    ):  # fmt: skip
        for row, samples in enumerate(audio.clips.samples):
            waveform = torch.from_numpy(clips.read(row).astype(np.float32) / 32768)
            frames = -(-samples // 640)
            expected = label_recording(teacher, waveform).numpy()
            stored = in_windows.read(row)
            np.testing.assert_allclose(stored[:, :frames], expected, atol=0.01, rtol=1e-3)  # float16
            assert (stored[:, frames:] == -24).all()
            probabilities = [1 / (1 + np.exp(-logits)) for logits in (coded.read(row), stored)]
            np.testing.assert_allclose(*probabilities, atol=0.0045, rtol=0)
            chunked = in_chunks.read(row)
            for start in range(0, frames, 100):
                piece = torch.zeros(1, 64_000)
                heard = waveform[640 * start : 640 * start + 64_000]
                piece[0, : len(heard)] = heard
                with torch.inference_mode():
                    said = teacher._frame_logits(teacher.front_end.compute(piece), 100)[0].numpy()
                width = min(100, frames - start)
                here = chunked[:, start : start + width]
                np.testing.assert_allclose(here, said[:, :width], atol=0.01, rtol=1e-3)
            assert (chunked[:, frames:] == -24).all()
    (batch,) = evaluation_batches(
        tmp_path / "dataset", "weak", 3, vocabulary=teacher.vocabulary, labels=("windows",), audio=spec.name
    )
    assert batch.targets["windows"].shape == (3, len(teacher.vocabulary), 1500)
    assert sorted(batch.valid_frames.tolist()) == [113, 1008, 1500]


def test_an_ensemble_from_the_command_line_to_the_label(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = packed(tmp_path, clips=3)
    label = ["label", "--dataset", str(dataset), "--split", "strong", "--labels", "three", "--codec", "master"]
    teachers = [word for path in checkpoints for word in ("--teacher", f"beats={path}")]
    how = ["--average", "probability", "--weights", "1", "2", "0.5"]
    assert main([*label, *teachers, *how, "--executor", "local"]) == 0
    assert verify(dataset) == ()
    members = [load_teacher("beats", checkpoint=path) for path in checkpoints]
    opened = Dataset.open(dataset)
    (audio,), (labels,) = opened.audio_shards("strong", AudioSpec().name), opened.label_shards("strong", "three")
    with AudioReader(audio) as clips, LabelReader(labels) as stored:
        for row in range(3):
            waveform = torch.zeros(1, 160_000)
            pcm = clips.read(row)
            waveform[0, : len(pcm)] = torch.from_numpy(pcm.astype(np.float32) / 32768)
            said = [member.frame_logits(waveform)[0].double().sigmoid() for member in members]
            mean = (1 * said[0] + 2 * said[1] + 0.5 * said[2]) / 3.5
            torch.testing.assert_close(
                torch.from_numpy(stored.read(row)), mean.logit().float(), atol=0.003, rtol=1e-3
            )  # float16
    (command,) = read_commands(opened.labels_folder("strong", "three"))
    assert command.arguments[-len(teachers) - len(how) :] == (*teachers, *how[:3], "1.0", "2.0", "0.5")
    other = ["--weights", "1", "2", "1"]
    assert main([*label, *teachers, *other, "--executor", "local"]) == 2
    assert "was labelled otherwise than this run would" in capsys.readouterr().err
