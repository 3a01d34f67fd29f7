"""Where in time the frames of each teacher family lie, context by context.

    python -m benchmarks.teacher_geometry

Weights are random, positions zero and the transformer's layers taken out, so that a frame hears nothing but what front
end, patches and pooling bring it; what is left over, trained layers have to make up for. Short sounds are put into
quiet noise, one at a time, at times across the context. A sound's mark is the centre of the frames whose embeddings it
moves, weighted by how much (squared distance). Positive: the mark is later than the sound.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline import HOP_MS, AudioSpec
from teachers import FrontEnd
from teachers.families._asit import ASIT_STRONG, Asit
from teachers.families._atst import ATST_STRONG, Atst
from teachers.families._beats import Beats, BeatsConfig
from teachers.families._beats_teacher import BEATS_STRONG, StrongBeats
from teachers.families._fpasst import FPASST_STRONG, Fpasst
from teachers.families._m2d import M2D_STRONG, StrongM2d
from teachers.families._parts import to_frames
from teachers.families._strong import StrongFamily, StrongModel
from teachers.families._vit import VitConfig

Floats = npt.NDArray[np.float64]
# Frequency of a short sound; a click has all of them.
CLICK, LOW_HZ, HIGH_HZ = 0.0, 300.0, 6_000.0
_SAMPLES_PER_MS = AudioSpec().sample_rate // 1000
_BURST_MS = 20
_NOISE_RMS = 0.003
# Shares no factor with patches and frames: sounds fall on all their phases.
_STEP_MS = 97
_AT_ONCE = 16
_WIDTH = 192


@dataclass(frozen=True, kw_only=True)
class Subject:
    """frames: features, number of frames -> embeddings [B, frames, width]."""

    name: str
    front_end: FrontEnd
    contexts_ms: tuple[int, ...]
    frames: Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Mark less sound in ms, of clicks on a line fitted through them: at both ends of the context, and the most that
    one is off the line; how much later low and high sounds are marked than clicks, on average; how much at the end of
    the context no frame hears."""

    start_ms: float
    end_ms: float
    apart_ms: float
    low_ms: float
    high_ms: float
    unheard_ms: int


def subjects() -> list[Subject]:
    """Every family as it labels, then BEATs' flattened tokens where its teacher does not use them."""
    size = VitConfig(width=_WIDTH, layers=0, heads=3)
    beats_size = BeatsConfig(embed_dim=_WIDTH, encoder_embed_dim=_WIDTH, encoder_layers=1)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        beats = StrongBeats(beats_size, 1, weak_head=False)
        models: list[tuple[StrongFamily, StrongModel]] = [
            (BEATS_STRONG, beats),
            (ATST_STRONG, _strong(Atst(size))),
            (FPASST_STRONG, _strong(Fpasst(size))),
            (M2D_STRONG, StrongM2d(size, 1, weak_head=False)),
            (ASIT_STRONG, _strong(Asit(size))),
        ]
    found = [
        Subject(
            name=family.published, front_end=family.front_end, contexts_ms=family.contexts_ms,
            frames=_without_layers(model).frames,
        )
        for family, model in models
    ]  # fmt: skip
    flattened = Subject(
        name="BEATs, tokens flattened (not used)", front_end=BEATS_STRONG.front_end,
        contexts_ms=BEATS_STRONG.contexts_ms[1:],
        frames=lambda features, frames: to_frames(beats.model(features), frames),
    )  # fmt: skip
    return [*found, flattened]


def placement(subject: Subject, context_ms: int) -> Placement:
    times = np.arange(_STEP_MS, context_ms - _STEP_MS, _STEP_MS, dtype=np.float64)
    off = {hertz: marks_ms(subject, context_ms, hertz, times) - times for hertz in (CLICK, LOW_HZ, HIGH_HZ)}
    heard = np.isfinite(off[CLICK])
    slope, start = np.polyfit(times[heard], off[CLICK][heard], 1)
    last = np.arange(context_ms - 200.0, context_ms, 5.0)
    return Placement(
        start_ms=start,
        end_ms=start + slope * context_ms,
        apart_ms=float(np.nanmax(np.abs(off[CLICK] - (start + slope * times)))),
        low_ms=float(np.nanmean(off[LOW_HZ] - off[CLICK])),
        high_ms=float(np.nanmean(off[HIGH_HZ] - off[CLICK])),
        unheard_ms=5 * int(np.isnan(marks_ms(subject, context_ms, CLICK, last)).sum()),
    )


def marks_ms(subject: Subject, context_ms: int, hertz: float, times_ms: Floats) -> Floats:
    """The time of each sound's mark; NaN for one that no frame hears."""
    frames = context_ms // HOP_MS
    centres = HOP_MS * (torch.arange(frames, dtype=torch.float64) + 0.5)
    noise = _NOISE_RMS * torch.randn(context_ms * _SAMPLES_PER_MS, generator=torch.Generator().manual_seed(0))
    quiet = _embeddings(subject, noise[None], frames)
    energies = []
    for start in range(0, len(times_ms), _AT_ONCE):
        sounds = [_sound(time, hertz, len(noise)) for time in times_ms[start : start + _AT_ONCE]]
        embeddings = _embeddings(subject, noise + torch.stack(sounds), frames)
        energies.append((embeddings - quiet).square().sum(dim=2))
    energy = torch.cat(energies)
    moved = energy.sum(dim=1)
    heard = moved > 1e-3 * moved.median()
    return torch.where(heard, energy @ centres / moved, torch.nan).numpy()


def _embeddings(subject: Subject, waveforms: Tensor, frames: int) -> Tensor:
    with torch.inference_mode():
        return subject.frames(subject.front_end.compute(waveforms), frames).double()


def _sound(time_ms: float, hertz: float, samples: int) -> Tensor:
    """One sample for a click, otherwise 20 ms of a tone that rise and fall around `time_ms`."""
    sound = torch.zeros(samples)
    centre = round(time_ms * _SAMPLES_PER_MS)
    if not hertz:
        sound[centre] = 0.9
        return sound
    length = _BURST_MS * _SAMPLES_PER_MS
    t = torch.arange(length) / (1000 * _SAMPLES_PER_MS)
    burst = 0.5 * torch.hann_window(length) * torch.sin(2 * math.pi * hertz * t)
    first = centre - length // 2
    sound[max(0, first) : first + length] = burst[max(0, -first) : samples - first]
    return sound


def _strong(model: nn.Module) -> StrongModel:
    return StrongModel(model, width=_WIDTH, classes=1, weak_head=False)


def _without_layers(model: StrongModel) -> StrongModel:
    for module in model.modules():
        if isinstance(module, Beats):
            module.encoder = nn.Identity()  # its positions are in there too
    for name, parameter in model.named_parameters():
        if "pos_embed" in name:
            parameter.data.zero_()
    return model.eval()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| family | context s | clicks: start | end | most apart | 300 Hz | 6 kHz | unheard at the end |")
    print("|---|---|---|---|---|---|---|---|")
    for subject in subjects():
        for context_ms in subject.contexts_ms:
            found = placement(subject, context_ms)
            print(
                f"| {subject.name} | {context_ms / 1000:g} | {found.start_ms:+.0f} | {found.end_ms:+.0f} | "
                f"{found.apart_ms:.0f} | {found.low_ms:+.0f} | {found.high_ms:+.0f} | {found.unheard_ms} |"
            )
    print("\nms; mark less sound; low and high sounds against clicks.")


if __name__ == "__main__":
    main()
