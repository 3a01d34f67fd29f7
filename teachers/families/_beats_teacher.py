"""BEATs as a teacher, from unilm's fine-tuned checkpoints (any classes) or PretrainedSED's strong ones (447)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import FRAMES, AudioSpec, TeacherError, Vocabulary, class_name
from teachers._checkpoints import Checkpoint, fill, read_checkpoint
from teachers._teacher import Teacher
from teachers.families._beats import BEATS_FEATURES, FBANK, Beats, BeatsConfig
from teachers.families._parts import cast_linears, frozen, to_frames
from teachers.families._strong import StrongFamily, StrongModel, load_strong, require_family

# Part of the provenance: raised when the same checkpoint and clip would give other numbers.
_STAGE_VERSION = 1
CONTEXTS_MS = (10_000, 5_000, 4_000, 2_000)
_STRONG_PREFIXES = ("model.model.", "model.beats.")
_WEIGHT_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
_TABLE = "self_attn.relative_attention_bias.weight"
# What this code always builds. A cfg that says otherwise is another model; a silent one is settled by its tensors.
_FIXED = {"layer_norm_first": False, "activation_fn": "gelu", "relative_position_embedding": True, "gru_rel_pos": True}


class BeatsTeacher(Teacher):
    """Beats in unilm's layout, fine-tuned on clips: its predictor on every token, columns averaged, then interpolated.

    Relative positions alone: any context is as good as another.
    """

    def __init__(self, model: Beats, vocabulary: Vocabulary, provenance: dict[str, Any], device: torch.device) -> None:
        super().__init__(
            audio_spec=AudioSpec(sample_rate=FBANK.sample_rate), vocabulary=vocabulary, provenance=provenance,
            device=device, protocol="clip", front_end=BEATS_FEATURES, contexts_ms=CONTEXTS_MS,
        )  # fmt: skip
        self.model = frozen(model, device)

    def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
        return self.model.frame_logits(features, frames)

    def _clip_logits(self, features: Tensor, frames: int) -> Tensor:
        return self.model.clip_logits(features)

    def _cast(self, precision: str) -> None:
        cast_linears(self.model, precision)


class StrongBeats(StrongModel):
    """PretrainedSED's heads on BEATs. Its 10 s heads learned the flattened time-major token list, in which a frame is
    the mean of 2-3 neighbouring *frequency* tokens; in a shorter context that would place frames up to 220 ms early,
    so there the tokens of a column are averaged first, and columns stand where they stand at the start of 10 s."""

    model: Beats

    def __init__(self, config: BeatsConfig, classes: int, *, weak_head: bool) -> None:
        super().__init__(Beats(config), width=config.encoder_embed_dim, classes=classes, weak_head=weak_head)

    def frames(self, features: Tensor, frames: int) -> Tensor:
        if frames == FRAMES:
            return to_frames(self.model(features), frames)
        return self.model.column_frames(features, frames)


def load_beats(path: Path, device: torch.device) -> Teacher:
    """Either layout, told apart by what the file holds. Raises TeacherError with the file and the reason."""
    checkpoint = read_checkpoint(path)
    if not {"cfg", "model"} & checkpoint.content.keys():
        return load_strong(checkpoint, device, BEATS_STRONG)
    model, vocabulary = _unilm(checkpoint)
    provenance = {
        "family": "beats",
        "checkpoint_sha256": checkpoint.sha256,
        "layout": "unilm",
        "stage_version": _STAGE_VERSION,
    }
    return BeatsTeacher(model, vocabulary, provenance, device)


def _strong_names(checkpoint: Checkpoint) -> dict[str, Any]:
    tensors = _own_names(checkpoint.content, BeatsConfig(), checkpoint.path, prefix="model.")
    _check_shared_table(tensors, checkpoint.path)
    return tensors


BEATS_STRONG = StrongFamily(
    name="beats",
    published="BEATs",
    front_end=BEATS_FEATURES,
    build=lambda classes, weak_head: StrongBeats(BeatsConfig(), classes, weak_head=weak_head),
    own_names=_strong_names,
    contexts_ms=CONTEXTS_MS,
    stage_version=_STAGE_VERSION,
)


def _unilm(checkpoint: Checkpoint) -> tuple[Beats, Vocabulary]:
    path, content = checkpoint.path, checkpoint.content
    tensors = content.get("model")
    if not isinstance(tensors, dict) or not isinstance(content.get("cfg"), dict):
        raise TeacherError(
            f"{path}: has {', '.join(map(str, content))}; a unilm file needs dicts cfg and model; download it again"
        )
    require_family(checkpoint, tensors, "BEATs")
    if "predictor.weight" not in tensors or "label_dict" not in content:
        raise TeacherError(
            f"{path}: no label_dict or predictor, so no classes (pre-trained only); give a fine-tuned checkpoint"
        )
    config = _config(content["cfg"], path)
    vocabulary = _vocabulary(content["label_dict"], config.predictor_class, path)
    tensors = _own_names(tensors, config, path)
    model = fill(lambda: Beats(config), tensors, path)
    _check_shared_table(tensors, path)
    return model, vocabulary


def _own_names(tensors: Mapping[str, Any], config: BeatsConfig, path: Path, *, prefix: str = "") -> dict[str, Any]:
    """The file's tensors under this module tree's names, where BEATs sits at `prefix`.

    Files spell weight norm in two ways, and list the one relative bias table under layer 0 alone or under every layer.
    """
    named: dict[str, Any] = {}
    for key, tensor in tensors.items():
        name = str(key)
        if prefix:
            name = next((prefix + name.removeprefix(seen) for seen in _STRONG_PREFIXES if name.startswith(seen)), name)
        for released, own in _WEIGHT_NORM.items():
            name = name.replace(f"pos_conv.0.{released}", f"pos_conv.0.{own}")
        if name in named:
            raise TeacherError(
                f"{path}: holds {name} twice, under two spellings; give the checkpoint as it was released"
            )
        named[name] = tensor
    first = f"{prefix}encoder.layers.0.{_TABLE}"
    if first in named:
        for layer in range(1, config.encoder_layers):
            named.setdefault(f"{prefix}encoder.layers.{layer}.{_TABLE}", named[first])
    return named


def _check_shared_table(tensors: Mapping[str, Any], path: Path) -> None:
    """Of tables that differ the last would win unseen. What is no table of the right shape `fill` refuses."""
    tables = [(name, table) for name, table in tensors.items() if name.endswith(_TABLE) and isinstance(table, Tensor)]
    for name, table in tables[1:]:
        first = tables[0][1]
        if table.shape == first.shape and not torch.equal(table.float(), first.float()):
            raise TeacherError(
                f"{path}: {name} differs from layer 0's; BEATs shares one table, give a checkpoint as released"
            )


def _config(cfg: Mapping[str, Any], path: Path) -> BeatsConfig:
    for name, value in _FIXED.items():
        if cfg.get(name, value) != value:
            raise TeacherError(f"{path}: cfg.{name} is {cfg[name]!r}, needs {value!r}; no other BEATs is supported")
    sizes: dict[str, Any] = {}
    for name, default in ((field.name, field.default) for field in BeatsConfig.__dataclass_fields__.values()):
        value = cfg.get(name)
        if type(value) is not type(default) or (type(value) is int and not 0 < value <= 65_536):
            raise TeacherError(
                f"{path}: cfg.{name} is {value!r}, needs a {'flag' if type(default) is bool else 'positive integer'}"
            )
        sizes[name] = value
    config = BeatsConfig(**sizes)
    if (
        config.encoder_embed_dim % config.encoder_attention_heads
        or config.encoder_embed_dim % config.conv_pos_groups
        or FBANK.mel_bins % config.input_patch_size
        or not 4 <= config.num_buckets < 4 * config.max_distance
    ):
        raise TeacherError(
            f"{path}: cfg is inconsistent ({config}); heads and groups must divide the width, patches the mel bins"
        )
    return config


def _vocabulary(label_dict: object, classes: int, path: Path) -> Vocabulary:
    if not isinstance(label_dict, dict) or set(label_dict) != set(range(classes)):
        size = len(label_dict) if isinstance(label_dict, dict) else type(label_dict).__name__
        raise TeacherError(
            f"{path}: label_dict has {size} classes, its predictor {classes}; needs one MID per index 0..{classes - 1}"
        )
    mids = tuple(label_dict[index] for index in range(classes))
    if not all(isinstance(mid, str) for mid in mids) or len(set(mids)) != classes:
        raise TeacherError(f"{path}: label_dict repeats a MID or holds something else; needs {classes} different MIDs")
    return Vocabulary(mids, tuple(class_name(mid) for mid in mids))
