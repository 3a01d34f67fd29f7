"""The 40 ms grid, in integers. Frame t covers samples [t * hop, (t + 1) * hop): half open, 250 frames in a 10 s clip.

`int(t / 0.04)` misplaces 28 of the 250 frame starts; integers misplace none.
"""

import math

import numpy as np

HOP_MS = 40
CLIP_MS = 10_000
FRAMES = CLIP_MS // HOP_MS


def frame_at(sample: int, sample_rate: int = 16_000) -> int:
    """The frame that covers `sample` (counted from 0): at 16 kHz samples 0-639 are frame 0."""
    return sample * 1000 // (sample_rate * HOP_MS)


def valid_frames(samples: int, sample_rate: int = 16_000, *, hop_ms: int = HOP_MS, frames: int = FRAMES) -> int:
    """Frames of a grid, without options the 10 s one, that stand on audio: ceil(samples / hop), at most `frames`."""
    return min(frames, -(-samples * 1000 // (sample_rate * hop_ms)))


def event_frames(onset_ms: int, offset_ms: int, *, float32_compat: bool = False) -> tuple[int, int]:
    """Active frames [first, last) of an event: floor(onset * 25) and ceil(offset * 25), clipped to [0, 250].

    Milliseconds are exact. The published code holds seconds in float32, which puts 122 of the 10,001 onsets of a clip
    one frame early and 118 of the offsets one frame late; `float32_compat` reproduces that.
    """
    if float32_compat:
        first = math.floor(float(np.float32(onset_ms / 1000)) * 25)
        last = math.ceil(float(np.float32(offset_ms / 1000)) * 25)
    else:
        first = onset_ms // HOP_MS
        last = -(-offset_ms // HOP_MS)
    return min(max(first, 0), FRAMES), min(max(last, 0), FRAMES)
