"""A web server over a folder, on loopback, that lists folders, knows byte ranges and misbehaves as it is told; and how
much a cache holds of it."""

import contextlib
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from shards import ShardCache

FAULTS = ("failing", "reset", "truncated", "cut", "flipped", "stalled")


class HttpStore(ThreadingHTTPServer):
    """`faults`: how the next requests for bytes of tars are answered, one word each; a word out of FAULTS, or "".

    failing: status 503. reset: the connection is, after half of the body. truncated: closed there. cut: the same, but
    the answer had no length. flipped: one bit. stalled: half of the body, then nothing until `go_on` is set.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(root)))
        self.faults: list[str] = []
        self.at_first: Iterator[str] = iter(())
        """What else is wrong with the first answer for each range of a tar."""
        self.seen: set[str] = set()
        self.ranges = True
        self.no_listing = 0
        """Status of the answer to requests for a folder, 0 where it is listed."""
        self.requests: Counter[str] = Counter()
        """Path -> requests for its bytes."""
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed hang up."""

    def next_fault(self, path: str, span: str) -> str:
        self.requests[path] += 1
        if not path.endswith(".tar"):
            return ""
        if self.faults:
            return self.faults.pop(0)
        if f"{path} {span}" in self.seen:
            return ""
        self.seen.add(f"{path} {span}")
        return next(self.at_first, "")

    def of_tars(self) -> dict[str, int]:
        return {path: count for path, count in self.requests.items() if path.endswith(".tar")}


@contextlib.contextmanager
def http_store(root: Path) -> Iterator[HttpStore]:
    store = HttpStore(root)
    thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield store
    finally:
        store.go_on.set()
        store.shutdown()
        thread.join()
        store.server_close()


def bytes_cached(cache: ShardCache) -> int:
    """Bytes of all files of a cache at one moment."""
    total = 0
    with cache._lock():  # files may still be removed, none comes or gets another name
        for path in cache.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


class _Handler(SimpleHTTPRequestHandler):
    server: HttpStore
    protocol_version = "HTTP/1.1"

    def log_message(self, *what: object) -> None:
        pass

    def list_directory(self, path: str):
        if not self.server.no_listing:
            return super().list_directory(path)
        self.send_error(self.server.no_listing)
        return None

    def do_GET(self) -> None:
        path = Path(self.translate_path(unquote(self.path)))
        if not path.is_file():
            super().do_GET()
            return
        content, status = path.read_bytes(), HTTPStatus.OK
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span and self.server.ranges:
            if int(span[1]) >= len(content):
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            content, status = content[int(span[1]) : int(span[2]) + 1], HTTPStatus.PARTIAL_CONTENT
        self._answer(content, status, self.server.next_fault(self.path, self.headers.get("Range", "")))

    def _answer(self, content: bytes, status: HTTPStatus, fault: str) -> None:
        if fault == "failing":
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self.send_response(status)
        if fault == "cut":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        if fault in ("", "flipped"):
            if fault:
                content = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
            self.wfile.write(content)
            return
        self.wfile.write(content[:half])
        self.close_connection = True
        if fault == "stalled":
            self.server.stalled.set()
            self.server.go_on.wait(60)
        elif fault == "reset":  # what is not sent yet is thrown away, and the peer told so
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
