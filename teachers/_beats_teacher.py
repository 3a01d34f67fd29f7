"""BEATs as a teacher, from unilm's fine-tuned checkpoints (any classes) or PretrainedSED's strong ones (447)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import FRAMES, AudioSpec, TeacherError, Vocabulary, audioset_strong_447, class_name
from teachers._beats import FBANK, Beats, BeatsConfig, beats_features
from teachers._checkpoints import Checkpoint, fill, looks_like, read_checkpoint
from teachers._teacher import Teacher

# Part of the provenance: raised when the same checkpoint and clip would give other numbers.
_STAGE_VERSION = 1
_STRONG_PREFIXES = ("model.model.", "model.beats.")
_WEIGHT_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
_TABLE = "self_attn.relative_attention_bias.weight"
# What this code always builds. A cfg that says otherwise is another model; a silent one is settled by its tensors.
_FIXED = {"layer_norm_first": False, "activation_fn": "gelu", "relative_position_embedding": True, "gru_rel_pos": True}


class BeatsTeacher(Teacher):
    """`model` is Beats (unilm layout) or StrongBeats; both map `beats_features` to frame and clip logits."""

    def __init__(
        self, model: "Beats | StrongBeats", vocabulary: Vocabulary, provenance: dict[str, Any], device: torch.device
    ) -> None:
        super().__init__(
            audio_spec=AudioSpec(sample_rate=FBANK.sample_rate),
            vocabulary=vocabulary,
            provenance=provenance,
            device=device,
        )
        self.model = model.to(device).eval().requires_grad_(False)

    def _frame_logits(self, waveforms: Tensor) -> Tensor:
        return self.model.frame_logits(beats_features(waveforms))

    def _clip_logits(self, waveforms: Tensor) -> Tensor:
        if isinstance(self.model, StrongBeats) and self.model.weak_head is None:
            return super()._clip_logits(waveforms)
        return self.model.clip_logits(beats_features(waveforms))


class StrongBeats(nn.Module):
    """PretrainedSED's heads on BEATs: the flattened time-major tokens pooled to 250 frames, then a Linear each."""

    def __init__(self, config: BeatsConfig, classes: int, *, weak_head: bool) -> None:
        super().__init__()
        self.model = Beats(config)
        self.strong_head = nn.Linear(config.encoder_embed_dim, classes)
        self.weak_head = nn.Linear(config.encoder_embed_dim, classes) if weak_head else None

    def frames(self, features: Tensor) -> Tensor:
        """[B, 998, 128] -> embeddings [B, 250, width]: 2-3 neighbouring *frequency* tokens a frame, as trained."""
        return F.adaptive_avg_pool1d(self.model(features).transpose(1, 2), FRAMES).transpose(1, 2)

    def frame_logits(self, features: Tensor) -> Tensor:
        return self.strong_head(self.frames(features)).transpose(1, 2)

    def clip_logits(self, features: Tensor) -> Tensor:
        if self.weak_head is None:
            raise TypeError("this checkpoint has no weak_head")
        return self.weak_head(self.frames(features).mean(dim=1))


def load_beats(path: Path, device: torch.device) -> BeatsTeacher:
    """Either layout, told apart by what the file holds. Raises TeacherError with the file and the reason."""
    checkpoint = read_checkpoint(path)
    if {"cfg", "model"} & checkpoint.content.keys():
        layout, load = "unilm", _unilm
    else:
        layout, load = "pretrained_sed", _strong
    model, vocabulary = load(checkpoint)
    provenance = {
        "family": "beats",
        "checkpoint_sha256": checkpoint.sha256,
        "layout": layout,
        "precision": "float32",
        "front_end": "kaldi_fbank",
        "stage_version": _STAGE_VERSION,
    }
    return BeatsTeacher(model, vocabulary, provenance, device)


def _strong(checkpoint: Checkpoint) -> tuple[Beats | StrongBeats, Vocabulary]:
    path, content = checkpoint.path, checkpoint.content
    _require_family(content, path)
    if "strong_head.weight" not in content:
        raise TeacherError(
            f"{path}: BEATs without strong_head.weight (pre-trained or weak only); give the strong_1 checkpoint"
        )
    vocabulary = audioset_strong_447()
    tensors = _own_names(content, BeatsConfig(), path, prefix="model.")
    weak_head = "weak_head.weight" in tensors
    model = fill(lambda: StrongBeats(BeatsConfig(), len(vocabulary), weak_head=weak_head), tensors, path)
    _check_shared_table(tensors, path)
    return model, vocabulary


def _unilm(checkpoint: Checkpoint) -> tuple[Beats | StrongBeats, Vocabulary]:
    path, content = checkpoint.path, checkpoint.content
    tensors = content.get("model")
    if not isinstance(tensors, dict) or not isinstance(content.get("cfg"), dict):
        raise TeacherError(
            f"{path}: has {', '.join(map(str, content))}; a unilm file needs dicts cfg and model; download it again"
        )
    _require_family(tensors, path)
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


def _require_family(keys: Mapping[str, Any], path: Path) -> None:
    family = looks_like(keys)
    if family != "BEATs":
        some = ", ".join(str(key) for key in list(keys)[:3])
        raise TeacherError(f"{path}: tensors of {family} ({some}, ...), not of BEATs; load it with its own family")


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


def _check_shared_table(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Of tables that differ the last would win unseen. `tensors` has the model's names and shapes by now."""
    (_, first), *others = [(name, tensor) for name, tensor in tensors.items() if name.endswith(_TABLE)]
    for name, tensor in others:
        if not torch.equal(tensor.float(), first.float()):
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
