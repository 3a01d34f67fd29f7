"""The scripts in docs/ do what they say, and the code in docs/loader.md runs."""

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline import AudioSpec, TargetSpec, audioset_strong_447
from sed_distill.cli import _parser, main
from shards import Dataset
from tests.golden.make import GOLDEN, MONO
from tests.shards.http_store import http_store
from tests.shards.target_world import ALL, World

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


LOADER_PAGE = ROOT / "docs" / "loader.md"
TEACHERS_PAGE = ROOT / "docs" / "teachers.md"


_REMOTE = all(importlib.util.find_spec(needed) for needed in ("upath", "aiohttp"))


def _blocks(language: str, page: Path = LOADER_PAGE) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for its_language, text in blocks if its_language == language]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the page calls its datasets and files, and what they are here; and how long it trains."""
    folder = tmp_path_factory.mktemp("page")
    frames = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=audioset_strong_447())
    clips = TargetSpec(axes=("class",), kind="logit", vocabulary=ALL, hop_ms=None, frames=None)
    chunks = TargetSpec(axes=("class", "time"), kind="logit", vocabulary=ALL, hop_ms=2_000, frames=5)
    xyz = TargetSpec(axes=("track", "xyz", "time"), kind="unit_vector", vocabulary=None, tracks=3)
    labels = {"beats": (frames, "npy"), "atst": (frames, "npy"), "clips": (clips, "npy"), "chunks": (chunks, "npy")}
    for split in ("weak", "strong"):
        World(folder / "audioset", labels, tuple(range(3_000, 3_040)), split=split)
    World(folder / "audioset", {}, (5_000,) * 3, split="dev")
    World(folder / "rooms", {"directions": (xyz, "npy")}, (5_000,) * 8, spec=AudioSpec(layout="foa"))
    (folder / "heard-before.csv").write_text("key\nweak-003_0\n")
    server = http_store(folder) if _REMOTE else contextlib.nullcontext()
    with server as store:
        yield {
            "/data/": f"{folder}/",
            "/local/": f"{folder}/",
            "https://data.example.org": store.url if store else "",
            "batch_size=64": "batch_size=8, batches_per_epoch=2",
        }


def test_code_of_the_loaders_page_runs(places: dict[str, str]) -> None:
    """From top to bottom, as in one session."""
    names: dict[str, object] = {}
    blocks = _blocks("python")
    assert len(blocks) > 10
    for block in blocks:
        if _REMOTE or "https://" not in block:
            exec(compile(_here(block, places), block, "exec"), names)
    if not _REMOTE:
        pytest.skip("all ran but for datasets in a store: upath or aiohttp, of an optional extra, is not installed")


def test_commands_of_the_loaders_page_run(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for block in _blocks("") for line in block.splitlines()]
    assert commands
    for command in commands:
        program, *arguments = shlex.split(_here(command, places))
        assert program == "sed-distill"
        assert main(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["peek.html", "peek.png"]


@pytest.mark.parametrize("page", [LOADER_PAGE, TEACHERS_PAGE, ROOT / "README.md"], ids=lambda page: page.stem)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert links
    assert all((page.parent / link).exists() for link in links)


def test_code_of_the_teachers_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("BEATs_1.pt", "BEATs_2.pt", "BEATs_3.pt", "BEATs_strong_1.pt"):
        shutil.copy(ROOT / "teachers" / "demo" / "demo_beats.pt", name)
    names: dict[str, object] = {"waveforms": torch.zeros(2, 160_000), "waveform": torch.zeros(200_000)}
    shapes = []
    for block in _blocks("python", TEACHERS_PAGE):
        exec(compile(block, "docs/teachers.md", "exec"), names)
        shapes.append(tuple(names["logits"].shape))
    assert shapes == [(2, 24, 250), (24, 313)]


@pytest.mark.parametrize("page", [TEACHERS_PAGE, ROOT / "README.md"], ids=lambda page: page.stem)
def test_commands_of_a_page_are_what_the_parser_takes(page: Path) -> None:
    lines = re.findall(r"^ *sed-distill (.*)$", page.read_text().replace("\\\n", " "), re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in lines if "sed-distill" not in line]
    assert len(commands) >= 3
    for arguments in commands:
        _parser().parse_args(arguments)


def _here(text: str, places: dict[str, str]) -> str:
    for there, here in places.items():
        text = text.replace(there, here)
    return text
