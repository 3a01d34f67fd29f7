"""From the sidecar of a committed shard to what the report counts, and how it differs from what a call would write."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from jobs._stage import Rejection, ShardResult
from shards import AudioSidecar, LabelSidecar

_STAGES = {
    "import": "an import",
    "label": "a labelling",
    "merge": "a merge",
    "pack": "packed from recordings",
    "transcode": "a transcoded copy",
}


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
    """The fields of two provenances that differ, with their values where these are short: `codec is flac, not fast`.

    What two stages, or teachers of two families, made has little in common, so that is all that is said of it.
    """
    stages = [_STAGES.get(str(made.get("stage"))) for made in (found, wanted)]
    if all(stages) and stages[0] != stages[1]:
        return f"is {stages[0]}, not {stages[1]}"
    families = found.get("family"), wanted.get("family")
    if all(families) and families[0] != families[1]:
        return _difference("family", *families)
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    return ", ".join(_difference(name, found.get(name), wanted.get(name)) for name in names)


def _difference(name: str, found: object, wanted: object) -> str:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return f"of {name}: {differing(found, wanted)}"
    has, needs = _shown(found), _shown(wanted)
    if has and needs and len(has + needs) < 100:
        return f"{name} is {has}, not {needs}"
    return f"{name} differs"


def _shown(value: object) -> str:
    """A plain value or a list of them as text, `none` where there is none; empty for all else."""
    if isinstance(value, list | tuple):
        parts = [_shown(part) for part in value]
        return f"[{', '.join(parts)}]" if all(parts) else ""
    return "none" if value is None else str(value) if isinstance(value, str | int | float) else ""
