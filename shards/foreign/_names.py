"""Which clip of a dataset a name in a foreign file means, and how far the two cover each other."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline import AudioSetKeys, MetadataError, path_key, split_key
from shards._dataset import KeyMode

_EXAMPLES = 5
_SPELLED = re.compile(r"[A-Za-z0-9_-]{11}_(?:0|[1-9][0-9]{0,11})")


@dataclass(frozen=True, kw_only=True)
class NameCoverage:
    """clips = matched + missing; names = matched + extra + ambiguous. Examples: the first five of each.

    missing: clips the file has no name for. extra: names that are none of the clips, as is usual where a split is part
    of what was labelled. ambiguous: names that can mean several of the clips.
    """

    clips: int
    names: int
    matched: int
    extra: int
    ambiguous: int
    examples: Mapping[str, tuple[str, ...]]

    @property
    def missing(self) -> int:
        return self.clips - self.matched


@dataclass
class NameMatcher:
    """Finds the clip of each name and keeps count. `keys`: the clips stored; `mode`: how their keys were made."""

    keys: frozenset[str]
    mode: KeyMode
    _name_of: dict[str, str] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=lambda: {"extra": 0, "ambiguous": 0})
    _examples: dict[str, list[str]] = field(default_factory=lambda: {"extra": [], "ambiguous": []})

    def __post_init__(self) -> None:
        if self.mode == "audioset":
            # Keys of other ids and starts no name can spell.
            parts = [split_key(key) for key in sorted(self.keys) if _SPELLED.fullmatch(key)]
            columns = {"ytid": [stem for stem, _ in parts], "start_ms": [start_ms for _, start_ms in parts]}
            self._clips = AudioSetKeys(pa.table(columns, pa.schema([("ytid", pa.string()), ("start_ms", pa.int64())])))

    def match(self, name: str, where: str) -> str | None:
        """The clip key `name` means, None for a name that means none or several. To be called once for every name.

        Raises MetadataError, naming both, if an earlier name was the same clip.
        """
        try:
            key = self._clips.key(name) if self.mode == "audioset" else self._path_key(name)
        except MetadataError as error:
            self._count("ambiguous", str(error))
            return None
        if key is None:
            self._count("extra", name)
            return None
        if key in self._name_of:
            raise MetadataError(
                f"{where}: has {self._name_of[key]!r} and {name!r}, which both are clip {key}; "
                "needs one row for a clip: remove the wrong one"
            )
        self._name_of[key] = name
        return key

    def coverage(self) -> NameCoverage:
        missing = (key for key in sorted(self.keys) if key not in self._name_of)
        examples = {"missing": tuple(key for _, key in zip(range(_EXAMPLES), missing, strict=False))}
        return NameCoverage(
            clips=len(self.keys),
            names=len(self._name_of) + sum(self._counts.values()),
            matched=len(self._name_of),
            **self._counts,
            examples=examples | {kind: tuple(names) for kind, names in self._examples.items()},
        )

    def _path_key(self, name: str) -> str | None:
        """A key as it is, or the relative path that it is made of."""
        if name in self.keys:
            return name
        key = path_key(name) if name else ""
        return key if key in self.keys else None

    def _count(self, kind: str, example: str) -> None:
        self._counts[kind] += 1
        if len(self._examples[kind]) < _EXAMPLES:
            self._examples[kind].append(printable(example))


def printable(text: str) -> str:
    """What a foreign file says, for a terminal: characters that would command it are escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def decoded(names: Iterable[bytes]) -> list[str]:
    """Names as text. Padding at the end is dropped, and what is not UTF-8 is kept as escapes: it matches no clip."""
    return [bytes(name).rstrip(b"\0").decode("utf-8", "backslashreplace") for name in names]
