# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the verb, import only its module, and turn errors into messages.

Exit status: 0 identical or done, 1 differs, 2 unverifiable: bad input, bad
arguments, or something that this program does not know; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple, NoReturn, Optional

from sgx_enclaves import __version__
from sgx_enclaves.cli import output
from sgx_enclaves.cli.declare import declare
from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.plain import printable

EXIT_UNVERIFIABLE = 2
EXIT_INTERRUPTED = 130


class Verb(NamedTuple):
    """Where a verb lives, and what it is for in one line."""

    module: str
    summary: str


VERBS = {
    "show": Verb("show", "print an enclave's metadata, signatures and layout"),
    "measure": Verb("measure", "recompute MRENCLAVE of a signed or an unsigned enclave"),
    "verify-signature": Verb("verify_signature", "check signatures, signer, product and debug"),
    "compare": Verb("compare", "is the vendor's file our build plus a signature?"),
    "extract-signature": Verb("extract_signature", "take the signatures out of a signed enclave"),
    "graft": Verb("graft", "put the vendor's signatures on our build, if they belong there"),
    "verify-release": Verb("verify_release", "fetch, build and compare a whole release"),
    "sign": Verb("sign", "sign an enclave with a PEM key or a command, as the SDK's tool does"),
    "sign-data": Verb("sign_data", "write the bytes that a signer elsewhere must sign"),
    "attach": Verb("attach", "put a signature that was made elsewhere on an enclave"),
    "unsign": Verb("unsign", "take the signature off a signed enclave"),
    "check-rpm": Verb("check_rpm", "check every signed enclave in RPM packages"),
    "scan": Verb("scan", "find the enclaves in a folder of RPM packages, and check them"),
    "toolchain": Verb("toolchain", "is this the toolchain that a release designates?"),
    "fetch": Verb("fetch", "bring a release's sources and the vendor's signed enclaves"),
    "releases": Verb("releases", "list what is known of releases; draft, pin and check one"),
    "contents": Verb("contents", "digest what a source archive holds, however it is packed"),
    "build": Verb("build", "build a release's unsigned enclaves from source"),
    "check-built": Verb("check_built", "is a built directory as its manifest says?"),
    "spec": Verb("spec", "write the spec file of a package of a release's enclaves"),
    "recheck": Verb("recheck", "go through a report again, statement by statement, offline"),
    "attest": Verb("attest", "sign what a report says, as in-toto statements"),
    "verify-attestation": Verb("verify_attestation", "who vouches for which enclaves"),
    "rpm-provides": Verb("rpm_provides", "what packages provide by the enclaves in them, for rpm"),
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
    output.begin(json="--json" in arguments[1:])
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
    module = module_of(verb)
    status: int = module.run(parser_of(verb, module).parse_args(rest))
    return status


def _meant(verb: str) -> str:
    import difflib  # noqa: PLC0415  (only a mistake needs it)

    close = difflib.get_close_matches(verb, VERBS, n=3)
    known = "sgx-enclaves help lists all verbs"
    return f"did you mean {' or '.join(close)}? {known}" if close else known


def module_of(verb: str) -> ModuleType:
    """The module of a verb: `ARGUMENTS`, `run`, and its docstring for `--help`."""
    return importlib.import_module(f"sgx_enclaves.cli.{VERBS[verb].module}")


class _Parser(argparse.ArgumentParser):
    """Says of wrong arguments what is wrong; they may hold anything."""

    def error(self, message: str) -> NoReturn:
        """End the program, with the usage and one line."""
        output.out_json_error(InputError(message), EXIT_UNVERIFIABLE)
        super().error(printable(message))


def parser_of(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    """The parser of a verb's arguments: parses them, and is what the manual is made of."""
    parser = _Parser(
        prog=f"sgx-enclaves {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    declare(parser, module.ARGUMENTS, getattr(module, "TYPES", None))
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
