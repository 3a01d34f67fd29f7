"""The clips on which people and teacher differ most, made ready for pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline import HOP_MS, Event, Vocabulary, class_name
from sed_distill._label_report_facts import LabelFacts
from sed_distill._label_report_set import OpenLabels, audio_beside
from sed_distill._peek_clip import Cells, PeekedClip
from shards import AudioReader, Dataset, HardRows, ShardIndex, join_hard, read_audio_sidecar

DisputeKind = Literal["missed", "unheard"]
_SURE = 0.5


@dataclass(frozen=True, kw_only=True)
class Dispute:
    """missed: people gave `name` to clip `key`, `labels` have it at `probability` at most. unheard: nobody gave it."""

    kind: DisputeKind
    key: str
    mid: str
    name: str
    labels: str
    probability: float


def disputes(facts: Sequence[LabelFacts], most: int) -> list[Dispute]:
    """The clearest of each kind: at most `most`, a clip and a class once, those below 0.5 missed and others unheard."""
    found: dict[DisputeKind, list[Dispute]] = {"missed": [], "unheard": []}
    for of_set in facts:
        at = of_set.tally.disputes
        ways: list[tuple[DisputeKind, npt.NDArray[np.float64], npt.NDArray[np.int64]]] = [
            ("missed", at.missed_p, at.missed_row),
            ("unheard", at.unheard_p, at.unheard_row),
        ]
        for kind, p, rows in ways:
            for column in np.flatnonzero(rows >= 0).tolist():
                if (p[column] >= _SURE) == (kind == "unheard"):
                    found[kind].append(_dispute(kind, of_set.labels, int(rows[column]), column, float(p[column])))
    chosen = []
    for kind, of_kind in found.items():
        clear = sorted(of_kind, key=lambda d: (d.probability if kind == "missed" else -d.probability, d.key, d.mid))
        keys: set[str] = set()
        mids: set[str] = set()
        for dispute in clear:
            if len(keys) < most and dispute.key not in keys and dispute.mid not in mids:
                keys.add(dispute.key)
                mids.add(dispute.mid)
                chosen.append(dispute)
    return chosen


def disputed_clips(
    dataset: Dataset, split: str, opened: Sequence[OpenLabels], keys: Sequence[str]
) -> dict[str, PeekedClip]:
    """What people and every label set say of clips, and their audio. Without audio beside the labels there are none."""
    audio = audio_beside(dataset, split, opened[0].spec)
    if audio is None or not keys:
        return {}
    hard = join_hard(dataset, split, keys)
    names = {mid: name for labels in opened for mid, name in _named(labels.target.classes)}
    for clip in range(len(keys)):
        given = [*(hard.weak_mids(clip) or ()), *(event.mid for event in hard.events(clip) or ())]
        names |= {mid: class_name(mid) for mid in sorted(given) if mid not in names}
    classes = Vocabulary(tuple(names), tuple(names.values()))
    return {
        key: _clip(split, key, clip, audio, hard, classes, opened)
        for clip, key in enumerate(keys)
        if audio.rows_of([key])[0] >= 0
    }


def _dispute(kind: DisputeKind, labels: OpenLabels, row: int, column: int, probability: float) -> Dispute:
    classes = labels.target.classes
    return Dispute(
        kind=kind,
        key=labels.index.key[row].as_py(),
        mid=classes.mids[column],
        name=classes.names[column],
        labels=labels.name,
        probability=probability,
    )


def _named(classes: Vocabulary) -> list[tuple[str, str]]:
    return list(zip(classes.mids, classes.names, strict=True))


def _clip(
    split: str,
    key: str,
    clip: int,
    audio: ShardIndex,
    hard: HardRows,
    classes: Vocabulary,
    opened: Sequence[OpenLabels],
) -> PeekedClip:
    row = int(audio.rows_of([key])[0])
    shard = audio.shards[int(audio.shard[row])]
    with AudioReader(read_audio_sidecar(shard.path)) as reader:
        pcm = reader.read(int(audio.row[row]))
    spec = shard.spec
    waveform = (pcm if pcm.ndim == 1 else pcm[0]).astype(np.float32) / np.float32(32768)
    frames = -(-len(waveform) // spec.hop_samples)
    targets: dict[str, Cells] = {}
    events, weak = hard.events(clip), hard.weak_mids(clip)
    if events is not None:
        values = _active(events, classes, -(-spec.clip_ms // HOP_MS))
        targets["hard_strong"] = _cells(values, classes, hard.strong_classes, frames, Fraction(HOP_MS))
    if weak is not None:
        values = np.array([[mid in weak] for mid in classes.mids], np.float32)
        targets["hard_weak"] = _cells(values, classes, hard.weak_classes, 1, None)
    for labels in opened:
        own = int(labels.index.rows_of([key])[0])
        if own in labels.rows:
            targets[labels.name] = _soft(labels, own, classes)
    return PeekedClip(
        source=split,
        key=key,
        frames=frames,
        waveform=waveform,
        sample_rate=spec.sample_rate,
        clip_s=spec.clip_ms / 1000,
        classes=classes,
        targets=targets,
        others={},
    )


def _active(events: Sequence[Event], classes: Vocabulary, frames: int) -> npt.NDArray[np.float32]:
    column = classes.index()
    values = np.zeros((len(classes), frames), np.float32)
    for event in events:
        values[column[event.mid], event.onset_ms // HOP_MS : -(-event.offset_ms // HOP_MS)] = 1
    return values


def _cells(
    values: npt.NDArray[np.float32], classes: Vocabulary, offered: frozenset[str], frames: int, hop_ms: Fraction | None
) -> Cells:
    present = np.array([mid in offered for mid in classes.mids])[:, None] & (np.arange(values.shape[1]) < frames)
    return Cells(values=values, present=present, hop_ms=hop_ms)


def _soft(labels: OpenLabels, row: int, classes: Vocabulary) -> Cells:
    ((_, own),) = labels.read(np.array([row]), lambda _, label: label, lambda *_: None)
    columns = [classes.index()[mid] for mid in labels.target.classes.mids]
    values = np.zeros((len(classes), labels.target.frames or 1), np.float32)
    present = np.zeros(values.shape, np.bool_)
    values[columns, : own.shape[1]] = own
    present[columns, : own.shape[1]] = True
    hop_ms = labels.target.hop_ms
    return Cells(values=values, present=present, hop_ms=None if hop_ms is None else Fraction(hop_ms))
