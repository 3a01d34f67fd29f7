"""Datasets of generated soundscapes for the tests of `attach_labels`, and a label set made on one of them."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from pipeline import (
    AudioSpec,
    TargetSpec,
    Vocabulary,
    generate_soundscape,
    hard_table,
    soundscape_seed,
    write_hard,
)
from shards import (
    ATTACH_OUTCOMES,
    AttachReport,
    AudioShardWriter,
    Dataset,
    LabelReader,
    LabelShardWriter,
    ManifestRow,
    attach_labels,
    rows_sha256,
    write_manifest,
)
from shards.codecs._label import encode_label

Pcm = npt.NDArray[np.int16]
SPEC = AudioSpec()
TARGET = TargetSpec(
    axes=("class", "time"), kind="logit", vocabulary=Vocabulary(("/m/a", "/m/b", "/m/c"), ("A", "B", "C"))
)
MADE = {"stage": "label", "teacher": "example", "checkpoint_sha256": "ab" * 32}
KEYS = tuple(f"clip{number:02d}_0" for number in range(12))
SILENT = "silence_0"
FAILED = KEYS[11]


def soundscape(number: int) -> Pcm:
    return to_int16(32767 * generate_soundscape(soundscape_seed(11, "weak", number), duration_ms=10_000).waveform)


def make_originals() -> dict[str, Pcm]:
    """Twelve soundscapes and a silent clip, of 10 s but for KEYS[10], which lasts 6 s."""
    clips = {key: soundscape(number) for number, key in enumerate(KEYS)}
    clips[KEYS[10]] = clips[KEYS[10]][: 6 * 16_000]
    clips[SILENT] = np.zeros(160_000, dtype=np.int16)
    return clips


def publish(folder: Path, originals: Mapping[str, Pcm]) -> Path:
    """The folder of a label set alone: three shards of tar and sidecar. One clip has no label."""
    dataset = write_audio(folder / "set", originals, clips_per_shard=5)
    published = folder / "teacher-labels"
    published.mkdir()
    for audio in dataset.audio_shards("weak", SPEC.name):
        with LabelShardWriter(published, audio, target=TARGET, provenance=MADE, codec="small") as writer:
            for key in audio.clips.key:
                if key == FAILED:
                    writer.fail(key, "not_finite", "logits hold NaN")
                else:
                    writer.add(key, label_of(key))
            writer.commit()
    return published


def label_of(key: str) -> npt.NDArray[np.float32]:
    return np.random.default_rng(list(key.encode())).normal(-4, 2, TARGET.shape).astype(np.float32)


def to_int16(audio: npt.NDArray[Any]) -> Pcm:
    return np.clip(np.rint(audio), -32768, 32767).astype(np.int16)


def as_mp3(pcm: Pcm) -> Pcm:
    """Another decode of the same clip."""
    file = io.BytesIO()
    soundfile.write(file, pcm, 16_000, format="MP3", subtype="MPEG_LAYER_III")
    return to_int16(32768 * soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")[0])


def write_audio(
    root: Path, clips: Mapping[str, Pcm], *, clips_per_shard: int, spec: AudioSpec = SPEC, first: int = 0
) -> Dataset:
    """A packed split of these clips; called again with more clips and the number of a later shard, it grows."""
    dataset = Dataset.create(root, keys="path")
    folder = dataset.audio_folder("weak", spec.name)
    keys = list(clips)
    rows = []
    for start in range(0, len(keys), clips_per_shard):
        shard, part = first + start // clips_per_shard, keys[start : start + clips_per_shard]
        own = tuple(ManifestRow(key=key, shard=shard, source=key, bytes=1, start_ms=0) for key in part)
        rows += own
        provenance = {"stage": "pack", "manifest_sha256": rows_sha256(own)}
        with AudioShardWriter(folder, shard, spec=spec, provenance=provenance, codec="pcm16") as writer:
            for key in part:
                writer.add(key, clips[key], origin="made")
            writer.commit()
    write_manifest(folder / "manifest.parquet", rows)
    write_hard(dataset.hard_path("weak"), hard_table(keys, weak={key: ["/m/a"] for key in keys}))
    return dataset


def attach(dataset: Dataset, source: Path, **options: Any) -> AttachReport:
    return attach_labels(dataset, "weak", "teacher", source, **options)


def stored_labels(dataset: Dataset) -> dict[str, bytes | None]:
    """Key -> the member as it is stored, None without a label."""
    found: dict[str, bytes | None] = {}
    for side in dataset.label_shards("weak", "teacher"):
        with LabelReader(side) as reader:
            for row, key in enumerate(side.clips.key):
                found[key] = reader.read_bytes(row) if side.clips.length[row] else None
    return found


def reasons(dataset: Dataset) -> dict[str, tuple[str, str]]:
    return {
        key: (reason, detail)
        for side in dataset.label_shards("weak", "teacher")
        for key, reason, detail in zip(side.failed.key, side.failed.reason, side.failed.detail, strict=True)
    }


def counts(report: AttachReport) -> dict[str, int]:
    assert sum(report.counts.values()) == report.clips
    assert set(report.counts) == set(ATTACH_OUTCOMES)
    return {outcome: count for outcome, count in report.counts.items() if count}


def member_of(key: str) -> bytes:
    return encode_label(label_of(key), shape=TARGET.shape, kind="logit", codec="small")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
