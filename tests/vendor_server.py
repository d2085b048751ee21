# SPDX-License-Identifier: GPL-2.0-or-later
"""A vendor's download server on 127.0.0.1, with a throw-away CA and faults to order.

Each path is served from memory. `fault(path, …)` queues what shall go wrong with
the next requests to it, one fault a request; a path without faults is served
well, with ranges, a strong ETag and If-Range.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import socket
import ssl
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from demo.https import Authority, TlsServer

__all__ = ["NO_FAULT", "Authority", "Fault", "Request", "VendorServer", "vendor_server"]

_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    Attributes:
        status: answer with this status and no content.
        location: the `Location` header that goes with it.
        headers: more headers.
        reset_after: send so many bytes, then reset the connection.
        close_after: send so many bytes, then close it properly.
        stall_after: send so many bytes, then nothing until the client leaves.
        stall_headers: send a byte of the headers now and then, without an end.
        drip: send the content one byte at a time with this pause in seconds.
        length_off: add this to Content-Length.
        ignore_range: answer 200 with everything.
        wrong_range: answer 206 with a part from another offset.
        no_length: send the content in chunks, without its length.
        early: send early hints before the answer.
        trailers: end such chunks with so many headers.
        until_close: neither length nor chunks; the content ends with the connection.
    """

    status: int = 0
    location: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    reset_after: Optional[int] = None
    close_after: Optional[int] = None
    stall_after: Optional[int] = None
    stall_headers: bool = False
    drip: float = 0.0
    length_off: int = 0
    ignore_range: bool = False
    wrong_range: bool = False
    no_length: bool = False
    early: bool = False
    trailers: int = 0
    until_close: bool = False


NO_FAULT = Fault()


@dataclass
class Request:
    """What a client asked for."""

    path: str
    headers: dict[str, str]


@dataclass
class _Content:
    data: bytes
    etag: Optional[str]


@dataclass
class VendorServer:
    """The running server.

    Attributes:
        url: its base, without a trailing slash.
        ca_file: the certificate to trust.
        requests: everything that was asked for, in order.
    """

    url: str
    ca_file: Path
    requests: list[Request] = field(default_factory=list)
    contents: dict[str, _Content] = field(default_factory=dict)
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    always: dict[str, Fault] = field(default_factory=dict)
    leaving: threading.Event = field(default_factory=threading.Event)

    def put(self, path: str, data: bytes, etag: Optional[str] = "auto") -> str:
        """Serve `data` at `path`; returns the URL."""
        if etag == "auto":
            etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        self.contents[path] = _Content(data, etag)
        return self.url + path

    def fault(self, path: str, *faults: Fault) -> None:
        """Let the next requests to `path` go wrong, one after the other."""
        self.faults[path].extend(faults)

    def asked(self, path: str) -> list[Request]:
        """The requests to `path`."""
        return [request for request in self.requests if request.path == path]


class _Server(TlsServer):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context, _Handler)
        self.vendor: VendorServer


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""

    def do_GET(self) -> None:
        """Serve a path, with the fault that is next for it."""
        self.close_connection = True
        vendor = self.server.vendor
        vendor.requests.append(Request(self.path, dict(self.headers.items())))
        queue = vendor.faults[self.path]
        fault = queue.popleft() if queue else vendor.always.get(self.path, NO_FAULT)
        content = vendor.contents.get(self.path)
        if fault.stall_headers:
            self._stall_headers()
        elif fault.status:
            self._plain(fault.status, fault)
        elif content is None:
            self._plain(404, fault)
        else:
            self._serve(content, fault)

    def _plain(self, status: int, fault: Fault) -> None:
        self.send_response(status)
        if fault.location:
            self.send_header("Location", fault.location)
        for name, value in fault.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self, content: _Content, fault: Fault) -> None:
        start = self._start(content, fault)
        data = content.data[start:]
        if fault.early:
            self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        self.send_response(206 if start else 200)
        if start:
            claimed = start + 1 if fault.wrong_range else start
            last = len(content.data) - 1
            self.send_header("Content-Range", f"bytes {claimed}-{last}/{len(content.data)}")
        if content.etag is not None:
            self.send_header("ETag", content.etag)
        for name, value in fault.headers:
            self.send_header(name, value)
        if fault.no_length:
            self.send_header("Transfer-Encoding", "chunked")
        elif not fault.until_close:
            self.send_header("Content-Length", str(len(data) + fault.length_off))
        self.end_headers()
        if fault.no_length:
            for at in range(0, len(data), 1000):
                if fault.close_after is not None and at >= fault.close_after:
                    return
                part = data[at : at + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            trailers = b"".join(b"X-%d: %050d\r\n" % (n, n) for n in range(fault.trailers))
            self.wfile.write(b"0\r\n%s\r\n" % trailers)
            return
        self._send(data, fault)

    def _start(self, content: _Content, fault: Fault) -> int:
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or fault.ignore_range or content.etag is None:
            return 0
        if self.headers.get("If-Range", content.etag) != content.etag:
            return 0
        return int(match[1])

    def _send(self, data: bytes, fault: Fault) -> None:
        cut = next(
            (
                number
                for number in (fault.reset_after, fault.close_after, fault.stall_after)
                if number is not None
            ),
            len(data),
        )
        leaving = self.server.vendor.leaving
        if fault.drip:
            for at in range(cut):
                self.wfile.write(data[at : at + 1])
                if leaving.wait(fault.drip):
                    return
        else:
            self.wfile.write(data[:cut])
        if fault.reset_after is not None:
            # close with a pending reset instead of an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif fault.stall_after is not None:
            leaving.wait(20)

    def _stall_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.server.vendor.leaving.wait(0.05):
            self.wfile.write(b"z")


@contextlib.contextmanager
def vendor_server(
    authority: Authority, *, expired: bool = False, other_host: bool = False
) -> Iterator[VendorServer]:
    """Run a server for the length of a `with` block."""
    server = _Server(authority.server_context(expired=expired, other_host=other_host))
    vendor = VendorServer(f"https://127.0.0.1:{server.server_port}", authority.ca_file)
    server.vendor = vendor
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield vendor
    finally:
        vendor.leaving.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
