"""Which clips a source takes: every condition against brute force over what was put in."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import TargetSpec, UsageError
from pipeline._sealed import write_sealed
from shards import (
    AudioShardWriter,
    Confidence,
    Dataset,
    LabelShardWriter,
    Shuffled,
    Source,
    repair,
    verify,
)
from shards.loader.join._confidence import CONFIDENCE_NAME
from shards.loader.join._join import JoinedSource
from shards.loader.join._training import join_sources
from tests.shards.small_dataset import FRAME_LOGITS, MIDS, SPEC, VOCABULARY, BruteForce, Truth, write_split


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, dict[str, Truth]]:
    dataset = Dataset.create(tmp_path_factory.mktemp("subsets") / "data", keys="path")
    return dataset, {
        "weak": write_split(dataset, "weak", 23, seed=1, fail=(3, 9)),
        "strong": write_split(dataset, "strong", 14, seed=2, labels=("frames",), fail=(5,)),
    }


def keys_of(source: JoinedSource) -> list[str]:
    return [source.key(clip) for clip in range(len(source))]


def taken(dataset: Dataset, split: str = "weak", **conditions: object) -> list[str]:
    return keys_of(join_sources([Source(dataset, split, share=1, **conditions)])[0])  # type: ignore[arg-type]


KEYS = [f"weak-{i:03d}_0" for i in range(23)] + [f"strong-{i:03d}_0" for i in range(14)] + ["nobody_0"]
FAILED = ("weak-003_0", "weak-009_0", "strong-005_0")
SOME = st.none() | st.sets(st.sampled_from(KEYS))


@given(
    including=st.booleans(),
    exclude=st.sets(st.sampled_from(KEYS)),
    only=SOME,
    classes=st.none() | st.sets(st.sampled_from([*MIDS, "/m/0k4j"]), min_size=1),
    first=st.none() | st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_every_condition_has_to_hold(
    made: tuple[Dataset, dict[str, Truth]],
    including: bool,
    exclude: set[str],
    only: set[str] | None,
    classes: set[str] | None,
    first: int | None,
) -> None:
    dataset, truths = made
    used = ["weak", "strong"] if including else ["weak"]
    wanted = []
    for key in sorted(key for split in used for key in truths[split].keys):
        truth = truths[key.partition("-")[0]]
        mids = {*truth.weak.get(key, []), *(event.mid for event in truth.events.get(key, []))}
        if key not in exclude and (only is None or key in only) and (classes is None or mids & classes):
            wanted.append(key)
    conditions = {"exclude": exclude, "only": only, "classes": classes, "first": first, "including": used[1:]}
    labelled = [key for key in wanted[:first] if key not in FAILED]
    if labelled:
        (source,) = join_sources([Source(dataset, "weak", share=1, labels=("frames",), **conditions)])  # type: ignore[arg-type]
        assert keys_of(source) == wanted[:first]
        assert [source.key(clip) for clip in np.flatnonzero(source.labels["frames"].members.shard >= 0)] == labelled
    elif wanted:
        assert taken(dataset, **conditions) == wanted[:first]
    else:
        with pytest.raises(UsageError, match=r"source weak has no clip left: 23 clips in .*; loosen that"):
            taken(dataset, **conditions)


def write_lists(folder: Path, keys: list[str]) -> Iterator[Path]:
    def path(name: str, text: str) -> Path:
        (folder / name).write_text(text)
        return folder / name

    yield path("keys.txt", "\n".join(keys))
    yield path("keys", "\r\n".join(keys) + "\r\n\r\n")
    yield path("marked.txt", "\ufeff" + "\n".join(keys))  # as some editors save it
    yield path("marked.csv", "\ufeffkey\n" + "\n".join(keys))
    yield path("keys.csv", "note,key\n" + "".join(f'"a, b",{key}\n' for key in keys))
    yield path("keys.tsv", "key\tnumber\n" + "".join(f"{key}\t1\n" for key in keys))
    for name, kind in (("small", pa.string()), ("coded", pa.dictionary(pa.int32(), pa.string()))):
        table = pa.table({"key": pa.array([*keys, None], pa.string()).cast(kind), "n": range(len(keys) + 1)})
        pq.write_table(table, folder / f"{name}.parquet")
        yield folder / f"{name}.parquet"


def test_lists_of_keys_in_every_format(made: tuple[Dataset, dict[str, Truth]], tmp_path: Path) -> None:
    dataset, truths = made
    keys = ["weak-004_0", "nobody_0", "weak-017_0"]
    for path in write_lists(tmp_path, keys):
        assert taken(dataset, only=path) == ["weak-004_0", "weak-017_0"], path
        assert taken(dataset, exclude=path) == [key for key in truths["weak"].keys if key not in keys]


def test_lists_that_cannot_be_read_are_named(made: tuple[Dataset, dict[str, Truth]], tmp_path: Path) -> None:
    dataset, _ = made
    files = {
        "a.csv": b"name,n\nweak-000_0,1\n",
        "b.tsv": b"clip\tn\nweak-000_0\t1\n",
        "c.parquet": b"not parquet",
        "d.txt": b"\xff\xfe\x00w",
        "f.csv": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    pq.write_table(pa.table({"clip": ["weak-000_0"]}), tmp_path / "g.parquet")
    for name, message in (
        ("a.csv", "has columns name, n, the list of keys of only= needs a column key"),
        ("b.tsv", "has columns clip, n"),
        ("g.parquet", "has columns clip, "),
        ("c.parquet", "cannot be read as the list of keys of only="),
        ("d.txt", "text with a key a line"),
        ("e.txt", "No such file"),
        ("f.csv", "cannot be read"),
    ):
        with pytest.raises(UsageError) as refused:
            taken(dataset, only=tmp_path / name)
        assert str(refused.value).startswith(f"{tmp_path / name}: ")
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["key", "weak-000_0"], "has 'key', no clip key"),
        (["weak-000_0", "Yother.wav", "YweakXX"], "has 'Yother.wav' and 1 more like it, no clip key"),
        (["weak-000_0.5"], "needs keys as they are stored, an id or path and the start in ms"),
        ([""], "has '', no clip key"),
    ],
)
def test_names_that_can_be_no_key_are_refused(
    made: tuple[Dataset, dict[str, Truth]], tmp_path: Path, names: list[str], message: str
) -> None:
    """A clip that is left out by another of its names would be trained on, and nobody told."""
    dataset, _ = made
    path = tmp_path / "keys.parquet"
    pq.write_table(pa.table({"key": names}), path)
    for keys, where in ((names, "exclude="), (path, str(path))):
        with pytest.raises(UsageError, match=f"^{re.escape(where)}: ") as refused:
            taken(dataset, exclude=keys)
        assert message in str(refused.value)


def test_a_list_that_leaves_out_nothing_is_told_of(
    made: tuple[Dataset, dict[str, Truth]], caplog: pytest.LogCaptureFixture
) -> None:
    dataset, truths = made
    assert taken(dataset, exclude=["Yweak-000_0", "nobody_0"]) == truths["weak"].keys
    assert "source weak: none of the 2 keys of exclude= is stored, the first is 'Yweak-000_0'" in caplog.text
    caplog.clear()
    taken(dataset, exclude=["nobody_0", "strong-001_0"], including=("strong",))
    taken(dataset, exclude=())
    assert "exclude=" not in caplog.text


def test_what_no_source_can_be(made: tuple[Dataset, dict[str, Truth]]) -> None:
    dataset, _ = made
    with pytest.raises(UsageError, match=r"classes has 'Dog', no MID of AudioSet .* give MIDs such as"):
        taken(dataset, classes=["Dog"])
    with pytest.raises(UsageError, match=r"none of them meets classes \(1 classes\)"):
        taken(dataset, classes=["/m/0dgw9r"])  # a class of AudioSet that no clip has
    with pytest.raises(UsageError, match="collections of names"):
        taken(dataset, exclude="keys.txt")
    with pytest.raises(UsageError, match="first 0 clips; needs 1 or more"):
        taken(dataset, first=0)
    with pytest.raises(UsageError, match=r"only=: cannot be read as the list of keys"):
        taken(dataset, only=[1, 2])
    for order in (Shuffled, "shuffled"):
        with pytest.raises(UsageError, match=r"source of split weak has order .*; needs one such as Shuffled\(\)"):
            taken(dataset, order=order)
    for including, message in (
        (("weak",), "includes .* needs a tuple of other splits"),
        ("strong", "includes 'strong'; needs a tuple of other splits"),
        (("strong", "strong"), "needs a tuple of other splits"),
        (("dev",), "split 'dev' is no training source"),
    ):
        with pytest.raises(UsageError, match=message):
            taken(dataset, including=including)


def test_a_source_of_two_splits_is_the_union_of_both(made: tuple[Dataset, dict[str, Truth]]) -> None:
    dataset, truths = made
    (both,) = join_sources([Source(dataset, "weak", share=1, labels=("frames",), including=("strong",))])
    apart = {
        split: join_sources([Source(dataset, split, share=1, labels=("frames",))])[0] for split in ("weak", "strong")
    }
    assert keys_of(both) == sorted([*truths["weak"].keys, *truths["strong"].keys])
    for clip, key in enumerate(keys_of(both)):
        one = apart[key.partition("-")[0]]
        own = keys_of(one).index(key)
        assert place(both, "audio", clip) == place(one, "audio", own)
        assert place(both, "frames", clip) == place(one, "frames", own)
        assert both.samples[clip] == one.samples[own]
        assert both.hard.weak_mids(clip) == one.hard.weak_mids(own)
        assert both.hard.events(clip) == one.hard.events(own)
    covered = both.coverage[0]
    assert (covered.clips, covered.labelled, covered.failed, covered.missing) == (37, 34, 3, 0)
    assert both.hard.weak_classes == apart["weak"].hard.weak_classes | apart["strong"].hard.weak_classes
    reversed_order = Source(dataset, "strong", share=1, labels=("frames",), including=("weak",), name="weak")
    assert keys_of(join_sources([reversed_order])[0]) == keys_of(both)


def place(source: JoinedSource, what: str, clip: int) -> object:
    members = source.audio if what == "audio" else source.labels[what].members
    if members.shard[clip] < 0:
        return None
    return (
        members.shards[members.shard[clip]].tar_path,
        *(int(column[clip]) for column in (members.offset, members.length, members.crc32c)),
    )


def test_splits_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "weak", 5, seed=1)
    with pytest.raises(UsageError, match=r"strong: has no clip stored as mono-16000hz-10000ms \(its audio: none\)"):
        taken(dataset, including=("strong",))
    write_split(dataset, "strong", 5, seed=2, labels=("clip",), clips_per_shard=5)
    with pytest.raises(UsageError, match=r"strong/labels/frames: there is no such label set; the split has clip"):
        taken(dataset, including=("strong",), labels=("frames",))
    other = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=VOCABULARY)
    (audio,) = dataset.audio_shards("strong", SPEC.name)
    with LabelShardWriter(dataset.labels_folder("strong", "frames"), audio, target=other, provenance={}) as labels:
        for key in audio.clips.key:
            labels.add(key, np.zeros(other.shape, np.float32))
        labels.commit()
    with pytest.raises(UsageError, match=r"strong/labels/frames: has labels logit .*weak/labels/frames has logit"):
        taken(dataset, including=("strong",), labels=("frames",))
    with AudioShardWriter(dataset.audio_folder("strong", SPEC.name), 1, spec=SPEC, provenance={}) as writer:
        writer.add("weak-002_0", np.ones(640, np.int16), origin="pcm")
        writer.commit()
    with pytest.raises(UsageError, match="clip weak-002_0 is stored in two of the splits weak and strong; exclude it"):
        taken(dataset, including=("strong",))
    assert len(taken(dataset, including=("strong",), exclude=["weak-002_0"])) == 9


def brute_confidence(root: Path, split: str, truth: Truth, label_set: str) -> dict[str, float]:
    brute = BruteForce(root, split, truth, audioset=False)
    found = {}
    for key, values in brute.labels[label_set].items():
        values = values.astype(np.float64)
        if label_set == "frames":
            values = 1 / (1 + np.exp(-values[:, : -(-len(brute.pcm[key]) // 640)]))
        found[key] = float(values.max())
    return found


@pytest.mark.parametrize("label_set", ["frames", "clip"])
def test_confidence_is_the_highest_probability_where_there_is_audio(
    made: tuple[Dataset, dict[str, Truth]], label_set: str
) -> None:
    dataset, truths = made
    confidence = brute_confidence(dataset.root, "weak", truths["weak"], label_set)
    levels = sorted(confidence.values())
    for at_least in (levels[5] - 1e-4, levels[12] + 1e-4):
        wanted = [key for key in truths["weak"].keys if confidence.get(key, -1) >= at_least]
        assert 0 < len(wanted) < 21
        assert taken(dataset, confidence=Confidence(label_set, at_least=at_least)) == wanted
    with pytest.raises(UsageError, match=rf"none of them meets confidence \({label_set} at least 1\)"):
        taken(dataset, confidence=Confidence(label_set, at_least=1))
    with pytest.raises(UsageError, match="at least 2; needs 0 to 1"):
        Confidence(label_set, at_least=2)


def test_confidences_are_read_once_and_again_for_a_shard_that_changed(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "weak", 9, seed=4, labels=("frames",), clips_per_shard=5)
    sure = Confidence("frames", at_least=0.9)
    wanted = taken(dataset, confidence=sure)
    assert 0 < len(wanted) < 9
    folder = dataset.labels_folder("weak", "frames")
    tars = sorted(folder.glob("*.tar"))
    for tar in tars:
        tar.rename(tar.with_suffix(".away"))
    assert taken(dataset, confidence=sure) == wanted
    tars[1].with_suffix(".away").rename(tars[1])
    (_, audio) = dataset.audio_shards("weak", SPEC.name)
    with LabelShardWriter(folder, audio, target=FRAME_LOGITS, provenance={"again": 1}) as labels:
        for key in audio.clips.key:
            labels.add(key, np.full(FRAME_LOGITS.shape, -9, np.float32))
        labels.commit()
    left = [key for key in wanted if key not in audio.clips.key]
    assert left != wanted
    assert taken(dataset, confidence=sure) == left
    path = folder / CONFIDENCE_NAME
    path.write_bytes(path.read_bytes()[:-9])
    tars[0].with_suffix(".away").rename(tars[0])
    assert taken(dataset, confidence=sure) == left
    path.unlink()
    assert taken(dataset, confidence=sure) == left


def test_confidences_beside_labels_disturb_nobody(tmp_path: Path) -> None:
    root = tmp_path / "data"
    dataset = Dataset.create(root, keys="path")
    write_split(dataset, "weak", 9, seed=4, labels=("frames",), clips_per_shard=5)
    folder = dataset.labels_folder("weak", "frames")
    everyone = taken(dataset, confidence=Confidence("frames", at_least=0))
    path = folder / CONFIDENCE_NAME
    whole = path.read_bytes()
    assert verify(root) == ()
    # A seal says that bytes are as they were written, not that they are of every clip.
    table = pq.read_table(path)
    fewer = [pa.array([values.as_py()[:-1] for values in table["confidence"]], table.schema.field("confidence").type)]
    sealed = pa.table([table["sidecar_sha256"], *fewer], names=table.column_names)
    schema = table.schema.with_metadata({b"sed_distill.confidence": b"1"})
    write_sealed(path, schema, [sealed.cast(schema)], row_group_size=9)
    assert taken(dataset, confidence=Confidence("frames", at_least=0)) == everyone
    assert path.read_bytes() == whole
    # Repair moves what is bad, and leaves it where it is.
    tar = sorted(folder.glob("*.tar"))[0]
    tar.write_bytes(tar.read_bytes()[:-1])
    repair(root, verify(root))
    assert path.read_bytes() == whole
    assert not tar.exists()
    assert {problem.kind for problem in verify(root)} == {"incomplete"}


def test_a_damaged_label_has_no_confidence_until_it_is_restored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "weak", 4, seed=4, labels=("frames",))
    everyone = Confidence("frames", at_least=0)
    (labels,) = dataset.label_shards("weak", "frames")
    whole = labels.tar_path.read_bytes()
    flipped = bytearray(whole)
    flipped[labels.clips.offset[2] + 300] ^= 1
    labels.tar_path.write_bytes(flipped)
    with caplog.at_level("WARNING", logger="shards"):
        left = taken(dataset, confidence=everyone)
    assert left == [key for key in sorted(labels.clips.key) if key != labels.clips.key[2]]
    assert f"clip {labels.clips.key[2]}" in caplog.text
    labels.tar_path.write_bytes(whole)
    assert len(taken(dataset, confidence=everyone)) == 4


def test_confidences_that_cannot_be_kept_serve_this_process(tmp_path: Path) -> None:
    """A folder in the place of the file stops everybody from writing it, root too."""
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "weak", 4, seed=4, labels=("frames",))
    folder = dataset.labels_folder("weak", "frames")
    (folder / CONFIDENCE_NAME / "in the way").mkdir(parents=True)
    before = sorted(folder.iterdir())
    assert len(taken(dataset, confidence=Confidence("frames", at_least=0))) == 4
    assert [path for path in sorted(folder.iterdir()) if path.name != "index.arrow"] == before


def test_labels_without_probabilities_have_no_confidence(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "weak", 3, seed=4, labels=(), clips_per_shard=3)
    (audio,) = dataset.audio_shards("weak", SPEC.name)
    target = TargetSpec(axes=("time", "track"), kind="metre", tracks=2)
    with LabelShardWriter(dataset.labels_folder("weak", "metres"), audio, target=target, provenance={}) as labels:
        for key in audio.clips.key:
            labels.add(key, np.ones(target.shape, np.float32))
        labels.commit()
    with pytest.raises(UsageError, match=r"labels/metres: .* have no probability; choose another label set"):
        taken(dataset, confidence=Confidence("metres", at_least=0.5))
    assert taken(dataset, labels=("metres",)) == sorted(audio.clips.key)


@pytest.mark.parametrize("split", ["eval", "dev"])
def test_clips_held_out_in_any_dataset_of_the_mix_are_refused(tmp_path: Path, split: str) -> None:
    def written(name: str, keys: str) -> tuple[Dataset, Dataset]:
        own, foreign = (Dataset.create(tmp_path / name / part, keys=keys) for part in ("own", "foreign"))  # type: ignore[arg-type]
        write_split(own, "strong", 4, seed=1, labels=())
        write_split(foreign, "weak", 9, seed=1, labels=())
        # The clips of foreign/weak are held out by the dataset they are mixed with.
        shutil.copytree(foreign.root / "weak", own.root / split)
        return own, foreign

    own, foreign = written("audioset", "audioset")
    mix = [Source(own, "strong", share=1), Source(foreign, "weak", share=1)]
    with pytest.raises(
        UsageError,
        match=rf"source weak would train on clip weak-000_0 and 8 more, held out in .*own/{split}; .*exclude=",
    ):
        join_sources(mix)
    assert [len(source) for source in join_sources([mix[0]])] == [4]
    left = Source(foreign, "weak", share=1, exclude=[f"weak-{i:03d}_0" for i in range(8)])
    with pytest.raises(UsageError, match=r"would train on clip weak-008_0, held out"):
        join_sources([mix[0], left])
    # Keys made of paths mean another clip in another dataset, and the same one in their own.
    own, foreign = written("path", "path")
    assert len(join_sources([Source(own, "strong", share=1), Source(foreign, "weak", share=1)])) == 2
    shutil.copytree(own.root / split, own.root / "weak")
    with pytest.raises(UsageError, match="source weak would train on clip weak-000_0 and 8 more"):
        join_sources([Source(own, "weak", share=1)])
