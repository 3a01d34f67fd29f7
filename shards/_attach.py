"""Labels that travel: a published label set attached to any copy of its clips, by key and by what is heard.

Where the audio stored here is the very decode that was labelled, its identity says so. Where it was decoded otherwise
(another codec, resampler, sample rate or layout) the acoustic fingerprints in the sidecars of both tell whether it is
the same recording, cut at the same time. Everything is decided from sidecars before the first label is copied.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import FormatError, IntegrityError, UsageError, canonical_json, sweep_partial, write_atomic
from shards._attach_plan import AttachPlan, Progress, plan_attachment
from shards._attach_report import AttachReport, attach_report
from shards._attach_source import PublishedLabels
from shards._commands import command_arguments, record_command
from shards._counted import counted
from shards._dataset import Dataset, sidecar_paths
from shards._index import IndexedShard, ShardIndex, open_index
from shards._index_file import INDEX_NAME
from shards._reader import check_tar_size
from shards._sidecar import AudioClips, LabelClips, LabelSidecar
from shards._sidecar_parse import read_audio_sidecar, read_label_sidecar
from shards._store import is_remote, store_errors, to_path
from shards._writer import LabelShardWriter

ATTACH_REPORT_NAME = "attach.json"


def attach_labels(
    dataset: Dataset | Path | str,
    split: str,
    labels: str,
    source: Path | str,
    *,
    audio: str | None = None,
    max_refused: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> AttachReport:
    """Write label set `labels` of `split` from the published one in folder `source`, local or on a store.

    Clips are looked up by key; either side may be sharded as it likes and lack what the other has. A clip gets its
    label if its audio is the decode that was labelled, or if its sound agrees with it; also, counted as unconfirmed,
    if its sound cannot tell and its length agrees within a frame. It is refused if it is shifted by 40 ms or more (by
    21 to 39 ms: may be either), another recording, or longer than what was labelled by more than a frame; shorter
    copies are accepted.

    audio: the audio set whose clips get labels; by default the one that was labelled, or else the only one.
    max_refused: with more refused clips than this, nothing is written; otherwise they are stored as failed.

    Shards that an earlier call committed are kept where they hold what this one would write: not so where the set has
    grown since, or was published anew. Writes `attach.json` beside the shards, if it writes any; what kept it from
    writing is the `problem` of the report. Raises UsageError for wrong use, FormatError or IntegrityError if the set
    is not what its sidecars say: shards that are whole by then stay, and the same call goes on from there.
    """
    if max_refused < 0:
        raise UsageError(f"max refused is {max_refused}, needs 0 or more")
    opened = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    if is_remote(opened.root):
        raise UsageError(f"{opened.root}: stores are only read; attach to a local copy, then copy its labels there")
    folder, origin = opened.labels_folder(split, labels), to_path(source)
    if not is_remote(origin) and origin.resolve() == folder.resolve():
        raise UsageError(f"{folder}: is the label set itself; copy the published one elsewhere, or name another")
    with store_errors(origin), PublishedLabels(origin) as published:
        index = _audio_index(opened, split, audio, published)
        provenance = published.provenance()
        plan = plan_attachment(published, index, progress)
        problem = _problem(plan, max_refused)
        about: dict[str, Any] = {"labels": labels, "source": str(origin), "lacks": published.lacks, "problem": problem}
        if problem:
            return attach_report(plan, index, shards=0, kept=0, **about)
        kept = _kept_shards(folder, index, published, plan, provenance)
        folder.mkdir(parents=True, exist_ok=True)
        sweep_partial(folder)
        missing = [shard for shard in index.shards if shard.shard not in kept]
        if missing:
            given: dict[str, str | int | Path | None] = {
                "from": str(origin) if is_remote(origin) else origin,
                "dataset": opened.root,
                "split": split,
                "labels": labels,
                "audio": index.folder.name,
                "max_refused": max_refused or None,
            }
            record_command(folder, command_arguments("attach", **given), (shard.shard for shard in missing))
        for done, shard in enumerate(missing):
            _write_shard(folder, shard, index, published, plan, provenance)
            progress("writing label shards", done + 1, len(missing))
        report = attach_report(plan, index, shards=len(index.shards), kept=len(kept), **about)
        write_atomic(folder / ATTACH_REPORT_NAME, canonical_json(report.to_json()) + "\n")
        return report


def _audio_index(dataset: Dataset, split: str, audio: str | None, published: PublishedLabels) -> ShardIndex:
    specs = dataset.audio_specs(split)
    labelled = published.first.spec
    if audio is None:
        audio = labelled.name if labelled.name in specs else specs[0] if len(specs) == 1 else None
    if audio is None:
        has = f"has audio {', '.join(specs)}; name one with --audio" if specs else "has no audio; run pack for it first"
        raise UsageError(f"{dataset.root}: split {split} {has}")
    index = open_index(dataset.audio_folder(split, audio), "audio")
    if not len(index):
        raise UsageError(f"{dataset.root}: split {split} has no clip stored as {audio}; run pack for it first")
    repeated = index.repeated_key()
    if repeated is not None:
        raise FormatError(f"{index.folder}: clip {repeated} is stored in two shards; verify the dataset and remove one")
    if index.shards[0].spec.clip_ms != labelled.clip_ms:
        raise UsageError(
            f"{published.folder}: labels clips of {labelled.clip_ms} ms, {index.folder} has clips of "
            f"{index.shards[0].spec.clip_ms} ms; pack the split with --clip-ms {labelled.clip_ms}"
        )
    return index


def _kept_shards(
    folder: Path, index: ShardIndex, published: PublishedLabels, plan: AttachPlan, provenance: Mapping[str, Any]
) -> frozenset[int]:
    """Numbers of the shards that are written already as planned, one sidecar in memory at a time. Raises UsageError for
    shards of another label set, or of other audio."""
    first = published.first
    shards = {shard.shard: shard for shard in index.shards}
    kept = set()
    for path in sidecar_paths(folder):
        side = read_label_sidecar(path)
        if (side.provenance, side.target, side.codec) != (provenance, first.target, first.codec):
            raise UsageError(
                f"{path}: is not of this label set; choose another --labels name, or remove the one that is there"
            )
        audio = shards.get(side.shard)
        if audio is None or not _has_clips(index, audio, side.clips):
            raise UsageError(
                f"{path}: labels other audio than shard {path.stem} of {index.folder} holds, or the same in another "
                "order; use another --labels name, or attach to the dataset as it was packed and transcode it again"
            )
        if _is_as_planned(side, plan, audio.clips):
            check_tar_size(side)
            kept.add(side.shard)
    return frozenset(kept)


def _has_clips(index: ShardIndex, shard: IndexedShard, clips: AudioClips | LabelClips) -> bool:
    """Whether the index has exactly these clips for that shard, in their order."""
    rows = slice(shard.clips.start, shard.clips.stop)
    identities = index.identity[rows].tobytes().hex()
    return identities == "".join(clips.identity) and index.key[rows].to_pylist() == list(clips.key)


def _is_as_planned(side: LabelSidecar, plan: AttachPlan, clips: range) -> bool:
    reasons = tuple(plan.refusal(clip)[0] for clip in clips if not plan.accepts(clip))
    return (side.clips.length, side.clips.crc32c) == plan.columns(clips) and side.failed.reason == reasons


def _problem(plan: AttachPlan, max_refused: int) -> str:
    refused = int(plan.refused.sum())
    if not plan.accepted.any():
        failed = plan.count("no_label")
        if refused:
            also = f", {failed:,} that its labeller failed on" if failed else ""
            return (
                f"no clip of the set that is stored here gets a label, {refused:,} refused{also}: the set was made "
                "from other audio, or from audio cut elsewhere; check --from, --split and how the clips were packed"
            )
        if failed:
            return f"its labeller failed on every clip of the set that is stored here ({failed:,}): check --from"
        return "the set has no label for any clip stored here: check --from, --split and how keys are spelled"
    if refused > max_refused:
        one = refused == 1
        return (
            f"{counted(refused, 'clip')} {'is' if one else 'are'} refused, more than --max-refused {max_refused}: find "
            f"out why {'this recording differs' if one else 'these recordings differ'}, or give --max-refused "
            f"{refused} to go without {'its label' if one else 'their labels'}"
        )
    return ""


def _write_shard(
    folder: Path,
    shard: IndexedShard,
    index: ShardIndex,
    published: PublishedLabels,
    plan: AttachPlan,
    provenance: Mapping[str, Any],
) -> None:
    audio = read_audio_sidecar(shard.path)
    if not _has_clips(index, shard, audio.clips):  # the plan is by position in the index
        raise IntegrityError(
            f"{shard.path}: was replaced since its index was read; attach again, and if that does not help delete "
            f"{INDEX_NAME} beside it, which is then made again"
        )
    target, codec = published.first.target, published.first.codec
    with LabelShardWriter(folder, audio, target=target, provenance=provenance, codec=codec) as writer:
        for clip, key in zip(shard.clips, audio.clips.key, strict=True):
            if plan.accepts(clip):
                member = plan.member(clip, key)
                writer.add_encoded(key, published.read(member), where=published.where(member))
            else:
                writer.fail(key, *plan.refusal(clip))
        writer.commit()
