"""What importing costs, what a foreign package of the same name does, and what training code gets from the wheel."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from shards import Dataset
from tests.shards.small_dataset import write_split

REPOSITORY = Path(__file__).resolve().parent.parent
# What `pip install sed-distill` without the extra `make` leaves out, and what its tests add.
NOT_FOR_TRAINING = ("ray", "soxr", "av", "librosa", "webdataset", "jinja2", "tqdm", "PIL", "scipy", "pytest")


def python(code: str, *, path: str = str(REPOSITORY)) -> "subprocess.CompletedProcess[str]":
    """A fresh process in a folder of no packages; `-c` would put the current folder first on the path."""
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("jobs", ("torch", "ray")),
        ("shards", ("ray", "librosa", "torch")),
        ("pipeline", ("torch", "ray", "webdataset", "librosa")),
        ("teachers", ("ray",)),
        ("students", ("ray", "teachers", "jobs")),
        ("sed_distill.cli", ("torch", "ray", "librosa")),
    ],
)
def test_importing_a_package_loads_no_more_than_it_needs(package: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {package}; names = {absent!r}; print([n for n in names if n in sys.modules])"
    done = python(code)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_names_of_jobs_come_without_torch() -> None:
    done = python("from jobs import *; import sys; print('pack_stage' in dir(), 'torch' in sys.modules)")
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_a_foreign_package_of_the_same_name_is_an_error_that_names_both(tmp_path: Path) -> None:
    foreign = tmp_path / "pipeline"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("mine = True\n")
    done = python("import pipeline; assert pipeline.mine; import shards", path=f"{tmp_path}{os.pathsep}{REPOSITORY}")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert str(foreign / "__init__.py") in last
    assert str(REPOSITORY / "pipeline" / "__init__.py") in last


def test_a_foreign_folder_without_init_is_an_error_too(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    without_jobs = tmp_path / "checkout"
    without_jobs.mkdir()
    for name in ("pipeline", "shards", "teachers", "sed_distill_siblings.py"):
        (without_jobs / name).symlink_to(REPOSITORY / name)
    done = python("import teachers", path=str(tmp_path) + os.pathsep + str(without_jobs))
    assert done.returncode == 1
    assert str(tmp_path / "jobs") in done.stderr


def test_the_parser_of_the_command_waits_for_no_torch() -> None:
    done = python("import sys; from sed_distill.cli import _parser; _parser(); print('torch' in sys.modules)")
    assert done.stdout.split() == ["False"], done.stderr


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    packages = {name.partition("/")[0] for name in shipped if name.endswith("/__init__.py")}
    wanted = {name for name in tracked_files() if name.partition("/")[0] in packages}
    assert {"teachers/demo/demo_beats.pt", "sed_distill/templates/demo.html.j2"} <= wanted
    assert wanted - shipped == set()


def test_a_plain_trainer_runs_on_the_wheel_without_ray(wheel: Path, tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "dataset", keys="audioset")
    for number, split in enumerate(("weak", "strong")):
        write_split(dataset, split, 12, seed=number, labels=("frames",))
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    bare = bare_site_packages(tmp_path / "site-packages")
    script = (REPOSITORY / "tests" / "shards" / "trainer_20_lines.py").read_text()
    code_lines = [line for line in script.splitlines()[1:] if line.strip()]
    assert len(code_lines) <= 24  # 20 besides imports of the standard library and torch
    # Behind the standard library, as site-packages are: some test dependencies bring modules of the same names.
    prelude = f"import sys; sys.path += [{str(installed)!r}, {str(bare)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", prelude + script, str(dataset.root), "frames"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("distillation") == 20


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: the wheel is built from the tracked files")
    return [name for name in listed.stdout.split("\0") if name]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy so that nothing is left in the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    for name in tracked_files():
        source = REPOSITORY / name
        if source.is_file() and not name.startswith("tests/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(source.read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder / "wheels"), str(copy)], check=True, capture_output=True)
    (built,) = (folder / "wheels").glob("*.whl")
    return built


def bare_site_packages(folder: Path) -> Path:
    """This environment's packages without Ray, this project and what only making shards or testing needs."""
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        left_out = entry.name.startswith(NOT_FOR_TRAINING) or entry.suffix in (".pth", ".egg-link")
        if not left_out and not entry.name.startswith(("__editable__", "sed_distill")):
            (folder / entry.name).symlink_to(entry)
    return folder
