"""fPaSST's own: how the stem lays out channels and bins, what a token hears, positions of a shorter context."""

import torch
import torch.nn.functional as F

from teachers.families._fpasst import Fpasst
from teachers.families._vit import VitConfig

CONFIG = VitConfig(width=24, layers=1, heads=3)


def random_fpasst() -> Fpasst:
    model, generator = Fpasst(CONFIG).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def test_a_token_hears_its_column_of_the_stem_and_the_next() -> None:
    """Token by token: channel 4 c + b / 32 at bin b % 32 of the stem is channel c, bin b, of the patch embedding."""
    model = random_fpasst()
    stem = torch.randn(1, 64, 32, 9, generator=torch.Generator().manual_seed(1))
    weight, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    columns = model.patch_embed(stem.reshape(1, 16, 128, 9))
    assert columns.shape == (1, 24, 1, 9)
    for t in range(9):
        expected = bias.clone()
        for c in range(16):
            for b in range(128):
                channel, bin_ = 4 * c + b // 32, b % 32
                expected += weight[:, c, b, 0] * stem[0, channel, bin_, t]
                if t < 8:
                    expected += weight[:, c, b, 1] * stem[0, channel, bin_, t + 1]
        torch.testing.assert_close(columns[0, :, 0, t], expected, atol=1e-4, rtol=0)


def test_the_model_is_its_parts() -> None:
    """The whole forward pass again, with the transformer's block taken out."""
    model = random_fpasst()
    model.blocks = torch.nn.Identity()
    features = torch.randn(2, 128, 1000, generator=torch.Generator().manual_seed(1))
    stem = F.gelu(model.conv_in_3(F.gelu(model.conv_in_2(F.gelu(model.conv_in_1(features[:, None]))))))
    assert stem.shape == (2, 64, 32, 250)
    padded = F.pad(stem.reshape(2, 16, 128, 250), (1, 1))
    columns = F.conv2d(padded, model.patch_embed.proj.weight, model.patch_embed.proj.bias)[:, :, 0, 1:]
    positions = model.time_new_pos_embed[:, :, 0] + model.freq_new_pos_embed[:, :, 0]
    expected = model.norm((columns + positions).transpose(1, 2))
    torch.testing.assert_close(model(features), expected, atol=1e-5, rtol=0)


def test_class_and_distillation_token_are_heard_but_not_given() -> None:
    model = random_fpasst()
    features = torch.randn(1, 128, 400, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(features)
        assert before.shape == (1, 100, 24)
        for name in ("cls_token", "dist_token"):
            getattr(model, name).add_(torch.linspace(-1.0, 1.0, 24))
            after = model(features)
            assert not torch.equal(after, before), name
            before = after


def test_a_shorter_context_has_the_first_positions() -> None:
    model = random_fpasst()
    model.blocks = torch.nn.Identity()
    features = torch.randn(1, 128, 1000, generator=torch.Generator().manual_seed(1))
    whole = model(features)
    for columns, tokens in ((500, 125), (400, 100), (200, 50)):
        part = model(features[..., :columns])
        assert part.shape == (1, tokens, 24)
        # The last two hear what was cut off.
        torch.testing.assert_close(part[:, :-2], whole[:, : tokens - 2])
