"""The words for a label set, from every kind of provenance that stages write, and from what others may."""

from typing import Any

import pytest

from shards import heard_in, made_by

BEATS = {"family": "beats", "checkpoint_sha256": "5d81f07c" + "0" * 56, "precision": "float32", "protocol": "frame"}
ATST = {"family": "atst", "checkpoint_sha256": "a0" * 32, "precision": "float16", "protocol": "frame"}
BOTH = {"family": "ensemble", "average": "logit", "weights": None, "members": [BEATS, ATST]}
WINDOWS = {"window_ms": 10_000, "window_hop_ms": 5_000, "window_fade": "raised_cosine"}
TWO = "beats 5d81f07c, atst a0a0a0a0 float16"


def merged(*members: dict[str, Any], average: str = "logit", weights: object = None) -> dict[str, Any]:
    """As `merge` writes it."""
    teachers = [member["teacher"] for member in members]
    whole = {"family": "ensemble", "average": average, "weights": weights, "members": teachers}
    rest = [{name: value for name, value in member.items() if name != "teacher"} for member in members]
    return {"stage": "merge", "teacher": teachers[0] if len(teachers) == 1 else whole, "merged": rest}


@pytest.mark.parametrize(
    ("provenance", "words"),
    [
        ({"stage": "label", "teacher": BEATS}, "beats 5d81f07c"),
        ({"stage": "label", "teacher": ATST | {"chunk_ms": 4_000}}, "atst a0a0a0a0 float16, chunks of 4 s"),
        ({"stage": "label", "teacher": BEATS | WINDOWS}, "beats 5d81f07c, windows of 10 s"),
        ({"stage": "label", "teacher": BEATS, "target": "clip"}, "beats 5d81f07c, clip labels"),
        ({"stage": "label", "teacher": BOTH}, f"ensemble of 2, mean of logits: {TWO}"),
        (
            {"stage": "label", "teacher": BOTH | {"average": "probability", "weights": [1.0, 0.5], "chunk_ms": 2_500}},
            f"ensemble of 2, mean of probabilities, weights 1 0.5: {TWO}, chunks of 2.5 s",
        ),
        (
            merged({"teacher": BEATS | WINDOWS, "target": "clip"}, {"teacher": ATST | WINDOWS, "target": "clip"}),
            f"ensemble of 2, mean of logits: {TWO}, windows of 10 s, clip labels",
        ),
        (
            merged({"teacher": BEATS, "target": "clip"}, {"teacher": BOTH}),
            f"ensemble of 2, mean of logits: beats 5d81f07c, (ensemble of 2, mean of logits: {TWO})",
        ),
        (merged(merged({"teacher": BEATS, "target": "clip"})), "beats 5d81f07c, clip labels"),
        ({"stage": "import", "format": "ced"}, "import of ced"),
        ({"stage": "merge", "teacher": {"stage": "import", "format": "ced"}}, "import of ced"),
        ({"teacher": {"members": 3, "family": ["x"], "chunk_ms": "\x1b"}}, '["x"], chunks of \\x1b'),
        ({"teacher": {"members": [{}], "weights": ["\x1b"]}}, r"ensemble of 1, mean of logits, weights \x1b: unknown"),
        ({"teacher": {"members": []}, "merged": [7]}, "ensemble of 0, mean of logits: "),
        ({}, "unknown"),
    ],
)  # fmt: skip
def test_who_made_them_in_a_few_words(provenance: dict[str, Any], words: str) -> None:
    assert made_by(provenance) == words


def test_members_that_heard_otherwise_have_no_pieces_in_common() -> None:
    assert heard_in(merged({"teacher": BEATS | WINDOWS}, {"teacher": ATST | WINDOWS})) == WINDOWS
    assert heard_in(merged({"teacher": BEATS | WINDOWS}, {"teacher": ATST})) == {}
