"""The page of a report: figures, how often people and teacher give each class, and clips on which they differ."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import write_atomic
from sed_distill._label_report_clips import Dispute
from sed_distill._label_report_facts import LabelFacts
from sed_distill._label_report_text import measured_of, remarks, sample_text
from sed_distill._page import rendered
from sed_distill._peek_clip import PeekedClip
from sed_distill._peek_picture import page_clip

_WORST = 12
_SIDE = 320  # of the plot, in its own units
_LEAST = 1e-4  # share of clips at the plot's origin


def write_page(
    path: Path, title: str, split: str, facts: Sequence[LabelFacts], chosen: Sequence[Dispute],
    clips: Mapping[str, PeekedClip],
) -> None:  # fmt: skip
    """One page without outside references, for light and dark."""
    sets = [
        {
            "told": of_set.to_json(),
            "measured": measured_of(of_set),
            "remarks": remarks(of_set),
            "problem": of_set.problem,
            "sample": sample_text(of_set.in_sample),
            "share": of_set.labels.coverage.labelled / of_set.labels.coverage.clips,
            "worst": of_set.worst(_WORST),
            "points": _points(of_set),
        }
        for of_set in facts
    ]
    shown = [
        {"dispute": dispute, "shown": _shown(clips[dispute.key], dispute.name)}
        for dispute in chosen
        if dispute.key in clips
    ]
    write_atomic(
        path,
        rendered("label_report.html.j2", title=title, split=split, sets=sets, disputes=shown, side=_SIDE, least=_LEAST),
    )


def _shown(clip: PeekedClip, first: str) -> dict[str, Any]:
    """What the page has of a clip, the class that it is about on top."""
    shown = page_clip(clip)
    shown["rows"].sort(key=lambda row: row["name"] != first)
    return shown


def _points(of_set: LabelFacts) -> list[dict[str, Any]]:
    """A point for each class that people could give: how often they did against how often the teacher does."""
    tally = of_set.tally
    kind, ranking = ("weak", tally.weak) if tally.weak.comparable.any() else ("strong", tally.strong)
    points = []
    for row in of_set.per_class():
        if given := row[f"{kind}_clips"]:
            people, labels = given / ranking.clips, row["mean_highest"]
            title = f"{row['name']}: people {people:.3%}, labels {labels:.3%}"
            points.append({"x": _along(people), "y": _SIDE - _along(labels), "title": title})
    return points


def _along(share: float) -> float:
    return round(_SIDE * (1 - math.log10(max(share, _LEAST)) / math.log10(_LEAST)), 1)
