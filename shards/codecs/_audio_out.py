"""Int16 PCM into the memory that a caller has for it."""

import numpy as np
import numpy.typing as npt

Buffer = bytes | memoryview
PcmOut = npt.NDArray[np.int16] | npt.NDArray[np.float32]


def store(pcm: npt.NDArray[np.int16], out: PcmOut) -> None:
    """Int16 as it is, float32 as value / 32768, which is exact."""
    if out.dtype == np.float32:
        np.multiply(pcm, np.float32(1 / 32768), out=out, dtype=np.float32)
    else:
        np.copyto(out, pcm)
