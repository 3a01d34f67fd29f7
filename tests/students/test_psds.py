import math

import numpy as np
import pytest

from pipeline import FRAMES, HOP_MS, Event, UsageError, Vocabulary, frame_labels, merge_events
from students import median_filter, psds1, psds1_ceiling


def vocabulary_of(classes):
    return Vocabulary(mids=tuple(f"/m/{c}" for c in range(classes)), names=tuple(f"class {c}" for c in range(classes)))


def brute_force(probs, events, durations_s, vocabulary):
    """(per class, macro): every distinct value of the set is tried as a threshold, frame by frame, in integers."""
    hours = math.fsum(durations_s) / 3600
    curves = []
    for column, mid in enumerate(vocabulary.mids):
        truth = [[e for e in merge_events(of_clip) if e.mid == mid] for of_clip in events]
        total = sum(map(len, truth))
        points = {0: 0}
        for threshold in [*np.unique(probs[:, column]), -np.inf] if total else []:
            found = false = 0
            for of_clip, values in zip(truth, probs[:, column], strict=True):
                active = [False, *(values >= threshold if threshold > -np.inf else values == values), False]
                borders = [t for t in range(len(active) - 1) if active[t] != active[t + 1]]
                right = []
                for start, end in zip(borders[::2], borders[1::2], strict=True):
                    inside = sum(shared(start * HOP_MS, end * HOP_MS, e) for e in of_clip)
                    if 10 * inside >= 7 * (end - start) * HOP_MS:
                        right.append((start * HOP_MS, end * HOP_MS))
                    else:
                        false += 1
                for e in of_clip:
                    found += 10 * sum(shared(*d, e) for d in right) >= 7 * (e.offset_ms - e.onset_ms)
            points[false] = max(points.get(false, 0), found)
        curves.append((points, total))
    borders = sorted({min(k / hours, 100.0) for points, _ in curves for k in points} | {0.0, 100.0})
    heights = np.array(
        [
            [max(n for k, n in points.items() if k / hours <= x) / max(total, 1) for x in borders[:-1]]
            for points, total in curves
        ]
    )
    counted = [total > 0 for _, total in curves]
    widths = np.diff(borders) / 100.0
    per_class = np.where(counted, heights @ widths, np.nan)
    macro = np.maximum(heights[counted].mean(0) - heights[counted].std(0), 0) @ widths
    return per_class, macro


def shared(start_ms, end_ms, event):
    return max(0, min(end_ms, event.offset_ms) - max(start_ms, event.onset_ms))


def random_case(rng, *, clips, classes, frames, kind):
    """Events that overlap, touch and sit on and off the grid; probabilities from noise to good, with ties."""
    vocabulary = vocabulary_of(classes)
    events = []
    for _ in range(clips):
        of_clip = []
        for _ in range(rng.integers(0, 5)):
            onset, offset = sorted(int(t) for t in rng.integers(0, frames * HOP_MS + 1, 2))
            if rng.random() < 0.4:
                onset, offset = onset // HOP_MS * HOP_MS, offset // HOP_MS * HOP_MS + HOP_MS
            if offset > onset:
                of_clip.append(Event(onset, offset, vocabulary.mids[rng.integers(classes)]))
        events.append(of_clip)
    events[0].append(Event(0, 2 * HOP_MS, vocabulary.mids[0]))
    truth = np.stack([frame_labels(of_clip, vocabulary)[:, :frames] for of_clip in events]).astype(float)
    noise = rng.normal(size=truth.shape)
    probs = {
        "white": lambda: rng.random(truth.shape),
        "coarse": lambda: np.round(0.5 * truth + 0.7 * rng.random(truth.shape), 1),
        "walk with ties": lambda: np.round(1 / (1 + np.exp(3 - 3 * truth - np.cumsum(noise, -1))), 2),
        "good": lambda: 1 / (1 + np.exp(4 - 8 * truth - noise)),
        "constant": lambda: np.full(truth.shape, 0.5),
        "steps": lambda: np.repeat(rng.random((clips, classes, -(-frames // 5))), 5, -1)[..., :frames],
    }[kind]()
    # Long durations bring the limit of 100 false positives an hour into reach, short ones take it out of reach.
    durations_s = rng.uniform(0.5, 1.0, clips) * frames * HOP_MS / 1000 * rng.choice([1, 30])
    return probs, events, durations_s, vocabulary


KINDS = ["white", "coarse", "walk with ties", "good", "constant", "steps"]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_trying_every_threshold(kind):
    rng = np.random.default_rng([1, KINDS.index(kind)])
    for _ in range(6):
        case = random_case(rng, clips=int(rng.integers(1, 7)), classes=2, frames=int(rng.integers(3, 30)), kind=kind)
        per_class, macro = brute_force(*case)
        result = psds1(*case)
        np.testing.assert_allclose(result.per_class, per_class, rtol=0, atol=1e-12)
        assert result.macro == pytest.approx(macro, abs=1e-12)
        assert result.counted == tuple(np.flatnonzero(~np.isnan(per_class)))
        assert result.mean == pytest.approx(np.nanmean(per_class), abs=1e-12)


@pytest.mark.parametrize("allowed", [0.5, 1.0, 3.0, 7.2])
def test_equals_trying_every_threshold_where_most_clips_lack_the_class(allowed):
    """Thresholds that cannot count are left out; the last ones that do must stay in."""
    rng = np.random.default_rng([5, int(10 * allowed)])
    for _ in range(6):
        probs, events, _, vocabulary = random_case(rng, clips=20, classes=4, frames=12, kind="coarse")
        probs = probs + 1e-3 * rng.random(probs.shape)
        events = [of_clip if clip < 3 else [] for clip, of_clip in enumerate(events)]
        durations_s = np.full(20, allowed * 36.0 / 20)
        per_class, macro = brute_force(probs, events, durations_s, vocabulary)
        result = psds1(probs, events, durations_s, vocabulary)
        np.testing.assert_allclose(result.per_class, per_class, rtol=0, atol=1e-12)
        assert result.macro == pytest.approx(macro, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_sed_scores_eval(kind):
    intersection_based = pytest.importorskip(
        "sed_scores_eval.intersection_based",
        reason="sed_scores_eval is not installed (make test builds it from source)",
    )
    from sed_scores_eval.base_modules.scores import create_score_dataframe

    rng = np.random.default_rng([2, KINDS.index(kind)])
    for _ in range(8):
        case = random_case(
            rng, clips=int(rng.integers(1, 25)), classes=4, frames=int(rng.choice([5, 60, 250])), kind=kind
        )
        probs, events, durations_s, vocabulary = case
        result = psds1(*case)
        counted = list(result.counted)  # the reference raises on a class without ground truth
        mids = [vocabulary.mids[c] for c in counted]
        borders = np.round(np.arange(probs.shape[2] + 1) * HOP_MS / 1000, 6)
        macro, per_class, *_ = intersection_based.psds(
            {str(i): create_score_dataframe(p[counted].T, borders, mids) for i, p in enumerate(probs)},
            {
                str(i): [(e.onset_ms / 1000, e.offset_ms / 1000, e.mid) for e in merge_events(of_clip)]
                for i, of_clip in enumerate(events)
            },
            {str(i): float(duration) for i, duration in enumerate(durations_s)},
            dtc_threshold=0.7,
            gtc_threshold=0.7,
            alpha_ct=0.0,
            alpha_st=1.0,
            max_efpr=100.0,
        )
        np.testing.assert_allclose(result.per_class[counted], [per_class[mid] for mid in mids], rtol=0, atol=1e-9)
        assert result.macro == pytest.approx(macro, abs=1e-9)


HOUR = [3600.0]
ONE = vocabulary_of(1)


def test_one_right_and_one_false_detection_by_hand():
    """One event; a false detection of higher probability costs exactly the first of 100 false positives an hour."""
    probs = np.zeros((1, 1, FRAMES))
    probs[0, 0, 25:50] = 0.6
    events = [[Event(1000, 2000, "/m/0")]]
    assert psds1(probs, events, HOUR, ONE).mean == 1.0
    probs[0, 0, 100:110] = 0.9
    assert psds1(probs, events, HOUR, ONE).mean == pytest.approx(0.99, abs=1e-12)


def test_an_event_found_behind_the_last_false_positive_that_counts():
    """90 s allow 2 false positives; the event comes third of four, so it counts from 100 an hour times 2 / 2.5 on."""
    probs = np.zeros((4, 1, FRAMES))
    probs[:, 0, 0:5] = np.array([0.9, 0.8, 0.75, 0.7])[:, None]
    events = [[], [], [Event(0, 200, "/m/0")], []]
    assert psds1(probs, events, [2.5 * 36 / 4] * 4, ONE).mean == pytest.approx(0.2, abs=1e-12)
    probs[2] *= 0.9
    assert psds1(probs, events, [2.5 * 36 / 4] * 4, ONE).mean == 0.0


def test_criteria_met_exactly_are_met():
    """7 of 10 detected frames on the event, then 7 of 10 event frames detected; 1 ms less and neither counts."""
    probs = np.zeros((1, 1, FRAMES))
    probs[0, 0, 10:20] = 1.0
    exact = [Event(520, 800, "/m/0")]
    assert psds1(probs, [exact], HOUR, ONE).mean == 1.0
    assert psds1(probs, [[Event(521, 800, "/m/0")]], HOUR, ONE).mean == 0.0
    probs[0, 0, 17:20] = 0.0
    assert psds1(probs, [[Event(400, 800, "/m/0")]], HOUR, ONE).mean == 1.0
    assert psds1(probs, [[Event(400, 801, "/m/0")]], HOUR, ONE).mean == 0.0


def test_an_event_is_lost_again_when_its_detection_melts_into_too_long_a_one():
    probs = np.full((1, 1, FRAMES), 0.1)
    probs[0, 0, 100:110] = 0.9
    events = [[Event(4000, 4400, "/m/0"), Event(8000, 8400, "/m/0")]]
    assert psds1(probs, events, HOUR, ONE).mean == 0.5


def test_classes_without_ground_truth_are_not_counted():
    vocabulary = vocabulary_of(3)
    events = [[Event(0, 400, "/m/2"), Event(0, 400, "/m/not in the vocabulary")]]
    probs = np.stack([frame_labels(of_clip, vocabulary) for of_clip in events])
    result = psds1(probs, events, HOUR, vocabulary)
    assert result.counted == (2,)
    assert np.isnan(result.per_class[:2]).all()
    assert result.mean == result.macro == result.per_class[2] == 1.0


def test_any_monotone_function_of_the_probabilities_gives_the_same():
    rng = np.random.default_rng(3)
    probs, *rest = random_case(rng, clips=20, classes=3, frames=100, kind="walk with ties")
    logits = np.log(probs + 1e-3)
    assert psds1(logits, *rest).mean == psds1(probs, *rest).mean
    as_bytes = np.rint(probs * 100).astype(np.uint8)
    assert psds1(as_bytes, *rest).macro == psds1(probs, *rest).macro


def test_frames_at_minus_infinity_are_never_detected():
    probs = np.full((2, 1, 10), -np.inf)
    events = [[Event(0, 200, "/m/0")], []]
    assert psds1(probs, events, [10.0, 10.0], ONE).mean == 0.0
    probs[0, 0, :5] = -5.0
    assert psds1(probs, events, [10.0, 10.0], ONE).mean == 1.0
    probs[0, 0, 5:] = -5.0
    assert psds1(probs, events, [10.0, 10.0], ONE).mean == 0.0


@pytest.mark.parametrize(("median_frames", "published"), [(1, 0.954), (9, 0.843)])
def test_ceiling_of_40_ms_labels_on_real_events(shared, median_frames, published):
    """Of the first 1,200 clips of the real event list, in which 109 classes occur."""
    durations = dict(line.split(",") for line in (shared / "data" / "eval_durations.csv").read_text().splitlines())
    events = {}
    for line in (shared / "data" / "audioset_eval_strong_subset.tsv").read_text().splitlines()[1:]:
        segment, onset_s, offset_s, mid = line.split("\t")
        if f"Y{segment.rsplit('_', 1)[0]}" in durations:
            of_clip = events.setdefault(segment, [])
            of_clip.append(Event(round(1000 * float(onset_s)), round(1000 * float(offset_s)), mid))
    mids = tuple(sorted({event.mid for of_clip in events.values() for event in of_clip}))
    clips = list(events)[:1_200]
    result = psds1_ceiling(
        [events[segment] for segment in clips],
        [float(durations[f"Y{segment.rsplit('_', 1)[0]}"]) for segment in clips],
        Vocabulary(mids, mids),
        median_frames=median_frames,
    )
    assert len(result.counted) == 109
    assert round(result.mean, 3) == published


@pytest.mark.parametrize(
    ("probs", "events", "durations_s", "message"),
    [
        (np.zeros((1, 2, 5)), [[]], [10.0], "one list and one duration per clip"),
        (np.zeros((2, 1, 5)), [[]], [10.0, 10.0], "one list and one duration per clip"),
        (np.zeros((1, 1, 5)), [[]], [10.0], "nothing to detect"),
        (np.zeros((1, 1, 5)), [[Event(0, 10, "/m/0")]], [0.0], "not a positive number of seconds"),
        (np.zeros((1, 1, 5)), [[Event(10, 10, "/m/0")]], [10.0], "it must last"),
        (np.full((1, 1, 5), np.nan), [[Event(0, 10, "/m/0")]], [10.0], "NaN in clip number 0"),
    ],
)
def test_refuses_what_it_cannot_measure(probs, events, durations_s, message):
    with pytest.raises(UsageError, match=message):
        psds1(probs, events, durations_s, ONE)


@pytest.mark.parametrize("frames", [1, 3, 9])
@pytest.mark.parametrize("length", [2, 9, 50])
def test_median_filter_is_scipys(frames, length):
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not installed")
    probs = np.random.default_rng(4).random((3, 2, length)).astype(np.float32)
    np.testing.assert_array_equal(median_filter(probs, frames), ndimage.median_filter(probs, size=(1, 1, frames)))


def test_median_filter_needs_a_middle():
    with pytest.raises(UsageError, match="odd"):
        median_filter(np.zeros((1, 1, 5)), 4)
