# SPDX-License-Identifier: GPL-2.0-or-later
"""One HTTPS request by `curl`: certificates checked, every wait bounded, redirects watched.

`curl` (7.76 or later) knows TLS, HTTP, names and the environment's proxies; a password in these
never stands in an argument or a message. What an answer means for a download is judged here, by
RFC 9110: Range, If-Range and redirects. Never retries and never writes a file; that is `fetch`'s.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any, Optional
from urllib.parse import urljoin, urlsplit

from sgx_enclaves.catalogue.artifact import check_url
from sgx_enclaves.errors import CatalogueError, FetchError
from sgx_enclaves.files import system_errors
from sgx_enclaves.plain import record

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_TRY_AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
# A strong ETag or a date; a weak ETag says nothing about bytes (RFC 9110, 13.1.5).
_VALIDATOR = re.compile(r'"[\x21\x23-\x7e]{0,200}"|[A-Z][a-z]{2}, [0-9A-Za-z: ]{10,50}')
_CHUNK = 64 << 10
_MAX_REDIRECTS = 5
# Bytes a second that a server must give, on average over so many seconds.
_MIN_RATE, _RATE_WINDOW = 1024, 30
# `--disable` must be first: no ~/.curlrc. Without a name for the output it is standard output.
_CURL = (
    *("curl", "--disable", "--silent", "--show-error", "--no-buffer", "--globoff", "--path-as-is"),
    *("--proto", "=https", "--tlsv1.2", "--http1.1", "--user-agent", "sgx-enclaves"),
    *("--dump-header", "/dev/stderr", "--suppress-connect-headers"),
    *("--connect-timeout", "20"),
    # the bytes on the wire are the file's own
    *("--header", "Accept-Encoding: identity"),
)


class NoNetworkError(FetchError):
    """No way to the server from here: nobody knows its name."""


class RetryableError(FetchError):
    """A failure that may pass: a reset, a time-out, a busy server; `afresh` if the part that is
    there already is of no use to that.
    """

    def __init__(self, message: str, retry_after: float = 0.0, *, afresh: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.afresh = retry_after, afresh


# Of what curl ends with (EXIT CODES in its manual): no connection, cut off, time-out, TLS broken
# off, an empty answer, nothing sent or received.
_MAY_PASS = frozenset((7, 18, 28, 35, 52, 55, 56))
_HINT = "check the clock, the trusted certificates and the address; certificates are never skipped"


@record
class Response:
    """An answer: from which byte of the file on, of how many, if the server says so, the content
    comes, with a `FetchError` if it ends too early; and what `If-Range` needs to resume later,
    empty if the server gives none.
    """

    start: int
    total: Optional[int]
    validator: str
    chunks: Iterator[bytes]


class _Curl(subprocess.Popen[bytes]):
    """A running `curl`, which never outlives its `with`: headers on stderr, content on stdout."""

    stdout: IO[bytes]
    stderr: IO[bytes]

    def __init__(self, command: list[str]) -> None:
        pipe, hint = subprocess.PIPE, "install the package curl"
        with system_errors("curl", "cannot be started", error=FetchError, hint=hint):
            super().__init__(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)

    def __exit__(self, *error: Any) -> None:
        self.kill()
        super().__exit__(*error)

    def head(self) -> tuple[int, dict[str, str]]:
        """The answer's status and headers, whose names are in lower case."""
        head = b""
        while (line := self.stderr.readline(_CHUNK)).strip():
            head += line
            if len(head) > _CHUNK:
                raise FetchError("the server's headers are too large")
        if not line or not head.startswith(b"HTTP/"):
            raise self._error(head)
        status = re.match(rb"HTTP/1\.[01] ([0-9]{3})\b", head)
        if status is None:
            raise FetchError("the server's answer is not HTTP")
        fields = (line.partition(":") for line in head.decode("latin-1").split("\n")[1:])
        return int(status[1]), {name.lower(): value.strip() for name, _, value in fields}

    def content(self) -> Iterator[bytes]:
        """The content as it comes; curl ends what is always slow, but not what comes in bursts."""
        patience = 2 * _RATE_WINDOW
        mark, since = time.monotonic(), 0
        while select.select([self.stdout], [], [], patience)[0]:
            if chunk := os.read(self.stdout.fileno(), _CHUNK):
                yield chunk
                since, now = since + len(chunk), time.monotonic()
                if now - mark > _RATE_WINDOW:
                    if since < _MIN_RATE * (now - mark):
                        raise RetryableError(f"too slow: less than {_MIN_RATE} bytes a second")
                    mark, since = now, 0
            elif self.wait():
                raise self._error()
            else:
                return
        raise RetryableError(f"nothing came for {patience:g} s")

    def _error(self, said: bytes = b"") -> FetchError:
        """Why curl ended, in its own words."""
        said += self.stderr.read(_CHUNK)
        code = self.wait()
        words = re.findall(r"^curl: \([0-9]+\) (.*)$", said.decode("latin-1"), re.MULTILINE)
        reason = words[-1] if words else f"curl ended with status {code}"
        if "@" in reason:  # curl repeats a proxy that it cannot use, with its password
            hint = "correct https_proxy, or list the host in no_proxy"
            return FetchError("curl cannot use the proxy of the environment", hint=hint)
        if code == 6:
            return NoNetworkError(f"no network: {reason}")
        if code == 60:
            return FetchError(f"the server's certificate is not good: {reason}", hint=_HINT)
        if code == 77:
            return FetchError(f"the certificates cannot be loaded: {reason}", file="curl")
        return RetryableError(reason) if code in _MAY_PASS else FetchError(reason)


@record
class HttpsTransport:
    """HTTPS with the system's trusted certificates and the environment's proxies.

    Attributes:
        total_timeout: seconds for one request with its content.
        ca_file: certificates to trust instead of the system's.
        hosts: the only servers that may be asked, redirects included; none stands for all.
    """

    total_timeout: int = 3600
    ca_file: Optional[str] = None
    hosts: tuple[str, ...] = ()

    @contextlib.contextmanager
    def open(self, url: str, start: int = 0, validator: str = "") -> Iterator[Response]:
        """Ask for a file from the byte `start` on; the server may give the whole all the same.

        `validator` is the ETag or date of the part that is there already. A RetryableError if it
        may work later, any other FetchError if it will not.
        """
        command = [*_CURL, "--max-time", str(self.total_timeout)]
        command += ["--speed-limit", str(_MIN_RATE), "--speed-time", str(_RATE_WINDOW)]
        if self.ca_file is not None:
            # without the second, the system's are trusted as well
            command += ["--cacert", self.ca_file, "--capath", "/dev/null"]
        if start and _VALIDATOR.fullmatch(validator):
            command += ["--header", f"Range: bytes={start}-", "--header", f"If-Range: {validator}"]
        else:
            start = 0
        for _hop in range(_MAX_REDIRECTS + 1):
            try:
                host = urlsplit(check_url(url)).hostname or ""
            except CatalogueError as error:
                hint = "the address may have moved; try another mirror"
                raise FetchError(f"{url!r} is refused: {error.message}", hint=hint) from None
            if self.hosts and host not in self.hosts:
                raise FetchError(
                    f"{host} is not one of the servers that may be asked",
                    expected=", ".join(self.hosts),
                    hint="add it to the allowed hosts if it should be",
                )
            with _Curl([*command, "--url", url]) as curl:
                status, fields = curl.head()
                while status < 200:  # early hints, before the answer
                    status, fields = curl.head()
                if status not in _REDIRECTS:
                    # curl itself ends the silence sooner, if it can
                    yield _response(status, fields, start, curl.content())
                    return
            if not fields.get("location"):
                raise FetchError("a redirect that leads nowhere")
            url = urljoin(url, fields["location"])
        raise FetchError(f"more than {_MAX_REDIRECTS} redirects")


def _response(
    status: int, fields: Mapping[str, str], start: int, chunks: Iterator[bytes]
) -> Response:
    """What the headers of an answer say of the file."""
    chunked = "chunked" in fields.get("transfer-encoding", "").lower()
    length = None if chunked else fields.get("content-length")
    if length is not None and not re.fullmatch(r"[0-9]{1,18}", length):
        raise FetchError("the server gives a length that is no number")
    total = int(length) if length is not None else None
    if status == 206 and start:
        text = fields.get("content-range", "")
        part = re.fullmatch(rf"bytes {start}-([0-9]{{1,18}})/([0-9]{{1,18}})", text)
        last, size = (int(part[1]), int(part[2])) if part else (0, 0)
        if last + 1 != size or total not in (None, size - start):
            raise RetryableError(f"another part than asked for: {text}", afresh=True)
        total = size
    elif status == 200:
        start = 0
    elif status == 416:
        raise RetryableError("the server has no such part of the file", afresh=True)
    else:
        after = fields.get("retry-after", "")
        wait = float(after) if re.fullmatch(r"[0-9]{1,5}", after) else 0.0
        text = f"HTTP status {status}"
        raise RetryableError(text, wait) if status in _TRY_AGAIN else FetchError(text)
    if length is None and not chunked:
        raise RetryableError("the answer does not say where it ends")
    validator = fields.get("etag") or fields.get("last-modified", "")
    usable = validator if _VALIDATOR.fullmatch(validator) else ""
    return Response(start, total, usable, chunks)
