"""A small split with label sets of every kind, and its targets worked out cell by cell in float64 and fractions."""

import io
import math
import tarfile
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import AudioSpec, ClassMap, Event, Grid, TargetSpec, Vocabulary, hard_table, write_hard
from shards import AudioShardWriter, Dataset, LabelShardWriter, decode_label

MIDS = ("/m/0bt9lr", "/m/09x0r", "/m/04rlf", "/m/07yv9", "/m/0k4j", "/m/01yrx", "/m/0395lw")
ALL = Vocabulary(MIDS, tuple(f"class {number}" for number in range(len(MIDS))))
TURNED = Vocabulary(MIDS[::-1], ALL.names[::-1])
SOME = Vocabulary(MIDS[2:5], ALL.names[2:5])
# Three of the first class, one of the second, which is also of the third, none of the last.
MANY = ClassMap(
    Vocabulary(("home", "speech", "voice", "nothing"), ("Home", "Speech", "Voice", "Nothing")),
    ((MIDS[6], MIDS[0], MIDS[5]), (MIDS[1],), (MIDS[2], MIDS[1]), ("/m/032s66",)),
)
Cells = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """A target of one clip as it has to be, and its weight in the target's full shape."""

    target: Cells
    weight: Cells


@dataclass
class World:
    """One split on disk: clips `<split>-000_0`, ... of so many samples. fails: (label set, clip) without a label."""

    root: Path
    targets: dict[str, tuple[TargetSpec, str]]
    samples: tuple[int, ...]
    spec: AudioSpec = field(default_factory=AudioSpec)
    fails: tuple[tuple[str, int], ...] = ()
    split: str = "strong"
    seed: int = 0
    weak: dict[str, list[str]] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        root = self.root
        dataset = Dataset.open(root) if (root / "dataset.json").exists() else Dataset.create(root, keys="path")
        rng = np.random.default_rng([self.seed, 7])
        self.keys = [f"{self.split}-{number:03d}_0" for number in range(len(self.samples))]
        folder = dataset.audio_folder(self.split, self.spec.name)
        self.pcm = {}
        with AudioShardWriter(folder, 0, spec=self.spec, provenance={}, codec="pcm16") as writer:
            for key, samples in zip(self.keys, self.samples, strict=True):
                shape = samples if self.spec.channels == 1 else (self.spec.channels, samples)
                self.pcm[key] = rng.integers(-32768, 32768, shape, dtype=np.int16)
                writer.add(key, self.pcm[key], origin="pcm")
            audio = writer.commit()
        for name, (target, codec) in self.targets.items():
            with LabelShardWriter(
                dataset.labels_folder(self.split, name), audio, target=target, provenance={"made": name}, codec=codec
            ) as labels:
                for number, key in enumerate(self.keys):
                    if (name, number) in self.fails:
                        labels.fail(key, "not_finite", "made to fail")
                    else:
                        labels.add(key, _label(rng, target))
                labels.commit()
        for number, key in enumerate(self.keys):
            if number % 3 != 1:
                self.weak[key] = [MIDS[i] for i in np.flatnonzero(rng.random(len(MIDS)) < 0.4)]
            if number % 4 != 2:
                self.events[key] = [_event(rng) for _ in range(int(rng.integers(0, 6)))]
        write_hard(
            dataset.hard_path(self.split),
            hard_table(self.keys, weak=self.weak, strong=_table(self.events), strong_annotated=self.events.keys()),
        )
        self.stored = {name: _stored(dataset.labels_folder(self.split, name)) for name in self.targets}

    def valid(self, key: str, hop_ms: Fraction, frames: int) -> int:
        return min(frames, math.ceil(Fraction(self.pcm[key].shape[-1] * 1000, self.spec.sample_rate) / hop_ms))

    def waveform(self, key: str) -> Cells:
        pcm = self.pcm[key]
        padded = np.zeros((*pcm.shape[:-1], self.spec.max_samples))
        padded[..., : pcm.shape[-1]] = pcm / 32768
        return padded

    def hard_weak(self, key: str, classes: ClassMap) -> Truth:
        chosen_from = {mid for mids in self.weak.values() for mid in mids}
        target, weight = np.zeros(len(classes)), np.zeros(len(classes))
        for number, members in enumerate(classes.members):
            if key in self.weak and chosen_from & set(members):
                weight[number] = 1
                target[number] = bool(set(self.weak[key]) & set(members))
        return Truth(target, weight)

    def hard_strong(self, key: str, classes: ClassMap, hop_ms: Fraction, frames: int) -> Truth:
        chosen_from = {event.mid for events in self.events.values() for event in events}
        target, weight = np.zeros((2, len(classes), frames))
        for number, members in enumerate(classes.members):
            if key not in self.events or not chosen_from & set(members):
                continue
            of_class = [event for event in self.events[key] if event.mid in members]
            for t in range(self.valid(key, hop_ms, frames)):
                weight[number, t] = 1
                start, end = t * hop_ms, (t + 1) * hop_ms
                target[number, t] = any(event.onset_ms < end and event.offset_ms > start for event in of_class)
        return Truth(target, weight)

    def soft(
        self,
        key: str,
        sets: dict[str, float],
        classes: ClassMap,
        *,
        domain: str = "probability",
        temperature: float = 1.0,
        grid: Grid | None = None,
    ) -> Truth:
        """The average of label sets, each with its part of it, over classes and, if given, on a grid."""
        target = self.targets[next(iter(sets))][0]
        hop_ms, frames = Fraction(target.hop_ms or 40), target.frames
        out_hop, out_frames = (hop_ms, frames) if grid is None else (grid.hop, grid.count)
        shape = (len(classes),) if frames is None else (len(classes), out_frames)
        if not all(key in self.stored[name] for name in sets):
            return Truth(np.zeros(shape), np.zeros(shape))
        total: Cells | float = 0.0
        for name, share in sets.items():
            kind = self.targets[name][0].kind
            values = self.stored[name][key].astype(np.float64)
            logits = values if kind == "logit" else _logit(values)
            if domain == "logit":
                total = total + share * (logits if kind == "logit" else np.clip(logits, -24, 24))
            elif kind == "probability" and temperature == 1:
                total = total + share * values
            else:
                total = total + share * _sigmoid(logits / temperature)
        p = np.asarray(_sigmoid(total / temperature) if domain == "logit" else total)
        p = p.T if target.axes == ("time", "class") else p
        mapped, weight = np.zeros((2, len(classes), *p.shape[1:]))
        for number, members in enumerate(classes.members):
            rows = [p[column] for column, mid in enumerate(target.classes.mids) if mid in members]
            if rows:
                weight[number] = 1
                any_of = 1 - np.prod([1 - row for row in rows], axis=0)
                mapped[number] = any_of if classes.rule == "noisy_or" else np.max(rows, axis=0)
        if frames is None:
            return Truth(mapped, weight)
        valid = self.valid(key, hop_ms, frames)
        mapped[:, valid:] = 0
        if grid is not None:
            mapped = _regridded(mapped[:, :valid], hop_ms, grid)
            weight = np.repeat(weight[:, :1], out_frames, axis=1)
            valid = min(self.valid(key, out_hop, out_frames), math.ceil(frames * hop_ms / out_hop))
            mapped[:, valid:] = 0
        weight[:, valid:] = 0
        return Truth(mapped, weight)


def _regridded(p: Cells, hop_ms: Fraction, grid: Grid) -> Cells:
    """p: [C, frames that stand on audio]."""
    out = np.zeros((len(p), grid.count))
    for t in range(grid.count):
        parts = []
        start, end = t * grid.hop, min((t + 1) * grid.hop, Fraction(grid.clip_ms))
        for frame in range(start // hop_ms, min(p.shape[1], end // hop_ms + 1)):
            shared = min((frame + 1) * hop_ms, end) - max(frame * hop_ms, start)
            if shared > 0:
                parts.append((float(shared), p[:, frame]))
        if parts and grid.rule == "max":
            out[:, t] = np.max([row for _, row in parts], axis=0)
        elif parts:
            out[:, t] = sum(shared * row for shared, row in parts) / sum(shared for shared, _ in parts)
    return out


def _label(rng: np.random.Generator, target: TargetSpec) -> npt.NDArray[np.float32]:
    """Steps in time, as a teacher's are, so that the small codecs have something to pack."""
    shape = target.shape
    if target.kind == "logit" or target.kind == "probability":
        logits = rng.normal(-2, 3, shape)
        if target.frames is not None:
            time = target.axes.index("time")
            logits = np.take(logits, np.arange(target.frames) // 7 * 7, axis=time)
        return (logits if target.kind == "logit" else _sigmoid(logits)).astype(np.float32)
    values = rng.normal(0, 1, shape)
    if target.kind == "unit_vector":
        values /= np.sqrt((values**2).sum(target.axes.index("xyz"), keepdims=True))
    return values.astype(np.float32)


def _stored(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member).read()  # type: ignore[union-attr]
                npy = member.name.endswith(".npy")
                found[member.name.split(".")[0]] = np.load(io.BytesIO(content)) if npy else decode_label(content)
    return found


def _event(rng: np.random.Generator) -> Event:
    onset_ms = int(rng.integers(0, 9_000))
    return Event(onset_ms, onset_ms + int(rng.integers(1, 3_000)), str(rng.choice(MIDS)))


def _table(events: dict[str, list[Event]]) -> pa.Table:
    rows = [(key, *event) for key, of_clip in events.items() for event in of_clip]
    types = {"key": pa.string(), "onset_ms": pa.int32(), "offset_ms": pa.int32(), "mid": pa.string()}
    return pa.table({name: pa.array([row[i] for row in rows], types[name]) for i, name in enumerate(types)})


def _sigmoid(logits: Cells) -> Cells:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def _logit(p: Cells) -> Cells:
    with np.errstate(divide="ignore"):
        return np.log(p) - np.log1p(-p)
