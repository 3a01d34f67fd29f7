"""The 40 ms grid against exact fractions and brute force, and the published float32 behaviour against its counts."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import (
    FRAMES,
    AudioSpec,
    Event,
    TargetSpec,
    audioset_strong_447,
    event_frames,
    frame_at,
    frame_labels,
    merge_events,
    valid_frames,
)

SPEECH, DOG = "/m/09x0r", "/m/0bt9lr"
EVENTS = st.lists(
    st.builds(
        lambda onset, length, mid: Event(onset, min(onset + length, 10_000), mid),
        st.integers(0, 9_999),
        st.integers(1, 3_000),
        st.sampled_from([SPEECH, DOG, "/m/not_a_class"]),
    ),
    max_size=12,
)


@pytest.mark.parametrize("sample_rate", [16_000, 24_000, 32_000, 44_100, 48_000])
def test_frames_partition_the_samples(sample_rate: int) -> None:
    hop = AudioSpec(sample_rate=sample_rate).hop_samples
    for frame in range(FRAMES):
        assert frame_at(frame * hop, sample_rate) == frame
        assert frame_at((frame + 1) * hop - 1, sample_rate) == frame


@given(samples=st.integers(0, 400_000), sample_rate=st.sampled_from([16_000, 24_000, 44_100]))
@settings(max_examples=200)
def test_valid_frames_are_those_holding_a_sample(samples: int, sample_rate: int) -> None:
    by_fraction = math.ceil(Fraction(samples * 25, sample_rate))
    assert valid_frames(samples, sample_rate) == min(FRAMES, by_fraction)
    assert samples == 0 or valid_frames(samples) == min(FRAMES, frame_at(samples - 1) + 1)
    spec = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=audioset_strong_447())
    assert spec.valid_frames(samples, sample_rate) == valid_frames(samples, sample_rate)


def test_every_millisecond_is_exact() -> None:
    for ms in range(10_001):
        seconds = Fraction(ms, 1000)
        assert event_frames(ms, ms) == (math.floor(seconds * 25), math.ceil(seconds * 25))


def test_float32_compat_has_the_published_counts() -> None:
    exact = np.array([event_frames(ms, ms) for ms in range(10_001)])
    compat = np.array([event_frames(ms, ms, float32_compat=True) for ms in range(10_001)])
    moved = compat - exact
    assert (moved[:, 0] != 0).sum() == (moved[:, 0] == -1).sum() == 122
    assert (moved[:, 1] != 0).sum() == (moved[:, 1] == 1).sum() == 118


def test_events_are_clipped_to_the_grid() -> None:
    assert event_frames(-100, 20) == (0, 1)
    assert event_frames(9_990, 10_500) == (249, 250)
    assert event_frames(12_000, 13_000) == (250, 250)


@given(EVENTS)
@settings(max_examples=100)
def test_frame_labels_mark_each_frame_an_event_reaches_into(events: list[Event]) -> None:
    vocabulary = audioset_strong_447()
    labels = frame_labels(events, vocabulary)
    assert labels.shape == (447, 250)
    assert labels.dtype == np.uint8
    expected = np.zeros((447, 250), dtype=np.uint8)
    for frame in range(FRAMES):
        for onset, offset, mid in events:
            if onset < (frame + 1) * 40 and offset > frame * 40 and mid in vocabulary.mids:
                expected[vocabulary.mids.index(mid), frame] = 1
    np.testing.assert_array_equal(labels, expected)


@given(EVENTS, st.booleans())
@settings(max_examples=100)
def test_merging_joins_what_touches_and_changes_no_frame(events: list[Event], float32_compat: bool) -> None:
    merged = merge_events(events)
    assert merged == sorted(merged)
    for mid in {event.mid for event in events}:
        covered = {ms for onset, offset, other in events if other == mid for ms in range(onset, offset)}
        pieces = [(onset, offset) for onset, offset, other in merged if other == mid]
        assert {ms for onset, offset in pieces for ms in range(onset, offset)} == covered
        # A gap of at least 1 ms between neighbours: nothing touches.
        assert all(first[1] < second[0] for first, second in itertools.pairwise(pieces))
    vocabulary = audioset_strong_447()
    np.testing.assert_array_equal(
        frame_labels(merged, vocabulary, float32_compat=float32_compat),
        frame_labels(events, vocabulary, float32_compat=float32_compat),
    )


def test_touching_events_become_one() -> None:
    events = [Event(500, 900, DOG), Event(0, 500, DOG), Event(100, 200, DOG), Event(450, 600, SPEECH)]
    assert merge_events(events) == [Event(0, 900, DOG), Event(450, 600, SPEECH)]
