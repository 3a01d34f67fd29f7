"""Which clips of a split a source takes."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import UsageError, audioset_mids
from pipeline._keys import KEY_PATTERNS
from shards._hard import keys_with_classes, occurring
from shards.loader.join._source import Confidence, Source

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_KEY = pa.large_string()
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Subset:
    """The conditions of a Source, lists of keys read; all of them by default."""

    exclude: pa.LargeStringArray | None = None
    only: pa.LargeStringArray | None = None
    classes: frozenset[str] | None = None
    confidence: Confidence | None = None
    first: int | None = None

    @staticmethod
    def of(source: Source) -> "Subset":
        """Raises UsageError for a list of keys that cannot be read."""
        return Subset(
            exclude=None if source.exclude == frozenset() else key_list(source.exclude, "exclude"),
            only=None if source.only is None else key_list(source.only, "only"),
            classes=None if source.classes is None else frozenset(source.classes),
            confidence=source.confidence,
            first=source.first,
        )

    def by_key(self, keys: pa.LargeStringArray, hard: pa.Table) -> npt.NDArray[np.bool_]:
        """Which of `keys` it holds, but for confidence and number; `hard` is the split's table of HARD_SCHEMA."""
        wanted = np.ones(len(keys), np.bool_)
        if self.exclude is not None:
            wanted &= ~_among(keys, self.exclude)
        if self.only is not None:
            wanted &= _among(keys, self.only)
        if self.classes is not None:
            wanted &= _among(keys, keys_with_classes(hard, self.classes).cast(_KEY))
        return wanted

    def warn_of_strangers(self, keys: Sequence[pa.LargeStringArray], where: str) -> None:
        """Say so if no key to leave out is among `keys`: perhaps it spells them in another way, or is another list."""
        if self.exclude is None or not len(self.exclude):
            return
        if any(pc.any(pc.is_in(part, value_set=self.exclude)).as_py() for part in keys):
            return
        first = self.exclude[0].as_py()
        _log.warning("%s: none of the %d keys of exclude= is stored, the first is %r", where, len(self.exclude), first)

    def check_classes(self, tables: list[pa.Table], where: str) -> None:
        """Raises UsageError for a class that neither AudioSet nor one of the splits' tables knows."""
        if self.classes is None:
            return
        unknown = self.classes - audioset_mids() - occurring(tables, "weak_mids") - occurring(tables, "events")
        if unknown:
            raise UsageError(
                f"{where}: classes has {', '.join(map(repr, sorted(unknown)[:5]))}, no MID of AudioSet nor of the "
                "split's hard labels; give MIDs such as '/m/09x0r', not names"
            )

    def __str__(self) -> str:
        """The conditions that are given, for whoever has no clip left."""
        given = {
            "exclude": None if self.exclude is None else f"{len(self.exclude)} keys",
            "only": None if self.only is None else f"{len(self.only)} keys",
            "classes": None if self.classes is None else f"{len(self.classes)} classes",
            "confidence": self.confidence and f"{self.confidence.label_set} at least {self.confidence.at_least}",
        }
        return ", ".join(f"{name} ({text})" for name, text in given.items() if text)


def key_list(given: Collection[str] | Path, name: str) -> pa.LargeStringArray:
    """Clip keys as one column, those of a file or the given ones. Raises UsageError for what is no list of keys.

    Names that no key can have are refused: to leave out a clip by another of its names leaves it in, unseen.
    """
    where = str(given) if isinstance(given, Path) else f"{name}="
    try:
        keys = _read_keys(given, name) if isinstance(given, Path) else pa.array(sorted(given), _KEY)
    except (OSError, pa.ArrowException, UnicodeDecodeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"{where}: cannot be read as the list of keys of {name}= ({reason}); it needs text with a key a line, "
            ".csv, .tsv or .parquet with a column key, or a collection of keys"
        ) from error
    strange = keys.filter(pc.invert(pc.match_substring_regex(keys, KEY_PATTERNS["path"])))
    if len(strange):
        more = f" and {len(strange) - 1} more like it" if len(strange) > 1 else ""
        raise UsageError(
            f"{where}: has {strange[0].as_py()!r}{more}, no clip key; {name}= needs keys as they are stored, an id or "
            "path and the start in ms, as '--PJHxphWEs_30000'"
        )
    return keys


def _read_keys(path: Path, name: str) -> pa.LargeStringArray:
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, ".parquet"):
        lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
        return pa.array([line for line in lines if line], _KEY)
    if suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            column = file.read(["key"]).column("key") if "key" in names else None
    else:
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(delimiter=_DELIMITERS[suffix]),
            convert_options=pyarrow.csv.ConvertOptions(column_types={"key": _KEY}),
        )
        names = table.column_names
        column = table.column("key") if "key" in names else None
    if column is None:
        raise UsageError(
            f"{path}: has columns {', '.join(names)}, the list of keys of {name}= needs a column key; name it so"
        )
    return pc.drop_null(pa.chunked_array([chunk.cast(_KEY) for chunk in column.chunks], _KEY)).combine_chunks()


def _among(keys: pa.LargeStringArray, values: pa.LargeStringArray) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.is_in(keys, value_set=values).to_numpy(zero_copy_only=False)
    return found
