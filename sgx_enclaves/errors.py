# SPDX-License-Identifier: GPL-2.0-or-later
"""The exceptions of the core: one tree, each message complete in itself.

An error is a reason why something could not be decided or done. "The payloads
differ" is not an error, it is a verdict (see `enclave.verdict`).
"""

from __future__ import annotations

from typing import Optional


class SgxEnclavesError(Exception):
    """Base of every exception that the core raises on purpose.

    Args:
        message: what is wrong, in one sentence.
        file: the file it was found in.
        offset: byte offset in that file.
        expected: what would have been right.
        found: what was there.
        hint: the next step for the user; by default the usual one of the class.
    """

    usual_hint: Optional[str] = None

    def __init__(
        self,
        message: str,
        *,
        file: Optional[str] = None,
        offset: Optional[int] = None,
        expected: Optional[str] = None,
        found: Optional[str] = None,
        hint: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.offset = offset
        self.expected = expected
        self.found = found
        self.hint = hint or self.usual_hint

    def __str__(self) -> str:
        at = None if self.offset is None else f"at 0x{self.offset:x}"
        where = " ".join(filter(None, (self.file, at)))
        text = f"{where}: {self.message}" if where else self.message
        details = {"expected": self.expected, "found": self.found}
        seen = ", ".join(f"{word} {value}" for word, value in details.items() if value is not None)
        text += f" ({seen})" if seen else ""
        return f"{text}; {self.hint}" if self.hint else text

    def as_dict(self) -> dict[str, object]:
        """The error as a plain mapping for JSON reports; absent parts are None."""
        return {"kind": type(self).__name__, **vars(self)}


class FormatError(SgxEnclavesError):
    """A file is not what it claims to be: truncated, inconsistent, hostile."""


class UnsupportedError(SgxEnclavesError):
    """Well-formed, but a version or an option that this program does not know."""


class LimitError(SgxEnclavesError):
    """Reading on would cost more memory or time than `Limits` allows."""


class ConfigError(SgxEnclavesError):
    """An enclave's config.xml that the SDK's signing tool would refuse."""


class SigningError(SgxEnclavesError):
    """A key that cannot sign an enclave, or a signature that cannot be made."""


class GraftError(SgxEnclavesError):
    """Signatures that do not belong on this build; nothing was written."""


class InputError(SgxEnclavesError):
    """A file that cannot be read or written, or arguments that make no sense."""


class ArgumentError(SgxEnclavesError):
    """A caller passed an argument that is unknown or malformed."""


class FetchError(SgxEnclavesError):
    """A file of a release that could not be brought here."""


class DigestError(SgxEnclavesError):
    """A file whose digest is not the pinned one; it was kept aside, never used."""


class ArchiveError(SgxEnclavesError):
    """An archive that is broken, hostile, or lacks a member that was asked for."""


class IdentityError(SgxEnclavesError):
    """A published enclave identity that is malformed, or not validly signed on that day."""

    usual_hint = "fetch it again, with its headers (curl -i)"


class CatalogueError(SgxEnclavesError):
    """A release description that is wrong, incomplete or not there."""


class PackageError(SgxEnclavesError):
    """An RPM package that is malformed, hostile, or not one at all."""


class PackageDamagedError(PackageError):
    """A package with bytes missing, or other bytes than its own digests pin."""

    usual_hint = "get the package again"


class RepodataError(SgxEnclavesError):
    """Repodata that are broken, hostile or incomplete; the packages may be fine."""


class BuildError(SgxEnclavesError):
    """A build that cannot be begun or continued; failed steps are in its manifest."""


class ManifestError(SgxEnclavesError):
    """A built directory whose manifest is wrong, or whose files are not what it says."""

    usual_hint = "build again: a manifest is not edited by hand"


class RecordError(SgxEnclavesError):
    """A verification record that is malformed, or contradicts itself or the packages."""


class RuleError(SgxEnclavesError):
    """A rule of the gate that cannot be read; nothing passes a gate with such a rule."""


class ReportError(SgxEnclavesError):
    """A report that is malformed, of another schema, or contradicts itself."""

    usual_hint = "get the whole directory that --report wrote"


class AttestationError(SgxEnclavesError):
    """A statement that is malformed, or not signed as demanded; nothing of it is believed."""

    usual_hint = "get it again from its maker, as attest wrote it"
