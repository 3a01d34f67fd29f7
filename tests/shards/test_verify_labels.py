"""Labels belong to clips by key, wherever either lies: what verify makes of a label set and the audio of its spec."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import AudioSpec, Vocabulary, hard_table, write_hard
from shards import (
    AudioReader,
    AudioShardWriter,
    Dataset,
    LabelShardWriter,
    read_audio_sidecar,
    read_label_sidecar,
    verify,
)
from shards._sidecar import sidecar_bytes
from shards.checks._verify_columns import KEYS as KEYS_TYPE
from shards.checks._verify_columns import Columns, Head
from shards.checks._verify_labels import label_problems
from tests.shards.dataset_examples import SPEC, TARGET, clip_logits, clip_pcm, write_audio, write_labels

AUDIO, LABELS = f"weak/audio/{SPEC.name}", "weak/labels/frames"
KEYS = [f"c{number}_0" for number in range(12)]


def write(root: Path, shards: list[list[str]]) -> None:
    """Audio without a manifest, and labels beside it."""
    dataset = Dataset.create(root, keys="path")
    write_hard(dataset.hard_path("weak"), hard_table(KEYS))
    for shard, keys in enumerate(shards):
        write_labels(root / LABELS, write_audio(root / AUDIO, shard, keys))


def reshard(root: Path, shards: list[list[str]], codec: str = "flac") -> None:
    shutil.rmtree(root / AUDIO)
    for shard, keys in enumerate(shards):
        with AudioShardWriter(root / AUDIO, shard, spec=SPEC, provenance={}, codec=codec) as writer:
            for key in keys:
                writer.add(key, clip_pcm(key), origin="vorbis")
            writer.commit()


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "data", [KEYS[:4], KEYS[4:8], KEYS[8:]])
    return tmp_path / "data"


@pytest.fixture
def resharded(root):
    reshard(root, [KEYS[10:] + KEYS[:6], KEYS[6:10]])
    return root


def found(root: Path) -> set[tuple[str, str | None, str]]:
    problems = verify(root, quick=True)
    triples = {(str(problem.shard.relative_to(root)), problem.key, problem.kind) for problem in problems}
    assert len(triples) == len(problems)
    return triples


@pytest.mark.parametrize("codec", ["flac", "pcm16", "fast"])
def test_audio_sharded_and_stored_otherwise_keeps_its_labels(root, codec):
    rng = np.random.default_rng(0)
    for sizes in ([12], [5, 7], [1, 1, 10], [6] * 2, [1] * 12):
        keys = [KEYS[place] for place in rng.permutation(12)]
        ends = np.cumsum([0, *sizes])
        reshard(root, [keys[low:high] for low, high in itertools.pairwise(ends)], codec)
        assert verify(root) == ()


def test_audio_at_another_rate_has_no_part_in_it(root):
    """Labels are of one audio spec; the other may be incomplete, and stored in other shards."""
    spec = AudioSpec(sample_rate=16_000, clip_ms=1_000)
    write_audio(root / "weak/audio" / spec.name, 0, KEYS[5:9], spec=spec)
    assert verify(root) == ()
    shutil.rmtree(root / AUDIO)
    assert found(root) == {(f"{LABELS}/00000{shard}.json", KEYS[4 * shard], "orphan") for shard in range(3)}


def test_clips_that_are_not_stored(root):
    reshard(root, [KEYS[:5], KEYS[7:11]])
    problems = verify(root, quick=True)
    assert [(p.shard.name, p.key, p.kind) for p in problems] == [
        ("000001.json", KEYS[5], "orphan"),
        ("000002.json", KEYS[11], "orphan"),
    ]
    assert problems[0].detail.startswith("2 labels, this one first, are of clips that are not stored")


def test_clips_without_labels(root):
    """New shards, some of whose clips are labelled already: one problem a shard, and none for what has a row."""
    with LabelShardWriter(
        root / LABELS, write_audio(root / AUDIO, 3, ["n1_0"]), target=TARGET, provenance={"stage": "label"}
    ) as writer:
        writer.fail("n1_0", "not_finite", "")
    write_hard(root / "weak/hard.parquet", hard_table([*KEYS, "n1_0", "n2_0", "n3_0"]))
    assert found(root) == {(f"{LABELS}/000003.json", "n1_0", "incomplete")}
    write_labels(root / LABELS, read_audio_sidecar(root / AUDIO / "000003.json"), failed=frozenset({"n1_0"}))
    assert found(root) == set()
    reshard(root, [[*KEYS, "n1_0"], ["n2_0", "n3_0"]])
    assert found(root) == {(f"{LABELS}/000001.json", "n2_0", "incomplete")}
    reshard(root, [["n3_0", *KEYS[:6]], [*KEYS[6:], "n2_0", "n1_0"]])
    problems = {(f"{LABELS}/000000.json", "n3_0", "incomplete"), (f"{LABELS}/000001.json", "n2_0", "incomplete")}
    assert found(root) == problems


def test_a_lost_label_shard_is_one_problem(root, resharded):
    """Which clips its rows were of is not known while it is damaged; once it is gone, they are without a label."""
    path = resharded / LABELS / "000001.json"
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    assert found(root) == {(f"{LABELS}/000001.json", None, "sidecar")}
    path.unlink()
    assert found(root) == {(f"{LABELS}/000001.json", None, "incomplete")}
    path.with_suffix(".tar").unlink()
    assert found(root) == {(f"{LABELS}/00000{shard}.json", KEYS[4 + 2 * shard], "incomplete") for shard in (0, 1)}


def test_a_lost_label_shard_hides_no_other_of_labels_as_they_were_made(root):
    (root / LABELS / "000001.json").write_bytes(b"{}")
    for suffix in (".json", ".tar"):
        (root / LABELS / f"000002{suffix}").unlink()
    assert found(root) == {
        (f"{LABELS}/000001.json", None, "sidecar"),
        (f"{LABELS}/000002.json", KEYS[8], "incomplete"),
    }


def test_a_lost_audio_shard_is_one_problem(root, resharded):
    for content in (b"{}", None):
        (resharded / AUDIO / "000000.json").unlink()
        if content:
            (resharded / AUDIO / "000000.json").write_bytes(content)
        assert found(root) == {(f"{AUDIO}/000000.json", None, "sidecar" if content else "incomplete")}


def test_labels_of_other_audio(root, resharded):
    keys = KEYS[6:10]
    with AudioShardWriter(resharded / AUDIO, 1, spec=SPEC, provenance={}) as writer:
        for key in keys:
            writer.add(key, clip_pcm(key) + np.int16(key in keys[1:3]), origin="wav")
        writer.commit()
    assert found(root) == {
        (f"{LABELS}/000001.json", KEYS[7], "stale"),
        (f"{LABELS}/000002.json", KEYS[8], "stale"),
    }


def edit_labels(path: Path, **changes) -> None:
    """Change columns of a label sidecar and sign it again; each change is a function of the old column."""
    sidecar = read_label_sidecar(path)
    columns = {name: tuple(change(list(getattr(sidecar.clips, name)))) for name, change in changes.items()}
    path.write_bytes(sidecar_bytes(replace(sidecar, clips=replace(sidecar.clips, **columns))))


def first(value):
    return lambda column: [value(column[0]), *column[1:]]


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"identity": first(lambda old: old[::-1])}, True),
        ({"samples": first(lambda old: old - 1)}, True),
        ({"acoustic": first(lambda old: f"{int(old[:2], 16) - 1:02x}{old[2:]}")}, True),
        ({"acoustic": first(lambda old: f"{old[:2]}{'f' * 126}")}, True),
        ({"acoustic": first(lambda old: f"{old[:-1]}{int(old[-1], 16) ^ 15:x}")}, False),
    ],
)
def test_what_binds_a_label(root, change, stale):
    """Identity and samples to the bit; the fingerprint but for a few bits that another machine may round otherwise."""
    path = root / LABELS / "000002.json"
    before = path.read_bytes()
    edit_labels(path, **change)
    assert path.read_bytes() != before
    assert found(root) == ({(f"{LABELS}/000002.json", KEYS[8], "stale")} if stale else set())


def test_a_clip_labelled_twice(root, tmp_path):
    elsewhere = write_audio(tmp_path / "elsewhere", 7, [KEYS[2], KEYS[9]])
    write_labels(root / LABELS, elsewhere)
    assert found(root) == {(f"{LABELS}/000007.json", key, "duplicate") for key in (KEYS[2], KEYS[9])}


def test_a_set_of_labels_made_in_two_ways(root):
    audio = read_audio_sidecar(root / AUDIO / "000000.json")
    other_classes = replace(TARGET, vocabulary=Vocabulary(("/m/a", "/m/b", "/m/d"), ("A", "B", "D")))
    for target, codec, teacher, says in (
        (TARGET, "npy", "example", "another codec than most"),
        (other_classes, "master", "example", "another target than most"),
        (TARGET, "master", "another", "another provenance than most"),
        (other_classes, "npy", "another", "another provenance and target and codec than most"),
    ):
        provenance = {"stage": "label", "teacher": teacher}
        with LabelShardWriter(root / LABELS, audio, target=target, provenance=provenance, codec=codec) as writer:
            for key in audio.clips.key:
                writer.add(key, clip_logits(key))
            writer.commit()
        (problem,) = verify(root)
        assert (problem.shard, problem.key, problem.kind) == (root / LABELS / "000000.json", None, "mixed")
        assert says in problem.detail


def test_labels_of_another_audio_spec(root):
    """Their clips cannot be held against the audio of the set; they are not missed besides."""
    spec = AudioSpec(sample_rate=16_000, clip_ms=1_000)
    write_labels(root / LABELS, write_audio(root / "weak/audio" / spec.name, 1, KEYS[4:8], spec=spec))
    write_audio(root / "weak/audio" / spec.name, 0, KEYS[:4], spec=spec)
    assert found(root) == {(f"{LABELS}/000001.json", None, "mixed")}


def test_a_shard_of_another_label_set_in_its_place(root):
    """Labels of the same teacher for the clips of another split."""
    write_labels(root / LABELS, write_audio(root.parent / "elsewhere", 1, ["x1_0", "x2_0"]))
    assert found(root) == {(f"{LABELS}/000001.json", "x1_0", "orphan")}


def test_shards_whose_numbers_were_exchanged(root):
    """Nothing is lost by it: both are read, and each label finds its clip."""
    a, b = read_label_sidecar(root / LABELS / "000000.json"), read_label_sidecar(root / LABELS / "000001.json")
    tars = [side.tar_path.read_bytes() for side in (a, b)]
    a.tar_path.write_bytes(tars[1])
    b.tar_path.write_bytes(tars[0])
    a.path.write_bytes(sidecar_bytes(replace(b, path=a.path, shard=0)))
    b.path.write_bytes(sidecar_bytes(replace(a, path=b.path, shard=1)))
    assert verify(root) == ()
    with AudioReader(read_audio_sidecar(root / AUDIO / "000000.json")) as reader:
        np.testing.assert_array_equal(reader.read(0), clip_pcm(KEYS[0]))


PLANS = st.lists(
    st.lists(st.tuples(st.sampled_from("abcdefghij"), st.sampled_from([0] * 9 + [1])), max_size=6), max_size=4
)


def columns(folder: str, plan: list[list[tuple[str, int]]]) -> Columns:
    """Shards of a plan: a list of (key, which audio it is of) each."""
    rows = [row for shard in plan for row in shard]
    heads = [
        Head(
            path=Path(f"{folder}/{number:06d}.json"), number=number, spec=SPEC, codec="c", fingerprint="f",
            target=TARGET, manifest_sha256=None, rejected=(), tar_bytes=0, clips=len(shard),
        )
        for number, shard in enumerate(plan)
    ]  # fmt: skip
    bound = np.zeros((len(rows), Columns(path=Path()).bound.shape[1]), np.uint8)
    bound[:, 0] = [audio for _, audio in rows]
    return Columns(
        path=Path(folder),
        heads=heads,
        keys=pa.array([key for key, _ in rows], KEYS_TYPE),
        shard=np.repeat(np.arange(len(plan), dtype=np.int32), [len(shard) for shard in plan]),
        bound=bound,
        spec_name=SPEC.name,
    )


@settings(max_examples=200, deadline=None)
@given(audio=PLANS, labels=PLANS.filter(bool))
def test_any_labels_of_any_audio(audio, labels):
    """Against the same rules in plain words, one row at a time."""
    stored: dict[str, tuple[int, int]] = {}
    for number, shard in enumerate(audio):
        for key, which in shard:
            stored.setdefault(key, (number, which))
    expected = set()
    seen: set[str] = set()
    aligned = True
    for number, shard in enumerate(labels):
        for key, which in shard:
            expected |= {(number, key, "duplicate")} if key in seen else set()
            seen.add(key)
            if key in stored:
                expected |= {(number, key, "stale")} if which != stored[key][1] else set()
                aligned = aligned and stored[key][0] == number
        orphans = [key for key, _ in shard if key not in stored]
        expected |= {(number, orphans[0], "orphan")} if orphans else set()
    # Labels of nothing that is stored stand where others were, which are then not named besides.
    strangers = {number for number, shard in enumerate(labels) if shard and not any(key in stored for key, _ in shard)}
    for number, shard in enumerate(audio):
        unlabelled = [key for key, _ in shard if key not in seen]
        if unlabelled and (not strangers or (aligned and number not in strangers)):
            expected.add((number, unlabelled[0], "incomplete"))
    found = label_problems(columns("labels", labels), {SPEC.name: columns("audio", audio)})
    assert {(int(problem.shard.stem), problem.key, problem.kind) for problem in found} == expected
