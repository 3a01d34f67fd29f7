"""The scripts in docs/ do what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards import Dataset
from tests.golden.make import GOLDEN, MONO

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("labels", ["frames-master", "frames-small"])
def test_plain_webdataset_reads_audio_and_labels(labels: str) -> None:
    script = ROOT / "docs" / "plain_webdataset.py"
    code = [line for line in script.read_text().split('"""')[2].splitlines() if line]
    assert len(code) < 15
    imports = [line for line in code if line.startswith(("import", "from"))]
    assert imports == [
        "import io",
        "import sys",
        "import soundfile",
        "import webdataset",
        "from shards import decode_label",
    ]
    dataset = Dataset(ROOT / "tests" / "golden" / "v1" / "audioset")
    tars = [
        folder / "000000.tar"
        for folder in (dataset.audio_folder("weak", MONO.name), dataset.labels_folder("weak", labels))
    ]
    found = subprocess.run(
        [sys.executable, script, *tars], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [
        f"{key} ({1600 + len(key)},) 16000 (40, 250)" for key in GOLDEN["audioset"].shards["weak"][0]
    ]
