"""The folders of this project are import names (`pipeline`, `shards`, ...), and other projects have such folders too.

Each package calls `require` before it imports its siblings, so that a foreign `pipeline` on the path is an error that
names both files instead of a wrong module. This module stands at the root under a name that nobody else has.
"""

import importlib.util
import sys
from pathlib import Path


def require(package_file: str, *names: str) -> None:
    """Raise ImportError unless each package in `names` lies beside the package whose `__init__` is `package_file`."""
    root = Path(package_file).resolve().parent.parent
    for name in names:
        loaded = sys.modules.get(name)
        spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(name)
        wanted = root / name / "__init__.py"
        found = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if found != wanted:
            place = found or (next(iter(spec.submodule_search_locations or []), None) if spec is not None else None)
            raise ImportError(
                f"sed-distill needs its own package {name!r} from {wanted}, but Python finds {place or 'none'}: "
                f"rename or move that one, or start Python where it is not on the path"
            )
