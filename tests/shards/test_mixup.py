"""Mixup against the two losses it stands for, in float64, and against a plan read back from what it did."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline import UsageError
from shards import Batch, mixup
from shards.loader._mixup import _mix

SHAPES = {"clip": (5,), "frame": (5, 7), "hard_strong": (5, 7), "one weight a class": (5, 7)}
WEIGHT_SHAPES = {**SHAPES, "one weight a class": (5, 1)}


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
    targets = {name: random(clips, *shape) * (weight[name] > 0) for name, shape in SHAPES.items()}
    weight["one weight a class"] = weight["one weight a class"][..., 0]
    return Batch(
        waveform=random(clips, 640) - 0.3,
        targets=targets,
        weight=weight,
        valid_frames=torch.randint(1, 8, (clips,), generator=generator),
        source=[f"s{i * sources // clips}" for i in range(clips)],
        key=[f"clip{i}" for i in range(clips)],
    )


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
    weight = weight.reshape(*weight.shape, *(1,) * (target.dim() - weight.dim()))
    return (weight * binary_cross_entropy_with_logits(logits, target, reduction="none")).sum().item()


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
            assert not after.targets[name][clip][absent].any()
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
    mixed = _mix(batch, torch.tensor([0]), torch.tensor([1]), torch.tensor([0.75], dtype=torch.float64))
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


@pytest.mark.parametrize("options", [{"probability": 1.5}, {"alpha": 0.0}, {"partners": "anywhere"}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="mixup got"):
        mixup(random_batch(2), generator=seeded(0), **options)  # type: ignore[arg-type]
