"""Weighted draws against the published formulas written out, exact frequencies, and logarithms of 40 digits."""

import random
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import Event, UsageError, Vocabulary, frame_labels
from shards import Balanced
from shards.loader.order._balanced import minus_log, thresholds, weights_of
from tests.shards.joined_examples import source_of
from tests.shards.test_order import philox_key, philox_words

CLASSES = ("a", "b", "c", "d")
UNITS = 1000 << 32


def some_events(rng: random.Random) -> list[Event]:
    events = []
    for _ in range(rng.randrange(5)):
        onset = rng.randrange(0, 9_000)
        events.append(Event(onset, onset + rng.randrange(1, 3_000), rng.choice(CLASSES)))
    return events


@given(seed=st.integers(0, 10**6), offset=st.integers(0, 200), seconds=st.sampled_from([10, 4.1, 0.02]))
@settings(max_examples=40, deadline=None)
def test_strong_weights_are_the_published_formula(seed: int, offset: int, seconds: float) -> None:
    rng = random.Random(seed)
    events = {clip: some_events(rng) for clip in range(17) if rng.random() < 0.8}
    source = source_of(17, events=events, seconds=seconds)
    valid = -(-int(source.samples[0]) // 640)
    vocabulary = Vocabulary(CLASSES, CLASSES)
    frames = np.array(
        [frame_labels(events.get(clip, []), vocabulary)[:, :valid].sum(1, dtype=int) for clip in range(17)]
    )
    total = frames.sum(0)
    wanted = [
        sum(int(count) * (UNITS // int(offset + of_all)) for count, of_all in zip(row, total, strict=True) if of_all)
        for row in frames
    ]
    assert weights_of(source, "strong", offset).tolist() == wanted
    exact = [
        sum(Fraction(1000 * int(n), int(offset + of_all)) for n, of_all in zip(row, total, strict=True) if of_all)
        for row in frames
    ]
    assert wanted == pytest.approx([float(weight * 2**32) for weight in exact], rel=1e-6)


@given(seed=st.integers(0, 10**6), offset=st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_weak_weights_are_the_published_formula(seed: int, offset: int) -> None:
    """A class that a clip names twice counts once."""
    rng = random.Random(seed)
    weak = {clip: rng.choices(CLASSES, k=rng.randrange(4)) for clip in range(17) if rng.random() < 0.8}
    counts = Counter(mid for mids in weak.values() for mid in set(mids))
    wanted = [sum(UNITS // (offset + counts[mid]) for mid in set(weak.get(clip, []))) for clip in range(17)]
    assert weights_of(source_of(17, weak=weak), "weak", offset).tolist() == wanted


def test_published_offsets_are_the_defaults() -> None:
    source = source_of(3, weak={0: ["a"], 1: ["a", "b"]}, events={0: [Event(0, 400, "a")]})
    for by, offset, other in (("weak", 100, 30), ("strong", 30, 100)):
        wanted = Balanced(by=by, offset=offset).of(source, 0)  # type: ignore[arg-type]
        got = Balanced(by=by).of(source, 0)  # type: ignore[arg-type]
        assert got.identity == wanted.identity
        assert got.identity != Balanced(by=by, offset=other).of(source, 0).identity  # type: ignore[arg-type]


@given(weights=st.lists(st.integers(0, 2**50), min_size=1, max_size=60).filter(any))
@settings(max_examples=100)
def test_thresholds_are_the_exact_quotients(weights: list[int]) -> None:
    got = thresholds(np.array(weights)).tolist()
    assert got == [sum(weights[: i + 1]) * 2**63 // sum(weights) for i in range(len(weights))]


def test_logarithms_are_right_to_the_last_digits() -> None:
    rng = np.random.default_rng(0)
    u = np.concatenate(
        [rng.random(2_000), 2.0 ** -rng.integers(1, 53, 50), 1 - 2.0 ** -rng.integers(1, 53, 200), [1.0]]
    )
    with localcontext() as context:
        context.prec = 40
        for value, got in zip(u.tolist(), minus_log(u).tolist(), strict=True):
            wanted = -Decimal(value).ln()
            assert abs(Decimal(got) - wanted) <= wanted * Decimal("1e-15")


WEIGHTED = {0: ["a"], 1: ["a"], 2: ["a", "b"], 3: ["a"], 4: ["c"], 6: ["b", "c", "d"]}


def test_draws_with_replacement_are_the_words_looked_up_among_the_running_sums() -> None:
    source = source_of(8, weak=WEIGHTED, name="somebody's")
    bounds = [sum(weights_of(source, "weak", 3).tolist()[: i + 1]) for i in range(8)]
    drawn = Balanced(by="weak", offset=3).of(source, 5).clips(range(65_536 - 6, 65_536 + 6)).tolist()
    words = [
        *philox_words(philox_key("5\nsomebody's\n0\nwith replacement"), 65_536)[-6:],
        *philox_words(philox_key("5\nsomebody's\n1\nwith replacement"), 6),
    ]
    assert drawn == [next(i for i in range(8) if (word >> 1) < bounds[i] * 2**63 // bounds[-1]) for word in words]


def chi_square(counts: Sequence[int], probabilities: Sequence[float]) -> float:
    total = sum(counts)
    return sum((n - total * p) ** 2 / (total * p) for n, p in zip(counts, probabilities, strict=True) if p)


def test_draws_with_replacement_come_as_often_as_they_weigh() -> None:
    source = source_of(8, weak=WEIGHTED)
    weights = weights_of(source, "weak", 2)
    counts = np.bincount(Balanced(by="weak", offset=2).of(source, 0).clips(range(200_000)), minlength=8)
    assert (counts[weights == 0] == 0).all()
    assert len(set(weights[weights > 0].tolist())) == 4  # frequencies that a wrong weight would move
    # 5 degrees of freedom: above 20.5 once in a thousand seeds.
    assert chi_square(counts.tolist(), (weights / weights.sum()).tolist()) < 20.5


def test_draws_without_replacement_are_the_smallest_exponentials() -> None:
    source = source_of(8, weak=WEIGHTED)
    weights = weights_of(source, "weak", 100).tolist()
    clips = [clip for clip in range(8) if weights[clip]]
    order = Balanced(by="weak", replacement=False, draws=4).of(source, 7)
    with localcontext() as context:
        context.prec = 40
        for number in range(20):
            words = philox_words(philox_key(f"7\ns\n{number}\nwithout replacement"), len(clips))
            keys = {
                clip: -((Decimal(word >> 12) + Decimal("0.5")) / 2**52).ln() / weights[clip]
                for clip, word in zip(clips, words, strict=True)
            }
            assert order.clips(range(4 * number, 4 * number + 4)).tolist() == sorted(clips, key=keys.__getitem__)[:4]


def test_draws_without_replacement_are_drawn_among_those_that_are_left() -> None:
    """First and second clip of a pass have the frequencies of drawing one after the other, by the same weights."""
    source = source_of(8, weak=WEIGHTED)
    weights = weights_of(source, "weak", 1)
    first_two = (
        Balanced(by="weak", offset=1, replacement=False, draws=2).of(source, 3).clips(range(10_000)).reshape(-1, 2)
    )
    assert (first_two[:, 0] != first_two[:, 1]).all()
    p = weights / weights.sum()
    second = [sum(p[i] * p[j] / (1 - p[i]) for i in range(8) if i != j) for j in range(8)]
    for column, probabilities in ((0, p.tolist()), (1, second)):
        counts = np.bincount(first_two[:, column], minlength=8).tolist()
        assert chi_square(counts, probabilities) < 20.5


@given(clips=st.integers(1, 30), part=st.integers(1, 30), passes=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_pass_without_replacement_has_no_clip_twice(clips: int, part: int, passes: int, seed: int) -> None:
    source = source_of(clips, weak={clip: CLASSES[: clip % 4 + 1] for clip in range(clips)})
    draws = min(part, clips)
    order = Balanced(by="weak", replacement=False, draws=draws).of(source, seed)
    assert order.distinct == draws
    for one in order.clips(range(passes * draws)).reshape(passes, draws).tolist():
        assert len(set(one)) == draws
        assert set(one) <= set(range(clips))


def test_weighted_draws_never_change() -> None:
    """Runs saved by one version resume in the next: these numbers are part of the contract."""
    source = source_of(8, weak=WEIGHTED, events={0: [Event(0, 90, "x")], 5: [Event(40, 2_000, "y"), Event(0, 80, "x")]})
    assert Balanced(by="weak").of(source, 0).clips(range(12)).tolist() == WITH
    assert Balanced(by="weak", replacement=False, draws=5).of(source, 0).clips(range(10)).tolist() == WITHOUT
    assert Balanced(by="strong").of(source, 0).clips(range(12)).tolist() == STRONG


WITH = [6, 1, 1, 4, 6, 6, 6, 4, 6, 6, 4, 0]
WITHOUT = [3, 6, 0, 2, 1, 1, 0, 6, 2, 3]
STRONG = [5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 0]


def test_the_identity_follows_the_hard_labels() -> None:
    """A state saved before somebody corrected them would go on with other clips: it has to be refused."""
    first = Balanced(by="weak").of(source_of(8, weak=WEIGHTED), 0)
    corrected = Balanced(by="weak").of(source_of(8, weak={**WEIGHTED, 3: ["b"]}), 0)
    assert first.identity == Balanced(by="weak").of(source_of(8, weak=WEIGHTED), 1).identity
    assert first.identity != corrected.identity
    assert first.clips(range(99)).tolist() != corrected.clips(range(99)).tolist()


def test_what_cannot_be_balanced_is_refused() -> None:
    with pytest.raises(UsageError, match="by 'loud', needs one of strong, weak"):
        Balanced(by="loud")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="offset -1"):
        Balanced(by="weak", offset=-1)
    for wrong in ({"replacement": False}, {"draws": 5}, {"replacement": False, "draws": 0}):
        with pytest.raises(UsageError, match=r"without replacement a pass is draws=1 or more clips"):
            Balanced(by="weak", **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="source s has no clip with a strong hard label to be balanced by"):
        Balanced(by="strong").of(source_of(8, weak=WEIGHTED), 0)
    with pytest.raises(UsageError, match="source s has 6 clips with a weak hard label, less than the 7 draws"):
        Balanced(by="weak", replacement=False, draws=7).of(source_of(8, weak=WEIGHTED), 0)
