"""What is wrong with one shard's tar: checked byte for byte against its sidecar, one member in memory at a time."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from pipeline import FormatError, acoustic_fingerprint, pcm_identity
from shards._index_file import ShardKind
from shards._sidecar import AudioSidecar, LabelSidecar
from shards._sidecar_parse import read_audio_sidecar, read_label_sidecar
from shards._store import is_remote, open_stream, store_errors, to_path
from shards._tar import END_BYTES, padding, tar_header
from shards.checks._verify_columns import acoustic_agrees
from shards.checks._verify_problem import Problem, ProblemKind, bounded, detail_of
from shards.codecs._audio import audio_suffix, decode_audio
from shards.codecs._label import decode_label_checked, label_suffix

_Finding = tuple[ProblemKind, str]


def check_shard(
    path: str | Path, kind: ShardKind, *, decode: bool = True, stop: Callable[[], bool] | None = None
) -> tuple[Problem, ...]:
    """The problems within the shard whose sidecar is at `path` (a local path or a store's URL); none if it is whole.

    Reads every byte of the tar once: sha256, headers and CRC32C of all members. With `decode`, every clip must decode
    to its stated length, identity and acoustic fingerprint, every label to its stated shape, finite. The first
    LISTED_PROBLEMS are listed, the others counted in one more. Once `stop()` is true the rest is left unread.
    Raises OSError if a store cannot be reached.
    """
    sidecar_path = to_path(path)
    try:
        sidecar = (read_audio_sidecar if kind == "audio" else read_label_sidecar)(sidecar_path)
    except FormatError as error:
        return (Problem(sidecar_path, None, "sidecar", detail_of(error, sidecar_path)),)
    try:
        with store_errors(sidecar_path):
            return bounded(_problems(sidecar, decode, stop or (lambda: False)))
    except OSError as error:
        # That a network fails says nothing about the shard.
        if is_remote(sidecar_path) and not isinstance(error, FileNotFoundError | PermissionError):
            raise
        reason = error.strerror or type(error).__name__
        return (Problem(sidecar.tar_path, None, "tar_missing", f"cannot be read ({reason}); restore the tar"),)


def _problems(sidecar: AudioSidecar | LabelSidecar, decode: bool, stop: Callable[[], bool]) -> Iterator[Problem]:
    path, clips = sidecar.tar_path, sidecar.clips
    suffix = (audio_suffix if isinstance(sidecar, AudioSidecar) else label_suffix)(sidecar.codec)
    digest = hashlib.sha256()
    before = b""
    found = False
    with open_stream(path) as file:
        for row in range(len(clips)):
            if stop():
                return
            length = clips.length[row]
            if not length:
                continue
            expected = before + tar_header(f"{clips.key[row]}.{suffix}", length)
            header = file.read(len(expected))
            content = file.read(length)
            digest.update(header)
            digest.update(content)
            before = padding(length)
            problem: _Finding | None = None
            if header != expected:
                problem = "member", "is not what the header in the tar says; restore the tar"
            elif google_crc32c.value(content) != clips.crc32c[row]:
                problem = "checksum", "differs from its CRC32C; restore the tar"
            elif decode:
                problem = _meaning(sidecar, row, content)
            if problem:
                found = True
                yield Problem(path, clips.key[row], *problem)
        rest = file.read(len(before) + END_BYTES + 1)
        digest.update(rest)
    # A fault within a member has been named; only one outside of all members is left to the hash.
    if not found and (rest != before + bytes(END_BYTES) or digest.hexdigest() != sidecar.tar_sha256):
        yield Problem(path, None, "tar_hash", "differs from its sha256 outside the clips; restore the tar")


def _meaning(sidecar: AudioSidecar | LabelSidecar, row: int, content: bytes) -> _Finding | None:
    """Bytes that are whole can still be the wrong ones."""
    if isinstance(sidecar, AudioSidecar):
        return _audio_meaning(sidecar, row, content)
    target = sidecar.target
    try:
        values = decode_label_checked(content, shape=target.shape, kind=target.kind, codec=sidecar.codec, where="label")
    except FormatError as error:
        return "label", str(error).removeprefix("label: ")
    return None if np.isfinite(values).all() else ("label", "is not finite; label the shard again")


def _audio_meaning(sidecar: AudioSidecar, row: int, content: bytes) -> _Finding | None:
    clips, spec = sidecar.clips, sidecar.spec
    try:
        pcm = decode_audio(content, spec, clips.samples[row], sidecar.codec, "audio")
    except FormatError as error:
        return "audio", str(error).removeprefix("audio: ")
    if pcm_identity(pcm) != clips.identity[row]:
        return "audio", "decodes to other audio than its identity says; write the shard again"
    if not acoustic_agrees(bytes.fromhex(clips.acoustic[row]), acoustic_fingerprint(pcm, spec.sample_rate)):
        return "acoustic", "does not sound as its acoustic fingerprint in the sidecar says; write the shard again"
    return None
