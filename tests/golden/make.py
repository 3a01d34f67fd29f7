"""Write the golden shards of the current format version: python -m tests.golden.make FOLDER

Run once for a version, when it becomes final. Later versions of sed-distill must read what it wrote then.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline import AudioSpec, TargetSpec, Vocabulary, audioset_strong_447, hard_table, write_hard
from shards import (
    AudioShardWriter,
    AudioSidecar,
    Dataset,
    LabelReader,
    LabelShardWriter,
    ManifestRow,
    rows_sha256,
    write_manifest,
)

KEYS = {
    "weak": (("aaaaaaaaaaa_0", "bbbbbbbbbbb_30000"), ("-cccccccccc_1000",)),
    "strong": (("ddddddddddd_0", "eeeeeeeeeee_0"),),
}
REJECTED = "fffffffffff_0"
AUDIO = (
    (AudioSpec(), "flac"),
    (AudioSpec(sample_rate=32_000), "fast"),
    (AudioSpec(sample_rate=24_000, layout="foa", clip_ms=5_000), "pcm16"),
)
FEW = Vocabulary(("/m/09x0r", "/m/0bt9lr"), ("Speech", "Dog"))
SOME = Vocabulary(audioset_strong_447().mids[:40], audioset_strong_447().names[:40])
FRAMES = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=SOME)
CLIP = TargetSpec(axes=("class",), kind="probability", vocabulary=FEW, hop_ms=None, frames=None)
CHUNKS = TargetSpec(
    axes=("class", "time"), kind="probability", vocabulary=FEW, context_ms=4_000, hop_ms=4_000, frames=3
)
DIRECTION = TargetSpec(
    axes=("time", "track", "xyz"), kind="unit_vector", context_ms=5_000, hop_ms=100, frames=50, tracks=3
)
LABELS = (
    ("frames-master", AUDIO[0][0], FRAMES, "master"),
    ("frames-faithful", AUDIO[0][0], FRAMES, "faithful"),
    ("frames-small", AUDIO[0][0], FRAMES, "small"),
    ("clip-small", AUDIO[0][0], CLIP, "small"),
    ("chunks-faithful", AUDIO[1][0], CHUNKS, "faithful"),
    ("direction", AUDIO[2][0], DIRECTION, "master"),
)


def numbers(name: str, count: int) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1) that follow from `name` on every machine and with every library."""
    bytes_needed = 2 * count
    digest = b"".join(hashlib.sha256(f"{name} {block}".encode()).digest() for block in range(-(-bytes_needed // 32)))
    return np.frombuffer(digest[:bytes_needed], "<u2") / 65_536


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
    dataset = Dataset.create(root, keys="audioset")
    expected: dict[str, str] = {}
    for split, shards in KEYS.items():
        keys = [key for shard in shards for key in shard]
        weak = {keys[0]: ["/m/09x0r"], keys[1]: []}
        write_hard(
            dataset.hard_path(split), hard_table(sorted([*keys, REJECTED]), weak=weak, strong_annotated=keys[:1])
        )
        for spec, codec in AUDIO:
            sidecars = _write_audio(dataset, split, shards, spec, codec)
            for name, of_spec, target, label_codec in LABELS:
                for audio in sidecars if of_spec == spec else ():
                    _write_labels(dataset, split, audio, name, target, label_codec, expected)
    (root / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def _write_audio(
    dataset: Dataset, split: str, shards: tuple[tuple[str, ...], ...], spec: AudioSpec, codec: str
) -> list[AudioSidecar]:
    folder = dataset.audio_folder(split, spec.name)
    rows = [ManifestRow(key, number, f"{key}.wav", 1) for number, keys in enumerate(shards) for key in keys]
    rows.append(ManifestRow(REJECTED, len(shards) - 1, "", -1))
    write_manifest(folder / "manifest.parquet", rows)
    sidecars = []
    for number, keys in enumerate(shards):
        provenance = {"manifest_sha256": rows_sha256([row for row in rows if row.shard == number])}
        with AudioShardWriter(folder, number, spec=spec, provenance=provenance, codec=codec) as writer:
            for key in keys:
                writer.add(key, pcm(key, spec), origin="mp3", flags=("antiphase",))
            if number == len(shards) - 1:
                writer.reject(REJECTED, "missing", "no recording of the folder has this clip")
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
