"""What can go wrong, by who has to act. Every message says which file, what it has, what it needs, what to do."""

from typing import Literal, get_args


class SedDistillError(Exception):
    """Base of every error a user can meet. The command line prints its message in one line."""


class UsageError(SedDistillError):
    """The command or call asks for something that cannot be done as asked (exit code 2)."""


class MetadataError(SedDistillError):
    """A segment list, event list, vocabulary or key does not hold together; names the file and the row."""


class FormatError(SedDistillError):
    """A committed file (sidecar, shard, dataset.json) is not what this version reads; names the file."""


class IntegrityError(SedDistillError):
    """Bytes on disk differ from what their sidecar promises; names the shard and, where known, the clip key."""


class TeacherError(SedDistillError):
    """A checkpoint or a teacher's output is not what its family needs."""


RejectionReason = Literal[
    "missing",  # in the manifest, but no source has it
    "unreadable",  # no decoder opens it: empty, cut off in its header, not audio
    "damaged",  # a decoder opened it and failed on the way
    "truncated",  # decodes without an error to clearly less than its header or its segment states
    "no_audio",  # a container without an audio stream
    "too_short",  # shorter than one 40 ms frame
    "not_finite",  # NaN or infinity among its samples
    "unsupported",  # decodes, but to something the AudioSpec cannot take (channel count, rate out of range)
]
REJECTION_REASONS: tuple[str, ...] = get_args(RejectionReason)


class ClipRejected(SedDistillError):
    """One clip cannot be stored, for a reason out of `REJECTION_REASONS`. Costs that clip, never the run."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        if reason not in REJECTION_REASONS:
            raise ValueError(f"{reason!r} is not one of {REJECTION_REASONS}")
        super().__init__(f"{reason}: {detail}")
        self.reason: RejectionReason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ClipRejected"], tuple[str, str]]:
        return ClipRejected, (self.reason, self.detail)
