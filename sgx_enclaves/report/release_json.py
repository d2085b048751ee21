# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict on a release for programs, as `release.schema.json` describes it.

Each enclave's own verdict stands in full in its own report; here is what it comes
to. Field names are those of `sgx_enclaves.releases.outcome`.
"""

from __future__ import annotations

import json
from importlib import resources

from sgx_enclaves.releases.outcome import EnclaveResult, ReleaseVerdict, Stage
from sgx_enclaves.report.findings import finding_dict

# Changes whenever a reader of the old form could misread the new one.
SCHEMA_VERSION = 1
SCHEMA_FILE = "release.schema.json"


def release_dict(verdict: ReleaseVerdict) -> dict[str, object]:
    """The verdict as a mapping that `json.dump` takes."""
    return {
        "schema_version": SCHEMA_VERSION,
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
    text = resources.files(__package__).joinpath(SCHEMA_FILE).read_text("utf-8")
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


def _enclave(enclave: EnclaveResult) -> dict[str, object]:
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
