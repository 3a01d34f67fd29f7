"""The merge stage: label sets that are there already become one, their weighted average; or one, in another codec."""

import contextlib
import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jobs._merge_average import Average, AverageOf, average_of
from jobs._result import differing, result_of
from jobs._stage import ShardFunction, ShardResult, ShardTask, Stage
from jobs._stop import stop_if_asked
from pipeline import FormatError, UsageError, canonical_json
from shards import (
    AudioSidecar,
    Dataset,
    LabelReader,
    LabelRefused,
    LabelShardWriter,
    LabelSidecar,
    check_label_codec,
    check_tar_size,
    command_arguments,
    fingerprint,
    read_audio_sidecar,
    read_label_sidecar,
)

STAGE_VERSION = 1  # raised when the same members would give other labels
# A clip that a member has no label for. Others of LABEL_FAILURES are of the average itself.
_ABSENT = "absent"


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """What a worker needs. provenance: the canonical JSON every shard must carry. fingerprints: of the members'."""

    dataset: Path
    split: str
    audio: str
    members: tuple[str, ...]
    fingerprints: tuple[str, ...]
    average: Average
    weights: tuple[float, ...] | None
    mixed_protocols: bool
    labels: str
    codec: str
    provenance: str


def merge_stage(
    *,
    dataset: Path,
    split: str,
    members: Sequence[str],
    labels: str,
    average: Average = "logit",
    weights: Sequence[float] | None = None,
    mixed_protocols: bool = False,
    audio: str | None = None,
    codec: str = "faithful",
) -> Stage:
    """The shards of `split` that label set `labels` lacks as the average of label sets `members`, in their order.

    One member is stored in another codec, as it is. Several are averaged as an ensemble of teachers does it (see
    `jobs._merge_average`), and a clip that one of them has no label for gets none. What was merged before such a label
    was there is merged again.

    Raises UsageError for label sets that do not go together or are not whole, and for one named `labels` that was made
    otherwise.
    """
    if not dataset.is_absolute():
        raise UsageError(f"--dataset is {str(dataset)!r}, needs an absolute path: workers run in folders of their own")
    if not members or len(set(members)) != len(members) or labels in members:
        raise UsageError(f"--from is {' '.join(members)}, needs label sets, each once, and not {labels} itself")
    opened = Dataset.open(dataset)
    output = opened.labels_folder(split, labels)
    audio = audio or opened.only_audio(split)
    audio_shards = opened.audio_shards(split, audio)
    found = [_found(opened, split, name, audio_shards, audio) for name in members]
    firsts = [member.first for member in found]
    averaged = average_of(members, firsts, average=average, weights=weights, mixed_protocols=mixed_protocols)
    check_label_codec(codec, averaged.target.shape, averaged.target.kind)
    provenance = _provenance(members, firsts, averaged, audio, codec)
    committed = {side.shard: side for side in opened.label_shards(split, labels)}
    _check_committed(committed, {side.shard: side for side in audio_shards}, provenance)
    tasks, done = [], []
    for side in audio_shards:
        before = committed.get(side.shard)
        lacking = {key for member in found for key in member.lacking[side.shard]}
        if before is not None and lacking == _keys_of(before, _ABSENT):
            check_tar_size(before)
            done.append(result_of(before))
        else:
            tasks.append(ShardTask(shard=side.shard, clips=len(side.clips)))
    config = MergeConfig(
        dataset=dataset, split=split, audio=audio, members=tuple(members),
        fingerprints=tuple(side.fingerprint for side in firsts), average=average, weights=averaged.weights,
        mixed_protocols=mixed_protocols, labels=labels, codec=codec, provenance=canonical_json(provenance),
    )  # fmt: skip
    return Stage(
        name="merge", open_worker=open_merge_worker, config=config, tasks=tuple(tasks), done=tuple(done),
        output=output,
        command=(
            *command_arguments("merge", dataset=dataset, split=split, labels=labels, audio=audio, codec=codec),
            "--from", *members,
            *(() if len(members) == 1 else ("--average", average)),
            *(() if weights is None else ("--weights", *(repr(float(weight)) for weight in weights))),
            *(("--mixed-protocols",) if mixed_protocols else ()),
        ),
    )  # fmt: skip


def open_merge_worker(config: MergeConfig) -> ShardFunction:
    return functools.partial(merge_shard, config)


def merge_shard(config: MergeConfig, task: ShardTask) -> ShardResult:
    """Decode the members' labels of one audio shard, average, encode and commit.

    Raises IntegrityError or FormatError, having committed nothing, for a member whose shard is damaged or has become
    another one.
    """
    dataset = Dataset.open(config.dataset)
    name = f"{task.shard:06d}.json"
    audio = read_audio_sidecar(dataset.audio_folder(config.split, config.audio) / name)
    sides = [read_label_sidecar(dataset.labels_folder(config.split, member) / name) for member in config.members]
    for side, stated in zip(sides, config.fingerprints, strict=True):
        if side.fingerprint != stated or not _labels_all_of(side, audio):
            raise FormatError(f"{side.path}: is not what it was when the job began; merge again")
        check_tar_size(side)
    average_of_clip = average_of(
        config.members, sides, average=config.average, weights=config.weights, mixed_protocols=config.mixed_protocols
    )
    lacking = _lacking(sides)
    seconds = {"decode": 0.0, "average": 0.0, "encode": 0.0, "commit": 0.0}
    with (
        contextlib.ExitStack() as opened,
        LabelShardWriter(
            dataset.labels_folder(config.split, config.labels), audio, target=average_of_clip.target,
            provenance=json.loads(config.provenance), codec=config.codec,
        ) as writer,
    ):  # fmt: skip
        readers = [opened.enter_context(LabelReader(side)) for side in sides]
        for row, key in enumerate(audio.clips.key):
            stop_if_asked()
            if key in lacking:
                writer.fail(key, _ABSENT, _why(key, config.members, sides))
                continue
            times = [time.perf_counter()]
            values = [reader.read(row) for reader in readers]
            times.append(time.perf_counter())
            merged = average_of_clip(values)
            times.append(time.perf_counter())
            try:
                writer.add(key, merged)
            except LabelRefused as refused:
                writer.fail(key, refused.reason, str(refused))
            times.append(time.perf_counter())
            for step, began_s, ended_s in zip(("decode", "average", "encode"), times, times[1:], strict=False):
                seconds[step] += ended_s - began_s
        started_s = time.perf_counter()
        sidecar = writer.commit()
        seconds["commit"] = time.perf_counter() - started_s
    return result_of(sidecar, seconds)


class _Member(NamedTuple):
    """What planning keeps of a label set: all its sidecars take 0.6 KB a clip, and there may be 15 such sets.

    first: of its sidecars. lacking: keys of clips without a label, by shard.
    """

    first: LabelSidecar
    lacking: dict[int, set[str]]


def _found(dataset: Dataset, split: str, name: str, audio_shards: Sequence[AudioSidecar], audio: str) -> _Member:
    """Raises UsageError unless the shards of that member label just the clips of the audio shards."""
    folder = dataset.labels_folder(split, name)
    sides = {side.shard: side for side in dataset.label_shards(split, name) if side.spec.name == audio}
    if not sides or not audio_shards:
        has = ", ".join(dataset.label_sets(split)) or "none"
        raise UsageError(f"{folder}: has no labels of audio {audio}; label sets of split {split} are: {has}")
    missing = sorted({side.shard for side in audio_shards} - sides.keys())
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise UsageError(f"{folder}: lacks {len(missing)} of {len(audio_shards)} shards ({shown}); label them first")
    first = sides[min(sides)]
    for side in audio_shards:
        label = sides[side.shard]
        if not _labels_all_of(label, side):
            raise UsageError(f"{label.path}: labels other clips than {side.path} holds; label that audio again")
        if label.fingerprint != first.fingerprint or label.target != first.target:
            made = differing(label.provenance, first.provenance) or "another target"
            raise UsageError(f"{label.path}: was made otherwise than {first.path} ({made}); label the set in one way")
    return _Member(first, {number: _keys_of(side) for number, side in sides.items()})


def _labels_all_of(labels: LabelSidecar, audio: AudioSidecar) -> bool:
    return labels.clips.key == audio.clips.key and labels.clips.identity == audio.clips.identity


def _keys_of(side: LabelSidecar, reason: str | None = None) -> set[str]:
    """Clips that failed, for that reason."""
    return {key for key, why in zip(side.failed.key, side.failed.reason, strict=True) if reason in (None, why)}


def _lacking(sides: Sequence[LabelSidecar]) -> set[str]:
    return {key for side in sides for key in _keys_of(side)}


def _why(key: str, members: Sequence[str], sides: Sequence[LabelSidecar]) -> str:
    """Which members have no label of a clip, and their reasons."""
    told = []
    for name, side in zip(members, sides, strict=True):
        for failed, reason, detail in zip(side.failed.key, side.failed.reason, side.failed.detail, strict=True):
            if failed == key:
                told.append(f"{name}: {reason}, {detail}")
    return "; ".join(told)


def _provenance(
    members: Sequence[str], sides: Sequence[LabelSidecar], average: AverageOf, audio: str, codec: str
) -> dict[str, Any]:
    """`teacher` is what labelling with the members' teachers at once would state; `merged` what else they state."""
    teachers, merged = [], []
    for name, side in zip(members, sides, strict=True):
        stated = dict(side.provenance)
        inner = stated.get("teacher")
        if isinstance(inner, dict):
            del stated["teacher"]
            teachers.append(inner)
        else:  # labels of others say it in their own way
            teachers.append(stated)
            stated = {}
        merged.append({**stated, "labels": name, "fingerprint": side.fingerprint})
    return {
        "stage": "merge",
        "stage_version": STAGE_VERSION,
        "audio": audio,
        "codec": codec,
        "teacher": teachers[0] if len(teachers) == 1 else average.described(teachers),
        "merged": merged,
    }


def _check_committed(
    committed: dict[int, LabelSidecar], audio: dict[int, AudioSidecar], provenance: dict[str, Any]
) -> None:
    for side in committed.values():
        if side.fingerprint != fingerprint(provenance):
            raise UsageError(
                f"{side.path}: was made otherwise than this merge would ({differing(side.provenance, provenance)}); "
                "choose another --labels name, or remove that set"
            )
        if side.shard not in audio or not _labels_all_of(side, audio[side.shard]):
            raise UsageError(
                f"{side.path}: labels other clips than the audio of that number; remove it and merge again"
            )
