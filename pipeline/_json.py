"""Parse, don't validate: turn an `object` out of `json.loads` into typed values, with errors that name the place."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline._errors import FormatError


def canonical_json(value: object) -> str:
    """The one spelling that is hashed: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fields(value: object, where: str, names: Sequence[str]) -> Mapping[str, Any]:
    """`value` as a mapping with exactly the fields `names`; unknown or missing ones raise FormatError."""
    if not isinstance(value, dict):
        raise FormatError(f"{where}: is {type(value).__name__}, needs an object with {', '.join(names)}")
    missing = [name for name in names if name not in value]
    unknown = [name for name in value if name not in names]
    if missing or unknown:
        raise FormatError(
            f"{where}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}; "
            "written by another version or edited: use the version that wrote it, or write it again"
        )
    return value


def integer(value: object, where: str, *, low: int = 0, high: int = 2**53) -> int:
    """`value` as an int within [low, high]; bool is not an int here."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise FormatError(f"{where}: is {value!r}, needs an integer from {low} to {high}")
    return value


def text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where}: is {value!r}, needs text")
    return value


def one_of(value: object, where: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise FormatError(f"{where}: is {value!r}, needs one of {', '.join(allowed)}")
    return str(value)


def texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not set(map(type, value)) <= {str}:
        raise FormatError(f"{where}: needs a list of texts")
    return tuple(value)


def integers(value: object, where: str, *, low: int = 0, high: int = 2**53) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise FormatError(f"{where}: needs a list of integers")
    # All at once: bool is a type of its own here, and long columns are checked by the million.
    if value and set(map(type, value)) == {int} and low <= min(value) and max(value) <= high:
        return tuple(value)
    return tuple(integer(entry, f"{where}[{i}]", low=low, high=high) for i, entry in enumerate(value))
