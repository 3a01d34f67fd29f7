"""Ensembles: the average of the members, worked out class by class in double precision."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline import AudioSpec, TeacherError, UsageError
from teachers import Chunked, Ensemble, FrontEnd, load_teacher
from tests.teachers.labelling_examples import tiny_beats
from tests.teachers.simple_teachers import Linear, noise
from tests.teachers.tiny_families import FULL, tiny_teacher

CLASSES = [f"/m/{number}" for number in range(6)]


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def by_hand(members: list[Linear], waveform: Tensor, average: str, weights: list[float] | None) -> list[list[float]]:
    """[class of the first member][frame], one number at a time."""
    rows = []
    for mid in members[0].vocabulary.mids:
        row = []
        for frame in range(250):
            total = parts = 0.0
            for number, member in enumerate(members):
                if mid in member.vocabulary.mids:
                    column = member.vocabulary.mids.index(mid)
                    mean = float(waveform[640 * frame : 640 * (frame + 1)].double().mean())
                    logit = float(member.gains[column]) * mean + float(member.offsets[column])
                    weight = 1.0 if weights is None else weights[number]
                    total += weight * (logit if average == "logit" else sigmoid(logit))
                    parts += weight
            mean = total / parts
            if average == "probability":
                mean = min(max(mean, 2**-24), 1 - 2**-24)
                mean = math.log(mean / (1 - mean))
            row.append(mean)
        rows.append(row)
    return rows


@st.composite
def ensembles(draw: Any) -> tuple[list[Linear], str, list[float] | None]:
    members = []
    count = draw(st.integers(1, 4))
    number = st.floats(-6, 6, width=32)
    for index in range(count):
        others = draw(st.lists(st.sampled_from(CLASSES[1:]), max_size=5, unique=True))
        mids = draw(st.permutations([CLASSES[0], *others]))
        gains = draw(st.lists(number, min_size=len(mids), max_size=len(mids)))
        offsets = draw(st.lists(number, min_size=len(mids), max_size=len(mids)))
        protocol = draw(st.sampled_from(["frame", "clip"]))
        members.append(Linear(gains, offsets=offsets, mids=mids, protocol=protocol, name=str(index)))
    weights = draw(st.none() | st.lists(st.floats(0.125, 8, width=32), min_size=count, max_size=count))
    return members, draw(st.sampled_from(["logit", "probability"])), weights


@settings(max_examples=25, deadline=None)
@given(ensembles())
def test_the_average_of_any_members_is_the_one_worked_out_by_hand(
    drawn: tuple[list[Linear], str, list[float] | None],
) -> None:
    members, average, weights = drawn
    ensemble = Ensemble(members, average=average, weights=weights, mixed_protocols=True)
    waveforms = noise(1)
    logits = ensemble.frame_logits(waveforms)
    expected = torch.tensor(by_hand(members, waveforms[0], average, weights))
    torch.testing.assert_close(logits[0], expected, atol=2e-5, rtol=2e-5)
    said = [member.clip_logits(waveforms) for member in members]
    alone = Ensemble(members[:1], average=average).clip_logits(waveforms)
    clip = ensemble.clip_logits(waveforms)
    assert clip.shape == said[0].shape == alone.shape
    if average == "logit" and len({member.vocabulary for member in members}) == 1:
        shares = torch.tensor(weights or [1.0] * len(members))
        mean = sum(share * logits for share, logits in zip(shares, said, strict=True)) / shares.sum()
        torch.testing.assert_close(clip, mean, atol=1e-5, rtol=1e-5)


def test_members_of_different_vocabularies_meet_by_mid_not_by_column() -> None:
    first = Linear([0.0, 0.0, 0.0], offsets=[1.0, 2.0, 3.0], mids=["/m/a", "/m/b", "/m/c"])
    other = Linear([0.0, 0.0, 0.0], offsets=[30.0, 10.0, 99.0], mids=["/m/c", "/m/a", "/m/z"])
    with pytest.raises(TeacherError, match=r"member 2 .* lacks 1 of the first's 3 classes.*--mixed-protocols"):
        Ensemble([first, other])
    mixed = Ensemble([first, other], mixed_protocols=True)
    assert mixed.vocabulary == first.vocabulary
    assert mixed.frame_logits(noise(1))[0, :, 0].tolist() == [5.5, 2.0, 16.5]
    weighted = Ensemble([first, other], mixed_protocols=True, weights=np.array([3.0, 1.0]))
    assert weighted.frame_logits(noise(1))[0, :, 0].tolist() == [3.25, 2.0, 9.75]
    stranger = Linear([0.0], mids=["/m/z"], name="stranger")
    with pytest.raises(TeacherError, match=r"member 2 .*stranger\) has none of the first's 3 classes; leave it out"):
        Ensemble([first, stranger], mixed_protocols=True)
    elsewhere = [
        Linear([0.0] * len(one.gains), mids=one.vocabulary.mids, device=torch.device("meta")) for one in (first, other)
    ]
    for columns in Ensemble(elsewhere, mixed_protocols=True)._columns[1]:
        assert columns.device.type == "meta", "columns in host memory would be copied for every batch"
    # the same classes in another order, and classes beside them, lose nothing
    reordered = Linear([0.0] * 4, offsets=[30.0, 10.0, 20.0, 99.0], mids=["/m/c", "/m/a", "/m/b", "/m/z"])
    assert Ensemble([first, reordered]).frame_logits(noise(1))[0, :, 0].tolist() == [5.5, 11.0, 16.5]


@pytest.fixture
def beats(tmp_path: Path) -> Callable[[int], Any]:
    return lambda seed: load_teacher("beats", checkpoint=tiny_beats(tmp_path / f"{seed}.pt", seed=seed))


def test_fifteen_models_compute_their_front_end_once_and_average_in_float32_in_their_order(
    beats: Callable[[int], Any],
) -> None:
    members = [beats(seed) for seed in range(15)]
    waveforms = noise(2)
    said = [member.frame_logits(waveforms) for member in members]
    computed = []

    def counted(part: Tensor) -> Tensor:
        computed.append(len(part))
        return compute(part)

    compute = members[0].front_end.compute
    shared = FrontEnd("kaldi_fbank", counted)
    for member in members:
        member.front_end = shared
    logits = Ensemble(members).frame_logits(waveforms)
    assert sum(computed) == len(waveforms)
    in_order = torch.zeros_like(said[0])
    for one in said:
        in_order += one
    assert torch.equal(logits, in_order / 15)
    assert len({tuple(one.flatten()[:50].tolist()) for one in said}) == 15


def test_a_clip_does_not_hear_its_neighbours(beats: Callable[[int], Any]) -> None:
    ensemble = Ensemble([beats(0), beats(1)], average="probability")
    waveforms = noise(4)
    waveforms[1], waveforms[2] = 0.0, 1.0
    together = ensemble.frame_logits(waveforms)
    for place in range(4):
        assert torch.equal(ensemble.frame_logits(waveforms[place : place + 1])[0], together[place])


def test_every_family_in_one_ensemble() -> None:
    members = [tiny_teacher(name) for name in FULL]
    ensemble = Ensemble(members)
    assert ensemble.contexts_ms == (10_000,), "ASiT hears no others"
    waveforms = noise(2)
    for ask in ("frame_logits", "clip_logits"):
        said = torch.stack([getattr(member, ask)(waveforms) for member in members])
        torch.testing.assert_close(getattr(ensemble, ask)(waveforms), said.mean(dim=0), atol=1e-5, rtol=1e-5)
    others = Ensemble([member for member in members if member.provenance["family"] != "asit"])
    assert others.contexts_ms == (10_000, 5_000, 4_000, 2_000)
    chunks = Chunked(others, 4_000).frame_logits(waveforms)
    alone = torch.stack([Chunked(member, 4_000).frame_logits(waveforms) for member in others.members])
    torch.testing.assert_close(chunks, alone.mean(dim=0), atol=1e-5, rtol=1e-5)


def test_members_in_half_precision_are_averaged_in_float32() -> None:
    class Halves(Linear):
        def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
            return super()._frame_logits(features, frames).half()

    members = [Halves([0.0], offsets=[0.1]), Linear([0.0], offsets=[0.2])]
    (logit,) = Ensemble(members, weights=[3.0, 1.0]).frame_logits(noise(1))[0, :, 0].tolist()
    assert logit == pytest.approx((3 * float(torch.tensor(0.1).half()) + 0.2) / 4, rel=1e-6)


def test_members_of_both_protocols_are_no_more_than_told_of_clips() -> None:
    members = [Linear([1.0], protocol="frame"), Linear([1.0], protocol="clip")]
    assert Ensemble(members, mixed_protocols=True).protocol == "clip"
    assert Ensemble(members[:1]).protocol == "frame"


def test_members_hear_the_same_context() -> None:
    chunked = [Chunked(Linear([1.0], name=name), 4_000) for name in ("a", "b")]
    assert Ensemble(chunked).target == chunked[0].target
    assert Ensemble(chunked).target.context_ms == 4_000
    with pytest.raises(TeacherError, match=r"member 2 .*teacher b\) hears 4000 ms at once, the first 10000 ms"):
        Ensemble([Linear([1.0]), chunked[1]])


def test_says_what_it_is_made_of(beats: Callable[[int], Any]) -> None:
    members = [beats(0), beats(1)]
    ensemble = Ensemble(members, average="probability", weights=[1.0, 2])
    assert json.loads(json.dumps(ensemble.provenance)) == {
        "family": "ensemble",
        "average": "probability",
        "weights": [1.0, 2.0],
        "members": [member.provenance for member in members],
        "precision": "float32",
        "protocol": "clip",
        "front_end": "waveform",
        "vocabulary_sha256": members[0].vocabulary.sha256,
    }
    assert Ensemble(members).provenance["weights"] is None
    assert ensemble.audio_spec == AudioSpec()
    assert ensemble.target == members[0].target
    assert ensemble.contexts_ms == (10_000, 5_000, 4_000, 2_000)
    assert (ensemble.protocol, ensemble.has_clip_logits) == ("clip", True)
    assert ensemble.leaves == tuple(members)


def test_hears_only_contexts_that_all_members_hear() -> None:
    members = [Linear([1.0]), Linear([1.0], contexts_ms=(10_000, 4_000))]
    assert Ensemble(members).contexts_ms == (10_000, 4_000)


def test_clip_logits_need_a_head_in_every_member() -> None:
    headless = Linear([1.0], clip_head=False)
    ensemble = Ensemble([Linear([1.0]), headless])
    assert not ensemble.has_clip_logits
    with pytest.raises(TeacherError, match="ensemble has no clip-level head"):
        ensemble.clip_logits(noise(1))
    assert Ensemble([Linear([1.0]), Linear([3.0])]).clip_logits(torch.ones(1, 160_000)).tolist() == [[2.0]]


def test_a_precision_is_every_members(beats: Callable[[int], Any]) -> None:
    members = [beats(0), beats(1)]
    ensemble = Ensemble(members)
    full = ensemble.frame_logits(noise(1))
    ensemble.use_precision("bfloat16")
    assert [member.provenance["precision"] for member in members] == ["bfloat16", "bfloat16"]
    assert [member["precision"] for member in ensemble.provenance["members"]] == ["bfloat16", "bfloat16"]
    assert ensemble.provenance["precision"] == "bfloat16"
    half = ensemble.frame_logits(noise(1))
    assert half.dtype == torch.float32
    assert 0 < float((half - full).abs().max()) < 0.1
    # of members that differ it says so, and they cannot be cast a second time
    mixed = Ensemble([members[0], beats(2)])
    assert mixed.provenance["precision"] == "mixed"
    with pytest.raises(TeacherError, match="runs in mixed already"):
        mixed.use_precision("float16")
    with pytest.raises(TeacherError, match="runs in bfloat16 already, float16 is asked for"):
        ensemble.use_precision("float16")


@pytest.mark.parametrize("average", ["logit", "probability"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_in_one_member_is_not_hidden_by_the_average(average: str, bad: float) -> None:
    members = [Linear([0.0, 0.0], offsets=[1.0, 2.0]), Linear([0.0, 0.0], offsets=[1.0, bad])]
    logits = Ensemble(members, average=average).frame_logits(noise(1))[0]
    assert torch.isfinite(logits[0]).all()
    assert not torch.isfinite(logits[1]).any()


def test_a_mean_of_probabilities_stays_finite() -> None:
    members = [Linear([0.0, 0.0], offsets=[60.0, -60.0]), Linear([0.0, 0.0], offsets=[90.0, -90.0])]
    logits = Ensemble(members, average="probability").frame_logits(noise(1))[0, :, 0]
    limit = math.log(2**24 - 1)
    torch.testing.assert_close(logits, torch.tensor([limit, -limit]))


def test_a_member_of_a_wrong_shape_is_named() -> None:
    class Short(Linear):
        def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
            return super()._frame_logits(features, frames)[..., :1]  # would broadcast

    ensemble = Ensemble([Linear([1.0], name="good"), Short([1.0], name="short")])
    with pytest.raises(TeacherError, match=r"teacher short gave \(1, 1, 1\) logits for 1 clip, needs \(1, 250\)"):
        ensemble.frame_logits(noise(1))


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"spec": AudioSpec(sample_rate=32_000)}, "hears mono-32000hz-10000ms, the first mono-16000hz-10000ms"),
        ({"device": torch.device("meta")}, "is on meta, the first on cpu"),
        ({"protocol": "clip"}, "was trained on clip labels, the first on frame labels.*--mixed-protocols"),
    ],
)
def test_members_that_do_not_go_together_are_refused(second: dict[str, Any], reason: str) -> None:
    with pytest.raises(TeacherError, match=rf"member 2 of the ensemble \(teacher other\) {reason}"):
        Ensemble([Linear([1.0]), Linear([1.0], name="other", **second)])


def test_no_members_are_refused() -> None:
    with pytest.raises(TeacherError, match="no members"):
        Ensemble([])


@pytest.mark.parametrize(
    "weights",
    [[1.0], [1.0, 2.0, 3.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf], [1.0, 1e-7], [1e7, 1.0]],
)
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="--weights"):
        Ensemble([Linear([1.0]), Linear([1.0])], weights=weights)


def test_another_average_is_refused() -> None:
    with pytest.raises(UsageError, match="--average is 'median', needs one of logit, probability"):
        Ensemble([Linear([1.0])], average="median")  # type: ignore[arg-type]
