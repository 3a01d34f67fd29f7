"""The loader's batches, order, shares and state against a brute-force reader of the same tars."""

import copy
import json
import logging
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import Grid, TargetSpec, UsageError
from shards import Balanced, Batch, BlockShuffle, Dataset, LabelShardWriter, MixedLoader, Source, evaluation_batches
from tests.shards.mixing import CLIPS, assert_equal, assert_same, expected_keys, loader_of, make_mix
from tests.shards.small_dataset import SPEC, VOCABULARY, BruteForce, write_split


@pytest.fixture(scope="module", params=["path", "audioset"])
def any_keys(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, BruteForce]]:
    return make_mix(tmp_path_factory.mktemp("mixed") / "data", request.param)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, BruteForce]]:
    return make_mix(tmp_path_factory.mktemp("mixed") / "data", "path")


def test_every_cell_of_two_epochs_is_what_brute_force_reads(any_keys: tuple[Path, dict[str, BruteForce]]) -> None:
    root, brute = any_keys
    loader = loader_of(root, seed=5)
    assert len(loader) == 8  # 23 weak clips, 3 in each batch
    step = 0
    for _ in range(2):
        for batch in loader:
            assert list(zip(batch.source, batch.key, strict=True)) == expected_keys(
                step, {"weak": 3, "strong": 2}, seed=5
            )
            assert_equal(batch, brute)
            step += 1
    assert step == 16
    assert not loader.replaced


def test_the_test_data_has_every_kind_of_absence(any_keys: tuple[Path, dict[str, BruteForce]]) -> None:
    """Guards the test above: it would prove little on data without them."""
    root, _ = any_keys
    batch = next(iter(loader_of(root, 23, 14, 37)))
    some = {name: {bool(value) for value in weight.flatten(1).any(1).tolist()} for name, weight in batch.weight.items()}
    assert some == {name: {True, False} for name in ("hard_weak", "hard_strong", "clip", "frames")}
    assert batch.valid_frames.min() < batch.valid_frames.max() <= 7
    assert not batch.weight["frames"][:, 1].any()  # a class that the teacher lacks
    assert (batch.weight["hard_weak"].sum(1) > 0).any()
    assert all((batch.targets[name].flatten(1).amax(1) > 0).any() for name in batch.targets)


def test_classes_outside_the_527_have_no_weak_label_in_audioset(tmp_path: Path) -> None:
    root = tmp_path / "data"
    dataset = Dataset.create(root, keys="audioset")
    truth = write_split(dataset, "weak", 9, seed=3, labels=())
    annotated = [clip for clip, key in enumerate(truth.keys) if key in truth.weak]
    used = {mid for mids in truth.weak.values() for mid in mids}
    (batch,) = evaluation_batches(root, "weak", 9, vocabulary=VOCABULARY)
    for clip in annotated:
        for column, mid in enumerate(VOCABULARY.mids):
            strong_only = column in (2, 5)
            assert batch.weight["hard_weak"][clip, column] == (not strong_only or mid in used)


def test_time_major_labels_and_labels_of_the_same_classes_come_out_class_major(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "data", keys="path")
    keys = write_split(dataset, "weak", 5, seed=2, clips_per_shard=5, labels=()).keys
    logits = np.random.default_rng(0).normal(0, 30, (5, len(VOCABULARY), 250)).astype(np.float16).astype(np.float32)
    axes_of = {"upright": ("class", "time"), "turned": ("time", "class")}
    (audio,) = dataset.audio_shards("weak", SPEC.name)
    for name, axes in axes_of.items():
        target = TargetSpec(axes=axes, kind="logit", vocabulary=VOCABULARY)  # type: ignore[arg-type]
        with LabelShardWriter(dataset.labels_folder("weak", name), audio, target=target, provenance={}) as labels:
            for key, label in zip(keys, logits, strict=True):
                labels.add(key, label if name == "upright" else np.ascontiguousarray(label.T))
            labels.commit()
    (batch,) = evaluation_batches(dataset, "weak", 5, vocabulary=VOCABULARY, labels=tuple(axes_of))
    for clip, frames in enumerate(batch.valid_frames.tolist()):
        wanted = np.zeros((len(VOCABULARY), 250))
        wanted[:, :frames] = 1 / (1 + np.exp(-logits[clip, :, :frames].astype(np.float64)))
        for name in axes_of:
            np.testing.assert_allclose(batch.targets[name][clip].numpy(), wanted, rtol=2e-6, atol=1e-37)
            assert batch.weight[name][clip].expand(len(VOCABULARY), 250).sum() == len(VOCABULARY) * frames


@given(
    unit=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    factor=st.integers(1, 2),
    world_size=st.integers(1, 3),
    workers=st.integers(0, 3),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 40),
)
@settings(max_examples=25, deadline=None)
def test_ranks_share_out_the_global_batch(
    made: tuple[Path, dict[str, BruteForce]],
    unit: tuple[int, int],
    factor: int,
    world_size: int,
    workers: int,
    seed: int,
    epoch: int,
) -> None:
    root, _ = made
    shares = {"weak": unit[0] * factor, "strong": unit[1] * factor}
    for rank in range(world_size):
        loader = loader_of(
            root,
            unit[0] / sum(unit),
            unit[1] / sum(unit),
            sum(shares.values()),
            seed=seed,
            batches_per_epoch=2,
            rank=rank,
            world_size=world_size,
            workers=workers,
        )
        assert loader.shares == shares
        loader.set_epoch(epoch)
        for step, batch in enumerate(loader, start=2 * epoch):
            got = list(zip(batch.source, batch.key, strict=True))
            assert got == expected_keys(step, shares, seed=seed, rank=rank, world_size=world_size)


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("prefetch", [1, 4])
def test_batches_do_not_depend_on_how_they_are_made(
    made: tuple[Path, dict[str, BruteForce]], workers: int, prefetch: int
) -> None:
    loader = loader_of(made[0], workers=workers, prefetch=prefetch, pin_memory=True)
    for one, other in zip(loader_of(made[0], workers=0), loader, strict=True):
        assert_same(one, other)


def test_compact_batches_expand_to_the_same(made: tuple[Path, dict[str, BruteForce]]) -> None:
    for one, other in zip(loader_of(made[0]), loader_of(made[0], compact=True), strict=True):
        assert_same(one, other.expand())  # type: ignore[attr-defined]


@given(stop=st.integers(0, 9), world_size=st.sampled_from([1, 2]), workers=st.sampled_from([0, 3]))
@settings(max_examples=12, deadline=None)
def test_a_run_resumes_in_the_middle_on_other_ranks_and_workers(
    made: tuple[Path, dict[str, BruteForce]], stop: int, world_size: int, workers: int
) -> None:
    options = {"weak": 3, "strong": 1, "batches_per_epoch": 4, "seed": 9}
    uninterrupted = loader_of(made[0], batch_size=8, workers=0, **options)  # type: ignore[arg-type]
    wanted = [batch for _ in range(3) for batch in uninterrupted]

    first = loader_of(made[0], batch_size=4, world_size=2, rank=1, **options)  # type: ignore[arg-type]
    given_out = 0
    while given_out < stop:
        for _ in first:
            given_out += 1
            if given_out == stop:
                break
    state = copy.deepcopy(first.state_dict())
    assert (state["epoch"], state["step"]) == divmod(stop, 4)

    parts = []
    for rank in range(world_size):
        resumed = loader_of(
            made[0],
            batch_size=8 // world_size,
            world_size=world_size,
            rank=rank,
            workers=workers,
            **options,  # type: ignore[arg-type]
        )
        resumed.load_state_dict(state)
        assert resumed.epoch == stop // 4
        got = []
        for epoch in range(resumed.epoch, 3):
            resumed.set_epoch(epoch)
            got += list(resumed)
        parts.append(got)
    assert all(len(got) == 12 - stop for got in parts)
    for step, batch in enumerate(wanted[stop:]):
        for split in CLIPS:
            keys = [
                key for got in parts for key, name in zip(got[step].key, got[step].source, strict=True) if name == split
            ]
            assert keys == [key for key, name in zip(batch.key, batch.source, strict=True) if name == split]
    if world_size == 1:
        for one, other in zip(wanted[stop:], parts[0], strict=True):
            assert_same(one, other)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_any_run_resumes_anywhere_in_any_world(made: tuple[Path, dict[str, BruteForce]], data: st.DataObject) -> None:
    """The global batches after a stop are those of an uninterrupted run, whoever reads on."""

    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    unit = draw(1, 3), draw(1, 2)
    factor = data.draw(st.sampled_from([1, 2, 4]))  # of the global batch to the smallest one
    length, seed, stop = draw(1, 5), draw(0, 2**31), draw(0, 12)
    whole = {"weak": unit[0] * factor, "strong": unit[1] * factor}

    def rank_of(world_size: int, rank: int, workers: int) -> MixedLoader:
        return loader_of(
            made[0],
            *unit,
            sum(unit) * factor // world_size,
            seed=seed,
            batches_per_epoch=length,
            rank=rank,
            world_size=world_size,
            workers=workers,
            prefetch=draw(1, 3),
            hard=("hard_weak",),
        )

    worlds = [world for world in (1, 2, 4) if factor % world == 0]
    world = data.draw(st.sampled_from(worlds))
    first = rank_of(world, draw(0, world - 1), draw(0, 3))
    first.set_epoch(stop // length)
    for _, _ in zip(range(stop % length), first, strict=False):
        pass
    state = json.loads(json.dumps(first.state_dict()))
    world = data.draw(st.sampled_from(worlds))
    parts: list[list[Batch]] = []
    for rank in range(world):
        resumed = rank_of(world, rank, draw(0, 3))
        resumed.load_state_dict(state)
        parts.append([*resumed, *resumed])  # the rest of the epoch, and the next one
    steps = range(stop, (stop // length + 2) * length)
    assert [len(part) for part in parts] == [len(steps)] * world
    for place, step in enumerate(steps):
        wanted = expected_keys(step, whole, seed=seed)
        for split in whole:
            got = [
                key
                for part in parts
                for name, key in zip(part[place].source, part[place].key, strict=True)
                if name == split
            ]
            assert got == [key for name, key in wanted if name == split]


def test_state_is_few_integers_and_refuses_another_run(made: tuple[Path, dict[str, BruteForce]]) -> None:
    loader = loader_of(made[0])
    state = json.loads(json.dumps(loader.state_dict()))
    places = {"version", "epoch", "step", "seed", "batches_per_epoch"}
    assert set(state) == places | {"clips_per_step", "orders", "targets", "data"}
    assert all(isinstance(state[name], int) for name in places)
    assert state["orders"] == {"weak": "shuffled", "strong": "shuffled"}
    loader.load_state_dict(state)
    for damaged in ({"step": 8}, {"step": -1}, {"epoch": -1}, {"epoch": None}, {"step": "2"}):
        with pytest.raises(UsageError, match="needs numbers as state_dict gives them"):
            loader.load_state_dict({**state, **damaged})
    for other, named in (
        (loader_of(made[0], seed=1), "seed"),
        (loader_of(made[0], batches_per_epoch=3), "batches_per_epoch"),
        (loader_of(made[0], batch_size=10), "clips_per_step"),
        (loader_of(made[0], 2, 3, batches_per_epoch=8), "clips_per_step"),
        (MixedLoader([Source(made[0], "weak", share=1)], 5, vocabulary=VOCABULARY), "data"),
        (loader_of(made[0], temperature=2.0), "targets"),
        (loader_of(made[0], hard=("hard_weak",)), "targets"),
        (loader_of(made[0], grid=Grid(hop_ms=80)), "targets"),
        (MixedLoader([Source(made[0], "weak", share=1, order=BlockShuffle(2))], 5, vocabulary=VOCABULARY), "orders"),
    ):
        with pytest.raises(UsageError, match=f"another run: .*{named} is"):
            other.load_state_dict(state)


def test_an_epoch_of_the_published_recipe_is_as_many_draws(made: tuple[Path, dict[str, BruteForce]]) -> None:
    order = Balanced(by="weak", replacement=False, draws=12)
    for share, batches in ((4, 3), (5, 3)):
        source = Source(made[0], "weak", share=1, order=order)
        assert len(MixedLoader([source], share, vocabulary=VOCABULARY)) == batches


def test_an_epoch_after_a_break_starts_again_and_after_its_end_goes_on(
    made: tuple[Path, dict[str, BruteForce]],
) -> None:
    loader = loader_of(made[0], batches_per_epoch=3)
    first = [batch.key for batch in loader]
    second = [batch.key for batch in loader]
    assert loader.epoch == 2
    assert first != second
    loader.set_epoch(1)
    broken = []
    for batch in loader:
        broken.append(batch.key)
        if len(broken) == 2:
            break
    assert broken == second[:2]
    assert loader.state_dict()["step"] == 2
    assert [batch.key for batch in loader] == second
    loader.set_epoch(0)
    assert [batch.key for batch in loader] == first
    with pytest.raises(UsageError, match="count from 0"):
        loader.set_epoch(-1)


def test_a_source_added_leaves_the_order_of_the_others(made: tuple[Path, dict[str, BruteForce]]) -> None:
    alone = MixedLoader([Source(made[0], "strong", share=1)], 2, vocabulary=VOCABULARY, batches_per_epoch=9)
    mixed = loader_of(made[0], batches_per_epoch=9)
    for one, other in zip(alone, mixed, strict=True):
        assert one.key == other.key[3:]
        assert set(one.targets) == {"hard_weak", "hard_strong"}


def test_one_split_twice_under_two_names(made: tuple[Path, dict[str, BruteForce]]) -> None:
    sources = [
        Source(made[0], "weak", share=2, name="first", labels=("clip",)),
        Source(made[0], "weak", share=2, exclude=("weak-000_0",), name="second"),
    ]
    loader = MixedLoader(sources, 4, vocabulary=VOCABULARY)
    batches = list(loader)
    assert all(batch.source == ["first"] * 2 + ["second"] * 2 for batch in batches)
    assert "weak-000_0" not in {key for batch in batches for key in batch.key[2:]}
    assert not any(batch.weight["clip"][2:].any() or batch.targets["clip"][2:].any() for batch in batches)
    with pytest.raises(UsageError, match="named weak, weak; give each a name of its own"):
        MixedLoader([Source(made[0], "weak", share=2)] * 2, 4, vocabulary=VOCABULARY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6}, r"nearest: batch_size 5 or 10 with these shares, or shares 4 : 2 with this batch_size"),
        ({"rank": 2, "world_size": 2}, "ranks are 0 to world_size - 1"),
        ({"workers": -1}, "workers is -1"),
        ({"batches_per_epoch": 0}, "batches_per_epoch is 0"),
        ({"prefetch": 0}, "prefetch 0"),
        ({"max_replaced": 1.0}, "max_replaced is 1.0"),
        ({"world_size": 8}, "source weak has 23 clips, less than its share of 24 in one batch over 8 ranks"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    made: tuple[Path, dict[str, BruteForce]], options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        loader_of(made[0], **options)  # type: ignore[arg-type]


def test_coverage_is_told(made: tuple[Path, dict[str, BruteForce]], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="shards"):
        loader = loader_of(made[0])
    told = {(covered.source, covered.target): (covered.labelled, covered.failed) for covered in loader.coverage}
    assert told["weak", "frames"] == told["weak", "clip"] == (21, 2)
    assert told["strong", "frames"] == (14, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "weak/frames: 21 of 23 clips labelled, 2 failed, 0 missing",
        "weak/clip: 21 of 23 clips labelled, 2 failed, 0 missing",
    ]


def test_evaluation_reads_every_clip_once_in_key_order(
    made: tuple[Path, dict[str, BruteForce]], tmp_path: Path
) -> None:
    root, brute = made
    batches = list(evaluation_batches(root, "weak", 10, vocabulary=VOCABULARY, labels=("frames", "clip")))
    assert [len(batch) for batch in batches] == [10, 10, 3]
    assert [key for batch in batches for key in batch.key] == brute["weak"].truth.keys
    for batch in batches:
        assert_equal(batch, brute)
    held_out = Dataset.create(tmp_path / "data", keys="path")
    write_split(held_out, "eval", 3, seed=1, labels=())
    (batch,) = evaluation_batches(held_out, "eval", 3, vocabulary=VOCABULARY)
    assert batch.source == ["eval"] * 3
    with pytest.raises(UsageError, match="batch_size is 0"):
        evaluation_batches(root, "weak", 0, vocabulary=VOCABULARY)


@pytest.mark.parametrize("workers", [0, 2])
def test_metrics_tell_what_was_delivered_and_how_long_it_took(
    made: tuple[Path, dict[str, BruteForce]], workers: int
) -> None:
    loader = loader_of(made[0], workers=workers)
    assert loader.metrics.clips_per_source == {"weak": 0, "strong": 0}
    began = perf_counter()
    for number, _ in enumerate(loader, start=1):
        told = loader.metrics
        assert (told.batches, told.clips) == (number, 5 * number)
        assert told.clips_per_source == {"weak": 3 * number, "strong": 2 * number}
        assert 0 <= told.ready <= 2
    took = perf_counter() - began
    told = loader.metrics
    assert 0 < told.wait_s < took
    stages = (told.read_s, told.audio_s, told.labels_s)
    assert all(seconds > 0 for seconds in stages)
    assert sum(stages) < took * max(1, workers)
    assert str(told).startswith("8 batches, 40 clips (weak 24, strong 16); waited ")
    assert "\n" not in str(told)
