"""Which teacher, as a user writes it: `beats=/path/to/checkpoint.pt`, `beats=https://...`, `beats=strong_1`,
`module:factory`, or `demo`, the small one of this project."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pipeline import UsageError
from teachers._catalogue import DEMO_CHECKPOINT
from teachers._registry import FAMILIES, load_teacher
from teachers._sources import parse_source, without_login
from teachers._teacher import Teacher

DEMO = "demo"
_FACTORY = re.compile(r"[\w.]+:[\w.]+")


@dataclass(frozen=True)
class TeacherChoice:
    """A family, or module:factory, and its checkpoint. Small and picklable: workers open it themselves.

    checkpoint: a path; or text, the address or the name of a released file, which each node fetches once. None for the
    demo teacher, which is named, not located, because every node has its own copy of the project, and for teachers of
    the user's own that need no file.
    """

    family: str
    checkpoint: Path | str | None = None

    @staticmethod
    def parse(text: str, option: str = "--teacher") -> "TeacherChoice":
        """Raises UsageError unless `text` is `demo`, `FAMILY=CHECKPOINT`, `module:factory` or both of the last two.

        option: what it was given as, for messages.
        """
        family, separator, checkpoint = text.partition("=")
        if text == DEMO or (not separator and _FACTORY.fullmatch(text)):
            return TeacherChoice(text)
        if family in ("", DEMO) or not checkpoint or "://" in family:
            raise UsageError(
                f"{option} is {without_login(text)!r}, needs FAMILY=CHECKPOINT such as beats=/models/beats.pt or "
                f"beats=strong_1, module:factory for your own, or {DEMO}"
            )
        if family not in FAMILIES and ":" not in family:
            near = get_close_matches(family.lower(), FAMILIES, n=1)
            meant = f"did you mean {near[0]}? known" if near else "known"
            raise UsageError(
                f"{option}: no teacher family {family!r}; {meant}: {', '.join(FAMILIES)}; or give module:factory"
            )
        return TeacherChoice(family, parse_source(family, checkpoint))

    @property
    def text(self) -> str:
        return self.family if self.checkpoint is None else f"{self.family}={self.checkpoint}"

    def open(self, device: str) -> Teacher:
        """Load the teacher onto `device`. Raises TeacherError (checkpoint, family) and OSError (network)."""
        if self.family == DEMO:
            return load_teacher("beats", checkpoint=DEMO_CHECKPOINT, device=device)
        return load_teacher(self.family, checkpoint=self.checkpoint, device=device)
