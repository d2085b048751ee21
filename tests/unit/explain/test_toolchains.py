# SPDX-License-Identifier: GPL-2.0-or-later
"""With real toolchains: one thing is changed, that thing is named, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.enclaves.compiled import have_toolchain
from tests.enclaves.sdk import sdk_shape
from tests.unit.explain.explaining import Case, codes, message

pytestmark = pytest.mark.skipif(not have_toolchain(), reason="no make, gcc and binutils")

SOURCES = Path(__file__).parents[2] / "enclaves"
STRIP = ("--strip-unneeded", "--remove-section=.comment", "--remove-section=.note")
PLAIN = ("-Wl,--build-id=none",)
COMPILE = (
    *("-std=gnu11", "-O2", "-g0", "-ffreestanding", "-fPIC", "-fvisibility=hidden"),
    *("-fno-stack-protector", "-fno-common"),
)
LINK = (
    *("-nostdlib", "-nodefaultlibs", "-nostartfiles", "-Wl,-Bstatic", "-Wl,-Bsymbolic", "-Wl,-pie"),
    *("-Wl,-eenclave_entry", "-Wl,--export-dynamic", "-Wl,--defsym,__ImageBase=0"),
)
PACKAGE_NOTE = """
.section .note.package,"a",@note
.balign 4
.long 4, 2f-1f, 0xcafe1a7e
.asciz "FDO"
1: .asciz "{\\"type\\":\\"rpm\\",\\"name\\":\\"sgx-example\\",\\"version\\":\\"1.0-1\\"}"
.balign 4
2:
.section .note.GNU-stack,"",@progbits
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def enclave(
    folder: Path, name: str, *link: str, compiler: str = "gcc", more: str = "", strip: bool = True
) -> Path:
    """A small enclave of the test sources, by this compiler with these options of the linker."""
    shape = sdk_shape("2.25")
    defines = [
        f"-DSDK_VERSION={shape.version}",
        f"-DGLOBAL_DATA_SIZE={shape.global_data_size}",
        f"-DDESCRIPTOR_SIZE={shape.descriptor_size}",
    ]
    objects = []
    for source in ("entry.S", "runtime.c", "pce.c", "metadata.S"):
        made = folder / f"{name}-{source}.o"
        path = str(SOURCES / "src" / source)
        run(compiler, *COMPILE, *defines, "-c", path, "-o", str(made))
        objects.append(str(made))
    if more:
        (folder / "more.s").write_text(more)
        run("gcc", "-c", str(folder / "more.s"), "-o", str(folder / "more.o"))
        objects.append(str(folder / "more.o"))
    exports = f"-Wl,--version-script={SOURCES / 'exports.map'}"
    out = folder / name
    run(compiler, *LINK, exports, *link, *objects, "-o", str(out))
    if strip:
        run("strip", *STRIP, str(out))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toolchains")


@pytest.fixture(scope="module")
def case(folder: Path) -> Case:
    return Case.of(enclave(folder, "vendor", *PLAIN).read_bytes())


def causes(case: Case, other: Path) -> list[str]:
    """The causes that are named where the other file is what the vendor signed."""
    return codes(case.explain(case.signed(data=other.read_bytes())))


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("-Wl,-z,execstack", "PT_GNU_STACK executable in the vendor's file"),
        ("-Wl,-z,norelro", "PT_GNU_RELRO): no in the vendor's file"),
        ("-Wl,-z,now", "BIND_NOW): yes in the vendor's file"),
        ("-Wl,-z,noseparate-code", "number of PT_LOAD"),
        ("-Wl,-z,pack-relative-relocs", "DT_RELR): yes in the vendor's file"),
        ("-Wl,-z,ibt,-z,shstk", "IBT and SHSTK in the vendor's file"),
    ],
)
def test_an_option_of_the_linker(folder: Path, case: Case, option: str, named: str) -> None:
    other = enclave(folder, "other", *PLAIN, option)
    explanation = case.explain(case.signed(data=other.read_bytes()))
    assert codes(explanation) == ["link-option"]
    assert named in message(explanation, "link-option")


@pytest.mark.parametrize("linker", ["gold", "lld", "mold"])
def test_another_linker(folder: Path, case: Case, linker: str) -> None:
    if shutil.which(f"ld.{linker}") is None:
        pytest.skip(f"no {linker}")
    other = enclave(folder, linker, *PLAIN, f"-fuse-ld={linker}")
    assert [c for c in causes(case, other) if c != "hash-style"] == ["other-linker"]


def test_another_compiler(folder: Path, case: Case) -> None:
    if shutil.which("clang") is None:
        pytest.skip("no clang")
    assert "other-compiler" in causes(case, enclave(folder, "clang", *PLAIN, compiler="clang"))
    ours = Case.of(enclave(folder, "named", *PLAIN, strip=False).read_bytes())
    other = enclave(folder, "clang", *PLAIN, compiler="clang", strip=False)
    assert causes(ours, other)[0] == "compiler-comment"


@pytest.mark.parametrize("compiler", ["gcc-9", "gcc-10", "gcc-11", "gcc-13", "gcc-14"])
def test_another_version_of_the_compiler(folder: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    ours = Case.of(enclave(folder, "named", *PLAIN, strip=False).read_bytes())
    other = enclave(folder, compiler, *PLAIN, compiler=compiler, strip=False)
    explanation = ours.explain(ours.signed(data=other.read_bytes()))
    assert codes(explanation)[0] == "compiler-comment"
    version = subprocess.check_output([compiler, "-dumpfullversion"], text=True)
    assert version.strip() in message(explanation, "compiler-comment")


def test_a_note_of_the_distribution(folder: Path, case: Case) -> None:
    other = enclave(folder, "noted", *PLAIN, more=PACKAGE_NOTE)
    explanation = case.explain(case.signed(data=other.read_bytes()))
    assert codes(explanation) == ["section-only-in-one"]
    text = message(explanation, "section-only-in-one")
    assert text == "the vendor's file has a loaded section .note.package, our build not"
    assert "_package_note_file" in str(explanation.causes[0].hint)


@pytest.mark.parametrize("kind", ["debuglink", "debugdata", "build.attributes"])
def test_what_rpmbuild_leaves(folder: Path, case: Case, kind: str) -> None:
    other = enclave(folder, "left", *PLAIN)
    (folder / "x").write_bytes(b"x")
    name = ".gnu.build.attributes" if kind == "build.attributes" else f".gnu_{kind}"
    if kind == "debuglink":
        run("objcopy", f"--add-gnu-debuglink={folder / 'x'}", str(other))
    else:
        run("objcopy", "--add-section", f"{name}={folder / 'x'}", str(other))
    explanation = case.explain(case.signed(data=other.read_bytes()))
    assert codes(explanation) == ["section-only-in-one", "not-measured"]
    assert f"a section {name}" in message(explanation, "section-only-in-one")


def test_another_strip_tool(folder: Path, case: Case) -> None:
    if shutil.which("eu-strip") is None:
        pytest.skip("no elfutils")
    other = enclave(folder, "eu", *PLAIN, strip=False)
    run("eu-strip", "--remove-comment", str(other))
    found = causes(case, other)
    assert "stripped-differently" in found
    assert not {"other-compiler", "other-linker", "other-strings", "link-order"} & set(found)


def test_the_same_build_differs_in_nothing(folder: Path, case: Case) -> None:
    """What makes every other test here mean something."""
    assert enclave(folder, "again", *PLAIN).read_bytes() == case.built.data
