"""ATST-F's own: what a token hears, and where the positions of a shorter context lie."""

import torch

from teachers.families._atst import Atst, atst_features
from teachers.families._vit import VitConfig

CONFIG = VitConfig(width=24, layers=1, heads=3)


def random_atst() -> Atst:
    model, generator = Atst(CONFIG).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def test_a_token_is_a_linear_map_of_four_columns_bin_by_bin() -> None:
    model = random_atst()
    features = torch.randn(2, 64, 1001, generator=torch.Generator().manual_seed(1))
    tokens = model.patch_embed(features)
    weight = model.patch_embed.patch_embed.weight.view(24, 64, 4)
    expected = torch.nn.functional.conv2d(
        features[:, None], weight[:, None], model.patch_embed.patch_embed.bias, stride=4
    )
    assert tokens.shape == (2, 250, 24)
    torch.testing.assert_close(tokens, expected[:, :, 0].transpose(1, 2), atol=1e-4, rtol=0)


def test_a_shorter_context_has_the_first_positions() -> None:
    model = random_atst()
    model.blocks = torch.nn.Identity()
    features = torch.randn(1, 64, 1001, generator=torch.Generator().manual_seed(1))
    whole = model(features)
    for columns, tokens in ((501, 125), (401, 100), (201, 50)):
        part = model(features[..., :columns])
        assert part.shape == (1, tokens, 24)
        torch.testing.assert_close(part, whole[:, :tokens])


def test_the_class_tokens_position_is_not_used() -> None:
    model = random_atst()
    features = torch.randn(1, 64, 1001, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(features)
        model.pos_embed[:, 0] += torch.linspace(-5.0, 5.0, 24)
        assert torch.equal(model(features), before)
        model.pos_embed[:, 1] += torch.linspace(-5.0, 5.0, 24)  # all dimensions alike, the norms would take out
        assert not torch.equal(model(features), before)


def test_decibels_are_scaled_to_the_published_range() -> None:
    silence = atst_features(torch.zeros(1, 16_000))
    torch.testing.assert_close(silence, torch.full((1, 64, 101), (79.6482 - 50.0) / (79.6482 + 50.6842) * 2 - 1))
