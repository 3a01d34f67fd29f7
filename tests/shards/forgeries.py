"""Faults that a copy or a careful hand makes: every checksum of the file fits, only what it is bound to does not."""

import io
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from pipeline import Vocabulary, read_hard, write_hard
from shards import (
    AudioReader,
    AudioShardWriter,
    AudioSidecar,
    LabelReader,
    LabelShardWriter,
    ManifestRow,
    read_manifest,
    write_manifest,
)
from shards._tar import TarWriter
from shards.codecs._audio import audio_suffix
from shards.codecs._label import label_suffix
from tests.shards.faults import Content, Fault, Whole, kinds, signed


def members_exchanged(rng: random.Random, whole: Whole) -> Fault:
    """Contents of two members change places: alone, with their headers, or, for audio, with all but the identity."""
    shard = rng.choice([name for name in whole.shards if _stored_rows(whole, name)[1:]])
    sidecar = whole.sidecar(shard)
    audio = isinstance(sidecar, AudioSidecar)
    way = rng.choice(("contents", "headers", "signed") if audio else ("contents", "headers"))
    suffix = audio_suffix(sidecar.codec) if audio else label_suffix(sidecar.codec)
    rows = _stored_rows(whole, shard)
    members = []
    for row in rows:
        start = sidecar.clips.offset[row]
        content = whole.files[f"{shard}.tar"][start : start + sidecar.clips.length[row]]
        members.append((f"{sidecar.clips.key[row]}.{suffix}", content))
    one, other = rng.sample(range(len(rows)), 2)
    if way == "headers":
        members[one], members[other] = members[other], members[one]
    else:
        (name, content), (other_name, other_content) = members[one], members[other]
        members[one], members[other] = (name, other_content), (other_name, content)
    file = io.BytesIO()
    writer = TarWriter(file)
    placed = [(writer.add(name, content), len(content), google_crc32c.value(content)) for name, content in members]
    sha256 = writer.finish()
    changes: dict[str, Content] = {f"{shard}.tar": file.getvalue()}
    if way == "signed":
        value = json.loads(whole.files[f"{shard}.json"])
        value["tar"] = {"bytes": writer.bytes, "sha256": sha256}
        for row, place in zip(rows, placed, strict=True):
            for column, entry in zip(("offset", "length", "crc32c"), place, strict=True):
                value["clips"][column][row] = entry
        changes[f"{shard}.json"] = signed(value)
    named = kinds("audio" if way == "signed" else "member checksum tar_size")
    return Fault(f"{shard}: {way} of {members[one][0]} and {members[other][0]}", changes, named)


def audio_written_anew(rng: random.Random, whole: Whole) -> Fault:
    """A shard by the real writer, from the rows it should be made of, but for one clip."""
    shard = rng.choice(list(whole.audio))
    sidecar = whole.audio[shard]
    key = rng.choice(sidecar.clips.key)
    way = rng.choice(("other samples", "one bit", "shorter", "left out", "rejected", "twice"))
    stranger = rng.choice(_strangers(whole, shard))

    def write(folder: Path) -> None:
        kept = (sidecar.spec, sidecar.provenance, sidecar.codec)
        with (
            AudioShardWriter(folder, sidecar.shard, spec=kept[0], provenance=kept[1], codec=kept[2]) as writer,
            AudioReader(sidecar) as reader,
        ):
            for row in range(len(sidecar.clips)):
                name, pcm = sidecar.clips.key[row], reader.read(row)
                if name == key and way == "left out":
                    continue
                if name == key and way == "rejected":
                    writer.reject(name, "damaged", "")
                    continue
                if name == key and way == "other samples":
                    pcm = np.ascontiguousarray(pcm[..., ::-1])
                elif name == key and way == "one bit":
                    pcm[..., rng.randrange(pcm.shape[-1])] ^= 1
                elif name == key and way == "shorter":
                    pcm = np.ascontiguousarray(pcm[..., : max(1, pcm.shape[-1] - rng.randrange(1, 400))])
                writer.add(name, pcm, origin="vorbis")
            if way == "twice":
                other, row = stranger
                with AudioReader(other) as others:
                    writer.add(other.clips.key[row], others.read(row), origin="vorbis")
            for refused in sidecar.rejected.key:
                writer.reject(refused, "damaged", "stops early")
            writer.commit()

    same_clips = way in ("other samples", "one bit", "shorter")
    named = "stale" if same_clips else "manifest duplicate orphan incomplete"
    return _written(f"{shard}: {key} {way}", shard, write, named)


def labels_written_anew(rng: random.Random, whole: Whole) -> Fault:
    """A label shard by the real writer, but made by another teacher, for another target, of other audio or clips."""
    shard = rng.choice(list(whole.labels))
    labels = whole.labels[shard]
    audio = next(
        side for side in whole.audio.values() if side.spec == labels.spec and side.clips.key == labels.clips.key
    )
    way = rng.choice(
        ("teacher", "class order", "class names", "context", "other audio", "other audio's samples", "fewer")
    )
    target, provenance = labels.target, dict(labels.provenance)
    row = rng.randrange(len(labels.clips))
    if way == "teacher":
        provenance["teacher"] = "a stranger"
    elif way == "class order":
        target = replace(target, vocabulary=Vocabulary(target.classes.mids[::-1], target.classes.names[::-1]))
    elif way == "class names":
        target = replace(target, vocabulary=Vocabulary(target.classes.mids, target.classes.names[::-1]))
    elif way == "context":
        target = replace(target, context_ms=target.context_ms // 2)
    elif way == "other audio":
        identity = rng.randbytes(16).hex()
        audio = _with_entry(audio, row, identity=identity)
    elif way == "other audio's samples":
        audio = _with_entry(audio, row, samples=max(1, audio.clips.samples[row] - 1))
    else:
        columns = {name: column[:row] + column[row + 1 :] for name, column in vars(audio.clips).items()}
        audio = replace(audio, clips=replace(audio.clips, **columns))

    def write(folder: Path) -> None:
        with (
            LabelReader(labels) as reader,
            LabelShardWriter(folder, audio, target=target, provenance=provenance, codec=labels.codec) as writer,
        ):
            for key in audio.clips.key:
                place = labels.clips.key.index(key)
                if not labels.clips.length[place]:
                    writer.fail(key, "not_finite", "")
                elif way == "class order":
                    axis = target.axes.index("class")
                    writer.add(key, np.ascontiguousarray(np.flip(reader.read(place), axis)))
                else:
                    writer.add_encoded(key, reader.read_bytes(place), where=key)
            writer.commit()

    named = "stale" if way.startswith("other audio") else "incomplete" if way == "fewer" else "mixed"
    return _written(f"{shard}: {way}", shard, write, named)


def clip_stored_again(rng: random.Random, whole: Whole) -> Fault:
    """A further shard, whole in itself, with clips or labels that another shard has."""
    shard = rng.choice(whole.shards)
    new = f"{shard.rpartition('/')[0]}/{len(whole.beside(f'{shard}.tar')) + 1:06d}"
    sidecar = signed({**json.loads(whole.files[f"{shard}.json"]), "shard": int(new[-6:])})
    changes: dict[str, Content] = {f"{new}.tar": whole.files[f"{shard}.tar"], f"{new}.json": sidecar}
    return Fault(f"{shard} again as {new}", changes, kinds("duplicate"))


def clip_in_two_splits(rng: random.Random, whole: Whole) -> Fault:
    """Audio, manifest and hard labels of `strong` all have a clip that `weak` has too."""
    strong = next(shard for shard in whole.audio if shard.startswith("strong/"))
    sidecar = whole.audio[strong]
    folder, number = strong.rpartition("/")[0], len(whole.beside(f"{strong}.tar")) + 1
    weak = rng.choice(
        [side for name, side in whole.audio.items() if name.startswith("weak/") and side.spec == sidecar.spec]
    )
    row = rng.randrange(len(weak.clips))
    key = weak.clips.key[row]
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        with (
            AudioReader(weak) as reader,
            AudioShardWriter(made, number, spec=weak.spec, provenance={}, codec=sidecar.codec) as writer,
        ):
            writer.add(key, reader.read(row), origin="vorbis")
            writer.commit()
        rows = read_manifest(whole.root / folder / "manifest.parquet")
        write_manifest(made / "manifest.parquet", [*rows, ManifestRow(key, number, source="x.wav", bytes=1)])
        table = read_hard(whole.root / "strong" / "hard.parquet")
        more = read_hard(whole.root / "weak" / "hard.parquet")
        more = more.filter([name == key for name in more.column("key").to_pylist()])
        write_hard(made / "hard.parquet", type(table).from_batches([*table.to_batches(), *more.to_batches()]))
        changes: dict[str, Content] = {"strong/hard.parquet": (made / "hard.parquet").read_bytes()}
        for name in (f"{number:06d}.tar", f"{number:06d}.json", "manifest.parquet"):
            changes[f"{folder}/{name}"] = (made / name).read_bytes()
    return Fault(f"{key} in strong too", changes, kinds("duplicate"))


def hard_rows_dropped(rng: random.Random, whole: Whole) -> Fault:
    """hard.parquet, whole in itself, lacks a stored clip."""
    path = rng.choice([name for name in whole.files if name.endswith("hard.parquet")])
    split = path.partition("/")[0]
    stored = sorted({key for name, side in whole.audio.items() if name.startswith(split) for key in side.clips.key})
    gone = set(stored) if rng.random() < 0.1 else {rng.choice(stored)}
    table = read_hard(whole.root / path)
    kept = table.filter([key not in gone for key in table.column("key").to_pylist()])
    with tempfile.TemporaryDirectory() as scratch:
        write_hard(Path(scratch) / "hard.parquet", kept)
        content = (Path(scratch) / "hard.parquet").read_bytes()
    return Fault(f"{path} without {sorted(gone)}", {path: content}, kinds("no_hard"))


def manifest_edited(rng: random.Random, whole: Whole) -> Fault:
    """manifest.parquet, whole in itself, has other rows than the shards were made from."""
    path = rng.choice([name for name in whole.files if name.endswith("manifest.parquet")])
    rows = list(read_manifest(whole.root / path))
    at = rng.randrange(len(rows))
    shards = sorted({row.shard for row in rows})
    edits: dict[str, Callable[[], list[ManifestRow]]] = {
        "dropped": lambda: [*rows[:at], *rows[at + 1 :]],
        "one more": lambda: [*rows, ManifestRow("new_0", rng.choice([*shards, len(shards)]), source="n.wav", bytes=1)],
        "order": lambda: rng.sample(rows, len(rows)),
        **{
            field: (lambda field=field, value=value: [*rows[:at], rows[at]._replace(**{field: value}), *rows[at + 1 :]])  # type: ignore[misc]
            for field, value in (
                ("key", "other_0"),
                ("shard", rng.choice([*shards, 7])),
                ("source", "other.wav"),
                ("bytes", rows[at].bytes + 1),
                ("start_ms", 10),
                ("duration_ms", 10),
                ("expected_ms", 10),
            )
        },
    }
    way = rng.choice(sorted(edits))
    with tempfile.TemporaryDirectory() as scratch:
        write_manifest(Path(scratch) / "m.parquet", sorted(edits[way](), key=lambda row: row.shard))
        content = (Path(scratch) / "m.parquet").read_bytes()
    return Fault(f"{path}: {way} of {rows[at].key}", {path: content}, kinds("manifest incomplete"))


def _stored_rows(whole: Whole, shard: str) -> list[int]:
    clips = whole.sidecar(shard).clips
    return [row for row in range(len(clips)) if clips.length[row]]


def _strangers(whole: Whole, shard: str) -> list[tuple[AudioSidecar, int]]:
    """Clips of other shards of the folder."""
    others = [side for name, side in whole.audio.items() if name != shard and name[:-6] == shard[:-6]]
    return [(side, row) for side in others for row in range(len(side.clips))]


def _with_entry(audio: AudioSidecar, row: int, **entry: Any) -> AudioSidecar:
    ((column, value),) = entry.items()
    old = getattr(audio.clips, column)
    return replace(audio, clips=replace(audio.clips, **{column: (*old[:row], value, *old[row + 1 :])}))


def _written(what: str, shard: str, write: Callable[[Path], None], named: str) -> Fault:
    """`write` puts the shard into a scratch folder; its bytes replace those of `shard`."""
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch))
        made = Path(scratch) / shard[-6:]
        changes: dict[str, Content] = {
            f"{shard}{suffix}": made.with_suffix(suffix).read_bytes() for suffix in (".tar", ".json")
        }
    return Fault(what, changes, kinds(named), within=shard.partition("/")[0])
