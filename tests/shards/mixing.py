"""A mix of two small splits, and what brute force says about its order and its batches."""

import threading
from pathlib import Path

import numpy as np
import torch

from shards import Batch, Dataset, MixedLoader, Source
from shards.loader.order._order import permutation
from tests.shards.small_dataset import VOCABULARY, BruteForce, write_split

CLIPS = {"weak": 23, "strong": 14}


def make_mix(root: Path, keys: str) -> tuple[Path, dict[str, BruteForce]]:
    dataset = Dataset.create(root, keys=keys)  # type: ignore[arg-type]
    brute = {}
    for split, clips in CLIPS.items():
        # Only the weak split has clip labels; two clips of it failed.
        labels, fail = (("frames", "clip"), (4, 11)) if split == "weak" else (("frames",), ())
        truth = write_split(dataset, split, clips, seed=11, labels=labels, fail=fail)
        brute[split] = BruteForce(root, split, truth, audioset=keys == "audioset")
    return root, brute


def loader_of(root: Path, weak: float = 3, strong: float = 2, batch_size: int = 5, **options: object) -> MixedLoader:
    sources = [
        Source(root, "weak", share=weak, labels=("frames", "clip")),
        Source(root, "strong", share=strong, labels=("frames",)),
    ]
    return MixedLoader(sources, batch_size, vocabulary=VOCABULARY, **options)  # type: ignore[arg-type]


def expected_keys(
    step: int, shares: dict[str, int], *, seed: int, rank: int = 0, world_size: int = 1
) -> list[tuple[str, str]]:
    """Every source written out draw by draw, the global batch first, then this rank's part of it."""
    batch = []
    for split, share in shares.items():
        whole = share * world_size
        order: list[int] = []
        while len(order) < (step + 1) * whole:
            order += permutation(CLIPS[split], seed, split, len(order) // CLIPS[split]).tolist()
        global_batch = order[step * whole : (step + 1) * whole]
        batch += [(split, f"{split}-{clip:03d}_0") for clip in global_batch[rank * share : (rank + 1) * share]]
    return batch


def assert_equal(batch: Batch, brute: dict[str, BruteForce]) -> None:
    assert batch.waveform.shape == (len(batch), 160_000)
    assert set(batch.targets) == set(batch.weight) == {"hard_weak", "hard_strong", "frames", "clip"}
    for place, (source, key) in enumerate(zip(batch.source, batch.key, strict=True)):
        row = brute[source].row(key)
        np.testing.assert_array_equal(batch.waveform[place].numpy(), row["waveform"])
        assert batch.valid_frames[place] == row["valid_frames"]
        for name in batch.targets:
            assert batch.targets[name].dtype == batch.weight[name].dtype == torch.float32
            weight = batch.weight[name][place].expand(batch.targets[name][place].shape)
            np.testing.assert_array_equal(weight.numpy(), row[f"{name}.weight"], err_msg=name)
            got = batch.targets[name][place].numpy()
            np.testing.assert_allclose(got, row[name], rtol=1e-6, atol=1e-7, err_msg=f"{name} of {key}")


def assert_same(one: Batch, other: Batch) -> None:
    assert (one.key, one.source) == (other.key, other.source)
    assert torch.equal(one.waveform, other.waveform)
    assert torch.equal(one.valid_frames, other.valid_frames)
    for name in one.targets:
        assert torch.equal(one.targets[name], other.targets[name])
        assert torch.equal(one.weight[name], other.weight[name])


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shards-loader")]
