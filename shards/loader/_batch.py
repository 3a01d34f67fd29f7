"""What the loader yields and every trainer consumes."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(kw_only=True)
class Batch:
    """One batch of B clips.

    waveform: float32 [B, N] in [-1, 1], zero-padded to the AudioSpec's full length N (160,000).
    targets: target name -> float32 probabilities, [B, C] for clip targets, [B, C, T] for frame targets (class-major).
        Names are the label sets asked for and the reserved `hard_weak` and `hard_strong`.
    weight: target name -> float32, broadcastable to the target: [B, C] for clip targets, [B, C, T] for frame targets.
        0 where the label is absent (no such label, class not in its vocabulary, frame without audio), else 1;
        mixup makes values in between. One weighted BCE therefore serves every recipe.
    valid_frames: int64 [B], frames that stand on audio.
    source: for each clip, the name of the source it was drawn from.
    key: for each clip, its clip key.
    """

    waveform: Tensor
    targets: dict[str, Tensor]
    weight: dict[str, Tensor]
    valid_frames: Tensor
    source: list[str]
    key: list[str]

    def __len__(self) -> int:
        return self.waveform.shape[0]
