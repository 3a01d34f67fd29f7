"""Write one shard: first the tar, then the sidecar that commits it. A writer that dies in between has written nothing.

An existing shard of the same number is replaced. The same clips in the same order give the same bytes.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt
import soundfile

from pipeline import (
    REJECTION_REASONS,
    AudioSpec,
    FormatError,
    IntegrityError,
    MetadataError,
    TargetSpec,
    UsageError,
    acoustic_fingerprint,
    atomic_path,
    pcm_identity,
)
from shards._failures import LABEL_FAILURES
from shards._sidecar import (
    AudioClips,
    AudioSidecar,
    LabelClips,
    LabelSidecar,
    Refusals,
    is_clip_key,
    sidecar_bytes,
)
from shards._sidecar_parse import parse_audio_sidecar, parse_label_sidecar
from shards._tar import TarWriter
from shards.codecs._audio import AUDIO_CODECS, audio_suffix, encode_audio
from shards.codecs._label import check_label_codec, decode_label_checked, encode_label, label_suffix

_Writer = TypeVar("_Writer", bound="_ShardWriter")
_Columns = TypeVar("_Columns", AudioClips, LabelClips, Refusals)


class _ShardWriter:
    """What writers of both kinds share: the tar under a temporary name, the keys seen, and the order of a commit."""

    def __init__(self, folder: Path, shard: int, provenance: Mapping[str, Any], software: Mapping[str, str]) -> None:
        self.path = folder / f"{shard:06d}.json"
        self._shard = shard
        self._provenance = provenance
        self._software = {**_software(), **software}
        self._open = contextlib.ExitStack()
        self._file: BinaryIO | None = None
        self._rows: list[tuple[Any, ...]] = []
        self._refused: list[tuple[str, str, str]] = []
        self._keys: set[str] = set()

    def __enter__(self: _Writer) -> _Writer:
        self._temporary = self._open.enter_context(atomic_path(self.path.with_suffix(".tar")))
        self._file = self._open.enter_context(self._temporary.open("wb"))
        self._tar = TarWriter(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Without a commit, everything written is removed."""
        self._file = None
        abandoned = error or UsageError(f"{self.path}: left without commit()")
        self._open.__exit__(type(abandoned), abandoned, trace)

    def _take(self, key: str) -> None:
        if self._file is None:
            raise UsageError(f"{self.path}: is not being written; add clips inside the with-statement, before commit()")
        if not is_clip_key(key):
            raise MetadataError(f"{self.path}: {key!r} cannot be a clip key (A-Z a-z 0-9 _ - %)")
        if key in self._keys:
            raise MetadataError(f"{self.path}: clip {key} is given twice; keys of a shard are unique")
        self._keys.add(key)

    def _store(self, name: str, content: bytes) -> tuple[int, int, int]:
        """Offset, length and CRC32C of the new member."""
        return self._tar.add(name, content), len(content), google_crc32c.value(content)

    def _finish_tar(self) -> dict[str, Any]:
        """Close the tar; returns what both kinds of sidecar say."""
        if self._file is None:
            raise UsageError(f"{self.path}: is not being written; commit() once, inside the with-statement")
        sha256 = self._tar.finish()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {
            "path": self.path,
            "shard": self._shard,
            "tar_bytes": self._tar.bytes,
            "tar_sha256": sha256,
            "provenance": self._provenance,
            "software": self._software,
        }

    def _publish(self, content: bytes, tar_sha256: str) -> None:
        """All that needs room is written first. Then the old sidecar goes, the new tar comes, and its sidecar last.

        Until the old sidecar goes, a failure leaves the shard that was there. Two writers of one shard, each of which
        may take the other for dead, can only meet between two renames; who then finds another's tar under its own
        sidecar takes the sidecar back, unless both wrote the same bytes.
        """
        tar = self.path.with_suffix(".tar")
        own = self._temporary.stat().st_ino
        try:
            with atomic_path(self.path) as sidecar:
                with sidecar.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                self.path.unlink(missing_ok=True)
                self._file = None
                self._open.close()
                self.path.unlink(missing_ok=True)
        except BaseException:
            if _inode(tar) == own:
                self.path.unlink(missing_ok=True)
                tar.unlink(missing_ok=True)
            raise
        if _inode(tar) != own:
            same = self.path.exists() and self.path.read_bytes() == content
            if same and tar.exists() and _sha256(tar) == tar_sha256:
                return
            if same:
                self.path.unlink(missing_ok=True)
            raise IntegrityError(f"{tar}: was replaced by another writer while this one committed; run it again")


class AudioShardWriter(_ShardWriter):
    """Clips of one AudioSpec into `folder/NNNNNN.tar`.

        with AudioShardWriter(folder, 0, spec=AudioSpec(), provenance={"stage": "pack"}) as writer:
            writer.add(key, pcm, origin="vorbis")
            writer.reject(other_key, "damaged", "stops after 3.1 s of 10 s")
            sidecar = writer.commit()

    Leaving the with-body without commit() leaves nothing. provenance: JSON of what decides the content (source,
    resampler, stage version). software: versions to record besides this package's own.
    """

    def __init__(
        self,
        folder: Path,
        shard: int,
        *,
        spec: AudioSpec,
        provenance: Mapping[str, Any],
        codec: str = "flac",
        software: Mapping[str, str] | None = None,
    ) -> None:
        """Raises UsageError for a codec that is not one of AUDIO_CODECS."""
        versions = {"libsndfile": soundfile.__libsndfile_version__, **(software or {})}
        super().__init__(folder, shard, provenance, versions)
        self.spec = spec
        if codec not in AUDIO_CODECS:
            raise UsageError(f"audio codec is {codec!r}, needs one of {', '.join(AUDIO_CODECS)}")
        self.codec = codec

    def add(
        self,
        key: str,
        pcm: npt.NDArray[np.int16],
        *,
        origin: str,
        cut_samples: int = 0,
        clipped_samples: int = 0,
        flags: Sequence[str] = (),
    ) -> None:
        """Store int16 [n] (mono) or [channels, n], 1 <= n <= spec.max_samples, at its true length; makes its identity.

        origin: codec it was decoded from. cut_samples: dropped at the end, per channel. clipped_samples: saturated.
        """
        samples = pcm.shape[-1] if pcm.ndim else 0
        shape = (samples,) if self.spec.channels == 1 else (self.spec.channels, samples)
        if pcm.dtype != np.int16 or pcm.shape != shape or not 1 <= samples <= self.spec.max_samples:
            needed = f"int16 {shape[:-1]} of 1 to {self.spec.max_samples} samples"
            raise ValueError(f"clip {key} is {pcm.dtype} {pcm.shape}, {self.spec.name} needs {needed}")
        self._take(key)
        placed = self._store(f"{key}.{audio_suffix(self.codec)}", encode_audio(pcm, self.spec, self.codec))
        acoustic = acoustic_fingerprint(pcm, self.spec.sample_rate).hex()
        about = (origin, cut_samples, clipped_samples, tuple(flags))
        self._rows.append((key, *placed, pcm_identity(pcm), samples, acoustic, *about))

    def reject(self, key: str, reason: str, detail: str) -> None:
        """Record a clip that is not stored; `reason` out of pipeline.REJECTION_REASONS."""
        if reason not in REJECTION_REASONS:
            raise ValueError(f"{reason!r} is not one of {REJECTION_REASONS}")
        self._take(key)
        self._refused.append((key, reason, _one_line(detail)))

    def commit(self) -> AudioSidecar:
        """Make the shard exist. Nothing of it does before, and all of it does after."""
        sidecar = AudioSidecar(
            **self._finish_tar(),
            spec=self.spec,
            codec=self.codec,
            clips=_columns(AudioClips, self._rows),
            rejected=_columns(Refusals, self._refused),
        )
        content = sidecar_bytes(sidecar)
        written = parse_audio_sidecar(content, self.path)
        self._publish(content, sidecar.tar_sha256)
        return written


class LabelShardWriter(_ShardWriter):
    """Labels for the clips of one audio shard into `folder/NNNNNN.tar`, N being the number of the audio shard.

    add() or fail() is called once for every clip of the audio shard, in its order.
    """

    def __init__(
        self,
        folder: Path,
        audio: AudioSidecar,
        *,
        target: TargetSpec,
        provenance: Mapping[str, Any],
        codec: str = "master",
        software: Mapping[str, str] | None = None,
    ) -> None:
        """Raises UsageError for a codec that does not exist or cannot hold such a target."""
        check_label_codec(codec, target.shape, target.kind)
        super().__init__(folder, audio.shard, provenance, software or {})
        self.audio = audio
        self.target = target
        self.codec = codec

    def add(self, key: str, logits: npt.NDArray[np.float32]) -> None:
        """`encode` and `store` in one."""
        self.store(key, self.encode(logits))

    def encode(self, values: npt.NDArray[np.float32]) -> bytes:
        """Float32 values of shape target.shape in this writer's codec, for `store`.

        Changes nothing and may be called from several threads at once; most of it runs without the GIL. Raises
        LabelRefused (a ValueError with a `reason` for fail()) for values that cannot be stored within what the codec
        guarantees; the clip can then still be failed.
        """
        return encode_label(values, shape=self.target.shape, kind=self.target.kind, codec=self.codec)

    def store(self, key: str, content: bytes) -> None:
        """Store what `encode` made of the values of the next clip of the audio shard."""
        row = self._next(key)
        self._rows.append((key, *self._store(f"{key}.{label_suffix(self.codec)}", content), *row))

    def add_encoded(self, key: str, content: bytes, *, where: str) -> None:
        """Store the member of another label shard of the same target and codec, byte for byte.

        Raises FormatError, which starts with `where`, unless it decodes to such a label.
        """
        target = self.target
        values = decode_label_checked(content, shape=target.shape, kind=target.kind, codec=self.codec, where=where)
        if not np.isfinite(values).all():
            raise FormatError(f"{where}: holds NaN or infinity; take this label from where it is whole")
        self.store(key, content)

    def fail(self, key: str, reason: str, detail: str) -> None:
        """Record that this clip has no label; `reason` out of LABEL_FAILURES. It keeps its place in the order."""
        if reason not in LABEL_FAILURES:
            raise ValueError(f"{reason!r} is not one of {LABEL_FAILURES}")
        row = self._next(key)
        self._rows.append((key, 0, 0, 0, *row))
        self._refused.append((key, reason, _one_line(detail)))

    def commit(self) -> LabelSidecar:
        """Make the label shard exist. Raises UsageError while clips of the audio shard are unaccounted for."""
        if len(self._rows) != len(self.audio.clips):
            total = len(self.audio.clips)
            raise UsageError(f"{self.path}: {len(self._rows)} of {total} clips have been added or failed; do all")
        sidecar = LabelSidecar(
            **self._finish_tar(),
            spec=self.audio.spec,
            codec=self.codec,
            target=self.target,
            clips=_columns(LabelClips, self._rows),
            failed=_columns(Refusals, self._refused),
        )
        content = sidecar_bytes(sidecar)
        written = parse_label_sidecar(content, self.path)
        self._publish(content, sidecar.tar_sha256)
        return written

    def _next(self, key: str) -> tuple[str, int, str]:
        """Identity, samples and acoustic fingerprint of the next clip of the audio shard, which has to be `key`."""
        row = len(self._rows)
        clips = self.audio.clips
        if row >= len(clips) or clips.key[row] != key:
            expected = clips.key[row] if row < len(clips) else "no further clip"
            raise UsageError(f"{self.path}: got {key}, {self.audio.path} has {expected} next; keep its order")
        self._take(key)
        return clips.identity[row], clips.samples[row], clips.acoustic[row]


def _columns(kind: type[_Columns], rows: Sequence[tuple[Any, ...]]) -> _Columns:
    names = [field.name for field in fields(kind)]
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return kind(**dict(zip(names, columns, strict=True)))


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _one_line(detail: str) -> str:
    """Details quote foreign messages and file names, which need not be one line nor UTF-8."""
    return " ".join(detail.encode("utf-8", "backslashreplace").decode().split())[:500]


def _software() -> dict[str, str]:
    """Recorded, never compared."""
    try:
        version = metadata.version("sed-distill")
    except metadata.PackageNotFoundError:  # run from a checkout or an uploaded working directory
        version = "source"
    return {"sed-distill": version, "numpy": np.__version__}
