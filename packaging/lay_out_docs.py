# SPDX-License-Identifier: GPL-2.0-or-later
"""Lay out what Sphinx builds: the documents, and the pages that are made from the code.

    python3 packaging/lay_out_docs.py FOLDER

Made are `verbs.md` from the parsers, `limits.md` from the records of limits, and `api.md`.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from sgx_enclaves import limits
from sgx_enclaves.cli.main import VERBS, parser_of

ROOT = Path(__file__).resolve().parent.parent

API = """\
# Functions for programs

```{eval-rst}
.. automodule:: sgx_enclaves.api
   :members:
   :imported-members:
```
"""


def main() -> int:
    """Write everything into the folder that the first argument names."""
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    (target / "docs").mkdir(parents=True)
    for page in ROOT.glob("*.md"):
        shutil.copy(page, target)
    for page in (ROOT / "docs").iterdir():
        shutil.copy(page, target / "docs")
    pages = {"verbs.md": verbs(), "limits.md": limits_page(), "api.md": [API]}
    for name, lines in pages.items():
        (target / "docs" / name).write_text("\n".join(lines) + "\n", "utf-8")
    return 0


def verbs() -> Iterator[str]:
    """Each verb's own help."""
    # So that the page does not depend on a terminal.
    os.environ["COLUMNS"] = "100"
    yield "# Verbs\n\nWhat `sgx-enclaves VERB --help` says.\n"
    for name in VERBS:
        said = parser_of(name).format_help().rstrip()
        yield f"## {name}\n\n```text\n{said}\n```\n"


def limits_page() -> Iterator[str]:
    """The fields of each record of limits, with their meanings and values."""
    yield "# Limits\n\nHow much memory and time a file may cost, whatever it claims about itself.\n"
    for name, record in vars(limits).items():
        if not (inspect.isclass(record) and dataclasses.is_dataclass(record)):
            continue
        documentation = inspect.getdoc(record) or ""
        meanings = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {6,}.*)*)", documentation, re.MULTILINE))
        yield f"## {name}\n\n{documentation.split(chr(10), 1)[0]}\n"
        yield "| limit | value | meaning |\n| --- | --- | --- |"
        for field in dataclasses.fields(record):
            meaning = " ".join(meanings.get(field.name, "").split())
            yield f"| `{field.name}` | {field.default} | {meaning} |"
        yield ""


if __name__ == "__main__":
    sys.exit(main())
