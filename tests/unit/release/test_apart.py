# SPDX-License-Identifier: GPL-2.0-or-later
"""A built directory of one enclave alone, as packages ship it, and the check of one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sgx_enclaves.cli.main import main
from sgx_enclaves.errors import ManifestError
from sgx_enclaves.release.manifest import (
    BuildDifference,
    EnclaveRecord,
    Manifest,
    SecondBuild,
    StepOutcome,
    StepRecord,
    load_built,
    read_manifest,
    set_apart,
    write_manifest,
)
from sgx_enclaves.release.toolchain import ToolchainKind
from tests.unit.release.test_manifest import CONFIG, UNSIGNED, _record, sample


def two_enclaves() -> Manifest:
    """Both built, in a tree each, with a step each besides one for all."""
    manifest = sample()
    pce = manifest.enclaves[0]
    (tree,) = manifest.trees
    steps = (
        tree.steps[0],
        StepRecord("make-ide", "ide", StepOutcome.OK, 7, "logs/make-ide.log", None),
        StepRecord("make-pce", "pce", StepOutcome.OK, 7, "logs/make-pce.log", None),
    )
    other = replace(tree, release="small-2", steps=steps[:1])
    ide = EnclaveRecord(
        "ide",
        "id_enclave",
        "small-2",
        _record("libsgx_id_enclave.so", b"other"),
        _record("libsgx_id_enclave.config.xml", CONFIG),
        None,
    )
    second = SecondBuild(
        ("path",),
        (),
        (
            BuildDifference("libsgx_pce.so", 3, 4, ".text"),
            BuildDifference("libsgx_id_enclave.so", None, 0, None),
        ),
    )
    trees = (replace(tree, steps=steps), other)
    return replace(manifest, trees=trees, enclaves=(pce, ide), second=second)


def written(folder: Path, manifest: Manifest) -> Path:
    (folder / "libsgx_pce.so").write_bytes(UNSIGNED)
    (folder / "libsgx_pce.config.xml").write_bytes(CONFIG)
    (folder / "libsgx_id_enclave.so").write_bytes(b"other")
    (folder / "libsgx_id_enclave.config.xml").write_bytes(CONFIG)
    write_manifest(folder, manifest)
    return folder


def test_what_concerns_one_enclave_alone(tmp_path: Path) -> None:
    manifest = two_enclaves()
    folder = set_apart(written(tmp_path, manifest), manifest, "pce")
    assert sorted(p.name for p in folder.iterdir()) == [
        "libsgx_pce.config.xml",
        "libsgx_pce.so",
        "manifest.json",
    ]
    # a program, and a text
    assert (folder / "libsgx_pce.so").stat().st_mode & 0o777 == 0o755
    assert (folder / "libsgx_pce.config.xml").stat().st_mode & 0o777 == 0o644
    built = load_built(folder)
    assert [e.unsigned for e in built.enclaves] == [UNSIGNED]
    assert built.manifest.release == manifest.release
    (tree,) = built.manifest.trees
    assert [step.id for step in tree.steps] == ["prepare", "make-pce"]
    assert tree.toolchain == manifest.trees[0].toolchain
    assert tree.sources == manifest.trees[0].sources
    assert built.manifest.second is not None
    assert [d.file for d in built.manifest.second.differences] == ["libsgx_pce.so"]
    assert built.manifest.reproducible is False
    assert load_built(set_apart(tmp_path, manifest, "ide")).manifest.trees[0].release == "small-2"


def test_what_never_recurs_is_left_out() -> None:
    text = json.dumps(two_enclaves().only("pce").as_dict())
    trees = tuple(
        replace(tree, environment=("HOME=/tmp/other", *tree.environment))
        for tree in two_enclaves().trees
    )
    later = replace(two_enclaves(), started=1_800_000_000, milliseconds=1, trees=trees)
    assert json.dumps(later.only("pce").as_dict()) == text
    assert read_manifest(text.encode(), "manifest.json").started == 0
    assert ".log" not in text


def test_a_file_that_was_changed_is_not_set_apart(tmp_path: Path) -> None:
    manifest = two_enclaves()
    written(tmp_path, manifest)
    (tmp_path / "libsgx_pce.so").write_bytes(b"enclavE")
    with pytest.raises(ManifestError, match="is not the file that the manifest describes"):
        set_apart(tmp_path, manifest, "pce")


# --- check-built ---


def test_a_good_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = two_enclaves()
    report = tmp_path / "report" / "built.txt"
    arguments = ["check-built", str(written(tmp_path, manifest)), "--designated"]
    assert main([*arguments, "-o", str(report)]) == 0
    text = capsys.readouterr().out
    assert report.read_text() == text
    for words in (
        "unsigned enclaves of small-1",
        f"pce: libsgx_pce.so, {len(UNSIGNED)} bytes, sha256 ",
        "built from small-1 in /small/tree, the path that it asks for",
        "toolchain: designated (Old compilers)",
        "gcc 9.5.0, match",
        "source main: small-1.tar.gz, sha256 ",
    ):
        assert words in text


def with_host_toolchain(manifest: Manifest) -> Manifest:
    (first, *others) = manifest.trees
    toolchain = replace(first.toolchain, kind=ToolchainKind.HOST)
    return replace(manifest, trees=(replace(first, toolchain=toolchain), *others))


def without_a_pin(manifest: Manifest) -> Manifest:
    (first, *others) = manifest.trees
    sources = tuple(replace(source, pinned=False) for source in first.sources)
    return replace(manifest, trees=(replace(first, sources=sources), *others))


def not_complete(manifest: Manifest) -> Manifest:
    pce, ide = manifest.enclaves
    return replace(
        manifest, enclaves=(pce, replace(ide, unsigned=None, config=None, problem="no room"))
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_host_toolchain, "REFUSED: it was not built with the designated toolchain"),
        (without_a_pin, "REFUSED: it was built from sources without a pinned digest"),
        (not_complete, "REFUSED: an enclave that was asked for was not built"),
    ],
)
def test_what_a_distribution_must_not_refer_to(
    change: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(change)
    folder = written(tmp_path, change(two_enclaves()))
    report = tmp_path / "report"
    assert main(["check-built", str(folder), "--designated", "-o", str(report)]) == 1
    assert words in capsys.readouterr().out
    assert not report.exists()
    # Without that demand it is as it says.
    assert main(["check-built", str(folder)]) == 0
    allowed = main(["check-built", str(folder), "--designated", "--allow-unpinned"])
    assert allowed == (0 if change is without_a_pin else 1)


def test_what_was_looked_at_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path, two_enclaves())
    enclave = folder / "libsgx_pce.so"
    before = enclave.read_bytes()
    assert main(["check-built", str(folder), "-o", str(enclave), "--force"]) == 2
    assert "it is one of the inputs" in capsys.readouterr().err
    assert enclave.read_bytes() == before


def test_a_changed_file_or_no_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, two_enclaves())
    (folder / "libsgx_id_enclave.config.xml").write_bytes(CONFIG + b"\n")
    assert main(["check-built", str(folder)]) == 2
    assert "is not the file that the manifest describes" in capsys.readouterr().err
    assert main(["check-built", str(tmp_path / "none")]) == 2
    assert "holds no manifest" in capsys.readouterr().err
