"""Small datasets for the tests of shards: short clips, all seeded."""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

import shards
from pipeline import AudioSpec, TargetSpec, Vocabulary, hard_table, write_hard
from shards import AudioShardWriter, AudioSidecar, Dataset, LabelShardWriter, LabelSidecar, ManifestRow

SPEC = AudioSpec(sample_rate=8_000, clip_ms=1_000)
TARGET = TargetSpec(
    axes=("class", "time"),
    kind="logit",
    vocabulary=Vocabulary(("/m/a", "/m/b", "/m/c"), ("A", "B", "C")),
    context_ms=1_000,
    frames=25,
)
LONG_KEY = "%2F".join(["folder"] * 20) + "%2Eflac_0"


def key_seed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def clip_pcm(key: str, spec: AudioSpec = SPEC) -> npt.NDArray[np.int16]:
    """Noise of a length and content that follow from the key, [samples] or [channels, samples]."""
    rng = np.random.default_rng(key_seed(key))
    samples = int(rng.integers(320, spec.max_samples + 1))
    shape = (samples,) if spec.channels == 1 else (spec.channels, samples)
    return np.round(rng.normal(size=shape) * 900).astype(np.int16)


def clip_logits(key: str, target: TargetSpec = TARGET) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng([key_seed(key), 1])
    return rng.normal(-4, 3, size=target.shape).astype(np.float32)


def write_audio(
    folder: Path, shard: int, keys: list[str], *, spec: AudioSpec = SPEC, rejected: list[str] | None = None
) -> AudioSidecar:
    with AudioShardWriter(folder, shard, spec=spec, provenance={"stage": "pack", "source": "examples"}) as writer:
        for key in keys:
            writer.add(key, clip_pcm(key, spec), origin="vorbis", cut_samples=3, clipped_samples=1, flags=("clipped",))
        for key in rejected or []:
            writer.reject(key, "damaged", "stops early")
        return writer.commit()


def write_labels(
    folder: Path, audio: AudioSidecar, *, failed: frozenset[str] = frozenset(), teacher: str = "example"
) -> LabelSidecar:
    with LabelShardWriter(folder, audio, target=TARGET, provenance={"stage": "label", "teacher": teacher}) as writer:
        for key in audio.clips.key:
            if key in failed:
                writer.fail(key, "not_finite", "logits hold NaN")
            else:
                writer.add(key, clip_logits(key))
        return writer.commit()


def write_dataset(root: Path) -> Dataset:
    """weak: shards of 4 and 3 stored clips, 1 rejected, two label sets, one failed label. strong: 1 shard of 2."""
    dataset = Dataset.create(root, keys="path")
    plan = {"weak": [["aa_0", "bb_30000", "cc_0", LONG_KEY], ["dd_0", "ee_0", "ff_0"]], "strong": [["gg_0", "hh_0"]]}
    for split, shards_of_split in plan.items():
        folder = dataset.audio_folder(split, SPEC.name)
        rejected = ["rr_0"] if split == "weak" else []
        rows = [(key, shard) for shard, keys in enumerate(shards_of_split) for key in keys]
        rows += [(key, len(shards_of_split) - 1) for key in rejected]
        write_manifest(folder / "manifest.parquet", rows)
        write_hard(
            dataset.hard_path(split), hard_table([key for key, _ in rows], weak={key: ["/m/a"] for key, _ in rows})
        )
        for shard, keys in enumerate(shards_of_split):
            audio = write_audio(folder, shard, keys, rejected=rejected if shard == len(shards_of_split) - 1 else [])
            write_labels(dataset.labels_folder(split, "frames"), audio, failed=frozenset({"ee_0"}))
            if split == "weak":
                write_labels(dataset.labels_folder(split, "other"), audio, teacher="another")
    return dataset


def write_manifest(path: Path, rows: list[tuple[str, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows_of_shards = [ManifestRow(key, shard, source=key, bytes=1) for key, shard in rows]
    shards.write_manifest(path, sorted(rows_of_shards, key=lambda row: row.shard))
