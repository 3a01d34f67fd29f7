"""What an import found and did, for a terminal and for a file beside the shards."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shards._sidecar import LabelSidecar
from shards.foreign._agreement import Agreement
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
            f"names: {told.names} in the file, {told.matched} of the {told.clips} clips matched, "
            f"{told.missing} missing, {told.extra} extra, {told.ambiguous} ambiguous"
        ]
        lines += [f"  {kind}: {', '.join(names)}" for kind, names in told.examples.items() if names]
        if self.agreement is None or not self.agreement.enough:
            lines.append("agreement with hard labels: not checked, too few of them")
        else:
            found = self.agreement
            over = f"over {found.classes} classes and {found.clips} clips"
            lines.append(f"agreement with hard labels: AUC {found.auc:.3f} {over} (chance 0.5)")
            lines += [
                f"  least: {name}, AUC {auc:.2f}, {clips} clips" for name, clips, auc in found.worst if auc < _GOOD_AUC
            ]
            if found.problem:
                lines.append(f"  imported although {found.problem}")
        if self.lag is not None and not self.lag.enough:
            lines.append("lag: not estimated")
        elif self.lag is not None:
            lag = self.lag
            spread = "/".join(map(str, lag.quantiles_ms))
            lines.append(
                f"lag against {lag.against}: {lag.lag_ms} ms over {lag.clips} clips; 5/25/50/75/95 % of the "
                f"{lag.clear} with a clear one: {spread} ms; {lag.outliers} elsewhere"
            )
            lines += [f"  elsewhere: {key}, {lag_ms} ms" for key, lag_ms in lag.outlier_keys]
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.failed.items()))
        lines.append(
            f"import-labels: {self.shards} shards ({self.shards - self.shards_kept} now); {told.clips} clips = "
            f"{self.stored} stored + {sum(self.failed.values())} without label{f' ({reasons})' if reasons else ''}"
        )
        return lines

    def to_json(self) -> dict[str, Any]:
        return {"format": "sed-distill/import-report", "version": 1} | asdict(self)


def import_report(
    labels: str,
    coverage: NameCoverage,
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
        agreement=agreement,
        lag=lag,
        shards=len(written),
        shards_kept=kept,
        stored=sum(len(side.clips) for side in written) - sum(failed.values()),
        failed=dict(sorted(failed.items())),
        failures=tuple(row for each in rows for row in each)[:_LISTED],
    )
