# SPDX-License-Identifier: GPL-2.0-or-later
"""What is fuzzed: each reader, and good inputs to begin with."""

from __future__ import annotations

import base64
import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sgx_enclaves.catalogue.reader import OWN_FOLDER, release_from
from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.sign import extract, parse_signatures
from sgx_enclaves.enclave.sigstruct import Sigstruct, check_sigstruct
from sgx_enclaves.errors import CatalogueError, RecordError
from sgx_enclaves.evidence.ledger import line_of, read_ledger
from sgx_enclaves.evidence.report import canonical, manifest_bytes, of_comparison, read_report
from sgx_enclaves.evidence.statements import read_bundle, read_statement
from sgx_enclaves.gate.record import read_record
from sgx_enclaves.limits import Limits
from sgx_enclaves.plain import parse_json, parse_toml
from sgx_enclaves.release.manifest import read_manifest
from sgx_enclaves.release.place import parse_lock
from sgx_enclaves.rpm.reader import open_package
from sgx_enclaves.rpm.repodata import read_repository
from tests.support.archives import list_members
from tests.support.records import record
from tests.support.signed import fips_enclave, signed_enclave
from tests.support_rpm import RpmFile, write_rpm
from tests.unit.release import tarmaker
from tests.unit.release.test_manifest import sample as sample_manifest
from tests.unit.release.test_toolchain import LOCK

# Little of what costs time by the number of pages, so that a case is quick.
LIMITS = Limits(hashed_bytes=1 << 23, layout_entries=1 << 12)


@dataclass(frozen=True)
class Target:
    """A reader, and inputs that it takes."""

    read: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]


def _elf(data: bytes) -> None:
    image = EnclaveImage.parse(data, limits=LIMITS)
    _ = image.dynamic_symbols, image.tls_size, image.image_size


def _metadata(data: bytes) -> None:
    for block in Descriptor.parse(data, LIMITS).blocks:
        _ = block.elrange, block.fips_signature, block.layout, block.serialise()


def _verdict(data: bytes) -> None:
    case = signed_enclave()
    compare(case.built, data, case.config, case.policy, limits=LIMITS)


def _sigstruct(data: bytes) -> None:
    check_sigstruct(Sigstruct.parse(data))


def _package(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".rpm") as file:
        file.write(data)
        file.flush()
        with open_package(file.name) as (package, _):
            assert package.files is not None


def _archive(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        file.write(data)
        file.flush()
        list_members(Path(file.name))


def _repodata(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "repodata").mkdir()
        (Path(folder) / "repodata" / "repomd.xml").write_bytes(data)
        read_repository(folder)


def _statements(data: bytes) -> None:
    for envelope in read_bundle(data, "x.jsonl"):
        read_statement(envelope, "x.jsonl")


def _release(data: bytes) -> None:
    release_from(parse_toml(data, file="x.toml", error=CatalogueError), "x.toml")


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "libsgx_pce.so", "digest": {"sha256": "0" * 64}}],
    "predicateType": "https://slsa.dev/provenance/v1",
    "predicate": {},
}
ENVELOPE = {
    "payloadType": "application/vnd.in-toto+json",
    "payload": base64.b64encode(_json(STATEMENT)).decode(),
    "signatures": [{"keyid": "k", "sig": "AA=="}],
}
LEDGER = line_of(
    {
        **{"enclave": "pce", "version": "1.25", "isvprodid": 1, "isvsvn": 14},
        **{"mrenclave": "00" * 32, "mrsigner": "11" * 32, "unsigned": "22" * 32},
        **{"signed": "33" * 32, "statement": "44" * 32},
    }
).encode()
REPOMD = (
    b'<?xml version="1.0"?><repomd xmlns="http://linux.duke.edu/metadata/repo">'
    b'<data type="primary"><location href="repodata/p.xml.gz"/>'
    b'<checksum type="sha256">00</checksum></data></repomd>'
)

TARGETS: Mapping[str, Target] = {
    "elf": Target(_elf, lambda: [signed_enclave().signed, fips_enclave().built]),
    "metadata": Target(_metadata, lambda: [signed_enclave().descriptor, fips_enclave().descriptor]),
    "verdict": Target(_verdict, lambda: [signed_enclave().signed]),
    "sigstruct": Target(_sigstruct, lambda: [signed_enclave().blocks[0].sigstruct.serialise()]),
    "config": Target(Config.parse, lambda: [signed_enclave().config]),
    "signatures": Target(
        lambda data: parse_signatures(data, signed_enclave().regenerated),
        lambda: [
            b"".join(part.serialise() for part in extract(Descriptor.parse(case.descriptor)))
            for case in (signed_enclave(), fips_enclave())
        ],
    ),
    "release": Target(_release, lambda: [(OWN_FOLDER / "sgx-2.25-dcap-1.22.toml").read_bytes()]),
    "record": Target(
        lambda data: read_record(parse_json(data, file="x", error=RecordError)),
        lambda: [_json(record())],
    ),
    "manifest": Target(
        lambda data: read_manifest(data, "x"), lambda: [manifest_bytes(sample_manifest())]
    ),
    "lock": Target(lambda data: parse_lock(data, "x"), lambda: [_json(LOCK)]),
    "report": Target(
        lambda data: read_report(data, "x"),
        lambda: [canonical(of_comparison(signed_enclave().compare()))],
    ),
    "ledger": Target(lambda data: read_ledger(data, "x"), lambda: [LEDGER]),
    "statements": Target(_statements, lambda: [_json(ENVELOPE)]),
    "package": Target(
        _package,
        lambda: [write_rpm([RpmFile("/usr/lib/a.so", b"abc")], provides=["x"], compressor=None)],
    ),
    "archive": Target(
        _archive,
        lambda: [
            tarmaker.directory("t/")
            + tarmaker.file("t/a", b"alpha")
            + tarmaker.pax("path", b"t/long")
            + tarmaker.file("short", b"beta")
            + tarmaker.symlink("t/l", "a")
            + tarmaker.END
        ],
    ),
    "repodata": Target(_repodata, lambda: [REPOMD]),
}


@functools.cache
def seeds(name: str) -> tuple[bytes, ...]:
    """Good inputs of a target, and those that a run of the fuzzer found worth keeping."""
    kept = sorted((Path(__file__).parent / "corpus" / name).glob("*"))
    return (*TARGETS[name].seeds(), *(path.read_bytes() for path in kept))
