"""A dataset in one screen, from the indexes of its shard folders: what is there, and what needs attention."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import wrap

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import FormatError, TargetSpec, read_hard
from pipeline._sealed import open_regular
from shards._counted import counted
from shards._dataset import DATASET_VERSION, Dataset
from shards._index import ShardIndex, open_index
from shards._index_binding import Binding
from shards._made_by import made_by, printable
from shards._manifest import MANIFEST_NAME
from shards._sidecar_parse import is_sidecar_name
from shards._store import entry_at, file_bytes, is_remote, listing
from shards.checks._repair import QUARANTINE_NAME, quarantined_files

WIDTH = 80


def describe(root: str | Path) -> str:
    """Splits, clips stored and rejected, hours, sizes, label sets with their teachers: lines of at most 80 columns.

    What needs attention is a line that begins with `!` and says what to do. Raises UsageError if there is no dataset
    at `root`, FormatError if one of its sidecars cannot be read.
    """
    dataset = Dataset.open(root)
    lines = [printable(str(dataset.root)), f"format version {DATASET_VERSION}, keys {dataset.keys}"]
    if not is_remote(dataset.root) and (moved := quarantined_files(dataset.root)):
        lines.append(
            f"! {counted(moved, 'file')} aside in {QUARANTINE_NAME}/; `sed-distill verify` says what is missing"
        )
    for split in dataset.splits():
        lines += ["", f"{split}: {_hard_text(dataset, split)}"]
        audio_of = {name: open_index(dataset.audio_folder(split, name), "audio") for name in dataset.audio_specs(split)}
        for name, audio in audio_of.items():
            lines += [f"  audio {name}", *(f"    {line}" for line in _audio_lines(audio))]
        for name in dataset.label_sets(split):
            labels = open_index(dataset.labels_folder(split, name), "labels")
            lines += [f"  labels {name}", *(f"    {line}" for line in _label_lines(dataset, split, labels, audio_of))]
    return "\n".join(folded for line in lines for folded in _fold(line)) + "\n"


def _hard_text(dataset: Dataset, split: str) -> str:
    path = dataset.hard_path(split)
    if entry_at(path) is None:
        return "no hard labels"
    try:
        table = read_hard(path)
    except FormatError:
        return "hard labels cannot be read; run `sed-distill verify`"
    weak = len(table) - table.column("weak_mids").null_count
    strong = pc.sum(table.column("strong_annotated")).as_py() or 0
    return f"{len(table):,} clips in hard.parquet, {weak:,} with weak and {strong:,} with strong labels"


def _audio_lines(audio: ShardIndex) -> Iterator[str]:
    hours = sum(
        int(audio.samples[shard.clips.start : shard.clips.stop].sum()) / shard.spec.sample_rate / 3600
        for shard in audio.shards
    )
    rejected = _refused(audio)
    yield f"{len(audio):,} clips, {hours:,.2f} h, {_sizes(audio, len(audio))}"
    if rejected:
        yield f"{_counted('rejected', rejected)}"
    wanted = _manifest_rows(audio.folder / MANIFEST_NAME)
    left = wanted - len(audio) - rejected.total()
    if left > 0:
        yield f"! {left:,} of the {wanted:,} clips wanted are not packed; give the pack command again"
    yield from _attention(audio)


def _label_lines(dataset: Dataset, split: str, labels: ShardIndex, audio_of: Mapping[str, ShardIndex]) -> Iterator[str]:
    if not labels.shards:
        yield "no committed shards"
        yield from _attention(labels)
        return
    stored = int((labels.length > 0).sum())
    first = labels.shards[0]
    audio = audio_of.get(first.spec.name) or max(audio_of.values(), key=len, default=None)
    if audio is None or not len(audio):
        yield f"{stored:,} labels, no audio beside them, {_sizes(labels, stored)}"
    else:
        clips = np.arange(len(audio), dtype=np.int32)
        binding = Binding(labels=labels, place=labels.rows_of(audio.key), audio=audio, clips=clips)
        known = binding.place >= 0
        covered = int((labels.length[binding.place[known]] > 0).sum())
        yield f"{covered:,} of {len(audio):,} clips ({covered / len(audio):.1%}), {_sizes(labels, stored)}"
    if failed := _refused(labels):
        yield _counted("failed", failed)
    if first.target is not None:
        yield _shape(first.target)
    yield f"{_classes(first.target)}made by {made_by(first.provenance)}"
    if first.spec.name not in audio_of:
        yield f"made from {first.spec.name}, which is not stored here"
    if audio is not None and len(audio):
        if missing := int((~known).sum()):
            yield f"! {missing:,} clips without a label; give the command that labelled the rest again"
        if strangers := len(binding.by_identity(dataset, split)[0]):
            yield f"! {strangers:,} labels are of other audio than is stored; label the split again"
        if (elsewhere := len(labels) - int(known.sum())) > 0:
            yield f"{elsewhere:,} labels more, of clips that are not stored here"
    yield from _attention(labels)


def _shape(target: TargetSpec) -> str:
    hop = f", hop {target.hop_ms} ms" if target.hop_ms else ""
    return f"{target.kind} [{', '.join(target.axes)}] = {list(target.shape)}{hop}, context {target.context_ms} ms"


def _classes(target: TargetSpec | None) -> str:
    if target is None or target.vocabulary is None:
        return ""
    return f"{len(target.vocabulary)} classes (sha256 {target.vocabulary.sha256[:12]}), "


def _attention(index: ShardIndex) -> Iterator[str]:
    """What contradicts itself in one shard folder, as far as names, sizes and the index tell."""
    names = listing(index.folder)
    numbers = {shard.shard for shard in index.shards}
    uncommitted = [name for name in names if name.endswith(".tar") and is_sidecar_name(f"{name[:-4]}.json")]
    uncommitted = [name for name in uncommitted if int(name[:6]) not in numbers]
    if uncommitted:
        yield f"! {_some(uncommitted)}: written but not committed; give the command that wrote it again"
    wrong = [
        s.tar_path.name
        for s in index.shards
        if s.tar_path.name not in names or file_bytes(s.tar_path, names[s.tar_path.name]) != s.tar_bytes
    ]
    if wrong:
        yield f"! {_some(wrong)}: missing or of another size than its sidecar states; run `sed-distill verify`"
    if (key := index.repeated_key()) is not None:
        yield f"! clip {key} is in two shards; run `sed-distill verify`"
    for what in ("codec", "spec", "target"):
        if len({getattr(shard, what) for shard in index.shards}) > 1:
            yield f"! shards differ in their {what}; run `sed-distill verify`"
    if index.kind == "labels" and len({shard.fingerprint for shard in index.shards}) > 1:
        yield "! shards were not all labelled in the same way; run `sed-distill verify`"


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"


def _sizes(index: ShardIndex, clips: int) -> str:
    megabytes = sum(shard.tar_bytes for shard in index.shards) / 1e6
    size = f"{megabytes:,.1f} MB" if megabytes < 10_000 else f"{megabytes / 1e3:,.1f} GB"
    codecs = "".join(f"{codec}, " for codec in sorted({shard.codec for shard in index.shards}))
    each = f", {int(index.length.sum()) // clips:,} B a clip" if clips else ""
    return f"{codecs}{counted(len(index.shards), 'shard')}, {size}{each}"


def _refused(index: ShardIndex) -> Counter[str]:
    total: Counter[str] = Counter()
    for shard in index.shards:
        total.update(shard.refused)
    return total


def _counted(what: str, reasons: Counter[str]) -> str:
    return (
        f"{reasons.total():,} {what}: {', '.join(f'{reason} {count:,}' for reason, count in sorted(reasons.items()))}"
    )


def _manifest_rows(path: Path) -> int:
    """Clips wanted, 0 if the manifest is not there or cannot be read; its content is for verify."""
    try:
        with open_regular(path) as file:
            return int(pq.ParquetFile(file).metadata.num_rows)
    except (OSError, pa.ArrowException):
        return 0


def _fold(line: str) -> Iterable[str]:
    """Lines of at most WIDTH columns; what goes on is indented further."""
    if len(line) <= WIDTH:
        return (line,)
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True)
