"""The typed contracts: what they compute, what they refuse, and that their JSON comes back as they were."""

import json

import pytest

from pipeline import AudioSpec, FormatError, MetadataError, TargetSpec, UsageError, Vocabulary

VOCABULARY = Vocabulary(("/m/b", "/m/a"), ("B", "A"))
FRAMES = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=VOCABULARY)
CLIP = TargetSpec(axes=("class",), kind="probability", vocabulary=VOCABULARY, hop_ms=None, frames=None)

DIRECTION = TargetSpec(axes=("time", "track", "xyz"), kind="unit_vector", hop_ms=100, frames=50, tracks=3)
DISTANCE = TargetSpec(axes=("time", "track"), kind="metre", hop_ms=100, frames=50, tracks=3)


def test_the_default_is_a_clip_of_ten_seconds() -> None:
    spec = AudioSpec()
    assert (spec.max_samples, spec.hop_samples, spec.channels, spec.name) == (160_000, 640, 1, "mono-16000hz-10000ms")
    foa = AudioSpec(sample_rate=24_000, layout="foa", clip_ms=5_000)
    assert (foa.max_samples, foa.hop_samples, foa.channels, foa.name) == (120_000, 960, 4, "foa-24000hz-5000ms")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layout": "stereo"}, "layout is 'stereo', needs one of mono, foa"),
        ({"sample_rate": 999}, "has 999 Hz and 10000 ms; needs 1000 to 768000 Hz"),
        ({"clip_ms": 39}, "39 ms; needs .* and 40 to 3600000 ms"),
        ({"sample_rate": 32_000, "clip_ms": 3_600_000}, "more than 67108864 values"),
        ({"sample_rate": 11_030}, "use a multiple of 25 Hz"),
    ],
)
def test_audio_that_has_no_grid_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        AudioSpec(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"axes": ()}, "target axes are"),
        ({"axes": ("time",)}, "states vocabulary exactly when it has a 'class' axis"),
        ({"vocabulary": None}, "states vocabulary exactly when it has a 'class' axis"),
        ({"axes": ("class", "class")}, "different ones"),
        ({"axes": ("class", "time", "track")}, "states tracks exactly when it has a 'track' axis"),
        ({"axes": ("class",)}, "exactly when it has a 'time' axis"),
        ({"hop_ms": None}, "exactly when it has a 'time' axis"),
        ({"tracks": 3}, "states tracks exactly when it has a 'track' axis"),
        ({"kind": "score"}, "kind is 'score', needs one of logit"),
        ({"kind": "unit_vector"}, "'xyz' is for unit vectors and metres"),
        ({"axes": ("class", "time", "xyz")}, "'xyz' is for unit vectors and metres"),
        ({"frames": 10_000_000}, "more than 16777216 values"),
    ],
)
def test_targets_that_contradict_themselves_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        TargetSpec(**{"axes": ("class", "time"), "kind": "logit", "vocabulary": VOCABULARY, **options})  # type: ignore[arg-type]


def test_shapes_follow_the_axes() -> None:
    assert FRAMES.shape == (2, 250)
    assert TargetSpec(axes=("time", "class"), kind="logit", vocabulary=VOCABULARY, frames=5).shape == (5, 2)
    assert CLIP.shape == (2,)
    with pytest.raises(UsageError, match="no frames"):
        CLIP.valid_frames(160_000, 16_000)
    chunks = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=VOCABULARY, hop_ms=4_000, frames=3)
    assert [chunks.valid_frames(samples, 16_000) for samples in (1, 64_000, 64_001, 160_000, 10**9)] == [1, 1, 2, 3, 3]


def test_localised_sounds_have_tracks_and_directions() -> None:
    activity = TargetSpec(
        axes=("time", "track", "class"), kind="probability", vocabulary=VOCABULARY, hop_ms=100, frames=50, tracks=3
    )
    assert (activity.shape, activity.classes) == ((50, 3, 2), VOCABULARY)
    assert (DIRECTION.shape, DISTANCE.shape) == ((50, 3, 3), (50, 3))
    with pytest.raises(UsageError, match="has no classes"):
        _ = DISTANCE.classes


@pytest.mark.parametrize(
    "spec",
    [AudioSpec(), AudioSpec(sample_rate=24_000, layout="foa"), FRAMES, CLIP, DIRECTION, DISTANCE, VOCABULARY],
)
def test_json_comes_back_as_it_was_and_with_a_field_more_or_less_not(
    spec: AudioSpec | TargetSpec | Vocabulary,
) -> None:
    value = json.loads(json.dumps(spec.to_json()))
    assert type(spec).from_json(value, "here") == spec
    for other in ({**value, "more": 1}, dict(list(value.items())[1:]), [], None):
        with pytest.raises(FormatError, match=r"^here: "):
            type(spec).from_json(other, "here")


def test_a_vocabulary_is_its_mids_in_order() -> None:
    assert VOCABULARY.index() == {"/m/b": 0, "/m/a": 1}
    assert VOCABULARY.sha256 == Vocabulary(VOCABULARY.mids, ("other", "names")).sha256
    assert VOCABULARY.sha256 != Vocabulary(VOCABULARY.mids[::-1], VOCABULARY.names).sha256
    for mids, names in (((), ()), (("/m/a", "/m/a"), ("A", "A")), (("/m/a",), ())):
        with pytest.raises(MetadataError):
            Vocabulary(mids, names)
    with pytest.raises(MetadataError, match="here: the class list does not have the hash"):
        Vocabulary.from_json({**VOCABULARY.to_json(), "mids": ["/m/a", "/m/b"]}, "here")
