# SPDX-License-Identifier: GPL-2.0-or-later
"""Say what a built directory holds, if every file in it is as its manifest says.

With --designated it must also say that all of it was built with the release's
designated toolchain from pinned sources. The manifest is the builder's word: this
checks that nothing was changed since, not that the word is true.

Exit status: 0 as it says; 1 not as demanded; 2 a file is missing or another one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sgx_enclaves.cli.output import out, write_output
from sgx_enclaves.files import make_folder
from sgx_enclaves.plain import printable
from sgx_enclaves.release.manifest import Built, Manifest, TreeRecord, load_built

ARGUMENTS = """\
directory:DIR  made by build
--designated  refuse another toolchain than the designated one, and sources without a pin
--allow-unpinned  with --designated: accept such sources
-o, --output FILE  write there what is printed, too
--force  replace the output file if there is one already"""
EXIT_REFUSED = 1


def run(args: argparse.Namespace) -> int:
    """Print it; 0 if it is as demanded."""
    built = load_built(args.directory)
    lines = words(built)
    refused = refusals(built.manifest, args.allow_unpinned) if args.designated else []
    lines += [f"REFUSED: {reason}" for reason in refused]
    out(*lines)
    if args.output is not None and not refused:
        make_folder(Path(args.output).parent)
        text = "".join(f"{printable(line)}\n" for line in lines)
        write_output(args, text.encode(), *args.directory.rglob("*"))
    return EXIT_REFUSED if refused else 0


def words(built: Built) -> list[str]:
    """What is there and how its maker says it came to be, a line each."""
    manifest = built.manifest
    lines = [f"unsigned enclaves of {manifest.release}"]
    for record in manifest.enclaves:
        if record.unsigned is None or record.config is None:
            lines.append(f"{record.name}: not built: {record.problem}")
            continue
        for file in (record.unsigned, record.config):
            lines.append(f"{record.name}: {file.file}, {file.size} bytes, sha256 {file.sha256}")
    for tree in manifest.trees:
        lines += _tree_words(tree)
    return lines


def _tree_words(tree: TreeRecord) -> list[str]:
    kind = tree.toolchain.kind.value
    path = "the path" if tree.fixed_path else "NOT the path"
    lines = [
        f"built from {tree.release} in {tree.root}, {path} that it asks for",
        f"toolchain: {kind} ({tree.toolchain.name})",
    ]
    lines += [f"  {part.name} {part.found}, {part.state.value}" for part in tree.toolchain.parts]
    for source in tree.sources:
        pinned = "as pinned" if source.pinned else "NOT PINNED"
        lines.append(f"source {source.id}: {source.filename}, sha256 {source.sha256}, {pinned}")
    return lines


def refusals(manifest: Manifest, allow_unpinned: bool) -> list[str]:
    """Why the directory is not what a distribution's reference must be; none if it is."""
    checks = (
        (manifest.complete, "an enclave that was asked for was not built; read its log"),
        (
            manifest.designated,
            "it was not built with the designated toolchain; build it where that is",
        ),
        (
            manifest.pinned or allow_unpinned,
            "it was built from sources without a pinned digest; pin them in the release",
        ),
    )
    return [reason for good, reason in checks if not good]
