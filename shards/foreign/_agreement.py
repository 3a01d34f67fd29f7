"""Do labels fit what people heard? Columns in a wrong class order, and rows of wrong clips, show here.

For a class, clips that people gave it should have larger values in its column than clips without it: the area under the
ROC curve (AUC) is near 1 where labels fit and 0.5 where they have nothing to do with the clip or the class. Comparing
clips within a column, not columns within a clip, leaves no room for luck with classes that are everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline import Vocabulary, audioset_strong_447, audioset_strong_456, audioset_weak_527, class_name

MIN_AUC = 0.75
MIN_POSITIVES = 20

_CHANCE_AUC = 0.6  # a class below this is as good as unknown to its column
_MOST_AT_CHANCE = 0.1
_SURE_POSITIVES = 10  # of one class, to say something of that class alone
_SURE_CLASSES = 3  # frequent ones, to say what is wrong
_CLEAR_GAIN = 0.1
_MOST_BY_CHANCE = 0.8  # with more than this, rare classes find a column that fits whatever is wrong
_SEED = 20_250_112
_LISTED = 5

Present = Sequence["frozenset[str] | None"]  # by clip its classes, None where nobody said


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How labels agree with hard labels. auc: 0.5 is chance, mean over classes, frequent ones capped at equal weight.

    worst: the classes with at least 10 clips whose own column fits least, as (name, clips, auc).
    problem: why the classes or the clips cannot be right, empty if they can.
    """

    clips: int
    classes: int
    positives: int
    auc: float
    worst: tuple[tuple[str, int, float], ...]
    problem: str

    @property
    def enough(self) -> bool:
        """Whether there is enough to tell labels that fit from labels that do not."""
        return self.positives >= MIN_POSITIVES


def agreement(values: npt.NDArray[np.float32], vocabulary: Vocabulary, evidence: Sequence[Present]) -> Agreement:
    """Float32 [clips, classes], the largest value of each class in each clip, against what people said of the clips.

    evidence: one or more kinds of hard labels, each with the classes present by clip.
    """
    mids, auc, counts = _auc_table(values, evidence)
    column = vocabulary.index()
    own = [(row, column[mid]) for row, mid in enumerate(mids) if mid in column]
    rows = [row for row, _ in own]
    by_class, weight = auc[rows, [place for _, place in own]], np.minimum(counts[rows], _SURE_POSITIVES)
    mean = float(np.average(by_class, weights=weight)) if len(own) else 0.5
    sure = np.flatnonzero(counts[rows] >= _SURE_POSITIVES)
    worst = sure[np.argsort(by_class[sure], kind="stable")][:_LISTED]
    positives = int(counts[rows].sum())
    problem = ""
    if positives >= MIN_POSITIVES:
        other = _better_order(auc, counts, mids, vocabulary)
        lost = sure[by_class[sure] < _CHANCE_AUC]
        if other is not None:
            name, fit, stated, differing = other
            problem = (
                f"the columns are in another class order: {name!r} fits with an AUC of {fit:.2f}, the order of the "
                f"format with {stated:.2f}, over the {differing} classes where the two differ"
            )
        elif mean < MIN_AUC:
            frequent = [(row, place) for row, place in own if counts[row] >= MIN_POSITIVES]
            chosen = [row for row, _ in frequent]
            shuffled = np.random.default_rng(_SEED).permutation(len(values))
            _, by_chance, _ = _auc_table(values[shuffled], evidence)
            problem = _what_is_wrong(
                np.array([auc[row, place] for row, place in frequent]),
                auc[chosen].max(axis=1),
                by_chance[chosen].max(axis=1),
                mean,
            )
        elif len(sure) >= _SURE_POSITIVES and len(lost) > _MOST_AT_CHANCE * len(sure):
            names = ", ".join(class_name(mids[rows[i]]) for i in lost[:_LISTED])
            problem = f"{len(lost)} of {len(sure)} classes fit no better than chance ({names}): columns are mixed up"
    return Agreement(
        clips=len(values),
        classes=len(own),
        positives=positives,
        auc=round(mean, 4),
        worst=tuple((class_name(mids[rows[i]]), int(counts[rows[i]]), round(float(by_class[i]), 4)) for i in worst),
        problem=problem,
    )


def _auc_table(
    values: npt.NDArray[np.float32], evidence: Sequence[Present]
) -> tuple[tuple[str, ...], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Classes that people heard, the AUC of each of them in every column [heard, columns], and clips of each [heard].

    Kinds of evidence are averaged by the clips that each has of a class.
    """
    mids = tuple(sorted({mid for present in evidence for clip in present for mid in clip or ()}))
    place = {mid: row for row, mid in enumerate(mids)}
    total = np.zeros((len(mids), values.shape[1]))
    counts = np.zeros(len(mids), np.int64)
    for present in evidence:
        known = [i for i, clip in enumerate(present) if clip is not None]
        truth = np.zeros((len(known), len(mids)))
        for row, i in enumerate(known):
            truth[row, [place[mid] for mid in present[i] or ()]] = 1
        positives = truth.sum(axis=0)
        usable = (positives > 0) & (positives < len(known))  # without clips of both kinds there is no curve
        ranks = _ranks(values[known])
        above = truth.T @ ranks - positives[:, None] ** 2 / 2
        pairs = np.where(usable, positives * (len(known) - positives), 1)
        total += np.where(usable[:, None], above / pairs[:, None], 0) * positives[:, None]
        counts += np.where(usable, positives, 0).astype(np.int64)
    kept = counts > 0
    return (
        tuple(mid for mid, keep in zip(mids, kept, strict=True) if keep),
        total[kept] / counts[kept][:, None],
        counts[kept],
    )


def _ranks(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """For each value how many of its column are smaller, plus half of those that are equal, itself included."""
    ranks = np.empty(values.shape)
    for column in range(values.shape[1]):
        ordered = np.sort(values[:, column])
        below, up_to = (np.searchsorted(ordered, values[:, column], side) for side in ("left", "right"))
        ranks[:, column] = (below + up_to) / 2
    return ranks


def _better_order(
    auc: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], mids: Sequence[str], stated: Vocabulary
) -> tuple[str, float, float, int] | None:
    """A known order that fits where it differs from the stated one, and clearly better: name, both AUCs, classes."""
    here = stated.index()
    best: tuple[str, float, float, int] | None = None
    for name, order in known_orders(stated).items():
        there = {mid: column for column, mid in enumerate(order)}
        differing = [
            (row, there[mid], here[mid])
            for row, mid in enumerate(mids)
            if mid in there and mid in here and there[mid] != here[mid]
        ]
        if not differing:
            continue
        rows, theirs, ours = (np.array(part) for part in zip(*differing, strict=True))
        weight = np.minimum(counts[rows], _SURE_POSITIVES).astype(np.float64)
        # The variance of an AUC without signal is 1 / (12 n); four deviations are no accident.
        deviation = float(np.sqrt((weight**2 / (6 * counts[rows])).sum()) / weight.sum())
        fit, fit_stated = (float(np.average(auc[rows, part], weights=weight)) for part in (theirs, ours))
        enough = counts[rows].sum() >= MIN_POSITIVES and fit >= MIN_AUC
        clearly = enough and fit - fit_stated > max(0.1, 4 * deviation)
        if clearly and (best is None or fit > best[1]):
            best = name, fit, fit_stated, len(differing)
    return best


def _what_is_wrong(
    own: npt.NDArray[np.float64],
    best: npt.NDArray[np.float64],
    by_chance: npt.NDArray[np.float64],
    mean: float,
) -> str:
    """Tell columns in an unknown order from rows that belong to other clips, as far as the frequent classes can.

    Of each of these the AUC of its own column, that of the column that fits best, and that of the one that fits best
    after the rows were shuffled. `mean`: over all classes.
    """
    fit = f"labels agree with the hard labels with an AUC of {mean:.2f}, chance is 0.50, {MIN_AUC} is needed"
    if len(own) >= _SURE_CLASSES:
        gain, luck = float((best - own).mean()), float((best - by_chance).mean())
        if gain < _CLEAR_GAIN / 2 and mean >= _CHANCE_AUC:
            return f"{fit}; no known class order fits better: many rows belong to other clips than their names say"
        if gain >= _CLEAR_GAIN and luck >= _CLEAR_GAIN:
            return f"{fit}; other columns than their own fit the classes: the columns are in an order that is not known"
        if luck < _CLEAR_GAIN / 2 and by_chance.mean() < _MOST_BY_CHANCE:
            return (
                f"{fit}; no column fits any class: the rows belong to other clips than their names say (a wrong index)"
            )
    return (
        f"{fit}; either the columns are in a class order that is not known, or the rows belong to other clips than "
        "their names say (a wrong index)"
    )


def known_orders(stated: Vocabulary) -> Mapping[str, tuple[str, ...]]:
    """Orders that files of as many classes have been seen in, or are easily put in, besides `stated` itself: MIDs."""
    orders = {name: order(stated) for name, order in _ORDERS.items()}
    return {name: order for name, order in orders.items() if len(order) == len(stated) and order != stated.mids}


def _by_name(vocabulary: Vocabulary, spell: Callable[[str], str]) -> tuple[str, ...]:
    return tuple(mid for _, mid in sorted(zip(map(spell, vocabulary.names), vocabulary.mids, strict=True)))


def _weak_first(vocabulary: Vocabulary) -> tuple[str, ...]:
    place = audioset_weak_527().index()
    return tuple(sorted(vocabulary.mids, key=lambda mid: (place.get(mid, len(place)), mid)))


@lru_cache(maxsize=1)
def _weak_names() -> dict[str, str]:
    return dict(zip(audioset_weak_527().mids, audioset_weak_527().names, strict=True))


_ORDERS: dict[str, Callable[[Vocabulary], tuple[str, ...]]] = {
    "sorted by MID": lambda stated: tuple(sorted(stated.mids)),
    "sorted by name": lambda stated: _by_name(stated, str),
    "sorted by name regardless of case": lambda stated: _by_name(stated, str.lower),
    "sorted by weak name": lambda stated: tuple(
        sorted(stated.mids, key=lambda mid: _weak_names().get(mid, class_name(mid)))
    ),
    "class_labels_indices.csv, then the classes it lacks": _weak_first,
    "the first of the 527 weak classes": lambda stated: audioset_weak_527().mids[: len(stated)],
    "the first of the 456 strong classes by MID": lambda stated: audioset_strong_456().mids[: len(stated)],
    "the 447 of published frame labels": lambda stated: audioset_strong_447().mids,
}
