"""A web server on loopback that gives one file, and misbehaves as it is told."""

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class CheckpointServer(ThreadingHTTPServer):
    """`content` under every path but those of `answers`; what it is asked is in `requests` (path, headers).

    cuts: of the next answers, the bytes after which each connection is closed. ranges: whether it knows them; most:
    bytes that it gives of one. tag: "strong", "weak", "date" or "none", how it tells versions. length: "stated",
    "chunked" or "none". hold_at: bytes after which an answer waits for `go_on`. answers: path -> (status, headers,
    body).
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.cuts: list[int] = []
        self.ranges, self.tag, self.length = True, "strong", "stated"
        self.checks_version = True
        self.most: int | None = None
        self.hold_at: int | None = None
        self.held, self.go_on = threading.Event(), threading.Event()
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.requests: list[tuple[str, Message]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]

    @property
    def version(self) -> str | None:
        """What an answer says of the version, and what If-Range has to be."""
        digest = hashlib.sha256(self.content).hexdigest()
        if self.tag == "date":
            return f"Fri, 20 Nov 2026 00:00:{int(digest[:4], 16) % 60:02d} GMT"
        return {"strong": f'"{digest[:8]}"', "weak": f'W/"{digest[:8]}"', "none": None}[self.tag]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: CheckpointServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *what: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.path, self.headers))
        if self.path in server.answers:
            status, headers, body = server.answers[self.path]
            self._begin(status, {"Content-Length": str(len(body)), **headers})
            self.wfile.write(body)
            return
        content, first = server.content, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = not server.checks_version or self.headers.get("If-Range") in (None, server.version)
        if asked and server.ranges and same:
            first = int(asked[1])
            if first >= len(content):
                self._begin(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
        headers = {"Content-Type": "application/octet-stream"}
        if server.version is not None:
            headers["Last-Modified" if server.tag == "date" else "ETag"] = server.version
        stop = min(len(content), first + (server.most if first and server.most else len(content)))
        if first:
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(content)}"
        if server.length == "stated":
            headers["Content-Length"] = str(stop - first)
        elif server.length == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        end = min(stop, first + server.cuts.pop(0)) if server.cuts else stop
        self._begin(206 if first else 200, headers)
        self._send(content, first, end)
        if server.length == "chunked" and end == len(content):
            self.wfile.write(b"0\r\n\r\n")

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, content: bytes, first: int, end: int) -> None:
        while first < end:
            stop = min(end, first + 10_000)
            if self.server.hold_at is not None and first <= self.server.hold_at < stop:
                self.server.held.set()
                self.server.go_on.wait(60)
            block = content[first:stop]
            framed = f"{len(block):x}\r\n".encode() + block + b"\r\n" if self.server.length == "chunked" else block
            self.wfile.write(framed)
            first = stop


@contextlib.contextmanager
def checkpoint_server(content: bytes) -> Iterator[CheckpointServer]:
    server = CheckpointServer(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
