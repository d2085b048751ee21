# SPDX-License-Identifier: GPL-2.0-or-later
"""What a task uploads into its output on the hub: reports, our enclave, signatures, the lock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.graft import extract
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.files import write_file
from sgx_enclaves.gate.subjects import FileVerdict
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release.outcome import ReleaseVerdict
from sgx_enclaves.report.as_json import release_dict, verdict_dict
from sgx_enclaves.report.templated import release_html, verdict_html
from sgx_enclaves.report.text import release_text, verdict_text

REPORT = "sgx-enclaves-report.json"
TEXT, HTML = "sgx-enclaves-report.txt", "sgx-enclaves-report.html"
LOCK, TOOLCHAIN = "buildroot_lock.json", "toolchain.json"


class Uploads:
    """A directory of files that are uploaded, each under its name there.

    Args:
        task: the task handler.
        folder: a new directory on the builder.
    """

    def __init__(self, task: Any, folder: Path) -> None:
        self._task = task
        self._folder = folder
        folder.mkdir()

    def add(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Upload one file; a name may have one directory in front."""
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        write_file(str(path), data, mode)
        folder, _, _file = name.rpartition("/")
        self._task.uploadFile(str(path), relPath=folder or None)

    def add_text(self, name: str, text: str) -> None:
        """Upload a text, which ends with a newline then."""
        self.add(name, f"{text.rstrip()}\n".encode())


def add_verdicts(uploads: Uploads, verdict: ReleaseVerdict, judged: Sequence[FileVerdict]) -> bytes:
    """The report in three forms, and each comparison in full; returns the one for programs."""
    report = {
        **release_dict(verdict),
        "subjects": [as_plain(item.subject) for item in judged],
    }
    data = (json.dumps(report, indent=2) + "\n").encode()
    uploads.add(REPORT, data)
    uploads.add_text(TEXT, release_text(verdict))
    uploads.add_text(HTML, release_html(verdict))
    for item in judged:
        if item.comparison is not None:
            name = item.subject.rpm or item.subject.origin
            file = item.subject.file
            uploads.add_text(f"{name}/{file}.txt", verdict_text(item.comparison))
            uploads.add_text(f"{name}/{file}.json", json.dumps(verdict_dict(item.comparison)))
            uploads.add_text(f"{name}/{file}.html", verdict_html(item.comparison))
    return data


def add_signatures(uploads: Uploads, name: str, signed: bytes) -> None:
    """The signatures in a vendor's file; none are in one that is broken."""
    try:
        image = EnclaveImage.parse(signed, name)
        signatures = extract(Descriptor.parse(image.descriptor))
    except SgxEnclavesError:
        return
    uploads.add(f"{name}.sig", b"".join(item.serialise() for item in signatures))
