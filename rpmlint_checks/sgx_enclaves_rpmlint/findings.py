# SPDX-License-Identifier: GPL-2.0-or-later
"""Every finding that the check reports: its id, its level, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from sgx_enclaves.plain import record

ERROR = "E"
WARNING = "W"
INFO = "I"


@record
class Kind:
    """A kind of finding.

    Attributes:
        id: rpmlint's name for it.
        level: `E`, `W` or `I`.
        description: what it means and what to do.
        codes: codes of the core's findings that it words.
    """

    id: str
    level: str
    description: str
    codes: tuple[str, ...] = ()


KINDS = (
    Kind(
        "sgx-enclave-payload-differs",
        ERROR,
        "The signed enclave is not the enclave that was built from source: bytes outside of its "
        "metadata area differ. Ship the vendor's file of exactly this version, unmodified by "
        "rpmbuild (no strip, no brp scripts), and rebuild the unsigned enclave with the designated "
        "toolchain. If both are right, the vendor's file is not what the sources say: do not ship "
        "it.",
        ("payload-differs", "size-differs"),
    ),
    Kind(
        "sgx-enclave-not-reproduced",
        ERROR,
        "There is no unsigned counterpart to hold the signed enclave against, or no config.xml for "
        "it. Give rpmlint the package sgx-enclave-reproducible-NAME-unsigned as well, install it, "
        "or name a folder in [SgxEnclave] reference. Packages that provide "
        "sgx-enclave(NAME:unsigned:latest) are never a counterpart.",
        ("not-reproduced", "config-missing"),
    ),
    Kind(
        "sgx-enclave-reference-unusable",
        ERROR,
        "An unsigned counterpart was found but cannot be used: it is malformed, signed, damaged or "
        "not readable. Rebuild the package with the unsigned enclave, or correct [SgxEnclave] "
        "reference.",
        ("reference-unusable",),
    ),
    Kind(
        "sgx-enclave-metadata-unaccounted",
        ERROR,
        "The metadata of the signed enclave do not follow from the built enclave and its "
        "config.xml. Metadata can change code when the enclave is loaded. Take the config.xml of "
        "the tag that the enclave was released from; if it is, do not ship the file.",
        ("metadata-differs", "metadata-not-regenerated"),
    ),
    Kind(
        "sgx-enclave-measurement-mismatch",
        ERROR,
        "The signature is for an enclave with another MRENCLAVE than the built one. The file "
        "belongs to another build: ship the version that matches the sources.",
        ("measurement-differs", "measurement-failed"),
    ),
    Kind(
        "sgx-enclave-bad-signature",
        ERROR,
        "The SIGSTRUCT of the enclave is malformed or its RSA signature is not valid, so no "
        "processor would start it. Get the vendor's file again and compare its checksum.",
        (
            "sigstruct-header",
            "sigstruct-reserved",
            "sigstruct-exponent",
            "sigstruct-modulus",
            "sigstruct-signature-range",
            "sigstruct-quotient",
            "signature-invalid",
            "fips-signature-invalid",
        ),
    ),
    Kind(
        "sgx-enclave-wrong-signer",
        ERROR,
        "The enclave is validly signed, but not by whom this enclave must be signed, or as another "
        "product. Ship the vendor's file, under the name of the enclave that it is; name another "
        "signer in [SgxEnclave] signers only for enclaves that are not Intel's.",
        (
            "signer-unexpected",
            "signer-not-pinned",
            "isvprodid-unexpected",
            "named-as-another",
        ),
    ),
    Kind(
        "sgx-enclave-debug-allowed",
        ERROR,
        "The signature lets the enclave run in debug mode, where its memory is open to the host. "
        "Ship the production enclave.",
        ("debug-allowed",),
    ),
    Kind(
        "sgx-enclave-svn-too-low",
        ERROR,
        "The security version (ISVSVN) of the enclave is lower than its config.xml or the release "
        "demands, so known holes may be open. Ship the enclave of the current release.",
        ("isvsvn-too-low",),
    ),
    Kind(
        "sgx-enclave-package-damaged",
        ERROR,
        "The package is truncated, or its payload is not what its header says, in size or digest. "
        "Get or build the package again. rpmlint's other checks do not notice this.",
        ("package-damaged",),
    ),
    Kind(
        "sgx-enclave-package-unreadable",
        ERROR,
        "The package cannot be read to the end: it is malformed, claims more than it may, or is "
        "packed in a way that is not supported (gzip, xz and zstd are). Its enclaves are not "
        "verified. Build it again with an ordinary _binary_payload.",
        ("package-malformed", "package-too-large", "package-unsupported"),
    ),
    Kind(
        "sgx-enclave-malformed",
        ERROR,
        "A file with a section .note.sgxmeta, or a shared object in the enclave folder, is not an "
        "enclave that can be read. Nothing can be proved of it: ship the vendor's file, and "
        "nothing else in that folder.",
        ("enclave-malformed", "signed-malformed", "metadata-malformed", "not-signed"),
    ),
    Kind(
        "sgx-enclave-not-permitted",
        ERROR,
        "This enclave must not be shipped, whatever its file is called. Leave it out of the "
        "package, or permit it on purpose in [SgxEnclave] permit.",
        ("not-permitted",),
    ),
    Kind(
        "sgx-enclave-missing",
        ERROR,
        "The package provides a signed enclave, or has a link with an enclave's name, but the "
        "enclave itself is not in it. Ship the file, or drop the Provides and the link.",
        ("enclave-missing", "link-leaves-package"),
    ),
    Kind(
        "sgx-enclave-stripped-differently",
        ERROR,
        "The signed and the built enclave were stripped differently, which explains why they "
        "differ. Switch off strip and the brp scripts for enclaves in both spec files (%global "
        "__os_install_post %{nil}), and strip in the build as the enclave's makefile does.",
    ),
    Kind(
        "sgx-enclave-configuration",
        ERROR,
        "The table [SgxEnclave] of rpmlint's configuration is wrong, so part of it is not used. "
        "Correct the TOML file.",
    ),
    Kind(
        "sgx-enclave-check-failed",
        ERROR,
        "The check itself failed on this package, so its enclaves are not verified. Please report "
        "this with the package; `sgx-enclaves check-rpm` may tell more.",
    ),
    Kind(
        "sgx-enclave-name-unconventional",
        WARNING,
        "Enclaves are called libsgx_FILE.so when unsigned and libsgx_FILE.signed.so.VERSION when "
        "signed, in /usr/x86_64-intel-sgx/lib64, and their packages sgx-enclave-KIND-NAME-unsigned "
        "and sgx-enclave-KIND-NAME-signed. Rename file or package, or software will not find it.",
    ),
    Kind(
        "sgx-enclave-version-unconventional",
        WARNING,
        "A signed enclave's file name ends in its own version, for example .signed.so.1.25.100.1, "
        "and all its Provides have the version of its SGX or DCAP release, for example 2.25 or "
        "1.22, which is not older than the file. Correct the version.",
    ),
    Kind(
        "sgx-enclave-links-unconventional",
        WARNING,
        "Beside libsgx_FILE.signed.so.1.25.100.1 there are the links libsgx_FILE.signed.so.1 and "
        "libsgx_FILE.signed.so, and no others. Correct the links.",
    ),
    Kind(
        "sgx-enclave-provides-unconventional",
        WARNING,
        "A package with an enclave provides sgx-enclave(NAME:signed) or "
        "sgx-enclave(NAME:unsigned), so that others can require it. Add the Provides.",
    ),
    Kind(
        "sgx-enclave-unsigned-in-signed-package",
        WARNING,
        "A package with signed enclaves has an unsigned one as well, which no production system "
        "can start. Move it to the package of the unsigned enclaves.",
    ),
    Kind(
        "sgx-enclave-verified",
        INFO,
        "The signed enclave is our build plus a signature, and nothing else; its signature, signer "
        "and security version are right.",
    ),
)

BY_ID: Mapping[str, Kind] = {kind.id: kind for kind in KINDS}
_BY_CODE: Mapping[str, Kind] = {code: kind for kind in KINDS for code in kind.codes}


def kind_of_code(code: str) -> Kind:
    """The kind that words a finding of the core; one nobody knows is a failure of the check."""
    return _BY_CODE.get(code, BY_ID["sgx-enclave-check-failed"])


@record
class Report:
    """One line for rpmlint: the kind and its details, printable."""

    kind: Kind
    details: tuple[str, ...]


def report(kind_id: str, *details: str) -> Report:
    """A report of that kind; names come out of packages and must not steer a terminal."""
    return Report(BY_ID[kind_id], tuple(printable(detail) for detail in details))


def failed(message: str) -> Report:
    """The check could not be done."""
    return report("sgx-enclave-check-failed", message)


def printable(text: str) -> str:
    """The text with every other character escaped, line ends among them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
