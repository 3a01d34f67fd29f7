"""Targets over classes, temperatures, grids and averages, and those of other axes, against what numpy makes of them."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import (
    AudioSpec,
    ClassMap,
    Event,
    Grid,
    TargetSpec,
    UsageError,
    Vocabulary,
    dog_baby_gunshot,
    valid_frames,
)
from shards import Average, Batch, CompactBatch, Dataset, LabelShardWriter
from shards.loader._fill import Filler
from shards.loader._read import Tars
from shards.loader.targets._hard_targets import HardStrong
from shards.loader.targets._options import TargetOptions
from shards.loader.targets._targets import TargetLayout
from tests.shards.filling import every_clip, filled, joined
from tests.shards.joined_examples import source_of
from tests.shards.target_world import ALL, MANY, MIDS, SOME, TURNED, Truth, World

FRAMES = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=ALL)
CHUNKS = replace(FRAMES, hop_ms=4_000, frames=3, context_ms=4_000)
CLIP = TargetSpec(axes=("class",), kind="logit", vocabulary=ALL, hop_ms=None, frames=None)
LABELS = {
    "frames": (FRAMES, "npy"),
    "other": (FRAMES, "faithful"),
    "likely": (replace(FRAMES, kind="probability"), "master"),
    "turned": (replace(FRAMES, vocabulary=TURNED), "small"),
    "some": (replace(FRAMES, vocabulary=SOME), "small"),
    "time-major": (replace(FRAMES, axes=("time", "class"), vocabulary=TURNED), "npy"),
    "chunks": (replace(CHUNKS, axes=("time", "class"), kind="probability"), "master"),
    "delayed": (CHUNKS, "faithful"),
    "clip": (CLIP, "npy"),
    "few": (replace(CLIP, kind="probability", vocabulary=SOME), "small"),
}
SAMPLES = (160_000, 1, 640, 64_000, 64_001, 159_999, 12_345, 160_000)
FAILS = (("frames", 0), ("other", 1), ("clip", 2), ("some", 4), ("chunks", 7))
TOLERANCE = {"rtol": 3e-6, "atol": 1e-7}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("targets") / "data", LABELS, SAMPLES, fails=FAILS)


def batch_of(world: World, labels: tuple[str | Average, ...], options: TargetOptions) -> Batch:
    """Every clip of `world`, in order; what compact makes of it is the same, bit for bit."""
    sources = [joined(world.root, world.split, labels, audio=world.spec.name)]
    batch = filled(sources, options, every_clip(sources))
    compact = filled(sources, replace(options, compact=True), every_clip(sources))
    assert isinstance(batch, Batch)
    assert isinstance(compact, CompactBatch)
    assert_equal_batches(compact.expand(), batch)
    assert batch.key == world.keys
    return batch


def assert_equal_batches(one: Batch, other: Batch) -> None:
    assert list(one.targets) == list(one.weight) == list(other.targets)
    for name in one.targets:
        assert torch.equal(one.targets[name], other.targets[name]), name
        assert torch.equal(one.weight[name], other.weight[name]), name
    assert torch.equal(one.waveform, other.waveform)
    assert torch.equal(one.valid_frames, other.valid_frames)
    assert (one.key, one.source, one.axes, one.hop_ms) == (other.key, other.source, other.axes, other.hop_ms)
    assert one.sample_rate == other.sample_rate


def check(batch: Batch, name: str, truths: list[Truth]) -> None:
    """The target, its weight as one broadcasts it, and that the target is 0 where that is."""
    target, weight = batch.targets[name].numpy(), batch.weight[name].numpy()
    assert target.dtype == weight.dtype == np.float32
    assert weight.ndim == target.ndim
    for place, truth in enumerate(truths):
        where = f"{name} of {batch.key[place]}"
        np.testing.assert_array_equal(np.broadcast_to(weight[place], truth.weight.shape), truth.weight, err_msg=where)
        np.testing.assert_allclose(target[place], truth.target, **TOLERANCE, err_msg=where)
        assert not target[place][truth.weight == 0].any()


MAPS = {
    "one to one": ClassMap.one_to_one(ALL),
    "turned and some": ClassMap.one_to_one(Vocabulary((*MIDS[4:], "/m/032s66"), ("a", "b", "c", "d"))),
    "highest": MANY,
    "noisy or": replace(MANY, rule="noisy_or"),
    "same class twice": ClassMap(Vocabulary(("x", "y"), ("X", "Y")), ((MIDS[3],), (MIDS[3],))),
}
GRIDS = {
    "10 ms": Grid(hop_ms=10),
    "64 ms": Grid(hop_ms=64),
    "100 ms, highest": Grid(hop_ms=100, rule="max"),
    "156 frames": Grid(frames=156),
    "40 ms": Grid(hop_ms=40),
}


@pytest.mark.parametrize("classes", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_label_sets_over_the_loaders_classes(world: World, classes: ClassMap, temperature: float) -> None:
    has_some = classes.columns(SOME).known.any()
    names = [name for name in LABELS if has_some or LABELS[name][0].vocabulary is not SOME]
    vocabulary = classes.vocabulary if classes is MAPS["turned and some"] else classes
    batch = batch_of(world, tuple(names), TargetOptions(vocabulary=vocabulary, temperature=temperature))
    assert list(batch.targets) == ["hard_weak", "hard_strong", *names]
    for name in names:
        truths = [world.soft(key, {name: 1}, classes, temperature=temperature) for key in world.keys]
        check(batch, name, truths)
        known = classes.columns(LABELS[name][0].classes).known.all()
        frames = LABELS[name][0].frames
        assert batch.weight[name].shape[1] == (1 if known and frames else len(classes))
        assert batch.axes[name] == (("class", "time") if frames else ("class",))
    check(batch, "hard_weak", [world.hard_weak(key, classes) for key in world.keys])
    check(batch, "hard_strong", [world.hard_strong(key, classes, Fraction(40), 250) for key in world.keys])
    assert batch.hop_ms["chunks"] == 4_000
    for place, key in enumerate(world.keys):
        np.testing.assert_array_equal(batch.waveform[place].numpy(), world.waveform(key))
        assert batch.valid_frames[place] == world.valid(key, Fraction(40), 250)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("classes", [MAPS["one to one"], MAPS["noisy or"]], ids=["one to one", "noisy or"])
def test_a_grid_is_that_of_events_and_of_frames_but_not_of_chunks(world: World, grid: Grid, classes: ClassMap) -> None:
    labels = ("frames", "some", "time-major", "chunks", "clip")
    batch = batch_of(world, labels, TargetOptions(vocabulary=classes, grid=grid, temperature=2))
    for name in labels:
        own = grid if name not in ("chunks", "clip") else None
        truths = [world.soft(key, {name: 1}, classes, temperature=2, grid=own) for key in world.keys]
        check(batch, name, truths)
    check(batch, "hard_strong", [world.hard_strong(key, classes, grid.hop, grid.count) for key in world.keys])
    assert batch.hop_ms["frames"] == batch.hop_ms["hard_strong"] == grid.hop
    assert batch.hop_ms["chunks"] == 4_000
    assert [int(frames) for frames in batch.valid_frames] == [world.valid(key, Fraction(40), 250) for key in world.keys]


HOPS = st.one_of(
    st.sampled_from([Fraction(10), Fraction(40), Fraction(64), Fraction(125, 2), Fraction(1000)]),
    st.integers(1, 400).map(lambda frames: Fraction(10_000, frames)),
)


def layout_of(hop: Fraction) -> TargetLayout:
    grid = Grid(hop_ms=hop)
    return TargetLayout(axes=("class", "time"), shape=(len(ALL), grid.count), hop_ms=grid.hop)


@given(hop=HOPS, samples=st.integers(1, 170_000), sample_rate=st.sampled_from([16_000, 24_000, 44_100]))
@settings(max_examples=100, deadline=None)
def test_valid_frames_are_those_that_begin_on_audio(hop: Fraction, samples: int, sample_rate: int) -> None:
    layout, length_ms = layout_of(hop), Fraction(samples * 1000, sample_rate)
    assert layout.valid_frames(samples, sample_rate) == sum(t * hop < length_ms for t in range(layout.frames))
    assert layout_of(Fraction(40)).valid_frames(samples, sample_rate) == valid_frames(samples, sample_rate)


@given(hop=HOPS, onset=st.integers(0, 10_050), length=st.integers(1, 3000), valid=st.integers(1, 250))
@settings(max_examples=100, deadline=None)
def test_events_are_active_where_they_reach_into_a_frame(hop: Fraction, onset: int, length: int, valid: int) -> None:
    hard = source_of(1, events={0: [Event(onset, onset + length, MIDS[2])]}).hard
    layout = layout_of(hop)
    runs = HardStrong(hard, ClassMap.one_to_one(ALL), layout).runs(0, min(valid, layout.frames))
    active = [t for t in range(min(valid, layout.frames)) if t * hop < onset + length and (t + 1) * hop > onset]
    assert runs is not None
    cells = [cell for start, length in zip(*runs, strict=True) for cell in range(start, start + length)]
    assert cells == [2 * layout.frames + t for t in active]


def test_a_label_that_ends_before_the_clip_is_absent_behind_its_end(tmp_path: Path) -> None:
    labels = {"short": (replace(FRAMES, frames=100), "small")}
    world = World(tmp_path / "data", labels, (160_000, 64_001, 3_000))
    for grid in (None, *GRIDS.values()):
        batch = batch_of(world, ("short",), TargetOptions(vocabulary=ALL, grid=grid))
        check(batch, "short", [world.soft(key, {"short": 1}, MAPS["one to one"], grid=grid) for key in world.keys])


@pytest.mark.parametrize("domain", ["logit", "probability"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("classes", [MAPS["one to one"], MAPS["turned and some"], MANY], ids=["all", "some", "many"])
def test_label_sets_are_averaged(world: World, domain: str, temperature: float, classes: ClassMap) -> None:
    averages = (
        Average("even", of=("frames", "other", "likely"), domain=domain),  # type: ignore[arg-type]
        Average("uneven", of=("other", "frames"), domain=domain, weights=(3, 1)),  # type: ignore[arg-type]
    )
    batch = batch_of(world, (*averages, "frames"), TargetOptions(vocabulary=classes, temperature=temperature))
    assert list(batch.targets) == ["hard_weak", "hard_strong", "even", "uneven", "frames"]
    shares = {"even": dict.fromkeys(("frames", "other", "likely"), 1 / 3), "uneven": {"other": 0.75, "frames": 0.25}}
    for name, sets in shares.items():
        check(
            batch,
            name,
            [world.soft(key, sets, classes, domain=domain, temperature=temperature) for key in world.keys],
        )
        assert not batch.weight[name][:2].any()  # each of the two lacks one of the sets
    assert batch.weight["frames"][1].any()


def test_probabilities_of_0_and_1_have_a_finite_share_in_an_average_of_logits(tmp_path: Path) -> None:
    one = TargetSpec(axes=("class",), kind="probability", vocabulary=SOME, hop_ms=None, frames=None)
    world = World(tmp_path / "data", {"a": (one, "npy"), "b": (one, "npy")}, (100,))
    # 1 and 0 for one class: their logits average to 0.
    world.stored["a"]["strong-000_0"][:] = world.stored["b"]["strong-000_0"][:] = 0
    world.stored["a"]["strong-000_0"][0] = 1
    _rewrite(world, "a"), _rewrite(world, "b")
    batch = batch_of(world, (Average("mean", of=("a", "b")),), TargetOptions(vocabulary=SOME))
    np.testing.assert_allclose(batch.targets["mean"][0].numpy(), [0.5, 0, 0], atol=1e-9)


def _rewrite(world: World, name: str) -> None:
    dataset = Dataset.open(world.root)
    folder = dataset.labels_folder(world.split, name)
    for path in folder.iterdir():
        path.unlink()
    (audio,) = dataset.audio_shards(world.split, world.spec.name)
    with LabelShardWriter(folder, audio, target=world.targets[name][0], provenance={}, codec="npy") as labels:
        for key in world.keys:
            labels.add(key, world.stored[name][key].astype(np.float32))
        labels.commit()


def test_sound_event_localisation_keeps_the_axes_and_values_it_has(tmp_path: Path) -> None:
    """SELD: first order ambisonics at 24 kHz, 5 s, frames of 100 ms, 3 tracks, 13 classes."""
    classes = Vocabulary(tuple(f"/m/{i}" for i in range(13)), tuple(f"class {i}" for i in range(13)))
    own = {"context_ms": 5_000, "hop_ms": 100, "frames": 50, "tracks": 3}
    sed = TargetSpec(axes=("time", "track", "class"), kind="probability", vocabulary=classes, **own)  # type: ignore[arg-type]
    labels = {
        "sed": (sed, "master"),
        "direction": (TargetSpec(axes=("time", "track", "xyz"), kind="unit_vector", **own), "master"),  # type: ignore[arg-type]
        "distance": (TargetSpec(axes=("time", "track"), kind="metre", **own), "npy"),  # type: ignore[arg-type]
    }
    spec = AudioSpec(sample_rate=24_000, layout="foa", clip_ms=5_000)
    world = World(tmp_path / "data", labels, (120_000, 2_401, 60_000), spec, fails=(("distance", 2),))
    options = TargetOptions(vocabulary=classes, grid=Grid(hop_ms=20, clip_ms=5_000))
    batch = batch_of(world, tuple(labels), options)
    assert batch.waveform.shape == (3, 4, 120_000)
    assert (batch.sample_rate, batch.valid_frames.tolist()) == (24_000, [125, 3, 63])
    assert batch.targets["hard_strong"].shape == (3, 13, 250)
    for name, (target, _) in labels.items():
        assert batch.axes[name] == target.axes
        assert batch.hop_ms[name] == 100
        assert batch.weight[name].shape == (3, 50, *(1,) * (len(target.shape) - 1))
        truths = []
        for key in world.keys:
            weight, values = np.zeros((2, *target.shape))
            if key in world.stored[name]:
                valid = world.valid(key, Fraction(100), 50)
                weight[:valid], values[:valid] = 1, world.stored[name][key][:valid]
            truths.append(Truth(values, weight))
        check(batch, name, truths)
    for place, key in enumerate(world.keys):
        np.testing.assert_array_equal(batch.waveform[place].numpy(), world.waveform(key))


def test_three_classes_of_the_weak_list(world: World) -> None:
    """Quantized distillation: dog, baby cry and gunshot with all their kinds."""
    classes = dog_baby_gunshot()
    batch = batch_of(world, ("clip",), TargetOptions(vocabulary=classes, hard=("hard_weak",)))
    assert list(batch.targets) == ["hard_weak", "clip"]
    assert batch.targets["clip"].shape == batch.weight["clip"].shape == (len(SAMPLES), 3)
    check(batch, "clip", [world.soft(key, {"clip": 1}, classes) for key in world.keys])
    check(batch, "hard_weak", [world.hard_weak(key, classes) for key in world.keys])


def test_sources_that_lack_targets_or_classes(world: World, tmp_path: Path) -> None:
    """One source has only some classes of a label set, the other all: both get weights of the classes they have."""
    other = World(
        tmp_path / "data",
        {"frames": (replace(FRAMES, vocabulary=SOME), "small"), "only": (CLIP, "small")},
        (160_000, 5_000),
        split="weak",
        seed=1,
    )
    sources = [
        joined(world.root, "strong", ("frames",), audio=world.spec.name),
        joined(other.root, "weak", ("frames", "only"), audio=other.spec.name),
    ]
    options = TargetOptions(vocabulary=ALL)
    batch = filled(sources, options, every_clip(sources))
    compact = filled(sources, replace(options, compact=True), every_clip(sources))
    assert isinstance(batch, Batch)
    assert isinstance(compact, CompactBatch)
    assert_equal_batches(compact.expand(), batch)
    assert batch.weight["frames"].shape == (len(batch), 7, 250)
    classes = ClassMap.one_to_one(ALL)
    nothing = Truth(np.zeros(7), np.zeros(7))
    check(
        batch,
        "frames",
        [of.soft(key, {"frames": 1}, classes) for of in (other, world) for key in of.keys],
    )
    check(batch, "only", [other.soft(key, {"only": 1}, classes) for key in other.keys] + [nothing] * len(world.keys))


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (
            (Average("hard_weak", of=("frames", "other")),),
            {},
            "two targets hard_weak; ask for it once, and give an average another name",
        ),
        ((Average("some", of=("frames", "other")), "some"), {}, "two targets some"),
        ((Average("a", of=("frames", "turned")),), {}, "cannot average label set turned with frames"),
        ((Average("a", of=("frames", "chunks")),), {}, "cannot average label set chunks with frames"),
        (("some",), {"vocabulary": Vocabulary(("/m/032s66",), ("Gunshot",))}, "has none of the loader's 1 classes"),
        ((), {"grid": Grid(hop_ms=100, clip_ms=5_000)}, "grid is of clips of 5000 ms, the audio has 10000 ms"),
    ],
)
def test_what_cannot_be_a_target_is_refused(
    world: World, labels: tuple[str | Average, ...], options: dict[str, object], message: str
) -> None:
    sources = [joined(world.root, "strong", labels, audio=world.spec.name)]
    with pytest.raises(UsageError, match=message):
        Filler(sources, TargetOptions(**{"vocabulary": ALL, **options}), Tars())  # type: ignore[arg-type]


def test_one_name_for_two_kinds_of_label_is_refused(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "data", {"frames": (CHUNKS, "npy")}, (100,), split="weak")
    fine = World(tmp_path / "fine", {}, (100,), AudioSpec(sample_rate=32_000))
    sources = [joined(each.root, each.split, ("frames",), audio=each.spec.name) for each in (world, other)]
    with pytest.raises(UsageError, match=r"\(7, 3\) with a hop of 4000 ms per clip, elsewhere \(7, 250\)"):
        Filler(sources, TargetOptions(vocabulary=ALL), Tars())
    sources[1] = joined(fine.root, fine.split, audio=fine.spec.name)
    with pytest.raises(UsageError, match="sources of one mix need one audio spec"):
        Filler(sources, TargetOptions(vocabulary=ALL), Tars())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Average("a", of=("one",)), "needs two or more different label sets"),
        (lambda: Average("a", of=("one", "one")), "needs two or more different label sets"),
        (lambda: Average("a", of="one"), "needs two or more different label sets"),  # type: ignore[arg-type]
        (lambda: Average("a", of=("one", "two"), weights=(1,)), "needs one number above 0 for each"),
        (lambda: Average("a", of=("one", "two"), weights=(1, 0)), "needs one number above 0 for each"),
        (lambda: Average("a", of=("one", "two"), domain="loss"), "needs logit or probability"),  # type: ignore[arg-type]
        (lambda: TargetOptions(vocabulary=ALL, temperature=0), "temperature is 0"),
        (lambda: TargetOptions(vocabulary=ALL, temperature=float("inf")), "temperature is inf"),
        (lambda: TargetOptions(vocabulary=ALL, hard=("hard",)), "needs a tuple out of hard_weak, hard_strong"),
        (lambda: TargetOptions(vocabulary=ALL, hard="hard_weak"), "needs a tuple out of"),  # type: ignore[arg-type]
    ],
)
def test_options_that_mean_nothing_are_refused(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]
