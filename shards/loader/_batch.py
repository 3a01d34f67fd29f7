"""What the loader yields and every trainer consumes."""

from dataclasses import dataclass, field, replace
from fractions import Fraction

import torch
from torch import Tensor

from pipeline import HOP_MS
from shards.loader._memory import hold_until_copied


@dataclass(kw_only=True)
class Batch:
    """One batch of B clips.

    waveform: float32 [B, N] in [-1, 1], zero-padded to the AudioSpec's full length N (160,000); [B, 4, N] for foa.
    targets: target name -> float32 probabilities, [B, C] for clip targets, [B, C, T] for frame targets (class-major).
        Names are `hard_weak` and `hard_strong`, which come from people, and the label sets and averages asked for.
        Targets with tracks or directions are [B, ...] with the axes of their label set and its values as they are.
    weight: target name -> float32, broadcastable to the target: 0 where the label is absent (no such label, class not
        in its vocabulary, frame without audio), else 1; mixup makes values in between. One weighted BCE therefore
        serves every recipe. [B, C] for clip targets; for others of the target's rank, with size 1 on every axis but
        time, and class where a source of the loader lacks some: [B, 1, T] or [B, C, T]. The target is 0 where it is 0.
    valid_frames: int64 [B], 40 ms frames that stand on audio, whatever the hops of the targets.
    source: for each clip, the name of the source it was drawn from.
    key: for each clip, its clip key.
    sample_rate: of the waveform, Hz.
    axes: target name -> its axes after that of the clips. hop_ms: of every target with the axis `time`, exact: frame t
        covers [t * hop_ms, (t + 1) * hop_ms). Where not given, ("class", "time") and 40 ms, or ("class",).
    """

    waveform: Tensor
    targets: dict[str, Tensor]
    weight: dict[str, Tensor]
    valid_frames: Tensor
    source: list[str]
    key: list[str]
    sample_rate: int = 16_000
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    hop_ms: dict[str, Fraction] = field(default_factory=dict)

    def __post_init__(self) -> None:
        usual = {name: ("class", "time") if target.dim() > 2 else ("class",) for name, target in self.targets.items()}
        self.axes = {name: tuple(self.axes.get(name, axes)) for name, axes in usual.items()}
        self.hop_ms = {
            name: Fraction(self.hop_ms.get(name, HOP_MS)) for name, axes in self.axes.items() if "time" in axes
        }

    def __len__(self) -> int:
        return self.waveform.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The batch with its tensors on `device`; the same tensors where they are there already.

        non_blocking: pinned memory is copied beside the work of the device, and not written again before that is done.
        """
        mover = Mover(device, non_blocking=non_blocking)
        batch = replace(
            self,
            waveform=mover.moved(self.waveform),
            targets={name: mover.moved(target) for name, target in self.targets.items()},
            weight={name: mover.moved(weight) for name, weight in self.weight.items()},
            valid_frames=mover.moved(self.valid_frames),
        )
        mover.end()
        return batch


class Mover:
    """Copies the tensors of one batch to a device."""

    def __init__(self, device: torch.device | str, *, non_blocking: bool) -> None:
        self._device, self._non_blocking = torch.device(device), non_blocking
        self._originals: list[Tensor] = []

    def moved(self, values: Tensor) -> Tensor:
        self._originals.append(values)
        return values.to(self._device, non_blocking=self._non_blocking)

    def end(self) -> None:
        """Has to follow the last tensor: copies may still be under way."""
        if self._non_blocking:
            hold_until_copied(self._originals, self._device)
