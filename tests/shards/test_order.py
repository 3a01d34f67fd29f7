"""The order against a Philox written out here and against brute force over whole epochs."""

import hashlib
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import UsageError
from shards import Balanced, BlockShuffle, Shuffled
from shards.loader.join._join import JoinedSource
from shards.loader.order._order import OrderRule, check_share, draws, exact_shares, permutation
from tests.shards.joined_examples import source_of

_MASK = 2**64 - 1


def philox_words(key: int, count: int) -> list[int]:
    """Philox-4x64-10 (Salmon et al., SC 2011); NumPy increments its counter before the first block."""
    words: list[int] = []
    block = 0
    while len(words) < count:
        block += 1
        counter = [block & _MASK, 0, 0, 0]
        k0, k1 = key & _MASK, key >> 64
        for _ in range(10):
            p0, p1 = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
            counter = [(p1 >> 64) ^ counter[1] ^ k0, p1 & _MASK, (p0 >> 64) ^ counter[3] ^ k1, p0 & _MASK]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & _MASK, (k1 + 0xBB67AE8584CAA73B) & _MASK
        words += counter
    return words[:count]


def philox_key(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


@given(clips=st.integers(1, 60), seed=st.integers(0, 2**40), source=st.text(max_size=5), pass_number=st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_permutation_is_the_argsort_of_philox_words(clips: int, seed: int, source: str, pass_number: int) -> None:
    words = philox_words(philox_key(f"{seed}\n{source}\n{pass_number}"), clips)
    expected = sorted(range(clips), key=lambda clip: words[clip])
    assert permutation(clips, seed, source, pass_number).tolist() == expected


def test_permutation_never_changes() -> None:
    """Runs saved by one version resume in the next: these numbers are part of the contract."""
    assert permutation(10, 0, "strong", 0).tolist() == GOLDEN
    assert permutation(10, 0, "strong", 1).tolist() != GOLDEN
    assert permutation(10, 0, "weak", 0).tolist() != GOLDEN
    assert permutation(10, 1, "strong", 0).tolist() != GOLDEN


GOLDEN = [7, 4, 3, 1, 6, 8, 5, 0, 2, 9]


@given(
    clips=st.integers(1, 30),
    share=st.integers(1, 8),
    world_size=st.integers(1, 5),
    steps=st.integers(1, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_pass_sees_every_clip_once(clips: int, share: int, world_size: int, steps: int, seed: int) -> None:
    taken = [
        draw
        for step in range(steps)
        for rank in range(world_size)
        for draw in draws(step, share=share, rank=rank, world_size=world_size)
    ]
    assert taken == list(range(steps * share * world_size))
    order = Shuffled().of(source_of(clips), seed).clips(range(len(taken))).tolist()
    for start in range(0, len(order) - clips + 1, clips):
        assert sorted(order[start : start + clips]) == list(range(clips))
    counts = Counter(order)
    assert max(counts.values()) - min(counts.get(clip, 0) for clip in range(clips)) <= 1


@given(step=st.integers(0, 10**9), share=st.integers(1, 6), factor=st.integers(1, 6), smaller=st.integers(1, 4))
@settings(max_examples=60)
def test_the_global_batch_is_the_same_for_any_number_of_ranks(step: int, share: int, factor: int, smaller: int) -> None:
    def whole(world_size: int, per_rank: int) -> list[int]:
        return [
            draw for rank in range(world_size) for draw in draws(step, share=per_rank, rank=rank, world_size=world_size)
        ]

    assert whole(smaller * factor, share) == whole(smaller, share * factor)


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    factor=st.integers(1, 4),
    form=st.sampled_from(["counts", "ratios", "scaled"]),
)
@settings(max_examples=100)
def test_any_proportion_the_batch_allows_is_exact(counts: list[int], factor: int, form: str) -> None:
    batch_size = sum(counts) * factor
    scale = {"counts": 1.0, "ratios": 1 / sum(counts), "scaled": 7.0}[form]
    shares = {f"s{i}": count * scale for i, count in enumerate(counts)}
    got = exact_shares(shares, batch_size)
    assert [got[name] for name in shares] == [count * factor for count in counts]


@given(counts=st.lists(st.integers(1, 9), min_size=2, max_size=4), batch_size=st.integers(1, 60))
@settings(max_examples=150)
def test_a_refusal_names_what_would_do(counts: list[int], batch_size: int) -> None:
    shares = {f"s{i}": float(count) for i, count in enumerate(counts)}
    if all(count * batch_size % sum(counts) == 0 for count in counts):
        assert sum(exact_shares(shares, batch_size).values()) == batch_size
        return
    with pytest.raises(UsageError) as refused:
        exact_shares(shares, batch_size)
    nearest = str(refused.value).split("nearest: ")[1]
    sizes = nearest.split("batch_size ")[1].split(" with")[0].split(" or ")
    for size in sizes:
        assert sum(exact_shares(shares, int(size)).values()) == int(size)
    if "with this batch_size" in nearest:
        named = [float(part) for part in nearest.split("shares ")[-1].split(" with")[0].split(" : ")]
        rounded = exact_shares(dict(zip(shares, named, strict=True)), batch_size)
        assert [rounded[name] for name in shares] == named
        assert all(count >= 1 for count in named)
    else:
        assert batch_size < len(counts)


def test_refusal_reads_well() -> None:
    with pytest.raises(
        UsageError, match=r"batch_size 64 has no whole number of clips for shares 1 : 2 of weak, strong; nearest"
    ):
        exact_shares({"weak": 1, "strong": 2}, 64)
    for share in (0, -1, float("nan"), float("inf"), 1e-9):
        with pytest.raises(UsageError, match=f"above 0; got weak: {share}"):
            exact_shares({"weak": share, "strong": 2}, 64)
    with pytest.raises(UsageError, match="above 0; got no source"):
        exact_shares({}, 64)
    with pytest.raises(UsageError, match="at least 1"):
        exact_shares({"weak": 1}, 0)


def test_a_third_written_as_a_float_is_a_third() -> None:
    assert exact_shares({"a": 1 / 3, "b": 2 / 3}, 48) == {"a": 16, "b": 32}
    assert exact_shares({"a": 0.1, "b": 0.9}, 50) == {"a": 5, "b": 45}


RULES: list[OrderRule] = [
    Shuffled(),
    BlockShuffle(2),
    Balanced(by="weak"),
    Balanced(by="weak", replacement=False, draws=11),
]


def world(clips: int = 23) -> JoinedSource:
    """Clips in six shards, all with weak labels."""
    return source_of(clips, shard=[clip % 6 for clip in range(clips)], weak={i: ["abc"[i % 3]] for i in range(clips)})


@pytest.mark.parametrize("rule", RULES)
@given(start=st.integers(0, 200), count=st.integers(0, 60), stride=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_draw_is_the_same_clip_however_it_is_asked_for(
    rule: OrderRule, start: int, count: int, stride: int, seed: int
) -> None:
    asked = range(start, start + count * stride, stride)
    order = rule.of(world(), seed)
    clips = order.clips(asked)
    assert clips.dtype == np.int64
    assert clips.tolist() == [int(rule.of(world(), seed).clips(range(draw, draw + 1))[0]) for draw in asked]
    assert order.clips(asked[::-1]).tolist() == clips.tolist()[::-1]
    assert pickle.loads(pickle.dumps(order)).clips(asked).tolist() == clips.tolist()
    clips[:] = -1
    assert count == 0 or order.clips(asked).min() >= 0


@pytest.mark.parametrize("rule", RULES)
@given(steps=st.integers(1, 12), share=st.integers(1, 3), stop=st.integers(0, 12), seed=st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_ranks_partition_the_global_batch_and_a_run_resumes_on_others(
    rule: OrderRule, steps: int, share: int, stop: int, seed: int
) -> None:
    """4 ranks up to step `stop`, then 2 of twice the share, then 1: the global sequence is that of one rank alone."""
    alone = rule.of(world(), seed).clips(range(steps * 4 * share)).tolist()
    got: list[int] = []
    for step in range(steps):
        ranks = 4 if step < stop else 2 if step < stop + 2 else 1
        for rank in range(ranks):
            part = draws(step, share=share * 4 // ranks, rank=rank, world_size=ranks)
            got += rule.of(world(), seed).clips(part).tolist()
    assert got == alone


def test_orders_differ_by_source_and_seed_and_say_what_they_are() -> None:
    for rule in RULES:
        first = rule.of(world(), 0)
        named = rule.of(
            source_of(23, name="t", shard=[i % 6 for i in range(23)], weak=dict.fromkeys(range(23), "a")), 0
        )
        sequences = [order.clips(range(23)).tolist() for order in (first, rule.of(world(), 1), named)]
        assert sequences[0] not in sequences[1:]
    identities = [rule.of(world(), 0).identity for rule in [*RULES, BlockShuffle(3)]]
    assert len(set(identities)) == len(identities)
    assert identities[0] == "shuffled"


def test_a_share_that_a_source_cannot_fill_without_repeating_is_refused() -> None:
    check_share(world(), Shuffled().of(world(), 0), 23, 1)
    check_share(world(), Balanced(by="weak").of(world(), 0), 24, 1)
    with pytest.raises(UsageError, match="source s has 23 clips, less than its share of 24 in one batch over 2 ranks"):
        check_share(world(), Shuffled().of(world(), 0), 12, 2)
    without = Balanced(by="weak", replacement=False, draws=11).of(world(), 0)
    with pytest.raises(
        UsageError, match="23 clips and an order of 11 draws a pass, less than its share of 12 in one batch; make the"
    ):
        check_share(world(), without, 12, 1)
