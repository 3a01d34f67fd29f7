"""The compiled kernels of `shards._native`, or None: then NumPy, soundfile and google-crc32c do the same, only slower.

SED_DISTILL_NATIVE=0 in the environment leaves them out where they are built.
"""

import os
import sys
from types import ModuleType

_VERSION = 4  # of the functions' arguments: a build that was older sources left behind is not used


def _load() -> ModuleType | None:
    if os.environ.get("SED_DISTILL_NATIVE") == "0" or sys.byteorder != "little":
        return None
    try:
        import shards._native as built
    except ImportError:  # installed without a compiler, or for another Python
        return None
    return built if built.VERSION == _VERSION else None


# Looked up at every call, so that a test can take it away.
native = _load()
