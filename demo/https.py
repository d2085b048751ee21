# SPDX-License-Identifier: GPL-2.0-or-later
"""What an HTTPS server on 127.0.0.1 needs: a throw-away CA, and TLS for each connection."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """A certificate authority that lives as long as one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away CA")])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            self._builder(self._name, self._key, now, days=2)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        start: datetime.datetime,
        days: int,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - datetime.timedelta(days=1))
            .not_valid_after(start + datetime.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
        )

    def server_context(self, *, expired: bool = False, other_host: bool = False) -> ssl.SSLContext:
        """TLS for a server on 127.0.0.1, whose certificate may be bad on purpose."""
        key = ec.generate_private_key(ec.SECP256R1())
        start = datetime.datetime.now(datetime.timezone.utc)
        if expired:
            start -= datetime.timedelta(days=20)
        names: list[x509.GeneralName] = [x509.DNSName("elsewhere.example")]
        if not other_host:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            names = [address, x509.DNSName("localhost")]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vendor")])
        certificate = (
            self._builder(subject, key, start, days=10)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        pem = self._folder / f"server-{certificate.serial_number}.pem"
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


class TlsServer(http.server.ThreadingHTTPServer):
    """A server on a free port of 127.0.0.1, with TLS from `Authority.server_context`."""

    daemon_threads = True
    # nobody must wait for a client that does not go away
    block_on_close = False

    def __init__(
        self, context: ssl.SSLContext, handler: type[http.server.BaseHTTPRequestHandler]
    ) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the handshake in the handler's thread; clients that refuse us are no news."""
        request.settimeout(20)
        try:
            secure = self._context.wrap_socket(request, server_side=True)
        except (ssl.SSLError, OSError):
            return
        with secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves in the middle is no news either."""
