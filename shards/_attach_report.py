"""What attaching a label set found and did, for a terminal and for a file beside the shards."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shards._attach_plan import ATTACH_OUTCOMES, AttachPlan
from shards._counted import counted
from shards._index import ShardIndex

_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class AttachReport:
    """Of `clips` stored clips each has one of ATTACH_OUTCOMES in `counts`; `attached` of them got a label.

    refused: key, reason and detail of every clip that the set has a label for, made from other or shifted audio.
    unconfirmed, shorter: keys of clips that got a label although their sound cannot tell whether it is theirs, or
    although they end more than a frame before the audio that was labelled.
    extra: clips of the set that are not stored here. lacks: first and last of every range of shards, below the highest
    number, that `source` does not have whole. shards: written or kept; 0 if nothing was written, for the reason in
    `problem`. An empty problem means that every clip of what `source` has that is stored here was dealt with.
    """

    labels: str
    source: str
    clips: int
    counts: dict[str, int]
    refused: tuple[tuple[str, str, str], ...]
    unconfirmed: tuple[str, ...]
    shorter: tuple[str, ...]
    extra: int
    extra_examples: tuple[str, ...]
    lacks: tuple[tuple[int, int], ...]
    shards: int
    shards_kept: int
    problem: str

    @property
    def attached(self) -> int:
        return sum(self.counts[outcome] for outcome in ("same_decode", "confirmed", "unconfirmed"))

    @property
    def complete(self) -> bool:
        """Whether all was written, and no label can be in a shard that `source` lacks."""
        return not self.problem and not (self.lacks and self.counts["absent"])

    def lines(self) -> list[str]:
        """For a terminal: the first refused clips, then the coverage; the last line sums up."""
        counts = self.counts
        lines = [f"refused {key}: {reason}: {detail}" for key, reason, detail in self.refused[:_LISTED]]
        if len(self.refused) > _LISTED:
            where = "--report FILE names" if self.problem else "attach.json beside the shards names"
            lines.append(f"refused {len(self.refused) - _LISTED:,} more; {where} all {len(self.refused):,}")
        lines += [
            f"same decode:    {counts['same_decode']:,}",
            f"other decode:   {counts['confirmed']:,} confirmed by their sound, {counts['unconfirmed']:,} unconfirmed",
            f"refused:        {counts['shifted']:,} shifted, {counts['different']:,} different",
            f"without label:  {counts['absent']:,} absent from the set, "
            f"{counts['no_label']:,} that its labeller failed on",
            f"not stored here: {counted(self.extra, 'clip')} of the set{_some(self.extra_examples, self.extra)}",
        ]
        if self.unconfirmed:
            named = _some(self.unconfirmed, len(self.unconfirmed))
            lines.append(f"unconfirmed, for too little sound or too steady a one{named}")
        if self.shorter:
            named = _some(self.shorter, len(self.shorter))
            lines.append(f"cut short, labels are right for what is left: {len(self.shorter):,}{named}")
        if self.lacks:
            lines.append(f"! {_shards(self.lacks)} not whole in {self.source}: download the rest and attach again")
        if self.problem:
            return [*lines, f"attach: nothing written: {self.problem}"]
        wrote = f"{counted(self.shards, 'shard')} ({self.shards - self.shards_kept:,} now)"
        without = self.clips - self.attached
        labelled = f"{counted(self.clips, 'clip')} = {self.attached:,} labelled + {without:,} without label"
        return [*lines, f"attach: {wrote}; {labelled}"]

    def to_json(self) -> dict[str, Any]:
        return {"format": "sed-distill/attach-report", "version": 1} | asdict(self)


def attach_report(
    plan: AttachPlan,
    audio: ShardIndex,
    *,
    labels: str,
    source: str,
    lacks: tuple[tuple[int, int], ...],
    shards: int,
    kept: int,
    problem: str,
) -> AttachReport:
    def keys(chosen: Any) -> Iterator[tuple[int, str]]:
        for clip in np.flatnonzero(chosen).tolist():
            yield clip, audio.key[clip].as_py()

    return AttachReport(
        labels=labels,
        source=source,
        clips=len(audio),
        counts={outcome: plan.count(outcome) for outcome in ATTACH_OUTCOMES},
        refused=tuple((key, *plan.refusal(clip)) for clip, key in keys(plan.refused)),
        unconfirmed=tuple(key for _, key in keys(plan.outcome == ATTACH_OUTCOMES.index("unconfirmed"))),
        shorter=tuple(key for _, key in keys(plan.accepted & (plan.longer_ms < 0))),
        extra=plan.extra,
        extra_examples=tuple(plan.extra_examples),
        lacks=lacks,
        shards=shards,
        shards_kept=kept,
        problem=problem,
    )


def _some(names: tuple[str, ...], count: int) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:_LISTED])}{', ...' if count > min(len(names), _LISTED) else ''})"


def _shards(ranges: Sequence[tuple[int, int]]) -> str:
    """shard 000001 is, shards 000001, 000003 to 000007 are: the first of them."""
    named = [f"{first:06d}" if first == last else f"{first:06d} to {last:06d}" for first, last in ranges[:_LISTED]]
    more = ", ..." if len(ranges) > _LISTED else ""
    several = len(ranges) > 1 or ranges[0][0] < ranges[0][1]
    return f"shard{'s' if several else ''} {', '.join(named)}{more} {'are' if several else 'is'}"
