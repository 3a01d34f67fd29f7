"""Shared fixtures. Tests that need the reference material beside the checkout skip, saying so, where it is absent."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference fixtures and recordings beside the repository."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "parity").is_dir():
        pytest.skip(f"reference fixtures are not at {folder.name}/ beside the repository")
    return folder
