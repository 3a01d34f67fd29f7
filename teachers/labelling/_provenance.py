"""What decides the content of every label of a set, and is compared between runs."""

import json
from typing import Any

from pipeline import UsageError, canonical_json
from teachers._teacher import Teacher

STAGE_VERSION = 1  # raised when the same audio and teacher would give other labels


def provenance_of(teacher: Teacher, split: str, audio: str, codec: str, target: str) -> str:
    """Canonical JSON. Raises UsageError where the teacher does not hear audio set `audio`."""
    spec = teacher.audio_spec
    if audio != spec.name:
        raise UsageError(
            f"audio set {audio} of split {split} is not what the teacher hears: it needs {spec.name}; pack that"
        )
    stated: dict[str, Any] = {
        "stage": "label",
        "stage_version": STAGE_VERSION,
        "audio": audio,
        "codec": codec,
        "teacher": dict(teacher.provenance),
    }
    if target != "frame":
        stated["target"] = target
    return canonical_json(stated)


def parsed_provenance(provenance: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(provenance)
    return parsed
