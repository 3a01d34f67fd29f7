"""Block shuffle against the same in Python's integers, and how many shards it holds open."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import UsageError
from shards import BlockShuffle, Shuffled
from shards.loader.order._block_order import shuffle_quality
from tests.shards.joined_examples import source_of
from tests.shards.test_order import philox_key, philox_words


def expected_pass(shard: Sequence[int], window: int, seed: int, number: int) -> list[int]:
    """Shards numbered 0..; every clip of the k-th shard of a pass at a time while that one is open."""
    shards = max(shard) + 1
    turns = philox_words(philox_key(f"{seed}\ns\n{number}\nshards"), shards)
    by_turn = sorted(range(shards), key=turns.__getitem__)
    units = max(1, shards - window + 1)
    times = []
    for of, word in zip(shard, philox_words(philox_key(f"{seed}\ns\n{number}\nclips"), len(shard)), strict=True):
        turn = by_turn.index(of)
        opens, closes = max(0, turn - window + 1), min(turn + 1, units)
        times.append((opens << 32) + (word >> 32) * (closes - opens))
    return sorted(range(len(shard)), key=times.__getitem__)


LAYOUTS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def shards_of(sizes: Sequence[int]) -> list[int]:
    """As many clips of each shard as `sizes` says, dealt out in turn."""
    left = list(itertools.chain.from_iterable([shard] * size for shard, size in enumerate(sizes)))
    return left[::2] + left[1::2]


@given(sizes=LAYOUTS, window=st.integers(1, 14), seed=st.integers(0, 99), passes=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_a_pass_is_every_clip_once_out_of_a_window_of_shards(
    sizes: list[int], window: int, seed: int, passes: int
) -> None:
    shard = shards_of(sizes)
    order = BlockShuffle(window).of(source_of(len(shard), shard=shard), seed)
    drawn = order.clips(range(passes * len(shard))).reshape(passes, len(shard)).tolist()
    for number, one in enumerate(drawn):
        assert one == expected_pass(shard, window, seed, number)
        assert sorted(one) == list(range(len(shard)))
        of = [shard[clip] for clip in one]
        spans = {name: (of.index(name), len(of) - of[::-1].index(name)) for name in set(of)}
        for place in range(len(of)):
            assert sum(first <= place < last for first, last in spans.values()) <= window


@given(window=st.integers(2, 9), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_run_of_fewer_clips_than_a_shard_touches_one_shard_more_than_the_window(window: int, seed: int) -> None:
    """Shards of 200 clips: within a unit of time about as many are drawn, at least half of them."""
    shard = np.repeat(np.arange(30), 200).tolist()
    of = np.array(shard)[BlockShuffle(window).of(source_of(len(shard), shard=shard), seed).clips(range(len(shard)))]
    touched = [len(set(of[first : first + 100].tolist())) for first in range(0, len(of) - 100, 25)]
    assert max(touched) <= window + 1
    assert max(touched) >= window


def test_shuffle_quality_is_what_pairs_counted_one_by_one_say() -> None:
    shard = shards_of([5, 9, 2, 7, 8])
    source = source_of(len(shard), shard=shard)
    for rule in (Shuffled(), BlockShuffle(2)):
        order = rule.of(source, 3)
        quality = shuffle_quality(order, source.audio.shard, 6)
        of = [shard[clip] for clip in order.clips(range(len(shard))).tolist()]
        pairs = [pair for first in range(0, 30, 6) for pair in itertools.combinations(of[first : first + 6], 2)]
        assert quality.same_shard == pytest.approx(sum(one == other for one, other in pairs) / len(pairs))
        apart = [j - i for i, j in itertools.combinations(range(len(of)), 2) if of[i] == of[j]]
        assert quality.spread == pytest.approx(np.mean(apart) / len(of))
        spans = [(of.index(name), len(of) - of[::-1].index(name)) for name in set(of)]
        most = max(sum(first <= place < last for first, last in spans) for place in range(len(of)))
        assert (quality.shards_open, quality.shards) == (most, 5)


@pytest.mark.parametrize(("shard", "share"), [([0, 0, 1], 1), ([0, 0, 1], 4), ([0, 1, 2], 2)])
def test_without_pairs_there_is_no_shuffle_quality(shard: list[int], share: int) -> None:
    source = source_of(len(shard), shard=shard)
    with pytest.raises(UsageError, match="shuffle quality is of pairs of clips"):
        shuffle_quality(Shuffled().of(source, 0), source.audio.shard, share)


def test_a_wide_window_is_a_full_shuffle_and_a_narrow_one_is_not() -> None:
    shard = np.repeat(np.arange(40), 50).tolist()
    source = source_of(len(shard), shard=shard)
    wide, narrow = (shuffle_quality(BlockShuffle(window).of(source, 0), source.audio.shard, 50) for window in (40, 4))
    assert wide.same_shard == pytest.approx(wide.same_shard_permuted, rel=0.1) == pytest.approx(1 / 40, rel=0.1)
    assert wide.spread == pytest.approx(1 / 3, rel=0.05)
    assert 1 / 5 < narrow.same_shard < 2 / 5
    assert narrow.spread < 4 / 40
    assert (narrow.shards_open, wide.shards_open) == (4, 40)


def test_the_order_is_of_this_layout_and_says_so() -> None:
    first, same, other = (
        BlockShuffle(2).of(source_of(6, shard=shard), 0)
        for shard in ([0, 0, 1, 1, 2, 2], [4, 4, 5, 5, 9, 9], [0, 1, 0, 1, 2, 2])
    )
    assert first.identity == same.identity
    assert first.clips(range(12)).tolist() == same.clips(range(12)).tolist()
    assert first.identity != other.identity
    assert first.identity != BlockShuffle(3).of(source_of(6, shard=[0, 0, 1, 1, 2, 2]), 0).identity
    with pytest.raises(UsageError, match="window of 0 shards; needs 1 to 1048576"):
        BlockShuffle(0)


def test_a_block_pass_never_changes() -> None:
    """Runs saved by one version resume in the next: these numbers are part of the contract."""
    order = BlockShuffle(2).of(source_of(10, shard=[0, 0, 0, 1, 1, 2, 2, 2, 3, 3]), 0)
    assert order.clips(range(10)).tolist() == GOLDEN


GOLDEN = [6, 0, 2, 1, 5, 7, 9, 3, 4, 8]
