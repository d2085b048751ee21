# SPDX-License-Identifier: GPL-2.0-or-later
"""Write what a release of ours consists of, as SPDX 2.3 in JSON, on standard output.

    python packaging/sbom.py SDIST WHEEL

Nothing of others is in it. What it needs is named with the versions that it asks for; which
versions are there is for whoever installs it to say.
"""

from __future__ import annotations

import datetime
import email
import hashlib
import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

_PROJECT = "SPDXRef-sgx-enclaves"


def sbom(sdist: Path, wheel: Path, seconds: int) -> dict[str, Any]:
    """The document, said to have been written so many seconds after the beginning of 1970."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    version = metadata["Version"]
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (sdist, wheel)}
    needed = [text for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text]
    files = [
        _package(f"{_PROJECT}-{kind}", file, version, digest=digests[file])
        for kind, file in (("sdist", sdist.name), ("wheel", wheel.name))
    ]
    needs = [_needed(requirement) for requirement in needed]
    created = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"sgx-enclaves-{version}",
        "documentNamespace": f"https://spdx.org/spdxdocs/sgx-enclaves-{digests[sdist.name]}",
        "creationInfo": {
            "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: packaging/sbom.py"],
        },
        "packages": [_package(_PROJECT, "sgx-enclaves", version), *files, *needs],
        "relationships": [
            _related("SPDXRef-DOCUMENT", "DESCRIBES", _PROJECT),
            *(_related(file["SPDXID"], "PACKAGE_OF", _PROJECT) for file in files),
            *(_related(_PROJECT, "DEPENDS_ON", needs_it["SPDXID"]) for needs_it in needs),
        ],
    }


def _package(spdx: str, name: str, version: str, *, digest: str = "") -> dict[str, Any]:
    checksums = [{"algorithm": "SHA256", "checksumValue": digest}] if digest else []
    return {
        **{"SPDXID": spdx, "name": name, "versionInfo": version},
        **{"downloadLocation": "NOASSERTION", "filesAnalyzed": False},
        **{"licenseDeclared": "GPL-2.0-or-later", "copyrightText": "NOASSERTION"},
        **({"checksums": checksums} if checksums else {}),
    }


def _needed(requirement: str) -> dict[str, Any]:
    """A library of others, which is not in it."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    name = match[0] if match is not None else requirement
    reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl"}
    return {
        **{"SPDXID": f"SPDXRef-needs-{name}", "name": name, "comment": requirement},
        **{"downloadLocation": "NOASSERTION", "filesAnalyzed": False},
        "externalRefs": [{**reference, "referenceLocator": f"pkg:pypi/{name}"}],
    }


def _related(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


if __name__ == "__main__":
    document = sbom(Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["SOURCE_DATE_EPOCH"]))
    print(json.dumps(document, indent=2))
