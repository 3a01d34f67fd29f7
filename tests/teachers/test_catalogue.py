"""What is said of the released teachers is what the code builds and the reference notes state."""

import importlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from teachers import FAMILIES, RELEASES, Beats, BeatsConfig, Release, TeacherChoice, in_sample, load_teacher
from teachers._catalogue import DEMO_CHECKPOINT, released
from teachers._registry import _FAMILIES
from teachers.families._beats_teacher import CONTEXTS_MS
from teachers.families._strong import StrongFamily

REPOSITORY = Path(__file__).resolve().parents[2]
STRONG = [release for release in RELEASES if release.layout == "pretrained_sed"]


def family_of(release: Release) -> StrongFamily:
    module = importlib.import_module(_FAMILIES[release.family].partition(":")[0])
    (family,) = [value for value in vars(module).values() if isinstance(value, StrongFamily)]
    return family


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_family_has_its_release() -> None:
    assert [release.family for release in STRONG] == list(FAMILIES)
    assert {(release.family, release.layout) for release in RELEASES} >= {("beats", "unilm"), ("demo", "unilm")}


@pytest.mark.parametrize("release", STRONG, ids=lambda release: release.family)
def test_sizes_and_contexts_are_those_of_the_code(release: Release) -> None:
    family = family_of(release)
    with torch.device("meta"):
        model = family.build(release.classes, True)
    assert parameters(model) == release.parameters
    assert family.contexts_ms == release.contexts_ms
    assert family.name == release.family


def test_those_of_unilms_layout_too() -> None:
    unilm, demo = (release for release in RELEASES if release.layout == "unilm")
    with torch.device("meta"):
        model = Beats(replace(BeatsConfig(), predictor_class=unilm.classes))
    assert (parameters(model), CONTEXTS_MS) == (unilm.parameters, unilm.contexts_ms)
    teacher = TeacherChoice.parse("demo").open("cpu")
    assert (parameters(teacher.model), len(teacher.vocabulary)) == (demo.parameters, demo.classes)
    assert teacher.contexts_ms == demo.contexts_ms


def test_files_and_figures_are_those_of_the_reference_notes(shared: Path) -> None:
    notes = (shared / "reference" / "facts.md").read_text()
    base, names = re.search(r"Files: `(https\S+/)\{([^}]*)\}_\{strong_1,", notes).groups()
    assert {url for release in STRONG for url in release.checkpoints.values()} == {
        f"{base}{name}_strong_1.pt" for name in names.split(",")
    }
    figures = [float(cell) for cell in re.search(r"\| PSDS1 \(paper\) \|(.*)\|", notes)[1].split("|")]
    sizes = [cell.split(";")[1] for cell in re.search(r"\| width; total parameters.*? \|(.*)\|", notes)[1].split("|")]
    assert [release.psds1 for release in STRONG] == figures
    assert [f" {release.parameters / 1e6:.1f} M" for release in STRONG] == [size.rstrip() for size in sizes]


def test_released_names() -> None:
    assert released("beats") == {"strong_1": STRONG[0].checkpoints["strong_1"]}
    assert released("own:load") == {}


def test_the_list_needs_no_torch() -> None:
    code = "import sys; from teachers import RELEASES, in_sample; print(len(RELEASES), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(RELEASES)), "False"]


BEATS = {"family": "beats", "layout": "pretrained_sed", "checkpoint_sha256": "0" * 64}
OWN = {"family": "own", "checkpoint_sha256": "1" * 64}


def ensemble(*members: dict[str, Any]) -> dict[str, Any]:
    return {"family": "ensemble", "average": "logit", "weights": None, "members": list(members)}


@pytest.mark.parametrize(
    ("provenance", "known"),
    [
        (BEATS, {"weak": True, "strong": True, "dev": True, "eval": False}),
        ({"family": "beats", "layout": "unilm"}, {"weak": True, "strong": True, "dev": True, "eval": False}),
        (
            {"stage": "label", "audio": "x", "teacher": BEATS},
            {"weak": True, "strong": True, "dev": True, "eval": False},
        ),
        ({"stage": "import", "format": "ced"}, {"strong": True, "eval": False}),
        (OWN, {"weak": None, "strong": None, "eval": None}),
        (ensemble(BEATS, BEATS), {"strong": True, "eval": False}),
        (ensemble(OWN, BEATS), {"strong": True, "eval": None}),
        (ensemble(OWN, OWN), {"strong": None}),
        ({"stage": "merge", "members": [{"teacher": ensemble(BEATS)}, {"teacher": OWN}]}, {"dev": True, "eval": None}),
        (BEATS, {"night": None}),
        ({}, {"strong": None}),
        ({"teacher": "of somebody"}, {"strong": None}),
        ({"teacher": {"family": ["beats"], "members": 3}, "stage": ["import"]}, {"strong": None}),
    ],
)
def test_in_sample(provenance: dict[str, Any], known: dict[str, bool | None]) -> None:
    assert {split: in_sample(provenance, split) for split in known} == known


def test_the_demo_teacher_saw_nothing_of_the_demo() -> None:
    provenance = load_teacher("beats", checkpoint=DEMO_CHECKPOINT).provenance
    assert [in_sample(provenance, split) for split in ("weak", "strong", "dev", "eval")] == [False] * 4
    assert in_sample(ensemble(provenance, BEATS), "strong") is True
