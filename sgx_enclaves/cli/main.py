# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the verb, import only its module, and turn errors into messages.

Exit status: 0 identical or done, 1 differs, 2 unverifiable: bad input, bad
arguments, or something that this program does not know; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple, NoReturn, Optional

from sgx_enclaves import __version__
from sgx_enclaves.cli.output import flush, message, out, out_report
from sgx_enclaves.errors import SgxEnclavesError
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
    "sign": Verb("sign", "sign an enclave with a PEM key, as the SDK's tool does"),
    "check-rpm": Verb("check_rpm", "check every signed enclave in RPM packages"),
    "scan": Verb("scan", "find the enclaves in a folder of RPM packages, and check them"),
    "toolchain": Verb("toolchain", "is this the toolchain that a release designates?"),
    "fetch": Verb("fetch", "bring a release's sources and the vendor's signed enclaves"),
    "releases": Verb("releases", "draft a release from source trees, pin it, and check it"),
    "contents": Verb("contents", "digest what a source archive holds, however it is packed"),
    "build": Verb("build", "build a release's unsigned enclaves from source"),
    "check-built": Verb("check_built", "is a built directory as its manifest says?"),
    "spec": Verb("spec", "write the spec file of a package of a release's enclaves"),
    "rpm-provides": Verb("rpm_provides", "what packages provide by the enclaves in them, for rpm"),
}


def usage() -> str:
    """The text of `sgx-enclaves --help`."""
    width = max(len(name) for name in VERBS)
    lines = "\n".join(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: sgx-enclaves VERB [arguments]\n"
        "       sgx-enclaves VERB --help\n\n"
        "Prove that a vendor-signed SGX enclave is the enclave we built.\n\n"
        f"verbs:\n{lines}\n\n"
        "exit status: 0 identical or done, 1 differs, 2 unverifiable or bad input"
    )


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one verb; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None:
        # Python's word for a closed one; a verdict that nobody can read is none.
        message("standard output is closed")
        return EXIT_UNVERIFIABLE
    try:
        try:
            return _run(arguments)
        finally:
            flush()
    except SgxEnclavesError as error:
        message(str(error))
    except KeyboardInterrupt:
        message("interrupted")
        return EXIT_INTERRUPTED
    except MemoryError:
        message("there is not enough memory; nothing was decided")
    except Exception as error:
        # Python's own exit status for it, 1, would say "differs".
        message(_bug(error))
    return EXIT_UNVERIFIABLE


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        out_report(usage())
        return 0 if arguments else EXIT_UNVERIFIABLE
    if arguments[0] == "--version":
        out(f"sgx-enclaves {__version__}")
        return 0
    if arguments[0] not in VERBS:
        message(f"unknown verb {arguments[0]}")
        print(f"\n{usage()}", file=sys.stderr)
        return EXIT_UNVERIFIABLE
    module = module_of(arguments[0])
    args = parser_of(arguments[0], module).parse_args(arguments[1:])
    status: int = module.run(args)
    return status


def module_of(verb: str) -> ModuleType:
    """The module of a verb: `add_arguments`, `run`, and its docstring for `--help`."""
    return importlib.import_module(f"sgx_enclaves.cli.{VERBS[verb].module}")


class _Parser(argparse.ArgumentParser):
    """Says of wrong arguments what is wrong; they may hold anything."""

    def error(self, message: str) -> NoReturn:
        """End the program, with the usage and one line."""
        super().error(printable(message))


def parser_of(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    """The parser of a verb's arguments: parses them, and is what the manual is made of."""
    parser = _Parser(
        prog=f"sgx-enclaves {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
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
