"""Merged labels against averages computed here, against an ensemble of teachers, and against what must not be mixed."""

import argparse
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs import StageReport, add_merge_arguments, merge_stage, run_command, run_merge, run_stage
from pipeline import AudioSpec, TargetSpec, UsageError, Vocabulary
from shards import (
    Dataset,
    LabelReader,
    LabelShardWriter,
    LabelSidecar,
    fingerprint,
    guarantee,
    read_commands,
    record_command,
    repair,
    verify,
)
from teachers import Ensemble, Teacher
from tests.shards.varied_dataset import FAILED, FRAMES, MONO, VOCABULARY, label_values, write_varied

OTHER = Vocabulary(("/m/c", "/m/x", "/m/a", "/m/b"), ("C", "X", "A", "B"))
FEWER = Vocabulary(("/m/c", "/m/a"), ("C", "A"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_varied(tmp_path / "data").root


def values(name: str, key: str, target: TargetSpec) -> np.ndarray:
    """Of a label set: near those of the others, as labels of one clip by several teachers are."""
    rng = np.random.default_rng([*name.encode(), *key.encode()])
    near = label_values(key, replace(target, kind="logit")) + rng.normal(0, 0.5, target.shape).astype(np.float32)
    return 1 / (1 + np.exp(-near)) if target.kind == "probability" else near


def write_set(
    root: Path,
    name: str,
    target: TargetSpec = FRAMES,
    codec: str = "master",
    failed: tuple[str, ...] = (),
    teacher: object = None,
) -> list[LabelSidecar]:
    dataset, written = Dataset(root), []
    teacher = {"family": name, "protocol": "frame", "precision": "float32"} if teacher is None else teacher
    for audio in dataset.audio_shards("weak", MONO.name):
        folder = dataset.labels_folder("weak", name)
        made = {"stage": "label", "codec": codec, "teacher": teacher}
        with LabelShardWriter(folder, audio, target=target, provenance=made, codec=codec) as writer:
            for key in audio.clips.key:
                if key in failed:
                    writer.fail(key, "unreadable_audio", "stops early")
                else:
                    writer.add(key, values(name, key, target))
            written.append(writer.commit())
    return written


def merge(root: Path, *members: str, labels: str = "merged", codec: str = "master", **options: object) -> StageReport:
    stage = merge_stage(
        dataset=root, split="weak", members=members, labels=labels, audio=MONO.name, codec=codec, **options
    )
    return run_stage(stage, executor="local", progress=False)


def read(root: Path, name: str) -> dict[str, np.ndarray]:
    found = {}
    for side in Dataset(root).label_shards("weak", name):
        with LabelReader(side) as reader:
            found |= {key: reader.read(row) for row, key in enumerate(side.clips.key) if side.clips.length[row]}
    return found


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0)])
@pytest.mark.parametrize("average", ["logit", "probability"])
def test_merged_labels_are_the_average(root, average, weights):
    for name, codec in (("a", "master"), ("b", "npy"), ("c", "master")):
        write_set(root, name, codec=codec)
    assert merge(root, "a", "b", "c", average=average, weights=weights).exit_code == 0
    members, found = [read(root, name) for name in "abc"], read(root, "merged")
    assert len(found) == 8
    for key, logits in found.items():
        parts = [member[key].astype(np.float64) for member in members]
        if average == "logit":
            wanted = np.average(parts, axis=0, weights=weights)
        else:
            mean = np.average([sigmoid(part) for part in parts], axis=0, weights=weights)
            wanted = np.log(mean) - np.log1p(-mean)
        np.testing.assert_allclose(logits, wanted, rtol=2**-10, atol=1e-5)
    assert verify(root) == ()


@pytest.mark.parametrize("codec", ["faithful", "small"])
def test_merged_labels_keep_the_guarantee_of_merging(root, codec):
    for name in "abc":
        write_set(root, name, codec="faithful")
    merge(root, "a", "b", "c", codec=codec)
    for key, logits in read(root, "merged").items():
        wanted = np.mean([values(name, key, FRAMES) for name in "abc"], axis=0)
        error = guarantee("faithful").max_merged_probability_error + guarantee(codec).max_probability_error[1]
        assert np.abs(sigmoid(logits) - sigmoid(wanted)).max() <= error


class Recalled(Teacher):
    """Says of the clip whose number is its first sample what a label set says."""

    def __init__(self, logits: list[np.ndarray], vocabulary: Vocabulary) -> None:
        spec = AudioSpec(sample_rate=8_000, clip_ms=1_000)
        super().__init__(
            audio_spec=spec, vocabulary=vocabulary, provenance={"family": "recalled"}, device=torch.device("cpu"),
            contexts_ms=(1_000,),
        )  # fmt: skip
        self._logits = torch.from_numpy(np.stack(logits))

    def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
        return self._logits[features[:, 0].round().long()]


@pytest.mark.parametrize("average", ["logit", "probability"])
def test_merging_is_what_one_pass_of_an_ensemble_gives(root, average):
    """From float16 members and stored as float16: to the bit, but for what exp and log round otherwise."""
    write_set(root, "a")
    write_set(root, "b", target=replace(FRAMES, vocabulary=OTHER))
    write_set(root, "c", target=replace(FRAMES, vocabulary=FEWER))
    weights = (1.0, 0.3, 2.5)
    merge(root, "a", "b", "c", average=average, weights=weights, mixed_protocols=True)
    found = read(root, "merged")
    members = [
        Recalled([read(root, name)[key] for key in found], vocabulary)
        for name, vocabulary in (("a", VOCABULARY), ("b", OTHER), ("c", FEWER))
    ]
    ensemble = Ensemble(members, average=average, weights=weights, mixed_protocols=True)
    waveforms = torch.zeros(len(found), 8_000)
    waveforms[:, 0] = torch.arange(len(found))
    said = ensemble.frame_logits(waveforms).numpy()
    for logits, wanted in zip(found.values(), said, strict=True):
        if average == "logit":
            np.testing.assert_array_equal(logits, wanted.astype(np.float16))
        else:
            np.testing.assert_allclose(logits, wanted, rtol=2**-10, atol=1e-5)


def test_probabilities_are_merged_with_logits(root):
    write_set(root, "a")
    write_set(root, "b", target=replace(FRAMES, kind="probability"))
    for average in ("logit", "probability"):
        merge(root, "a", "b", labels=average, average=average)
        (side, *_) = Dataset(root).label_shards("weak", average)
        assert side.target == FRAMES
        a, b, found = read(root, "a"), read(root, "b"), read(root, average)
        for key, logits in found.items():
            p = b[key].astype(np.float64)
            if average == "probability":
                np.testing.assert_allclose(sigmoid(logits), (sigmoid(a[key]) + p) / 2, atol=3e-4)
            else:
                np.testing.assert_allclose(logits, (a[key] + np.log(p / (1 - p))) / 2, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "audio"), [("tags", MONO), ("soft", MONO), ("directions", None)])
def test_one_set_is_stored_in_another_codec(root, name, audio):
    """As it is, whatever it holds."""
    spec = audio.name if audio else next(spec for spec in Dataset(root).audio_specs("weak") if "foa" in spec)
    stage = merge_stage(
        dataset=root, split="weak", members=[name], labels="again", audio=spec, codec="npy", weights=None
    )
    assert run_stage(stage, executor="local", progress=False).exit_code == 0
    before, after = read(root, name), read(root, "again")
    assert before.keys() == after.keys()
    for key, stored in before.items():
        np.testing.assert_array_equal(after[key], stored.astype(np.float16))
    old, new = (Dataset(root).label_shards("weak", set_)[0] for set_ in (name, "again"))
    assert new.target == old.target
    assert new.provenance["teacher"]["teacher"] == old.provenance["teacher"]


def test_a_clip_that_one_member_lacks_is_named(root):
    write_set(root, "a", failed=("aa_0",))
    write_set(root, "b", failed=("aa_0", "jj_0"))
    report = merge(root, "a", "b")
    assert (report.stored, report.rejected) == (6, {"absent": 2})
    told = {
        key: detail
        for side in Dataset(root).label_shards("weak", "merged")
        for key, detail in zip(side.failed.key, side.failed.detail, strict=True)
    }
    assert told == {
        "aa_0": "a: unreadable_audio, stops early; b: unreadable_audio, stops early",
        "jj_0": "b: unreadable_audio, stops early",
    }
    assert verify(root) == ()


def test_what_is_merged_stays_until_a_member_has_more(root):
    write_set(root, "a", failed=("aa_0",))
    write_set(root, "b")
    merge(root, "a", "b")
    folder = Dataset(root).labels_folder("weak", "merged")
    before = {path.name: path.stat().st_ino for path in folder.glob("*.tar")}
    assert merge(root, "a", "b").stored == 7
    assert {path.name: path.stat().st_ino for path in folder.glob("*.tar")} == before
    write_set(root, "a")
    assert merge(root, "a", "b").stored == 8
    after = {path.name: path.stat().st_ino for path in folder.glob("*.tar")}
    assert {name for name, inode in after.items() if before[name] != inode} == {"000000.tar"}


def test_provenance_names_the_members(root):
    sides = [write_set(root, name)[0] for name in "ab"]
    write_set(root, "published", teacher="somebody")
    merge(root, "a", "b", "published", weights=[1, 2, 0.5])
    stated = Dataset(root).label_shards("weak", "merged")[0].provenance
    json.dumps(stated)
    assert [member["fingerprint"] for member in stated["merged"][:2]] == [side.fingerprint for side in sides]
    assert [member["labels"] for member in stated["merged"]] == ["a", "b", "published"]
    teacher = stated["teacher"]
    assert (teacher["family"], teacher["average"], teacher["weights"]) == ("ensemble", "logit", [1.0, 2.0, 0.5])
    assert teacher["members"][:2] == [side.provenance["teacher"] for side in sides]
    assert teacher["members"][2]["teacher"] == "somebody"
    for side, member, inner in zip(sides, stated["merged"], teacher["members"], strict=False):
        whole = {k: v for k, v in member.items() if k not in ("labels", "fingerprint")} | {"teacher": inner}
        assert fingerprint(whole) == side.fingerprint


def test_what_does_not_go_together_is_refused(root):
    write_set(root, "a")
    write_set(root, "clips", teacher={"family": "x", "protocol": "clip"})
    write_set(root, "fewer", target=replace(FRAMES, vocabulary=FEWER))
    write_set(root, "chunks", target=replace(FRAMES, context_ms=500))
    write_set(root, "coarse", target=replace(FRAMES, hop_ms=80, frames=13))
    write_set(root, "short", target=replace(FRAMES, frames=24))
    write_set(root, "lossy", codec="small")
    write_set(root, "part")
    (Dataset(root).labels_folder("weak", "part") / "000001.json").unlink()
    for members, options, message in (
        (["a", "clips"], {}, "clip labels, a of one of frame labels"),
        (["a", "fewer"], {}, "fewer lacks 1 of the 3 classes of a"),
        (["a", "chunks"], {}, "chunks has context_ms 500, a has 1000"),
        (["a", "coarse"], {}, "coarse has hop_ms 80, a has 40"),
        (["a", "short"], {}, "short has frames 24, a has 25"),
        (["a", "tags"], {}, "tags is stored as small"),
        (["a", "lossy"], {}, "lossy is stored as small, which promises nothing"),
        (["a", "part"], {}, r"lacks 1 of 3 shards \(1\); label them first"),
        (["a", "none"], {}, "none: has no labels of audio"),
        (["a", "directions"], {}, "has no labels of audio mono"),
        (["a", "a"], {}, "each once"),
        (["a", "merged"], {}, "not merged itself"),
        ([], {}, "needs label sets"),
        (["a", "soft"], {"weights": [1]}, "1 values for 2 label sets"),
        (["a"], {"weights": [1]}, "1 values for 1 label sets"),
        (["a", "soft"], {"weights": [1, 0]}, "from 1e-06 to"),
        (["a", "soft"], {"weights": [1e300, 1]}, "to 1e"),
        (["a", "soft"], {"weights": [1, float("nan")]}, "need values"),
        (["a", "soft"], {"average": "median"}, "needs one of logit, probability"),
        (["a", "soft"], {"codec": "flac"}, "label codec is 'flac'"),
    ):
        with pytest.raises(UsageError, match=message):
            merge(root, *members, **options)
    assert merge(root, "a", "clips", mixed_protocols=True, labels="both").exit_code == 0
    assert merge(root, "fewer", "a", labels="of_fewer").exit_code == 0


def test_labels_that_were_heard_in_other_pieces_are_refused(root):
    """Of one context length: the target says nothing of how the pieces were put together."""
    windows = {"window_ms": 1_000, "window_hop_ms": 520, "window_fade": "raised_cosine"}
    for name, rule in (("a", windows), ("b", {"chunk_ms": 1_000}), ("c", windows), ("whole", {})):
        write_set(root, name, teacher={"family": name, "protocol": "frame", **rule})
    both = (
        "b was labelled with chunk_ms 1000, a with window_fade raised_cosine, window_hop_ms 520, window_ms 1000; merge"
    )
    for options in ({}, {"mixed_protocols": True}):
        with pytest.raises(UsageError, match=both):
            merge(root, "a", "b", **options)
    assert merge(root, "a", "c", "whole", labels="three").exit_code == 0
    assert merge(root, "a", "c").exit_code == 0
    with pytest.raises(
        UsageError, match="b was labelled with chunk_ms 1000, merged with window_fade raised_cosine, window_hop"
    ):
        merge(root, "merged", "b", labels="more")


def test_the_same_labels_under_two_names_are_refused(root):
    write_set(root, "a")
    write_set(root, "same", teacher={"family": "a", "protocol": "frame", "precision": "float32"})
    with pytest.raises(UsageError, match="label set same has the provenance of a: the same labels"):
        merge(root, "a", "same")


def test_a_label_set_that_was_made_otherwise_is_left_alone(root):
    write_set(root, "a")
    write_set(root, "b")
    merge(root, "a", "b")
    for options in ({"weights": [1, 2]}, {"average": "probability"}, {"codec": "faithful"}):
        with pytest.raises(UsageError, match="was made otherwise than this merge would"):
            merge(root, "a", "b", **options)
    with pytest.raises(UsageError, match="was made otherwise"):
        merge(root, "b", "a")
    with pytest.raises(UsageError, match="absolute"):
        merge_stage(dataset=Path("data"), split="weak", members=["a"], labels="b")


def test_a_damaged_member_costs_its_shard(root):
    write_set(root, "a")
    written = write_set(root, "b")
    damaged = bytearray(written[1].tar_path.read_bytes())
    damaged[written[1].clips.offset[0]] ^= 1
    written[1].tar_path.write_bytes(damaged)
    report = merge(root, "a", "b")
    assert report.exit_code == 1
    assert [lost.shard for lost in report.quarantined] == [1]
    assert sorted(path.name for path in Dataset(root).labels_folder("weak", "merged").glob("*.tar")) == [
        "000000.tar",
        "000002.tar",
    ]
    write_set(root, "b")
    assert merge(root, "a", "b").exit_code == 0
    assert FAILED in read(root, "merged")


def test_the_command_is_recorded_and_repeats_itself(root, capsys):
    write_set(root, "a")
    write_set(root, "b")
    parser = argparse.ArgumentParser()
    add_merge_arguments(parser)
    given = ["--dataset", str(root), "--split", "weak", "--from", "a", "b", "--labels", "merged", "--weights", "1"]
    given += ["0.25", "--average", "probability", "--audio", MONO.name, "--executor", "local"]
    assert run_command(lambda: run_merge(parser.parse_args(given))) == 0
    folder = Dataset(root).labels_folder("weak", "merged")
    before = {path.name: path.read_bytes() for path in folder.glob("0*")}
    (recorded,) = read_commands(folder)
    assert (recorded.arguments[0], recorded.shards) == ("merge", (0, 1, 2))
    (folder / "000001.json").unlink()
    again = [*recorded.arguments[1:], "--executor", "local"]
    assert run_command(lambda: run_merge(parser.parse_args(again))) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("0*")} == before
    wrong = [*recorded.arguments[1:], "--executor", "local", "--weights", "1", "-1"]
    assert run_command(lambda: run_merge(parser.parse_args(wrong))) == 2
    assert "need values from" in capsys.readouterr().err


def test_repair_makes_what_was_merged_behind_what_it_was_merged_from(root):
    """Whatever their names are; in the order of the names the first would find no labels to merge."""
    for name in ("x", "y"):
        write_set(root, name)
    merge(root, "x", "y", labels="b")
    merge(root, "b", "y", labels="a")
    whole = read(root, "a")
    for name in ("a", "b"):
        tar = Dataset(root).label_shards("weak", name)[0].tar_path
        tar.write_bytes(tar.read_bytes()[:-600])
    made = repair(root, verify(root))
    assert [line.split(" --labels ")[1].split()[0] for line in made.commands] == ["b", "a"]
    for line in made.commands:
        parser = argparse.ArgumentParser()
        add_merge_arguments(parser)
        assert run_merge(parser.parse_args([*shlex.split(line)[2:], "--executor", "local"])) == 0
    assert verify(root) == ()
    found = read(root, "a")
    assert all(np.array_equal(found[key], values) for key, values in whole.items())
    # A record that says that each is made of the other does not end otherwise than with both.
    record_command(Dataset(root).labels_folder("weak", "b"), ("merge", "--from", "a", "--labels", "b"), (0,))
    for name in ("a", "b"):
        Dataset(root).label_shards("weak", name)[0].tar_path.unlink()
    assert len(repair(root, verify(root)).commands) == 2
