"""Teachers whose logits a test can work out by hand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline import AudioSpec, Vocabulary
from teachers import WAVEFORM, FrontEnd, Teacher

CPU = torch.device("cpu")
FRAME_SAMPLES = 640


class Linear(Teacher):
    """Logit of class k in frame t: gain_k * mean of the frame's samples + offset_k + slope * t, t within the context.

    The slope tells where in its context a frame was heard. `calls` counts forward passes, `heard` contexts.
    """

    def __init__(
        self, gains: Sequence[float], *, offsets: Sequence[float] | None = None, slope: float = 0.0,
        mids: Sequence[str] | None = None, name: str = "linear", spec: AudioSpec | None = None,
        contexts_ms: tuple[int, ...] = (10_000, 5_000, 4_000, 2_000), front_end: FrontEnd = WAVEFORM,
        protocol: str = "frame", device: torch.device = CPU, clip_head: bool = True,
    ) -> None:  # fmt: skip
        mids = tuple(mids or (f"/m/{number}" for number in range(len(gains))))
        super().__init__(
            audio_spec=spec or AudioSpec(), vocabulary=Vocabulary(mids, mids), provenance={"family": name},
            device=device, protocol=protocol, front_end=front_end, contexts_ms=contexts_ms,
        )  # fmt: skip
        self.gains = torch.tensor(gains)
        self.offsets = torch.tensor(offsets if offsets is not None else [0.0] * len(gains))
        self.slope = slope
        self.clip_head = clip_head
        self.calls = self.heard = 0

    @property
    def has_clip_logits(self) -> bool:
        return self.clip_head

    def _frame_logits(self, features: Tensor, frames: int) -> Tensor:
        self.calls += 1
        self.heard += len(features)
        means = features.unflatten(1, (frames, FRAME_SAMPLES)).mean(dim=2)
        logits = self.gains[:, None] * means[:, None] + self.offsets[:, None]
        return logits + self.slope * torch.arange(frames)

    def _clip_logits(self, features: Tensor, frames: int) -> Tensor:
        return self._frame_logits(features, frames).amax(dim=2)

    def _cast(self, precision: str) -> None:
        self.cast_to = precision


def noise(clips: int, samples: int = 160_000, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed))
