"""Sidecars from disk, parsed field by field: everything after this trusts what they say."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pipeline import (
    ACOUSTIC_BYTES,
    MAX_ACOUSTIC_FRAMES,
    REJECTION_REASONS,
    AudioSpec,
    FormatError,
    MetadataError,
    TargetSpec,
    UsageError,
)
from pipeline._json import fields, integer, integers, one_of, text, texts
from shards._failures import LABEL_FAILURES
from shards._sidecar import (
    SHARD_FORMAT,
    SHARD_VERSION,
    AudioClips,
    AudioSidecar,
    LabelClips,
    LabelSidecar,
    Refusals,
    fingerprint,
    is_clip_key,
    sealed_json,
)
from shards._store import read_start
from shards._tar import MAX_MEMBER_BYTES, tar_layout
from shards.codecs._audio import AUDIO_CODECS, audio_suffix, max_audio_bytes
from shards.codecs._label import LABEL_CODECS, check_label_codec, label_suffix, max_label_bytes

MAX_SIDECAR_BYTES = 16 * 2**20
"""A sidecar of 1,000 clips has about 0.3 MB; a bigger one is refused before it is parsed."""

_HEX = re.compile("[0-9a-f]*")
_SIDECAR_NAME = re.compile(r"[0-9]{6}\.json")
_AnySidecar = TypeVar("_AnySidecar", AudioSidecar, LabelSidecar)
_Read = Callable[[object, str], tuple[Any, ...]]


def read_audio_sidecar(path: Path) -> AudioSidecar:
    """Raises FormatError for anything that is not exactly what `sidecar_bytes` writes."""
    return parse_audio_sidecar(read_sidecar_bytes(path), path)


def read_label_sidecar(path: Path) -> LabelSidecar:
    """Raises FormatError for anything that is not exactly what `sidecar_bytes` writes."""
    return parse_label_sidecar(read_sidecar_bytes(path), path)


def parse_audio_sidecar(content: bytes, path: Path) -> AudioSidecar:
    return _parse(content, path, _audio_sidecar)


def parse_label_sidecar(content: bytes, path: Path) -> LabelSidecar:
    return _parse(content, path, _label_sidecar)


def is_sidecar_name(name: str) -> bool:
    """Whether a file of this name in a shard folder is a sidecar; other names are ignored."""
    return _SIDECAR_NAME.fullmatch(name) is not None


def check_format(value: object, path: Path, name: str, version: int) -> None:
    """Raises FormatError unless the JSON `value` of `path` says that it is format `name`, `version`."""
    if not isinstance(value, dict) or value.get("format") != name:
        raise FormatError(f"{path}: is not of format {name}; restore the file that belongs there")
    found = value.get("version")
    if type(found) is not int or found != version:
        raise FormatError(
            f"{path}: has format version {str(found)[:20]}, this version of sed-distill reads {version}; "
            "use the version that wrote it, or write it again"
        )


def _audio_sidecar(value: Mapping[str, Any], path: Path) -> AudioSidecar:
    where = f"{path}: "
    common = _common(value, path, "audio", ("clips", "rejected"), AUDIO_CODECS)
    columns = {
        **_columns_of_both(),
        "length": _lengths,
        "origin": texts,
        "cut_samples": integers,
        "clipped_samples": integers,
        "flags": _flags,
    }
    clips = AudioClips(**_columns(value["clips"], f"{where}clips", columns))
    rejected = _refusals(value["rejected"], f"{where}rejected", REJECTION_REASONS)
    _check_samples(clips.samples, common["spec"], where)
    # A hostile length cannot make a reader allocate more than the spec allows.
    max_bytes = max_audio_bytes(common["spec"], common["codec"])
    if max(clips.length, default=0) > max_bytes:
        raise FormatError(f"{where}clips.length: a clip of this spec has at most {max_bytes} bytes")
    if not set(clips.key).isdisjoint(rejected.key):
        raise FormatError(f"{where}rejected.key: names a clip that is also stored")
    names = [f"{key}.{audio_suffix(common['codec'])}" for key in clips.key]
    _check_layout(names, clips.offset, clips.length, common["tar_bytes"], where)
    return AudioSidecar(**common, clips=clips, rejected=rejected)


def _label_sidecar(value: Mapping[str, Any], path: Path) -> LabelSidecar:
    where = f"{path}: "
    common = _common(value, path, "labels", ("target", "clips", "failed"), LABEL_CODECS)
    target = TargetSpec.from_json(value["target"], f"{where}target")
    clips = LabelClips(**_columns(value["clips"], f"{where}clips", _columns_of_both()))
    failed = _refusals(value["failed"], f"{where}failed", LABEL_FAILURES)
    _check_samples(clips.samples, common["spec"], where)
    stored = [row for row in range(len(clips)) if clips.length[row]]
    absent = [row for row in range(len(clips)) if not clips.length[row]]
    if tuple(clips.key[row] for row in absent) != failed.key:
        raise FormatError(f"{where}failed.key: needs exactly the clips of length 0, in their order")
    check_label_codec(common["codec"], target.shape, target.kind)
    max_bytes = max_label_bytes(target.shape, common["codec"])
    if max(clips.length, default=0) > max_bytes:
        raise FormatError(f"{where}clips.length: a label of shape {target.shape} has at most {max_bytes} bytes")
    if any(clips.offset[row] or clips.crc32c[row] for row in absent):
        raise FormatError(f"{where}clips: a clip of length 0 needs offset 0 and crc32c 0")
    offsets = [clips.offset[row] for row in stored]
    lengths = [clips.length[row] for row in stored]
    names = [f"{clips.key[row]}.{label_suffix(common['codec'])}" for row in stored]
    _check_layout(names, offsets, lengths, common["tar_bytes"], where)
    return LabelSidecar(**common, target=target, clips=clips, failed=failed)


def _columns_of_both() -> dict[str, _Read]:
    return {
        "key": _keys,
        "offset": integers,
        "length": _lengths_or_zero,
        "crc32c": _checksums,
        "identity": _identities,
        "samples": integers,
        "acoustic": _acoustic,
    }


def _common(
    value: Mapping[str, Any], path: Path, kind: str, own: tuple[str, ...], codecs: tuple[str, ...]
) -> dict[str, Any]:
    where = f"{path}: "
    shared = ("format", "version", "kind", "shard", "spec", "codec", "tar", "provenance", "fingerprint", "software")
    fields(value, str(path), (*shared, *own))
    one_of(value["kind"], f"{where}kind", (kind,))
    shard = integer(value["shard"], f"{where}shard", high=999_999)
    if path.name != f"{shard:06d}.json":
        raise FormatError(f"{path}: is the sidecar of shard {shard:06d}; give it and its tar their own names back")
    tar = fields(value["tar"], f"{where}tar", ("bytes", "sha256"))
    provenance = value["provenance"]
    if not isinstance(provenance, dict) or value["fingerprint"] != fingerprint(provenance):
        raise FormatError(f"{where}fingerprint: is not the hash of the provenance beside it; the file was edited")
    software = value["software"]
    if not isinstance(software, dict):
        raise FormatError(f"{where}software: needs an object of names and versions")
    return {
        "path": path,
        "shard": shard,
        "spec": AudioSpec.from_json(value["spec"], f"{where}spec"),
        "codec": one_of(value["codec"], f"{where}codec", codecs),
        "tar_bytes": integer(tar["bytes"], f"{where}tar.bytes"),
        "tar_sha256": _hex(tar["sha256"], f"{where}tar.sha256", 64),
        "provenance": provenance,
        "software": {name: text(version, f"{where}software.{name}") for name, version in software.items()},
    }


def _parse(content: bytes, path: Path, build: Callable[[Mapping[str, Any], Path], _AnySidecar]) -> _AnySidecar:
    """Every way in which `content` can be wrong ends in one FormatError that names `path`."""
    if len(content) > MAX_SIDECAR_BYTES:
        raise FormatError(f"{path}: is over {MAX_SIDECAR_BYTES} bytes, no sidecar is; write shards of fewer clips")
    try:
        value = json.loads(content.decode())
        check_format(value, path, SHARD_FORMAT, SHARD_VERSION)
        value.pop("sha256", None)
        if sealed_json(value) != content:
            raise FormatError(f"{path}: does not match its own checksum; restore it or write the shard again")
        return build(value, path)
    except (FormatError, MetadataError, UsageError) as error:
        message = str(error)[:500]
        raise FormatError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is not canonical JSON ({str(error)[:200]}); it was edited or damaged") from None


def read_sidecar_bytes(path: Path) -> bytes:
    """Raises FormatError if there is no file, OSError if a store cannot be reached."""
    content = read_start(path, MAX_SIDECAR_BYTES + 1, "restore it or write the shard again")
    if content is None:
        raise FormatError(f"{path}: is not there; restore it or write the shard again")
    return content


def _columns(value: object, where: str, readers: Mapping[str, _Read]) -> dict[str, tuple[Any, ...]]:
    got = fields(value, where, tuple(readers))
    columns = {name: read(got[name], f"{where}.{name}") for name, read in readers.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise FormatError(f"{where}: columns have different lengths {lengths}; the file was edited or damaged")
    return columns


def _refusals(value: object, where: str, reasons: tuple[str, ...]) -> Refusals:
    def read_reasons(column: object, place: str) -> tuple[str, ...]:
        return tuple(one_of(reason, place, reasons) for reason in texts(column, place))

    return Refusals(**_columns(value, where, {"key": _keys, "reason": read_reasons, "detail": texts}))


def _check_samples(samples: tuple[int, ...], spec: AudioSpec, where: str) -> None:
    if samples and not 1 <= min(samples) <= max(samples) <= spec.max_samples:
        raise FormatError(f"{where}clips.samples: a clip of this spec has 1 to {spec.max_samples} samples")


def _check_layout(names: list[str], offsets: Any, lengths: Any, tar_bytes: int, where: str) -> None:
    """Members lie exactly where the writer puts them: in order, inside the tar, none over another."""
    expected, total = tar_layout(names, lengths)
    if tuple(offsets) != expected or tar_bytes != total:
        raise FormatError(f"{where}clips.offset: does not follow from keys and lengths; the file was edited or damaged")


def _keys(value: object, where: str) -> tuple[str, ...]:
    keys = texts(value, where)
    for key in keys:
        if not is_clip_key(key):
            raise FormatError(f"{where}: {key!r} cannot be a clip key (A-Z a-z 0-9 _ - %)")
    if len(set(keys)) != len(keys):
        raise FormatError(f"{where}: names a clip twice")
    return keys


def _lengths(value: object, where: str) -> tuple[int, ...]:
    return integers(value, where, low=1, high=MAX_MEMBER_BYTES)


def _lengths_or_zero(value: object, where: str) -> tuple[int, ...]:
    return integers(value, where, high=MAX_MEMBER_BYTES)


def _checksums(value: object, where: str) -> tuple[int, ...]:
    return integers(value, where, high=2**32 - 1)


def _identities(value: object, where: str) -> tuple[str, ...]:
    return _hexes(value, where, 32)


def _acoustic(value: object, where: str) -> tuple[str, ...]:
    column = _hexes(value, where, 2 * ACOUSTIC_BYTES)
    frames = int(max((entry[:2] for entry in column), default="0"), 16)
    if frames > MAX_ACOUSTIC_FRAMES:
        raise FormatError(f"{where}: a fingerprint is of {frames} frames, needs at most {MAX_ACOUSTIC_FRAMES}")
    return column


def _flags(value: object, where: str) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list):
        raise FormatError(f"{where}: needs a list with a list of texts for every clip")
    return tuple(texts(flags, where) for flags in value)


def _hexes(value: object, where: str, digits: int) -> tuple[str, ...]:
    column = texts(value, where)
    # All at once: of the parts of a sidecar these take longest to look at one by one.
    if set(map(len, column)) <= {digits} and _HEX.fullmatch("".join(column)):
        return column
    return tuple(_hex(entry, where, digits) for entry in column)


def _hex(value: object, where: str, digits: int) -> str:
    if re.fullmatch(f"[0-9a-f]{{{digits}}}", text(value, where)) is None:
        raise FormatError(f"{where}: is {value!r}, needs {digits} hex digits")
    return str(value)
