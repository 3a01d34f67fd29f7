"""Where frames lie in time, found with clicks, against what hops and patches say they must."""

import numpy as np
import pytest

from benchmarks.teacher_geometry import CLICK, HIGH_HZ, LOW_HZ, Subject, marks_ms, subjects

# Family -> ms between tokens and the centre of the audio in the first one: four columns of a spectrogram centred on 0,
# 10, 20 and 30 ms; a 3-3-3 stem with strides 2, 1, 2, and the next token; 16 columns centred on 0 to 150 ms; 16 frames
# of 25 ms that start at 0 to 150 ms. Then tokens of a clip, and how far a frame may be from the line.
TOKENS = {
    "ATST-F": (40, 15.0, 250, 15),
    "fPaSST": (40, 20.0, 250, 15),
    "M2D": (160, 75.0, 62, 90),
    "BEATs": (160, 87.5, 62, 90),
}
SUBJECTS = {subject.name: subject for subject in subjects()}
CASES = [(name, context_ms) for name in TOKENS for context_ms in SUBJECTS[name].contexts_ms]


def times_ms(context_ms: int) -> np.ndarray:
    """On all phases of 160 ms: steps are a golden section off whole multiples."""
    return np.arange(99.0, context_ms - 99.0, {10_000: 259.0, 2_000: 61.0}.get(context_ms, 99.0))


def expected_ms(name: str, times: np.ndarray) -> np.ndarray:
    """Marks on average: the tokens of a clip divide its 10 s evenly, whatever their audio is."""
    period, first, tokens, _ = TOKENS[name]
    return ((times - first) / period + 0.5) * 10_000 / tokens


@pytest.mark.parametrize(("name", "context_ms"), CASES)
def test_a_click_is_marked_where_patches_put_it(name: str, context_ms: int) -> None:
    times = times_ms(context_ms)
    off = marks_ms(SUBJECTS[name], context_ms, CLICK, times) - expected_ms(name, times)
    # The flattened tokens of 10 s are pulled towards high frequencies, whose patches a click moves more.
    pulled = 20.0 if (name, context_ms) == ("BEATs", 10_000) else 0.0
    first, second = np.array_split(off - pulled, 2)
    assert abs(first.mean()) < 10.0
    assert abs(second.mean()) < 10.0
    assert np.abs(off - pulled).max() < TOKENS[name][3]


@pytest.mark.parametrize(("name", "context_ms"), CASES)
def test_a_context_is_heard_to_its_end(name: str, context_ms: int) -> None:
    """But for what a clip of 10 s loses too: 62 patches are 9.92 s; the last frame of a filter bank must be whole."""
    last = np.arange(context_ms - 120.0, context_ms, 5.0)
    unheard_ms = 5 * np.isnan(marks_ms(SUBJECTS[name], context_ms, CLICK, last)).sum()
    lost = 80 if context_ms == 10_000 else 40
    assert unheard_ms <= (lost if name in {"BEATs", "M2D"} else 0)


@pytest.mark.parametrize("name", ["BEATs", "ASiT"])
def test_flattened_tokens_mark_low_sounds_early_and_high_ones_late(name: str) -> None:
    """Published heads learned it at 10 s: from 60 ms early to 140 ms late in BEATs."""
    low, high = (off_ms(SUBJECTS[name], 10_000, hertz) for hertz in (LOW_HZ, HIGH_HZ))
    assert np.mean(high - low) == pytest.approx(128, abs=10)
    if name == "BEATs":
        assert np.polyval(np.polyfit(times_ms(10_000), low, 1), 0) == pytest.approx(-60, abs=10)
        assert np.polyval(np.polyfit(times_ms(10_000), high, 1), 10_000) == pytest.approx(140, abs=10)


@pytest.mark.parametrize(("name", "context_ms"), [case for case in CASES if case[1] == 4_000])
def test_low_and_high_sounds_are_marked_together_elsewhere(name: str, context_ms: int) -> None:
    low, high = (off_ms(SUBJECTS[name], context_ms, hertz) for hertz in (LOW_HZ, HIGH_HZ))
    assert abs(np.nanmean(high - low)) < 10.0


def off_ms(subject: Subject, context_ms: int, hertz: float) -> np.ndarray:
    times = times_ms(context_ms)
    return marks_ms(subject, context_ms, hertz, times) - times
