"""All that a report says of one label set, as figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import Vocabulary
from sed_distill._label_report_psds import MEDIAN_FRAMES, LabelPsds, label_psds
from sed_distill._label_report_set import OpenLabels, Progress
from sed_distill._label_report_tally import Ranking, Tally, summed
from shards import Agreement, Dataset, HardRows, agreement, join_hard, made_by
from teachers import in_sample

AGREEMENT_CLIPS = 2_000
_SURE_CLIPS = 10  # of a class, to say something of that class alone
_SEED = 20_250_602
_CHANCE_AUC = 0.6
_NO_FIT = "labels agree with the hard labels with an AUC of"  # the problem where no known class order is better
_OTHER_ORDER = "classes in another order"


@dataclass(frozen=True, kw_only=True)
class LabelFacts:
    """agreement: over a sample of at most 2,000 clips, None where nobody labelled the split.

    in_sample: whether the teacher was trained on what people said of this split, None where nobody knows.
    of_audioset: whether the clips are AudioSet's, whose splits are what is known of teachers.
    """

    labels: OpenLabels
    tally: Tally
    psds: LabelPsds | None
    agreement: Agreement | None
    in_sample: bool | None
    of_audioset: bool

    @property
    def problem(self) -> str:
        """Why the class order, or the clips, cannot be right; empty if they can.

        What the project's stages wrote has no index that could be wrong, but may be of a teacher that is.
        """
        found = self.agreement
        if found is None or not found.problem:
            return ""
        if not self.own or not found.problem.startswith(_NO_FIT):
            return f"the check of class order finds: {found.problem}"
        finds = f"the check of class order finds an AUC of {found.auc:.2f} where chance is 0.50"
        if found.auc < _CHANCE_AUC:
            return f"the labels are no better than chance ({finds}): a wrong or untrained checkpoint, or {_OTHER_ORDER}"
        return f"the labels fit too little ({finds}): a wrong or barely trained checkpoint, or {_OTHER_ORDER}"

    @property
    def own(self) -> bool:
        """Whether `label` wrote all of it, or `merge`, out of what `label` wrote."""
        return all(_is_own(provenance) for provenance in self.labels.provenances)

    @property
    def unlabelled(self) -> bool:
        """Whether nobody labelled any of its clips."""
        return not self.tally.weak.clips and not self.tally.strong.clips

    def to_json(self) -> dict[str, Any]:
        """NaN, for a class of which there is nothing to say, as null."""
        labels, tally = self.labels, self.tally
        return {
            "labels": labels.name,
            "made_by": [made_by(provenance) for provenance in labels.provenances],
            "provenance": labels.provenances,
            "in_sample": self.in_sample,
            "codec": labels.codecs,
            "kind": labels.target.kind,
            "axes": list(labels.target.axes),
            "classes": len(labels.target.classes),
            "hop_ms": labels.target.hop_ms,
            "context_ms": labels.target.context_ms,
            "coverage": asdict(labels.coverage),
            "probability": {
                "frames": tally.frames,
                "mean": float(tally.mean().mean()),
                "highest": float(tally.highest.max()),
                "classes_from_half": int((tally.highest >= 0.5).sum()),
            },
            "weak": ranking_facts(tally.weak),
            "strong": ranking_facts(tally.strong),
            "psds1": self._psds_json(),
            "agreement": None
            if self.agreement is None
            else asdict(self.agreement) | {"enough": self.agreement.enough, "problem": self.problem},
            "per_class": self.per_class(),
        }

    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class in the order of the columns."""
        tally, classes = self.tally, self.labels.target.classes
        columns: dict[str, Sequence[object]] = {
            "mid": classes.mids,
            "name": classes.names,
            "mean": tally.mean().tolist(),
            "mean_highest": tally.mean_highest().tolist(),
            "highest": tally.highest.astype(np.float64).tolist(),
            "clips_from_half": tally.clips_from_half.tolist(),
        }
        for kind, ranking in (("weak", tally.weak), ("strong", tally.strong)):
            offered = ranking.offered & (ranking.clips > 0)
            columns[f"{kind}_clips"] = [
                count if is_offered else None
                for count, is_offered in zip(ranking.positives.tolist(), offered, strict=True)
            ]
            columns[f"{kind}_auc"] = _or_none(ranking.auc())
            columns[f"{kind}_ap"] = _or_none(ranking.average_precision())
        columns["psds1"] = [None] * len(classes) if self.psds is None else _or_none(self.psds.per_class)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def worst(self, most: int) -> list[dict[str, Any]]:
        """The classes whose clips stand out least, of those with at least 10: rows of per_class, by weak or strong."""
        kind = "weak" if self.tally.weak.comparable.any() else "strong"
        sure = [
            row for row in self.per_class() if row[f"{kind}_auc"] is not None and row[f"{kind}_clips"] >= _SURE_CLIPS
        ]
        chosen = sorted(sure, key=lambda row: row[f"{kind}_auc"])[:most]
        return [
            row | {"clips": row[f"{kind}_clips"], "auc": row[f"{kind}_auc"], "ap": row[f"{kind}_ap"]} for row in chosen
        ]

    def _psds_json(self) -> dict[str, Any] | None:
        if self.psds is None:
            return None
        told = {name: value for name, value in asdict(self.psds).items() if name != "per_class"}
        return told | {"median_frames": MEDIAN_FRAMES, "in_sample": self.in_sample}


def ranking_facts(ranking: Ranking) -> dict[str, Any] | None:
    """Means over the classes that have clips of both kinds; None where there are none."""
    comparable = ranking.comparable
    if not comparable.any():
        return None
    return {
        "clips": ranking.clips,
        "classes": int(comparable.sum()),
        "labels": int(ranking.positives[comparable].sum()),
        "auc": float(ranking.auc()[comparable].mean()),
        "map": float(ranking.average_precision()[comparable].mean()),
    }


def label_facts(dataset: Dataset, split: str, labels: OpenLabels, progress: Progress) -> LabelFacts:
    """Reads every label once, and those with strong labels again for PSDS1."""
    classes = labels.target.classes
    hard = None
    if dataset.hard_path(split).is_file():
        hard = join_hard(dataset, split, labels.index.key)
    tally = Tally(classes, hard)
    sample = _sample(hard, labels.rows)
    chosen = set(sample.tolist())
    highest: list[npt.NDArray[np.float32]] = []
    for row, label in labels.read(labels.rows, lambda _, probabilities: summed(probabilities), progress):
        tally.add(row, label)
        if row in chosen:
            highest.append(label.highest)
    of_audioset = dataset.keys == "audioset"
    return LabelFacts(
        labels=labels,
        tally=tally,
        psds=None if hard is None else label_psds(labels, hard, progress),
        agreement=None if hard is None else _agreement(np.stack(highest), classes, hard, sample),
        # Splits of the same names in other corpora are not those that the released teachers were trained on.
        in_sample=_in_sample(labels.provenances, split) if of_audioset else None,
        of_audioset=of_audioset,
    )


def _is_own(provenance: Mapping[str, Any]) -> bool:
    merged = provenance.get("merged")
    if provenance.get("stage") == "merge" and isinstance(merged, list):
        return all(isinstance(member, dict) and _is_own(member) for member in merged)
    return provenance.get("stage") == "label"


def _sample(hard: HardRows | None, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """At most 2,000 rows, in order, those that people labelled first."""
    order = np.random.default_rng(_SEED).permutation(rows)
    if hard is not None:
        order = order[np.argsort(~(hard.weak.known | hard.strong.known)[order], kind="stable")]
    return np.sort(order[:AGREEMENT_CLIPS])


def _agreement(
    highest: npt.NDArray[np.float32], classes: Vocabulary, hard: HardRows, rows: npt.NDArray[np.int64]
) -> Agreement:
    weak = [None if mids is None else frozenset(mids) for mids in map(hard.weak_mids, rows.tolist())]
    events = map(hard.events, rows.tolist())
    strong = [None if of_clip is None else frozenset(event.mid for event in of_clip) for of_clip in events]
    return agreement(highest, classes, (weak, strong))


def _in_sample(provenances: Sequence[Mapping[str, Any]], split: str) -> bool | None:
    known = {in_sample(provenance, split) for provenance in provenances}
    return True if True in known else False if known == {False} else None


def _or_none(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
