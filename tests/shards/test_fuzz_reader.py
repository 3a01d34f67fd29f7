"""Readers over hostile input: no crash, no hang, no flood of memory, and only this project's own errors.

`make campaign` makes the slice a campaign.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shards import fuzz

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.campaign
def test_readers_refuse_hostile_input(campaign, capsys):
    count = campaign or 250
    command = [sys.executable, "-m", "tests.shards.fuzz", "0", str(count)]
    # Each input has its own alarm; this is for a process that does not even get that.
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120 + count, check=False)
    *seeds, last = run.stdout.splitlines() or [""]
    assert run.returncode == 0, f"{last}: ended with {run.returncode}\n{run.stderr[-2_000:]}"
    summary = json.loads(last)
    assert summary["wrong"] == []
    assert len(seeds) == count
    assert summary["more_bytes"] < fuzz.MEMORY_BYTES
    for kind, told in summary["kinds"].items():
        assert told["refused"].keys() <= {"FormatError", "IntegrityError", "UsageError"}, kind
        # An index is a cache: one that cannot be used is made again, not refused.
        assert told["refused"] or kind == "index", f"{kind}: nothing was hostile enough"
    if campaign:
        with capsys.disabled():
            print(f"\n{count} hostile inputs, {summary['more_bytes'] / 2**20:.0f} MiB more at most")
            for kind, told in summary["kinds"].items():
                refused = sum(told["refused"].values())
                print(f"{kind:20}{refused:>8} refused{told['accepted']:>8} read{told['slowest_s']:>8.2f} s at most")


HOSTILE_PROCESS = """
import sys, os
from tests.shards import fuzz
acts = {
    "crash": lambda: os.abort(),
    "hang": lambda: [None for _ in iter(int, 1)],
    "memory": lambda: bytearray(2 * fuzz.MEMORY_BYTES),
    "error": lambda: {}["x"],
}
fuzz.PATIENCE_S = 1
fuzz.KINDS = {"act": lambda rng, inputs: acts[sys.argv[1]]() if rng.random() < 0.5 else None}
fuzz.main(0, 40)
"""


@pytest.mark.parametrize("act", ["crash", "hang", "memory", "error"])
def test_what_readers_must_not_do_is_seen(act):
    run = subprocess.run(
        [sys.executable, "-c", HOSTILE_PROCESS, act],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    *_, last = run.stdout.splitlines()
    if act in ("crash", "hang"):
        assert run.returncode < 0
        assert last.startswith("seed ")
    else:
        wrong = json.loads(last)["wrong"]
        assert len(wrong) > 10
        assert all({"memory": "MemoryError", "error": "KeyError"}[act] in line for line in wrong)
