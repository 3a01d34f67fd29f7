"""The pack stage: recordings of any format into audio shards, each clip decoded once."""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from jobs._manifest import merge_manifest, recover_rows
from jobs._result import differing, result_of
from jobs._splits import without_other_splits
from jobs._stage import ShardFunction, ShardResult, ShardTask, Stage
from jobs._stop import stop_if_asked
from jobs._wanted import LongMode, find_wanted
from pipeline import (
    AudioSpec,
    ClipRejected,
    PcmClip,
    UsageError,
    clip_from_file,
    read_hard,
    sweep_partial,
    write_hard,
)
from shards import (
    MANIFEST_NAME,
    MISSING_BYTES,
    AudioShardWriter,
    AudioSidecar,
    Dataset,
    KeyMode,
    ManifestRow,
    by_shard,
    check_audio_codec,
    check_tar_size,
    command_arguments,
    fingerprint,
    read_manifest,
    rows_sha256,
    write_manifest,
)

STAGE_VERSION = 1  # raised when the same recordings would give other shards
MAX_CLIPS_PER_SHARD = 10_000
"""A sidecar of as many is within what readers take even with the longest keys; of more, only the commit would tell."""
_THREADS = 2
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """All that a worker needs; which clips a shard has, it reads from the manifest."""

    dataset: Path
    split: str
    folder: Path
    keys: KeyMode
    spec: AudioSpec
    codec: str

    @property
    def output(self) -> Path:
        return Dataset(self.dataset).audio_folder(self.split, self.spec.name)

    def provenance(self, rows: tuple[ManifestRow, ...]) -> dict[str, Any]:
        """Everything that decides the content of the shard made of `rows`."""
        return {
            "stage": "pack",
            "stage_version": STAGE_VERSION,
            "spec": self.spec.to_json(),
            "codec": self.codec,
            "resampler": "soxr_hq",
            "keys": self.keys,
            "manifest_sha256": rows_sha256(rows),
        }


def pack_stage(
    *,
    dataset: str | Path,
    split: str,
    folder: Path,
    keys: KeyMode = "audioset",
    weak_csv: Path | None = None,
    strong_tsv: Path | None = None,
    audio_spec: AudioSpec | None = None,
    codec: str = "flac",
    long: LongMode = "first",
    clips_per_shard: int = 1_000,
) -> Stage:
    """Plan packing `folder` into a split: commits hard.parquet and the manifest, returns the shards that are missing.

    keys "audioset": the clips wanted are the segments of `weak_csv` and `strong_tsv` together (at least one of them),
        found in the folder by any spelling of their names; what no recording has is rejected as missing.
    keys "path": every recording of the folder, or exactly those of `weak_csv` (columns `path`, relative to the folder
        or to the CSV, and `mid`). `long` "first" keeps the first `clip_ms` of a recording, "split" cuts it into
        consecutive clips that each inherit its weak labels.
    strong_tsv: its segments are strong-annotated; no other clip is.
    A clip is stored in one split: weak of AudioSet leaves out, and counts, what the other splits have.
    codec: one of AUDIO_CODECS; "flac" for keeping.

    Called again, clips keep their shard, new ones go to new shards, and committed shards are checked to be what this
    call would write; where the manifest was lost, their rows are made of the inputs. Raises UsageError for wrong use,
    an empty folder, changed inputs or an output that cannot be written, MetadataError for lists that do not hold
    together or clips whose keys collide.
    """
    where = Dataset(dataset)
    spec = AudioSpec() if audio_spec is None else audio_spec
    for path in (where.root, folder):
        if not path.is_absolute():
            raise UsageError(f"{path} is relative, a job needs absolute paths: it may run in another folder")
    check_audio_codec(codec, spec)
    check_clips_per_shard(clips_per_shard)
    config = PackConfig(dataset=where.root, split=split, folder=folder, keys=keys, spec=spec, codec=codec)
    output = config.output
    wanted = find_wanted(folder, keys=keys, weak_csv=weak_csv, strong_tsv=strong_tsv, spec=spec, long=long)
    try:
        Dataset.create(where.root, keys=keys)
        wanted, elsewhere = without_other_splits(where, split, wanted)
        output.mkdir(parents=True, exist_ok=True)
        for swept in (where.root, where.hard_path(split).parent, output):
            sweep_partial(swept)
        committed = {sidecar.shard: sidecar for sidecar in where.audio_shards(split, spec.name)}
        manifest = output / MANIFEST_NAME
        earlier = read_manifest(manifest) if manifest.exists() else ()
        recovered, others = recover_rows(wanted.rows, earlier, committed.values())
        own = (row for row in wanted.rows if row.key not in others)
        merged = merge_manifest(own, (*earlier, *recovered), committed, clips_per_shard=clips_per_shard)
        shards = by_shard(merged.rows)
        for sidecar in committed.values():
            if sidecar.shard in shards:
                _check_committed(sidecar, config.provenance(shards[sidecar.shard]))
            check_tar_size(sidecar)
        _write_hard(where.hard_path(split), wanted.hard)
        if merged.rows != earlier:
            write_manifest(manifest, merged.rows)
    except OSError as error:
        raise UsageError(
            f"dataset {where.root} cannot be written ({error.strerror}: {error.filename}); choose another folder"
        ) from error
    return Stage(
        name="pack",
        open_worker=open_pack_worker,
        config=config,
        tasks=tuple(
            ShardTask(shard=shard, clips=len(rows)) for shard, rows in shards.items() if shard not in committed
        ),
        done=tuple(result_of(sidecar) for sidecar in committed.values()),
        output=output,
        notes={
            "extra": wanted.extra,
            "in_other_splits": elsewhere,
            "vanished": merged.vanished,
            "found_later": merged.found_later,
            "not_in_the_manifest": sum(len(committed[shard].clips) for shard in committed.keys() - shards.keys()),
        },
        command=command_arguments(
            "pack",
            dataset=where.root,
            split=split,
            folder=folder,
            keys=keys,
            weak_csv=weak_csv,
            strong_tsv=strong_tsv,
            long=long,
            clips_per_shard=clips_per_shard,
            sample_rate=spec.sample_rate,
            layout=spec.layout,
            clip_ms=spec.clip_ms,
            codec=codec,
        ),
    )


def check_clips_per_shard(clips: int) -> None:
    """Raises UsageError for shards that could not be committed, or that would have no clips."""
    if not 1 <= clips <= MAX_CLIPS_PER_SHARD:
        raise UsageError(
            f"clips per shard are {clips}, need at least 1 and at most {MAX_CLIPS_PER_SHARD}: readers refuse the "
            "sidecar of a bigger shard"
        )


def open_pack_worker(config: PackConfig) -> ShardFunction:
    return functools.partial(pack_shard, config)


def pack_shard(config: PackConfig, task: ShardTask) -> ShardResult:
    """Decode the clips of one shard and commit them. A clip that cannot be stored is rejected with its reason."""
    rows = read_manifest(config.output / MANIFEST_NAME, shard=task.shard)
    seconds = {"decode": 0.0, "encode": 0.0, "commit": 0.0}
    writer = AudioShardWriter(
        config.output,
        task.shard,
        spec=config.spec,
        provenance=config.provenance(rows),
        codec=config.codec,
        software=_software(),
    )
    with writer, ThreadPoolExecutor(_THREADS) as threads:
        outcomes = _map_ahead(threads, functools.partial(_decode_row, config), rows, ahead=4 * _THREADS)
        for row, (outcome, decode_s) in zip(rows, outcomes, strict=True):
            stop_if_asked()
            started_s = time.perf_counter()
            if isinstance(outcome, ClipRejected):
                writer.reject(row.key, outcome.reason, outcome.detail)
            else:
                writer.add(
                    row.key,
                    outcome.pcm,
                    origin=outcome.codec,
                    cut_samples=outcome.cut_samples,
                    clipped_samples=outcome.clipped_samples,
                    flags=outcome.flags,
                )
            seconds["decode"] += decode_s
            seconds["encode"] += time.perf_counter() - started_s
        started_s = time.perf_counter()
        sidecar = writer.commit()
        seconds["commit"] += time.perf_counter() - started_s
    return result_of(sidecar, seconds)


def _decode_row(config: PackConfig, row: ManifestRow) -> tuple[PcmClip | ClipRejected, float]:
    """The clip or why there is none, and the seconds it took."""
    started_s = time.perf_counter()
    try:
        if row.bytes == MISSING_BYTES:
            raise ClipRejected("missing", "no recording of the folder has this clip")
        outcome: PcmClip | ClipRejected = clip_from_file(
            row.recording(config.folder),
            spec=config.spec,
            start_ms=row.start_ms,
            duration_ms=row.duration_ms,
            expected_ms=row.expected_ms,
        )
    except ClipRejected as rejected:
        outcome = rejected
    return outcome, time.perf_counter() - started_s


def _map_ahead(
    threads: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Iterable[_Item], *, ahead: int
) -> Iterator[_Result]:
    """`map` in order with at most `ahead` results waiting: a slow clip must not let the others fill the memory."""
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _check_committed(sidecar: AudioSidecar, expected: dict[str, Any]) -> None:
    if sidecar.fingerprint != fingerprint(expected):
        raise UsageError(
            f"{sidecar.path}: was packed otherwise than this call would ({differing(sidecar.provenance, expected)}); "
            "repeat the call that packed it, or use another dataset; transcode makes copies in another codec"
        )


def _write_hard(path: Path, table: pa.Table) -> None:
    """Clips that an earlier call had and this one has not keep their labels, as their audio stays.

    Labels may change; a call that brings none where there were some forgot its lists, and is refused.
    """
    if path.exists():
        earlier = read_hard(path)
        for column, option in (("weak_mids", "--weak-csv"), ("events", "--strong-tsv")):
            before, now = _labelled(earlier, column), _labelled(table, column)
            if before and not now:
                raise UsageError(
                    f"{path}: has {column} of {len(before)} clips, this call brings none; give the {option} again, "
                    f"or pack into another dataset"
                )
        known = pc.is_in(earlier.column("key"), value_set=table.column("key"))
        table = pa.concat_tables([table, earlier.filter(pc.invert(known))]).sort_by("key")
        if table.equals(earlier):
            return
    write_hard(path, table)


def _labelled(table: pa.Table, column: str) -> set[str]:
    """Keys of the clips that have labels in `column`; of events, the clips that were annotated."""
    has = table.column("strong_annotated") if column == "events" else pc.is_valid(table.column(column))
    return set(table.column("key").filter(has).to_pylist())


def _software() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("soxr", "av")}
