import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import UsageError
from shards import weighted_bce, weighted_bce_sums

REPOSITORY = Path(__file__).resolve().parents[2]


def random_case(seed, shape, weight_axes):
    """Logits, probabilities, and weights of which about a third is 0."""
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(shape, generator=generator)
    target = torch.rand(shape, generator=generator)
    weight = (1.5 * torch.rand(shape[:weight_axes], generator=generator) - 0.5).clamp(0, 1)
    return logits, target, weight


def clip_by_clip(logits, target, weight):
    """The normaliser as it is documented, in a loop."""
    losses = []
    for x, t, w in zip(logits.double(), target.double(), weight.double(), strict=True):
        w = w.reshape(w.shape + (1,) * (t.ndim - w.ndim)).expand_as(t)
        cells = [
            (float(b), -float(b) * (float(p) * math.log(q) + (1 - float(p)) * math.log1p(-q)))
            for a, p, b in zip(x.flatten(), t.flatten(), w.flatten(), strict=True)
            for q in [1 / (1 + math.exp(-float(a)))]
        ]
        present = [loss for b, loss in cells if b > 0]
        if present:
            losses.append(math.fsum(present) / len(present))
    return math.fsum(losses), len(losses)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 5)),
    weight_axes=st.integers(1, 3),
)
def test_equals_the_documented_normaliser(seed, sizes, weight_axes):
    shape = tuple(size for size in sizes if size)
    case = random_case(seed, shape, min(weight_axes, len(shape)))
    expected_sum, expected_clips = clip_by_clip(*case)
    loss_sum, clips = weighted_bce_sums(*case)
    assert float(loss_sum) == pytest.approx(expected_sum, rel=1e-5, abs=1e-7)
    assert float(clips) == expected_clips
    assert float(weighted_bce(*case)) == pytest.approx(expected_sum / max(expected_clips, 1), rel=1e-5, abs=1e-7)


def test_mixing_targets_is_mixing_losses():
    """The loss of mixed targets and weights is the mixture of the two clips' losses, absent labels included."""
    generator = torch.Generator().manual_seed(0)
    logits, p1, p2 = torch.randn(3, 1, 4, 6, generator=generator).unbind()
    share = 0.7
    for w1, w2 in ((torch.ones(1, 4, 6), torch.ones(1, 4, 6)), (torch.ones(1, 4, 6), torch.zeros(1, 4, 6))):
        p1, p2 = p1.sigmoid(), p2.sigmoid()
        weight = share * w1 + (1 - share) * w2
        target = (share * w1 * p1 + (1 - share) * w2 * p2) / weight
        mixture = share * weighted_bce(logits, p1, w1) + (1 - share) * weighted_bce(logits, p2, w2)
        assert float(weighted_bce(logits, target, weight)) == pytest.approx(float(mixture), rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 1, 5), (3, 4, 1), (3, 1, 1), (3, 1), (3, 4)])
def test_a_weight_for_many_cells_is_that_of_each(shape):
    logits, target, _ = random_case(1, (3, 4, 5), 3)
    weight = (1.5 * torch.rand(shape, generator=torch.Generator().manual_seed(2)) - 0.5).clamp(0, 1)
    weight[0] = 0
    full = weight.reshape(*shape, *(1,) * (3 - len(shape))).expand(3, 4, 5)
    logits.requires_grad_()
    small, large = (weighted_bce(logits, target, each) for each in (weight, full.clone()))
    assert small.item() == pytest.approx(large.item(), rel=1e-6)
    gradients = [torch.autograd.grad(each, logits)[0] for each in (small, large)]
    torch.testing.assert_close(*gradients)
    assert weighted_bce_sums(logits, target, weight)[1] == (full.amax(dim=(1, 2)) > 0).sum()


def test_an_absent_label_neither_teaches_nor_dilutes():
    logits, target, _ = random_case(0, (2, 3, 5), 3)
    logits.requires_grad_()
    target[1] = math.nan
    loss = weighted_bce(logits, target, torch.tensor([1.0, 0.0]))
    loss.backward()
    assert loss.item() == pytest.approx(weighted_bce(logits[:1], target[:1], torch.ones(1)).item())
    assert logits.grad[0].abs().min() > 0
    assert torch.equal(logits.grad[1], torch.zeros(3, 5))


def test_no_label_at_all_is_zero_with_zero_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = weighted_bce(logits, torch.zeros(2, 3), torch.zeros(2))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("target", "weight"),
    [((2, 4), (2,)), ((2, 3), (3,)), ((2, 3), ()), ((2, 3), (2, 2)), ((2, 3), (1, 3)), ((2, 3), (2, 3, 1))],
)
def test_refuses_shapes_that_do_not_fit(target, weight):
    with pytest.raises(UsageError, match="equal shapes"):
        weighted_bce(torch.zeros(2, 3), torch.zeros(target), torch.ones(weight))


def test_two_ranks_average_to_the_gradient_of_all_clips(tmp_path):
    case = random_case(7, (6, 3, 4), 1)
    # Unequal parts with unequal shares of labelled clips: the mean of the ranks' own means would be wrong.
    parts = [[values[part].clone() for values in case] for part in (slice(0, 2), slice(2, 6))]
    assert len({(part[2] > 0).float().mean().item() for part in parts}) == 2
    store = tmp_path / "store"
    for rank, part in enumerate(parts):
        torch.save(part, f"{store}.{rank}.in.pt")
    command = [sys.executable, Path(__file__).with_name("loss_of_rank.py")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([*command, str(rank), str(store)], env=environment) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]

    logits, target, weight = case
    logits.requires_grad_()
    loss = weighted_bce(logits, target, weight)
    loss.backward()
    losses, gradients = zip(*(torch.load(f"{store}.{rank}.out.pt") for rank in (0, 1)), strict=True)
    torch.testing.assert_close(sum(losses) / 2, loss.detach())
    torch.testing.assert_close(torch.cat(gradients) / 2, logits.grad)
