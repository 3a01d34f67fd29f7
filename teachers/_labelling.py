"""Labelling: audio shard in, label shard out. A plain function per shard; `jobs` decides where and when it runs."""

import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from jobs import ShardResult, ShardTask, Stage, differing, result_of, stop_if_asked
from pipeline import FormatError, IntegrityError, TeacherError, UsageError, canonical_json, waveform_into
from shards import (
    AudioReader,
    AudioSidecar,
    Dataset,
    LabelRefused,
    LabelShardWriter,
    LabelSidecar,
    check_audio_codec,
    check_tar_size,
    command_arguments,
    fingerprint,
    read_audio_sidecar,
)
from teachers._choice import TeacherChoice
from teachers._registry import parse_device
from teachers._teacher import Teacher

STAGE_VERSION = 1  # raised when the same audio and teacher would give other labels
T = TypeVar("T")
# Damage can be undone, unlike what a teacher says of a clip: shards with this reason are labelled again.
_UNREADABLE = "unreadable_audio"


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """What a worker needs to label shards of one split. `provenance`: the canonical JSON every shard must carry."""

    dataset: Path
    split: str
    audio: str
    labels: str
    teacher: TeacherChoice
    provenance: str
    codec: str = "faithful"
    device: str = "cpu"
    batch_size: int = 8
    threads: int = 1


def label_stage(
    *,
    dataset: Path,
    split: str,
    labels: str,
    teacher: TeacherChoice,
    audio: str | None = None,
    codec: str = "faithful",
    device: str = "cpu",
    batch_size: int = 8,
    threads: int = 1,
) -> Stage:
    """The shards of `split` that label set `labels` still lacks, or has without clips whose audio could not be read.

    Loads the teacher once here, so that a wrong checkpoint is an error before any worker starts and so that labels of
    another provenance are refused instead of mixed with these. On the CPU: the GPUs are the workers' alone.

    Raises UsageError (paths, names, audio that cannot be decoded here, a label set of another provenance, of other
    audio or of other shards) and TeacherError (checkpoint).
    """
    if not dataset.is_absolute():
        raise UsageError(f"--dataset is {str(dataset)!r}, needs an absolute path: workers run in folders of their own")
    if batch_size < 1 or threads < 1:
        raise UsageError(f"--batch-size is {batch_size} and --threads {threads}, need at least 1")
    place = parse_device(device)
    if place.index is not None:
        raise UsageError(f"--device is {device!r}, needs {place.type!r}: every worker has a GPU of its own")
    opened = Dataset.open(dataset)
    output = opened.labels_folder(split, labels)
    audio = audio or opened.only_audio(split)
    audio_shards = opened.audio_shards(split, audio)
    if not audio_shards:
        raise UsageError(
            f"{opened.audio_folder(split, audio)} has no committed audio shards: run pack for split {split} first"
        )
    for stored in {(shard.codec, shard.spec) for shard in audio_shards}:
        check_audio_codec(*stored)
    provenance = canonical_json(_provenance(teacher.open("cpu"), split, audio, codec))
    config = LabelConfig(
        dataset=dataset, split=split, audio=audio, labels=labels, teacher=teacher, provenance=provenance,
        codec=codec, device=device, batch_size=batch_size, threads=threads,
    )  # fmt: skip
    committed = {sidecar.shard: sidecar for sidecar in opened.label_shards(split, labels)}
    for number in sorted(committed.keys() - {shard.shard for shard in audio_shards}):
        if _found_in(committed[number], audio_shards):
            raise _resharded(committed[number], opened.audio_folder(split, audio))
    tasks, done = [], []
    for shard in audio_shards:
        earlier = committed.get(shard.shard)
        if earlier is not None:
            _check_same(earlier, shard, provenance, audio_shards)
            check_tar_size(earlier)
        if earlier is not None and _UNREADABLE not in earlier.failed.reason:
            done.append(result_of(earlier))
        else:
            tasks.append(ShardTask(shard=shard.shard, clips=len(shard.clips.key)))
    return Stage(
        name="label", open_worker=open_label_worker, config=config, tasks=tuple(tasks), done=tuple(done),
        output=output, cpus=threads, gpus=float(place.type == "cuda"),
        command=command_arguments(
            "label", dataset=dataset, split=split, teacher=teacher.text, labels=labels, codec=codec, audio=audio,
            device=device, batch_size=batch_size, threads=threads,
        ),
    )  # fmt: skip


def open_label_worker(config: LabelConfig) -> Callable[[ShardTask], ShardResult]:
    """Load the teacher once in this process and return the function that labels one shard."""
    torch.set_num_threads(config.threads)
    teacher = config.teacher.open(config.device)
    here = canonical_json(_provenance(teacher, config.split, config.audio, config.codec))
    if here != config.provenance:
        raise TeacherError(
            f"teacher {config.teacher.text} on {platform.node()} is not the one the job was started with; "
            "put the same checkpoint file on every node"
        )
    return lambda task: label_shard(config, teacher, task)


def label_shard(config: LabelConfig, teacher: Teacher, task: ShardTask) -> ShardResult:
    """Label every clip of one audio shard and commit the label shard."""
    dataset = Dataset.open(config.dataset)
    audio = read_audio_sidecar(dataset.audio_folder(config.split, config.audio) / f"{task.shard:06d}.json")
    check_tar_size(audio)  # a damaged clip costs that clip, a cut-off tar is a damaged shard
    seconds: dict[str, float] = defaultdict(float)
    with LabelShardWriter(
        dataset.labels_folder(config.split, config.labels), audio, target=teacher.target,
        provenance=_parsed(config.provenance), codec=config.codec, software=_recorded(config),
    ) as writer, AudioReader(audio) as reader, ThreadPoolExecutor(1) as ahead:  # fmt: skip
        batches = _batches(audio, reader, config.batch_size)
        upcoming = ahead.submit(next, batches, None)
        while (batch := _timed(seconds, "wait", upcoming.result)) is not None:
            stop_if_asked()
            upcoming = ahead.submit(next, batches, None)
            logits = _timed(seconds, "teacher", lambda batch=batch: _logits(teacher, batch))
            _timed(seconds, "write", lambda batch=batch, logits=logits: _write(writer, batch, logits))
        sidecar = _timed(seconds, "commit", writer.commit)
    return result_of(sidecar, seconds=dict(seconds))


@dataclass(frozen=True)
class _Batch:
    """Clips of one batch in shard order; `waveforms` holds the readable ones, in the same order."""

    keys: tuple[str, ...]
    errors: dict[str, str]
    waveforms: npt.NDArray[np.float32]


def _batches(audio: AudioSidecar, reader: AudioReader, batch_size: int) -> Iterator[_Batch]:
    """Float32 waveforms [<= batch_size, N], zero-padded to the full clip length N."""
    rows = iter(range(len(audio.clips.key)))
    while chunk := tuple(islice(rows, batch_size)):
        errors: dict[str, str] = {}
        waveforms = np.empty((len(chunk), audio.spec.max_samples), dtype=np.float32)
        filled = 0
        for row in chunk:
            try:
                pcm = reader.read(row)
            except (IntegrityError, FormatError) as error:
                errors[audio.clips.key[row]] = str(error)
                continue
            waveform_into(waveforms[filled], pcm)
            filled += 1
        yield _Batch(tuple(audio.clips.key[row] for row in chunk), errors, waveforms[:filled])


def _logits(teacher: Teacher, batch: _Batch) -> npt.NDArray[np.float32]:
    """Teacher logits of the readable clips, [B, *target.shape]."""
    if not len(batch.waveforms):
        return np.empty((0, *teacher.target.shape), dtype=np.float32)
    return teacher.frame_logits(torch.from_numpy(batch.waveforms)).numpy()


def _write(writer: LabelShardWriter, batch: _Batch, logits: npt.NDArray[np.float32]) -> None:
    position = 0
    for key in batch.keys:
        if key in batch.errors:
            writer.fail(key, _UNREADABLE, batch.errors[key])
            continue
        try:
            writer.add(key, logits[position])
        except LabelRefused as refused:
            writer.fail(key, refused.reason, str(refused))
        position += 1


def _provenance(teacher: Teacher, split: str, audio: str, codec: str) -> dict[str, object]:
    """What decides the content of every label; compared between runs. Batch size and versions are only recorded."""
    spec = teacher.audio_spec
    if audio != spec.name:
        raise UsageError(
            f"audio set {audio} of split {split} is not what the teacher hears: it needs {spec.name}; pack that"
        )
    return {
        "stage": "label",
        "stage_version": STAGE_VERSION,
        "audio": audio,
        "codec": codec,
        "teacher": dict(teacher.provenance),
    }


def _recorded(config: LabelConfig) -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "device": config.device,
        "batch_size": str(config.batch_size),
        "threads": str(config.threads),
    }


def _check_same(
    labels: LabelSidecar, audio: AudioSidecar, provenance: str, audio_shards: Sequence[AudioSidecar]
) -> None:
    if labels.fingerprint != fingerprint(_parsed(provenance)):
        raise UsageError(
            f"{labels.path} was labelled otherwise than this run would "
            f"({differing(labels.provenance, _parsed(provenance))}): choose another --labels name, or remove that set"
        )
    if labels.clips.key != audio.clips.key or labels.clips.identity != audio.clips.identity:
        if _found_in(labels, audio_shards) == len(labels.clips):
            raise _resharded(labels, audio.path.parent)
        raise UsageError(
            f"{labels.path} labels other audio than {audio.path} holds: remove the label shard and label again"
        )


def _found_in(labels: LabelSidecar, audio_shards: Sequence[AudioSidecar]) -> int:
    """How many clips of `labels` are in the audio, in whatever shard."""
    audio = {clip for shard in audio_shards for clip in zip(shard.clips.key, shard.clips.identity, strict=True)}
    return sum(clip in audio for clip in zip(labels.clips.key, labels.clips.identity, strict=True))


def _resharded(labels: LabelSidecar, folder: Path) -> UsageError:
    """Such labels are whole, and bound by key; only this stage goes by the number of the shard."""
    return UsageError(
        f"{labels.path} labels clips that {folder} has in shards made otherwise, as a copy that was sharded anew has: "
        "label in the dataset as it was packed and transcode again, or choose another --labels name"
    )


def _parsed(provenance: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(provenance)
    return parsed


def _timed(seconds: dict[str, float], step: str, call: Callable[[], T]) -> T:
    """Run `call` and add its wall time to `seconds[step]`."""
    start = time.perf_counter()
    result = call()
    seconds[step] += time.perf_counter() - start
    return result
