"""Planning a label run: which shards of a split a label set lacks, and whether what it has goes with the rest."""

from collections.abc import Sequence
from pathlib import Path

import torch

from jobs import ShardTask, Stage, differing, machine_cpus, result_of
from pipeline import UsageError
from shards import (
    AudioSidecar,
    Dataset,
    LabelSidecar,
    check_audio_codec,
    check_label_codec,
    check_tar_size,
    command_arguments,
    fingerprint,
)
from teachers._labeller import LabellerChoice
from teachers._registry import parse_device
from teachers.labelling._device import say
from teachers.labelling._provenance import parsed_provenance, provenance_of
from teachers.labelling._shard import UNREADABLE, LabelConfig, open_label_worker

# Threads that feed and drain one GPU; more of them would wait for each other.
_THREADS_PER_GPU = 12


def label_stage(
    *,
    dataset: Path,
    split: str,
    labels: str,
    teacher: LabellerChoice,
    audio: str | None = None,
    codec: str = "faithful",
    device: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    compile: bool = True,
) -> Stage:
    """The shards of `split` that label set `labels` still lacks, or has without clips whose audio could not be read.

    Loads the teacher once here, so that a wrong checkpoint is an error before any worker starts and so that labels of
    another provenance are refused instead of mixed with these. On the CPU: the GPUs are the workers' alone.

    device: "auto" is "cuda" where this machine has one, else "cpu", whatever the workers of a cluster have.
    batch_size: None finds the best. threads: of one worker, None for 1 on a CPU and this machine's share of a GPU.
    compile: on CUDA, have PyTorch compile the teacher.

    Raises UsageError (paths, names, audio that cannot be decoded here, a label set of another provenance, of other
    audio or of other shards) and TeacherError (checkpoint).
    """
    if not dataset.is_absolute():
        raise UsageError(f"--dataset is {str(dataset)!r}, needs an absolute path: workers run in folders of their own")
    for option, given in (("batch-size", batch_size), ("threads", threads)):
        if given is not None and given < 1:
            raise UsageError(f"--{option} is {given}, needs at least 1")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = parse_device(device)
    if place.index is not None:
        raise UsageError(f"--device is {device!r}, needs {place.type!r}: every worker has a GPU of its own")
    on_gpu = place.type == "cuda"
    if threads is None:
        threads = _threads_per_gpu() if on_gpu else 1
    opened = Dataset.open(dataset)
    output = opened.labels_folder(split, labels)
    audio = audio or opened.only_audio(split)
    audio_shards = opened.audio_shards(split, audio)
    if not audio_shards:
        there = opened.audio_specs(split)
        if there and audio not in there:
            raise UsageError(
                f"--audio {audio}: split {split} has no such audio set; it has {', '.join(there)}: name one "
                f"of these, or run pack for another"
            )
        raise UsageError(
            f"{opened.audio_folder(split, audio)} has no committed audio shards: run pack for split {split} first"
        )
    for stored in {(shard.codec, shard.spec) for shard in audio_shards}:
        check_audio_codec(*stored)
    spec = audio_shards[0].spec
    opened_teacher = teacher.open("cpu", spec, say=say)
    target = opened_teacher.clip_target if teacher.target == "clip" else opened_teacher.target
    check_label_codec(codec, target.shape, target.kind)
    provenance = provenance_of(opened_teacher, split, audio, codec, teacher.target)
    config = LabelConfig(
        dataset=dataset, split=split, audio=audio, spec=spec, labels=labels, teacher=teacher, provenance=provenance,
        codec=codec, device=device, batch_size=batch_size, threads=threads, compile=compile,
        clips=max(1, *(len(shard.clips) for shard in audio_shards)),
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
        if earlier is not None and UNREADABLE not in earlier.failed.reason:
            done.append(result_of(earlier))
        else:
            tasks.append(ShardTask(shard=shard.shard, clips=len(shard.clips.key)))
    return Stage(
        name="label", open_worker=open_label_worker, config=config, tasks=tuple(tasks), done=tuple(done),
        output=output, cpus=threads, gpus=float(on_gpu), at_once=2 if on_gpu else 1,
        command=(
            *command_arguments(
                "label", dataset=dataset, split=split, labels=labels, codec=codec, audio=audio, device=device,
                batch_size=batch_size or "auto", threads=threads,
            ),
            *(() if compile else ("--no-compile",)),
            *teacher.arguments,
        ),
    )  # fmt: skip


def _threads_per_gpu() -> int:
    """A GPU's share of this machine's cores but one, which is the driver's. A machine without GPUs is the head of a
    cluster that has them."""
    gpus = torch.cuda.device_count()
    return max(1, min(_THREADS_PER_GPU, (machine_cpus() - 1) // gpus)) if gpus else _THREADS_PER_GPU // 2


def _check_same(
    labels: LabelSidecar, audio: AudioSidecar, provenance: str, audio_shards: Sequence[AudioSidecar]
) -> None:
    if labels.fingerprint != fingerprint(parsed_provenance(provenance)):
        raise UsageError(
            f"{labels.path} was labelled otherwise than this run would "
            f"({differing(labels.provenance, parsed_provenance(provenance))}): choose another --labels name, or remove "
            "that set"
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
