# SPDX-License-Identifier: GPL-2.0-or-later
"""The hub's web server as one WSGI application: /kojihub is the hub, /kojifiles its files.

Configured by the environment: HARNESS_HUB_CONF (hub.conf) and HARNESS_TOPDIR (the hub's folder).
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable
from wsgiref.util import FileWrapper

from kojihub.app.kojiapp import application as hub

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]

CONF = os.environ["HARNESS_HUB_CONF"]
TOPDIR = Path(os.environ["HARNESS_TOPDIR"]).resolve()
_BLOCK = 1 << 16


def _words(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    body = text.encode() + b"\n"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _file(environ: Environ, start_response: StartResponse, name: str) -> Iterable[bytes]:
    path = (TOPDIR / name.lstrip("/")).resolve()
    if path != TOPDIR and TOPDIR not in path.parents:
        return _words(start_response, "403 Forbidden", "outside of the hub's folder")
    if path.is_dir():
        return _words(start_response, "200 OK", "\n".join(sorted(os.listdir(path))))
    if not path.is_file():
        return _words(start_response, "404 Not Found", "no such file")
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    headers = [("Content-Type", kind), ("Content-Length", str(path.stat().st_size))]
    start_response("200 OK", headers)
    if environ["REQUEST_METHOD"] == "HEAD":
        return []
    # WSGI closes the wrapper, and so the file, when it was sent.
    return FileWrapper(path.open("rb"), _BLOCK)


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request."""
    path = str(environ.get("PATH_INFO", ""))
    if path.startswith("/kojihub"):
        environ["koji.hub.ConfigFile"] = CONF
        environ["koji.hub.ConfigDir"] = CONF + ".d"
        answer: Iterable[bytes] = hub(environ, start_response)
        return answer
    if path.startswith("/kojifiles"):
        return _file(environ, start_response, path[len("/kojifiles") :])
    return _words(start_response, "404 Not Found", "only /kojihub and /kojifiles are here")
