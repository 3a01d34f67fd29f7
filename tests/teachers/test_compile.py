"""Front ends and models are one graph each: nothing in them makes torch.compile fall back or read a value back."""

from collections.abc import Iterator

import pytest
import torch

from teachers.families._strong import StrongTeacher
from tests.teachers.tiny_families import FULL, tiny_teacher


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(params=FULL)
def teacher(request: pytest.FixtureRequest) -> StrongTeacher:
    return tiny_teacher(request.param)


# The cached windows and mel banks are traced as if they were not cached, which is right if slow.
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
def test_a_front_end_is_one_graph(teacher: StrongTeacher) -> None:
    clips = 0.1 * torch.randn(2, 160_000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        want = teacher.front_end.compute(clips)
        got = torch.compile(teacher.front_end.compute, backend="eager", fullgraph=True)(clips)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_a_model_is_one_graph_at_its_longest_and_shortest_context(teacher: StrongTeacher) -> None:
    clips = 0.1 * torch.randn(2, 160_000, generator=torch.Generator().manual_seed(0))
    model = torch.compile(teacher._frame_logits, backend="eager", fullgraph=True, dynamic=False)
    with torch.inference_mode():
        for context_ms in {max(teacher.contexts_ms), min(teacher.contexts_ms)}:
            features = teacher.front_end.compute(clips[:, : context_ms * 16])
            want = teacher._frame_logits(features, context_ms // 40)
            torch.testing.assert_close(model(features, context_ms // 40), want, atol=1e-5, rtol=0)


def test_clip_logits_are_one_graph(teacher: StrongTeacher) -> None:
    features = teacher.front_end.compute(torch.zeros(2, 160_000))
    with torch.inference_mode():
        got = torch.compile(teacher._clip_logits, backend="eager", fullgraph=True)(features, 250)
        torch.testing.assert_close(got, teacher._clip_logits(features, 250), atol=1e-5, rtol=0)
