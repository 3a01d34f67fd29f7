"""A state is refused by every loader that would give other batches, and by none that would give the same."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import UsageError, hard_table, write_hard
from shards import (
    Average,
    Balanced,
    Batch,
    BlockShuffle,
    Confidence,
    Dataset,
    LabelShardWriter,
    MixedLoader,
    Source,
)
from tests.shards.mixing import assert_same
from tests.shards.small_dataset import FRAME_LOGITS, MIDS, SPEC, VOCABULARY, write_split

SETS = ("frames", "other")
Make = Callable[[Path], MixedLoader]


def write(root: Path, clips_per_shard: int = 7) -> Path:
    dataset = Dataset.create(root, keys="path")
    write_split(dataset, "weak", 23, seed=1, labels=("frames",), clips_per_shard=clips_per_shard)
    for audio in dataset.audio_shards("weak", SPEC.name):
        with LabelShardWriter(
            dataset.labels_folder("weak", "other"), audio, target=FRAME_LOGITS, provenance={"teacher": "other"}
        ) as labels:
            for key in audio.clips.key:
                rng = np.random.default_rng([3, *key.encode()])
                labels.add(key, rng.normal(-2, 2, FRAME_LOGITS.shape).astype(np.float32))
            labels.commit()
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("states") / "data")


def loader(options: dict[str, object] | None = None, **source: object) -> Make:
    def make(root: Path) -> MixedLoader:
        given = {"share": 1, "labels": SETS, **source}
        whole = {"vocabulary": VOCABULARY, "workers": 0, "batches_per_epoch": 5, **(options or {})}
        return MixedLoader([Source(root, "weak", **given)], 4, **whole)  # type: ignore[arg-type]

    return make


def averaged(**options: object) -> Make:
    return loader(labels=(Average("both", **{"of": SETS, **options}),))  # type: ignore[arg-type]


def balanced(**options: object) -> Make:
    return loader(order=Balanced(by="weak", **options))  # type: ignore[arg-type]


def two_and_the_rest(loader: MixedLoader) -> tuple[dict[str, object], list[Batch]]:
    batches = iter(loader)
    next(batches), next(batches)
    return loader.state_dict(), list(batches)


def same(one: Batch, other: Batch) -> bool:
    """In clips, audio and targets; by other names of sources or targets they are others."""
    if (one.key, one.source, one.targets.keys()) != (other.key, other.source, other.targets.keys()):
        return False
    return all(torch.equal(target, other.targets[name]) for name, target in one.targets.items())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (averaged(), averaged(domain="probability")),
        (averaged(), averaged(weights=(1, 2))),
        (averaged(weights=(2, 1)), averaged(weights=(1, 2))),
        (loader(labels=("frames",)), loader(labels=("other",))),
        (loader(), loader(order=BlockShuffle(2))),
        (loader(order=BlockShuffle(2)), loader(order=BlockShuffle(3))),
        (loader(), balanced()),
        (balanced(), balanced(replacement=False, draws=9)),
        (balanced(replacement=False, draws=9), balanced(replacement=False, draws=8)),
        (loader(), loader(first=22)),
        (loader(), loader(exclude=("weak-003_0",))),
        (loader(), loader(classes=MIDS[:2])),
        (loader(), loader(confidence=Confidence("other", at_least=0.5))),
        (loader(), loader(name="another")),
    ],
)
def test_what_gives_other_batches_is_refused(root: Path, first: Make, second: Make) -> None:
    state, rest = two_and_the_rest(first(root))
    _, other = two_and_the_rest(second(root))
    assert not all(map(same, rest, other))
    with pytest.raises(UsageError, match="loader state is of another run"):
        second(root).load_state_dict(state)


def test_other_labels_in_the_same_place_are_refused(tmp_path: Path) -> None:
    """Of people as of teachers: a part of the labels that came, went or changed while training was stopped."""
    root = write(tmp_path / "data")
    state, _ = two_and_the_rest(loader()(root))
    dataset = Dataset.open(root)
    hard = dataset.hard_path("weak")
    before = hard.read_bytes()
    write_hard(hard, hard_table(["weak-001_0"], weak={"weak-001_0": [MIDS[0]]}))
    with pytest.raises(UsageError, match="another run: data is"):
        loader()(root).load_state_dict(state)
    hard.write_bytes(before)
    loader()(root).load_state_dict(state)
    for path in dataset.labels_folder("weak", "other").glob("000001.*"):
        path.unlink()
    with pytest.raises(UsageError, match="another run: data is"):
        loader()(root).load_state_dict(state)


def test_what_gives_the_same_batches_is_accepted(root: Path, tmp_path: Path) -> None:
    state, rest = two_and_the_rest(loader()(root))
    resharded = write(tmp_path / "resharded", clips_per_shard=4)
    for folder, options in (
        (root, {"workers": 2, "prefetch": 4}),
        (root, {"compact": True}),
        (root, {"max_replaced": 0.5}),
        (resharded, {}),
    ):
        resumed = loader(options)(folder)
        resumed.load_state_dict(state)
        for one, two in zip(rest, resumed, strict=True):
            assert_same(one, two.expand() if options.get("compact") else two)  # type: ignore[attr-defined]


def test_an_order_by_shards_is_of_its_shards(root: Path, tmp_path: Path) -> None:
    blocks = loader(order=BlockShuffle(2))
    state, _ = two_and_the_rest(blocks(root))
    with pytest.raises(UsageError, match="another run: orders is"):
        blocks(write(tmp_path / "resharded", clips_per_shard=4)).load_state_dict(state)
