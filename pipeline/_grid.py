"""The 40 ms grid, in integers. Frame t covers samples [t * hop, (t + 1) * hop): half open, 250 frames in a 10 s clip.

`int(t / 0.04)` misplaces 28 of the 250 frame starts; integers misplace none.
"""

HOP_MS = 40
CLIP_MS = 10_000
FRAMES = CLIP_MS // HOP_MS
