"""Hostile input for everything that reads: run as a process of its own, so that a crash, a hang or a flood of memory
is seen from outside and costs only this process.

    python -m tests.shards.fuzz 0 500            # the inputs of seeds 0 to 499; one line of JSON at the end

What a reader may do with an input: give something of the right shape, the same each time, or raise an error of this
project. `MEMORY_BYTES` is what it may take for that beyond what the process had before.
"""

import copy
import hashlib
import io
import json
import random
import resource
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa

from pipeline import SedDistillError, read_hard
from pipeline import _sealed as sealed
from shards import AudioReader, Dataset, LabelReader, describe, open_index, read_manifest, verify
from shards._index_file import INDEX_NAME
from shards._sidecar_parse import MAX_SIDECAR_BYTES, parse_audio_sidecar, parse_label_sidecar
from shards._tar import TarWriter
from shards.codecs._audio import AUDIO_CODECS, audio_suffix, encode_audio
from shards.codecs._audio_fast import decode_fast
from shards.codecs._label import LABEL_CODECS, decode_label, encode_label, label_suffix
from tests.shards.dataset_examples import clip_pcm
from tests.shards.faults import Content, Fault, Whole, signed
from tests.shards.scratch import scratch_folder
from tests.shards.sidecar_edits import places
from tests.shards.varied_dataset import DIRECTIONS, FOA, FRAMES, MONO, TAGS, label_values, write_varied

# The worst is a sidecar of the biggest size that is parsed at all, made of empty lists: 600 MB for 16 MiB.
MEMORY_BYTES = 2**30
PATIENCE_S = 60
_NUMBERS = (0, 1, 2, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**64, 10**400, -(10**400), 0.5, 1e308, "", "x", "\0", "\x7f", "\u202e",
    "é" * 40, "x" * 100_000, "../../etc/passwd", "/", "0" * 32, "0" * 64, "aa_0", [], {}, [[]], [None], [{}], {"": ""},
    [0] * 100_000, ["aa_0"] * 50_000, {str(i): i for i in range(5_000)},
)  # fmt: skip


@dataclass
class Told:
    """What became of the inputs of one kind."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0


class Inputs:
    """The originals that inputs are made from, and a dataset on disk to put them into."""

    def __init__(self, folder: Path) -> None:
        self.whole = Whole(write_varied(folder / "data"))
        self.folder = folder
        self.audio = [
            (spec, codec, encode_audio(clip_pcm(key, spec), spec, codec))
            for codec in AUDIO_CODECS
            for spec in (MONO, FOA)
            for key in ("aa_0", "bb_0")
        ]
        targets = (FRAMES, TAGS, DIRECTIONS)
        self.labels = [
            encode_label(label_values("aa_0", target), shape=target.shape, kind=target.kind, codec=codec)
            for codec in LABEL_CODECS
            for target in targets
            if codec in ("master", "npy") or target != DIRECTIONS
        ]


def sidecar_text(rng: random.Random, inputs: Inputs) -> None:
    """Values put into a sidecar, spelled as the format wants it and signed, or not."""
    shard = rng.choice(inputs.whole.shards)
    parse = parse_audio_sidecar if shard in inputs.whole.audio else parse_label_sidecar
    content = inputs.whole.files[f"{shard}.json"]
    # A huge one takes a thousand times as long as another.
    way = rng.choices(("values", "bytes", "deep", "twice", "huge"), (100, 30, 30, 30, 1))[0]
    if way == "values":
        value = json.loads(content)
        for _ in range(rng.randrange(1, 4)):
            place = rng.choice([place for place in places(value) if place])
            at = value
            for name in place[:-1]:
                at = at[name]
            at[place[-1]] = copy.deepcopy(rng.choice(_VALUES))
        with suppress(ValueError, TypeError):
            content = signed(value)
    elif way == "bytes":
        content = mutated(rng, content)
    elif way == "deep":
        opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
        depth = rng.choice((10, 900, 100_000, 1_000_000))
        at = rng.randrange(len(content))
        content = content[:at] + opening * depth + closing * depth * rng.randrange(2) + content[at:]
    elif way == "twice":
        value = json.loads(content)
        name = rng.choice(sorted(value))
        content = content.replace(b"{", b'{"%s":%s,' % (name.encode(), json.dumps(rng.choice(_VALUES)).encode()), 1)
    else:
        unit = rng.choice((b'"aa_0",', b"[],", b"1,", b'{"a":1},', b"9", b" "))
        content = content.replace(b"[", b"[" + unit * ((MAX_SIDECAR_BYTES - len(content)) // len(unit)), 1)
    parse(content, Path(f"{shard[-6:]}.json"))


def signed_member(rng: random.Random, inputs: Inputs) -> None:
    """A member that no encoder wrote, in a shard where every checksum fits it."""
    shard = rng.choice(inputs.whole.shards)
    sidecar = inputs.whole.sidecar(shard)
    audio = shard in inputs.whole.audio
    clips = sidecar.clips
    suffix = audio_suffix(sidecar.codec) if audio else label_suffix(sidecar.codec)
    rows = [row for row in range(len(clips)) if clips.length[row]]
    target = rng.choice(rows)
    value = json.loads(inputs.whole.files[f"{shard}.json"])
    file = io.BytesIO()
    tar = TarWriter(file)
    for row in rows:
        content = inputs.whole.files[f"{shard}.tar"][clips.offset[row] : clips.offset[row] + clips.length[row]]
        if row == target:
            content = mutated_audio(rng, content) if audio else mutated_label(rng, content)
        offset = tar.add(f"{clips.key[row]}.{suffix}", content)
        for name, entry in (("offset", offset), ("length", len(content)), ("crc32c", google_crc32c.value(content))):
            value["clips"][name][row] = entry
        if row == target and audio and rng.random() < 0.3:
            value["clips"]["samples"][row] = rng.randrange(1, sidecar.spec.max_samples + 1)
    value["tar"] = {"sha256": tar.finish(), "bytes": tar.bytes}
    changes: dict[str, Content] = {f"{shard}.tar": file.getvalue(), f"{shard}.json": signed(value)}
    inputs.whole.apply(Fault("", changes, frozenset()))
    try:
        if rng.random() < 0.2:
            verify(inputs.whole.root, threads=1)
            describe(inputs.whole.root)
        dataset, split, folder = Dataset(inputs.whole.root), *shard.split("/")[0:3:2]
        if audio:
            (audio_sidecar,) = (side for side in dataset.audio_shards(split, folder) if side.shard == sidecar.shard)
            with AudioReader(audio_sidecar) as reader:
                pcm, again = reader.read(target), reader.read(target)
            assert pcm.dtype == np.int16
            assert pcm.shape[-1] == value["clips"]["samples"][target]
            assert np.array_equal(pcm, again)
        else:
            (label_sidecar,) = (side for side in dataset.label_shards(split, folder) if side.shard == sidecar.shard)
            with LabelReader(label_sidecar) as label_reader:
                values, same = label_reader.read(target), label_reader.read(target)
            assert values.dtype == np.float32
            assert values.shape == label_sidecar.target.shape
            assert np.array_equal(values, same, equal_nan=True)
    finally:
        inputs.whole.restore(Fault("", changes, frozenset()))


def label_alone(rng: random.Random, inputs: Inputs) -> None:
    """The decoder that is told nothing: shape and codec are what the bytes say."""
    content = mutated_label(rng, rng.choice(inputs.labels))
    values = decode_label(content, probabilities=rng.random() < 0.5)
    assert values.dtype == np.float32
    assert np.array_equal(values, decode_label(content), equal_nan=True) or values.size


def clip_alone(rng: random.Random, inputs: Inputs) -> None:
    content = mutated_audio(rng, rng.choice([content for _, codec, content in inputs.audio if codec == "fast"]))
    pcm, _ = decode_fast(content)
    assert np.array_equal(pcm, decode_fast(content)[0])


def sealed_table(rng: random.Random, inputs: Inputs) -> None:
    """Parquet that was damaged and sealed again, so that it is looked into."""
    name = rng.choice([name for name in inputs.whole.files if name.endswith(".parquet")])
    content = bytearray(mutated(rng, inputs.whole.files[name]))
    place = bytes(content).rfind(sealed._PREFIX) + len(sealed._PREFIX)
    if place >= len(sealed._PREFIX) and rng.random() < 0.9:
        content[place : place + 64] = sealed._digest(bytes(content), place)
    path = inputs.folder / "table.parquet"
    path.write_bytes(content)
    read: Callable[[Path], object] = read_hard if name.endswith("hard.parquet") else read_manifest
    if read is read_manifest and rng.random() < 0.5:
        read_manifest(path, shard=0)
    else:
        read(path)


def sealed_index(rng: random.Random, inputs: Inputs) -> None:
    """An index that was damaged and sealed again, and then used."""
    name = rng.choice([name for name in inputs.whole.files if name.endswith(INDEX_NAME)])
    body = mutated(rng, inputs.whole.files[name][:-32])
    path = inputs.whole.root / name
    path.write_bytes(body + hashlib.sha256(body).digest())
    try:
        index = open_index(path.parent, "audio" if "/audio/" in name else "labels")
        keys = index.key.to_pylist()
        assert len(keys) == len(index) == len(index.offset) == len(index.identity) == len(index.acoustic)
        index.rows_of(keys[:1])
        index.repeated_key()
    finally:
        path.write_bytes(inputs.whole.files[name])


def mutated(rng: random.Random, content: bytes) -> bytes:
    """One to four changes, half of them near the beginning, where headers are."""
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(min(len(changed), 64) if rng.random() < 0.5 else len(changed)) if changed else 0
        way = rng.randrange(7)
        if way == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            changed[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(_NUMBERS))
        elif way == 2:
            changed[at : at + rng.choice((1, 4, 64))] = b""
        elif way == 3:
            changed[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
        elif way == 4:
            changed[at : at + rng.choice((1, 2, 8, 64))] = rng.choice((b"\0", b"\xff")) * rng.choice((1, 2, 8, 64))
        elif way == 5 and rng.random() < 0.3:
            del changed[at:]
        else:
            start = rng.randrange(len(content))
            changed[at:at] = content[start : start + rng.choice((4, 64, 1024))]
    return bytes(changed)


def mutated_audio(rng: random.Random, content: bytes) -> bytes:
    """FLAC frames carry checksums of their own: some are put right, so that what is behind them is reached."""
    changed = mutated(rng, content) if rng.random() < 0.8 else content[:58] + rng.randbytes(rng.randrange(2_000))
    if content.startswith(b"SEDa") and rng.random() < 0.7:
        changed = content[:14] + changed[14:]
        # The chunk says its own length.
        return changed[:26] + struct.pack("<I", len(changed) - 14) + changed[30:]
    return changed


def mutated_label(rng: random.Random, content: bytes) -> bytes:
    """The streams of a label are compressed: they are changed inside as often as outside."""
    if not content.startswith(b"SEDL") or rng.random() < 0.4:
        return mutated(rng, content)
    start = 12 + 4 * content[7] + 1
    head, body = content[:start], content[start:]
    codec = pa.Codec("zstd", compression_level=1)
    if head[-1] == 0:
        split = 4 + int.from_bytes(body[:4], "little")
        size = int.from_bytes(head[8:12], "little")
        streams = [(body[4:split], size), (body[split:], size)]
    else:
        runs, stated, jumps, first, second = struct.unpack_from("<5I", body)
        streams = [(body[20 : 20 + first], runs), (body[20 + first : 20 + first + second], stated + 2 * jumps)]
    plain = [bytearray(codec.decompress(stream, decompressed_size=size, asbytes=True)) for stream, size in streams]
    for _ in range(rng.randrange(1, 6)):
        stream = rng.choice(plain)
        if stream:
            stream[rng.randrange(len(stream))] = rng.choice((0, 255, 254, 15, 14, rng.randrange(256)))
    packed = [codec.compress(bytes(stream), asbytes=True) for stream in plain]
    if head[-1] == 0:
        return head + len(packed[0]).to_bytes(4, "little") + b"".join(packed)
    counts = [runs, stated, jumps]
    if rng.random() < 0.5:
        # As many stated things as the tokens now ask for.
        counts[1:] = [sum(token >> 4 == 15 for token in plain[0]), sum(token & 15 == 15 for token in plain[0])]
        packed[1] = codec.compress(rng.randbytes(counts[1] + 2 * counts[2]), asbytes=True)
    elif rng.random() < 0.2:
        counts[rng.randrange(3)] = rng.choice(_NUMBERS)
    return head + struct.pack("<5I", *counts, *map(len, packed)) + b"".join(packed)


# Errors that a caller of a reader has no reason to expect.
UNWANTED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)

KINDS: dict[str, Callable[[random.Random, Inputs], None]] = {
    "sidecar": sidecar_text,
    "member of a shard": signed_member,
    "label alone": label_alone,
    "clip alone": clip_alone,
    "table": sealed_table,
    "index": sealed_index,
}


def main(first: int, count: int) -> None:
    told = {kind: Told() for kind in KINDS}
    wrong: list[str] = []
    with scratch_folder() as folder:
        inputs = Inputs(folder)
        for kind in KINDS.values():  # what is imported and allocated once is not the inputs' memory
            with suppress(SedDistillError):
                kind(random.Random(0), inputs)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        before_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also one that hangs in a library
        for seed in range(first, first + count):
            print(f"seed {seed}", flush=True)
            rng = random.Random(seed)
            kind = rng.choice(list(KINDS))
            signal.alarm(PATIENCE_S)
            begin_s = time.monotonic()
            try:
                KINDS[kind](rng, inputs)
                told[kind].accepted += 1
            except SedDistillError as error:
                told[kind].refused[type(error).__name__] += 1
                if "\n" in str(error):
                    wrong.append(f"seed {seed}: {kind}: a message of more than one line: {error}")
            except UNWANTED as error:
                wrong.append(f"seed {seed}: {kind}: {type(error).__name__}: {error}")
            signal.alarm(0)
            told[kind].slowest_s = max(told[kind].slowest_s, time.monotonic() - begin_s)
        more_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_bytes
    kinds = {kind: vars(of_kind) for kind, of_kind in told.items()}
    print(json.dumps({"kinds": kinds, "more_bytes": more_bytes, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
