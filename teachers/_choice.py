"""Which teacher, as a user writes it: `beats=/path/to/checkpoint.pt`, or `demo`, the small one of this project."""

from dataclasses import dataclass
from pathlib import Path

from pipeline import UsageError
from teachers._registry import load_teacher
from teachers._teacher import Teacher

DEMO = "demo"
DEMO_CHECKPOINT = Path(__file__).resolve().parent / "demo" / "demo_beats.pt"


@dataclass(frozen=True)
class TeacherChoice:
    """A family and its checkpoint. Small and picklable: workers open it themselves.

    The demo teacher is named, not located, because every node has its own copy of the project.
    """

    family: str
    checkpoint: Path | None

    @staticmethod
    def parse(text: str) -> "TeacherChoice":
        """Raises UsageError unless `text` is `demo` or `FAMILY=CHECKPOINT`."""
        if text == DEMO:
            return TeacherChoice(DEMO, None)
        family, separator, checkpoint = text.partition("=")
        if not separator or not family or not checkpoint:
            raise UsageError(
                f"--teacher is {text!r}, needs FAMILY=CHECKPOINT such as beats=/models/BEATs_strong_1.pt, or {DEMO}"
            )
        return TeacherChoice(family, Path(checkpoint).absolute())

    @property
    def text(self) -> str:
        return self.family if self.checkpoint is None else f"{self.family}={self.checkpoint}"

    def open(self, device: str) -> Teacher:
        """Load the teacher onto `device`. Raises TeacherError (checkpoint) and UsageError (family)."""
        if self.checkpoint is None:
            return load_teacher("beats", checkpoint=DEMO_CHECKPOINT, device=device)
        return load_teacher(self.family, checkpoint=self.checkpoint, device=device)
