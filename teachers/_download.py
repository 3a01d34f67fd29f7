"""One file from a web server, however often the connection breaks: what has arrived stays, and is gone on from.

Beside the file that grows lies `<name>.json` with what the server said of it: nothing is appended unless the server
could tell that the file has changed in between, or the caller knows the hash of the whole.
"""

import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import stop_if_asked
from pipeline import TeacherError, canonical_json, write_atomic

_PAUSES_S = (0.5, 2.0, 8.0)
"""Before the next try after one that brought nothing new; a connection that breaks after some bytes begins the count
anew."""
_SILENCE_S = 30.0
_BLOCK_BYTES = 1 << 18
_PROGRESS_S = 10.0
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


def download(url: str, part: Path, *, pinned: bool) -> bool:
    """Bring all of what `url` gives into `part`, going on from what is there; returns whether it did.

    pinned: the caller knows the hash of the whole, so that an answer of unknown length, or a file that the server has
    no version of, may be taken. Raises TeacherError where the server has no such file, or a web page; OSError
    (ConnectionError) when several tries in a row bring nothing new, and for what the disk refuses. `part` stays then.
    """
    most = _size(part)
    failures = 0
    while True:
        try:
            return _go_on(url, part, pinned)
        except _Broken as broken:
            failures = 1 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures > len(_PAUSES_S):
                raise ConnectionError(f"{url}: {broken}, {failures} times; check the network and try again") from broken
        stop_if_asked()
        time.sleep(_PAUSES_S[failures - 1])


def forget(part: Path) -> None:
    """Remove `part` and what is known of it."""
    for path in (part, _about(part)):
        path.unlink(missing_ok=True)


class _Broken(Exception):
    """The connection, not the file: worth another try."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the server said of the file that `part` is the beginning of. version: a strong ETag, or else a date."""

    url: str
    version: str | None
    total_bytes: int | None


def _go_on(url: str, part: Path, pinned: bool) -> bool:
    """One request for what is missing. Returns whether it was appended to what was there."""
    known = _read_known(part, url)
    offset = _size(part)
    if known is None or not (known.version or pinned):
        forget(part)
        known, offset = None, 0
    if known is not None and offset and offset == known.total_bytes:
        return True
    headers = {"Range": f"bytes={offset}-"} if known is not None and offset else {}
    if headers and known is not None and known.version:
        headers["If-Range"] = known.version
    with _answer(url, headers, part) as answer:
        if headers and answer.status == http.client.PARTIAL_CONTENT:
            total = _appendable(answer, known, offset, part)
        else:
            total, offset = _whole_bytes(answer, pinned, url), 0
            forget(part)  # first: bytes of one version must not stand beside the description of another
            write_atomic(_about(part), canonical_json(_described(url, answer, total)))
        with part.open("ab" if offset else "wb") as file:
            for block in _blocks(answer, url, offset, total):
                file.write(block)
                file.flush()  # what has arrived stays, also when we are killed
        if total is not None and _size(part) != total:
            raise _Broken(f"the connection ended after {_size(part):,} of {total:,} bytes")
    return offset > 0


def _answer(url: str, headers: dict[str, str], part: Path) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "sed-distill", **headers})
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_SILENCE_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # no such range: what is here is not the beginning of what is there
            forget(part)
        if error.code in (*_TRANSIENT, 416):
            raise _Broken(f"the server answers {error.code} {_line(error.reason)}") from error
        raise TeacherError(
            f"{url}: the server answers {error.code} {_line(error.reason)}; check the address, or fetch the file and "
            "give its path"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: redirected to what is no address
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise _Broken(f"cannot be reached ({_line(reason)})") from error
    trouble = None
    if url.startswith("https:") and not answer.url.startswith("https:"):
        trouble = f"leads to {answer.url.partition('?')[0]}, which is not encrypted"
    elif answer.headers.get_content_type() == "text/html":
        trouble = "gives a web page, not a file"
    elif answer.status != http.client.OK and not ("Range" in headers and answer.status == http.client.PARTIAL_CONTENT):
        trouble = f"is answered with {answer.status}, not with a whole file"
    if trouble is not None:
        answer.close()
        raise TeacherError(f"{url}: {trouble}; give the address of the file itself, or fetch it and give its path")
    return answer


def _appendable(answer: http.client.HTTPResponse, known: _Known | None, offset: int, part: Path) -> int | None:
    """Size of the whole, of which this answer is the rest. Begins anew if it does not say so."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    version = _version(answer)
    total = None if span is None or span[2] == "*" else int(span[2])
    fits = (
        known is not None
        and span is not None
        and int(span[1]) == offset
        and (version is None or known.version in (None, version))
        and (total is None or known.total_bytes in (None, total))
    )
    if not fits or known is None:
        forget(part)
        raise _Broken("the server goes on with something else than what it began with")
    return total if total is not None else known.total_bytes


def _whole_bytes(answer: http.client.HTTPResponse, pinned: bool, url: str) -> int | None:
    length = answer.headers.get("Content-Length")
    if length is not None and length.isdecimal():
        return int(length)
    if not answer.chunked and not pinned:
        raise TeacherError(
            f"{url}: the server does not say how long the file is, so half of it could pass for all; give the address "
            "with #sha256=HEX, or fetch the file and give its path"
        )
    return None


def _blocks(answer: http.client.HTTPResponse, url: str, offset: int, total: int | None) -> Iterator[bytes]:
    shown_s = time.monotonic()
    while True:
        stop_if_asked()
        try:
            block = answer.read1(_BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(
                f"the connection broke after {offset:,} bytes ({str(error) or type(error).__name__})"
            ) from error
        if not block:
            return
        offset += len(block)
        yield block
        if time.monotonic() - shown_s > _PROGRESS_S:
            shown_s = time.monotonic()
            of = "" if total is None else f" of {total / 1e6:.0f}"
            print(f"fetching {url}: {offset / 1e6:.0f}{of} MB", file=sys.stderr, flush=True)


def _line(text: object) -> str:
    """What a server says, as one line that a terminal only shows."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def _version(answer: http.client.HTTPResponse) -> str | None:
    """Only a strong tag tells that no byte has changed."""
    tag = answer.headers.get("ETag")
    return tag if tag is not None and tag.startswith('"') else answer.headers.get("Last-Modified")


def _described(url: str, answer: http.client.HTTPResponse, total: int | None) -> dict[str, Any]:
    return {"url": url, "version": _version(answer), "total_bytes": total}


def _read_known(part: Path, url: str) -> _Known | None:
    try:
        known = _Known(**json.loads(_about(part).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return known if known.url == url else None


def _about(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
