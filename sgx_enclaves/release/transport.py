# SPDX-License-Identifier: GPL-2.0-or-later
"""One HTTPS request: certificates checked, every wait bounded, redirects watched.

Knows HTTP (RFC 9110) as far as a download needs it: Range, If-Range, redirects
and proxies. Never retries and never writes a file; that is `fetch`'s part.

The standard library's client is used and not a larger one because each read
must return as soon as a byte is there: only so is a server that drips seen apart
from one that is merely slow.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import re
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Optional
from urllib.parse import unquote, urljoin, urlsplit

from sgx_enclaves.catalogue.artifact import check_url
from sgx_enclaves.errors import CatalogueError, FetchError
from sgx_enclaves.plain import record

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_TRY_AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_CHUNK = 64 << 10


class NoNetworkError(FetchError):
    """No way to the server from here: nobody knows its name, or no route leads there."""


class RetryableError(FetchError):
    """A failure that may pass: a reset, a time-out, a busy server."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@record
class TransportSettings:
    """Bounds of one request, in seconds where nothing else is said.

    Attributes:
        connect_timeout: to reach the server, for each of its addresses.
        start_timeout: from the first byte sent to the end of the answer's headers.
        read_timeout: between two bytes of the content.
        max_redirects: redirects followed.
        ca_file: certificates to trust instead of the system's.
        hosts: the only servers that may be asked, redirects included; none stands for all.
    """

    connect_timeout: float = 20.0
    start_timeout: float = 60.0
    read_timeout: float = 30.0
    max_redirects: int = 5
    ca_file: Optional[str] = None
    hosts: tuple[str, ...] = ()


@record
class Response:
    """An answer whose content has not been read yet.

    Attributes:
        start: offset in the file of the content's first byte.
        total: bytes of the whole file, if the server says so.
        validator: what `If-Range` needs to resume later, if the server gives it.
        chunks: the content; raises `RetryableError` when it ends too early.
    """

    start: int
    total: Optional[int]
    validator: Optional[str]
    chunks: Iterator[bytes]


class _Connection(http.client.HTTPSConnection):
    """An HTTPS connection whose opening can be broken off from another thread."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self.expired = False
        self._tls = context
        self._server_name = host

    def connect(self) -> None:
        """Open the connection; the handshake comes last so that `expire` sees its socket."""
        http.client.HTTPConnection.connect(self)
        plain: socket.socket = self.sock
        secure = self._tls.wrap_socket(
            plain, server_hostname=self._server_name, do_handshake_on_connect=False
        )
        self.sock = secure
        if self.expired:
            raise socket.timeout
        secure.do_handshake()

    def expire(self) -> None:
        """Wake whoever waits on the socket; a server that drips must not hold us."""
        self.expired = True
        if self.sock is not None:
            with contextlib.suppress(OSError):
                # not SSLSocket's own, which would drop to plain text
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class HttpsTransport:
    """HTTPS with the system's trusted certificates and the environment's proxies.

    `proxies` is scheme to proxy URL, with `no` for exceptions; by default `https_proxy`,
    `all_proxy` and `no_proxy` of the environment.
    """

    def __init__(
        self,
        settings: Optional[TransportSettings] = None,
        proxies: Optional[Mapping[str, str]] = None,
    ) -> None:
        self._settings = settings if settings is not None else TransportSettings()
        self._proxies = dict(
            urllib.request.getproxies_environment() if proxies is None else proxies
        )
        try:
            self._context = ssl.create_default_context(cafile=self._settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise FetchError(
                f"the certificates cannot be loaded: {error}", file=self._settings.ca_file
            ) from None
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2

    def open(self, url: str, start: int = 0, validator: Optional[str] = None) -> Response:
        """Ask for a file from the byte `start` on; the server may give the whole all the same.

        `validator` is the ETag or date of the part that is there already. A RetryableError if it
        may work later, any other FetchError if it will not.
        """
        check_url(url)
        headers = {
            "User-Agent": "sgx-enclaves",
            "Accept": "*/*",
            # the bytes on the wire are the file's own
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        if start and validator is not None:
            headers["Range"] = f"bytes={start}-"
            headers["If-Range"] = validator
        else:
            start = 0
        target = url
        for _hop in range(self._settings.max_redirects + 1):
            host = urlsplit(target).hostname or ""
            if self._settings.hosts and host not in self._settings.hosts:
                raise FetchError(
                    f"{host} is not one of the servers that may be asked",
                    expected=", ".join(self._settings.hosts),
                    hint="add it to the allowed hosts if it should be",
                )
            connection, answer = self._ask(target, headers)
            if answer.status not in _REDIRECTS:
                return self._response(connection, answer, start)
            location = answer.headers.get("Location", "")
            connection.close()
            target = _redirected(target, location)
        raise FetchError(f"more than {self._settings.max_redirects} redirects")

    def _ask(
        self, url: str, headers: Mapping[str, str]
    ) -> tuple[_Connection, http.client.HTTPResponse]:
        parts = urlsplit(url)
        host = parts.hostname or ""
        connection = _Connection(
            host, parts.port or 443, self._context, self._settings.connect_timeout
        )
        self._through_proxy(connection)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        watchdog = threading.Timer(self._settings.start_timeout, connection.expire)
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.request("GET", path, headers=dict(headers))
            connection.sock.settimeout(self._settings.read_timeout)
            answer = connection.getresponse()
            if connection.expired:  # headers that were cut off look like headers that ended
                raise socket.timeout
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise FetchError(
                f"the server's certificate is not good: {error.verify_message}",
                hint="check the clock, the trusted certificates and the address; "
                "certificates are never skipped",
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            if connection.expired:
                raise RetryableError("the server took too long to answer") from None
            raise _as_fetch_error(error) from None
        finally:
            watchdog.cancel()
        return connection, answer

    def _response(
        self, connection: _Connection, answer: http.client.HTTPResponse, start: int
    ) -> Response:
        try:
            length = total = _content_length(answer)
            if answer.status == 206 and start:
                total = _check_range(answer, start)
                length = total - start
            elif answer.status == 200:
                start = 0
            elif answer.status == 416:
                raise RangeRefusedError("the server has no such part of the file")
            else:
                raise _status_error(answer)
            if length is None and not answer.chunked:
                raise RetryableError("the answer does not say where it ends")
        except FetchError:
            connection.close()
            raise
        return Response(start, total, _validator(answer), _body(connection, answer, length))

    def _through_proxy(self, connection: _Connection) -> None:
        """Reach the host by way of a proxy's CONNECT, if there is one for it."""
        url = self._proxies.get("https") or self._proxies.get("all")
        if not url or urllib.request.proxy_bypass_environment(  # type: ignore[attr-defined]
            f"{connection.host}:{connection.port}", self._proxies
        ):
            return
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port or 3128
        except ValueError:
            raise FetchError("the environment's proxy is not a URL") from None
        if parts.scheme != "http" or not host:
            raise FetchError(
                f"a proxy of kind {parts.scheme!r} is not supported",
                expected="http://HOST:PORT",
                hint="correct https_proxy, or list the host in no_proxy",
            )
        headers = {}
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers["Proxy-Authorization"] = "Basic " + base64.b64encode(secret).decode()
        connection.set_tunnel(connection.host, connection.port, headers=headers)
        connection.host, connection.port = host, port


class RangeRefusedError(RetryableError):
    """The part that is there already is of no use to this server; start again."""


def _redirected(url: str, location: str) -> str:
    if not location:
        raise FetchError("a redirect that leads nowhere")
    target = urljoin(url, location).partition("#")[0]
    try:
        return check_url(target)
    except CatalogueError as error:
        raise FetchError(
            f"redirect to {target!r} refused: {error.message}",
            hint="the address may have moved; try another mirror",
        ) from None


def _as_fetch_error(error: Exception) -> FetchError:
    if isinstance(error, (socket.timeout, TimeoutError)):
        return RetryableError("time-out")
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return RetryableError("the server broke the connection off")
    if isinstance(error, ssl.SSLError):
        return FetchError(f"no secure connection: {error.reason or error}")
    if isinstance(error, socket.gaierror) or (
        isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    ):
        return NoNetworkError(f"no network: {error.strerror or error}")
    if isinstance(error, OSError):
        return RetryableError(f"no connection: {error.strerror or error}")
    return RetryableError(f"the server's answer makes no sense: {error!r}")


def _status_error(answer: http.client.HTTPResponse) -> FetchError:
    text = f"HTTP status {answer.status}"
    if answer.status in _TRY_AGAIN:
        after = answer.headers.get("Retry-After", "")
        wait = float(after) if after.isdigit() and len(after) < 6 else 0.0
        return RetryableError(text, retry_after=wait)
    return FetchError(text)


def _content_length(answer: http.client.HTTPResponse) -> Optional[int]:
    text = answer.headers.get("Content-Length")
    if answer.headers.get("Transfer-Encoding") or text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise FetchError("the server gives a length that is no number")
    return int(text)


def _check_range(answer: http.client.HTTPResponse, start: int) -> int:
    """The file's size, from a partial answer that begins where it should and ends at the end."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None or match[3] == "*":
        raise RangeRefusedError("a partial answer without its range")
    first, last, total = int(match[1]), int(match[2]), int(match[3])
    length = _content_length(answer)
    if first != start or last != total - 1 or length not in (None, total - start):
        raise RangeRefusedError(f"another part than asked for: {match[0]}")
    return total


def _validator(answer: http.client.HTTPResponse) -> Optional[str]:
    """A strong ETag or a date; a weak ETag says nothing about bytes (RFC 9110, 13.1.5)."""
    etag = answer.headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]{0,200}"', etag):
        return etag
    if etag:
        return None
    date = answer.headers.get("Last-Modified", "")
    return date if re.fullmatch(r"[A-Za-z0-9:, +-]{10,60}", date) else None


def _body(
    connection: _Connection, answer: http.client.HTTPResponse, length: Optional[int]
) -> Iterator[bytes]:
    left = length
    try:
        while left is None or left > 0:
            chunk = answer.read1(_CHUNK if left is None else min(_CHUNK, left))
            if not chunk:
                if left:
                    raise RetryableError(f"the content ended {left} bytes too early")
                return
            if left is not None:
                left -= len(chunk)
            yield chunk
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _as_fetch_error(error) from None
    finally:
        answer.close()
        connection.close()
