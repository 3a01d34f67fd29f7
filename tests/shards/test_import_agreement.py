"""Agreement with hard labels against a count of pairs, and on real weak labels."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline import (
    Vocabulary,
    audioset_strong_447,
    audioset_strong_456,
    audioset_weak_527,
    read_weak_csv,
)
from shards.foreign._agreement import agreement, known_orders

NAMES = Vocabulary(tuple(f"/m/{i}" for i in range(6)), tuple(f"class {i}" for i in range(6)))


def brute_force(values: npt.NDArray[np.float32], present: list[frozenset[str] | None], mid: str, column: int) -> float:
    known = [(value, mid in clip) for value, clip in zip(values[:, column], present, strict=True) if clip is not None]
    inside, outside = ([value for value, has in known if has == wanted] for wanted in (True, False))
    won = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    return float(np.mean(won))


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, (60, 6)).astype(np.float32)  # small integers: many ties, as a zero tail makes
    present = [
        None if rng.random() < 0.2 else frozenset(f"/m/{i}" for i in rng.permutation(6)[: rng.integers(0, 3)])
        for _ in range(60)
    ]
    found = agreement(values, NAMES, [present])
    counts = [sum(clip is not None and f"/m/{i}" in clip for clip in present) for i in range(6)]
    each = [brute_force(values, present, f"/m/{i}", i) for i in range(6)]
    assert found.positives == sum(counts)
    assert found.auc == pytest.approx(np.average(each, weights=np.minimum(counts, 10)), abs=1e-4)
    for name, clips, auc in found.worst:
        row = int(name.removeprefix("/m/"))
        assert (clips, auc) == (counts[row], pytest.approx(each[row], abs=1e-4))


def test_kinds_of_evidence_are_weighted_by_their_clips() -> None:
    rng = np.random.default_rng(9)
    values = rng.normal(size=(80, 6)).astype(np.float32)
    weak = [frozenset({f"/m/{i % 3}"}) if i < 60 else None for i in range(80)]
    strong = [frozenset({f"/m/{i % 2}"}) if i >= 30 else None for i in range(80)]
    found = agreement(values, NAMES, [weak, strong])
    expected, weights = [], []
    for i in range(3):
        counts = [sum(clip is not None and f"/m/{i}" in clip for clip in part) for part in (weak, strong)]
        each = [brute_force(values, p, f"/m/{i}", i) for p, n in zip((weak, strong), counts, strict=True) if n]
        expected.append(np.average(each, weights=[n for n in counts if n]))
        weights.append(min(sum(counts), 10))
    assert found.auc == pytest.approx(np.average(expected, weights=weights), abs=1e-4)


def test_too_little_is_not_enough_to_tell() -> None:
    values = np.zeros((6, 6), np.float32)
    present = [frozenset({"/m/0"})] * 3 + [frozenset[str]()] * 3
    assert not agreement(values, NAMES, [present]).enough
    assert not agreement(values, NAMES, [[None] * 6]).enough
    assert not agreement(values, NAMES, [[frozenset({"/m/0"})] * 6]).enough  # nothing to compare it with


@pytest.fixture(scope="module")
def real(shared: Path) -> tuple[npt.NDArray[np.float32], list[frozenset[str]]]:
    """Logits a good teacher could give 800 clips of the eval list; and their weak labels, one in seven left out."""
    rng = np.random.default_rng(4)
    listed = read_weak_csv(shared / "data" / "eval_segments.csv").column("weak_mids").to_pylist()
    present = [frozenset(listed[i]) for i in rng.permutation(len(listed))[:800]]
    place = audioset_weak_527().index()
    values = rng.normal(-5, 1.5, (800, 527))
    for row, mids in enumerate(present):
        values[row, [place[mid] for mid in mids]] += 4
    heard = [frozenset(mid for mid in mids if rng.random() > 1 / 7) for mids in present]
    return values.astype(np.float32), heard


def test_real_labels_in_the_right_order_are_taken(real: tuple[npt.NDArray[np.float32], list[frozenset[str]]]) -> None:
    values, present = real
    found = agreement(values, audioset_weak_527(), [present, [None] * len(present)])
    assert found.problem == ""
    assert found.auc > 0.9


def test_wrong_orders_of_real_labels_are_named(real: tuple[npt.NDArray[np.float32], list[frozenset[str]]]) -> None:
    values, present = real
    place = audioset_weak_527().index()
    orders = known_orders(audioset_weak_527())
    assert len(orders) >= 3
    for name, order in orders.items():
        wrong = values[:, [place[mid] for mid in order]]
        problem = agreement(wrong, audioset_weak_527(), [present]).problem
        same = [other for other, mids in orders.items() if sum(a != b for a, b in zip(mids, order, strict=True)) < 30]
        assert any(f"another class order: '{other}'" in problem for other in same), (name, problem)


def test_wrong_rows_of_real_labels_are_found(real: tuple[npt.NDArray[np.float32], list[frozenset[str]]]) -> None:
    values, present = real
    rng = np.random.default_rng(5)
    assert "a wrong index" in agreement(values[rng.permutation(800)], audioset_weak_527(), [present]).problem
    half = np.concatenate([np.arange(400), 400 + rng.permutation(400)])
    assert "many rows" in agreement(values[half], audioset_weak_527(), [present]).problem
    assert "not known" in agreement(values[:, rng.permutation(527)], audioset_weak_527(), [present]).problem


@pytest.mark.parametrize("clips", [24, 40, 80])
@pytest.mark.parametrize("seed", range(3))
def test_what_cannot_be_told_apart_is_not_claimed(clips: int, seed: int) -> None:
    """Few clips: whatever order the columns have, one of so many fits a rare class by chance."""
    rng = np.random.default_rng([clips, seed])
    mids = audioset_strong_447().mids
    heard = rng.permutation(447)[:30]
    present = [frozenset(mids[i] for i in rng.permutation(heard)[: rng.integers(1, 5)]) for _ in range(clips)]
    place = audioset_strong_447().index()
    values = rng.normal(-6, 1.5, (clips, 447)).astype(np.float32)
    for row, clip in enumerate(present):
        values[row, [place[mid] for mid in clip]] += 6

    def told(changed: npt.NDArray[np.float32]) -> str:
        return agreement(changed, audioset_strong_447(), [present, present]).problem

    either = "; either the columns are in a class order that is not known, or the rows belong to other clips"
    assert told(values) == ""
    for columns in (values[:, rng.permutation(447)], values[:, ::-1]):
        assert either in told(columns) or "; other columns than their own" in told(columns)
    rows = told(values[rng.permutation(clips)])
    assert either in rows or "; no column fits any class: the rows belong to other clips" in rows


def test_some_columns_mixed_up_are_found(real: tuple[npt.NDArray[np.float32], list[frozenset[str]]]) -> None:
    values, present = real
    columns = np.arange(527)
    columns[::5] = np.roll(columns[::5], 1)
    assert "columns are mixed up" in agreement(values[:, columns], audioset_weak_527(), [present]).problem


def test_orders_that_447_columns_are_seen_in() -> None:
    orders = known_orders(audioset_strong_447())
    assert orders["sorted by MID"] == tuple(sorted(audioset_strong_447().mids))
    assert orders["the first of the 527 weak classes"] == audioset_weak_527().mids[:447]
    assert orders["the first of the 456 strong classes by MID"] == audioset_strong_456().mids[:447]
    assert audioset_strong_447().mids not in orders.values()
    assert all(len(order) == len(set(order)) == 447 for order in orders.values())
