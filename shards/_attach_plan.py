"""What becomes of every clip when a published label set is attached: decided from sidecars alone, before any write."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline import HOP_MS, FormatError, UsageError, compare_acoustic
from shards._attach_source import Member, PublishedLabels
from shards._index import ShardIndex
from shards._sidecar import LabelSidecar

Progress = Callable[[str, int, int], None]
_Numbers = npt.NDArray[np.int64]

ATTACH_OUTCOMES = (
    "absent",  # the set does not have this clip
    "same_decode",  # made from exactly the audio stored here
    "confirmed",  # another decode; the acoustic fingerprints agree
    "unconfirmed",  # another decode, of which the fingerprints cannot say: too short, silent, steady
    "no_label",  # the set has the clip, but its labeller failed on it
    "shifted",  # the same recording, cut at another time
    "different",  # another recording, or one that goes on after the labels end
)
_ABSENT, _SAME_DECODE, _CONFIRMED, _UNCONFIRMED, _NO_LABEL, _SHIFTED, _DIFFERENT = range(len(ATTACH_OUTCOMES))
_ACCEPTED = (_SAME_DECODE, _CONFIRMED, _UNCONFIRMED)
_OF_VERDICT = {"same": _CONFIRMED, "shifted": _SHIFTED, "different": _DIFFERENT, "unknown": _UNCONFIRMED}
_EXAMPLES = 10


@dataclass(kw_only=True, eq=False)
class AttachPlan:
    """Columns have one entry a stored clip, in the order of the index of the audio.

    outcome: place in ATTACH_OUTCOMES. lag_ms: how much later its sound is than that of the audio that was labelled.
    longer_ms: than the audio that was labelled; negative: shorter. tar, offset, length, crc32c: see Member.
    failures: reason and detail of "no_label", by place. extra: clips of the set that are not stored here.
    """

    outcome: npt.NDArray[np.uint8]
    lag_ms: npt.NDArray[np.int16]
    longer_ms: npt.NDArray[np.int32]
    tar: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    crc32c: npt.NDArray[np.int64]
    failures: dict[int, tuple[str, str]] = field(default_factory=dict)
    extra: int = 0
    extra_examples: list[str] = field(default_factory=list)

    def count(self, *outcomes: str) -> int:
        return int(np.isin(self.outcome, [ATTACH_OUTCOMES.index(outcome) for outcome in outcomes]).sum())

    def accepts(self, clip: int) -> bool:
        return int(self.outcome[clip]) in _ACCEPTED

    @property
    def accepted(self) -> npt.NDArray[np.bool_]:
        return np.isin(self.outcome, _ACCEPTED)

    @property
    def refused(self) -> npt.NDArray[np.bool_]:
        return np.isin(self.outcome, (_SHIFTED, _DIFFERENT))

    def member(self, clip: int, key: str) -> Member:
        """Of a clip that is accepted."""
        where = (int(column[clip]) for column in (self.tar, self.offset, self.length, self.crc32c))
        return Member(key=key, **dict(zip(("tar", "offset", "length", "crc32c"), where, strict=True)))

    def columns(self, clips: range) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """length and crc32c in a label shard of `clips`: 0 for those that get no label."""
        rows = slice(clips.start, clips.stop)
        accepted = np.isin(self.outcome[rows], _ACCEPTED)
        length, crc32c = (np.where(accepted, column[rows], 0).tolist() for column in (self.length, self.crc32c))
        return tuple(length), tuple(crc32c)

    def refusal(self, clip: int) -> tuple[str, str]:
        """Reason and detail of a clip that gets no label."""
        outcome = self.outcome[clip]
        if outcome == _ABSENT:
            return "absent", "the attached label set does not have this clip"
        if outcome == _NO_LABEL:
            return self.failures[clip]
        lag_ms, longer_ms = int(self.lag_ms[clip]), int(self.longer_ms[clip])
        if outcome == _SHIFTED:
            direction = "later" if lag_ms > 0 else "earlier"
            return "audio_shifted", f"has its sound {abs(lag_ms)} ms {direction} than the audio that was labelled"
        if longer_ms:
            direction = "longer" if longer_ms > 0 else "shorter"
            return "audio_differs", f"is {abs(longer_ms)} ms {direction} than the audio that was labelled"
        return "audio_differs", "sounds other than the audio that was labelled"


def plan_attachment(published: PublishedLabels, audio: ShardIndex, progress: Progress) -> AttachPlan:
    """Look up every clip of the set in the index of the audio. Raises FormatError for sidecars that cannot be right."""
    clips = len(audio)
    plan = AttachPlan(
        outcome=np.full(clips, _ABSENT, dtype=np.uint8),
        lag_ms=np.zeros(clips, dtype=np.int16),
        longer_ms=np.zeros(clips, dtype=np.int32),
        tar=np.full(clips, -1, dtype=np.int32),
        offset=np.zeros(clips, dtype=np.int64),
        length=np.zeros(clips, dtype=np.int64),
        crc32c=np.zeros(clips, dtype=np.int64),
    )
    stored = _Stored(audio)
    for tar, side in enumerate(published.sidecars()):
        places = audio.rows_of(side.clips.key)
        rows, extra = np.flatnonzero(places >= 0), np.flatnonzero(places < 0)
        plan.extra += len(extra)
        plan.extra_examples += [side.clips.key[row] for row in extra[: _EXAMPLES - len(plan.extra_examples)]]
        _place(plan, tar, side, rows, places[rows])
        _judge(plan, stored, side, rows, places[rows])
        progress("comparing label shards", tar + 1, len(published.paths))
    return plan


class _Stored:
    """Columns of the audio, looked up once."""

    def __init__(self, audio: ShardIndex) -> None:
        self.identity, self.acoustic = audio.identity, audio.acoustic
        self.milliseconds = audio.samples * (1000 / audio.shards[0].spec.sample_rate)


def _place(plan: AttachPlan, tar: int, side: LabelSidecar, rows: _Numbers, places: _Numbers) -> None:
    """Where the labels of `rows` of a sidecar lie."""
    again = np.flatnonzero(plan.tar[places] >= 0)
    if len(again):
        key = side.clips.key[rows[again[0]]]
        raise FormatError(f"{side.path}: holds clip {key}, which an earlier shard holds too; download the set again")
    plan.tar[places] = tar
    plan.offset[places] = np.array(side.clips.offset, dtype=np.int64)[rows]
    plan.length[places] = np.array(side.clips.length, dtype=np.int64)[rows]
    plan.crc32c[places] = np.array(side.clips.crc32c, dtype=np.int64)[rows]


def _judge(plan: AttachPlan, stored: _Stored, side: LabelSidecar, rows: _Numbers, places: _Numbers) -> None:
    """What becomes of the clips at `places`, which are those of `rows` of a sidecar."""
    identities = np.frombuffer(bytes.fromhex("".join(side.clips.identity)), np.uint8).reshape(-1, 16)
    same_decode = (stored.identity[places] == identities[rows]).all(axis=1)
    labelled = plan.length[places] > 0
    plan.outcome[places] = np.where(labelled, _SAME_DECODE, _NO_LABEL)
    longer = stored.milliseconds[places] - np.array(side.clips.samples)[rows] * (1000 / side.spec.sample_rate)
    for number in np.flatnonzero(labelled & ~same_decode).tolist():
        _judge_other_decode(plan, stored, side, int(rows[number]), int(places[number]), round(longer[number]))
    if not labelled.all():
        failed = dict(zip(side.failed.key, zip(side.failed.reason, side.failed.detail, strict=True), strict=True))
        for number in np.flatnonzero(~labelled).tolist():
            reason, detail = failed[side.clips.key[rows[number]]]
            printable = "".join(letter if letter.isprintable() else " " for letter in detail)
            plan.failures[int(places[number])] = reason, printable


def _judge_other_decode(
    plan: AttachPlan, stored: _Stored, side: LabelSidecar, row: int, place: int, longer_ms: int
) -> None:
    try:
        match = compare_acoustic(bytes.fromhex(side.clips.acoustic[row]), stored.acoustic[place].tobytes())
    except UsageError as error:
        raise FormatError(f"{side.path}: clip {side.clips.key[row]}: {error}; download the set again") from None
    plan.outcome[place] = _OF_VERDICT[match.verdict]
    plan.lag_ms[place] = match.lag_ms
    if match.verdict in ("same", "unknown") and abs(longer_ms) > HOP_MS:
        plan.longer_ms[place] = longer_ms
        # Labels stay right for what is left of a clip that was cut short; they say nothing of what was not heard. And
        # where the sound cannot tell, the length is all there is.
        if longer_ms > 0 or match.verdict == "unknown":
            plan.outcome[place] = _DIFFERENT
