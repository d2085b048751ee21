# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict for programs: plain mappings and lists, as `verdict.schema.json` describes.

Field names are those of `sgx_enclaves.enclave.verdict`. Offsets and sizes are
integers in bytes, digests and excerpts lower-case hexadecimal.

The verdict on a release for programs, as `release.schema.json` describes it.

Each enclave's own verdict stands in full in its own report; here is what it comes
to. Field names are those of `sgx_enclaves.release.outcome`.

One finding as a mapping and as lines of text.
"""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from importlib import resources

from sgx_enclaves.enclave.verdict import Finding, Origin, Verdict
from sgx_enclaves.release.outcome import EnclaveOutcome, ReleaseVerdict, Stage

# Changes whenever a reader of the old form could misread the new one.
SCHEMA_VERSION = 1
SCHEMA_FILE = "verdict.schema.json"


def verdict_dict(verdict: Verdict) -> dict[str, object]:
    """The verdict as a mapping that `json.dump` takes."""
    plain = _plain(verdict)
    if not isinstance(plain, dict):
        raise TypeError("a verdict is a mapping")
    return {
        "schema_version": SCHEMA_VERSION,
        "outcome": verdict.outcome.value,
        "exit_status": verdict.exit_status,
        "bytes": {origin.value: verdict.bytes_of(origin) for origin in Origin},
        **plain,
    }


def schema() -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of what `verdict_dict` gives."""
    text = resources.files(__package__).joinpath(SCHEMA_FILE).read_text("utf-8")
    loaded: dict[str, object] = json.loads(text)
    return loaded


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


# Changes whenever a reader of the old form could misread the new one.
RELEASE_SCHEMA_VERSION = 1
RELEASE_SCHEMA_FILE = "release.schema.json"


def release_dict(verdict: ReleaseVerdict) -> dict[str, object]:
    """The verdict as a mapping that `json.dump` takes."""
    return {
        "schema_version": RELEASE_SCHEMA_VERSION,
        "release": verdict.release,
        "title": verdict.title,
        "outcome": verdict.outcome.value,
        "exit_status": verdict.exit_status,
        "reproducible": verdict.reproducible,
        "claim": verdict.claim,
        "unpinned": list(verdict.unpinned),
        "unpinned_allowed": verdict.unpinned_allowed,
        "builds": [
            {
                "tree": build.tree,
                "kind": build.kind.value,
                "toolchain": build.toolchain,
                "mismatches": list(build.mismatches),
                "says": build.says,
            }
            for build in verdict.builds
        ],
        "stages": [_stage(stage) for stage in verdict.stages],
        "enclaves": [_enclave(enclave) for enclave in verdict.enclaves],
        "notices": list(verdict.notices),
    }


def release_schema() -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of what `release_dict` gives."""
    text = resources.files(__package__).joinpath(RELEASE_SCHEMA_FILE).read_text("utf-8")
    loaded: dict[str, object] = json.loads(text)
    return loaded


def _stage(stage: Stage) -> dict[str, object]:
    return {
        "name": stage.name,
        "state": stage.state.value,
        "detail": stage.detail,
        "seconds": stage.seconds,
        "findings": [finding_dict(finding) for finding in stage.findings],
    }


def _enclave(enclave: EnclaveOutcome) -> dict[str, object]:
    verdict = enclave.verdict
    return {
        "name": enclave.name,
        "signed_file": enclave.signed_file,
        "required": enclave.required,
        "may_ship": enclave.may_ship,
        "reason": enclave.reason,
        "unpinned": list(enclave.unpinned),
        "outcome": enclave.bytes_outcome.value,
        "refused_by": enclave.refused_by or None,
        "refused_checks": list(enclave.refused_checks),
        "findings": [finding_dict(f) for f in (verdict.findings if verdict else enclave.findings)],
        "built_sha256": verdict.built.sha256 if verdict else None,
        "signed_sha256": verdict.signed.sha256 if verdict else None,
        "config_sha256": verdict.config.sha256 if verdict else None,
        "mrenclave": verdict.mrenclave if verdict else None,
        "report": f"{enclave.name}/verdict.json" if verdict else None,
    }


def finding_dict(finding: Finding) -> dict[str, object]:
    """The finding as a plain mapping."""
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "message": finding.message,
        "block": finding.block,
        "offset": finding.offset,
        "expected": finding.expected,
        "found": finding.found,
        "hint": finding.hint,
    }


def finding_lines(finding: Finding) -> list[str]:
    """The finding for people: what, where, expected and found, what to do."""
    where = []
    if finding.block is not None:
        where.append(f"block {finding.block}")
    if finding.offset is not None:
        where.append(f"at 0x{finding.offset:x}")
    lines = [finding.message + (f" ({', '.join(where)})" if where else "")]
    if finding.expected is not None:
        lines.append(f"  expected  {finding.expected}")
    if finding.found is not None:
        lines.append(f"  found     {finding.found}")
    if finding.hint is not None:
        lines.append(f"  hint      {finding.hint}")
    return lines
