"""Published pseudo-labels into label shards: matched by name, checked against what people heard, and written.

Imported labels have no audio identity of their own; the label shards carry that of the audio stored here, and the
provenance says that they were imported. So the checks before writing are all that ties them to this audio.
"""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import UsageError, canonical_json, sweep_partial, write_atomic
from shards._commands import record_command
from shards._counted import counted
from shards._dataset import Dataset
from shards._failures import LabelRefused
from shards._reader import check_tar_size
from shards._sidecar import AudioSidecar, LabelSidecar
from shards._store import is_remote
from shards._writer import LabelShardWriter
from shards.foreign._agreement import Agreement
from shards.foreign._checks import Labels, examine, refuse
from shards.foreign._lag import Lag
from shards.foreign._names import NameCoverage, NameMatcher
from shards.foreign._report import ImportReport, import_report
from shards.foreign._source import ForeignFiles, Progress, foreign_provenance, open_foreign

IMPORT_REPORT_NAME = "import.json"


def import_labels(
    dataset: Dataset | Path | str,
    split: str,
    labels: str,
    source: ForeignFiles,
    *,
    audio: str | None = None,
    codec: str = "master",
    reference: str | None = None,
    unchecked: bool = False,
    allow_lag: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> ImportReport:
    """Write label set `labels` of `split` from foreign files; shards that the same import committed before are kept.

    audio: the audio set whose clips get labels, if the split has several.
    reference: a label set to estimate the lag against instead of the strong hard labels.
    unchecked: import although labels disagree with the hard labels, or there are too few to tell, or although all of a
    format of logits lie between 0 and 1, as probabilities do.
    allow_lag: import frame labels that lag by more than 60 ms, or whose lag cannot be estimated.

    Writes `import.json` beside the shards. Raises UsageError for what cannot be right or needs to be asked for,
    MetadataError for two names of one clip, FormatError for files that are damaged or not what they should be.
    """
    opened = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    if is_remote(opened.root):
        raise UsageError(f"{opened.root}: stores are only read; import into a local copy and copy the labels there")
    folder = opened.labels_folder(split, labels)
    audio = audio or opened.only_audio(split)
    audio_shards = opened.audio_shards(split, audio)
    samples = {key: n for side in audio_shards for key, n in zip(side.clips.key, side.clips.samples, strict=True)}
    if not samples:
        raise UsageError(f"{opened.root}: split {split} has no clip stored as {audio}; run pack for it first")
    spec = audio_shards[0].spec
    made = foreign_provenance(source, audio, progress)
    matcher = NameMatcher(frozenset(samples), opened.keys)
    foreign = open_foreign(source, matcher, spec.clip_ms)
    try:
        coverage = matcher.coverage()
        _check_any(coverage, source, split)
        made["vocabulary"] = foreign.target.classes.sha256
        committed = {side.shard: side for side in opened.label_shards(split, labels)}
        for before in committed.values():
            _check_same_import(before, made, codec)
        _check_same_clips(committed, audio_shards, samples)
        values, found, lag = examine(opened, split, foreign, samples, spec.sample_rate, reference, progress)
        refuse(values, found, lag, unchecked=unchecked, allow_lag=allow_lag)
        # What the first run found stays in the provenance of all: shards packed later do not make another label set.
        provenance = next((dict(side.provenance) for side in committed.values()), made | {"found": _found(found, lag)})
        folder.mkdir(parents=True, exist_ok=True)
        sweep_partial(folder)
        missing = [side.shard for side in audio_shards if side.shard not in committed]
        options = ("--codec", codec, *(("--reference", reference) if reference else ()))
        flags = (*("--unchecked",) * unchecked, *("--allow-lag",) * allow_lag)
        place = ("--dataset", str(opened.root.absolute()), "--split", split, "--labels", labels, "--audio", audio)
        if missing:
            record_command(folder, ("import-labels", *place, *source.arguments(), *options, *flags), missing)
        written: list[LabelSidecar] = []
        done = 0
        for side in audio_shards:
            written.append(committed.get(side.shard) or _write_shard(folder, side, foreign, provenance, codec))
            done += len(side.clips)
            progress("writing clips", done, len(samples))
    finally:
        foreign.close()
    report = import_report(labels, coverage, values, found, lag, written, kept=len(audio_shards) - len(missing))
    write_atomic(folder / IMPORT_REPORT_NAME, canonical_json(report.to_json()) + "\n")
    return report


def _write_shard(
    folder: Path, audio: AudioSidecar, foreign: Labels, provenance: Mapping[str, Any], codec: str
) -> LabelSidecar:
    with LabelShardWriter(folder, audio, target=foreign.target, provenance=provenance, codec=codec) as writer:
        for row, key in enumerate(audio.clips.key):
            if key not in foreign.order:
                writer.fail(key, "absent", "the imported file has no label of this name")
                continue
            try:
                writer.add(key, foreign.read(key, audio.clips.samples[row], audio.spec.sample_rate))
            except LabelRefused as refused:
                writer.fail(key, refused.reason, str(refused))
        return writer.commit()


def _check_any(coverage: NameCoverage, source: ForeignFiles, split: str) -> None:
    if not coverage.matched:
        examples = ", ".join(coverage.examples["extra"] or coverage.examples["ambiguous"])
        raise UsageError(
            f"{source.files[0]}: none of its {counted(coverage.names, 'name')} is one of the "
            f"{counted(coverage.clips, 'clip')} of split {split} (names: {examples}); check --split and --dataset"
        )


def _found(found: Agreement | None, lag: Lag | None) -> dict[str, Any]:
    """For the provenance: floats are rounded by their makers, so that equal imports state equal things."""
    about: dict[str, Any] = {"agreement": None, "lag": None}
    if found is not None and found.enough:
        about["agreement"] = {
            "auc": found.auc,
            "classes": found.classes,
            "clips": found.clips,
            "fits": not found.problem,
        }
    if lag is not None and lag.enough:
        about["lag"] = {"lag_ms": lag.lag_ms, "clips": lag.clips, "against": lag.against}
    return about


def _check_same_import(committed: LabelSidecar, made: Mapping[str, Any], codec: str) -> None:
    if committed.codec != codec:
        raise UsageError(
            f"{committed.path} is stored as {committed.codec}, this import asks for {codec}: "
            "choose another --labels name, or remove that label set"
        )
    before = {name: value for name, value in committed.provenance.items() if name != "found"}
    if before != made:
        raise UsageError(
            f"{committed.path} was made by {canonical_json(before)}, this import would make it by "
            f"{canonical_json(made)}: choose another --labels name, or remove that label set"
        )


def _check_same_clips(
    committed: Mapping[int, LabelSidecar], audio_shards: Sequence[AudioSidecar], stored: Container[str]
) -> None:
    """Beside label shards of other audio shards than these, a new one would label clips twice. Those of shards that
    are gone, clips and all, are let be."""
    audio_of = {side.shard: side.clips for side in audio_shards}
    for shard, side in committed.items():
        audio = audio_of.get(shard)
        if audio is None:
            fits = not any(key in stored for key in side.clips.key)
        else:
            fits = (side.clips.key, side.clips.identity) == (audio.key, audio.identity)
        if not fits:
            raise UsageError(
                f"{side.path}: labels other audio than shard {side.path.stem} of {audio_shards[0].path.parent} holds, "
                "or the same in another order; use another --labels name, or import into the dataset as it was packed "
                "and transcode it again"
            )
        check_tar_size(side)
