"""A small dataset of seeded noise, written by the real writers, and what a brute-force reader makes of its files."""

import io
import math
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile

from pipeline import (
    AudioSpec,
    Event,
    TargetSpec,
    Vocabulary,
    audioset_strong_456,
    audioset_weak_527,
    hard_table,
    write_hard,
)
from shards import AudioShardWriter, Dataset, LabelShardWriter

SPEC = AudioSpec()
# Dog is a class of both AudioSet lists, the "strong only" ones are among the 71 without a weak class.
_STRONG_ONLY = tuple(mid for mid in audioset_strong_456().mids if mid not in audioset_weak_527().index())[:2]
MIDS = ("/m/0bt9lr", "/m/09x0r", _STRONG_ONLY[0], "/m/04rlf", "/m/07yv9", _STRONG_ONLY[1])
VOCABULARY = Vocabulary(MIDS, tuple(f"class {i}" for i in range(len(MIDS))))
TEACHER = Vocabulary((MIDS[4], MIDS[0], "/m/0k4j", MIDS[2]), ("four", "zero", "elsewhere", "two"))
FRAME_LOGITS = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=TEACHER)
CLIP_PROBABILITIES = TargetSpec(axes=("class",), kind="probability", vocabulary=VOCABULARY, hop_ms=None, frames=None)


@dataclass
class Truth:
    """What was put into one split: labels by key, None where absent."""

    keys: list[str]
    weak: dict[str, list[str]] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)


def write_split(
    dataset: Dataset,
    split: str,
    clips: int,
    *,
    seed: int,
    most_samples: int = 4_000,
    clips_per_shard: int = 7,
    labels: tuple[str, ...] = ("frames", "clip"),
    fail: tuple[int, ...] = (),
) -> Truth:
    """Clips `<split>-NNN_0`; every third has no weak labels, in `strong` every fourth was not listened to.

    Shards interleave the keys, so that key order is not shard order. Clips numbered `fail` fail in every label set.
    """
    rng = np.random.default_rng([seed, clips])
    truth = Truth([f"{split}-{i:03d}_0" for i in range(clips)])
    for i, key in enumerate(truth.keys):
        if i % 3:
            truth.weak[key] = sorted({str(rng.choice([*MIDS, "/m/0k4j"])) for _ in range(2)})
        if split in ("strong", "dev", "eval") and i % 4:
            truth.events[key] = _events(rng)
    shards = -(-clips // clips_per_shard)
    for number in range(shards):
        _write_shard(dataset, split, number, truth.keys[number::shards], seed, most_samples, labels, fail)
    table = hard_table(
        # Rows of hard.parquet are in an order of their own.
        truth.keys[::-1],
        weak=truth.weak,
        strong=_event_table(truth),
        strong_annotated=truth.events.keys(),
    )
    write_hard(dataset.hard_path(split), table)
    return truth


def _write_shard(
    dataset: Dataset,
    split: str,
    number: int,
    keys: list[str],
    seed: int,
    most_samples: int,
    labels: tuple[str, ...],
    fail: tuple[int, ...],
) -> None:
    with AudioShardWriter(
        dataset.audio_folder(split, SPEC.name), number, spec=SPEC, provenance={"made": "by a test"}
    ) as audio:
        for key in keys:
            rng = np.random.default_rng([seed, 1, *key.encode()])
            samples = int(rng.integers(1, most_samples + 1))
            audio.add(key, rng.integers(-32768, 32768, samples, dtype=np.int16), origin="pcm")
        sidecar = audio.commit()
    for label_set in labels:
        target = FRAME_LOGITS if label_set == "frames" else CLIP_PROBABILITIES
        with LabelShardWriter(
            dataset.labels_folder(split, label_set),
            sidecar,
            target=target,
            provenance={"teacher": label_set},
            codec="npy",  # so that numpy can be the oracle
        ) as writer:
            for key in keys:
                rng = np.random.default_rng([seed, 2, *key.encode()])
                values = rng.normal(-3, 4, target.shape) if target.kind == "logit" else rng.random(target.shape)
                if int(key.split("-")[1].split("_")[0]) in fail:
                    writer.fail(key, "not_finite", "made to fail")
                else:
                    writer.add(key, values.astype(np.float32))
            writer.commit()


def _events(rng: np.random.Generator) -> list[Event]:
    events = []
    for _ in range(int(rng.integers(0, 4))):
        onset = int(rng.integers(0, 250))
        events.append(Event(onset, onset + int(rng.integers(1, 400)), str(rng.choice([*MIDS, "/m/0k4j"]))))
    return events


def _event_table(truth: Truth) -> pa.Table:
    rows = [(key, *event) for key, events in truth.events.items() for event in events]
    names = ("key", "onset_ms", "offset_ms", "mid")
    types = (pa.string(), pa.int32(), pa.int32(), pa.string())
    return pa.table({name: pa.array([row[i] for row in rows], types[i]) for i, name in enumerate(names)})


class BruteForce:
    """Reads every member of every tar of a split with tarfile, soundfile and numpy, and computes batch rows from it."""

    def __init__(self, root: Path, split: str, truth: Truth, *, audioset: bool) -> None:
        self.truth = truth
        self.pcm = {
            key: soundfile.read(io.BytesIO(content), dtype="int16")[0]
            for key, content in _members(root / split / "audio" / SPEC.name)
        }
        self.labels = {
            folder.name: {key: np.load(io.BytesIO(content)) for key, content in _members(folder)}
            for folder in sorted((root / split / "labels").iterdir())
        }
        weak = {mid for mids in truth.weak.values() for mid in mids}
        strong = {event.mid for events in truth.events.values() for event in events}
        self.weak_classes = weak | (set(audioset_weak_527().mids) if audioset else set())
        self.strong_classes = strong | (set(audioset_strong_456().mids) if audioset else set())

    def row(self, key: str) -> dict[str, np.ndarray]:
        """What place of a batch the clip `key` makes, by names `waveform`, `<target>` and `<target>.weight`."""
        pcm = self.pcm[key]
        frames = math.ceil(len(pcm) / 640)
        waveform = np.zeros(160_000, np.float32)
        waveform[: len(pcm)] = pcm / 32768
        row = {"waveform": waveform, "valid_frames": np.array(frames)}
        for name, shape in (("hard_weak", (6,)), ("hard_strong", (6, 250)), ("frames", (6, 250)), ("clip", (6,))):
            row[name], row[f"{name}.weight"] = np.zeros(shape), np.zeros(shape)
        for column, mid in enumerate(MIDS):
            if key in self.truth.weak and mid in self.weak_classes:
                row["hard_weak"][column] = mid in self.truth.weak[key]
                row["hard_weak.weight"][column] = 1
            for t in range(frames):
                if key in self.truth.events and mid in self.strong_classes:
                    of_class = [event for event in self.truth.events[key] if event.mid == mid]
                    active = [event.onset_ms < 40 * t + 40 and event.offset_ms > 40 * t for event in of_class]
                    row["hard_strong"][column, t] = any(active)
                    row["hard_strong.weight"][column, t] = 1
            if key in self.labels.get("frames", {}) and mid in TEACHER.mids:
                logits = self.labels["frames"][key].astype(np.float64)[TEACHER.mids.index(mid)]
                row["frames"][column, :frames] = 1 / (1 + np.exp(-logits[:frames]))
                row["frames.weight"][column, :frames] = 1
            if key in self.labels.get("clip", {}):
                row["clip"][column] = self.labels["clip"][key][column]
                row["clip.weight"][column] = 1
        return row


def _members(folder: Path) -> list[tuple[str, bytes]]:
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found.append((member.name.split(".")[0], file.read()))
    return found
