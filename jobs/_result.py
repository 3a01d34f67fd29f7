"""From the sidecar of a committed shard to what the report counts."""

from collections import Counter

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
