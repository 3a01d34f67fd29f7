"""Label shards of a copy: the same bytes, since labels bind to clips and not to how their audio is stored."""

import functools
import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

from jobs._result import result_of
from jobs._stage import ShardFunction, ShardResult, ShardTask, Stage
from jobs._stop import stop_if_asked
from pipeline import IntegrityError, UsageError, atomic_path, sweep_partial
from shards import (
    Dataset,
    LabelSidecar,
    check_tar_size,
    parse_label_sidecar,
    read_label_sidecar,
    read_sidecar_bytes,
    sidecar_paths,
)

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CopyConfig:
    """Label shards are copied from folder `source` to folder `output`."""

    source: Path
    output: Path


def labels_stage(source: Dataset, copy: Dataset, split: str, labels: str, spec: str) -> Stage | None:
    """The shards of a label set that the copy lacks; None if the set has none made from audio `spec`.

    Raises UsageError if the copy has other labels of that name, or a shard of it that the dataset has not.
    """
    folder, output = source.labels_folder(split, labels), copy.labels_folder(split, labels)
    tasks, done = [], []
    kept = set()
    for path in sidecar_paths(folder):
        content = read_sidecar_bytes(path)
        sidecar = parse_label_sidecar(content, path)
        if sidecar.spec.name != spec:
            continue
        copied = output / path.name
        kept.add(copied)
        if not copied.exists():
            tasks.append(ShardTask(shard=sidecar.shard, clips=len(sidecar.clips)))
        elif read_sidecar_bytes(copied) == content:
            check_tar_size(replace(sidecar, path=copied))
            done.append(result_of(sidecar))
        else:
            raise UsageError(
                f"{copied}: has other labels than {path}; move the label set of the copy away, or give another --out"
            )
    for copied in sidecar_paths(output):
        if copied not in kept and read_label_sidecar(copied).spec.name == spec:
            raise UsageError(
                f"{copied}: is a label shard that {folder} has not; move this .json and its tar away, "
                "or give another --out"
            )
    if not tasks and not done:
        return None
    output.mkdir(parents=True, exist_ok=True)
    sweep_partial(output)
    return Stage(
        name=f"copy {split}/{labels}",
        open_worker=open_copy_worker,
        config=CopyConfig(source=folder, output=output),
        tasks=tuple(tasks),
        done=tuple(done),
        output=output,
    )


def open_copy_worker(config: CopyConfig) -> ShardFunction:
    return functools.partial(copy_label_shard, config)


def copy_label_shard(config: CopyConfig, task: ShardTask) -> ShardResult:
    """Copy tar and sidecar. Raises IntegrityError, having changed nothing, unless the tar has its sha256."""
    started_s = time.perf_counter()
    path = config.source / f"{task.shard:06d}.json"
    content = read_sidecar_bytes(path)  # once: what is committed is what the tar is compared with
    sidecar = parse_label_sidecar(content, path)
    check_tar_size(sidecar)
    copied = config.output / path.name
    with atomic_path(copied) as temporary_sidecar:
        temporary_sidecar.write_bytes(content)
        with atomic_path(copied.with_suffix(".tar")) as temporary:
            _copy_tar(sidecar, temporary)
            copied.unlink(missing_ok=True)  # before its tar is replaced: a sidecar never describes another tar
    return result_of(sidecar, {"copy": time.perf_counter() - started_s})


def _copy_tar(sidecar: LabelSidecar, copied: Path) -> None:
    digest = hashlib.sha256()
    with copied.open("wb") as tar, sidecar.tar_path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            stop_if_asked()
            digest.update(block)
            tar.write(block)
    if digest.hexdigest() != sidecar.tar_sha256:
        raise IntegrityError(
            f"{sidecar.tar_path}: differs from its sha256; verify names the clips, repair what restores them"
        )
