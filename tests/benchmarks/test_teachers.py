"""What the benchmark measures teachers beside is what it says."""

import pytest
import torch

from benchmarks.random_teachers import family_of
from benchmarks.teacher_peers._products import Product, by_onednn, by_torch, products
from benchmarks.teacher_peers._published_beats import published_beats
from tests.teachers.tiny_families import tiny_teacher


def test_the_restated_loop_says_what_beats_says() -> None:
    teacher = tiny_teacher("beats")
    clips = 0.1 * torch.randn(3, 160_000, generator=torch.Generator().manual_seed(0))
    want = teacher.frame_logits(clips)
    torch.testing.assert_close(published_beats(teacher)(clips), want, atol=1e-4, rtol=0)
    half = published_beats(teacher, torch.bfloat16)(clips)
    assert 0 < float((half - want).abs().mean()) < 0.1
    torch.testing.assert_close(teacher.frame_logits(clips), want, atol=0, rtol=0)  # the copy was cast, not the teacher


@pytest.mark.parametrize(("name", "tokens"), [("beats", 496), ("atst", 250), ("fpasst", 252), ("asit", 497)])
def test_products_are_those_of_a_vit_b(name: str, tokens: int) -> None:
    stem_and_head = {(256, 512), (512, 768), (256, 768), (768, 447)}
    blocks = [
        product for product in products(family_of(name))
        if product.rows == tokens and (product.inner, product.columns) not in stem_and_head
    ]  # fmt: skip
    linear = 12 * (4 * 768 * 768 + 2 * 768 * 3072) * tokens
    attention = 12 * 2 * tokens * tokens * 768
    assert sum(product.operations for product in blocks) == 2 * (linear + attention)


def test_bare_products_run() -> None:
    wanted = [Product(rows=5, inner=8, columns=3), Product(rows=5, inner=8, columns=5, batch=4)]
    for run in (by_torch(wanted), by_torch(wanted, torch.bfloat16), by_onednn(wanted)):
        run()
