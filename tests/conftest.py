"""Shared fixtures. Tests that need the reference material beside the checkout skip, saying so, where it is absent."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
RAY_MODULES = ("test_run.py", "test_kill.py", "test_submit.py", "test_demo.py", "test_verify_job.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--campaign", type=int, default=0, metavar="N", help="inject N faults where a test otherwise injects a few"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start a Ray share one worker: two at once on two cores would only wait for each other."""
    for item in items:
        if "embedded_ray" in getattr(item, "fixturenames", ()) or item.path.name in RAY_MODULES:
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> int:
    """Faults to inject in each fault campaign; 0: a short slice."""
    return int(request.config.getoption("--campaign"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference fixtures and recordings beside the repository."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "parity").is_dir():
        pytest.skip(f"reference fixtures are not at {folder.name}/ beside the repository")
    return folder
