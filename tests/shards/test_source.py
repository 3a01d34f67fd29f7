"""What a source is, and the join of audio, label sets and hard labels by clip key."""

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from pipeline import (
    ACOUSTIC_BYTES,
    AcousticMatch,
    AudioSpec,
    FormatError,
    IntegrityError,
    MetadataError,
    TargetSpec,
    UsageError,
    hard_table,
    write_hard,
)
from shards import AudioShardWriter, AudioSidecar, Dataset, LabelShardWriter, LabelSidecar, Source
from shards._index_binding import Binding
from shards.loader._read import Tars
from shards.loader.join._join import JoinedSource, Members
from shards.loader.join._training import join_sources
from tests.shards.small_dataset import FRAME_LOGITS, MIDS, SPEC, VOCABULARY, write_split


def joined(dataset: Dataset, split: str = "strong", **options: object) -> JoinedSource:
    """The source of `Source(dataset, split, share=1, **options)`, by default with the label set `frames`."""
    source = Source(dataset, split, share=1, name="s", **{"labels": ("frames",), **options})  # type: ignore[arg-type]
    return join_sources([source])[0]


def keys_of(source: JoinedSource) -> list[str]:
    return [source.key(clip) for clip in range(len(source))]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    dataset = Dataset.create(tmp_path_factory.mktemp("joined") / "data", keys="path")
    write_split(dataset, "strong", 17, seed=1, fail=(3, 9))
    return dataset


def test_clips_are_in_key_order_whatever_the_shards(dataset: Dataset, tmp_path: Path) -> None:
    source = joined(dataset)
    assert keys_of(source) == [f"strong-{i:03d}_0" for i in range(17)]
    assert len({*source.audio.shard.tolist()}) == 3
    for members, sidecars in (
        (source.audio, dataset.audio_shards("strong", SPEC.name)),
        (source.labels["frames"].members, dataset.label_shards("strong", "frames")),
    ):
        assert_members(source, members, sidecars)
    other = Dataset.create(tmp_path / "data", keys="path")
    write_split(other, "strong", 17, seed=1, fail=(3, 9), clips_per_shard=17)
    assert joined(other).keys.equals(source.keys)


def assert_members(source: JoinedSource, members: Members, sidecars: Sequence[AudioSidecar | LabelSidecar]) -> None:
    """Every column as the sidecars say it, a clip without a member nowhere."""
    stated = {
        key: (side.tar_path, side.codec, offset, length, crc32c)
        for side in sidecars
        for key, offset, length, crc32c in zip(
            side.clips.key, side.clips.offset, side.clips.length, side.clips.crc32c, strict=True
        )
        if length
    }
    got = {
        source.key(clip): (members.shards[shard].tar_path, members.shards[shard].codec, *place)
        for clip, (shard, *place) in enumerate(
            zip(
                members.shard.tolist(),
                members.offset.tolist(),
                members.length.tolist(),
                members.crc32c.tolist(),
                strict=True,
            )
        )
        if shard >= 0
    }
    assert got == {key: stated[key] for key in keys_of(source) if key in stated}


def test_a_joined_source_can_be_sent_to_another_process(dataset: Dataset) -> None:
    source = joined(dataset)
    copied = pickle.loads(pickle.dumps(source))
    assert keys_of(copied) == keys_of(source)
    assert_members(copied, copied.labels["frames"].members, dataset.label_shards("strong", "frames"))
    assert [copied.hard.events(clip) for clip in range(17)] == [source.hard.events(clip) for clip in range(17)]


def test_coverage_counts_every_clip_once(dataset: Dataset) -> None:
    for folder in ("frames", "clip"):
        (covered, weak, strong) = joined(dataset, labels=(folder,)).coverage
        assert (covered.clips, covered.labelled, covered.failed, covered.missing) == (17, 15, 2, 0)
        assert str(covered) == f"s/{folder}: 15 of 17 clips labelled, 2 failed, 0 missing"
        assert (weak.target, weak.labelled, weak.missing) == ("hard_weak", 11, 6)
        assert (strong.target, strong.labelled, strong.missing) == ("hard_strong", 12, 5)


def test_labels_of_a_part_are_joined_and_the_rest_is_missing(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "weak", 17, seed=2)
    dataset.labels_folder("weak", "frames").joinpath("000001.json").unlink()
    source = joined(dataset, "weak")
    covered = source.coverage[0]
    assert (covered.labelled, covered.missing) == (17 - 6, 6)
    missing = {
        key for key, shard in zip(keys_of(source), source.labels["frames"].members.shard, strict=True) if shard < 0
    }
    assert missing == set(dataset.audio_shards("weak", SPEC.name)[1].clips.key)


def test_excluded_clips_are_gone_and_unknown_keys_do_no_harm(dataset: Dataset) -> None:
    source = joined(dataset, exclude={"strong-000_0", "strong-016_0", "nobody_0"})
    assert keys_of(source) == [f"strong-{i:03d}_0" for i in range(1, 16)]
    assert source.fingerprint != joined(dataset).fingerprint
    with pytest.raises(
        UsageError, match=r"no clip left: 17 clips in .*/strong, none of them meets exclude \(17 keys\)"
    ):
        joined(dataset, exclude={f"strong-{i:03d}_0" for i in range(17)})


def test_labels_of_other_audio_are_refused(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "strong", 9, seed=3)
    rng = np.random.default_rng(0)
    keys = dataset.audio_shards("strong", SPEC.name)[1].clips.key
    with AudioShardWriter(dataset.audio_folder("strong", SPEC.name), 1, spec=SPEC, provenance={}) as writer:
        for key in keys:
            writer.add(key, rng.integers(-9, 9, 700, dtype=np.int16), origin="pcm")
        writer.commit()
    with pytest.raises(IntegrityError) as refused:
        joined(dataset)
    assert f"strong/labels/frames: the label of {keys[0]} and of {len(keys) - 1} more clips" in str(refused.value)
    assert "label the split again" in str(refused.value)
    assert len(joined(dataset, labels=()))


WIDE = AudioSpec(sample_rate=32_000)


def bursts(seed: int, sample_rate: int, *, late_ms: int = 0) -> npt.NDArray[np.int16]:
    """4 s of tones that come and go at random: the same sound at any sample rate, later by `late_ms`."""
    rng = np.random.default_rng([seed, 7])
    t = np.arange(4 * sample_rate) / sample_rate - late_ms / 1000
    sound = np.zeros(len(t))
    for frequency_hz, start_s, length_s in zip(
        rng.uniform(250, 3300, 60), rng.uniform(-0.5, 4, 60), rng.uniform(0.05, 0.4, 60), strict=True
    ):
        inside = (t >= start_s) & (t < start_s + length_s)
        sound[inside] += np.sin(2 * np.pi * frequency_hz * t[inside])
    return np.round(sound * 2_000).clip(-32_768, 32_767).astype(np.int16)


def two_rates(root: Path, *, late_ms: int = 0, other: int = 0, keep_wide: bool = False) -> Dataset:
    """Clips at 16 and 32 kHz, labelled at 32 kHz: there b_0 is `late_ms` later, or an `other` one; c_0 is silent."""
    dataset = Dataset.create(root, keys="path")
    write_hard(dataset.hard_path("weak"), hard_table(["a_0", "b_0", "c_0"]))
    sidecars = []
    for spec in (SPEC, WIDE):
        with AudioShardWriter(dataset.audio_folder("weak", spec.name), 0, spec=spec, provenance={}) as audio:
            audio.add("a_0", bursts(1, spec.sample_rate), origin="pcm")
            late = {} if spec == SPEC else {"late_ms": late_ms}
            audio.add("b_0", bursts(2 if spec == SPEC else 2 + other, spec.sample_rate, **late), origin="pcm")
            audio.add("c_0", np.ones(spec.max_samples, np.int16), origin="pcm")
            sidecars.append(audio.commit())
    with LabelShardWriter(
        dataset.labels_folder("weak", "frames"), sidecars[1], target=FRAME_LOGITS, provenance={}
    ) as labels:
        for key in ("a_0", "b_0", "c_0"):
            labels.add(key, np.zeros(FRAME_LOGITS.shape, np.float32))
        labels.commit()
    if not keep_wide:
        shutil.rmtree(dataset.audio_folder("weak", WIDE.name))
    return dataset


def test_labels_of_another_rate_are_held_against_that_audio_or_its_sound(tmp_path: Path) -> None:
    for keep_wide in (True, False):
        source = joined(two_rates(tmp_path / str(keep_wide), keep_wide=keep_wide), "weak")
        assert (source.coverage[0].labelled, source.spec) == (3, SPEC)
    with pytest.raises(
        IntegrityError, match=r"label of b_0 was made from audio .* is 80 ms later than what weak stores"
    ):
        joined(two_rates(tmp_path / "late", late_ms=80), "weak")
    with pytest.raises(IntegrityError, match=r"label of b_0 .* is 120 ms earlier than what weak stores"):
        joined(two_rates(tmp_path / "early", late_ms=-120), "weak")
    with pytest.raises(IntegrityError, match=r"label of b_0 .* sounds unlike what weak stores; label the split again"):
        joined(two_rates(tmp_path / "other", other=1), "weak")
    replaced = two_rates(tmp_path / "replaced", keep_wide=True)
    with AudioShardWriter(replaced.audio_folder("weak", WIDE.name), 0, spec=WIDE, provenance={}) as audio:
        audio.add("a_0", bursts(1, 32_000), origin="pcm")
        audio.add("b_0", bursts(2, 32_000) // 2, origin="pcm")
        audio.commit()
    with pytest.raises(IntegrityError, match="label of b_0 was made from other audio than weak stores now"):
        joined(replaced, "weak")


def test_of_many_clips_of_another_rate_a_sample_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of those whose fingerprints are not equal to the bit, and always the same one."""
    clips, rng = 5_000, np.random.default_rng(0)
    stored = rng.integers(0, 253, (clips, ACOUSTIC_BYTES), dtype=np.uint8)
    labelled = stored.copy()
    labelled[::2, 9] ^= 1
    binding = Binding(
        labels=SimpleNamespace(acoustic=labelled),  # type: ignore[arg-type]
        place=np.arange(clips),
        audio=SimpleNamespace(acoustic=stored),  # type: ignore[arg-type]
        clips=np.arange(clips, dtype=np.int32),
    )
    different = AcousticMatch(verdict="different")
    monkeypatch.setattr("shards._index_binding.compare_acoustic", lambda stored, other: different)
    assert list(binding.by_sound(np.arange(2_000))) == list(range(0, 2_000, 2))
    refused = binding.by_sound(np.arange(clips))
    assert len(refused) == 2_000
    assert sorted(refused) == list(refused)
    assert all(clip % 2 == 0 for clip in refused)
    assert binding.by_sound(np.arange(clips)) == refused


def test_a_shard_replaced_after_the_join_is_not_read_as_what_was_joined(tmp_path: Path) -> None:
    """The columns are those of the join, and the CRC32C in them is of no other clip."""
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "weak", 9, seed=4)
    source = joined(dataset, "weak")
    replaced = dataset.audio_shards("weak", SPEC.name)[1]
    with AudioShardWriter(dataset.audio_folder("weak", SPEC.name), 1, spec=SPEC, provenance={}) as audio:
        for key in replaced.clips.key[::-1]:
            audio.add(key, np.ones(640, np.int16), origin="pcm")
        audio.commit()
    tars, audio_of = Tars(), source.audio
    for clip in range(len(source)):
        shard = audio_of.shards[audio_of.shard[clip]]
        place = int(audio_of.offset[clip]), int(audio_of.length[clip]), int(audio_of.crc32c[clip])
        if source.key(clip) in replaced.clips.key:
            with pytest.raises(IntegrityError, match=r"000001\.tar: clip weak-.* is not what was written|the tar ends"):
                tars.read(shard, *place, source.key(clip))
        else:
            tars.read(shard, *place, source.key(clip))


def test_a_label_set_of_failed_clips_alone_has_no_label(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "weak", 3, seed=4, fail=(0, 1, 2))
    with pytest.raises(UsageError, match="has no label for any of the 3 clips"):
        joined(dataset, "weak")
    for path in dataset.labels_folder("weak", "frames").glob("*.json"):
        path.unlink()
    empty = Dataset.create(tmp_path / "empty", keys="path")
    with AudioShardWriter(empty.audio_folder("weak", SPEC.name), 0, spec=SPEC, provenance={}) as audio:
        sidecar = audio.commit()
    with LabelShardWriter(
        dataset.labels_folder("weak", "frames"), sidecar, target=FRAME_LOGITS, provenance={}
    ) as labels:
        labels.commit()
    with pytest.raises(UsageError, match="has no label for any of the 3 clips"):
        joined(dataset, "weak")


def test_what_is_not_there_is_named(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such label set; the split has clip, frames"):
        joined(dataset, labels=("beats",))
    with pytest.raises(UsageError, match=r"no clip stored as foa-24000hz-5000ms"):
        joined(dataset, audio="foa-24000hz-5000ms")
    with pytest.raises(UsageError, match="no clip stored"):
        joined(dataset, "weak")
    dataset_without = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset_without, "weak", 3, seed=3, labels=())
    with pytest.raises(UsageError, match="the split has none"):
        joined(dataset_without, "weak")
    dataset_without.labels_folder("weak", "frames").mkdir(parents=True)
    with pytest.raises(UsageError, match="labels/frames: has no committed shard; label the split"):
        joined(dataset_without, "weak")
    dataset_without.hard_path("weak").unlink()
    with pytest.raises(FormatError, match=r"hard\.parquet"):
        joined(dataset_without, "weak", labels=())


def test_contradicting_shards_are_refused(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "weak", 9, seed=4)
    sidecars = dataset.audio_shards("weak", SPEC.name)
    relabelled = TargetSpec(axes=("class",), kind="logit", vocabulary=VOCABULARY, hop_ms=None, frames=None)
    with LabelShardWriter(
        dataset.labels_folder("weak", "clip"), sidecars[1], target=relabelled, provenance={}
    ) as labels:
        for key in sidecars[1].clips.key:
            labels.add(key, np.zeros(len(MIDS), np.float32))
        labels.commit()
    with pytest.raises(FormatError, match="2 targets"):
        joined(dataset, "weak", labels=("clip",))
    with AudioShardWriter(dataset.audio_folder("weak", SPEC.name), 7, spec=SPEC, provenance={}) as audio:
        audio.add("weak-000_0", np.ones(640, np.int16), origin="pcm")
        audio.commit()
    with pytest.raises(FormatError, match="weak-000_0 is stored in two shards"):
        joined(dataset, "weak")


def test_the_fingerprint_follows_clips_audio_and_label_sets(tmp_path: Path) -> None:
    def fingerprint(name: str, **options: object) -> str:
        made = Dataset.create(tmp_path / name, keys="path")
        write_split(made, "weak", 9, **{"seed": 5, **options})  # type: ignore[arg-type]
        return joined(made, "weak").fingerprint

    first = fingerprint("first")
    assert fingerprint("second") == first
    assert fingerprint("other-audio", seed=6) != first
    assert fingerprint("fewer-sets", labels=("frames",)) == first
    assert fingerprint("other-shards", clips_per_shard=4) == first
    made = Dataset.open(tmp_path / "first")
    assert joined(made, "weak", labels=()).fingerprint != first


def test_the_fingerprint_follows_hard_labels(tmp_path: Path) -> None:
    """A run that goes on with events that were moved meanwhile would not be the run it was."""
    dataset = Dataset.create(tmp_path / "data", keys="path")
    keys = write_split(dataset, "strong", 9, seed=5, labels=()).keys
    two = {keys[0]: [MIDS[0], MIDS[1]]}

    def fingerprint(
        weak: dict[str, list[str]], events: list[tuple[str, int, int, str]], heard: list[str], order: int = 1
    ) -> str:
        names = {"key": pa.string(), "onset_ms": pa.int32(), "offset_ms": pa.int32(), "mid": pa.string()}
        columns = zip(*events, strict=True) if events else [()] * 4
        strong = pa.table({name: pa.array(column, names[name]) for name, column in zip(names, columns, strict=True)})
        table = hard_table(keys[::order], weak=weak, strong=strong, strong_annotated=heard)
        write_hard(dataset.hard_path("strong"), table)
        return joined(dataset, labels=()).fingerprint

    events = [(keys[0], 0, 80, MIDS[0]), (keys[1], 40, 90, MIDS[1])]
    made = [
        fingerprint(two, events, keys[:2]),
        fingerprint({keys[0]: [MIDS[0]]}, events, keys[:2]),
        fingerprint({keys[1]: [MIDS[0], MIDS[1]]}, events, keys[:2]),
        fingerprint({**two, keys[1]: []}, events, keys[:2]),
        fingerprint(two, events, keys[:3]),
        fingerprint(two, [(keys[0], 0, 81, MIDS[0]), events[1]], keys[:2]),
        fingerprint(two, [(keys[0], 1, 80, MIDS[0]), events[1]], keys[:2]),
        fingerprint(two, [(keys[0], 0, 80, MIDS[1]), events[1]], keys[:2]),
        fingerprint(two, [events[0], (keys[0], *events[1][1:])], keys[:2]),
        fingerprint(two, events[:1], keys[:2]),
    ]
    assert len(set(made)) == len(made)
    assert fingerprint(two, events, keys[:2], order=-1) == made[0]


def test_the_fingerprint_follows_which_clips_have_labels(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "strong", 17, seed=5)
    whole = joined(dataset).fingerprint
    aside = tmp_path / "aside"
    aside.mkdir()
    for path in dataset.labels_folder("strong", "frames").glob("000001.*"):
        path.rename(aside / path.name)
    assert joined(dataset).fingerprint != whole
    for path in aside.iterdir():
        path.rename(dataset.labels_folder("strong", "frames") / path.name)
    assert joined(dataset).fingerprint == whole


def test_hard_labels_of_audioset_know_their_class_lists(tmp_path: Path) -> None:
    for keys, has_list in (("audioset", True), ("path", False)):
        dataset = Dataset.create(tmp_path / keys, keys=keys)  # type: ignore[arg-type]
        write_split(dataset, "weak", 3, seed=7, labels=())
        write_hard(dataset.hard_path("weak"), hard_table(["weak-001_0"], weak={"weak-001_0": [MIDS[0]]}))
        hard = joined(dataset, "weak", labels=()).hard
        assert [hard.weak_mids(clip) for clip in range(3)] == [None, [MIDS[0]], None]
        assert [hard.events(clip) for clip in range(3)] == [None, None, None]
        assert MIDS[0] in hard.weak_classes
        assert len(hard.weak_classes) == (527 if has_list else 1)
        assert len(hard.strong_classes) == (456 if has_list else 0)


def test_a_source_says_what_it_cannot_be(tmp_path: Path) -> None:
    for split in ("eval", "dev", "train"):
        with pytest.raises(UsageError, match=f"split '{split}' is no training source.*evaluation_batches"):
            Source(tmp_path, split, share=1)
    with pytest.raises(UsageError, match="collections of names"):
        Source(tmp_path, "weak", share=1, labels="beats")  # type: ignore[arg-type]
    source = Source(tmp_path, "weak", share=1, labels=["beats"], exclude=["b", "a"])  # type: ignore[arg-type]
    assert (source.name, source.labels, source.exclude) == ("weak", ("beats",), frozenset("ab"))
    assert source.audio == AudioSpec().name


def test_an_edited_sidecar_does_not_pass(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    write_split(dataset, "weak", 3, seed=8)
    path = dataset.audio_folder("weak", SPEC.name) / "000000.json"
    value = json.loads(path.read_text())
    value["clips"]["samples"][0] += 1
    path.write_text(json.dumps(value))
    with pytest.raises((FormatError, MetadataError), match=r"000000\.json"):
        joined(dataset, "weak")
