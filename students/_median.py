"""The median filter that published systems smooth frame probabilities with before they are evaluated."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline import UsageError

_Value = TypeVar("_Value", bound=np.generic)


def median_filter(probs: npt.NDArray[_Value], frames: int) -> npt.NDArray[_Value]:
    """Running median over `frames` (odd) along the last axis of [N, ..., T]; same shape and dtype.

    Beyond the ends frames mirror the ones inside, the outermost included (d c b a | a b c d | d c b a), as
    scipy.ndimage.median_filter does by default.
    """
    if frames < 1 or frames % 2 == 0:
        raise UsageError(f"a median filter of {frames} frames has no middle; use an odd number")
    half = frames // 2
    filtered = np.empty_like(probs)
    for clip, of_clip in enumerate(probs):  # a clip at a time: the windows are `frames` times its size
        padded = np.pad(of_clip, [(0, 0)] * (of_clip.ndim - 1) + [(half, half)], mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, frames, axis=-1)
        filtered[clip] = np.partition(windows, half, axis=-1)[..., half]
    return filtered
