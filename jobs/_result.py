"""From the sidecar of a committed shard to what the report counts, and how it differs from what a call would write."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from jobs._stage import Rejection, ShardResult
from shards import AudioSidecar, LabelSidecar


def result_of(sidecar: AudioSidecar | LabelSidecar, seconds: dict[str, float] | None = None) -> ShardResult:
    """What became of a committed shard, for the report."""
    refused = sidecar.failed if isinstance(sidecar, LabelSidecar) else sidecar.rejected
    rows = zip(refused.key, refused.reason, refused.detail, strict=True)
    return ShardResult(
        shard=sidecar.shard,
        stored=sum(map(bool, sidecar.clips.length)),
        rejected=dict(Counter(refused.reason)),
        bytes=sidecar.tar_bytes,
        seconds=seconds or {},
        rejections=tuple(Rejection(key=key, reason=reason, detail=detail) for key, reason, detail in rows),
    )


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The fields of two provenances that differ, with their values where these are short: `codec is flac, not fast`."""
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    return ", ".join(_difference(name, found.get(name), wanted.get(name)) for name in names)


def _difference(name: str, found: object, wanted: object) -> str:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return f"of {name}: {differing(found, wanted)}"
    if isinstance(found, str | int) and isinstance(wanted, str | int) and len(f"{found}{wanted}") < 100:
        return f"{name} is {found}, not {wanted}"
    return f"another {name}"
