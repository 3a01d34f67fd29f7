"""What a compact batch expands to is the float32 batch, bit for bit, whatever the worlds and codecs it came from."""

import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline import ClassMap, Grid, TargetSpec, Vocabulary
from shards import Average, Batch, CompactBatch, MixedLoader, Source
from shards.loader.join._join import JoinedSource
from shards.loader.targets._options import TargetOptions
from tests.shards.filling import every_clip, filled, joined
from tests.shards.target_world import ALL, MANY, MIDS, SOME, TURNED, World
from tests.shards.test_targets import assert_equal_batches

VOCABULARIES = st.sampled_from([ALL, TURNED, SOME])
CODECS = st.sampled_from(["small", "faithful", "master", "npy"])
# One frame has no others to even its loss out: `small` stores most such labels as float16.
GRIDS = st.sampled_from([(40, 250), (10, 1_000), (4_000, 3), (10_000, 1), (None, None)])
KINDS = st.sampled_from(["logit", "probability"])
SAMPLES = st.lists(st.sampled_from([1, 639, 640, 641, 63_999, 64_001, 160_000]), min_size=1, max_size=4)
CLASSES = st.sampled_from([ALL, Vocabulary((*MIDS[3:5], "/m/032s66"), ("a", "b", "c")), MANY])


@st.composite
def label_sets(draw: st.DrawFn) -> dict[str, tuple[TargetSpec, str, str]]:
    """Label sets with a codec in each of two splits."""
    made = {}
    for number in range(draw(st.integers(1, 3))):
        hop_ms, frames = draw(GRIDS)
        axes = ("class",) if frames is None else ("class", "time")
        target = TargetSpec(axes=axes, kind=draw(KINDS), vocabulary=draw(VOCABULARIES), hop_ms=hop_ms, frames=frames)  # type: ignore[arg-type]
        made[f"set{number}"] = (target, draw(CODECS), draw(CODECS))
    return made


def both(sources: list[JoinedSource], options: TargetOptions) -> tuple[CompactBatch, Batch]:
    compact = filled(sources, replace(options, compact=True), every_clip(sources))
    batch = filled(sources, options, every_clip(sources))
    assert isinstance(compact, CompactBatch)
    assert isinstance(batch, Batch)
    return compact, batch


@given(
    labels=label_sets(),
    weak=SAMPLES,
    strong=SAMPLES,
    fails=st.sets(st.tuples(st.sampled_from(["set0", "set1"]), st.integers(0, 3))),
    classes=CLASSES,
    temperature=st.sampled_from([1.0, 0.7, 4.0]),
    grid=st.sampled_from([None, None, Grid(hop_ms=100), Grid(frames=300, rule="max")]),
    hard=st.sampled_from([("hard_weak", "hard_strong"), ("hard_weak",), ()]),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_worlds(
    tmp_path_factory: pytest.TempPathFactory,
    labels: dict[str, tuple[TargetSpec, str, str]],
    weak: list[int],
    strong: list[int],
    fails: set[tuple[str, int]],
    classes: Vocabulary | ClassMap,
    temperature: float,
    grid: Grid | None,
    hard: tuple[str, ...],
    seed: int,
) -> None:
    root = tmp_path_factory.mktemp("compact") / "data"
    # Clip 0 of each split has all labels: a label set without any is refused.
    failed = tuple((name, clip) for name, clip in fails if clip)
    for number, (split, samples) in enumerate((("weak", weak), ("strong", strong))):
        of_split = {name: (target, codecs[number]) for name, (target, *codecs) in labels.items()}
        World(root, of_split, tuple(samples), fails=failed, split=split, seed=seed + number)
    map_ = classes if isinstance(classes, ClassMap) else ClassMap.one_to_one(classes)
    asked = tuple(name for name, (target, *_) in labels.items() if map_.columns(target.classes).known.any())
    audio = "mono-16000hz-10000ms"
    sources = [
        joined(root, "weak", asked[:1], audio=audio),
        joined(root, "strong", asked, audio=audio),
        replace(joined(root, "strong", asked, audio=audio), name="without", labels={}, targets=()),
    ]
    compact, batch = both(sources, TargetOptions(vocabulary=classes, temperature=temperature, grid=grid, hard=hard))
    assert_equal_batches(compact.expand(), batch)
    # It is still what it was, also in another process.
    assert_equal_batches(pickle.loads(pickle.dumps(compact)).expand(), batch)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames in another codec in each split, and chunks that `small` has to store as float16."""
    root = tmp_path_factory.mktemp("compact") / "data"
    frames = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=ALL)
    chunk = replace(frames, hop_ms=10_000, frames=1)
    for split, codec, samples in (("weak", "small", (160_000, 99, 64_000)), ("strong", "faithful", (5_000, 160_000))):
        labels = {"frames": (frames, codec), "frames-too": (frames, "master"), "chunk": (chunk, "small")}
        World(root, labels, samples, split=split)
    return root


def test_one_label_set_in_two_codecs_and_labels_without_codes(world: Path) -> None:
    sources = [joined(world, "weak", ("frames", "chunk"), audio="mono-16000hz-10000ms", including=("strong",))]
    compact, batch = both(sources, TargetOptions(vocabulary=ALL, temperature=2))
    assert len(compact.table_start["frames"].unique()) == 2
    places, values = compact.exact["chunk"]
    assert len(places) == len(values) > 0
    assert_equal_batches(compact.expand(), batch)


def test_it_is_less_than_half_of_the_batch(world: Path) -> None:
    sources = [joined(world, "weak", ("frames",), audio="mono-16000hz-10000ms")]
    compact, batch = both(sources, TargetOptions(vocabulary=ALL))
    assert compact.waveform.dtype == compact.codes["frames"].dtype == torch.int16
    assert not compact.targets
    assert _bytes(compact) < 0.51 * _bytes(batch)


def test_what_is_no_code_goes_as_it_is(world: Path) -> None:
    sources = [joined(world, "strong", ("frames", "chunk"), audio="mono-16000hz-10000ms")]
    compact, batch = both(sources, TargetOptions(vocabulary=MANY, grid=Grid(hop_ms=64)))
    assert set(compact.targets) == {"frames", "chunk"}
    assert not compact.codes
    assert_equal_batches(compact.expand(), batch)


def test_moving_a_batch_moves_all_of_it(world: Path) -> None:
    """The device `meta` holds shapes only: what was left behind would be seen."""
    sources = [joined(world, "weak", ("frames", "chunk"), audio="mono-16000hz-10000ms")]
    for batch in both(sources, TargetOptions(vocabulary=ALL)):
        assert all(tensor.device.type == "meta" for tensor in _tensors(batch.to("meta")))
        same = batch.to("cpu", non_blocking=True)
        assert all(one is other for one, other in zip(_tensors(same), _tensors(batch), strict=True))
        assert (same.key, same.source) == (batch.key, batch.source)


@pytest.mark.parametrize("processes", [0, 1])
def test_a_loader_gives_either(world: Path, processes: int) -> None:
    """Threads fill memory that is used again, and a batch survives the way out of a worker process."""
    sources = [
        Source(world, "weak", share=2, labels=("frames", "chunk")),
        Source(world, "strong", share=1, labels=("frames", Average("both", of=("frames", "frames-too")))),
    ]

    def batches(*, compact: bool) -> DataLoader[Any]:
        options: dict[str, Any] = {"temperature": 2, "batches_per_epoch": 6, "compact": compact}
        loader = MixedLoader(sources, 3, vocabulary=ALL, **options)
        return DataLoader(loader, batch_size=None, num_workers=processes)

    for one, other in zip(batches(compact=True), batches(compact=False), strict=True):
        assert_equal_batches(one.expand(), other)
        assert other.weight["both"][2].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_expands_to_the_same(world: Path) -> None:
    sources = [joined(world, "weak", ("frames", "chunk"), audio="mono-16000hz-10000ms", including=("strong",))]
    compact, batch = both(sources, TargetOptions(vocabulary=ALL, temperature=3))
    assert_equal_batches(compact.to("cuda", non_blocking=True).expand().to("cpu"), batch)


def _tensors(batch: Batch | CompactBatch) -> list[Tensor]:
    found: list[Tensor] = []
    for each in fields(batch):
        value = getattr(batch, each.name)
        values = value.values() if isinstance(value, dict) else [value]
        for one in values:
            found += [tensor for tensor in (one if isinstance(one, tuple) else (one,)) if isinstance(tensor, Tensor)]
    return found


def _bytes(batch: Batch | CompactBatch) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(batch))
