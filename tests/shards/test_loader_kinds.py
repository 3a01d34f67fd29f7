"""Arguments of a wrong kind are refused in one line where they are given, whatever they would have done later."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import AudioSpec, UsageError
from shards import (
    Balanced,
    Batch,
    BlockShuffle,
    Confidence,
    MixedLoader,
    ShardCache,
    Source,
    crop_to,
    evaluation_batches,
    gain,
    mixup,
    polarity,
    roll_time,
    rotate_foa,
)
from tests.shards.mixing import make_mix
from tests.shards.small_dataset import VOCABULARY


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mix(tmp_path_factory.mktemp("mixed") / "data", "path")[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sources", Source("/data", "weak", share=1)),
        ("sources", ["weak"]),
        ("batch_size", 8.0),
        ("seed", None),
        ("seed", 1.5),
        ("seed", torch.tensor(3)),
        ("rank", "0"),
        ("workers", "2"),
        ("prefetch", True),
        ("max_replaced", "0.1"),
        ("max_replaced", float("nan")),
        ("batches_per_epoch", 2.5),
        ("cache", "/local/cache"),
        ("vocabulary", ["/m/09x0r"]),
        ("temperature", "2"),
        ("grid", 64),
    ],
)
def test_a_loader_says_what_is_wrong_with_an_argument(root: Path, name: str, value: object) -> None:
    given = {"sources": [Source(root, "weak", share=1)], "batch_size": 4, "vocabulary": VOCABULARY, name: value}
    refused(lambda: MixedLoader(**given), name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", 5),
        ("split", None),
        ("share", "half"),
        ("labels", ("frames", 3)),
        ("audio", AudioSpec()),
        ("including", 5),
        ("exclude", 5),
        ("confidence", 0.5),
        ("first", 2.5),
        ("name", 5),
    ],
)
def test_a_source_says_what_is_wrong_with_an_argument(name: str, value: object) -> None:
    refused(lambda: Source(**{"dataset": "/data", "split": "weak", "share": 1, name: value}), name)  # type: ignore[arg-type]


def test_labels_that_can_be_gone_through_once_are_all_there() -> None:
    assert Source("/data", "weak", share=1, labels=(name for name in ("a", "b"))).labels == ("a", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("offset", lambda root: Balanced(by="weak", offset=1.5)),  # type: ignore[arg-type]
        ("window", lambda root: BlockShuffle(window="8")),  # type: ignore[arg-type]
        ("at_least", lambda root: Confidence("frames", at_least="half")),  # type: ignore[arg-type]
        ("on a store", lambda root: ShardCache("s3://bucket/cache", max_bytes=10**9)),
        ("cannot be written", lambda root: ShardCache(root / "dataset.json", max_bytes=10**9)),
        ("max_bytes", lambda root: ShardCache(root.parent / "cache", max_bytes="1 GB")),  # type: ignore[arg-type]
        ("labels", lambda root: evaluation_batches(root, "dev", 4, vocabulary=VOCABULARY, labels="frames")),
        ("batch_size", lambda root: evaluation_batches(root, "dev", "4", vocabulary=VOCABULARY)),  # type: ignore[arg-type]
    ],
)
def test_so_do_the_things_they_are_given(root: Path, match: str, call: Callable[[Path], object]) -> None:
    refused(lambda: call(root), match)


def test_augmentations_take_batches_and_finite_numbers(root: Path) -> None:
    compact = next(iter(MixedLoader([Source(root, "weak", share=1)], 4, vocabulary=VOCABULARY, compact=True)))
    generator = torch.Generator()
    calls: list[Callable[..., Batch]] = [gain, polarity, rotate_foa, roll_time, mixup]
    for call in calls:
        refused(lambda call=call: call(compact, generator=generator), "expand")
        refused(lambda call=call: call(compact.expand(), generator=np.random.default_rng()), "generator|waveforms")
    batch = compact.expand()
    for value in (float("inf"), float("nan"), "1"):
        refused(lambda value=value: mixup(batch, generator=generator, alpha=value), "alpha")
        refused(lambda value=value: roll_time(batch, generator=generator, sigma_s=value), "sigma_s")
    refused(lambda: crop_to(batch, clip_ms=4000.0, generator=generator), "clip_ms")  # type: ignore[arg-type]


def test_places_in_the_mix_are_whole_numbers(root: Path) -> None:
    loader = MixedLoader([Source(root, "weak", share=1)], 4, vocabulary=VOCABULARY)
    refused(lambda: loader.set_epoch("1"), "epoch")  # type: ignore[arg-type]
    refused(lambda: loader.set_epoch(2**60), "epoch")
    refused(lambda: loader.advance(1.5), "batches")  # type: ignore[arg-type]
    refused(lambda: loader.load_state_dict(None), "state")  # type: ignore[arg-type]
    assert loader.state_dict()["step"] == loader.epoch == 0


def refused(call: Callable[[], Any], match: str) -> None:
    with pytest.raises(UsageError, match=match) as error:
        call()
    assert "\n" not in str(error.value)
