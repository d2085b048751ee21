# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the verb, import only its module, and turn errors into messages.

Exit status: 0 identical or done, 1 differs, 2 unverifiable: bad input, bad
arguments, or something that this program does not know; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import resource
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple, NoReturn, Optional

from sgx_enclaves import __version__
from sgx_enclaves.cli import output
from sgx_enclaves.cli.declare import Verb, declare
from sgx_enclaves.errors import InputError, SgxEnclavesError

EXIT_UNVERIFIABLE = 2
EXIT_INTERRUPTED = 130


# What every verb takes.
_EVERYWHERE = """
^-q, --quiet  say nothing on standard error but errors
^-v, --verbose  say on standard error what is read and done; print reports in full"""


class Listed(NamedTuple):
    """Where a verb lives, and what it is for in one line."""

    module: str
    summary: str


VERBS = {
    "show": Listed("show", "print an enclave's metadata, signatures and layout"),
    "measure": Listed("show", "recompute MRENCLAVE of a signed or an unsigned enclave"),
    "verify-signature": Listed("show", "check signatures, signer, product and debug"),
    "compare": Listed("compare", "is the vendor's file our build plus a signature?"),
    "extract-signature": Listed("sign", "take the signatures out of a signed enclave"),
    "graft": Listed("sign", "put the vendor's signatures on our build, if they belong there"),
    "verify-release": Listed("verify_release", "fetch, build and compare a whole release"),
    "sign": Listed("sign", "sign an enclave with a PEM key or a command, as the SDK's tool does"),
    "sign-data": Listed("sign", "write the bytes that a signer elsewhere must sign"),
    "attach": Listed("sign", "put a signature that was made elsewhere on an enclave"),
    "unsign": Listed("sign", "take the signature off a signed enclave"),
    "check-rpm": Listed("packages", "check every signed enclave in RPM packages"),
    "scan": Listed("packages", "find the enclaves in a folder of RPM packages, and check them"),
    "toolchain": Listed("build", "is this the toolchain that a release designates?"),
    "fetch": Listed("fetch", "bring a release's sources and the vendor's signed enclaves"),
    "releases": Listed("releases", "list what is known of releases; draft, pin and check one"),
    "contents": Listed("build", "digest what a source archive holds, however it is packed"),
    "build": Listed("build", "build a release's unsigned enclaves from source"),
    "check-built": Listed("build", "is a built directory as its manifest says?"),
    "spec": Listed("releases", "write the spec file of a package of a release's enclaves"),
    "recheck": Listed("evidence", "go through a report again, statement by statement, offline"),
    "attest": Listed("evidence", "sign what a report says, as in-toto statements"),
    "verify-attestation": Listed("evidence", "who vouches for which enclaves"),
    "ledger": Listed("evidence", "keep verified enclaves in a file, and find what should not be"),
    "rpm-provides": Listed("packages", "what packages provide by the enclaves in them, for rpm"),
}


def usage() -> str:
    """The text of `sgx-enclaves --help`."""
    width = max(len(name) for name in VERBS)
    lines = "\n".join(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: sgx-enclaves VERB [arguments]\n"
        "       sgx-enclaves help VERB\n\n"
        "Prove that a vendor-signed SGX enclave is the enclave we built.\n\n"
        f"verbs:\n{lines}\n\n"
        "exit status: 0 identical or done, 1 differs, 2 unverifiable or bad input"
    )


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one verb; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None:
        # Python's word for a closed one; a verdict that nobody can read is none.
        output.message("standard output is closed")
        return EXIT_UNVERIFIABLE
    output.begin(arguments[1:])
    status = EXIT_UNVERIFIABLE
    try:
        try:
            return _run(arguments)
        finally:
            output.flush()
    except SgxEnclavesError as error:
        failure = error
    except KeyboardInterrupt:
        failure = SgxEnclavesError("interrupted")
        status = EXIT_INTERRUPTED
    except MemoryError:
        failure = SgxEnclavesError("there is not enough memory; nothing was decided")
    except Exception as error:
        # Python's own exit status for it, 1, would say "differs".
        failure = SgxEnclavesError(_bug(error))
    output.message(str(failure))
    with contextlib.suppress(SgxEnclavesError):
        output.out_json_error(failure, status)
        output.flush()
    return status


def _run(arguments: Sequence[str]) -> int:
    if not arguments:
        output.out_report(usage())
        return EXIT_UNVERIFIABLE
    verb, *rest = arguments
    if verb == "help" and rest:
        verb, rest = rest[0], ["--help"]
    if verb in ("-h", "--help", "help"):
        output.out_report(usage())
        return 0
    if verb == "--version":
        output.out(f"sgx-enclaves {__version__}")
        return 0
    if verb not in VERBS:
        raise InputError(f"unknown verb {verb}", hint=_meant(verb))
    begun = time.monotonic()
    status = verb_named(verb).run(parser_of(verb).parse_args(rest))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    output.detail(f"exit status {status}, {time.monotonic() - begun:.2f} s, {memory} MiB")
    return status


def _meant(verb: str) -> str:
    import difflib

    close = difflib.get_close_matches(verb, VERBS, n=3)
    known = "sgx-enclaves help lists all verbs"
    return f"did you mean {' or '.join(close)}? {known}" if close else known


def verb_named(name: str) -> Verb:
    """A verb, out of the module that it lives in."""
    module = importlib.import_module(f"sgx_enclaves.cli.{VERBS[name].module}")
    found: Verb = getattr(module, name.replace("-", "_"))
    return found


class _Parser(argparse.ArgumentParser):
    """Says of wrong arguments what is wrong; they may hold anything."""

    def error(self, message: str) -> NoReturn:
        """End the program with one line; the usage would hide it."""
        output.out_json_error(InputError(message), EXIT_UNVERIFIABLE)
        verb = self.prog.partition(" ")[2]
        output.message(f"{verb}: {message}; `sgx-enclaves help {verb}` explains")
        self.exit(EXIT_UNVERIFIABLE)


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a verb's arguments: parses them, and is what the manual is made of."""
    verb = verb_named(name)
    parser = _Parser(
        prog=f"sgx-enclaves {name}",
        description=verb.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    declare(parser, verb.arguments)
    declare(parser, _EVERYWHERE)
    return parser


def _bug(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    return (
        f"internal error at {where}: {type(error).__name__}: {error}; "
        "nothing was decided, please report this bug"
    )


if __name__ == "__main__":
    sys.exit(main())
