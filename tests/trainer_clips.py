"""Runs a trainer and notes which clips its loader gave it: python trainer_clips.py FOLDER TRAINER ARGUMENTS...

Appends a line of JSON for every batch to FOLDER/<rank>.jsonl. With KILLED_AFTER=n in the environment, the process kills
itself when it asks for one batch more than n.
"""

import json
import os
import runpy
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import shards
from shards import Batch, MixedLoader

folder = Path(sys.argv[1])
left = int(os.environ.get("KILLED_AFTER", "-1"))


class NotingLoader(MixedLoader):
    def __iter__(self) -> Iterator[Batch]:
        global left
        with (folder / f"{os.environ.get('RANK', '0')}.jsonl").open("a") as notes:
            for batch in super().__iter__():
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                print(json.dumps(list(zip(batch.source, batch.key, strict=True))), file=notes, flush=True)
                yield batch


shards.MixedLoader = NotingLoader  # type: ignore[misc]
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
