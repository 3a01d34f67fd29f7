"""A small dataset with some of everything: two splits, mono and FOA, every codec, labels of several axes, gaps.

Written by the real writers from seeded noise: two calls give the same bytes, but for the times in the indexes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline import AudioSpec, TargetSpec, Vocabulary, hard_table, write_hard
from shards import (
    AudioShardWriter,
    AudioSidecar,
    Dataset,
    LabelShardWriter,
    LabelSidecar,
    ManifestRow,
    by_shard,
    dataset_folders,
    open_index,
    rows_sha256,
    write_manifest,
)
from tests.shards.dataset_examples import LONG_KEY, clip_pcm, key_seed

MONO = AudioSpec(sample_rate=8_000, clip_ms=1_000)
FOA = AudioSpec(sample_rate=8_000, layout="foa", clip_ms=400)
VOCABULARY = Vocabulary(("/m/a", "/m/b", "/m/c"), ("A", "B", "C"))
FRAMES = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=VOCABULARY, context_ms=1_000, frames=25)
TAGS = TargetSpec(
    axes=("class",), kind="probability", vocabulary=VOCABULARY, context_ms=1_000, hop_ms=None, frames=None
)
DIRECTIONS = TargetSpec(
    axes=("track", "class", "xyz", "time"),
    kind="unit_vector",
    vocabulary=VOCABULARY,
    context_ms=400,
    frames=10,
    tracks=2,
)
SHARD_CODECS = {("weak", MONO): "flac", ("weak", FOA): "pcm16", ("strong", MONO): "fast"}
# Split and audio -> keys of its shards. Clips of the FOA set are clips of the mono set, heard by other microphones.
PLAN: dict[tuple[str, AudioSpec], list[list[str]]] = {
    ("weak", MONO): [["aa_0", "bb_30000", LONG_KEY], ["dd_0", "ee_0", "ff_0"], ["ii_0", "jj_0"]],
    ("weak", FOA): [["aa_0", "dd_0"], ["bb_30000", "jj_0"]],
    ("strong", MONO): [["gg_0", "hh_0"], ["kk_0", "ll_0"]],
}
REJECTED = "rr_0"
FAILED = "ee_0"
# Split, audio and name of every label set -> target and codec.
LABELS: dict[tuple[str, AudioSpec, str], tuple[TargetSpec, str]] = {
    ("weak", MONO, "frames"): (FRAMES, "master"),
    ("weak", MONO, "soft"): (FRAMES, "faithful"),
    ("weak", MONO, "tags"): (TAGS, "small"),
    ("weak", FOA, "directions"): (DIRECTIONS, "master"),
    ("strong", MONO, "frames"): (FRAMES, "small"),
}


def write_varied(root: Path) -> Dataset:
    """Seven audio shards of three codecs with 16 clips and one rejected, 13 label shards of five sets, two failures."""
    dataset = Dataset.create(root, keys="path")
    written: dict[tuple[str, AudioSpec], list[AudioSidecar]] = {}
    for (split, spec), plan in PLAN.items():
        folder = dataset.audio_folder(split, spec.name)
        rows = manifest_rows(plan, rejected=(REJECTED,) if spec == MONO and split == "weak" else ())
        folder.mkdir(parents=True)
        write_manifest(folder / "manifest.parquet", rows)
        written[split, spec] = [
            write_audio_shard(folder, shard, rows_of_shard, spec=spec, codec=SHARD_CODECS[split, spec])
            for shard, rows_of_shard in by_shard(rows).items()
        ]
        if spec == MONO:
            keys = [row.key for row in rows]
            write_hard(dataset.hard_path(split), hard_table(keys, weak={key: ["/m/a"] for key in keys}))
    for (split, spec, name), (target, codec) in LABELS.items():
        for sidecar in written[split, spec]:
            write_label_shard(dataset.labels_folder(split, name), sidecar, target=target, codec=codec)
    for folder, kind in dataset_folders(dataset):
        open_index(folder, kind)
    return dataset


def manifest_rows(plan: Sequence[Sequence[str]], *, rejected: Sequence[str] = ()) -> list[ManifestRow]:
    """Rows in order of shard; clips that will be rejected belong to the first one."""
    shard_of = [(key, shard) for shard, keys in enumerate(plan) for key in (*keys, *(rejected if not shard else ()))]
    return [
        ManifestRow(key, shard, source=f"{shard}/{place}.wav", bytes=1) for place, (key, shard) in enumerate(shard_of)
    ]


def write_audio_shard(
    folder: Path, shard: int, rows: Sequence[ManifestRow], *, spec: AudioSpec, codec: str
) -> AudioSidecar:
    """As pack writes it: what it says of its origin includes which rows it was made from."""
    provenance = {"stage": "pack", "codec": codec, "manifest_sha256": rows_sha256(rows)}
    with AudioShardWriter(folder, shard, spec=spec, provenance=provenance, codec=codec) as writer:
        for row in rows:
            if row.key == REJECTED:
                writer.reject(row.key, "damaged", "stops early")
            else:
                writer.add(row.key, clip_pcm(row.key, spec), origin="vorbis", cut_samples=3, flags=("clipped",))
        return writer.commit()


def write_label_shard(
    folder: Path, audio: AudioSidecar, *, target: TargetSpec, codec: str, teacher: str = ""
) -> LabelSidecar:
    """`teacher`: by default one of the name of the set."""
    provenance = {"stage": "label", "teacher": teacher or folder.name, "codec": codec}
    with LabelShardWriter(folder, audio, target=target, provenance=provenance, codec=codec) as writer:
        for key in audio.clips.key:
            if key == FAILED:
                writer.fail(key, "not_finite", "logits hold NaN")
            else:
                writer.add(key, label_values(key, target))
        return writer.commit()


def label_values(key: str, target: TargetSpec) -> npt.NDArray[np.float32]:
    """Follows from key and target."""
    rng = np.random.default_rng([key_seed(key), 2])
    if target.kind == "probability":
        return rng.random(target.shape, dtype=np.float32)
    values = rng.normal(-4, 3, size=target.shape)
    if target.kind == "unit_vector":
        values /= np.linalg.norm(values, axis=target.axes.index("xyz"), keepdims=True)
    return values.astype(np.float32)
