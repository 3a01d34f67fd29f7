"""`sed-distill report` against brute force on the same files, and what it refuses."""

import base64
import html
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sed_distill._label_report_facts as report_facts
import sed_distill._label_report_psds as report_psds
from pipeline import AudioSpec, Event, TargetSpec, Vocabulary, ancestors, read_hard, waveform_into
from sed_distill._label_report_clips import disputed_clips, disputes
from sed_distill._label_report_set import open_labels
from sed_distill._label_report_tally import Disputes, Ranking, steps
from sed_distill.cli import main
from shards import AudioReader, AudioShardWriter, Dataset, LabelReader, LabelShardWriter, LabelSidecar, join_hard
from students import median_filter, psds1, psds1_ceiling
from teachers import TeacherChoice
from tests.shards.http_store import http_store
from tests.shards.small_dataset import MIDS, TEACHER, VOCABULARY, BruteForce, Truth, write_split
from tests.teachers.labelling_examples import packed

STEP = 1 / 128  # of a logit, within which clips count as equal
CLIPS = 60


def report(root: Path | str, split: str, out: Path, *options: object, code: int = 0) -> dict[str, Any]:
    """What report.json says."""
    assert main(["report", str(root), "--split", split, "--out", str(out), *map(str, options)]) == code
    return json.loads((out / "report.json").read_text()) if (out / "report.json").exists() else {}


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """Labels that have nothing to do with what people said, in shards that interleave the keys."""
    root = tmp_path_factory.mktemp("noise")
    return root, write_split(Dataset.create(root, keys="audioset"), "strong", 45, seed=5, fail=(3, 9, 20))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Soundscapes labelled by the demo teacher, which is good at them."""
    root = packed(tmp_path_factory.mktemp("labelled"), split="eval", clips=CLIPS, clips_per_shard=25)
    teacher = TeacherChoice.parse("demo").open("cpu")
    dataset = Dataset(root)
    for shard in dataset.audio_shards("eval", AudioSpec().name):
        with AudioReader(shard) as reader, LabelShardWriter(
            dataset.labels_folder("eval", "demo"), shard, target=teacher.target, codec="master",
            provenance={"teacher": dict(teacher.provenance)},
        ) as writer:  # fmt: skip
            for row, key in enumerate(shard.clips.key):
                waveform = np.zeros((1, AudioSpec().max_samples), np.float32)
                waveform_into(waveform[0], reader.read(row))
                writer.add(key, teacher.frame_logits(torch.from_numpy(waveform))[0].numpy())
            writer.commit()
    return root


@pytest.fixture(scope="module")
def told(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("told")
    return report(labelled, "eval", out, "--labels", "demo"), out


def copied(root: Path, name: str, change: Any, provenance: object = None) -> None:
    """A label set beside `demo`, of `change(labels)`."""
    dataset = Dataset(root)
    audio = dataset.audio_shards("eval", AudioSpec().name)
    for shard, side in zip(dataset.label_shards("eval", "demo"), audio, strict=True):
        with LabelReader(shard) as reader, LabelShardWriter(
            dataset.labels_folder("eval", name), side, target=shard.target, provenance=provenance or {"made": name},
            codec="npy",
        ) as writer:  # fmt: skip
            for row, key in enumerate(shard.clips.key):
                writer.add(key, change(reader.read(row)))
            writer.commit()


def brute_auc(given: list[float], others: list[float]) -> float:
    return float(np.mean([(a > b) + (a == b) / 2 for a in given for b in others]))


def brute_ap(given: list[float], others: list[float]) -> float:
    """The area under precision against recall, a step at every different value."""
    area, found = 0.0, 0
    for threshold in sorted({*given, *others}, reverse=True):
        hits, false = sum(a >= threshold for a in given), sum(b >= threshold for b in others)
        area += (hits - found) / len(given) * hits / (hits + false)
        found = hits
    return area


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.booleans()), min_size=1, max_size=25))
def test_auc_and_average_precision_are_those_of_all_pairs_and_all_thresholds(clips: list[tuple[int, bool]]) -> None:
    ranking = Ranking(Vocabulary(("/m/a", "/m/b"), ("a", "b")), frozenset({"/m/a"}))
    for logit, is_given in clips:
        p = np.float32(1 / (1 + np.exp(-logit)))
        ranking.add(steps(np.array([p, p])), np.array([0, 1] if is_given else [], np.int64))
    given, others = ([float(logit) for logit, mine in clips if mine is wanted] for wanted in (True, False))
    if given and others:
        assert ranking.auc()[0] == pytest.approx(brute_auc(given, others), abs=1e-12)
        assert ranking.average_precision()[0] == pytest.approx(brute_ap(given, others), abs=1e-12)
    else:
        assert np.isnan(ranking.auc()[0])
        assert np.isnan(ranking.average_precision()[0])
    assert np.isnan(ranking.auc()[1]), "people could not choose this class"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2))
def test_steps_keep_the_order_and_part_what_differs_by_more_than_one(pair: list[float]) -> None:
    low, high = sorted(pair)
    first, second = steps(np.array([low, high], np.float32))
    assert first <= second
    if low > 2e-7 and high < 1 - 2e-7:
        apart = np.log(high / (1 - high)) - np.log(low / (1 - low))
        assert (second > first) or apart <= STEP * 1.01


@pytest.mark.parametrize("labels", ["frames", "clip"])
def test_figures_are_those_of_the_files(noise: tuple[Path, Truth], labels: str, tmp_path: Path) -> None:
    root, truth = noise
    told = report(root, "strong", tmp_path, "--labels", labels, code=1)
    (of_set,) = told["label_sets"]
    brute = BruteForce(root, "strong", truth, audioset=True)
    classes = TEACHER if labels == "frames" else VOCABULARY
    label = {}
    for key, values in brute.labels[labels].items():
        valid = (
            values.astype(np.float64)[:, : brute.row(key)["valid_frames"]] if labels == "frames" else values[:, None]
        )
        label[key] = 1 / (1 + np.exp(-valid)) if labels == "frames" else valid.astype(np.float64)
    assert of_set["coverage"] == {
        "clips": 45, "labelled": 42, "failed": 3, "missing": 0, "other_audio": 0, "elsewhere": 0,
        "reasons": {"not_finite": 3},
    }  # fmt: skip
    every = np.concatenate(list(label.values()), axis=1)
    assert of_set["probability"]["frames"] == every.shape[1]
    assert of_set["probability"]["mean"] == pytest.approx(every.mean(), rel=1e-5)
    strong = {key: {event.mid for event in events} for key, events in truth.events.items()}
    aucs = []
    for column, row in enumerate(of_set["per_class"]):
        mid = classes.mids[column]
        highest = {key: values[column].max() for key, values in label.items()}
        assert (row["mid"], row["name"]) == (mid, classes.names[column])
        assert row["mean"] == pytest.approx(every[column].mean(), rel=1e-5)
        assert row["highest"] == pytest.approx(max(highest.values()), rel=1e-6)
        assert row["mean_highest"] == pytest.approx(np.mean(list(highest.values())), rel=1e-5)
        assert row["clips_from_half"] == sum(p >= 0.5 for p in highest.values())
        for kind, people, offered in (
            ("weak", truth.weak, brute.weak_classes), ("strong", strong, brute.strong_classes)
        ):  # fmt: skip
            if mid not in offered:
                assert row[f"{kind}_clips"] is row[f"{kind}_auc"] is None
                continue
            given = [p for key, p in highest.items() if key in people and mid in people[key]]
            others = [p for key, p in highest.items() if key in people and mid not in people[key]]
            assert row[f"{kind}_clips"] == len(given)
            assert row[f"{kind}_auc"] == pytest.approx(brute_auc(given, others), abs=0.005)
            assert row[f"{kind}_ap"] == pytest.approx(brute_ap(given, others), abs=0.02)
            aucs += [(kind, row[f"{kind}_auc"], row[f"{kind}_ap"])]
    for kind in ("weak", "strong"):
        means = np.mean([measured for which, *measured in aucs if which == kind], axis=0)
        assert (of_set[kind]["auc"], of_set[kind]["map"]) == pytest.approx(tuple(means))


def test_disputes_are_the_clips_that_differ_most(noise: tuple[Path, Truth], tmp_path: Path) -> None:
    root, truth = noise
    told = report(root, "strong", tmp_path, "--labels", "clip", "--clips", 50, code=1)
    brute = BruteForce(root, "strong", truth, audioset=True)
    found: dict[tuple[str, str], tuple[float, str]] = {}
    for key, values in brute.labels["clip"].items():
        weak = set(truth.weak.get(key, ()))
        events = {event.mid for event in truth.events.get(key, ())}
        people, offered = (events, brute.strong_classes) if key in truth.events else (weak, brute.weak_classes)
        if key not in truth.events and key not in truth.weak:
            continue
        for mid, p in zip(MIDS, values.astype(float), strict=True):
            if mid in people:
                found["missed", mid] = min(found.get(("missed", mid), (np.inf, "")), (p, key))
            related = any(mid in ancestors(other) or other in ancestors(mid) for other in people | weak)
            if mid in offered and not related:
                found["unheard", mid] = max(found.get(("unheard", mid), (-np.inf, "")), (p, key))
    wanted = {
        (kind, mid, key): p for (kind, mid), (p, key) in found.items() if (p >= 0.5) == (kind == "unheard")
    }  # fmt: skip
    got = {(d["kind"], d["mid"], d["key"]): d["probability"] for d in told["disputes"]}
    assert got
    assert all(wanted[what] == pytest.approx(p) for what, p in got.items())
    for kind in ("missed", "unheard"):
        of_kind = [d for d in told["disputes"] if d["kind"] == kind]
        keys = [d["key"] for d in of_kind]
        assert len(set(keys)) == len(keys)
        assert set(keys) == {key for which, _, key in wanted if which == kind}
        clearest = [d["probability"] for d in of_kind]
        assert clearest == sorted(clearest, reverse=kind == "unheard")


@pytest.mark.parametrize("named", ["/m/0k4j", "/m/07yv9"])
def test_a_car_is_a_vehicle_and_a_vehicle_may_be_a_car(named: str) -> None:
    found = Disputes(Vocabulary(("/m/07yv9", "/m/0k4j", "/m/09x0r"), ("Vehicle", "Car", "Speech")))
    given = np.flatnonzero(np.array(found._mids) == named)
    found.add(0, np.full(3, 0.9, np.float32), given, np.ones(3, np.bool_), [named])
    assert found.unheard_row.tolist() == [-1, -1, 0]


def test_a_clip_and_a_class_are_shown_once() -> None:
    """Two sets that agree on what is wrong, and two classes at their worst on one clip."""
    one, two = Disputes(VOCABULARY), Disputes(VOCABULARY)
    for of_set in (one, two):
        of_set.missed_p[:4], of_set.missed_row[:4] = (0.3, 0.1, 0.2, 0.7), (0, 1, 1, 2)
        of_set.unheard_p[4:], of_set.unheard_row[4:] = (0.9, 0.4), (2, 0)
    two.missed_p[1], two.missed_row[1] = 0.15, 0
    index = SimpleNamespace(key=pa.array(["a", "b", "c"]))
    facts = [
        SimpleNamespace(
            tally=SimpleNamespace(disputes=of_set),
            labels=SimpleNamespace(name=name, index=index, target=SimpleNamespace(classes=VOCABULARY)),
        )
        for name, of_set in (("one", one), ("two", two))
    ]
    shown = disputes(facts, 9)  # type: ignore[arg-type]
    assert [(d.kind, d.key, d.mid) for d in shown] == [
        ("missed", "b", MIDS[1]), ("missed", "a", MIDS[0]), ("unheard", "c", MIDS[4]),
    ]  # fmt: skip
    assert [d.key for d in disputes(facts, 1)] == ["b", "c"]  # type: ignore[arg-type]


def test_the_sample_is_of_clips_that_people_labelled(
    noise: tuple[Path, Truth], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, truth = noise
    labels = open_labels(Dataset(root), "strong", "clip")
    hard = join_hard(Dataset(root), "strong", labels.index.key)
    known = {*truth.weak, *truth.events}
    monkeypatch.setattr(report_facts, "AGREEMENT_CLIPS", len(known) - 3)  # the failed ones
    chosen = [labels.index.key[row].as_py() for row in report_facts._sample(hard, labels.rows)]
    assert 0 < len(chosen) < len(labels.rows)
    assert set(chosen) <= known


def truth_of_eval(root: Path) -> tuple[LabelSidecar, ...]:
    return Dataset(root).label_shards("eval", "demo")


def test_psds1_is_that_of_students_whatever_the_block(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, probs, seconds = [], [], []
    for side in truth_of_eval(labelled):
        with LabelReader(side) as reader:
            for row, key in enumerate(side.clips.key):
                p = (1 / (1 + np.exp(-reader.read(row).astype(np.float64)))).astype(np.float32)
                silent = np.arange(250) >= -(-side.clips.samples[row] // 640)
                probs.append((p, silent))
                keys.append(key)
                seconds.append(side.clips.samples[row] / 16_000)
    hard = {row["key"]: row for row in read_hard(Dataset(labelled).hard_path("eval")).to_pylist()}
    events = [[Event(e["onset_ms"], e["offset_ms"], e["mid"]) for e in hard[key]["events"]] for key in keys]
    classes = truth_of_eval(labelled)[0].target.classes
    filtered = median_filter(np.stack([np.where(silent, -np.inf, p) for p, silent in probs]), 9)
    filtered[np.stack([np.broadcast_to(silent, p.shape) for p, silent in probs])] = -np.inf
    expected = psds1(filtered, events, seconds, classes)
    for block_bytes in (4 * 250 * CLIPS * 7, 1 << 30):
        monkeypatch.setattr(report_psds, "BLOCK_BYTES", block_bytes)
        (of_set,) = report(labelled, "eval", tmp_path, "--labels", "demo", "--clips", 0)["label_sets"]
        assert of_set["psds1"]["mean"] == pytest.approx(expected.mean, abs=1e-9)
        assert [row["psds1"] for row in of_set["per_class"]] == [
            None if np.isnan(value) else pytest.approx(value, abs=1e-9) for value in expected.per_class
        ]
        ceiling = psds1_ceiling(events, seconds, classes, median_frames=9).mean
        assert of_set["psds1"]["ceiling"] == pytest.approx(ceiling)
        assert (of_set["psds1"]["clips"], of_set["psds1"]["of_clips"]) == (CLIPS, CLIPS)


def test_a_sample_is_called_one(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report_psds, "MOST_CLIPS", 40)
    monkeypatch.setattr(report_facts, "AGREEMENT_CLIPS", 50)
    (of_set,) = report(labelled, "eval", tmp_path, "--labels", "demo", "--clips", 0)["label_sets"]
    assert (of_set["psds1"]["clips"], of_set["psds1"]["of_clips"]) == (40, CLIPS)
    assert (of_set["agreement"]["clips"], of_set["weak"]["clips"]) == (50, CLIPS)
    said = " ".join(capsys.readouterr().out.split())
    assert f"40 clips, drawn out of {CLIPS}" in said
    assert "over 50 clips" in said


def test_good_labels_pass(told: tuple[dict[str, Any], Path]) -> None:
    (of_set,) = told[0]["label_sets"]
    assert of_set["agreement"]["problem"] == ""
    assert of_set["weak"]["auc"] > 0.9


def test_columns_in_another_order_are_refused(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(labelled, "turned", lambda values: np.roll(values, 5, axis=0))
    told = report(labelled, "eval", tmp_path, "--labels", "demo", "turned", "--clips", 0, code=1)
    good, turned = told["label_sets"]
    assert (good["agreement"]["problem"], turned["labels"]) == ("", "turned")
    assert "columns" in turned["agreement"]["problem"]
    said = capsys.readouterr().err.splitlines()
    (error,) = [line for line in said if line.startswith("error")]
    assert error.startswith("error: label set turned: ")
    assert "order" in error
    assert "Refused: " in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("stage", ["label", "merge", "import"])
def test_own_labels_no_better_than_chance_have_no_wrong_index(
    stage: str, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(3)
    provenance = {"stage": stage, "teacher": RELEASED, "merged": [{"labels": "x", "stage": "label"}]}
    copied(labelled, f"random_{stage}", lambda values: rng.normal(size=values.shape).astype(np.float32), provenance)
    (of_set,) = report(labelled, "eval", tmp_path, "--labels", f"random_{stage}", "--clips", 0, code=1)["label_sets"]
    captured = capsys.readouterr()
    table, error = (" ".join(text.split()) for text in (captured.out, captured.err))
    problem = of_set["agreement"]["problem"]
    assert f"! {problem}" in table
    assert problem not in error
    assert f"error: label set random_{stage}: the check of class order refuses it" in error
    assert f"AUC of {of_set['agreement']['auc']:.2f}" in problem
    assert ("index" in problem + error) == (stage == "import")
    assert ("the labels are no better than chance" in problem) == (stage != "import")
    assert ("a wrong or untrained checkpoint, or classes in another order" in problem) == (stage != "import")


def test_a_split_that_nobody_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="audioset")
    write_split(dataset, "strong", 7, seed=1, labels=("clip",))
    dataset.hard_path("strong").unlink()
    report(dataset.root, "strong", tmp_path / "out", "--labels", "clip")
    told = " ".join(capsys.readouterr().out.split())
    assert "nobody labelled this split: nothing to compare with; sed-distill peek shows clips" in told
    assert "class order" not in told


def test_rows_of_other_clips_are_refused(labelled: Path, tmp_path: Path) -> None:
    stored = []
    for side in truth_of_eval(labelled):
        with LabelReader(side) as reader:
            stored += [reader.read(row) for row in range(len(side.clips))]
    shifted = iter([*stored[7:], *stored[:7]])
    copied(labelled, "shifted", lambda _: next(shifted))
    (of_set,) = report(labelled, "eval", tmp_path, "--labels", "shifted", "--clips", 0, code=1)["label_sets"]
    assert of_set["agreement"]["problem"]


def test_what_a_set_lacks_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shard that is not labelled, one of other audio, and one of clips that are not stored."""
    dataset = Dataset.create(tmp_path / "data", keys="audioset")
    write_split(dataset, "strong", 28, seed=1, labels=("clip",), fail=(3,))
    other = Dataset.create(tmp_path / "other", keys="audioset")
    write_split(other, "strong", 28, seed=2, labels=("clip",))
    labels, audio = dataset.labels_folder("strong", "clip"), dataset.audio_folder("strong", AudioSpec().name)
    (labels / "000000.json").unlink()
    for name in ("000001.tar", "000001.json"):
        (labels / name).write_bytes((other.labels_folder("strong", "clip") / name).read_bytes())
    (audio / "000002.json").unlink()
    (of_set,) = report(dataset.root, "strong", tmp_path / "out", "--labels", "clip", "--clips", 0)["label_sets"]
    assert of_set["coverage"] == {
        "clips": 21, "labelled": 6, "failed": 1, "missing": 7, "other_audio": 7, "elsewhere": 7,
        "reasons": {"not_finite": 1},
    }  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert "clips that failed: 1 (not_finite 1)" in said
    assert "! 7 stored clips without a label" in said
    assert "! 7 labels are of other audio" in said


FOA = AudioSpec(sample_rate=24_000, layout="foa", clip_ms=5_000)


def write_foa(dataset: Dataset, keys: list[str]) -> np.ndarray:
    """Other audio of the same clips. Returns that of the last one."""
    with AudioShardWriter(dataset.audio_folder("strong", FOA.name), 0, spec=FOA, provenance={}) as writer:
        for number, key in enumerate(keys):
            pcm = np.random.default_rng(number).integers(-9_000, 9_000, (4, 6_000)).astype(np.int16)
            writer.add(key, pcm, origin="pcm")
        writer.commit()
    return pcm


@pytest.mark.parametrize("beside", ["its own and other", "other", "no sidecars", "nothing"])
def test_labels_beside_audio_of_any_kind(beside: str, tmp_path: Path) -> None:
    """Other audio says nothing of what was labelled, but is better to listen to than nothing."""
    dataset = Dataset.create(tmp_path / "data", keys="audioset")
    truth = write_split(dataset, "strong", 14, seed=1, labels=("clip",))
    own = dataset.audio_folder("strong", AudioSpec().name)
    pcm = {}
    for side in dataset.audio_shards("strong", AudioSpec().name):
        with AudioReader(side) as reader:
            pcm |= {key: reader.read(row) for row, key in enumerate(side.clips.key)}
    if "other" in beside:
        last = write_foa(dataset, truth.keys)
    if beside == "no sidecars":
        for sidecar in own.glob("*.json"):
            sidecar.unlink()
    elif "its own" not in beside:
        shutil.rmtree(own)
    told = report(dataset.root, "strong", tmp_path / "out", "--labels", "clip", "--clips", 99, code=1)  # it is noise
    assert told["label_sets"][0]["coverage"] == {
        "clips": 14, "labelled": 14, "failed": 0, "missing": 0, "other_audio": 0, "elsewhere": 0, "reasons": {},
    }  # fmt: skip
    page = Page((tmp_path / "out" / "report.html").read_text())
    sounds = [base64.b64decode(address.split(",", 1)[1]) for tag, address in page.sources if tag == "audio"]
    heard = [soundfile.read(io.BytesIO(sound), dtype="int16") for sound in sounds]
    keys = [dispute["key"] for dispute in told["disputes"]]
    assert keys
    assert len(heard) == (len(keys) if "other" in beside else 0)
    for key, (samples, rate) in zip(keys, heard, strict=False):
        if "its own" in beside:
            assert rate == 16_000
            assert np.array_equal(samples, pcm[key])
        else:
            assert rate == 24_000
            assert key != truth.keys[-1] or np.array_equal(samples, last[0])


def test_what_is_shown_of_a_clip_is_what_the_files_say(noise: tuple[Path, Truth]) -> None:
    """Two sets with classes of their own, each in its own order."""
    root, truth = noise
    brute = BruteForce(root, "strong", truth, audioset=True)
    opened = [open_labels(Dataset(root), "strong", name) for name in ("clip", "frames")]
    keys = [key for key, events in truth.events.items() if events and key in brute.labels["frames"]][:6]
    shown = disputed_clips(Dataset(root), "strong", opened, keys)
    assert list(shown) == keys
    for key, clip in shown.items():
        place, frames = clip.classes.index(), int(brute.row(key)["valid_frames"])
        soft, whole, hard = (clip.targets[name] for name in ("frames", "clip", "hard_strong"))
        for mid, logits in zip(TEACHER.mids, brute.labels["frames"][key].astype(np.float64), strict=True):
            np.testing.assert_allclose(soft.values[place[mid], :frames], 1 / (1 + np.exp(-logits[:frames])), atol=1e-6)
            assert np.flatnonzero(soft.present[place[mid]]).tolist() == list(range(frames))
        assert whole.values[[place[mid] for mid in MIDS], 0].tolist() == brute.labels["clip"][key].tolist()
        for mid in clip.classes.mids:
            events = [event for event in truth.events[key] if event.mid == mid]
            active = [
                any(event.onset_ms < t + 40 and event.offset_ms > t for event in events) for t in range(0, 10_000, 40)
            ]
            assert (hard.values[place[mid]] > 0).tolist() == active
            heard = range(frames if mid in brute.strong_classes else 0)
            assert np.flatnonzero(hard.present[place[mid]]).tolist() == list(heard)


def test_a_clip_that_another_set_failed_on_is_shown_all_the_same(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="audioset")
    write_split(dataset, "strong", 14, seed=1, labels=("clip",))
    for shard, audio in zip(
        dataset.label_shards("strong", "clip"), dataset.audio_shards("strong", AudioSpec().name), strict=True
    ):
        with LabelReader(shard) as reader, LabelShardWriter(
            dataset.labels_folder("strong", "few"), audio, target=shard.target, provenance={}, codec="npy"
        ) as writer:  # fmt: skip
            for row, key in enumerate(shard.clips.key):
                if row:
                    writer.fail(key, "not_finite", "")
                else:
                    writer.add(key, reader.read(row))
            writer.commit()
    told = report(dataset.root, "strong", tmp_path / "out", "--labels", "clip", "few", "--clips", 9, code=1)
    text = (tmp_path / "out" / "report.html").read_text()
    assert {dispute["labels"] for dispute in told["disputes"]} >= {"clip"}
    assert all(f"mel spectrogram of {dispute['key']}" in text for dispute in told["disputes"])


def test_shards_of_two_kinds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="audioset")
    write_split(dataset, "strong", 14, seed=1, labels=("clip", "frames"))
    clip, frames = (dataset.labels_folder("strong", name) for name in ("clip", "frames"))
    for name in ("000001.tar", "000001.json"):
        (clip / name).write_bytes((frames / name).read_bytes())
    report(dataset.root, "strong", tmp_path / "out", "--labels", "clip", code=2)
    assert "shards differ in target or audio spec; run sed-distill verify" in capsys.readouterr().err


RELEASED = {"family": "beats", "layout": "pretrained_sed", "checkpoint_sha256": "0" * 64}


@pytest.mark.parametrize(
    ("name", "teacher", "in_sample"),
    [("released", RELEASED, False), ("own", {"family": "own"}, None), ("words", "a name alone", None)],
)
def test_what_the_teacher_saw_is_marked(
    labelled: Path,
    tmp_path: Path,
    name: str,
    teacher: object,
    in_sample: bool | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copied(labelled, name, lambda values: values, {"teacher": teacher})
    (of_set,) = report(labelled, "eval", tmp_path, "--labels", name, "--clips", 0)["label_sets"]
    assert of_set["in_sample"] is of_set["psds1"]["in_sample"] is in_sample
    mark = "held out" if in_sample is False else "unknown whether in-sample"
    told = " ".join(capsys.readouterr().out.split())
    assert f"({mark}) after" in told
    assert ("nobody wrote down what the teacher was trained on" in told) == (in_sample is None)
    assert f"{mark}</span>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("keys", "in_sample", "reason"),
    [
        ("audioset", True, "was trained on labels of this split"),
        ("path", None, "this dataset is not known to be one of them (keys: path)"),
    ],
)
def test_a_split_that_the_teacher_was_trained_on_is_in_sample(
    keys: Literal["audioset", "path"],
    in_sample: bool | None,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of AudioSet; what others call `strong` it may or may not have heard."""
    dataset = Dataset.create(tmp_path / "data", keys=keys)
    write_split(dataset, "strong", 7, seed=3, labels=())
    (audio,) = dataset.audio_shards("strong", AudioSpec().name)
    target = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=VOCABULARY)
    with LabelShardWriter(
        dataset.labels_folder("strong", "own"), audio, target=target, provenance={"teacher": RELEASED}, codec="npy"
    ) as writer:
        for number, key in enumerate(audio.clips.key):
            writer.add(key, np.full(target.shape, number - 3, np.float32))
        writer.commit()
    (of_set,) = report(dataset.root, "strong", tmp_path, "--labels", "own")["label_sets"]
    assert of_set["psds1"]["in_sample"] is in_sample
    told = " ".join(capsys.readouterr().out.split())
    assert reason in told
    assert "nobody wrote down" not in told
    tag = "in-sample" if in_sample else "unknown whether in-sample"
    assert f">{tag}</span>" in (tmp_path / "report.html").read_text()


def test_figures_are_there_though_the_audio_of_a_clip_is_damaged(
    noise: tuple[Path, Truth], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(noise[0], tmp_path / "data")
    for tar in Dataset(root).audio_folder("strong", AudioSpec().name).glob("*.tar"):
        tar.unlink()
    (of_set,) = report(root, "strong", tmp_path / "out", "--labels", "clip", code=1)["label_sets"]
    assert of_set["coverage"]["labelled"] == 42
    said = capsys.readouterr()
    assert "against weak labels" in said.out
    assert ".tar: cannot be read" in said.err
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_set_of_failures_alone_says_why_there_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="audioset")
    write_split(dataset, "strong", 8, seed=1, labels=("clip",), fail=tuple(range(8)))
    report(dataset.root, "strong", tmp_path / "out", "--labels", "clip", code=2)
    assert "of 8 stored clips 0 are not in it, 8 failed, 0 were labelled from other audio" in capsys.readouterr().err


def test_a_dataset_on_a_web_server_gives_the_same_figures(
    noise: tuple[Path, Truth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in ("upath", "aiohttp"):
        pytest.importorskip(needed, reason=f"{needed} is not installed; reading object stores is an optional extra")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    local = report(noise[0], "strong", tmp_path / "local", "--labels", "frames", code=1)
    with http_store(noise[0]) as store:
        there = report(store.url, "strong", tmp_path / "there", "--labels", "frames", code=1)
    assert there["label_sets"] == local["label_sets"]
    assert there["disputes"] == local["disputes"]


def test_several_sets_are_compared_on_top(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied(labelled, "again", lambda values: values, {"teacher": RELEASED | {"chunk_ms": 4_000}})
    first, second = report(labelled, "eval", tmp_path, "--labels", "demo", "again", "--clips", 0)["label_sets"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("again ")
    assert lines[2].endswith("  beats 00000000, ch..")
    assert "  made by beats 00000000, chunks of 4 s" in lines
    text = (tmp_path / "report.html").read_text()
    above = text[: text.index("<h2>")]
    for of_set in (first, second):
        figures = [of_set["weak"]["auc"], of_set["weak"]["map"], of_set["psds1"]["mean"]]
        cells = "".join(f'<td class="right">{figure:.3f}</td>' for figure in figures)
        share = '<td class="right">100.0%</td>'
        assert f"<tr><td>{of_set['labels']}</td>{share}{cells}<td>{of_set['made_by'][0]}</td></tr>" in above
    assert second["made_by"] == ["beats 00000000, chunks of 4 s"]
    report(labelled, "eval", tmp_path, "--labels", "demo", "--clips", 0)
    alone = (tmp_path / "report.html").read_text()
    assert "<table" not in alone[: alone.index("<h2>")]
    assert f"Dataset {labelled}. A clip" in alone


def test_a_card_without_classes_is_left_out(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="audioset")
    write_split(dataset, "strong", 7, seed=1, labels=("clip",))
    report(dataset.root, "strong", tmp_path / "out", "--labels", "clip", "--clips", 0)
    text = (tmp_path / "out" / "report.html").read_text()
    assert "Classes that stand out least" not in text
    assert "How often a class is given" in text


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset", "data"):
                self.sources.append((tag, str(value)))


def test_the_page_shows_and_plays_disputed_clips_without_a_network(
    labelled: Path, told: tuple[dict[str, Any], Path]
) -> None:
    said, out = told
    text = (out / "report.html").read_text()
    page = Page(text)
    assert {tag for tag, _ in page.sources} == {"img", "audio"}
    assert all(address.startswith("data:") for _, address in page.sources)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text
    sounds = [base64.b64decode(address.split(",", 1)[1]) for tag, address in page.sources if tag == "audio"]
    assert len(sounds) == len(said["disputes"]) > 0
    pcm = dict(_pcm(labelled))
    for dispute, sound in zip(said["disputes"], sounds, strict=True):
        assert np.array_equal(soundfile.read(io.BytesIO(sound), dtype="int16")[0], pcm[dispute["key"]])
        _, _, section = text.partition(f"<h3>{html.escape(dispute['name'])} <")
        first = re.search(r'<div class="class">(.*?)(?: <span.*)?</div>', section)
        assert first is not None
        assert html.unescape(first[1]) == dispute["name"]
        assert f"mel spectrogram of {dispute['key']}" in text


def test_the_terminal_gets_a_table_of_80_columns(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (of_set,) = report(labelled, "eval", tmp_path, "--labels", "demo", "--clips", 0)["label_sets"]
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    figures = f"{of_set['weak']['auc']:.3f}  {of_set['weak']['map']:.3f}  {of_set['psds1']['mean']:.3f}"
    assert re.fullmatch(rf"demo +{CLIPS} 100\.0%  {figures}  beats \w+", lines[1])
    worst = min((row for row in of_set["per_class"] if (row["weak_clips"] or 0) >= 10), key=lambda row: row["weak_auc"])
    assert any(line.startswith(f"    {worst['name'][:30]}") and f"{worst['weak_auc']:.3f}" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "nobodys"), "has no label set nobodys; it has "),
        (("--labels", "demo", "--clips", -1), "--clips is -1"),
        (("--labels", "hard_weak"), "choose another name"),
    ],
)
def test_wrong_use_is_refused(
    labelled: Path, tmp_path: Path, options: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report(labelled, "eval", tmp_path / "out", *options, code=2)
    assert message in capsys.readouterr().err


def test_labels_that_are_no_probabilities_of_classes_are_refused(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset(labelled)
    (first, *_) = dataset.audio_shards("eval", AudioSpec().name)
    target = TargetSpec(axes=("time", "xyz"), kind="unit_vector")
    with LabelShardWriter(
        dataset.labels_folder("eval", "where"), first, target=target, provenance={}, codec="npy"
    ) as writer:
        for key in first.clips.key:
            writer.fail(key, "not_finite", "")
        writer.commit()
    report(labelled, "eval", tmp_path / "out", "--labels", "where", code=2)
    assert "a report is of probabilities of classes" in capsys.readouterr().err


def _pcm(root: Path) -> list[tuple[str, np.ndarray]]:
    found = []
    for side in Dataset(root).audio_shards("eval", AudioSpec().name):
        with AudioReader(side) as reader:
            found += [(key, reader.read(row)) for row, key in enumerate(side.clips.key)]
    return found
