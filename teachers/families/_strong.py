"""PretrainedSED's strong checkpoints: a transformer, its tokens brought to 40 ms frames, a Linear head for frames
and, in most files, one for clips.

Source: Schmid et al., "Effective Pre-Training of Audio Transformers for Sound Event Detection", ICASSP 2025.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import CLIP_MS, AudioSpec, TeacherError, Vocabulary, audioset_strong_447
from teachers._checkpoints import Checkpoint, fill, looks_like
from teachers._teacher import FrontEnd, Teacher
from teachers.families._parts import cast_linears, frozen, to_frames

# Published name -> ours, as `--teacher` spells it.
_FAMILIES = {"BEATs": "beats", "ATST-F": "atst", "fPaSST": "fpasst", "M2D": "m2d", "ASiT": "asit"}


class StrongModel(nn.Module):
    """`model` maps features to tokens [B, L, width] in time order; the file's keys for it start with `model.`."""

    def __init__(self, model: nn.Module, *, width: int, classes: int, weak_head: bool) -> None:
        super().__init__()
        self.model = model
        self.strong_head = nn.Linear(width, classes)
        self.weak_head = nn.Linear(width, classes) if weak_head else None

    def frames(self, features: Tensor, frames: int) -> Tensor:
        """Embeddings [B, frames, width] in float32."""
        return to_frames(self.model(features).float(), frames)

    def frame_logits(self, features: Tensor, frames: int) -> Tensor:
        """[B, classes, frames]."""
        return self.strong_head(self.frames(features, frames)).transpose(1, 2)

    def clip_logits(self, features: Tensor, frames: int) -> Tensor:
        """[B, classes]: the head on the mean frame."""
        if self.weak_head is None:
            raise TypeError("this checkpoint has no weak_head")
        return self.weak_head(self.frames(features, frames).mean(dim=1))


class StrongTeacher(Teacher):
    """A StrongModel with its front end."""

    def __init__(
        self, model: StrongModel, *, front_end: FrontEnd, contexts_ms: tuple[int, ...], vocabulary: Vocabulary,
        provenance: Mapping[str, Any], device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(
            audio_spec=AudioSpec(), vocabulary=vocabulary, provenance=provenance, device=device, protocol="frame",
            front_end=front_end, contexts_ms=contexts_ms,
        )  # fmt: skip
        self.model = frozen(model, device)

    @property
    def has_clip_logits(self) -> bool:
        return self.model.weak_head is not None

    def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
        return self.model.frame_logits(features, frames)

    def _clip_logits(self, features: Tensor, frames: int) -> Tensor:
        return self.model.clip_logits(features, frames)

    def _cast(self, precision: str) -> None:
        cast_linears(self.model, precision)


@dataclass(frozen=True, kw_only=True)
class StrongFamily:
    """What tells one family of strong checkpoints from another.

    name: as `--teacher` spells it; published: as PretrainedSED's files do, and `looks_like`.
    build: (classes, weak_head) -> the StrongModel, called on the meta device.
    own_names: the file's tensors under the names of that module tree; raises TeacherError.
    stage_version: part of the provenance, raised when the same checkpoint and clip would give other numbers.
    """

    name: str
    published: str
    front_end: FrontEnd
    build: Callable[[int, bool], StrongModel]
    own_names: Callable[[Checkpoint], dict[str, Any]]
    contexts_ms: tuple[int, ...] = (CLIP_MS,)
    stage_version: int = 1


def load_strong(checkpoint: Checkpoint, device: torch.device, family: StrongFamily) -> StrongTeacher:
    """Raises TeacherError with the file and the reason."""
    path, content = checkpoint.path, checkpoint.content
    require_family(checkpoint, content, family.published)
    if "strong_head.weight" not in content:
        raise TeacherError(
            f"{path}: {family.published} without strong_head.weight (pre-trained or weak only); "
            "give the strong_1 checkpoint"
        )
    vocabulary = audioset_strong_447()
    tensors = family.own_names(checkpoint)
    weak_head = "weak_head.weight" in tensors
    model = fill(lambda: family.build(len(vocabulary), weak_head), tensors, path)
    provenance = {
        "family": family.name,
        "checkpoint_sha256": checkpoint.sha256,
        "layout": "pretrained_sed",
        "stage_version": family.stage_version,
    }
    return StrongTeacher(
        model, front_end=family.front_end, contexts_ms=family.contexts_ms, vocabulary=vocabulary,
        provenance=provenance, device=device,
    )  # fmt: skip


def own_names(checkpoint: Checkpoint, *prefixes: str, ignored: Collection[str] = ()) -> dict[str, Any]:
    """The file's tensors with `model.` for the first of `prefixes` that a name starts with; without those `ignored`.

    Raises TeacherError where two tensors end up under one name.
    """
    named: dict[str, Any] = {}
    for key, tensor in checkpoint.content.items():
        if key in ignored:
            continue
        prefix = next((prefix for prefix in prefixes if str(key).startswith(prefix)), None)
        name = str(key) if prefix is None else "model." + str(key).removeprefix(prefix)
        if name in named:
            raise TeacherError(
                f"{checkpoint.path}: holds {name} twice, under two spellings; give the checkpoint as it was released"
            )
        named[name] = tensor
    return named


def require_family(checkpoint: Checkpoint, keys: Mapping[str, Any], published: str) -> None:
    """Raises TeacherError unless these are tensor names of that family."""
    family = looks_like(keys)
    if family != published:
        some = ", ".join(str(key) for key in list(keys)[:3])
        own = _FAMILIES.get(family)
        remedy = f"a checkpoint of {published}" if own is None else f"{own}={checkpoint.path}"
        raise TeacherError(f"{checkpoint.path}: tensors of {family} ({some}, ...), not of {published}; give {remedy}")
