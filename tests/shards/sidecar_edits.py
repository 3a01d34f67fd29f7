"""Edits of sidecars: of any value, and, with a new checksum, of each thing that is bound to something else."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from pipeline import Vocabulary, canonical_json
from shards import fingerprint
from shards.codecs._audio import AUDIO_CODECS
from shards.codecs._label import LABEL_CODECS
from tests.shards.faults import Fault, Whole, kinds, named_by_file, signed

_Edit = Callable[[random.Random, dict[str, Any]], object]


def edited(rng: random.Random, whole: Whole) -> Fault:
    """Any one value of a sidecar or of dataset.json, without a new checksum."""
    path = rng.choice([name for name in whole.files if name.endswith(".json")])
    value = json.loads(whole.files[path])
    place = rng.choice([place for place in places(value) if place])
    at = value
    for name in place[:-1]:
        at = at[name]
    if rng.random() < 0.1:
        del at[place[-1]]
    else:
        at[place[-1]] = _other(rng, at[place[-1]])
    what = f"{path}: {'.'.join(map(str, place))}"
    return Fault(what, {path: f"{canonical_json(value)}\n".encode()}, named_by_file(path))


def signed_edit(rng: random.Random, whole: Whole) -> Fault:
    """One of the things that a sidecar says of something else, with a new checksum."""
    shard = rng.choice(whole.shards)
    edits = {**_EDITS, **(_AUDIO_EDITS if shard in whole.audio else _LABEL_EDITS)}
    name = rng.choice(sorted(edits))
    change, named = edits[name]
    value = json.loads(whole.files[f"{shard}.json"])
    change(rng, value)
    return Fault(f"{shard}.json: {name}", {f"{shard}.json": signed(value)}, kinds(named))


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place of a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in inner:
        yield from places(entry, (*path, name))


def _other(rng: random.Random, value: Any) -> Any:
    """Something like it, or something else altogether."""
    like: list[Any] = [None, True, 0, -1, 2**63, 0.5, "", "x", [], {}]
    if isinstance(value, int):
        like = [
            value + 1,
            value - 1,
            -value,
            value * 2,
            value + 512,
            float(value),
            str(value),
            value ^ 1 << rng.randrange(32),
        ]
    elif isinstance(value, str) and value:
        at = rng.randrange(len(value))
        like = [
            value[:at] + rng.choice("0123456789abcdefXYZ_-%/.") + value[at + 1 :],
            value[:at] + value[at + 1 :],
            f"{value}\n",
        ]
    elif isinstance(value, list) and value:
        like = [value[:-1], [*value, value[-1]], value[::-1], [*value[1:], value[0]]]
    elif isinstance(value, dict):
        like = [{**value, "more": 1}]
    return rng.choice(like if rng.random() < 0.8 else [None, True, 0, -1, 2**63, 0.5, "", "x", [], {}])


def _row(rng: random.Random, value: dict[str, Any]) -> int:
    """A clip that is stored."""
    return rng.choice([row for row, length in enumerate(value["clips"]["length"]) if length])


def _entry(column: str, other: Callable[[random.Random, Any], Any]) -> _Edit:
    """One clip's entry of a column."""

    def edit(rng: random.Random, value: dict[str, Any]) -> None:
        row = _row(rng, value)
        value["clips"][column][row] = other(rng, value["clips"][column][row])

    return edit


def _two_entries(*columns: str) -> _Edit:
    """Two clips exchange their entries."""

    def edit(rng: random.Random, value: dict[str, Any]) -> None:
        one, other = rng.sample(range(len(value["clips"]["key"])), 2)
        for name in columns:
            column = value["clips"][name]
            column[one], column[other] = column[other], column[one]

    return edit


def _set(value: dict[str, Any], *path: str, to: object) -> None:
    for name in path[:-1]:
        value = value[name]
    value[path[-1]] = to


def _hex(rng: random.Random, digits: str) -> str:
    """One digit changed, or all."""
    at = rng.randrange(len(digits))
    one = f"{digits[:at]}{int(digits[at], 16) ^ 1 << rng.randrange(4):x}{digits[at + 1 :]}"
    return rng.choice((one, rng.randbytes(len(digits) // 2).hex()))


def _acoustic(rng: random.Random, digits: str) -> str:
    """Another number of frames, or other bits; a few bits could be another machine's rounding."""
    frames = f"{int(digits[:2], 16) ^ 1 << rng.randrange(7):02x}{digits[2:]}"
    return rng.choice((frames, digits[:2] + rng.randbytes(len(digits) // 2 - 1).hex()))


def _letter(rng: random.Random, key: str) -> str:
    at = rng.randrange(len(key) - 2)
    return f"{key[:at]}{rng.choice('abcXYZ')}{key[at + 1 :]}"


def _row_dropped(rng: random.Random, value: dict[str, Any]) -> None:
    row = _row(rng, value)
    for column in value["clips"].values():
        del column[row]


def _row_doubled(rng: random.Random, value: dict[str, Any]) -> None:
    row = _row(rng, value)
    for column in value["clips"].values():
        column.insert(row, column[row])


def _provenance(rng: random.Random, value: dict[str, Any]) -> None:
    """What the file is bound to: audio to its manifest rows, labels to the other shards of their set."""
    name = "manifest_sha256" if value["kind"] == "audio" else "teacher"
    value["provenance"][name] = _hex(rng, "0" * 64)
    value["fingerprint"] = fingerprint(value["provenance"])


def _vocabulary(rng: random.Random, value: dict[str, Any]) -> None:
    """Other classes, fewer, or another order, with the hash that belongs to them."""
    mids, names = value["target"]["vocabulary"]["mids"], value["target"]["vocabulary"]["names"]
    other = rng.choice(
        (
            Vocabulary(tuple(mids[::-1]), tuple(names[::-1])),
            Vocabulary(tuple(mids[::-1]), tuple(names)),
            Vocabulary(tuple(mids[:-1]), tuple(names[:-1])),
            Vocabulary((*mids, "/m/more"), (*names, "more")),
            Vocabulary((*mids[:-1], "/m/other"), tuple(names)),
            Vocabulary(tuple(mids), ("other", *names[1:])),
        )
    )
    value["target"]["vocabulary"] = other.to_json()


def _target(name: str) -> _Edit:
    def edit(rng: random.Random, value: dict[str, Any]) -> None:
        old = value["target"][name]
        if name == "axes":
            new: object = rng.choice((old[::-1], old[:-1], [*old, "track"]))
        elif name == "kind":
            new = rng.choice(("logit", "probability", "unit_vector", "metre"))
        else:
            new = rng.choice((1, 24)) if old is None else old + rng.choice((-1, 1, 25))
        value["target"][name] = new

    return edit


def _spec(rng: random.Random, value: dict[str, Any]) -> None:
    name, new = rng.choice(
        (("sample_rate", 16_000), ("layout", "foa"), ("layout", "mono"), ("clip_ms", 960), ("clip_ms", 400))
    )
    value["spec"][name] = new


def _codec(rng: random.Random, value: dict[str, Any]) -> None:
    value["codec"] = rng.choice((*AUDIO_CODECS, *LABEL_CODECS))


# Name -> the edit and the kinds of problem that name it rightly.
_EDITS: dict[str, tuple[_Edit, str]] = {
    "offset": (_entry("offset", lambda rng, offset: offset + rng.choice((-512, -1, 1, 512))), "sidecar"),
    "length": (
        _entry("length", lambda rng, length: length + rng.choice((-512, -1, 1, 512))),
        "sidecar member checksum",
    ),
    "crc32c": (_entry("crc32c", lambda rng, crc: crc ^ 1 << rng.randrange(32)), "checksum"),
    "crc32c of two": (_two_entries("crc32c"), "checksum sidecar"),
    "key": (_entry("key", _letter), "member manifest sidecar"),
    "keys of two": (_two_entries("key"), "member sidecar"),
    "tar.sha256": (lambda rng, value: _set(value, "tar", "sha256", to=_hex(rng, value["tar"]["sha256"])), "tar_hash"),
    "tar.bytes": (
        lambda rng, value: _set(value, "tar", "bytes", to=value["tar"]["bytes"] + rng.choice((-1, 512))),
        "sidecar",
    ),
    "codec": (_codec, "sidecar member audio label mixed"),
    "shard": (lambda rng, value: _set(value, "shard", to=value["shard"] + rng.choice((1, 7))), "sidecar"),
    "row dropped": (_row_dropped, "sidecar member"),
    "row doubled": (_row_doubled, "sidecar"),
    "fingerprint": (lambda rng, value: _set(value, "fingerprint", to=_hex(rng, value["fingerprint"])), "sidecar"),
    "provenance": (_provenance, "manifest mixed"),
    "format": (lambda rng, value: _set(value, "format", to="sed-distill"), "sidecar"),
    "version": (lambda rng, value: _set(value, "version", to=rng.choice((0, 2, True, 1.0))), "sidecar"),
    "kind": (lambda rng, value: _set(value, "kind", to="labels" if value["kind"] == "audio" else "audio"), "sidecar"),
    "one more field": (lambda rng, value: _set(value, rng.choice(("more", "extra")), to=1), "sidecar"),
}
_AUDIO_EDITS: dict[str, tuple[_Edit, str]] = {
    "identity": (_entry("identity", _hex), "audio"),
    "identities of two": (_two_entries("identity"), "audio"),
    "samples": (_entry("samples", lambda rng, samples: samples + rng.choice((-640, -1, 1, 640))), "audio sidecar"),
    "acoustic": (_entry("acoustic", _acoustic), "acoustic"),
    "acoustics of two": (_two_entries("acoustic"), "acoustic"),
    "all of two": (_two_entries("key", "identity", "samples", "acoustic", "crc32c"), "member sidecar"),
    "spec": (_spec, "sidecar"),
    "rejected": (
        lambda rng, value: _set(value, "rejected", to={"key": ["x_0"], "reason": ["damaged"], "detail": [""]}),
        "manifest",
    ),
}
_LABEL_EDITS: dict[str, tuple[_Edit, str]] = {
    "identity": (_entry("identity", _hex), "stale"),
    "identities of two": (_two_entries("identity"), "stale"),
    "samples": (_entry("samples", lambda rng, samples: samples + rng.choice((-640, -1, 1, 640))), "stale sidecar"),
    "acoustic": (_entry("acoustic", _acoustic), "stale"),
    "acoustics of two": (_two_entries("acoustic"), "stale"),
    "spec": (_spec, "mixed orphan stale sidecar"),
    "vocabulary": (_vocabulary, "mixed sidecar"),
    **{
        f"target.{name}": (_target(name), "mixed sidecar label")
        for name in ("axes", "kind", "context_ms", "hop_ms", "frames", "tracks")
    },
    "failed": (
        lambda rng, value: _set(value, "failed", to={"key": ["aa_0"], "reason": ["absent"], "detail": [""]}),
        "sidecar",
    ),
}
