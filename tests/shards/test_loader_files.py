"""Shards deleted, cut, exchanged and blocked for real: what stands in is what brute force says, for any workers."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline import IntegrityError
from shards import AudioSidecar, Batch, Dataset
from tests.shards.mixing import assert_equal, assert_same, expected_keys, loader_of, loader_threads, make_mix
from tests.shards.small_dataset import SPEC, BruteForce

SHARES = {"weak": 3, "strong": 2}
STEPS = 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, BruteForce]]:
    return make_mix(tmp_path_factory.mktemp("mixed") / "data", "path")


@pytest.fixture
def own(made: tuple[Path, dict[str, BruteForce]], tmp_path: Path) -> tuple[Path, dict[str, BruteForce]]:
    """A copy of the dataset, to damage."""
    shutil.copytree(made[0], tmp_path / "data")
    return tmp_path / "data", made[1]


def strong_shard(root: Path) -> AudioSidecar:
    return Dataset(root).audio_shards("strong", SPEC.name)[0]


def delete(shard: AudioSidecar) -> set[str]:
    shard.tar_path.unlink()
    return set(shard.clips.key)


def cut(shard: AudioSidecar) -> set[str]:
    end = shard.clips.offset[4] + 10
    os.truncate(shard.tar_path, end)
    places = zip(shard.clips.key, shard.clips.offset, shard.clips.length, strict=True)
    return {key for key, offset, length in places if offset + length > end}


def exchange(shard: AudioSidecar) -> set[str]:
    """Another tar of the same length, under the same name."""
    content = bytearray(shard.tar_path.read_bytes())
    content[shard.clips.offset[2] :] = bytes(len(content) - shard.clips.offset[2])
    other = shard.tar_path.with_suffix(".other")
    other.write_bytes(content)
    other.replace(shard.tar_path)
    return set(shard.clips.key[2:])


def block(shard: AudioSidecar) -> set[str]:
    """A pipe, whose reader waits for ever for a writer."""
    shard.tar_path.unlink()
    os.mkfifo(shard.tar_path)
    return set(shard.clips.key)


def stand_ins(damaged: set[str]) -> list[list[tuple[str, str]]]:
    """Of every step, each damaged clip replaced by the one in the same place of a later step."""
    steps = [expected_keys(step, SHARES, seed=0) for step in range(STEPS + 30)]
    return [
        [
            next(steps[later][place] for later in range(step, len(steps)) if steps[later][place][1] not in damaged)
            for place in range(5)
        ]
        for step in range(STEPS)
    ]


def keys(batch: Batch) -> list[tuple[str, str]]:
    return list(zip(batch.source, batch.key, strict=True))


@pytest.mark.parametrize("damage", [delete, cut, exchange, block])
def test_a_damaged_shard_is_replaced_alike_for_any_workers(
    own: tuple[Path, dict[str, BruteForce]], damage: Callable[[AudioSidecar], set[str]]
) -> None:
    root, brute = own
    damaged = damage(strong_shard(root))
    assert 2 < len(damaged) <= 7
    first: list[Batch] = []
    for workers in (0, 1, 8):
        loader = loader_of(root, batches_per_epoch=STEPS, max_replaced=0.5, workers=workers)
        batches = list(loader)
        assert [keys(batch) for batch in batches] == stand_ins(damaged)
        assert {clip.key for clip in loader.replaced} == damaged
        assert loader.metrics.replaced == len(damaged)
        assert not loader_threads()
        for batch in batches:
            assert_equal(batch, brute)
        first = first or batches
        for one, other in zip(first, batches, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("damage", [delete, cut, exchange])
@pytest.mark.parametrize("workers", [0, 3])
def test_damage_while_training_makes_no_wrong_batch(
    own: tuple[Path, dict[str, BruteForce]], damage: Callable[[AudioSidecar], set[str]], workers: int
) -> None:
    """What was read before, or from a tar that is still open, is the clip itself; everything else its stand-in."""
    root, brute = own
    loader = loader_of(root, batches_per_epoch=STEPS, max_replaced=0.5, workers=workers)
    damaged: set[str] = set()
    for step, batch in enumerate(loader):
        if step == 1:
            damaged = damage(strong_shard(root))
        assert_equal(batch, brute)
        whole = expected_keys(step, SHARES, seed=0)
        assert len(keys(batch)) == len(whole)
        replaced = {clip.key for clip in loader.replaced}
        for got, wanted, instead in zip(keys(batch), whole, stand_ins(damaged)[step], strict=True):
            assert got == wanted or (got == instead and wanted[1] in damaged and wanted[1] in replaced)
    assert step == STEPS - 1
    assert {clip.key for clip in loader.replaced} <= damaged
    assert bool(loader.replaced) == (damage is cut)  # the others are whole as long as they are open


@pytest.mark.parametrize("workers", [0, 3])
def test_a_shard_that_is_gone_stops_the_run_with_the_list(
    own: tuple[Path, dict[str, BruteForce]], workers: int
) -> None:
    gone = delete(strong_shard(own[0]))
    loader = loader_of(own[0], batches_per_epoch=STEPS, workers=workers)
    with pytest.raises(IntegrityError, match="6 clips cannot be read, too many to replace; restore them") as stopped:
        list(loader)
    assert sum(key in str(stopped.value) or "000000.tar: cannot be read" in str(stopped.value) for key in gone) == 7
    assert not loader_threads()
    strict = loader_of(own[0], batches_per_epoch=STEPS, workers=workers, max_replaced=0)
    with pytest.raises(IntegrityError, match="1 clips cannot be read"):
        list(strict)


def test_a_source_of_which_nothing_can_be_read_stops_at_once(own: tuple[Path, dict[str, BruteForce]]) -> None:
    for shard in Dataset(own[0]).audio_shards("weak", SPEC.name):
        delete(shard)
    with pytest.raises(IntegrityError, match="too many to replace"):
        next(iter(loader_of(own[0], max_replaced=0.9)))


def test_memory_stays_and_what_is_kept_stays_as_it_is(made: tuple[Path, dict[str, BruteForce]]) -> None:
    for workers, prefetch in ((0, 2), (2, 1), (2, 3)):
        loader = loader_of(made[0], batches_per_epoch=40, workers=workers, prefetch=prefetch)
        kept = None
        for step, batch in enumerate(loader):
            if step == 3:
                kept, copied = batch.targets["frames"][2, 1:], batch.targets["frames"][2, 1:].clone()
        # Those ahead, the caller's, the one that the caller's variable still has while it waits; and what was kept.
        assert loader._maker.pool.allocated == 1 + 2 + (prefetch if workers else 0)
        assert kept is not None
        assert torch.equal(kept, copied)
    whole = list(loader_of(made[0], batches_per_epoch=12))
    for step, batch in enumerate(whole):
        assert keys(batch) == expected_keys(step, SHARES, seed=0)
        assert_equal(batch, made[1])
