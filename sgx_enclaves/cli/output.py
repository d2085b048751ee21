# SPDX-License-Identifier: GPL-2.0-or-later
"""The one way out of every verb: lines for people, JSON for programs, messages, files.

A line is made printable here: nothing out of a file can steer the terminal or fake a line of its
own. A reader who goes away changes nothing; an output that cannot be written is an error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Union

from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.files import make_folder, sha256_of, system_errors, write_file
from sgx_enclaves.limits import MIB
from sgx_enclaves.plain import printable
from sgx_enclaves.progress import CLEAR, Progress, draws_over, for_stream, silent

_RED, _GREEN, _YELLOW, _BOLD, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[0m"
# What a line of a report begins with.
_COLOURS = {
    **{"IDENTICAL:": _GREEN + _BOLD, "DIFFERS:": _RED + _BOLD, "proved ": _GREEN},
    **dict.fromkeys(("IDENTICAL, NOT REPRODUCIBLE:", "UNVERIFIABLE:"), _YELLOW + _BOLD),
    **dict.fromkeys(("refuted ", "UNPINNED ", "TOOLCHAIN ", "MAY NOT "), _RED),
    **dict.fromkeys(("not done ", "unproved "), _YELLOW),
    **dict.fromkeys(("why ", "cause ", "where "), _BOLD),
}
# Arguments that name what is written, or no file at all.
_NO_INPUTS = ("output", "html", "action", "kind", "release")


# What this run wants, and whether it has printed: of two JSON documents none can be read.
_run = argparse.Namespace(json=False, printed=False, quiet=False, verbose=False)


def begin(options: Container[str]) -> None:
    """Begin a run with these options: nothing was printed yet."""
    _run.json, _run.printed = "--json" in options, False
    _run.quiet = "--quiet" in options or "-q" in options
    _run.verbose = "--verbose" in options or "-v" in options


def out(*lines: str, marked: Callable[[str], str] = str) -> None:
    """Print lines to standard output; what is in a line stays in it."""
    _write("".join(f"{marked(printable(line))}\n" for line in lines))


def out_report(text: str) -> None:
    """Print a report, whose own line breaks count; in colour on a terminal that likes it."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    out(*text.split("\n"), marked=coloured if _is_terminal() and not plain else str)


def width() -> int:
    """Columns of the terminal; 80 where the output is none."""
    return shutil.get_terminal_size((80, 24)).columns if _is_terminal() else 80


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def out_json(plain: Mapping[str, object]) -> None:
    """Print plain data as JSON, in ASCII only; nothing else goes to standard output then."""
    import json

    versioned = plain if "schema_version" in plain else {"schema_version": 1, **plain}
    # Of what a terminal would not print, JSON escapes all but DEL.
    _write(json.dumps(versioned, indent=2).replace("\x7f", "\\u007f") + "\n")


def answer(
    args: argparse.Namespace,
    plain: Mapping[str, object],
    report: Union[str, Iterable[str]],
    **values: object,
) -> None:
    """Print a result: as JSON with `--json`, else as lines, or by a template of report/templates/.

    That gets the values, or the plain data if there are none.
    """
    if args.json:
        out_json(plain)
    elif isinstance(report, str):
        # Takes time that a comparison would notice.
        from sgx_enclaves.report.templated import filled

        text = filled(report, **{"width": width(), **(values or plain)})
        # no colours: a line may begin with a name that somebody else has chosen
        out(*text.rstrip("\n").split("\n"))
    else:
        out(*report)


def out_json_error(error: SgxEnclavesError, status: int) -> None:
    """Print why there is no result, if a program asked for one and none was printed."""
    if _run.json and not _run.printed:
        out_json({"exit_status": status, "error": error.as_dict()})


def note(text: str) -> None:
    """Write a note on standard error, unless `--quiet` asks for none."""
    if not _run.quiet:
        message(text)


def detail(text: str) -> None:
    """Say what is read or done on standard error, if `--verbose` asks for that."""
    if _run.verbose:
        message(text)


def progress() -> Progress:
    """What shows on standard error how far something is; nothing with `--quiet`."""
    return silent if _run.quiet or sys.stderr is None else for_stream(sys.stderr)


def message(text: str) -> None:
    """Say what is wrong on standard error, in one line."""
    if sys.stderr is not None:
        # a bar may stand there
        clear = CLEAR if draws_over(sys.stderr) else ""
        with contextlib.suppress(OSError):
            print(f"{clear}sgx-enclaves: {printable(text)}", file=sys.stderr, flush=True)


def write_output(args: argparse.Namespace, data: bytes, mode: int = 0o666) -> dict[str, object]:
    """Write what `-o` names, and return what JSON has of it; a pipe or a device is never replaced.

    A file that is there is replaced with `--force` only, and no input ever: what another argument
    names. The umask takes away of `mode`.
    """
    path = str(args.output)
    written = {"file": path, "size": len(data), "sha256": sha256_of(data)}
    found = refused = None
    with system_errors(path, "cannot be written"):
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(path)
        if found is not None and (stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
            # A pipe that nobody reads is an error at once, and no reason to wait.
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            os.set_blocking(descriptor, True)
            with open(descriptor, "wb") as stream:
                stream.write(data)
            return written
    if os.path.islink(path):
        refused = ("it is a symbolic link", "name the file itself")
    elif found is not None and not stat.S_ISREG(found.st_mode):
        refused = ("it is no file, pipe or character device", "name a file")
    elif found is not None and _is_input(args, found):
        refused = ("it is one of the inputs", "name another file")
    elif found is not None and not args.force:
        refused = ("it is there already", "name another file, or replace it with --force")
    if refused is not None:
        raise InputError(f"cannot be written: {refused[0]}", file=path, hint=refused[1])
    write_file(path, data, mode)
    return written


def _is_input(args: argparse.Namespace, found: os.stat_result) -> bool:
    """Whether a file is one that an argument names, besides what is written."""
    for value in (value for name, value in vars(args).items() if name not in _NO_INPUTS):
        for item in value if isinstance(value, list) else [value]:
            with contextlib.suppress(OSError, ValueError):
                if isinstance(item, (str, Path)) and os.path.samestat(os.stat(item), found):
                    return True
    return False


def print_or_write(args: argparse.Namespace, text: str, *, name: str = "") -> None:
    """Print a report, or write it where `-o` names a file.

    `name` is what the text is called in JSON; without it, it is JSON already.
    """
    text, facts = text.rstrip("\n"), dict[str, object]()
    if args.output is not None:
        facts = write_output(args, f"{text}\n".encode())
    if name and args.json:
        out_json({name: text, **facts})
    elif args.output is None:
        out_report(text)


def check_open(args: argparse.Namespace, option: str) -> None:
    """Refuse `--open` without the option that writes the page."""
    if getattr(args, "open", False) and getattr(args, option) is None:
        raise InputError("--open opens the page that is written", hint=f"add --{option}")


def check_report(args: argparse.Namespace) -> None:
    """Refuse, before the work, a `--report` where nothing can be written after it."""
    check_open(args, "report")
    if args.report is not None:
        import tempfile

        make_folder(args.report)
        hint = "check the directory and its rights"
        trying = system_errors(str(args.report), "cannot be written", hint=hint)
        # Nothing that stands there gives way to a file without a name.
        with trying, tempfile.TemporaryFile(dir=args.report) as probe:
            probe.write(bytes(MIB))
            probe.flush()
            os.fsync(probe.fileno())


def open_page(args: argparse.Namespace, page: Path) -> None:
    """Open a page that was written in the desktop's browser, if `--open` asks for it."""
    if not args.open:
        return
    problem = "there is no desktop here"
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        import webbrowser

        problem = "no browser could be started"
        if webbrowser.open(page.absolute().as_uri()):
            return
    note(f"{problem}: open {page} yourself")


def coloured(line: str) -> str:
    """A report's line, its first word marked."""
    text = line.lstrip(" ")
    for start, colour in _COLOURS.items():
        if text.startswith(start):
            word = start.rstrip(" :")
            return f"{line[: -len(text)]}{colour}{word}{_PLAIN}{text[len(word) :]}"
    return line


def flush() -> None:
    """Hand over what was printed."""
    _write("")


def _write(text: str) -> None:
    _run.printed = _run.printed or bool(text)
    if sys.stdout is None:
        # Python's word for a closed one.
        raise InputError("standard output is closed", hint="the exit status is no verdict")
    try:
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError as error:
            sys.stdout.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        if not text:
            sys.stdout.flush()
    except OSError as error:
        # All further output, and what is still buffered, vanishes.
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), sys.stdout.fileno())
        # That a reader of our output goes away is its business, and no error.
        if not isinstance(error, BrokenPipeError):
            problem = f"standard output cannot be written: {error.strerror or error}"
            hint = "the exit status is no verdict; make room, or write elsewhere"
            raise InputError(problem, hint=hint) from None
