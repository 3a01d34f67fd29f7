"""A dataset in one screen, from its sidecars alone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline import FormatError, read_hard
from shards._dataset import DATASET_VERSION, Dataset
from shards._sidecar import AudioSidecar, LabelSidecar, Refusals

WIDTH = 80


def describe(root: str | Path) -> str:
    """Splits, clips stored and rejected, hours, sizes, label sets with their teachers: lines of at most 80 columns.

    Raises UsageError if there is no dataset at `root`, FormatError if one of its sidecars cannot be read.
    """
    dataset = Dataset.open(root)
    lines = [f"{dataset.root}", f"format {DATASET_VERSION}, keys {dataset.keys}"]
    for split in dataset.splits():
        lines += ["", f"{split}: {_hard_text(dataset, split)}"]
        audio_of = {name: dataset.audio_shards(split, name) for name in dataset.audio_specs(split)}
        for name, audio in audio_of.items():
            lines += _audio_lines(name, audio)
        for name in dataset.label_sets(split):
            lines += _label_lines(name, dataset.label_shards(split, name), audio_of)
    return "\n".join(_fit(line) for line in lines) + "\n"


def _hard_text(dataset: Dataset, split: str) -> str:
    path = dataset.hard_path(split)
    if not path.exists():
        return "no hard labels"
    try:
        table = read_hard(path)
    except FormatError:
        return "hard labels cannot be read; run verify"
    weak = len(table) - table.column("weak_mids").null_count
    strong = sum(table.column("strong_annotated").to_pylist())
    return f"{len(table):,} clips in hard.parquet, {weak:,} with weak and {strong:,} with strong labels"


def _audio_lines(name: str, shards: Sequence[AudioSidecar]) -> Iterator[str]:
    stored = sum(len(sidecar.clips) for sidecar in shards)
    seconds = sum(sum(sidecar.clips.samples) / sidecar.spec.sample_rate for sidecar in shards)
    yield f"  audio {name}"
    yield f"    {stored:,} clips, {seconds / 3600:,.2f} h, {_sizes(shards, stored)}"
    yield f"    {_refused_text('rejected', [sidecar.rejected for sidecar in shards])}"


def _label_lines(
    name: str, shards: Sequence[LabelSidecar], audio_of: dict[str, tuple[AudioSidecar, ...]]
) -> Iterator[str]:
    yield f"  labels {name}"
    if not shards:
        yield "    no committed shards"
        return
    target, spec = shards[0].target, shards[0].spec
    stored = sum(len(sidecar.clips) - len(sidecar.failed) for sidecar in shards)
    wanted = sum(len(sidecar.clips) for sidecar in audio_of.get(spec.name, ()))
    share = f" ({stored / wanted:.1%})" if wanted else ""
    yield f"    {stored:,} of {wanted:,} clips{share}, {_sizes(shards, stored)}"
    yield f"    {_refused_text('failed', [sidecar.failed for sidecar in shards])}"
    hop = f", hop {target.hop_ms} ms" if target.hop_ms else ""
    yield f"    {target.kind} [{', '.join(target.axes)}] = {list(target.shape)}{hop}, context {target.context_ms} ms"
    yield f"    vocabulary of {len(target.vocabulary)} classes, sha256 {target.vocabulary.sha256[:12]}"
    yield f"    teacher {_teacher_text(shards[0].provenance.get('teacher', 'unknown'))}"


def _sizes(shards: Sequence[AudioSidecar] | Sequence[LabelSidecar], clips: int) -> str:
    total = sum(sidecar.tar_bytes for sidecar in shards)
    content = sum(sum(sidecar.clips.length) for sidecar in shards)
    each = f", {content // clips:,} B a clip" if clips else ""
    return f"{len(shards):,} shards, {total / 1e6:,.1f} MB{each}"


def _refused_text(what: str, refusals: Sequence[Refusals]) -> str:
    reasons = Counter(reason for column in refusals for reason in column.reason)
    listed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
    return f"{reasons.total():,} {what}{': ' if listed else ''}{listed}"


def _teacher_text(teacher: Any) -> str:
    """Provenance is free JSON; teachers of this project state their family and their checkpoint's hash."""
    if not isinstance(teacher, dict):
        return str(teacher)
    checkpoint = teacher.get("checkpoint_sha256")
    return f"{teacher.get('family', 'unknown')}" + (f", checkpoint sha256 {checkpoint[:12]}" if checkpoint else "")


def _fit(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."
