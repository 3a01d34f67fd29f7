"""What is wrong with one shard's tar: checked byte for byte against its sidecar, one member in memory at a time."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import google_crc32c
import numpy as np

from pipeline import FormatError, pcm_identity
from shards._codec import decode_flac, decode_float16
from shards._sidecar import AudioSidecar, LabelSidecar
from shards._tar import END_BYTES, padding, tar_header

ProblemKind = Literal[
    "dataset",  # dataset.json is missing or not what this version reads
    "hard",  # hard.parquet is missing or damaged
    "manifest",  # manifest.parquet is damaged, or a shard does not account for exactly the clips it lists
    "incomplete",  # a shard that manifest, numbering or audio ask for is not committed
    "sidecar",  # a sidecar is not what this version reads, or lies where it does not belong
    "tar_missing",  # no tar, or one that cannot be opened
    "tar_size",  # a tar of another size than its sidecar says
    "tar_hash",  # bytes that belong to no clip differ
    "member",  # the header of a member is not that of its clip
    "checksum",  # the bytes of a member differ
    "audio",  # a clip does not decode to its stated length and identity
    "label",  # a label is not of its stated shape, or not finite
    "orphan",  # labels whose audio shard is not there
    "order",  # labels that are not of the clips of their audio shard, in its order
    "stale",  # a label made from other audio than is stored
    "mixed",  # a label set made by more than one teacher or for more than one target
    "duplicate",  # a clip that is stored more than once
    "no_hard",  # a stored clip without a row in hard.parquet
]


@dataclass(frozen=True)
class Problem:
    """One finding of `verify`: the file it is in, the clip where it concerns one, and its kind."""

    shard: Path
    key: str | None
    kind: ProblemKind
    detail: str

    def __str__(self) -> str:
        clip = "" if self.key is None else f"{self.key}: "
        return f"{self.shard}: {clip}{self.kind}: {self.detail}"


def tar_problems(sidecar: AudioSidecar | LabelSidecar, *, quick: bool) -> list[Problem]:
    """The tar has its size and, unless `quick`, holds exactly the promised bytes, which decode to what is promised."""
    path = sidecar.tar_path
    try:
        size = path.stat().st_size
        if size != sidecar.tar_bytes:
            detail = f"has {size} bytes, its sidecar says {sidecar.tar_bytes}; restore it or write the shard again"
            return [Problem(path, None, "tar_size", detail)]
        return [] if quick else list(_content_problems(sidecar))
    except OSError as error:
        return [Problem(path, None, "tar_missing", f"cannot be read ({error.strerror}); restore it or write it again")]


def _content_problems(sidecar: AudioSidecar | LabelSidecar) -> Iterator[Problem]:
    path, clips = sidecar.tar_path, sidecar.clips
    suffix = "flac" if isinstance(sidecar, AudioSidecar) else "npy"
    digest = hashlib.sha256()
    before = b""
    found = False
    with path.open("rb") as file:
        for row in range(len(clips)):
            if not clips.length[row]:
                continue
            expected = before + tar_header(f"{clips.key[row]}.{suffix}", clips.length[row])
            header = file.read(len(expected))
            content = file.read(clips.length[row])
            digest.update(header)
            digest.update(content)
            before = padding(clips.length[row])
            problem: tuple[ProblemKind, str] | None = None
            if header != expected:
                problem = "member", "is not what the header in the tar says; restore the tar"
            elif google_crc32c.value(content) != clips.crc32c[row]:
                problem = "checksum", "differs from its CRC32C; restore the tar"
            else:
                problem = _meaning_problem(sidecar, row, content)
            if problem:
                found = True
                yield Problem(path, clips.key[row], *problem)
        rest = file.read(len(before) + END_BYTES + 1)
        digest.update(rest)
    # A fault within a member has been named; only one outside of all members is left to the hash.
    if not found and (rest != before + bytes(END_BYTES) or digest.hexdigest() != sidecar.tar_sha256):
        yield Problem(path, None, "tar_hash", "differs from its sha256 outside the clips; restore the tar")


def _meaning_problem(sidecar: AudioSidecar | LabelSidecar, row: int, content: bytes) -> tuple[ProblemKind, str] | None:
    """Bytes that are whole can still be the wrong ones."""
    kind: ProblemKind = "audio" if isinstance(sidecar, AudioSidecar) else "label"
    try:
        if isinstance(sidecar, AudioSidecar):
            pcm = decode_flac(content, sidecar.spec, sidecar.clips.samples[row], kind)
            if pcm_identity(pcm) != sidecar.clips.identity[row]:
                return kind, "decodes to other audio than its identity says; write the shard again"
        elif not np.isfinite(decode_float16(content, sidecar.target.shape, kind)).all():
            return kind, "is not finite; label the shard again"
    except FormatError as error:
        return kind, str(error).removeprefix(f"{kind}: ")
    return None
