"""Mixup against the two losses it stands for, in float64, and against a plan read back from what it did."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline import UsageError
from shards import MIXUP_PRESETS, Batch, MixPlan, mix_features, mix_plan, mixup

SHAPES = {
    "clip": (5,),
    "frame": (5, 7),
    "hard_strong": (5, 7),
    "a weight a class": (5, 7),
    "a weight a frame": (5, 7),
    "a weight a clip": (5, 7),
}
# Of one clip; weights need the leading axes of the target only.
WEIGHT_SHAPES = {**SHAPES, "a weight a class": (5,), "a weight a frame": (1, 7), "a weight a clip": ()}


def random_batch(
    clips: int, *, seed: int = 0, sources: int = 2, dtype: torch.dtype = torch.float64, fractional: bool = False
) -> Batch:
    """Random waveforms, probabilities, and weights of 0 and 1 (or also in between); target 0 where the weight is 0."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=dtype)

    weight = {name: random(clips, *shape) for name, shape in WEIGHT_SHAPES.items()}
    weight = weight if fractional else {name: values.round() for name, values in weight.items()}
    weight["hard_strong"][::2] = 0
    frames = torch.randint(1, 8, (clips,), generator=generator)
    weight["a weight a frame"] *= torch.arange(7) < frames[:, None, None]
    targets = {
        name: random(clips, *shape) * (like_target(weight[name], 1 + len(shape)) > 0) for name, shape in SHAPES.items()
    }
    return Batch(
        waveform=random(clips, 640) - 0.3,
        targets=targets,
        weight=weight,
        valid_frames=frames,
        source=[f"s{i * sources // clips}" for i in range(clips)],
        key=[f"clip{i}" for i in range(clips)],
    )


def like_target(weight: torch.Tensor, axes: int) -> torch.Tensor:
    return weight.reshape(*weight.shape, *(1,) * (axes - weight.dim()))


def plan_of(before: Batch, after: Batch) -> list[tuple[int, float]]:
    """Partner and lambda of every clip, solved from the waveforms alone; itself and 1 where nothing was mixed."""
    centred = before.waveform - before.waveform.mean(1, keepdim=True)
    plan = []
    for clip in range(len(before)):
        found = (clip, 1.0)
        if not torch.equal(before.waveform[clip], after.waveform[clip]):
            for partner in set(range(len(before))) - {clip}:
                pair = torch.stack([centred[clip], centred[partner]], 1)
                solution = torch.linalg.lstsq(pair, after.waveform[clip][:, None]).solution[:, 0]
                if torch.allclose(pair @ solution, after.waveform[clip], atol=1e-9):
                    assert solution.sum().item() == pytest.approx(1)
                    found = (partner, solution[0].item())
            assert found[0] != clip
        plan.append(found)
    return plan


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bce(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> float:
    """Sum of weighted BCE over all cells of one clip."""
    return (
        (like_target(weight, target.dim()) * binary_cross_entropy_with_logits(logits, target, reduction="none"))
        .sum()
        .item()
    )


@given(seed=st.integers(0, 10**6), clips=st.integers(2, 7), fractional=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_mixed_loss_is_the_mixture_of_the_losses(seed: int, clips: int, fractional: bool) -> None:
    before = random_batch(clips, seed=seed, sources=1, fractional=fractional)
    after = mixup(before, generator=seeded(seed), probability=0.8)
    logits = {
        name: torch.randn(shape, generator=seeded(seed + 1), dtype=torch.float64) for name, shape in SHAPES.items()
    }
    for clip, (partner, share) in enumerate(plan_of(before, after)):
        for name in SHAPES:
            one, other = (bce(logits[name], before.targets[name][i], before.weight[name][i]) for i in (clip, partner))
            mixed = bce(logits[name], after.targets[name][clip], after.weight[name][clip])
            assert mixed == pytest.approx(share * one + (1 - share) * other, rel=1e-9, abs=1e-9)
            absent = (before.weight[name][clip] == 0) & (before.weight[name][partner] == 0)
            assert torch.equal(after.weight[name][clip] == 0, absent)
            assert not (after.targets[name][clip] * like_target(absent, len(SHAPES[name]))).any()
            assert after.targets[name].isfinite().all()
        assert after.valid_frames[clip] == max(before.valid_frames[clip], before.valid_frames[partner])


def test_one_mixture_by_hand() -> None:
    batch = Batch(
        waveform=torch.tensor([[1.0, 3.0], [0.0, 4.0]]),
        targets={"t": torch.tensor([[0.5, 0.0, 0.25, 0.0], [1.0, 0.75, 0.0, 0.0]])},
        weight={"t": torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])},
        valid_frames=torch.tensor([3, 9]),
        source=["a", "a"],
        key=["one", "two"],
    )
    plan = MixPlan(partner=torch.tensor([1, 1]), share=torch.tensor([0.75, 1.0], dtype=torch.float64))
    mixed = plan.mix(batch)
    assert mixed.waveform.tolist() == [[-1.25, 1.25], [0.0, 4.0]]
    assert mixed.weight["t"].tolist() == [[1.0, 0.25, 0.75, 0.0], [1.0, 1.0, 0.0, 0.0]]
    assert mixed.targets["t"].tolist() == [[0.625, 0.75, 0.25, 0.0], [1.0, 0.75, 0.0, 0.0]]
    assert mixed.valid_frames.tolist() == [9, 9]


def test_what_is_not_mixed_stays_bit_for_bit_and_the_batch_given_is_untouched() -> None:
    before = random_batch(12, dtype=torch.float32)
    copied = random_batch(12, dtype=torch.float32)
    for probability, mixed in ((0.0, 0), (0.5, None), (1.0, 12)):
        after = mixup(before, generator=seeded(3), probability=probability)
        changed = [i for i in range(12) if not torch.equal(before.waveform[i], after.waveform[i])]
        assert 0 < len(changed) < 12 if mixed is None else len(changed) == mixed
        for i in set(range(12)) - set(changed):
            for name in SHAPES:
                assert torch.equal(after.targets[name][i], before.targets[name][i])
                assert torch.equal(after.weight[name][i], before.weight[name][i])
        assert (after.key, after.source) == (before.key, before.source)
        assert after.waveform.dtype == torch.float32
        assert after.waveform[changed].mean(1).abs().max() < 1e-6 if changed else True
    assert torch.equal(before.waveform, copied.waveform)
    assert all(torch.equal(before.targets[name], copied.targets[name]) for name in SHAPES)
    assert all(torch.equal(before.weight[name], copied.weight[name]) for name in SHAPES)


def test_the_generator_alone_decides() -> None:
    before = random_batch(10)
    first, again, other = (mixup(before, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.waveform, again.waveform)
    assert torch.equal(first.targets["frame"], again.targets["frame"])
    assert not torch.equal(first.waveform, other.waveform)
    generator = seeded(1)
    mixup(before, generator=generator)
    assert not torch.equal(mixup(before, generator=generator).waveform, first.waveform)


def test_partners_are_other_clips_of_the_own_source_or_of_the_batch() -> None:
    before = random_batch(9, sources=3)
    crossed = 0
    for seed in range(8):
        within = plan_of(before, mixup(before, generator=seeded(seed), probability=1))
        across = plan_of(before, mixup(before, generator=seeded(seed), probability=1, partners="across"))
        assert all(before.source[clip] == before.source[partner] for clip, (partner, _) in enumerate(within))
        for plan in (within, across):
            assert sorted(partner for partner, _ in plan) == list(range(9))
            assert all(clip != partner for clip, (partner, _) in enumerate(plan))
        crossed += sum(before.source[clip] != before.source[partner] for clip, (partner, _) in enumerate(across))
    assert crossed > 30  # of 72, 54 expected


def test_a_clip_alone_in_its_source_stays() -> None:
    before = random_batch(3, sources=3)
    assert torch.equal(mixup(before, generator=seeded(0), probability=1).waveform, before.waveform)
    one = random_batch(1)
    assert torch.equal(mixup(one, generator=seeded(0), probability=1, partners="across").waveform, one.waveform)


@pytest.mark.parametrize(
    ("alpha", "symmetric", "quantile"),
    # Beta(2, 2) has distribution function 3 x^2 - 2 x^3, Beta(1, 1) is uniform; max(b, 1 - b) folds them at 1/2.
    [
        (2.0, False, lambda x: 3 * x**2 - 2 * x**3),
        (1.0, False, lambda x: x),
        (2.0, True, lambda x: 2 * (3 * x**2 - 2 * x**3) - 1 if x > 0.5 else 0.0),
    ],
)
def test_lambda_is_distributed_as_published(alpha: float, symmetric: bool, quantile: Callable[[float], float]) -> None:
    clips = 4_000
    batch = Batch(
        waveform=torch.zeros(clips, 2, dtype=torch.float64),
        targets={"t": (torch.arange(clips, dtype=torch.float64) % 2)[:, None]},
        weight={"t": (torch.arange(clips, dtype=torch.float64) % 2)[:, None]},
        valid_frames=torch.ones(clips, dtype=torch.int64),
        source=["s"] * clips,
        key=[str(i) for i in range(clips)],
    )
    mixed = mixup(batch, generator=seeded(4), probability=1, alpha=alpha, symmetric=symmetric)
    # A labelled clip with an unlabelled partner keeps weight lambda; any other pairing gives 0 or 1.
    weight = mixed.weight["t"][1::2, 0]
    shares = weight[weight < 1]
    assert 800 < len(shares) < 1_200
    for x in (0.1, 0.3, 0.5, 0.6, 0.7, 0.9):
        assert (shares <= x).double().mean().item() == pytest.approx(quantile(x), abs=0.06)


def test_a_frame_that_one_of_the_clips_has_teaches_with_its_share_of_the_weight() -> None:
    before = random_batch(2, sources=1, dtype=torch.float32)
    before.weight["a weight a frame"] = (torch.arange(7) < torch.tensor([3, 5])[:, None])[:, None].float()
    before.targets["a weight a frame"] = torch.rand(2, 5, 7, generator=seeded(0))
    plan = MixPlan(partner=torch.tensor([1, 1]), share=torch.tensor([0.25, 1.0], dtype=torch.float64))
    after = plan.mix(before)
    assert after.weight["a weight a frame"][0, 0].tolist() == [1, 1, 1, 0.75, 0.75, 0, 0]
    assert torch.equal(after.targets["a weight a frame"][0, :, 3:5], before.targets["a weight a frame"][1, :, 3:5])
    assert torch.equal(after.targets["a weight a frame"][0, :, 5:], before.targets["a weight a frame"][0, :, 5:])
    assert {name: weight.shape for name, weight in after.weight.items()} == {
        name: weight.shape for name, weight in before.weight.items()
    }


def test_tracks_stand_side_by_side_with_the_weights_they_had() -> None:
    batch = random_batch(3, sources=1, dtype=torch.float32)
    vectors = torch.rand(3, 4, 2, 3)  # time, track, xyz
    for weight in (torch.tensor([1.0, 0.5, 1.0]), (torch.rand(3, 4, 1, 1) > 0.3).float()):
        before = Batch(
            waveform=batch.waveform,
            targets={"doa": vectors},
            weight={"doa": weight},
            valid_frames=batch.valid_frames,
            source=batch.source,
            key=batch.key,
            axes={"doa": ("time", "track", "xyz")},
        )
        plan = MixPlan(partner=torch.tensor([1, 1, 0]), share=torch.tensor([0.6, 1.0, 0.9], dtype=torch.float64))
        after = plan.mix(before)
        assert after.targets["doa"].shape == (3, 4, 4, 3)
        assert torch.equal(after.targets["doa"][:, :, :2], vectors)
        assert torch.equal(after.targets["doa"][[0, 2], :, 2:], vectors[[1, 0]])
        assert not after.targets["doa"][1, :, 2:].any()
        full = like_target(weight, 4).expand(3, -1, 2, 1)
        assert after.weight["doa"].shape == (3, full.shape[1], 4, 1)
        assert torch.equal(after.weight["doa"][:, :, :2], full)
        assert torch.equal(after.weight["doa"][[0, 2], :, 2:], full[[1, 0]])
        assert not after.weight["doa"][1, :, 2:].any()
        assert after.axes == before.axes


def test_each_channel_loses_its_own_mean() -> None:
    before = random_batch(2, sources=1)
    foa = Batch(**{**vars(before), "waveform": torch.rand(2, 4, 640, dtype=torch.float64)})
    plan = MixPlan(partner=torch.tensor([1, 0]), share=torch.tensor([0.7, 0.8], dtype=torch.float64))
    for channel in range(4):
        alone = plan.mix(Batch(**{**vars(before), "waveform": foa.waveform[:, channel]}))
        torch.testing.assert_close(plan.mix(foa).waveform[:, channel], alone.waveform)


def test_features_and_targets_are_mixed_by_one_plan() -> None:
    before = random_batch(8)
    plan = mix_plan(before, generator=seeded(5), probability=0.7)
    both = mixup(before, generator=seeded(5), probability=0.7)
    mels = torch.rand(8, 3, 11, generator=seeded(6))
    mixed = mix_features(mels, plan)
    for clip, (partner, share) in enumerate(plan_of(before, both)):
        assert plan.partner[clip] == partner
        assert plan.share[clip].item() == pytest.approx(share)
        torch.testing.assert_close(mixed[clip], share * mels[clip] + (1 - share) * mels[partner])
    targets = plan.targets(before)
    assert targets.waveform is before.waveform
    assert all(torch.equal(targets.targets[name], both.targets[name]) for name in SHAPES)
    assert all(torch.equal(targets.weight[name], both.weight[name]) for name in SHAPES)
    assert torch.equal(targets.valid_frames, both.valid_frames)
    by_names = mix_plan(before.source, generator=seeded(5), probability=0.7)
    assert torch.equal(by_names.partner, plan.partner)
    assert torch.equal(by_names.share, plan.share)
    with pytest.raises(UsageError, match="8 clips got 7"):
        mix_features(mels[:7], plan)


def test_only_the_sources_named_are_mixed_and_with_each_other() -> None:
    source = ["a"] * 6 + ["b"] * 6 + ["c"] * 6
    for partners in ("within", "across"):
        plan = mix_plan(source, generator=seeded(0), probability=1, partners=partners, only=("a", "c"))
        taking_part = [*range(6), *range(12, 18)]
        assert plan.partner[6:12].tolist() == [*range(6, 12)]
        assert plan.share[6:12].tolist() == [1.0] * 6
        assert sorted(plan.partner[taking_part].tolist()) == taking_part
        crossed = sum(source[clip] != source[plan.partner[clip]] for clip in range(18))
        assert crossed == 0 if partners == "within" else crossed > 2
    assert mix_plan(source, generator=seeded(0), only="a").partner[6:].tolist() == [*range(6, 18)]


def mean_of_beta(alpha: float, beta: float, symmetric: bool) -> float:
    """E[b], or E[max(b, 1 - b)] = 1/2 + E|b - 1/2| = 1/2 + 4^-a / (a B(a, a)) for alpha = beta = a."""
    if not symmetric:
        return alpha / (alpha + beta)
    assert alpha == beta
    return 0.5 + 4**-alpha / (alpha * math.gamma(alpha) ** 2 / math.gamma(2 * alpha))


@pytest.mark.parametrize(
    ("name", "probability", "mean"),
    [
        ("waveform", 0.5, mean_of_beta(2, 2, True)),
        ("mel_strong", 0.3, mean_of_beta(0.2, 0.2, False)),
        ("mel_50_50_strong", 0.3, mean_of_beta(0.3, 0.2, False)),
        ("mel_50_50_weak", 1.0, mean_of_beta(0.3, 0.3, True)),
    ],
)
def test_presets_are_the_published_ones(name: str, probability: float, mean: float) -> None:
    plan = mix_plan(["s"] * 20_000, generator=seeded(1), **MIXUP_PRESETS[name])
    mixed = plan.partner != torch.arange(20_000)
    assert mixed.double().mean().item() == pytest.approx(probability, abs=0.015)
    assert plan.share[mixed].mean().item() == pytest.approx(mean, abs=0.015)
    if MIXUP_PRESETS[name]["symmetric"]:
        assert plan.share[mixed].min() >= 0.5


@pytest.mark.parametrize("options", [{"probability": 1.5}, {"alpha": 0.0}, {"beta": 0.0}, {"partners": "anywhere"}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="mixup got"):
        mixup(random_batch(2), generator=seeded(0), **options)  # type: ignore[arg-type]
