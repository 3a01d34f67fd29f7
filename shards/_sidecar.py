"""The sidecar of a shard: what it says, and the one way to spell it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline import MAX_KEY_LENGTH, AudioSpec, TargetSpec, canonical_json

SHARD_FORMAT = "sed-distill/shard"
SHARD_VERSION = 1
# A dot would end the key for WebDataset, a slash would make a folder.
_KEY = re.compile(rf"[A-Za-z0-9_%-]{{1,{MAX_KEY_LENGTH}}}")


@dataclass(frozen=True, kw_only=True)
class _Clips:
    """Clips in the order of the tar, one tuple per column.

    offset and length (bytes) place the member's content in the tar, crc32c is its checksum. identity: 32 hex digits of
    the sha256 of the PCM. samples: per channel. acoustic: the acoustic fingerprint in hex, see `pipeline._acoustic`.
    """

    key: tuple[str, ...]
    offset: tuple[int, ...]
    length: tuple[int, ...]
    crc32c: tuple[int, ...]
    identity: tuple[str, ...]
    samples: tuple[int, ...]
    acoustic: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True, kw_only=True)
class AudioClips(_Clips):
    """The stored clips of an audio shard.

    origin: codec it was decoded from. cut_samples: dropped at the end, per channel. clipped_samples: saturated on the
    way to int16.
    """

    origin: tuple[str, ...]
    cut_samples: tuple[int, ...]
    clipped_samples: tuple[int, ...]
    flags: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class LabelClips(_Clips):
    """Every clip of the labelled audio shard, in its order; identity, samples and acoustic are those of the audio.

    A clip without a label (see `LabelSidecar.failed`) has offset, length and crc32c 0.
    """


@dataclass(frozen=True, kw_only=True)
class Refusals:
    """Clips that were not stored, one tuple per column; `reason` is out of a closed list."""

    key: tuple[str, ...] = ()
    reason: tuple[str, ...] = ()
    detail: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What sidecars of both kinds say. `spec` is the audio of the shard; for labels, the audio that was labelled."""

    path: Path
    shard: int
    spec: AudioSpec
    codec: str
    tar_bytes: int
    tar_sha256: str
    provenance: Mapping[str, Any]
    software: Mapping[str, str]

    @property
    def tar_path(self) -> Path:
        return self.path.with_suffix(".tar")

    @property
    def fingerprint(self) -> str:
        """sha256 of the provenance: shards with equal fingerprints were made from the same inputs in the same way."""
        return fingerprint(self.provenance)

    def _common_json(self) -> dict[str, Any]:
        return {
            "format": SHARD_FORMAT,
            "version": SHARD_VERSION,
            "shard": self.shard,
            "spec": self.spec.to_json(),
            "codec": self.codec,
            "tar": {"bytes": self.tar_bytes, "sha256": self.tar_sha256},
            "provenance": self.provenance,
            "fingerprint": self.fingerprint,
            "software": self.software,
        }


@dataclass(frozen=True, kw_only=True)
class AudioSidecar(Sidecar):
    clips: AudioClips
    rejected: Refusals

    def to_json(self) -> dict[str, Any]:
        own = {"kind": "audio", "clips": _columns_json(self.clips), "rejected": _columns_json(self.rejected)}
        return {**self._common_json(), **own}


@dataclass(frozen=True, kw_only=True)
class LabelSidecar(Sidecar):
    target: TargetSpec
    clips: LabelClips
    failed: Refusals

    def to_json(self) -> dict[str, Any]:
        own = {"kind": "labels", "clips": _columns_json(self.clips), "failed": _columns_json(self.failed)}
        return {**self._common_json(), **own, "target": self.target.to_json()}


def fingerprint(provenance: Mapping[str, Any]) -> str:
    """sha256 (hex) of the canonical JSON of `provenance`."""
    return hashlib.sha256(canonical_json(provenance).encode()).hexdigest()


def sidecar_bytes(sidecar: AudioSidecar | LabelSidecar) -> bytes:
    """The one spelling of a sidecar: canonical JSON and a newline, with a checksum over everything else in it."""
    return sealed_json(sidecar.to_json())


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Canonical JSON of `value` and a newline, with a field `sha256`: that of the canonical JSON without it."""
    entries = {name: f"{canonical_json(name)}:{canonical_json(entry)}" for name, entry in value.items()}
    checksum = hashlib.sha256(_spelled(entries).encode()).hexdigest()
    entries["sha256"] = f'"sha256":"{checksum}"'
    return f"{_spelled(entries)}\n".encode()


def _spelled(entries: Mapping[str, str]) -> str:
    return f"{{{','.join(entries[name] for name in sorted(entries))}}}"


def is_clip_key(key: str) -> bool:
    """Whether `key` can name a member of a shard."""
    return _KEY.fullmatch(key) is not None


def _columns_json(columns: AudioClips | LabelClips | Refusals) -> dict[str, Any]:
    return {field.name: getattr(columns, field.name) for field in fields(columns)}
