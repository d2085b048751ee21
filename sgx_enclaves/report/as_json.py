# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports for programs: plain mappings and lists, as the schemas beside this module describe.

Field names are those of the records that are reported. Offsets and sizes are integers in
bytes, digests and excerpts lower-case hexadecimal. A report of a release or of a scan
has of each enclave what its verdict comes to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import DIRECTORY_NAMES, Block, Descriptor
from sgx_enclaves.enclave.policy import known_signer
from sgx_enclaves.enclave.sigstruct import Sigstruct
from sgx_enclaves.enclave.verdict import Origin, Verdict
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release.outcome import EnclaveOutcome, ReleaseVerdict

if TYPE_CHECKING:
    from sgx_enclaves.explain.description import Description
    from sgx_enclaves.rpm.check import EnclaveResult, PackageResult
    from sgx_enclaves.rpm.scan import Survey

# Each changes whenever a reader of the old form could misread the new one.
SCHEMA_VERSION = 1
RELEASE_SCHEMA_VERSION = 1
PACKAGE_SCHEMA_VERSION = 1


def _fields(source: object, names: str) -> dict[str, object]:
    """Some attributes of a record as plain data, in this order."""
    return {name: as_plain(getattr(source, name)) for name in names.split()}


def verdict_dict(verdict: Verdict) -> dict[str, object]:
    """The verdict in full, as verdict.schema.json describes it."""
    return {
        "schema_version": SCHEMA_VERSION,
        **_fields(verdict, "outcome exit_status headline"),
        "bytes": {origin.value: verdict.bytes_of(origin) for origin in Origin},
        **as_plain(verdict),
    }


def release_dict(verdict: ReleaseVerdict) -> dict[str, object]:
    """The verdict on a release, as release.schema.json describes it."""
    return {
        "schema_version": RELEASE_SCHEMA_VERSION,
        **_fields(verdict, "release title outcome exit_status reproducible claim not_proved"),
        **_fields(verdict, "unpinned unpinned_allowed builds stages"),
        "enclaves": [_enclave(enclave) for enclave in verdict.enclaves],
        "notices": list(verdict.notices),
    }


def _enclave(enclave: EnclaveOutcome) -> dict[str, object]:
    verdict = enclave.verdict
    return {
        **_fields(enclave, "name signed_file required may_ship reason unpinned"),
        "outcome": enclave.bytes_outcome.value,
        "refused_by": enclave.refused_by or None,
        "refused_checks": list(enclave.refused_checks),
        "findings": as_plain(verdict.findings if verdict else enclave.findings),
        "built_sha256": verdict.built.sha256 if verdict else None,
        "signed_sha256": verdict.signed.sha256 if verdict else None,
        "config_sha256": verdict.config.sha256 if verdict else None,
        "mrenclave": verdict.mrenclave if verdict else None,
        "report": f"{enclave.name}/verdict.json" if verdict else None,
    }


def result_dict(result: PackageResult) -> dict[str, object]:
    """What was found out about a package; see `PackageResult`."""
    return {
        "schema_version": PACKAGE_SCHEMA_VERSION,
        "file": result.file,
        "package": result.nevra,
        **_fields(result, "outcome exit_status findings"),
        "enclaves": [_packaged_enclave(enclave) for enclave in result.enclaves],
    }


def _packaged_enclave(enclave: EnclaveResult) -> dict[str, object]:
    return {
        **_fields(enclave, "path links name signed size sha256 reference"),
        **_fields(enclave, "outcome exit_status findings"),
        "verdict": None if enclave.verdict is None else verdict_dict(enclave.verdict),
    }


def survey_dict(survey: Survey) -> dict[str, object]:
    """What a scan rests on."""
    return {
        "scanned": len(survey.targets) + survey.passed,
        "by_repodata_alone": survey.passed,
        "listed_but_absent": survey.absent,
        "repodata_problems": [problem.as_dict() for problem in survey.problems],
    }


def show_dict(
    image: EnclaveImage, descriptor: Descriptor, description: Description
) -> dict[str, object]:
    """All that was read of an enclave; numbers are integers, bytes hexadecimal."""
    return {
        "file": image.name,
        "size": len(image.data),
        **_fields(description, "interpreter build_id comments producers features sections"),
        "symbols": len(description.symbols),
        "not_described": as_plain(description.problems),
        "segments": [s.as_dict() for s in image.load_segments],
        "tls_size": image.tls_size,
        "descriptor": {
            "offset": image.descriptor_offset,
            "size": image.descriptor_size,
            "note_type": image.note_type,
            "tail_is_zero": not any(descriptor.tail),
        },
        "blocks": [_block(block) for block in descriptor.blocks],
    }


def sigstruct_dict(sigstruct: Sigstruct) -> dict[str, object]:
    """All fields of a SIGSTRUCT, and what follows from them."""
    mrsigner = sigstruct.mrsigner.hex()
    return {
        **sigstruct.as_dict(),
        "mrsigner": mrsigner,
        "signer": known_signer(mrsigner),
        "debug": sigstruct.is_debug,
    }


def _block(block: Block) -> dict[str, object]:
    return {
        "offset": block.offset,
        "version": str(block.version),
        "header": block.header.as_dict(),
        "sigstruct": sigstruct_dict(block.sigstruct),
        "directories": {
            name: directory.as_dict() for name, directory in zip(DIRECTORY_NAMES, block.directories)
        },
        "patches": [p.as_dict() for p in block.patches],
        "layout": [{"name": block.layout_name(i), **i.as_dict()} for i in block.layout],
        "elrange": None if block.elrange is None else block.elrange.as_dict(),
        "extensions": [e.as_dict() for e in block.extensions],
    }
