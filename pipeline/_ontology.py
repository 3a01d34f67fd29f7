"""AudioSet's ontology as one table of child and parent: which classes are kinds of which.

It is no tree: 38 classes have two parents or more, as Growling, which is of dogs and of cats. It is of 2017, so the 32
classes that only the strong list has stand alone in it. Every function takes them, and ids of other corpora, too.

Attribution: `tables/audioset_ontology.csv` is made from Google's ontology.json; like that it is under CC BY-SA 4.0.
"""

import csv
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.resources import files


def descendants(mid: str) -> frozenset[str]:
    """All kinds of a class, itself among them."""
    return _reached(mid, _children())


def ancestors(mid: str) -> frozenset[str]:
    """All that a class is a kind of, itself among them."""
    return _reached(mid, _parents())


@lru_cache(maxsize=1)
def ontology_mids() -> frozenset[str]:
    """Every class of the ontology: 632."""
    return frozenset(mid for edge in _edges() for mid in edge)


def _reached(mid: str, step: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    reached, left = {mid}, [mid]
    while left:
        new = set(step.get(left.pop(), ())) - reached
        reached |= new
        left += new
    return frozenset(reached)


@lru_cache(maxsize=1)
def _edges() -> tuple[tuple[str, str], ...]:
    text = files("pipeline").joinpath("tables/audioset_ontology.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple((row["child"], row["parent"]) for row in rows)


@lru_cache(maxsize=1)
def _children() -> dict[str, tuple[str, ...]]:
    return _grouped((parent, child) for child, parent in _edges())


@lru_cache(maxsize=1)
def _parents() -> dict[str, tuple[str, ...]]:
    return _grouped(_edges())


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    grouped: dict[str, list[str]] = {}
    for key, value in pairs:
        grouped.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in grouped.items()}
