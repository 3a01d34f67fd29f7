"""Write the golden shards of the current format version: python -m tests.golden.make FOLDER

Run once for a version, when it becomes final. Later versions of sed-distill must read what it wrote then.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline import AudioSpec, TargetSpec, Vocabulary, audioset_strong_447, hard_table, write_hard
from shards import (
    AudioShardWriter,
    AudioSidecar,
    Dataset,
    KeyMode,
    LabelReader,
    LabelShardWriter,
    ManifestRow,
    rows_sha256,
    write_manifest,
)

_SOME = Vocabulary(audioset_strong_447().mids[:40], audioset_strong_447().names[:40])
_FEW = Vocabulary(("/m/09x0r", "/m/0bt9lr"), ("Speech", "Dog"))
_FRAMES = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=_SOME)
_CLIP = TargetSpec(axes=("class",), kind="probability", vocabulary=_FEW, hop_ms=None, frames=None)
_CHUNKS = TargetSpec(
    axes=("class", "time"), kind="probability", vocabulary=_FEW, context_ms=4_000, hop_ms=4_000, frames=3
)
# One frame has no others to even its loss out: `small` stores such labels as float16 logits.
_ONE_LOGIT = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=_SOME, hop_ms=10_000, frames=1)
_ONE_PROBABILITY = TargetSpec(axes=("class", "time"), kind="probability", vocabulary=_SOME, hop_ms=10_000, frames=1)
_DIRECTION = TargetSpec(
    axes=("time", "track", "xyz"), kind="unit_vector", context_ms=5_000, hop_ms=100, frames=50, tracks=3
)
MONO, FINE, FOA = AudioSpec(), AudioSpec(sample_rate=32_000), AudioSpec(sample_rate=24_000, layout="foa", clip_ms=5_000)


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A dataset: its shards by split, one more clip that was rejected, its audio sets and its label sets.

    Clips whose key starts with "-" have no label.
    """

    keys: KeyMode
    shards: dict[str, tuple[tuple[str, ...], ...]]
    rejected: str
    audio: tuple[tuple[AudioSpec, str], ...]
    labels: tuple[tuple[str, AudioSpec, TargetSpec, str], ...]


GOLDEN = {
    "audioset": Golden(
        keys="audioset",
        shards={
            "weak": (("aaaaaaaaaaa_0", "bbbbbbbbbbb_30000"), ("-cccccccccc_1000",)),
            "strong": (("ddddddddddd_0", "eeeeeeeeeee_0"),),
        },
        rejected="fffffffffff_0",
        audio=((MONO, "flac"), (FINE, "fast"), (FOA, "pcm16")),
        labels=(
            ("frames-master", MONO, _FRAMES, "master"),
            ("frames-faithful", MONO, _FRAMES, "faithful"),
            ("frames-small", MONO, _FRAMES, "small"),
            ("clip-small", MONO, _CLIP, "small"),
            ("chunks-faithful", FINE, _CHUNKS, "faithful"),
            ("direction", FOA, _DIRECTION, "master"),
        ),
    ),
    # A member's name of over 100 bytes has a PAX header.
    "path": Golden(
        keys="path",
        shards={"weak": (("%2F".join(["folder"] * 15) + "%2Eflac_0", "b%2Ewav_0"),)},
        rejected="c%2Ewav_0",
        audio=((MONO, "flac"),),
        labels=(
            ("frames-npy", MONO, _FRAMES, "npy"),
            ("one-logit", MONO, _ONE_LOGIT, "small"),
            ("one-probability", MONO, _ONE_PROBABILITY, "small"),
        ),
    ),
}


def numbers(name: str, count: int) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1) that follow from `name` on every machine and with every library."""
    digests = [hashlib.sha256(f"{name} {block}".encode()).digest() for block in range(-(-count // 16))]
    return np.frombuffer(b"".join(digests), "<u2", count=count) / 65_536


def pcm(key: str, spec: AudioSpec) -> npt.NDArray[np.int16]:
    """A slow staircase under a little noise, a tenth of a second long: compresses, and fits in a repository."""
    samples = spec.sample_rate // 10 + len(key)
    noise = np.floor(numbers(f"{key} {spec.name}", spec.channels * samples) * 9).reshape(spec.channels, samples)
    stairs = (np.arange(samples) // 100 % 7 - 3) * 500
    values = (stairs + noise).astype(np.int16)
    return values[0] if spec.layout == "mono" else values


def values(key: str, target: TargetSpec) -> npt.NDArray[np.float32]:
    """Levels of classes that change now and then, as a teacher's do."""
    if target.kind == "unit_vector":
        vectors = numbers(key, int(np.prod(target.shape))).reshape(target.shape) + 0.1
        return (vectors / np.sqrt((vectors**2).sum(-1, keepdims=True))).astype(np.float32)
    frames = target.frames or 1
    levels = numbers(f"{key} levels", len(target.classes))[:, None] * 6 - 9
    steps = np.floor(numbers(f"{key} steps", len(target.classes) * frames).reshape(-1, frames) * 1.02) * 9
    logits = levels + np.maximum.accumulate(steps, axis=1)
    found = logits if target.kind == "logit" else 1 / (1 + np.exp(-logits))
    return found.reshape(target.shape).astype(np.float32)


def write(root: Path) -> None:
    expected: dict[str, str] = {}
    for name, golden in GOLDEN.items():
        dataset = Dataset.create(root / name, keys=golden.keys)
        for split, shards in golden.shards.items():
            _write_split(dataset, golden, split, shards, expected)
    (root / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def _write_split(
    dataset: Dataset, golden: Golden, split: str, shards: tuple[tuple[str, ...], ...], expected: dict[str, str]
) -> None:
    keys = [key for shard in shards for key in shard]
    weak = {keys[0]: ["/m/09x0r"], keys[1]: []}
    hard = hard_table(sorted([*keys, golden.rejected]), weak=weak, strong_annotated=keys[:1])
    write_hard(dataset.hard_path(split), hard)
    for spec, codec in golden.audio:
        for audio in _write_audio(dataset, split, shards, golden.rejected, spec, codec):
            for name, of_spec, target, label_codec in golden.labels:
                if of_spec == spec:
                    _write_labels(dataset, split, audio, name, target, label_codec, expected)


def _write_audio(
    dataset: Dataset, split: str, shards: tuple[tuple[str, ...], ...], rejected: str, spec: AudioSpec, codec: str
) -> list[AudioSidecar]:
    folder = dataset.audio_folder(split, spec.name)
    rows = [ManifestRow(key, number, f"{number}.wav", 1) for number, keys in enumerate(shards) for key in keys]
    rows.append(ManifestRow(rejected, len(shards) - 1, "", -1))
    write_manifest(folder / "manifest.parquet", rows)
    sidecars = []
    for number, keys in enumerate(shards):
        provenance = {"manifest_sha256": rows_sha256([row for row in rows if row.shard == number])}
        with AudioShardWriter(folder, number, spec=spec, provenance=provenance, codec=codec) as writer:
            for key in keys:
                writer.add(key, pcm(key, spec), origin="mp3", flags=("antiphase",))
            if number == len(shards) - 1:
                writer.reject(rejected, "missing", "no recording of the folder has this clip")
            sidecars.append(writer.commit())
    return sidecars


def _write_labels(
    dataset: Dataset,
    split: str,
    audio: AudioSidecar,
    name: str,
    target: TargetSpec,
    codec: str,
    expected: dict[str, str],
) -> None:
    folder = dataset.labels_folder(split, name)
    with LabelShardWriter(folder, audio, target=target, provenance={"teacher": "golden"}, codec=codec) as writer:
        for key in audio.clips.key:
            if key.startswith("-"):
                writer.fail(key, "not_finite", "so that one clip has no label")
            else:
                writer.add(key, values(key, target))
        sidecar = writer.commit()
    with LabelReader(sidecar) as reader:
        for row, key in enumerate(sidecar.clips.key):
            if sidecar.clips.length[row]:
                decoded = reader.read(row).astype("<f4").tobytes()
                expected[f"{split}/{name}/{key}"] = hashlib.sha256(decoded).hexdigest()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
