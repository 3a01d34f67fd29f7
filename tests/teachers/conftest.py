"""Checkpoints for teacher tests: small ones made here, full-size ones filled by the parity rules."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from teachers.families._beats import Beats, BeatsConfig

PARITY = Path(__file__).resolve().parent.parent / "parity"
SMALL = BeatsConfig(
    embed_dim=24,
    encoder_layers=3,
    encoder_embed_dim=48,
    encoder_ffn_embed_dim=64,
    encoder_attention_heads=4,
    conv_pos=16,
    conv_pos_groups=4,
    num_buckets=32,
    max_distance=100,
    predictor_class=7,
)
MIDS = ("/m/09x0r", "/m/0bt9lr", "/m/of_nobody", "/m/04rlf", "/t/dd00088", "/m/0k4j", "/m/07yv9")


def random_beats(config: BeatsConfig, seed: int = 0) -> Beats:
    """Every parameter random, biases and gates too, and no two layers alike."""
    model = Beats(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.std() if parameter.numel() > 1 and parameter.std() > 0 else torch.tensor(0.3)
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def small_model() -> Beats:
    return random_beats(SMALL)


@pytest.fixture
def small_checkpoint(small_model: Beats) -> dict[str, Any]:
    """A fine-tuned unilm checkpoint as a dict, to be saved as it is or damaged first."""
    cfg = {
        **asdict(SMALL),
        "layer_norm_first": False,
        "activation_fn": "gelu",
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "finetuned_model": True,
        "dropout": 0.1,
    }
    model = {key: tensor.detach().clone() for key, tensor in small_model.state_dict().items()}
    return {"cfg": cfg, "model": model, "label_dict": dict(enumerate(MIDS))}


@pytest.fixture
def save(tmp_path: Path) -> Callable[[object], Path]:
    def save(content: object) -> Path:
        torch.save(content, tmp_path / "beats.pt")
        return tmp_path / "beats.pt"

    return save


def parity_checkpoint(rules: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint of a cut-down fixture, by the rules of tests/parity/README.md."""
    tensors: dict[str, Tensor] = {}
    for rule in rules["tensors"]:
        if "values" in rule:
            tensors[rule["key"]] = torch.tensor(rule["values"])
            continue
        for number in range(rule.get("count", 1)):
            key = rule["key"].replace("{}", str(number))
            digest = hashlib.sha256(f"{rules['seed']}:{rule.get('seeded_by', key)}".encode()).digest()
            normal = np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(
                rule["shape"], dtype=np.float32
            )
            values = rule["mean"] + rule["std"] * normal
            tensors[key] = torch.from_numpy(np.abs(values) if rule["absolute"] else values)
    if "cfg" in rules:
        return {"cfg": rules["cfg"], "model": tensors, "label_dict": dict(enumerate(rules["label_dict"]))}
    return tensors


def parity_rules(name: str) -> dict[str, Any]:
    return json.loads((PARITY / f"{name}.json").read_text())
