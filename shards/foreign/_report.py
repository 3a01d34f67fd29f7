"""What an import found and did, for a terminal and for a file beside the shards."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shards._counted import counted
from shards._sidecar import LabelSidecar
from shards.foreign._agreement import Agreement
from shards.foreign._checks import Values
from shards.foreign._lag import Lag
from shards.foreign._names import NameCoverage

_LISTED = 1000
_GOOD_AUC = 0.9


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """stored + sum(failed) = clips of the split. agreement: None without hard labels; lag: None without 40 ms frames.

    failures: the first 1,000 clips without a label, as (key, reason, detail).
    """

    labels: str
    coverage: NameCoverage
    values: Values
    agreement: Agreement | None
    lag: Lag | None
    shards: int
    shards_kept: int
    stored: int
    failed: Mapping[str, int]
    failures: tuple[tuple[str, str, str], ...]

    def lines(self) -> list[str]:
        """For a terminal; the last line sums up."""
        told = self.coverage
        lines = [
            f"names: {told.names:,} in the file, {told.matched:,} of the {counted(told.clips, 'clip')} matched, "
            f"{told.missing:,} missing, {told.extra:,} extra, {told.ambiguous:,} ambiguous"
        ]
        lines += [f"  {kind}: {', '.join(names)}" for kind, names in told.examples.items() if names]
        values = self.values
        if values.lowest is not None:
            lines.append(f"values ({values.kind}): {values.lowest:.3g} to {values.highest:.3g}")
        if values.not_finite:
            lines.append(f"  {values.of_not_finite}")
        if values.problem and values.lowest is not None:
            lines.append(f"  imported although {values.problem}")
        if self.agreement is None or not self.agreement.enough:
            lines.append("agreement with hard labels: not checked, too few of them")
        else:
            found = self.agreement
            over = f"over {found.classes} classes and {counted(found.clips, 'clip')}"
            lines.append(f"agreement with hard labels: AUC {found.auc:.3f} {over} (chance 0.5)")
            lines += [
                f"  least: {name}, AUC {auc:.2f}, {clips} clips" for name, clips, auc in found.worst if auc < _GOOD_AUC
            ]
            if found.problem:
                lines.append(f"  imported although {found.problem}")
        lines += [] if self.lag is None else _lag_lines(self.lag)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.failed.items()))
        without = f"{sum(self.failed.values()):,} without label{f' ({reasons})' if reasons else ''}"
        lines.append(
            f"import-labels: {counted(self.shards, 'shard')} ({self.shards - self.shards_kept:,} now); "
            f"{counted(told.clips, 'clip')} = {self.stored:,} stored + {without}"
        )
        return lines

    def to_json(self) -> dict[str, Any]:
        return {"format": "sed-distill/import-report", "version": 1} | asdict(self)


def import_report(
    labels: str,
    coverage: NameCoverage,
    values: Values,
    agreement: Agreement | None,
    lag: Lag | None,
    written: Sequence[LabelSidecar],
    *,
    kept: int,
) -> ImportReport:
    """Add up the label shards, `kept` of which were there before."""
    failed = Counter(reason for side in written for reason in side.failed.reason)
    rows = (zip(side.failed.key, side.failed.reason, side.failed.detail, strict=True) for side in written)
    return ImportReport(
        labels=labels,
        coverage=coverage,
        values=values,
        agreement=agreement,
        lag=lag,
        shards=len(written),
        shards_kept=kept,
        stored=sum(len(side.clips) for side in written) - sum(failed.values()),
        failed=dict(sorted(failed.items())),
        failures=tuple(row for each in rows for row in each)[:_LISTED],
    )


def _lag_lines(lag: Lag) -> list[str]:
    if not lag.enough:
        return [f"lag: not estimated, too little of {counted(lag.clips, 'clip')} agrees with {lag.against}"]
    lines = [f"lag against {lag.against}: {_late(lag.lag_ms)} over {counted(lag.clips, 'clip')}"]
    if lag.clear:
        least, low, _, high, most = lag.quantiles_ms
        lines.append(
            f"  clip by clip, where it is clear ({lag.clear:,}): half of them within {low} to {high} ms, nine in ten "
            f"within {least} to {most} ms"
        )
    if lag.outliers:
        named = ", ".join(f"{key} at {lag_ms} ms" for key, lag_ms in lag.outlier_keys)
        more = ", ..." if lag.outliers > len(lag.outlier_keys) else ""
        lines.append(f"  200 ms or more away from that: {counted(lag.outliers, 'clip')} ({named}{more})")
    return lines


def _late(lag_ms: int) -> str:
    return f"{abs(lag_ms)} ms {'late' if lag_ms > 0 else 'early'}" if lag_ms else "0 ms"
