"""Labels against what is audible, seeds against bytes, and split folders against AudioSet's formats."""

import csv
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import (
    SOUND_CLASSES,
    SOUNDSCAPE_SPLITS,
    UsageError,
    generate_soundscape,
    merge_events,
    soundscape_seed,
    write_split,
)

MIDS = {sound.mid for sound in SOUND_CLASSES}
SEEDS = st.tuples(st.integers(0, 2**31), st.sampled_from(sorted(SOUNDSCAPE_SPLITS.values())), st.integers(0, 10**6))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_without_background_sound_and_labels_coincide(seed: tuple[int, int, int]) -> None:
    soundscape = generate_soundscape(seed, background=False)
    waveform = soundscape.waveform
    labelled = np.zeros(len(waveform), dtype=bool)
    for event in soundscape.events:
        onset, offset = 16 * event.onset_ms, min(16 * event.offset_ms, len(waveform))
        labelled[onset:offset] = True
        # It sounds within 15 ms of both ends (fades are 5 ms): a later onset or an earlier offset would be wrong.
        assert np.any(waveform[onset : onset + 240] != 0)
        assert np.any(waveform[offset - 240 : offset] != 0)
    assert not np.any(waveform[~labelled])


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_a_soundscape_is_a_valid_clip(seed: tuple[int, int, int]) -> None:
    soundscape = generate_soundscape(seed)
    duration_ms = len(soundscape.waveform) / 16
    assert soundscape.waveform.dtype == np.float32
    assert np.isfinite(soundscape.waveform).all()
    assert np.abs(soundscape.waveform).max() <= 0.98 + 1e-6
    assert 4000 <= duration_ms <= 10_000
    assert 1 <= len(soundscape.events) <= 5
    assert list(soundscape.events) == merge_events(soundscape.events)
    assert all(0 <= event.onset_ms < event.offset_ms <= duration_ms for event in soundscape.events)
    assert soundscape.weak_mids == tuple(sorted({event.mid for event in soundscape.events}))
    assert set(soundscape.weak_mids) <= MIDS


def test_events_stand_out_of_the_background() -> None:
    """Where it sounds, the quietest event is 6 dB above the noise level, which itself moves by 4 dB."""
    for clip in range(20):
        seed = soundscape_seed(11, "dev", clip)
        soundscape, alone = generate_soundscape(seed), generate_soundscape(seed, background=False).waveform
        mixture = soundscape.waveform
        # Each of the two was scaled to its own peak.
        gain = np.linalg.lstsq(alone[:, None], mixture, rcond=None)[0][0]
        background = np.sqrt(np.mean((mixture - gain * alone) ** 2))
        assert background > 0
        for event in soundscape.events:
            stretch = gain * alone[16 * event.onset_ms : 16 * event.offset_ms]
            loudest = max(np.sqrt(np.mean(stretch[at : at + 160] ** 2)) for at in range(0, len(stretch), 160))
            assert loudest > 1.2 * background


def test_every_class_occurs_and_some_clips_are_short() -> None:
    soundscapes = [generate_soundscape(soundscape_seed(3, "weak", clip)) for clip in range(100)]
    assert {event.mid for soundscape in soundscapes for event in soundscape.events} == MIDS
    short = sum(len(soundscape.waveform) < 159_000 for soundscape in soundscapes)
    assert 1 <= short <= 14
    overlapping = sum(
        any(a.offset_ms > b.onset_ms for a, b in zip(s.events, s.events[1:], strict=False)) for s in soundscapes
    )
    assert 25 < overlapping < 95


def test_equal_seeds_give_equal_clips_and_no_two_splits_share_one() -> None:
    streams = list(SOUNDSCAPE_SPLITS)
    assert len(set(SOUNDSCAPE_SPLITS.values())) == len(streams) == 6
    seen: dict[bytes, str] = {}
    for split in streams:
        for clip in range(5):
            soundscape = generate_soundscape(soundscape_seed(5, split, clip))
            again = generate_soundscape(soundscape_seed(5, split, clip))
            assert np.array_equal(soundscape.waveform, again.waveform)
            assert soundscape.events == again.events
            assert seen.setdefault(soundscape.waveform.tobytes(), split) == split
    assert len(seen) == 5 * len(streams)
    with pytest.raises(UsageError, match="needs one of strong, weak"):
        soundscape_seed(5, "train", 0)


def test_another_sample_rate_keeps_the_events() -> None:
    for clip in range(6):
        seed = soundscape_seed(6, "eval", clip)
        low, high = generate_soundscape(seed), generate_soundscape(seed, sample_rate=44_100)
        assert [event.mid for event in low.events] == [event.mid for event in high.events]
        for first, second in zip(low.events, high.events, strict=True):
            assert first.onset_ms == second.onset_ms
            # A sonar's tail is noise, so where it falls below audible depends on the rate.
            assert abs(first.offset_ms - second.offset_ms) <= (1000 if first.mid == "/m/0790c" else 60)


@pytest.fixture(scope="module")
def strong_split(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    folder = tmp_path_factory.mktemp("strong")
    return folder, write_split(folder, split="strong", clips=24, seed=9, strong=True)


def test_split_folder_has_audiosets_formats(strong_split: tuple[Path, tuple[str, ...]]) -> None:
    folder, segment_ids = strong_split
    assert len(set(segment_ids)) == 24
    weak = (folder / "weak.csv").read_text().splitlines()
    assert [line[0] for line in weak[:3]] == ["#", "#", "#"]
    rows = [re.fullmatch(r'([\w-]{11}), (\d+\.\d{3}), (\d+\.\d{3}), "([^"]+)"', line) for line in weak[3:]]
    strong = list(csv.DictReader((folder / "strong.tsv").open(), delimiter="\t"))
    assert list(strong[0]) == ["segment_id", "start_time_seconds", "end_time_seconds", "label"]
    assert [f"{row[1]}_{float(row[2]) * 1000:.0f}" for row in rows] == list(segment_ids)
    for number, (row, segment_id) in enumerate(zip(rows, segment_ids, strict=True)):
        path = next((folder / "audio").glob(f"Y{row[1]}.*"))
        info = soundfile.info(path)
        assert info.frames / info.samplerate == pytest.approx(float(row[3]) - float(row[2]), abs=0.001)
        soundscape = generate_soundscape(soundscape_seed(9, "strong", number), sample_rate=info.samplerate)
        written = soundfile.read(path, always_2d=True)[0].mean(axis=1)
        similarity = np.corrcoef(written, soundscape.waveform)[0, 1]
        assert similarity > (0.8 if path.suffix == ".mp3" else 0.9999)
        of_clip = [event for event in strong if event["segment_id"] == segment_id]
        assert {event["label"] for event in of_clip} == set(row[4].split(","))
        stated = [(float(e["start_time_seconds"]), float(e["end_time_seconds"]), e["label"]) for e in of_clip]
        assert stated == [(e.onset_ms / 1000, e.offset_ms / 1000, e.mid) for e in soundscape.events]
    assert len({path.suffix for path in (folder / "audio").iterdir()}) >= 2


def test_same_bytes_after_being_cut_short(strong_split: tuple[Path, tuple[str, ...]], tmp_path: Path) -> None:
    folder, segment_ids = strong_split
    expected = digests(folder)
    partial = tmp_path / "split"
    write_split(partial, split="strong", clips=10, seed=9, strong=True)
    (partial / "strong.tsv").unlink()
    kept = next((partial / "audio").iterdir())
    before = kept.stat().st_mtime_ns
    assert write_split(partial, split="strong", clips=24, seed=9, strong=True) == segment_ids
    assert digests(partial) == expected
    assert kept.stat().st_mtime_ns == before


def test_weak_split_has_no_events_file_and_ids_like_real_ones(tmp_path: Path) -> None:
    write_split(tmp_path, split="weak", clips=3, seed=9, strong=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio", "weak.csv"]
    from pipeline._soundscapes import _ytid

    ids = [_ytid((9, 2, clip)) for clip in range(3000)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{11}", ytid) for ytid in ids)
    assert len(set(ids)) == 3000
    assert 0.10 < np.mean(["_" in ytid for ytid in ids]) < 0.22
    assert any(ytid.startswith("-") for ytid in ids)
