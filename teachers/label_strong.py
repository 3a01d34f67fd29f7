"""Label the strong split of a dataset with a teacher.

    ray job submit --working-dir . -- python teachers/label_strong.py \\
        --dataset /data/audioset --teacher beats=/models/beats.pt --labels beats

Runs the same directly (`python teachers/label_strong.py ...`, on an embedded local Ray) and as `sed-distill label`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python puts teachers/ on the path instead of the folder that holds the packages.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from jobs import run_command
    from teachers import label_script

    sys.exit(run_command(lambda: label_script("strong", "Label the strong split of a dataset with a teacher.")))
