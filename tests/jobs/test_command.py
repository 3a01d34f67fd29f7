"""How a command ends: its exit code, one line for the user, and the same for Ctrl-C and SIGTERM."""

import os
import signal
from pathlib import Path

import pytest

from jobs import run_command
from pipeline import IntegrityError, SedDistillError, UsageError


@pytest.mark.parametrize(("error", "code"), [(UsageError, 2), (SedDistillError, 2), (IntegrityError, 1)])
def test_an_error_is_one_line_and_a_code(
    error: type[SedDistillError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error("this\n  and that")

    assert run_command(command) == code
    assert capsys.readouterr().err == "error: this and that\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_is_incomplete(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    outside = signal.getsignal(number)
    if number == signal.SIGINT:  # a shell ignores it for what runs in the background, so it may come in ignored
        signal.signal(number, signal.default_int_handler)
    before = signal.getsignal(number)

    def command() -> int:
        os.kill(os.getpid(), number)
        return 0

    assert run_command(command) == 1
    assert capsys.readouterr().err.startswith("interrupted: ")
    assert signal.getsignal(number) is before
    signal.signal(number, outside)


def test_what_the_disk_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a_file").touch()

    def command() -> int:
        return (tmp_path / "a_file" / "x").write_text("")

    assert run_command(command) == 1
    error = capsys.readouterr().err
    assert (error.count("\n"), str(tmp_path / "a_file" / "x") in error) == (1, True)


def test_a_library_that_is_not_installed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        import no_such_library  # noqa: F401

        return 0

    assert run_command(command) == 2
    assert "No module named 'no_such_library'" in capsys.readouterr().err


def test_mistakes_in_the_code_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
