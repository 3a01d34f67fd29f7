"""Joined sources made of nothing but what an order looks at: number of clips, shards, lengths and hard labels."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from pipeline import AudioSpec, Event, hard_table
from shards import Dataset
from shards._hard import HardPart, hard_rows
from shards.loader.join._join import JoinedSource, Members


def source_of(
    clips: int,
    *,
    name: str = "s",
    shard: Sequence[int] = (),
    weak: Mapping[int, Sequence[str]] | None = None,
    events: Mapping[int, Sequence[Event]] | None = None,
    seconds: float = 10,
) -> JoinedSource:
    """Clips 0..clips-1; `weak` and `events` by clip, clips that are missing there are not annotated."""
    keys = [f"clip-{clip:06d}_0" for clip in range(clips)]
    heard = [(keys[clip], *event) for clip, of_clip in (events or {}).items() for event in of_clip]
    fields = [("key", pa.string()), ("onset_ms", pa.int32()), ("offset_ms", pa.int32()), ("mid", pa.string())]
    table = hard_table(
        keys,
        weak={keys[clip]: mids for clip, mids in (weak or {}).items()},
        strong=pa.table({field: pa.array([row[i] for row in heard], kind) for i, (field, kind) in enumerate(fields)}),
        strong_annotated=[keys[clip] for clip in events or {}],
    )
    zeros = np.zeros(clips, np.int64)
    audio = Members(
        shards=(),
        shard=np.array(shard if len(shard) else zeros, np.int32),
        offset=zeros,
        length=zeros,
        crc32c=zeros.astype(np.uint32),
    )
    spec = AudioSpec()
    return JoinedSource(
        name=name,
        spec=spec,
        keys=pa.array(keys, pa.large_string()),
        samples=np.full(clips, round(seconds * spec.sample_rate), np.int32),
        audio=audio,
        labels={},
        targets=(),
        hard=hard_rows(_PATHS, [HardPart(table=table, keys=pa.array(keys))]),
        coverage=(),
        fingerprint="",
    )


class _Paths(Dataset):
    """A dataset of which only the key mode is asked."""

    keys = "path"


_PATHS = _Paths("nowhere")
