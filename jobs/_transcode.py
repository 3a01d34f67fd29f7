"""The transcode stage: a local copy of a dataset with its audio in another codec, and its labels as they are."""

import functools
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs._pack import check_clips_per_shard
from jobs._result import result_of
from jobs._stage import ShardFunction, ShardResult, ShardTask, Stage
from jobs._stop import stop_if_asked
from jobs._transcode_labels import labels_stage
from jobs._transcode_plan import (
    Spans,
    assign,
    check_committed,
    clips_of,
    copied_rows,
    provenance,
    rejected_in,
    stored_in,
)
from pipeline import (
    FormatError,
    IntegrityError,
    UsageError,
    pcm_identity,
    read_hard,
    sweep_partial,
    write_atomic,
)
from shards import (
    MANIFEST_NAME,
    AudioReader,
    AudioShardWriter,
    AudioSidecar,
    Dataset,
    ManifestRow,
    by_shard,
    check_audio_codec,
    check_tar_size,
    command_arguments,
    read_audio_sidecar,
    read_manifest,
    sidecar_paths,
    write_manifest,
)


@dataclass(frozen=True, kw_only=True)
class TranscodeConfig:
    """All that a worker needs. spans: what each missing shard of folder `output` is made of, out of folder `source`."""

    source: Path
    output: Path
    codec: str
    spans: dict[int, Spans]


def transcode_stages(
    *,
    dataset: str | Path,
    out: Path,
    codec: str,
    splits: Collection[str] = (),
    audio: Collection[str] = (),
    clips_per_shard: int | None = None,
) -> tuple[Stage, ...]:
    """Plan a copy of `dataset` in folder `out`: a stage for each audio folder, then one for each label set.

    codec: of the copied audio. What a clip decodes to stays the same to the bit, and so labels stay valid.
    splits, audio: which splits, and which audio specs with the label sets made from them; all if empty.
    clips_per_shard: shard the audio anew; by default the copy has the shards of the dataset.

    Commits dataset.json, hard.parquet and manifests. Called again, committed shards are checked to be what this call
    would write, and what the dataset got since then is added. Raises UsageError for wrong use and for an output that
    cannot be written or holds something else, FormatError for a dataset whose files cannot be read or contradict each
    other, IntegrityError for a committed shard that is damaged.
    """
    source, copy = Dataset.open(dataset), Dataset(out)
    _check_arguments(source, copy, clips_per_shard)
    chosen_splits = _chosen(splits, source.splits(), f"{source.root}: splits")
    specs = sorted({spec for split in chosen_splits for spec in source.audio_specs(split)})
    chosen_specs = _chosen(audio, specs, f"{source.root}: audio specs")
    _check_codecs([source.audio_folder(split, spec) for split in chosen_splits for spec in chosen_specs], codec)

    def command(split: str, spec: str) -> tuple[str, ...]:
        return command_arguments(
            "transcode",
            dataset=source.root,
            out=copy.root,
            codec=codec,
            split=split,
            audio=spec,
            clips_per_shard=clips_per_shard,
        )

    try:
        Dataset.create(copy.root, keys=source.keys)
        sweep_partial(copy.root)
        stages = []
        for split in chosen_splits:
            of_split = [spec for spec in source.audio_specs(split) if spec in chosen_specs]
            for spec in of_split:
                stage = _audio_stage(source, copy, split, spec, codec, clips_per_shard)
                stages.append(replace(stage, command=command(split, spec)))
            if of_split:
                _copy_hard(source.hard_path(split), copy.hard_path(split))
        for split in chosen_splits:
            for labels in source.label_sets(split):
                for spec in chosen_specs:
                    of_labels = labels_stage(source, copy, split, labels, spec)
                    if of_labels:
                        stages.append(replace(of_labels, command=command(split, spec)))
    except OSError as error:
        raise UsageError(
            f"copy {copy.root} cannot be made ({error.strerror}: {error.filename}); choose another --out"
        ) from error
    return tuple(stages)


def open_transcode_worker(config: TranscodeConfig) -> ShardFunction:
    return functools.partial(transcode_shard, config)


def transcode_shard(config: TranscodeConfig, task: ShardTask) -> ShardResult:
    """Decode the clips of one shard of the copy, check that they are what they were, encode and commit them.

    Raises IntegrityError or FormatError, having committed nothing, if one of them is damaged.
    """
    spans = config.spans[task.shard]
    sources = _sources(config.source, spans)
    for source in sources:
        check_tar_size(source)
    seconds = {"decode": 0.0, "encode": 0.0, "commit": 0.0}
    with AudioShardWriter(
        config.output,
        task.shard,
        spec=sources[0].spec,
        provenance=provenance(config.codec, sources, _rows(config.output, task.shard)),
        codec=config.codec,
    ) as writer:
        for source, span in zip(sources, spans, strict=True):
            with AudioReader(source) as reader:
                for row, clip in stored_in(source, span):
                    stop_if_asked()
                    started_s = time.perf_counter()
                    pcm = reader.read(row)
                    if pcm_identity(pcm) != clip.identity:
                        raise IntegrityError(
                            f"{source.tar_path}: clip {clip.key} decodes to other audio than its identity says; "
                            "verify the dataset, repair says what restores it"
                        )
                    decoded_s = time.perf_counter()
                    writer.add(  # which decodes what it encoded and compares
                        clip.key,
                        pcm,
                        origin=clip.origin,
                        cut_samples=clip.cut_samples,
                        clipped_samples=clip.clipped_samples,
                        flags=clip.flags,
                    )
                    seconds["decode"] += decoded_s - started_s
                    seconds["encode"] += time.perf_counter() - decoded_s
            for refused in rejected_in(source, span):
                writer.reject(refused.key, refused.reason, refused.detail)
        started_s = time.perf_counter()
        sidecar = writer.commit()
        seconds["commit"] += time.perf_counter() - started_s
    return result_of(sidecar, seconds)


def _audio_stage(
    source: Dataset, copy: Dataset, split: str, spec: str, codec: str, clips_per_shard: int | None
) -> Stage:
    folder, output = source.audio_folder(split, spec), copy.audio_folder(split, spec)
    output.mkdir(parents=True, exist_ok=True)
    sweep_partial(output)
    rows = read_manifest(folder / MANIFEST_NAME) if (folder / MANIFEST_NAME).exists() else None
    keys_of = _keys_of(folder, None if rows is None else by_shard(rows))
    manifest = output / MANIFEST_NAME
    listed = read_manifest(manifest) if manifest.exists() else ()
    earlier = {row.key: row.shard for row in listed}
    committed = sidecar_paths(output)
    for path in committed if not listed else ():
        earlier.update(dict.fromkeys(clips_of(read_audio_sidecar(path)), int(path.stem)))
    spans = assign(keys_of, earlier, clips_per_shard=clips_per_shard)
    copied = None if rows is None else copied_rows(spans, keys_of, rows)
    rows_of = by_shard(copied or ())
    done = []
    for path in committed:
        sidecar = read_audio_sidecar(path)
        if sidecar.shard not in spans:
            raise UsageError(f"{path}: is made of clips that {folder} has not; move it away, or give another --out")
        of_shard = spans.pop(sidecar.shard)
        sources = _sources(folder, of_shard)
        expected = provenance(codec, sources, None if rows is None else rows_of.get(sidecar.shard, ()))
        check_committed(sidecar, of_shard, sources, expected, codec)
        check_tar_size(sidecar)
        done.append(result_of(sidecar))
    if copied is not None and copied != listed:
        write_manifest(manifest, copied)
    return Stage(
        name=f"transcode {split}/{spec}",
        open_worker=open_transcode_worker,
        config=TranscodeConfig(source=folder, output=output, codec=codec, spans=spans),
        tasks=tuple(
            ShardTask(shard=shard, clips=sum(span.stop - span.start for span in of_shard))
            for shard, of_shard in spans.items()
        ),
        done=tuple(done),
        output=output,
        notes={"not_yet_packed": 0 if rows is None else len(rows) - sum(map(len, keys_of.values()))},
    )


def _keys_of(folder: Path, rows: Mapping[int, tuple[ManifestRow, ...]] | None) -> dict[int, tuple[str, ...]]:
    """The clips of every committed shard of `folder`, which has to account for its rows, if there is a manifest."""
    keys_of = {}
    specs = set()
    for path in sidecar_paths(folder):
        sidecar = read_audio_sidecar(path)
        specs.add(sidecar.spec)
        keys_of[sidecar.shard] = clips_of(sidecar)
        if rows is not None and {row.key for row in rows.get(sidecar.shard, ())} != set(keys_of[sidecar.shard]):
            raise FormatError(f"{path}: has not the clips that its manifest lists; verify the dataset, repair it")
    clips = [key for keys in keys_of.values() for key in keys]
    if len(set(clips)) != len(clips) or len(specs) > 1:
        raise FormatError(f"{folder}: has a clip in two shards, or two audio specs; verify the dataset, repair it")
    return keys_of


def _sources(folder: Path, spans: Spans) -> list[AudioSidecar]:
    """The source shard of every span."""
    found = {span.shard: read_audio_sidecar(folder / f"{span.shard:06d}.json") for span in spans}
    return [found[span.shard] for span in spans]


def _rows(output: Path, shard: int) -> tuple[ManifestRow, ...] | None:
    manifest = output / MANIFEST_NAME
    return read_manifest(manifest, shard=shard) if manifest.exists() else None


def _copy_hard(path: Path, copied: Path) -> None:
    read_hard(path)
    content = path.read_bytes()
    sweep_partial(copied.parent)
    if not copied.exists() or copied.read_bytes() != content:
        write_atomic(copied, content)


def _check_arguments(source: Dataset, copy: Dataset, clips_per_shard: int | None) -> None:
    if clips_per_shard is not None:
        check_clips_per_shard(clips_per_shard)
    for dataset in (source, copy):
        if isinstance(dataset.root, Path) and not dataset.root.is_absolute():
            raise UsageError(f"{dataset.root} is relative, a job needs absolute paths: it may run in another folder")
    if isinstance(source.root, Path) and isinstance(copy.root, Path):
        here, there = source.root.resolve(), copy.root.resolve()
        if here.is_relative_to(there) or there.is_relative_to(here):
            raise UsageError(f"--out {copy.root} and dataset {source.root} lie in each other; give another folder")


def _check_codecs(folders: Iterable[Path], codec: str) -> None:
    """Say now what every worker would: raises UsageError unless clips of `folders` can be read, and made in `codec`."""
    for path in (path for folder in folders for path in sidecar_paths(folder)[:1]):
        sidecar = read_audio_sidecar(path)
        for needed in (sidecar.codec, codec):
            check_audio_codec(needed, sidecar.spec)


def _chosen(asked: Collection[str], there: Sequence[str], what: str) -> tuple[str, ...]:
    """What is asked for, in the order in which it is there; all by default. Raises UsageError for anything else."""
    unknown = sorted(set(asked) - set(there))
    if unknown or not there:
        raise UsageError(f"{what} are {', '.join(there) or 'none'}; there is no {', '.join(unknown) or 'clip to copy'}")
    return tuple(name for name in there if not asked or name in asked)
