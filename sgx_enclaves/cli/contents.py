# SPDX-License-Identifier: GPL-2.0-or-later
"""Print the digest of what source archives hold, which a release pins as contents_sha256.

It is the same whatever the archive's top directory is called, and however the archive is
packed. Nothing is unpacked to disk. docs/releases.md says how it is computed, and how to
get such an archive from a git commit. With --expect the exit status is 1 if an archive
holds something else.
"""

from __future__ import annotations

import argparse
import re

from sgx_enclaves.cli.output import out, out_json
from sgx_enclaves.errors import InputError
from sgx_enclaves.release.archive import Contents, read_contents

ARGUMENTS = """\
archives:PATH+  a tar archive with one top directory, packed with gzip, xz, zstd or not at all
--expect HEX  the digest that each archive's contents must have
--list  print what is digested too, to find a difference
@json"""
EXIT_DIFFERS = 1
_HEX = re.compile(r"[0-9a-f]{64}")


def run(args: argparse.Namespace) -> int:
    """Digest each archive; 1 if one holds something else than expected."""
    if args.expect is not None and not _HEX.fullmatch(args.expect):
        raise InputError(
            "--expect needs 64 lower-case hexadecimal digits", found=repr(args.expect)[:80]
        )
    found = [(str(path), read_contents(path)) for path in args.archives]
    wrong = [name for name, it in found if args.expect not in (None, it.sha256)]
    if args.json:
        out_json({"archives": [_plain(name, it, args.list) for name, it in found]})
    else:
        for name, contents in found:
            verdict = ""
            if args.expect is not None:
                verdict = ": DIFFERS" if name in wrong else ": as expected"
            out(f"{contents.sha256}  {name}{verdict}")
            if args.list:
                for entry in contents.entries:
                    out(f"  {entry.kind} {entry.value or '-'} {entry.path}")
    return EXIT_DIFFERS if wrong else 0


def _plain(name: str, contents: Contents, with_entries: bool) -> dict[str, object]:
    plain: dict[str, object] = {
        "file": name,
        "contents_sha256": contents.sha256,
        "sha256": contents.archive_sha256,
        "top": contents.top,
    }
    if with_entries:
        plain["entries"] = [[entry.kind, entry.path, entry.value] for entry in contents.entries]
    return plain
