# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's vendor as a download server: files from memory, over HTTPS, on 127.0.0.1."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.https import Authority, TlsServer


@dataclass
class DownloadServer:
    """The running server: its base without a trailing slash, the certificate to trust, and what it
    serves, by path.
    """

    url: str
    ca_file: Path
    files: dict[str, bytes] = field(default_factory=dict)

    def put(self, path: str, data: bytes) -> str:
        """Serve `data` at `path`; returns the URL."""
        self.files[path] = data
        return self.url + path


@contextlib.contextmanager
def download_server(folder: Path) -> Iterator[DownloadServer]:
    """Run a server for the length of a `with` block; its certificates go into the folder."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """The demo's output is about verdicts."""

        def do_GET(self) -> None:
            """Serve one of the files, whole."""
            self.close_connection = True
            data = files.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

    authority = Authority(folder)
    server = TlsServer(authority.server_context(), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        url = f"https://127.0.0.1:{server.server_port}"
        yield DownloadServer(url, authority.ca_file, files)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
