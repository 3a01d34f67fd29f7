"""Pack a folder in a process of its own, to be killed: pack_once.py EXECUTOR DATASET FOLDER."""

import sys
from pathlib import Path

from jobs import pack_stage, run_stage
from jobs._ray import RayPool

if __name__ == "__main__":
    executor, dataset, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    assert RayPool  # everything is imported before the clock of the test starts
    print("begins", flush=True)
    stage = pack_stage(dataset=dataset, split="weak", folder=folder, keys="path", long="split", clips_per_shard=20)
    address = "local" if executor == "ray" else None
    report = run_stage(stage, executor=executor, workers=1, ray_address=address, progress=False)
    sys.exit(report.exit_code)
