# SPDX-License-Identifier: GPL-2.0-or-later
"""Lay out what Sphinx builds: the documents, what they link to, and `reference_pages`.

python3 packaging/lay_out_docs.py FOLDER
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from reference_pages import ROOT, pages

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


def main() -> int:
    """Write everything into the folder that the first argument names."""
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    (target / "docs").mkdir(parents=True)
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").iterdir()]
    for page in documents:
        shutil.copy(page, target / page.relative_to(ROOT))
    for page in documents:
        if page.suffix == ".md":
            for name in _LINK.findall(page.read_text("utf-8")):
                bring(page.parent / name, target)
    for name, lines in pages().items():
        (target / "docs" / name).write_text("\n".join(lines) + "\n", "utf-8")
    return 0


def bring(file: Path, target: Path) -> None:
    """Put a file that a page links to into the site, as a download."""
    place = file.resolve().relative_to(ROOT)
    if file.is_file() and not (target / place).exists():
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target / place)


if __name__ == "__main__":
    sys.exit(main())
