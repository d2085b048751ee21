# SPDX-License-Identifier: GPL-2.0-or-later
"""Manifests: what is written is read back, and what was not written by us is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.errors import LimitError, ManifestError
from sgx_enclaves.limits import Limits
from sgx_enclaves.release.manifest import (
    BuildDifference,
    EnclaveRecord,
    FileRecord,
    Manifest,
    SecondBuild,
    SourceRecord,
    StepOutcome,
    StepRecord,
    TreeRecord,
    load_built,
    load_manifest,
    read_manifest,
    write_manifest,
)
from sgx_enclaves.release.toolchain import (
    FoundPackage,
    FoundTool,
    Part,
    PartState,
    ToolchainKind,
    ToolchainRecord,
    ToolchainUse,
)

UNSIGNED, CONFIG = b"enclave", b"<EnclaveConfiguration/>"
DIGEST = "ab" * 32


def _record(file: str, data: bytes) -> FileRecord:
    return FileRecord(file, hashlib.sha256(data).hexdigest(), len(data))


def _toolchain() -> ToolchainUse:
    record = ToolchainRecord(
        tools=(
            FoundTool("gcc", "9.5.0", "/opt/bin/gcc", DIGEST),
            FoundTool("nasm", None, None, None),
        ),
        interpreter="/lib64/ld-linux-x86-64.so.2",
        packages=(FoundPackage("gcc-9.5.0-1.x86_64", "", None),),
        machine="x86_64",
    )
    return ToolchainUse(
        ToolchainKind.DESIGNATED,
        "Old compilers",
        record,
        (Part("gcc", PartState.MATCH, "9.5.0", "9.5.0"),),
    )


def sample() -> Manifest:
    tree = TreeRecord(
        release="small-1",
        route="maker",
        root="/small/tree",
        fixed_path=True,
        isolated=True,
        network=False,
        environment=("LC_ALL=C", "SOURCE_DATE_EPOCH=1"),
        umask=0o022,
        sources=(
            SourceRecord("main", "", "small-1.tar.gz", DIGEST, True),
            SourceRecord("sub", "sub", "sub.tar.gz", DIGEST, True, "cd" * 32),
        ),
        toolchain=_toolchain(),
        steps=(
            StepRecord("prepare", None, StepOutcome.OK, 12, "logs/prepare.log", None),
            StepRecord(
                "make-qe3", "qe3", StepOutcome.TIMED_OUT, 5000, "logs/make-qe3.log", "took too long"
            ),
        ),
    )
    return Manifest(
        release="small-1",
        started=1_700_000_000,
        milliseconds=5100,
        trees=(tree,),
        enclaves=(
            EnclaveRecord(
                "pce",
                "pce",
                "small-1",
                _record("libsgx_pce.so", UNSIGNED),
                _record("libsgx_pce.config.xml", CONFIG),
                None,
            ),
            EnclaveRecord("qe3", "qe3", "small-1", None, None, "its make took too long"),
        ),
        second=None,
    )


def _written(tmp_path: Path) -> Path:
    (tmp_path / "libsgx_pce.so").write_bytes(UNSIGNED)
    (tmp_path / "libsgx_pce.config.xml").write_bytes(CONFIG)
    write_manifest(tmp_path, sample())
    return tmp_path


def _encode(data: object) -> bytes:
    return json.dumps(data).encode()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_manifest(tmp_path, sample())
    assert load_manifest(tmp_path) == sample()


def test_a_second_build_is_read_back() -> None:
    second = SecondBuild(
        ("path", "umask"), ("time",), (BuildDifference("libsgx_pce.so", 0x40, 8, ".rodata"),)
    )
    manifest = replace(sample(), second=second)
    read = read_manifest(_encode(manifest.as_dict()), "m")
    assert read == manifest
    assert read.reproducible is False


def test_reproducible_is_null_true_or_false() -> None:
    same = SecondBuild(("path",), (), ())
    whole = replace(sample(), enclaves=sample().enclaves[:1])
    whole = replace(whole, trees=(replace(whole.trees[0], steps=whole.trees[0].steps[:1]),))
    assert sample().as_dict()["reproducible"] is None
    assert replace(whole, second=same).as_dict()["reproducible"] is True
    # an enclave that was not built has not been shown to be anything
    assert replace(sample(), second=same).as_dict()["reproducible"] is False


def test_load_built_gives_the_bytes(tmp_path: Path) -> None:
    built = load_built(_written(tmp_path))
    (enclave,) = built.enclaves
    assert (enclave.name, enclave.unsigned, enclave.config) == ("pce", UNSIGNED, CONFIG)
    assert built.enclave("qe3") is None
    assert not built.manifest.complete


@pytest.mark.parametrize("name", ["libsgx_pce.so", "libsgx_pce.config.xml"])
def test_a_file_changed_after_the_build_is_refused(tmp_path: Path, name: str) -> None:
    folder = _written(tmp_path)
    data = bytearray((folder / name).read_bytes())
    data[0] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ManifestError, match="is not the file") as caught:
        load_built(folder)
    assert caught.value.file == str(folder / name)


def test_a_file_larger_than_allowed_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgx_enclaves.release.manifest.DEFAULT_LIMITS", Limits(file_size=3))
    with pytest.raises(LimitError):
        load_built(_written(tmp_path))


def test_a_directory_without_a_manifest_was_never_finished(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no build ended here"):
        load_built(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema_version": NaN}',
        b'{"schema_version": 1, "schema_version": 1}',
        b'{"schema_version": 2}',
        b"{}",
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(data, "m.json")
    assert caught.value.file == "m.json"


def _set(*path: Any, to: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        place: Any = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("extra", to=1), "found extra"),
        (_set("release", to=None), "release does not fit"),
        (_set("release", to="../x"), "release does not fit"),
        (_set("started", to=True), "started does not fit"),
        (_set("started", to=-1), "expected at least 0"),
        (_set("enclaves", to=[]), "enclaves does not fit"),
        (_set("reproducible", to=True), "contradicts"),
        (_set("enclaves", 0, "unsigned", "file", to="../../etc/passwd"), "must be libsgx_pce.so"),
        (_set("enclaves", 0, "unsigned", "sha256", to="00"), "sha256 does not fit"),
        (_set("enclaves", 0, "unsigned", "sha256", to=DIGEST.upper()), "sha256 does not fit"),
        (_set("enclaves", 0, "unsigned", "size", to=1.5), "size does not fit"),
        (_set("enclaves", 0, "config", to=None), "config must be there"),
        (_set("enclaves", 0, "problem", to="none"), "problem must be there"),
        (_set("enclaves", 0, "tree", to="other"), "names no tree"),
        (_set("enclaves", 1, "name", to="pce"), "is there twice"),
        (_set("enclaves", 1, "file", to="pce"), "is there twice"),
        (_set("enclaves", 1, "problem", to=None), "problem must be there"),
        (_set("trees", 0, "sources", to=[]), "sources does not fit"),
        (
            _set("trees", 0, "sources", 1, "contents_sha256", to="cd"),
            "sources[1].contents_sha256 does not fit",
        ),
        (_set("trees", 0, "sources", 0, "sha256", to=f"{DIGEST}\n"), "is not one line"),
        (_set("trees", 0, "umask", to=0o1000), "umask does not fit"),
        (_set("trees", 0, "root", to="relative"), "root does not fit"),
        (_set("trees", 0, "steps", 0, "log", to="logs/../../x.log"), "log does not fit"),
        (_set("trees", 0, "steps", 0, "outcome", to="fine"), "outcome does not fit"),
        (_set("trees", 0, "steps", 0, "message", to="oh"), "message must be there"),
        (_set("trees", 0, "steps", 1, "id", to="prepare"), "is there twice"),
        (_set("trees", 0, "steps", 1, "enclave", to="ide"), "names no enclave"),
        (_set("trees", 0, "toolchain", to=None), "toolchain does not fit"),
        (_set("trees", 0, "toolchain", "record", to=None), "record does not fit"),
        (_set("trees", 0, "toolchain", "kind", to="best"), "kind does not fit"),
        (_set("trees", 0, "toolchain", "parts", to=[]), "do not all match"),
        (_set("trees", 0, "toolchain", "parts", 0, "state", to="differs"), "do not all match"),
    ],
)
def test_a_changed_manifest_is_refused(change: Callable[[dict[str, Any]], None], said: str) -> None:
    data = json.loads(json.dumps(sample().as_dict()))
    change(data)
    with pytest.raises(ManifestError) as caught:
        read_manifest(_encode(data), "m.json")
    assert said in str(caught.value)
    assert caught.value.file == "m.json"


@pytest.mark.parametrize("key", ["network", "fixed_path", "isolated", "route", "root"])
def test_what_is_not_said_is_refused(key: str) -> None:
    data = json.loads(json.dumps(sample().as_dict()))
    del data["trees"][0][key]
    with pytest.raises(ManifestError, match=key):
        read_manifest(_encode(data), "m.json")


def test_a_message_of_several_lines_is_kept_as_one() -> None:
    steps = (replace(sample().trees[0].steps[1], message="one\ntwo\x1b[31m" + "x" * 9000),)
    manifest = replace(sample(), trees=(replace(sample().trees[0], steps=steps),))
    read = read_manifest(_encode(manifest.as_dict()), "m")
    message = read.trees[0].steps[0].message
    assert message is not None
    assert message.startswith("one\\x0atwo\\x1b[31m")
    assert len(message) == 4096
