"""What labels a run, as a user chooses it: one teacher or an ensemble, what it hears at once, what it is asked for."""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import AudioSpec, UsageError
from teachers._choice import TeacherChoice
from teachers._context import Chunked, Windows
from teachers._ensemble import Average, Ensemble, check_average
from teachers._teacher import TARGETS, Target, Teacher
from teachers.families._parts import PRECISIONS


@dataclass(frozen=True, kw_only=True)
class LabellerChoice:
    """Small and picklable: workers open it themselves.

    teachers: one, or the members of an ensemble, in order; average, weights, mixed_protocols: as `Ensemble` takes them.
    context_ms: cut clips into consecutive chunks (`Chunked`). Without it the teacher hears its own clips whole and
        those of another length in windows (`Windows`).
    target: logits of frames, or of clips.
    """

    teachers: tuple[TeacherChoice, ...]
    average: Average = "logit"
    weights: tuple[float, ...] | None = None
    mixed_protocols: bool = False
    precision: str = "float32"
    context_ms: int | None = None
    target: Target = "frame"

    def __post_init__(self) -> None:
        if not self.teachers:
            raise UsageError("no --teacher is given, needs one or more")
        text, times = Counter(teacher.text for teacher in self.teachers).most_common(1)[0]
        if times > 1:
            raise UsageError(f"--teacher {text} is given {times} times; give it once, with its share in --weights")
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision is {self.precision!r}, needs one of {', '.join(PRECISIONS)}")
        if self.target not in TARGETS:
            raise UsageError(f"--target is {self.target!r}, needs one of {', '.join(TARGETS)}")
        if len(self.teachers) == 1:
            for option, given in (
                ("weights", self.weights is not None), ("average", self.average != "logit"),
                ("mixed-protocols", self.mixed_protocols),
            ):  # fmt: skip
                if given:
                    raise UsageError(f"--{option} is for several teachers, one is given; leave it out")
        check_average(self.average, self.weights, len(self.teachers))

    @staticmethod
    def of(teachers: str | Sequence[str], **options: Any) -> "LabellerChoice":
        """Teachers as `--teacher` spells them. Raises UsageError."""
        texts = [teachers] if isinstance(teachers, str) else teachers
        return LabellerChoice(teachers=tuple(TeacherChoice.parse(text) for text in texts), **options)

    @staticmethod
    def parse(arguments: argparse.Namespace) -> "LabellerChoice":
        """From what `add_labeller_arguments` asks for. Raises UsageError."""
        return LabellerChoice.of(
            arguments.teacher,
            average=arguments.average,
            weights=None if arguments.weights is None else tuple(arguments.weights),
            mixed_protocols=arguments.mixed_protocols,
            precision=arguments.precision,
            context_ms=arguments.context_ms,
            target=arguments.target,
        )

    @property
    def arguments(self) -> tuple[str, ...]:
        """These choices as arguments of `sed-distill label`; what is left as it is by default is left out."""
        spelled = [part for teacher in self.teachers for part in ("--teacher", teacher.text)]
        if self.average != "logit":
            spelled += ["--average", self.average]
        if self.weights is not None:
            spelled += ["--weights", *map(repr, self.weights)]
        if self.mixed_protocols:
            spelled += ["--mixed-protocols"]
        if self.precision != "float32":
            spelled += ["--precision", self.precision]
        if self.context_ms is not None:
            spelled += ["--context-ms", str(self.context_ms)]
        if self.target != "frame":
            spelled += ["--target", self.target]
        return tuple(spelled)

    @property
    def text(self) -> str:
        return " + ".join(teacher.text for teacher in self.teachers)

    def open(
        self, device: str, audio_spec: AudioSpec | None = None, *, say: Callable[[str], None] | None = None
    ) -> Teacher:
        """Load all of it onto `device`, for clips of `audio_spec` (without: of the teacher's own).

        say: told of classes that an ensemble leaves out, because its first teacher does not have them.
        Raises TeacherError (checkpoints, teachers that do not go together, contexts, audio of another rate or layout)
        and UsageError (clips too long for one label, clip logits where there are none).
        """
        members = []
        for choice in self.teachers:
            members.append(choice.open(device))
            members[-1].use_precision(self.precision)  # before the next is loaded: halves what waits in memory
            _check_new(self.teachers, members)
        teacher = members[0]
        if len(members) > 1:
            teacher = Ensemble(
                members, average=self.average, weights=self.weights, mixed_protocols=self.mixed_protocols
            )
            if say is not None:
                _say_left_out(self.teachers, members, say)
        spec = audio_spec or teacher.audio_spec
        if self.target == "clip":
            _check_clips(teacher, spec, self.context_ms)
        if spec != teacher.audio_spec or self.context_ms not in (None, spec.clip_ms):
            teacher = Windows(teacher, spec) if self.context_ms is None else Chunked(teacher, self.context_ms, spec)
            _check_size(teacher)
        return teacher


def _check_new(choices: Sequence[TeacherChoice], members: Sequence[Teacher]) -> None:
    """Raises UsageError where the last of `members` is, under another name, one that is there already."""
    *others, last = (member.provenance for member in members)
    if "checkpoint_sha256" in last and last in others:
        raise UsageError(
            f"--teacher {choices[len(others)].text} is the same checkpoint as {choices[others.index(last)].text}; give "
            "it once, with its share in --weights"
        )


def _say_left_out(choices: Sequence[TeacherChoice], members: Sequence[Teacher], say: Callable[[str], None]) -> None:
    kept = set(members[0].vocabulary.mids)
    extra = [len(set(member.vocabulary.mids) - kept) for member in members]
    if any(extra):
        of = ", ".join(f"{count} of {choice.text}" for count, choice in zip(extra, choices, strict=True) if count)
        say(f"classes that are left out: {of}; the first teacher, {choices[0].text}, has {len(kept)}")


def _check_clips(teacher: Teacher, spec: AudioSpec, context_ms: int | None) -> None:
    """Raises UsageError unless `teacher` has logits for clips of `spec` as a whole."""
    headless = [leaf._name for leaf in teacher.leaves if not leaf.has_clip_logits]
    own_ms = teacher.audio_spec.clip_ms
    trouble = None
    if headless:
        trouble = f"{', '.join(headless)} has no clip-level head; leave out --target, or that teacher"
    elif spec.clip_ms != own_ms:
        trouble = f"needs clips of {own_ms / 1000:g} s, these are {spec.clip_ms / 1000:g} s; pack them with --clip-ms"
        trouble += f" {own_ms}, or leave out --target"
    elif context_ms not in (None, own_ms):
        trouble = "leave out --context-ms: a chunk is not the clip"
    if trouble is not None:
        raise UsageError(f"--target clip: {trouble}")


def _check_size(teacher: Teacher) -> None:
    try:
        teacher.target  # noqa: B018  # states itself, if it can
    except UsageError as error:
        raise UsageError(
            f"{error}; pack shorter clips, with --clip-ms and --long split, or use label_recording"
        ) from error
