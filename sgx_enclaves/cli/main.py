# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the verb, import only its module, and turn errors into messages.

Exit status: 0 identical or done, 1 differs, 2 unverifiable or bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import importlib
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn, Optional

from sgx_enclaves import __version__
from sgx_enclaves.cli import output
from sgx_enclaves.cli.declare import VERBS, declare
from sgx_enclaves.errors import InputError, SgxEnclavesError

EXIT_UNVERIFIABLE = 2


def usage() -> str:
    """The text of `sgx-enclaves --help`."""
    width = max(map(len, VERBS))
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
    if argv is None:
        # Python looks for garbage in all that is there once more at its end: a fifth of a run.
        atexit.register(gc.freeze)
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
        status = 130
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
    verb, *rest = arguments or ["help"]
    if verb == "help" and rest:
        verb, rest = rest[0], ["--help"]
    if verb in ("-h", "--help", "help"):
        output.out_report(usage())
        return 0 if arguments else EXIT_UNVERIFIABLE
    if verb == "--version":
        output.out(f"sgx-enclaves {__version__}")
        return 0
    if verb not in VERBS:
        import difflib

        close = " or ".join(difflib.get_close_matches(verb, VERBS, n=3))
        meant = f"did you mean {close}? " if close else ""
        raise InputError(f"unknown verb {verb}", hint=f"{meant}sgx-enclaves help lists all verbs")
    begun = time.monotonic()
    status = verb_named(verb)(parser_of(verb).parse_args(rest))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    output.detail(f"exit status {status}, {time.monotonic() - begun:.2f} s, {memory} MiB")
    return status


def verb_named(name: str) -> Callable[[argparse.Namespace], int]:
    """What runs a verb and gives the exit status, out of the module that it lives in."""
    module = importlib.import_module(f"sgx_enclaves.cli.{VERBS[name].module}")
    found: Callable[[argparse.Namespace], int] = getattr(module, name.replace("-", "_"))
    return found


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are an error like any other; the usage would hide what is wrong."""

    def error(self, message: str) -> NoReturn:
        """See `argparse`."""
        verb = self.prog.partition(" ")[2]
        raise InputError(f"{verb}: {message}", hint=f"`sgx-enclaves help {verb}` explains")


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a verb's arguments: parses them, and is what the manual is made of."""
    verb = VERBS[name]
    parser = _Parser(
        prog=f"sgx-enclaves {name}",
        description=verb.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    declare(parser, verb.arguments)
    declare(parser, "@everywhere")
    return parser


def _bug(error: Exception) -> str:
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"internal error at {last.filename}:{last.lineno}: {type(error).__name__}: {error}"
    return f"{what}; nothing was decided, please report this bug"
