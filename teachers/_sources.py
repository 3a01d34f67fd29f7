"""Where a checkpoint comes from: a path, an address, or the name of a released file."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline import TeacherError, UsageError
from teachers._catalogue import released
from teachers._checkpoint_cache import cached_checkpoint

_PRINTABLE = re.compile(r"[!-~]+")
_LOGIN = re.compile(r"(?<=//)[^/?#]*@")
_PINNED = re.compile(r"sha256=([0-9a-f]{64})")
_ANOTHER = re.compile(r",[\w.:]+=")


def parse_source(family: str, text: str) -> Path | str:
    """An absolute path; or `text` as it is, where it is an address or a name in `released(family)`.

    The last two may end in #sha256=HEX, the file's hash; ~ is the home folder. Raises UsageError for what cannot be
    fetched from.
    """
    address = _address(family, text)
    if "://" not in address:
        return _parse_path(text)
    _parse_address(address)
    return text


def checkpoint_file(family: str, source: Path | str, *, archive: bool) -> Path:
    """The file itself, fetched where this node does not have it yet; `archive`: it has to be a PyTorch checkpoint.

    Raises UsageError (address, name), TeacherError (what is there is not it) and OSError (network, disk).
    """
    if isinstance(source, Path):
        if archive and not os.path.exists(source):  # False also where nobody may look
            _check_meant(family, source)
        return source
    address = _parse_address(_address(family, source))
    return cached_checkpoint(address.url, sha256=address.sha256, archive=archive)


def without_login(text: str) -> str:
    """`text` without the name and password of an address in it, to be shown."""
    return _LOGIN.sub("", text)


def _parse_path(text: str) -> Path:
    path, *pinned = re.split("#sha256=", text, maxsplit=1, flags=re.IGNORECASE)
    if pinned:
        raise UsageError(f"{text}: #sha256= is for what is fetched; give {path}: labels record the hash of a file")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # ~ of a user who is not known
        raise UsageError(f"{text}: no such home folder ({error}); give the path in full") from error


def _check_meant(family: str, path: Path) -> None:
    """Raises UsageError or TeacherError where a path that is not there was meant for something else."""
    if _ANOTHER.search(str(path)):
        raise UsageError(f"{path}: is not there, and reads like several; give --teacher once for each")
    names = released(family)
    if names and not path.suffix:
        raise TeacherError(
            f"{path}: cannot be read (no such file); give the path of a checkpoint file, or one of the released "
            f"{family} by its name: {', '.join(f'{family}={name}' for name in names)}"
        )


def _address(family: str, text: str) -> str:
    name, fragment, pinned = text.partition("#")
    return released(family).get(name, name) + fragment + pinned


@dataclass(frozen=True)
class _Address:
    url: str
    sha256: str | None


def _parse_address(text: str) -> _Address:
    url, _, fragment = text.partition("#")
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # raises for a name that no host can have, as a wrong port does
        fetched = parts.scheme in ("https", "http") and host and parts.port != 0
    except ValueError:
        fetched = False
    if _LOGIN.search(url):
        raise UsageError(
            f"{without_login(url)}: an address is recorded with the labels, so it must not hold a password; make the "
            "file readable without one, or fetch it and give its path"
        )
    if not fetched or not _PRINTABLE.fullmatch(url):
        raise UsageError(f"{text!r}: a checkpoint is fetched from https:// or http://; give such an address, or a path")
    pinned = _PINNED.fullmatch(fragment.lower())
    if fragment and not pinned:
        raise UsageError(f"{text}: ends in #{fragment}, needs #sha256= and 64 hexadecimal digits, or nothing")
    return _Address(url, pinned[1] if pinned else None)
