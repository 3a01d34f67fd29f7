"""Whether arguments are of the kind they have to be: said where they are given, not where they are first used."""

from collections.abc import Iterable
from math import isfinite
from numbers import Integral, Real
from reprlib import repr as shortened

from pipeline import UsageError

Kinds = type | tuple[type, ...]


def check_kind(what: str, value: object, kinds: Kinds, needs: str) -> None:
    """Raise UsageError unless `value` is of one of `kinds`. True and False are no numbers."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds in (Integral, Real)):
        raise UsageError(f"{what} is {shortened(value)} of type {type(value).__name__}; needs {needs}")


def check_whole(**numbers: object) -> None:
    for name, value in numbers.items():
        check_kind(name, value, Integral, "a whole number")


def check_real(**numbers: object) -> None:
    for name, value in numbers.items():
        check_kind(name, value, Real, "a number")
        if isinstance(value, float) and not isfinite(value):
            raise UsageError(f"{name} is {value}; needs a finite number")


def check_each(what: str, values: object, kinds: Kinds, needs: str) -> None:
    """Raise UsageError unless `values` is a collection of nothing else, and no text."""
    check_kind(what, values, Iterable, f"a tuple, of {needs}")
    if isinstance(values, str):
        raise UsageError(f"{what} is {values!r}; needs a tuple, of {needs}")
    for value in values:  # type: ignore[attr-defined]
        check_kind(f"one of {what}", value, kinds, needs)
