"""What a batch holds of one clip, ready to be shown: cells by class and time, and the classes that are worth a row."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipeline import MetadataError, Vocabulary, key_path
from sed_distill._page import SHOWN_FROM, TEACHER_COLOUR, TRUTH_COLOUR
from shards import Batch

STRIP_COLUMNS = 1000
MOST_CLASSES = 12
_PEOPLE = {"hard_strong": "people, events", "hard_weak": "people, clip"}
_COLOURS = (TEACHER_COLOUR, (214, 137, 32), (28, 109, 208), (196, 62, 98), (96, 125, 60))


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One target of one clip.

    values: float32 [C, T], T = 1 without a time axis. present: bool [C, T], where there is a label.
    """

    values: npt.NDArray[np.float32]
    present: npt.NDArray[np.bool_]
    hop_ms: Fraction | None

    def highest(self) -> npt.NDArray[np.float32]:
        """The highest probability of each class: [C], -1 where the label does not have it."""
        highest: npt.NDArray[np.float32] = np.where(self.present, self.values, -1).max(axis=1)
        return highest


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Probabilities [STRIP_COLUMNS] of one class along the clip, and who gives them."""

    title: str
    colour: tuple[int, int, int]
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class PeekedClip:
    """One place of a batch.

    waveform: float32 [samples], the first channel as long as there is audio. targets: probabilities of classes, by
    name. others: what there is of other targets, in words. clip_s: seconds that a full clip has.
    """

    source: str
    key: str
    frames: int
    waveform: npt.NDArray[np.float32]
    sample_rate: int
    clip_s: float
    classes: Vocabulary
    targets: Mapping[str, Cells]
    others: Mapping[str, str]

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sample_rate

    @property
    def shown_key(self) -> str:
        """The key as people read it: the path that is spelled in it, or the key itself."""
        if "%" not in self.key:
            return self.key
        try:
            path, start_ms = key_path(self.key)
        except MetadataError:
            return self.key
        shown = "".join(c if c.isprintable() else "?" for c in path.decode(errors="replace"))
        return f"{shown} from {start_ms / 1000:g} s" if start_ms else shown

    @property
    def soft(self) -> dict[str, Cells]:
        """The targets that are not from people."""
        return {name: cells for name, cells in self.targets.items() if name not in _PEOPLE}

    def weak_names(self) -> list[str] | None:
        """The classes that people gave the clip, None where nobody labelled it."""
        cells = self.targets.get("hard_weak")
        if cells is None or not cells.present.any():
            return None
        return [self.classes.names[column] for column in np.flatnonzero(cells.highest() > 0)]

    def events(self) -> int | None:
        """Runs of active frames, of all classes; None where nobody listened for events."""
        cells = self.targets.get("hard_strong")
        if cells is None or not cells.present.any():
            return None
        active = np.pad(cells.values > 0, ((0, 0), (1, 0)))
        return int((active[:, 1:] & ~active[:, :-1]).sum())

    def top(self, name: str, count: int) -> list[tuple[str, float]]:
        """The classes that a label set finds likeliest anywhere in the clip; none where it has no label."""
        highest = self.targets[name].highest()
        order = np.argsort(-highest, kind="stable")[:count]
        return [(self.classes.names[column], float(highest[column])) for column in order if highest[column] >= 0]

    def rows(self) -> list[tuple[str, bool, list[Strip]]]:
        """Per class worth a look its name, whether people gave it, and the strips of all targets that know it.

        Those are the classes from people, every label set's first and those of SHOWN_FROM or more: MOST_CLASSES of
        them, people's first, then the likeliest.
        """
        given = np.zeros(len(self.classes), dtype=np.bool_)
        likely = np.full(len(self.classes), -1.0)
        wanted = np.zeros(len(self.classes), dtype=np.bool_)
        for name, cells in self.targets.items():
            highest = cells.highest()
            if name in _PEOPLE:
                given |= highest > 0
                continue
            likely = np.maximum(likely, highest)
            wanted |= highest >= SHOWN_FROM
            wanted[np.argmax(highest)] |= highest.max() >= 0
        columns = sorted(np.flatnonzero(given | wanted).tolist(), key=lambda c: (not given[c], -likely[c], c))
        return [
            (self.classes.names[column], bool(given[column]), self._strips(column)) for column in columns[:MOST_CLASSES]
        ]

    def _strips(self, column: int) -> list[Strip]:
        soft = list(self.soft)
        strips = []
        for name, cells in self.targets.items():
            if cells.present[column].any():
                colour = TRUTH_COLOUR if name in _PEOPLE else _COLOURS[soft.index(name) % len(_COLOURS)]
                strips.append(Strip(title=_PEOPLE.get(name, name), colour=colour, values=self._along(cells, column)))
        return strips

    def _along(self, cells: Cells, column: int) -> npt.NDArray[np.float32]:
        values = np.where(cells.present[column], cells.values[column], 0).astype(np.float32)
        if cells.hop_ms is None:
            heard = round(STRIP_COLUMNS * self.seconds / self.clip_s)
            return np.where(np.arange(STRIP_COLUMNS) < heard, values[0], 0).astype(np.float32)
        middle_ms = (np.arange(STRIP_COLUMNS) + 0.5) * (1000 * self.clip_s / STRIP_COLUMNS)
        frame = (middle_ms / float(cells.hop_ms)).astype(np.int64)
        return np.where(frame < len(values), values[np.minimum(frame, len(values) - 1)], 0).astype(np.float32)


def peeked_clips(
    batch: Batch, classes: Vocabulary, samples: Sequence[int], probabilities: Collection[str]
) -> list[PeekedClip]:
    """The clips of a batch. samples: how many of each are audio. probabilities: label sets that give them by class."""
    clip_samples = batch.waveform.shape[-1]
    of_classes = [name for name in batch.targets if name in _PEOPLE or name in probabilities]
    shown = []
    for place, (source, key) in enumerate(zip(batch.source, batch.key, strict=True)):
        waveform = batch.waveform[place].reshape(-1, clip_samples)[0, : samples[place]].numpy()
        shown.append(
            PeekedClip(
                source=source,
                key=key,
                frames=int(batch.valid_frames[place]),
                waveform=waveform,
                sample_rate=batch.sample_rate,
                clip_s=clip_samples / batch.sample_rate,
                classes=classes,
                targets={name: _cells(batch, name, place) for name in of_classes},
                others={name: _in_words(batch, name, place) for name in batch.targets if name not in of_classes},
            )
        )
    return shown


def _in_words(batch: Batch, name: str, place: int) -> str:
    has = bool((batch.weight[name][place] > 0).any())
    return f"values of shape {tuple(batch.targets[name].shape[1:])}" if has else "no label"


def _cells(batch: Batch, name: str, place: int) -> Cells:
    """Of several tracks the highest."""
    axes, values = batch.axes[name], batch.targets[name][place]
    weight = batch.weight[name][place]
    weight = weight.reshape(*weight.shape, *(1,) * (values.dim() - weight.dim())).expand_as(values)

    order = [axes.index(axis) for axis in ("class", "track", "time") if axis in axes]
    frames = values.shape[order[-1]] if "time" in axes else 1

    def by_class(cells: Tensor) -> Tensor:
        cells = cells.permute(order)
        return cells.reshape(len(cells), -1, frames).amax(dim=1)

    return Cells(values=by_class(values).numpy(), present=by_class(weight).numpy() > 0, hop_ms=batch.hop_ms.get(name))
