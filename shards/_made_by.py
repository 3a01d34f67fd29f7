"""Who made a label set, in a few words, from its provenance: free JSON, in which our own stages say more."""

from collections.abc import Mapping
from typing import Any

from pipeline import canonical_json

_HASH_DIGITS = 8
_MEANS = {"logit": "logits", "probability": "probabilities"}


def made_by(provenance: Mapping[str, Any]) -> str:
    """One printable line that tells label sets apart: `beats 5d81f07c bfloat16, windows of 10 s`.

    Family and checkpoint of the teacher, or of each of several with what their average is of; the precision unless it
    is float32; whether clips were heard in pieces, and whether the labels are of whole clips.
    """
    told = [_maker(provenance), *_pieces(heard_in(provenance))]
    if _is_of_clips(provenance):
        told.append("clip labels")
    return ", ".join(told)


def heard_in(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """How clips were cut into the pieces that the teacher heard: `chunk_ms`, or `window_ms` and what belongs to it.

    Of several teachers what they have in common. Empty where they heard clips whole, or nobody said.
    """
    rule = {name: value for name, value in provenance.items() if name == "chunk_ms" or name.startswith("window_")}
    if rule:
        return rule
    teacher, members = provenance.get("teacher"), provenance.get("members")
    if isinstance(teacher, dict):
        return heard_in(teacher)
    if isinstance(members, list) and members:
        rules = [heard_in(member) if isinstance(member, dict) else {} for member in members]
        return rules[0] if all(rule == rules[0] for rule in rules) else {}
    return {}


def printable(value: object) -> str:
    """Any JSON as one line that a terminal only shows: no control characters, nothing that is not UTF-8."""
    told = value if isinstance(value, str) else canonical_json(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in told)


def _maker(provenance: Mapping[str, Any]) -> str:
    teacher = provenance.get("teacher")
    if isinstance(teacher, dict):
        return _teacher(teacher)
    if teacher is not None:
        return printable(teacher)
    if "stage" not in provenance:
        return "unknown"
    source = f" of {printable(provenance['format'])}" if "format" in provenance else ""
    return f"{printable(provenance['stage'])}{source}"


def _teacher(teacher: Mapping[str, Any]) -> str:
    if "family" not in teacher and "stage" in teacher:  # merged from labels of others, which say it in their own way
        return _maker(teacher)
    members = teacher.get("members")
    if isinstance(members, list):
        return _ensemble(teacher, members)
    told = [printable(teacher.get("family", "unknown"))]
    if checkpoint := teacher.get("checkpoint_sha256"):
        told.append(printable(checkpoint)[:_HASH_DIGITS])
    if (precision := teacher.get("precision", "float32")) != "float32":
        told.append(printable(precision))
    return " ".join(told)


def _ensemble(teacher: Mapping[str, Any], members: list[Any]) -> str:
    average, weights = printable(teacher.get("average", "logit")), teacher.get("weights")
    told = f"ensemble of {len(members)}, mean of {_MEANS.get(average, average)}"
    if isinstance(weights, list):
        told += ", weights " + " ".join(f"{w:g}" if isinstance(w, int | float) else printable(w) for w in weights)
    each = [_teacher(member) if isinstance(member, dict) else printable(member) for member in members]
    return f"{told}: " + ", ".join(f"({member})" if ", " in member else member for member in each)


def _pieces(rule: Mapping[str, Any]) -> list[str]:
    return [
        f"{what} of " + (f"{ms / 1000:g} s" if isinstance(ms := rule[name], int | float) else printable(ms))
        for name, what in (("chunk_ms", "chunks"), ("window_ms", "windows"))
        if name in rule
    ]


def _is_of_clips(provenance: Mapping[str, Any]) -> bool:
    merged = provenance.get("merged")
    if isinstance(merged, list) and merged:
        return all(isinstance(member, dict) and _is_of_clips(member) for member in merged)
    return provenance.get("target") == "clip"
