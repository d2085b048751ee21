# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb recheck."""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from pathlib import Path

from sgx_enclaves.catalogue.reader import OWN_FOLDER, USER_FOLDER
from sgx_enclaves.cli.declare import verb
from sgx_enclaves.cli.output import out, out_json
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.evidence import recheck as rechecking
from sgx_enclaves.evidence.recheck import (
    RPM_MAGIC,
    Checked,
    Files,
    Package,
    State,
    files_of_package,
)
from sgx_enclaves.evidence.report import MAX_REPORT, read_report
from sgx_enclaves.files import open_regular, read_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.plain import as_plain

EXIT_UNSEEN = 2


@verb("""\
report:REPORT  a report.json that --report wrote
--signed FILE|RPM*  a signed enclave, or a package of them; may be repeated
--built FILE*  an unsigned enclave, where the signed one does not show it; may be repeated
--config XML*  the config.xml of an enclave; may be repeated
@json""")
def recheck(args: argparse.Namespace) -> int:
    """Go through a report statement by statement: which holds, which does not, and
    which cannot be seen here (and what that needs). Needs no SDK and no network, and
    for plain files no rpm.

    The shipped file is enough for most: with its metadata area zeroed it must be the
    unsigned enclave that the report names. With its config.xml everything of the
    comparison is seen again. Files are found by their SHA-256, so that it does not
    matter what they are called.

    Exit status: 0 whatever can be seen holds; 1 a statement does not hold; 2 the
    report is malformed, or nothing of it can be seen.
    """
    report = read_report(read_file(args.report, MAX_REPORT), args.report)
    checked = list(rechecking.recheck(report, _files(args)))
    counts = Counter(item.state for item in checked)
    status = 1 if counts[State.FAILS] else 0 if counts[State.HOLDS] else EXIT_UNSEEN
    if args.json:
        out_json({"exit_status": status, "statements": as_plain(checked)})
        return status
    about = ""
    for item in checked:
        if item.about != about:
            about = item.about
            out(f"{about}:")
        out(f"  {item.state.value}: {_words(item)}")
    out(", ".join(f"{counts[state]} {_PLURAL[state]}" for state in State))
    return status


_PLURAL = {State.HOLDS: "hold", State.FAILS: "do not hold", State.UNSEEN: "cannot be seen here"}


def _words(item: Checked) -> str:
    return f"{item.statement} ({item.why})" if item.why else item.statement


def _is_package(path: str) -> bool:
    """Whatever cannot be opened is none, and is reported by who reads it."""
    try:
        with open_regular(path) as stream:
            return stream.read(len(RPM_MAGIC)) == RPM_MAGIC
    except (OSError, SgxEnclavesError):
        return False


def _files(args: argparse.Namespace) -> Files:
    contents: dict[str, bytes] = {}
    packages: dict[str, Package] = {}
    for path in (*args.signed, *args.built, *args.config):
        if _is_package(path):
            package, enclaves = files_of_package(path)
            packages[Path(path).name] = package
            contents.update(enclaves)
        else:
            data = read_file(path, DEFAULT_LIMITS.file_size)
            contents[hashlib.sha256(data).hexdigest()] = data
    releases = {
        hashlib.sha256(file.read_bytes()).hexdigest(): file.stem
        for folder in (OWN_FOLDER, Path(USER_FOLDER))
        for file in (folder.glob("*.toml") if folder.is_dir() else ())
    }
    return Files(contents, packages, releases)
