"""Where a checkpoint comes from: a path, an address, or the name of a released file."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline import UsageError
from teachers._catalogue import released
from teachers._checkpoint_cache import cached_checkpoint

_PRINTABLE = re.compile(r"[!-~]+")
_LOGIN = re.compile(r"(?<=//)[^/?#]*@")
_PINNED = re.compile(r"sha256=([0-9a-f]{64})")


def parse_source(family: str, text: str) -> Path | str:
    """An absolute path; or `text` as it is, where it is an address or a name in `released(family)`.

    Both may end in #sha256=HEX, the file's hash. Raises UsageError for what cannot be fetched from.
    """
    address = _address(family, text)
    if "://" not in address:
        return Path(text).absolute()
    _parse_address(address)
    return text


def checkpoint_file(family: str, source: Path | str, *, archive: bool) -> Path:
    """The file itself, fetched where this node does not have it yet; `archive`: it has to be a PyTorch checkpoint.

    Raises UsageError (address), TeacherError (what is there is not it) and OSError (network, disk).
    """
    if isinstance(source, Path):
        return source
    address = _parse_address(_address(family, source))
    return cached_checkpoint(address.url, sha256=address.sha256, archive=archive)


def without_login(text: str) -> str:
    """`text` without the name and password of an address in it, to be shown."""
    return _LOGIN.sub("", text)


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
