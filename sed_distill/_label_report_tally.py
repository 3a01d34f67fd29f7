"""What a label set says class by class, and how that agrees with people, from one pass over its labels.

Memory is a matter of the classes, not of the clips: clips are ranked within a class by a histogram of their highest
probability, in steps of 1/128 of a logit.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import Vocabulary, ancestors
from shards import HardRows

_STEPS_PER_LOGIT, _MAX_LOGIT = 128, 16
_BINS = 2 * _MAX_LOGIT * _STEPS_PER_LOGIT + 1

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Summed:
    """Of one label: by class the sum of probabilities over its frames and the highest of them."""

    frames: int
    sum: npt.NDArray[np.float64]
    highest: npt.NDArray[np.float32]


def summed(probabilities: npt.NDArray[np.float32]) -> Summed:
    """Of [classes, frames]."""
    return Summed(
        frames=probabilities.shape[1],
        sum=probabilities.sum(axis=1, dtype=np.float64),
        highest=probabilities.max(axis=1),
    )


class Ranking:
    """Clips that have a class and clips that do not, ranked by probability: AUC and average precision.

    Clips within one step count as equal. Both are NaN for a class without clips of both kinds, and for a class that
    people could not choose.
    """

    def __init__(self, classes: Vocabulary, offered: frozenset[str]) -> None:
        self.clips = 0
        self.offered = np.array([mid in offered for mid in classes.mids])
        self._every = np.zeros((len(classes), _BINS), np.int32)
        self._given = np.zeros((len(classes), _BINS), np.int32)
        self._column = np.arange(len(classes))

    def add(self, bins: npt.NDArray[np.int64], given: npt.NDArray[np.int64]) -> None:
        """bins: by class the step of a clip, from `steps`. given: the columns that people gave the clip, each once."""
        self.clips += 1
        self._every[self._column, bins] += 1
        self._given[given, bins[given]] += 1

    @property
    def positives(self) -> npt.NDArray[np.int64]:
        """Clips of each class."""
        positives: npt.NDArray[np.int64] = self._given.sum(axis=1, dtype=np.int64)
        return positives

    @property
    def comparable(self) -> npt.NDArray[np.bool_]:
        positives = self.positives
        return self.offered & (positives > 0) & (positives < self.clips)

    def auc(self) -> _Floats:
        """How often a clip of the class is above one that is not, equal ones half: [classes]."""
        positives = self.positives
        others = self._every - self._given
        below = np.cumsum(others, axis=1, dtype=np.float64) - others / 2
        pairs = positives.astype(np.float64) * (self.clips - positives)
        return np.where(self.comparable, (self._given * below).sum(axis=1) / np.maximum(pairs, 1), np.nan)

    def average_precision(self) -> _Floats:
        """Precision at each step down the ranking, weighted by the share of the clips found there: [classes]."""
        given, every = (part[:, ::-1] for part in (self._given, self._every))
        precision = np.cumsum(given, axis=1, dtype=np.float64) / np.maximum(np.cumsum(every, axis=1, dtype=np.int64), 1)
        found = given / np.maximum(self.positives, 1)[:, None]
        return np.where(self.comparable, (precision * found).sum(axis=1), np.nan)


def steps(highest: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Probabilities -> the step of each in a histogram: logits from -16 to 16, what lies beyond at the ends."""
    p = np.clip(highest.astype(np.float64), 1e-12, 1 - 1e-12)
    logits = np.clip(np.log(p / (1 - p)), -_MAX_LOGIT, _MAX_LOGIT)
    bins: npt.NDArray[np.int64] = np.rint((logits + _MAX_LOGIT) * _STEPS_PER_LOGIT).astype(np.int64)
    return bins


class Disputes:
    """By class the clip on which people and teacher differ most, in both ways: row of the clip, -1 for none.

    missed: people gave the class, and nowhere in the clip is its probability as low. unheard: nobody gave it, nor
    anything that is a kind of it or that it is a kind of, and nowhere is it as high.
    """

    def __init__(self, classes: Vocabulary) -> None:
        self.missed_p = np.full(len(classes), np.inf)
        self.unheard_p = np.full(len(classes), -np.inf)
        self.missed_row, self.unheard_row = (np.full(len(classes), -1, np.int64) for _ in range(2))
        self._mids = classes.mids
        self._related: dict[str, npt.NDArray[np.bool_]] = {}

    def add(
        self,
        row: int,
        highest: npt.NDArray[np.float32],
        given: npt.NDArray[np.int64],
        offered: npt.NDArray[np.bool_],
        named: Iterable[str],
    ) -> None:
        """given: columns that people gave. offered: those they could have given. named: MIDs of all that they named."""
        lower = given[highest[given] < self.missed_p[given]]
        self.missed_p[lower], self.missed_row[lower] = highest[lower], row
        higher = offered & (highest > self.unheard_p)
        for mid in named:
            higher &= ~self._relatives(mid)
        self.unheard_p[higher], self.unheard_row[higher] = highest[higher], row

    def _relatives(self, mid: str) -> npt.NDArray[np.bool_]:
        if mid not in self._related:
            wider = ancestors(mid)
            self._related[mid] = np.array([own in wider or mid in ancestors(own) for own in self._mids])
        return self._related[mid]


class Tally:
    """Everything of a report that one pass gives. `hard` None: nobody labelled the split."""

    def __init__(self, classes: Vocabulary, hard: HardRows | None) -> None:
        self.clips = self.frames = 0
        self._sum = np.zeros(len(classes))
        self._highest_sum = np.zeros(len(classes))
        self.highest = np.zeros(len(classes), np.float32)
        self.clips_from_half = np.zeros(len(classes), np.int64)
        self.hard = hard
        self.weak = Ranking(classes, frozenset() if hard is None else hard.weak_classes)
        self.strong = Ranking(classes, frozenset() if hard is None else hard.strong_classes)
        self.disputes = Disputes(classes)
        self._column = classes.index()

    def add(self, row: int, label: Summed) -> None:
        self.clips += 1
        self.frames += label.frames
        self._sum += label.sum
        self._highest_sum += label.highest
        np.maximum(self.highest, label.highest, out=self.highest)
        self.clips_from_half += label.highest >= 0.5
        if self.hard is None:
            return
        weak, events = self.hard.weak_mids(row), self.hard.events(row)
        strong = None if events is None else sorted({event.mid for event in events})
        bins = steps(label.highest)
        for ranking, mids in ((self.weak, weak), (self.strong, strong)):
            if mids is not None:
                ranking.add(bins, self._columns(mids))
        # Who listened for events heard more than who named the clip.
        mids, offered = (weak, self.weak.offered) if strong is None else (strong, self.strong.offered)
        if mids is not None:
            self.disputes.add(row, label.highest, self._columns(mids), offered, {*mids, *(weak or ())})

    def mean(self) -> _Floats:
        """Of the probabilities of each class over all frames on audio."""
        return self._sum / max(self.frames, 1)

    def mean_highest(self) -> _Floats:
        """Of the highest probability of each class in a clip: the share of clips that the teacher gives the class."""
        return self._highest_sum / max(self.clips, 1)

    def _columns(self, mids: Iterable[str]) -> npt.NDArray[np.int64]:
        return np.array(sorted({self._column[mid] for mid in mids if mid in self._column}), np.int64)
