"""`sed-distill peek`: one batch as training gets it, as a table on stdout and as a picture."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

import pyarrow.compute as pc

from pipeline import TargetSpec, UsageError, Vocabulary, class_name, read_hard
from sed_distill._peek_clip import PeekedClip, peeked_clips
from sed_distill._peek_picture import write_html, write_png
from shards import Dataset, MixedLoader, ShardIndex, Source, open_index

WIDTH = 80
_TRAINING_SPLITS = ("weak", "strong")
_TOP = 4
_WRITERS = {".html": write_html, ".png": write_png}


def run_peek(arguments: argparse.Namespace) -> int:
    """Returns the exit code. Raises UsageError for what is not there."""
    out: Path = arguments.out
    if out.suffix not in _WRITERS or out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: cannot be written; give a .html or .png in a folder that is there")
    if arguments.clips < 1:
        raise UsageError(f"--clips is {arguments.clips}; needs 1 or more")
    dataset = Dataset.open(arguments.dataset)
    splits = arguments.split or [split for split in _TRAINING_SPLITS if split in dataset.splits()]
    if not splits:
        raise UsageError(f"{dataset.root}: has no split to train on (weak or strong); pack one first")
    audio = {split: arguments.audio or dataset.only_audio(split) for split in dict.fromkeys(splits)}
    labels = _label_sets(dataset, list(audio), arguments.labels)
    stored = {split: open_index(dataset.audio_folder(split, name), "audio") for split, name in audio.items()}
    for split, index in stored.items():
        if not len(index):
            has = ", ".join(dataset.audio_specs(split)) or "none"
            raise UsageError(f"{dataset.root}: split {split} has no clips as {audio[split]}; its audio: {has}")
    shares = _shares({split: len(index) for split, index in stored.items()}, arguments.clips)
    classes = _classes(dataset, labels)
    sources = [
        Source(dataset, split, share=share, labels=labels[split], audio=audio[split]) for split, share in shares.items()
    ]
    loader = MixedLoader(
        sources, sum(shares.values()), vocabulary=classes, seed=arguments.seed, batches_per_epoch=1, workers=0
    )
    (batch,) = loader
    samples = [_samples(stored[split], key) for split, key in zip(batch.source, batch.key, strict=True)]
    clips = peeked_clips(batch, classes, samples, _probabilities(dataset, labels))
    print("\n".join(_table(clips)))
    for replaced in loader.replaced:
        print(f"replaced: {replaced.source}: {replaced.reason}", file=sys.stderr)
    try:
        _WRITERS[out.suffix](out, clips, title=_printable(str(dataset.root)), seed=arguments.seed)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}); choose another one") from error
    print(f"{out}: {len(clips)} clips", file=sys.stderr)
    return 0


def _label_sets(dataset: Dataset, splits: Sequence[str], asked: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The label sets to read of each split: all, or those of `asked` that it has."""
    there = {split: dataset.label_sets(split) for split in splits}
    missing = [name for name in asked if not any(name in names for names in there.values())]
    if missing:
        have = "; ".join(f"{split} has {', '.join(names) or 'none'}" for split, names in there.items())
        raise UsageError(f"{dataset.root}: there is no label set {', '.join(missing)}; {have}")
    return {split: tuple(name for name in names if not asked or name in asked) for split, names in there.items()}


def _shares(stored: Mapping[str, int], clips: int) -> dict[str, int]:
    """Equal shares of `clips` (half weak, half strong), an odd one to the first, no more than a split has."""
    each, odd = divmod(clips, len(stored))
    return {split: min(max(each + (place < odd), 1), count) for place, (split, count) in enumerate(stored.items())}


def _classes(dataset: Dataset, labels: Mapping[str, Sequence[str]]) -> Vocabulary:
    """All classes of the label sets, then those that only people gave; those of a target with tracks stand alone."""
    names: dict[str, str] = {}
    for split, sets in labels.items():
        for name in sets:
            for target in _targets(dataset, split, name):
                if target.vocabulary is not None and set(target.axes) - {"class", "time"}:
                    return target.vocabulary
                if target.vocabulary is not None:
                    _add(names, target.vocabulary.mids, target.vocabulary.names)
    for split in labels:
        table = read_hard(dataset.hard_path(split))
        weak = pc.list_flatten(table.column("weak_mids"))
        strong = pc.struct_field(pc.list_flatten(table.column("events")), "mid")
        given = sorted({*pc.unique(weak).to_pylist(), *pc.unique(strong).to_pylist()})
        _add(names, given, [class_name(mid) for mid in given])
    if not names:
        raise UsageError(f"{dataset.root}: has neither label sets nor hard labels to show; label it first")
    return Vocabulary(tuple(names), tuple(names.values()))


def _probabilities(dataset: Dataset, labels: Mapping[str, Sequence[str]]) -> set[str]:
    """The label sets that give probabilities of classes."""
    return {
        name
        for split, sets in labels.items()
        for name in sets
        if all(t.vocabulary and t.kind in ("logit", "probability") for t in _targets(dataset, split, name))
    }


def _add(names: dict[str, str], mids: Sequence[str], more: Sequence[str]) -> None:
    """Behind those that are there, which keep their names."""
    for mid, name in zip(mids, more, strict=True):
        names.setdefault(mid, name)


def _targets(dataset: Dataset, split: str, name: str) -> set[TargetSpec]:
    shards = open_index(dataset.labels_folder(split, name), "labels").shards
    return {shard.target for shard in shards if shard.target is not None}


def _samples(stored: ShardIndex, key: str) -> int:
    return int(stored.samples[stored.rows_of([key])[0]])


def _table(clips: Sequence[PeekedClip]) -> list[str]:
    """Two lines and more for each clip, of at most 80 columns."""
    lines = ["clip source   seconds frames events  key"]
    for place, clip in enumerate(clips):
        events = "-" if clip.events() is None else str(clip.events())
        head = f"{place:4} {clip.source:8} {clip.seconds:7.3f} {clip.frames:6} {events:>6}  "
        lines.append(head + _cut(clip.key, WIDTH - len(head)))
        weak = clip.weak_names()
        lines += _folded("people", "not labelled" if weak is None else "; ".join(weak) or "no class")
        for name in clip.soft:
            top = "; ".join(f"{class_} {probability:.2f}" for class_, probability in clip.top(name, _TOP))
            lines += _folded(name, top or "no label")
        for name, text in clip.others.items():
            lines += _folded(name, text)
    return lines


def _folded(title: str, text: str) -> list[str]:
    start = f"     {_cut(title, 14):14} "
    return wrap(_printable(text), WIDTH, initial_indent=start, subsequent_indent=" " * len(start))


def _cut(text: str, most: int) -> str:
    text = _printable(text)
    return text if len(text) <= most else f"{text[: most - 2]}.."


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
