"""Generated recordings with exact labels: synthesised sounds over a background, and folders of them as AudioSet comes.

They stand in for AudioSet where none is at hand (the demo, tests) and train the demo teacher. Everything follows from
seeds.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import soundfile

from pipeline._atomic import atomic_path, write_atomic
from pipeline._errors import UsageError
from pipeline._events import Event
from pipeline._grid import CLIP_MS
from pipeline._synthesis import SOUND_CLASSES, render_event
from pipeline._synthesis_parts import coloured_noise, wander

SOUNDSCAPE_SPLITS: Mapping[str, int] = MappingProxyType(
    {"strong": 1, "weak": 2, "dev": 3, "eval": 4, "teacher": 5, "teacher_dev": 6}
)
"""Split -> number of its seed stream. Clip i of a split is made from (seed, stream, i): no two splits share a clip."""

_EVENTS_AT_MOST = 5
_SHORT_SHARE = 0.05
_SHORTEST_MS = 4_000
_SNR_DB = (6.0, 26.0)
_BACKGROUND_DBFS = (-56.0, -32.0)
_PEAK = 0.98
# (container, PCM or codec, sample rate, channels, share of the clips). Ogg is not among them: its streams carry a
# random serial number, so equal seeds would not give equal bytes.
_FORMATS = (
    ("wav", "PCM_16", 16_000, 1, 0.40),
    ("flac", "PCM_16", 16_000, 1, 0.40),
    ("wav", "PCM_16", 44_100, 2, 0.10),
    ("mp3", "MPEG_LAYER_III", 44_100, 2, 0.10),
)


@dataclass(frozen=True, kw_only=True)
class Soundscape:
    """A generated clip: mono float32 within [-1, 1], and every event in it, sorted, no two of a class touching."""

    waveform: npt.NDArray[np.float32]
    sample_rate: int
    events: tuple[Event, ...]

    @property
    def weak_mids(self) -> tuple[str, ...]:
        """The classes present, each once, sorted by MID."""
        return tuple(sorted({event.mid for event in self.events}))


def soundscape_seed(seed: int, split: str, clip: int) -> tuple[int, int, int]:
    """The seed of clip number `clip` of a split; raises UsageError for an unknown split."""
    if split not in SOUNDSCAPE_SPLITS:
        raise UsageError(f"split is {split!r}, needs one of {', '.join(SOUNDSCAPE_SPLITS)}")
    return seed, SOUNDSCAPE_SPLITS[split], clip


def generate_soundscape(
    seed: Sequence[int], *, sample_rate: int = 16_000, duration_ms: int | None = None, background: bool = True
) -> Soundscape:
    """One to five events of random class, onset, length and level over coloured noise, determined by seed and rate.

    Lasts `duration_ms`; if None, 10 s, or for one clip in twenty 4 to 9.9 s. An event's label starts at its first
    sample and ends with the millisecond in which its last sample lies. Another sample rate gives the same events with
    other noise (where a dying tail ends may differ).
    """
    plan = np.random.default_rng([*seed, 0])
    drawn_ms = int(plan.integers(_SHORTEST_MS, CLIP_MS - 100)) if plan.random() < _SHORT_SHARE else CLIP_MS
    duration_ms = drawn_ms if duration_ms is None else duration_ms
    noise_level = 10 ** (plan.uniform(*_BACKGROUND_DBFS) / 20)
    mixed = np.zeros(duration_ms * sample_rate // 1000)
    events: list[Event] = []
    for number in range(1, 1 + int(plan.integers(1, _EVENTS_AT_MOST + 1))):
        sound = SOUND_CLASSES[plan.integers(len(SOUND_CLASSES))]
        longest_ms = min(sound.longest_ms, duration_ms)
        length_ms = int(plan.integers(min(sound.shortest_ms, longest_ms), longest_ms + 1))
        onset_ms = int(plan.integers(0, duration_ms - length_ms + 1))
        level = noise_level * 10 ** (plan.uniform(*_SNR_DB) / 20)
        if any(event.mid == sound.mid and _touch(event, onset_ms, onset_ms + length_ms) for event in events):
            continue
        first = -(-onset_ms * sample_rate // 1000)
        samples = min(length_ms * sample_rate // 1000, len(mixed) - first)
        rendered = render_event(sound, np.random.default_rng([*seed, number]), samples=samples, sample_rate=sample_rate)
        mixed[first : first + len(rendered)] += level * rendered
        events.append(Event(onset_ms, -(-(first + len(rendered)) * 1000 // sample_rate), sound.mid))
    if background:
        mixed += noise_level * _background(plan, len(mixed), sample_rate)
    peak = float(np.abs(mixed).max())
    waveform = (mixed * min(1.0, _PEAK / peak)).astype(np.float32)
    return Soundscape(waveform=waveform, sample_rate=sample_rate, events=tuple(sorted(events)))


def write_split(folder: Path, *, split: str, clips: int, seed: int, strong: bool) -> tuple[str, ...]:
    """Write a split as AudioSet comes and return its segment ids.

    In `folder`: `audio/Y<id>.<ext>`, `weak.csv` in the official format, and `strong.tsv` likewise if `strong`.
    Recordings come in several formats, a seeded choice. Every file appears complete or not at all and existing
    recordings are kept, so a call that was cut short is finished by the same call; equal arguments give equal bytes.
    """
    weak_rows: list[str] = []
    strong_rows = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"]
    segment_ids: list[str] = []
    positives = 0
    for number in range(clips):
        clip_seed = soundscape_seed(seed, split, number)
        draws = np.random.default_rng([*clip_seed, 1 << 20])
        start_ms = 1000 * int(draws.integers(0, 30))
        form = _FORMATS[draws.choice(len(_FORMATS), p=[share for *_, share in _FORMATS])]
        extension, subtype, sample_rate, channels, _ = form
        balance = draws.uniform(-0.3, 0.3)
        soundscape = generate_soundscape(clip_seed, sample_rate=sample_rate)
        ytid = _ytid(clip_seed)
        path = folder / "audio" / f"Y{ytid}.{extension}"
        if not path.exists():
            _write_recording(path, soundscape, subtype, channels, balance)
        segment_ids.append(f"{ytid}_{start_ms}")
        end_ms = start_ms + len(soundscape.waveform) * 1000 // sample_rate
        weak_rows.append(f'{ytid}, {start_ms / 1000:.3f}, {end_ms / 1000:.3f}, "{",".join(soundscape.weak_mids)}"\n')
        positives += len(soundscape.weak_mids)
        strong_rows += [
            f"{segment_ids[-1]}\t{event.onset_ms / 1000:.3f}\t{event.offset_ms / 1000:.3f}\t{event.mid}\n"
            for event in soundscape.events
        ]
    classes = len({mid for row in weak_rows for mid in row.split('"')[1].split(",")})
    header = (
        f"# Generated soundscapes, split {split}, seed {seed}\n"
        f"# num_ytids={clips}, num_segs={clips}, num_unique_labels={classes}, num_positive_labels={positives}\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    write_atomic(folder / "weak.csv", header + "".join(weak_rows))
    if strong:
        write_atomic(folder / "strong.tsv", "".join(strong_rows))
    return tuple(segment_ids)


def _touch(event: Event, onset_ms: int, offset_ms: int) -> bool:
    return onset_ms <= event.offset_ms and event.onset_ms <= offset_ms


def _background(rng: np.random.Generator, samples: int, sample_rate: int) -> npt.NDArray[np.float64]:
    """Noise between pink and brown, so that it is not itself one of the classes, rising and falling by some dB."""
    noise = coloured_noise(rng, samples, sample_rate, rng.uniform(1.2, 2.2))
    return noise * 10 ** (wander(rng, samples, 6, -4.0, 4.0) / 20)


def _ytid(clip_seed: Sequence[int]) -> str:
    """11 characters in YouTube's alphabet; like real ids, some hold `_` or `-` and some start with them."""
    digest = hashlib.sha256("/".join(map(str, clip_seed)).encode()).digest()
    return base64.urlsafe_b64encode(digest).decode()[:11]


def _write_recording(path: Path, soundscape: Soundscape, subtype: str, channels: int, balance: float) -> None:
    """Two channels differ by `balance`, and their mean is the soundscape."""
    gains = [1.0] if channels == 1 else [1.0 - balance, 1.0 + balance]
    samples = soundscape.waveform[:, None] * np.array(gains, dtype=np.float32) / max(gains)
    with atomic_path(path) as temporary:
        soundfile.write(temporary, samples, soundscape.sample_rate, subtype=subtype)
