"""Sample what the students give for the clip of this folder, once they agree with the full fixtures.

python tests/parity/sample_students.py FOLDER_OF_FULL_FIXTURES

The full fixtures hold one clip for students, too large to carry. So the reference code vouches for the model on that
clip (checked here before anything is written) and students.json pins the model on the clip that is carried.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from tests.students.parity_students import HERE, WIDTHS, parity_student, read_clip, worst_difference

SAMPLES = 150


def main(folder: Path) -> None:
    pinned = {}
    rng = np.random.default_rng(0)
    for name, width in WIDTHS.items():
        student = parity_student(width)
        if worst_difference(student, folder, name) > 1e-4:
            sys.exit(f"{name} does not agree with the full fixture; nothing written")
        with torch.inference_mode():
            logits = student(read_clip(HERE / "short_padded.flac"))
        pinned[name] = {}
        for kind, values in (("frame", logits.frame), ("clip", logits.clip)):
            flat = values.flatten().numpy()
            positions = np.sort(rng.choice(flat.size, size=SAMPLES, replace=False))
            pinned[name][kind] = {
                "std": float(flat.std()),
                "positions": positions.tolist(),
                "values": [float(np.format_float_positional(value, unique=True)) for value in flat[positions]],
            }
    (HERE / "students.json").write_text(json.dumps(pinned, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
