# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings of the check, with a stand-in for rpmlint's output."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import example, given, settings, strategies as st
from sgx_enclaves_rpmlint.judge import reports_of, withdraw
from sgx_enclaves_rpmlint.options import Options
from sgx_enclaves_rpmlint.session import FAILED, NotedPackage, Session, id_of, kinds, report

from sgx_enclaves import findings
from sgx_enclaves.enclave.policy import pin_for_file, policy_for
from sgx_enclaves.enclave.verdict import NOT_PROVED, Finding, Outcome, Severity
from sgx_enclaves.plain import printable
from sgx_enclaves.release.manifest import EnclaveRecord, FileRecord, Manifest, write_manifest
from sgx_enclaves.rpm.check import EnclaveResult, PackageResult, check_package
from sgx_enclaves.rpm.librpm import librpm
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from sgx_enclaves.rpm.references import open_reference
from tests.enclaves.synthetic import small_enclave
from tests.golden.enclaves import CODE
from tests.support.keys import foreign_key, mrsigner, vendor_key
from tests.support.signed import Case, signed_enclave
from tests.support_rpm import RpmFile, link, write_rpm
from tests.unit.release.test_manifest import sample

CASE = signed_enclave("2.25")
OTHER_PRODUCT = signed_enclave("2.25", {"ProdID": 7})
# The test vendor's enclaves are other products than Intel's, and young.
LIFTED = {"any_product": ["pce", "qve"], "least_isvsvn": {"pce": 0, "qve": 0}}
BASE = ENCLAVE_FOLDER + "libsgx_pce.signed.so"
SIGNED = BASE + ".1.25.100.1"
VERIFIED = ["sgx-enclave-verified"]


def provided(*pairs: tuple[str, str]) -> Any:
    """Provides as rpmlint has them."""
    return tuple((f"sgx-enclave({name})", 8, (None, version, None)) for name, version in pairs)


GOOD_PROVIDES = provided(("pce:signed", "2.25"), ("pce:signed:prebuilt", "2.25"))
NAMED = "sgx-enclave-prebuilt-pce-signed"


def packaged(
    files: Sequence[RpmFile], name: str = NAMED, provides: Any = GOOD_PROVIDES, **changes: Any
) -> bytes:
    """A package that says of itself what rpmlint is given; bare names get the release's version."""
    named = [(p, 8, (None, "2.25", None)) if isinstance(p, str) else p for p in provides]
    tags = dict(changes.pop("tags", {}))
    if named:
        tags[1047], tags[1112] = [n for n, _flags, _version in named], [8] * len(named)
        tags[1113] = [version[1] or "" for _name, _flags, version in named]
    return write_rpm(files, name=name, tags=tags, **changes)


@dataclass
class Output:
    """Stands in for rpmlint's `Filter`."""

    badness: dict[str, Any] = field(default_factory=dict)
    blocked_filters: set[str] = field(default_factory=set)
    error_details: dict[str, str] = field(default_factory=dict)
    printed_messages: dict[str, int] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)
    score: int = 0
    found: list[tuple[str, str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def add_info(self, level: str, package: Any, rpmlint_issue: str, *details: str) -> None:
        self.found.append((level, rpmlint_issue, " ".join(details)))
        badness = self.badness.get(rpmlint_issue, 0)
        shown = f" (Badness: {badness})" if badness > 1 else ""
        start = f"{package.name}.{package.arch}: {level}: {rpmlint_issue}{shown}"
        self.lines.append(" ".join((start, *details)))

    @property
    def ids(self) -> list[str]:
        return [kind for _level, kind, _details in self.found]


@dataclass
class Pkg:
    """Stands in for rpmlint's `Pkg`: nothing was extracted."""

    filename: str
    name: str = "sgx-enclave-prebuilt-pce-signed"
    arch: Optional[str] = "x86_64"
    is_source: bool = False
    files: Mapping[str, Any] = field(default_factory=dict)
    ghost_files: tuple[str, ...] = ()
    provides: Any = (("sgx-enclave(pce:signed)", 8, ("0", "2.25", None)),)
    folder: str = "/nowhere"
    header: Any = None

    def dir_name(self) -> str:
        return self.folder


# What asks the RPM database.
DATABASE = "sgx_enclaves_rpmlint.options.installed_packages"


class Bench:
    """Writes packages and runs a session over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reference = folder / "reference"
        self.reference.mkdir()
        self.put(CASE)

    def put(self, case: Case) -> None:
        (self.reference / "libsgx_pce.so").write_bytes(case.built)
        (self.reference / "libsgx_pce.config.xml").write_bytes(case.config)

    def rpm(self, data: bytes, path: str = SIGNED, **changes: Any) -> str:
        files = [
            RpmFile(path, data, 0o100755),
            link(BASE + ".1", path),
            link(BASE, BASE + ".1"),
        ]
        package = self.folder / "sample.rpm"
        package.write_bytes(packaged(files, **changes))
        return str(package)

    def run(self, *packages: Any, **table: Any) -> Output:
        output = Output()
        options = {
            "reference": str(self.reference),
            "signers": {"pce": mrsigner(vendor_key()), "qve": mrsigner(vendor_key())},
            **LIFTED,
            **table,
        }
        session = Session(options, output)
        for package in packages:
            session.note(package if isinstance(package, Pkg) else Pkg(package))
        session.conclude()
        return output


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATABASE, lambda _provide: [])


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_verified(bench: Bench) -> None:
    output = bench.run(bench.rpm(CASE.signed))
    assert output.ids == VERIFIED, output.found
    ((level, _, details),) = output.found
    assert level == "I"
    # Where there is no room for all, what limits the good news stays.
    assert details == (
        "…/libsgx_pce.signed.so.1.25.100.1; version not checked; "
        "policy: signer by option, any product, any ISVSVN; "
        f"MRENCLAVE {CASE.regenerated.mrenclave.hex()[:8]}…"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "p",
            "{path}; {digits:.26}…; reference {end}; policy of pce by file name: all by catalogue",
        ),
        (
            "sgx-enclave-pce-signed",
            "{path}; {digits:.18}…; reference {end}; policy: all by catalogue",
        ),
        (NAMED, "{path}; {digits:.18}…; reference {end}; policy: all by catalogue"),
        (f"{NAMED}-debug", "{name}; {digits:.18}…; reference {end}; policy: all by catalogue"),
        ("n" * 65, "{name}; policy: all by catalogue; {digits:.18}…"),
        ("n" * 300, "{name}; policy: all by catalogue; {digits:.18}…"),
    ],
)
def test_a_longer_name_leaves_less_room_for_the_good_news(
    bench: Bench, name: str, words: str
) -> None:
    policy = policy_for(pin_for_file(SIGNED))
    path = bench.rpm(CASE.signed, name=name)
    result = check_package(path, [open_reference(str(bench.reference))], lambda _path: policy)
    (enclave,) = result.enclaves
    assert enclave.verdict is not None
    verdict = replace(
        enclave.verdict, outcome=Outcome.IDENTICAL, not_proved=NOT_PROVED, policy=policy
    )
    good = replace(result, findings=(), enclaves=(replace(enclave, verdict=verdict, findings=()),))
    (line,) = (r.text for r in reports_of(subject(name), good) if [r.code] == VERIFIED)
    digits = f"MRENCLAVE {CASE.regenerated.mrenclave.hex()}"
    end, file = "…/libsgx_pce.so", "…/libsgx_pce.signed.so.1.25.100.1"
    assert line == words.format(path=SIGNED, digits=digits, end=end, name=file)


def sigstruct_changed(**fields: Any) -> bytes:
    def change(block: Any) -> Any:
        return replace(block, sigstruct=replace(block.sigstruct, **fields))

    return CASE.hostile(change)


def unsigned_change() -> bytes:
    block = CASE.blocks[0]
    return CASE.with_blocks([replace(block, sigstruct=replace(block.sigstruct, date=0x20200101))])


REFUSED: dict[str, Callable[[], bytes]] = {
    "sgx-enclave-payload-differs": lambda: CASE.signed + b"!",
    "sgx-enclave-metadata-unaccounted": lambda: sigstruct_changed(miscmask=0),
    "sgx-enclave-measurement-mismatch": lambda: CASE.hostile(
        lambda b: replace(b, sigstruct=replace(b.sigstruct, enclavehash=bytes(32))), measured=False
    ),
    "sgx-enclave-bad-signature": unsigned_change,
    "sgx-enclave-wrong-signer": lambda: CASE.hostile(lambda b: b, key=foreign_key()),
    "sgx-enclave-debug-allowed": lambda: sigstruct_changed(type=0x80000000),
    "sgx-enclave-svn-too-low": lambda: sigstruct_changed(isvsvn=1),
    "sgx-enclave-malformed": lambda: CASE.signed[:500],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_line_is_short_and_begins_with_the_cause(bench: Bench, kind: str) -> None:
    output = bench.run(bench.rpm(REFUSED[kind]()))
    for _level, _id, details in output.found:
        assert details.count(Path(SIGNED).name) == (_id != "sgx-enclave-missing")
        first = details.split("; ")[0]
        assert SIGNED not in first or first.startswith((f"{SIGNED} ", f"{SIGNED}: "))
    assert max(map(len, output.lines)) <= 200
    for line in output.lines:
        assert len(line) < 200 or line.endswith("… see check-rpm --report")


def subject(name: str) -> NotedPackage:
    """What the check keeps of a package called so."""
    return NotedPackage(name, "x86_64", "f", False, True)


@pytest.mark.parametrize("code", sorted(kinds()))
@pytest.mark.parametrize("size", [1, 31, 48, 65, 300])
@pytest.mark.parametrize("base", [Path(SIGNED).name, f"libsgx_{'e' * 200}.signed.so"])
def test_a_whole_line_is_short_whatever_the_names(code: str, size: int, base: str) -> None:
    """Cause and reference stay where a name leaves nothing."""
    cause = "cause code-patch: a patch: 1 byte differs in .text enclave_entry, and nothing else"
    where = ("offset 0x1c0, segment 0, section .text", "expected 01", f"found {'0' * 64}")
    named = "n" * size
    badness = " (Badness: 10000)" if kinds()[code].severity == "error" else ""
    for file in (ENCLAVE_FOLDER + base, ""):
        text = report(subject(named), code, cause, file, *where).text
        start = f"{named}.x86_64: E: {code}{badness} "
        assert len(text) <= max(90, 200 - len(start))
        assert text.startswith(cause[:22])
        assert text.isprintable()
        assert text.endswith(("; ".join(where), "… see check-rpm --report"))
        if len(base) < 40 and file:
            assert text.count(base) == 1
    assert report(subject("n"), code, "short", "/a/b", "more").text == "short; /a/b; more"


_NAMES = st.text(st.characters(min_codepoint=32, exclude_characters="/"), min_size=5, max_size=40)
_PATHS = st.lists(_NAMES, min_size=1, max_size=60).map(lambda names: "/" + "/".join(names))


@example("appended-data", "/0000\\", "the digest of {path!r} is wrong", False, None)
@settings(deadline=None)
@given(
    st.sampled_from(sorted(findings.kinds())),
    _PATHS,
    st.sampled_from(
        ["it is wrong", "{path} is wrong", "the digest of {path!r} is wrong", "x" * 300]
    ),
    st.booleans(),
    st.sampled_from([None, "{path}", "a{path} and {path}", "y" * 300]),
)
def test_any_line_is_short_begins_with_its_message_and_names_the_file_once(
    code: str, path: str, message: str, placed: bool, value: Optional[str]
) -> None:
    said = message.format(path=path)
    texts = {key: value and value.format(path=path) for key in ("expected", "found")}
    place = {"block": 0, "offset": 5} if placed else {}
    finding = Finding(code, Severity.DIFFERS, said, **place, **texts)  # type: ignore[arg-type]
    enclave = EnclaveResult(path, (), None, True, 1, "0" * 64, findings=(finding,))
    for result in (
        PackageResult("f", None, (enclave,), ()),
        PackageResult("f", None, (), (finding,)),
    ):
        for line in reports_of(subject(NAMED), result):
            shown = f"{NAMED}.x86_64: E: {line.code} (Badness: 10000) {line.text}"
            assert len(shown) <= 200 + (kinds()[line.code].severity != "error") * 17
            assert line.text.isprintable()
            first = f"{code}: {said}" if line.code == FAILED else said
            assert "{path" in message or line.text.startswith(printable(first)[:20])
            if result.enclaves:
                spelled = {printable(path), printable(repr(path)[1:-1])}
                # One spelling may be the beginning of the other.
                longest = "|".join(map(re.escape, sorted(spelled, key=len, reverse=True)))
                assert len(re.findall(longest, line.text)) <= 1


def test_a_changed_byte_is_explained_first(bench: Bench) -> None:
    changed = CASE.signed.replace(CODE, b"\x90" + CODE[1:])
    ((_level, _kind, details),) = bench.run(Pkg(bench.rpm(changed), name="p")).found
    cause, path, where, *_others = details.split("; ")
    assert cause.startswith("cause ")
    assert path == f"…/{Path(SIGNED).name}"
    assert where.startswith("offset 0x")


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(bench: Bench, kind: str) -> None:
    output = bench.run(bench.rpm(REFUSED[kind]()))
    assert kind in output.ids, output.found
    assert "sgx-enclave-verified" not in output.ids
    assert {level for level, found, _ in output.found if found == kind} == {"E"}


def test_isvsvn_below_what_is_configured(bench: Bench) -> None:
    output = bench.run(bench.rpm(CASE.signed), least_isvsvn={"pce": 99})
    assert output.ids == ["sgx-enclave-svn-too-low"]


def test_not_permitted(bench: Bench) -> None:
    path = ENCLAVE_FOLDER + "libsgx_qve.signed.so.1.22.100.1"
    package = bench.rpm(CASE.signed, path, provides=[])
    assert "sgx-enclave-not-permitted" in bench.run(package).ids
    assert "sgx-enclave-not-permitted" not in bench.run(package, permit="qve").ids


def test_references_by_enclave_and_version(bench: Bench) -> None:
    package = bench.rpm(CASE.signed)
    by_version = {"pce": {"1.25.100.1": str(bench.reference)}}
    assert bench.run(package, reference=by_version).ids == VERIFIED
    other = {"pce": {"1.24.100.1": str(bench.reference)}}
    assert bench.run(package, reference=other).ids == ["sgx-enclave-not-reproduced"]
    assert bench.run(package, reference={"qe3": str(bench.reference)}).ids != VERIFIED


def test_an_unusable_reference(bench: Bench) -> None:
    output = bench.run(bench.rpm(CASE.signed), reference="/no/such/folder")
    assert "sgx-enclave-reference-unusable" in output.ids


@pytest.mark.parametrize("size", [0, 10, 300, 2000, -1])
def test_truncated(bench: Bench, size: int) -> None:
    package = bench.rpm(CASE.signed)
    data = Path(package).read_bytes()
    Path(package).write_bytes(data[:size])
    output = bench.run(package)
    assert output.ids[0] in ("sgx-enclave-package-damaged", "sgx-enclave-package-unreadable")
    assert "sgx-enclave-verified" not in output.ids


@dataclass
class File:
    """Stands in for rpmlint's `PkgFile`."""

    path: str
    size: int
    mode: int = 0o100755


def test_a_package_that_was_not_extracted_whole_is_read(bench: Bench) -> None:
    missing = File("/nowhere/x", 3)
    output = bench.run(Pkg(bench.rpm(CASE.signed), provides=(), files={"/x": missing}))
    assert "sgx-enclave-verified" in output.ids


def warnings(bench: Bench, path: str = SIGNED, **changes: Any) -> list[tuple[str, str]]:
    """What is reported about a good enclave at this path, without the good news."""
    provides = changes.pop("provides", GOOD_PROVIDES)
    path = bench.rpm(CASE.signed, path, provides=provides, **changes)
    output = bench.run(Pkg(path, provides=provides, **changes))
    assert output.ids.count("sgx-enclave-verified") == 1, output.found
    assert {level for level, _kind, _details in output.found} <= {"W", "I"}
    return [(kind, details) for level, kind, details in output.found if level == "W"]


NAME = "sgx-enclave-name-unconventional"
VERSION = "sgx-enclave-version-unconventional"
LINKS = "sgx-enclave-links-unconventional"
PROVIDES = "sgx-enclave-provides-unconventional"


def test_conventions_that_are_kept(bench: Bench) -> None:
    assert warnings(bench) == []
    # A later release may carry the file of an older one.
    assert warnings(bench, provides=provided(("pce:signed", "2.26"))) == []


@pytest.mark.parametrize(
    ("folder", "reported"), [("/usr/lib/.build-id/ab/", []), ("/usr/lib/", [LINKS])]
)
def test_links_by_build_id_are_no_matter(bench: Bench, folder: str, reported: list[str]) -> None:
    links = [link(BASE + ".1", SIGNED), link(BASE, SIGNED), link(folder + "cdef", SIGNED)]
    package = bench.folder / "links.rpm"
    package.write_bytes(packaged([RpmFile(SIGNED, CASE.signed), *links]))
    output = bench.run(Pkg(str(package), provides=GOOD_PROVIDES))
    assert [kind for level, kind, _ in output.found if level == "W"] == reported


@pytest.mark.parametrize(
    ("path", "reported"),
    [
        ("/opt/libsgx_pce.signed.so.1.25.100.1", [NAME]),
        (ENCLAVE_FOLDER + "libsgx_pce.so.1.25.100.1", [NAME]),
        (ENCLAVE_FOLDER + "libsgx_pce.signed.so.1.25.100.1.so", [NAME]),
        (ENCLAVE_FOLDER + "libsgx_pce.signed.so.2.25.100.1", [LINKS, LINKS]),
        (ENCLAVE_FOLDER + "libsgx_pce.signed.so.7", [NAME]),
    ],
)
def test_unconventional_files(bench: Bench, path: str, reported: list[str]) -> None:
    output = bench.run(Pkg(bench.rpm(CASE.signed, path), provides=GOOD_PROVIDES))
    found = [kind for level, kind, _ in output.found if level == "W"]
    assert found in (reported, [*reported, PROVIDES]), output.found


def test_what_is_not_known_of_the_version_is_said(bench: Bench) -> None:
    ((_level, _kind, details),) = bench.run(bench.rpm(CASE.signed)).found
    assert "; version not checked; policy: signer by option" in details
    (bench.reference / "libsgx_pce.so").rename(bench.reference / "libsgx_pce.so.1.25.100.1")
    # As for files, the reference says no more than their own version.
    labelled = provided(("pce:signed", "1.25.100.1"), ("pce:signed:prebuilt", "1.25.100.1"))
    package = Pkg(bench.rpm(CASE.signed, provides=labelled), provides=labelled)
    lines = {kind: details for _level, kind, details in bench.run(package).found}
    assert "version not checked" not in lines["sgx-enclave-verified"]


@pytest.mark.parametrize(
    ("provides", "kind", "detail"),
    [
        (provided(("qe3:unsigned", "1.22")), PROVIDES, "no Provides: sgx-enclave(pce:signed)"),
        (provided(("pce:signed", "")), VERSION, "has no version"),
        (provided(("pce:signed", "1.25.100.1")), VERSION, "has the version of the file"),
        # Of no release that the catalogue has.
        (provided(("pce:signed", "2.10")), VERSION, "is of release 2.10, older than the file"),
        (
            provided(("pce:signed", "2.25"), ("pce:signed:prebuilt", "2.26")),
            VERSION,
            "has another version than…; …/libsgx_pce.signed.so",
        ),
    ],
)
def test_unconventional_provides(bench: Bench, provides: Any, kind: str, detail: str) -> None:
    ((found, details), *others) = warnings(bench, provides=provides)
    assert found == kind
    assert detail in details
    assert others == []


@pytest.mark.parametrize(
    "name",
    ["pictures", "sgx-enclave-prebuilt-qe3-signed", "sgx-enclave-prebuilt-pce-unsigned"],
)
def test_an_unconventional_package_name(bench: Bench, name: str) -> None:
    ((kind, details),) = warnings(bench, name=name)
    assert kind == NAME
    assert details.startswith(f"it is in the package {name}; ")
    assert "; expected sgx-enclave-KIND-pce-signed" in details or len(name) > 31


def test_a_file_without_a_version(bench: Bench) -> None:
    package = bench.folder / "x.rpm"
    package.write_bytes(packaged([RpmFile(BASE, CASE.signed)]))
    output = bench.run(Pkg(str(package), provides=GOOD_PROVIDES))
    assert ("W", VERSION, f"the file name has no version; {BASE}") in output.found


def test_an_unsigned_enclave_in_a_signed_package(bench: Bench) -> None:
    files = [
        RpmFile(SIGNED, CASE.signed),
        RpmFile(ENCLAVE_FOLDER + "libsgx_pce.so", CASE.built),
    ]
    package = bench.folder / "both.rpm"
    package.write_bytes(packaged(files))
    output = bench.run(Pkg(str(package), provides=GOOD_PROVIDES))
    kind = "sgx-enclave-unsigned-in-signed-package"
    ((level, details),) = [(lv, d) for lv, found, d in output.found if found == kind]
    assert (level, details.split("; ")[-1]) == ("W", ENCLAVE_FOLDER + "libsgx_pce.so")
    output = bench.run(unsigned_rpm(bench))
    assert kind not in output.ids


@pytest.mark.parametrize("promise", ["qe3:signed", "own:signed:prebuilt"])
def test_a_promised_enclave_that_is_not_there(bench: Bench, promise: str) -> None:
    package = bench.rpm(
        CASE.signed, provides=["sgx-enclave(pce:signed)", f"sgx-enclave({promise})"]
    )
    provides = (*GOOD_PROVIDES, *provided((promise, "1")))
    output = bench.run(Pkg(package, provides=provides))
    assert output.found[0][:2] == ("E", "sgx-enclave-missing")
    assert promise.split(":", maxsplit=1)[0] in output.found[0][2]


def test_an_enclave_of_ones_own_is_called_as_in_its_provides(bench: Bench) -> None:
    names = ("libsgx_own.signed.so.1.0.0.0", "libsgx_own.signed.so.1", "libsgx_own.signed.so")
    path, *links = [ENCLAVE_FOLDER + name for name in names]
    for suffix in (".so", ".config.xml"):
        (bench.reference / f"libsgx_pce{suffix}").rename(bench.reference / f"libsgx_own{suffix}")
    files = [RpmFile(path, CASE.signed, 0o100755), *(link(at, path) for at in links)]
    package = bench.folder / "own.rpm"
    package.write_bytes(packaged(files, provides=provided(("own:signed", "1.0"))))
    output = bench.run(str(package), signers={"own": mrsigner(vendor_key())})
    assert "sgx-enclave-verified" in output.ids
    assert "E" not in [level for level, _kind, _details in output.found]
    assert "sgx-enclave-wrong-signer" in bench.run(str(package)).ids


@pytest.mark.parametrize(
    "ghost", [RpmFile("", ghost=True), RpmFile("", b"/x", mode=0o120777, target="/x")]
)
def test_an_enclave_that_comes_from_elsewhere(bench: Bench, ghost: RpmFile) -> None:
    """Nothing but a ghost or a link has the name: that alone makes the package suspect."""
    package = bench.folder / "ghost.rpm"
    file = replace(ghost, path=SIGNED)
    package.write_bytes(packaged([file], provides=()))
    listed = {SIGNED: File("/nowhere", 0, file.mode)}
    ghosts = (SIGNED,) if ghost.ghost else ()
    output = bench.run(Pkg(str(package), provides=(), files=listed, ghost_files=ghosts))
    assert output.ids == ["sgx-enclave-missing"], output.found


def test_a_link_for_the_enclave_folder(bench: Bench) -> None:
    package = bench.folder / "folder.rpm"
    where = ENCLAVE_FOLDER[:-1]
    package.write_bytes(packaged([link(where, "/opt/mine")], provides=()))
    listed = {where: File("/nowhere", 0, 0o120777)}
    assert bench.run(Pkg(str(package), provides=(), files=listed)).ids == ["sgx-enclave-missing"]


def test_isvsvn_below_what_the_config_says(bench: Bench) -> None:
    (bench.reference / "libsgx_pce.config.xml").write_bytes(
        CASE.config.replace(b"<ISVSVN>0x7<", b"<ISVSVN>0x8<")
    )
    output = bench.run(bench.rpm(CASE.signed), least_isvsvn={"pce": 0})
    (details,) = [d for _level, kind, d in output.found if kind == "sgx-enclave-svn-too-low"]
    assert "libsgx_pce.config.xml says" in details
    assert "sgx-enclave-metadata-unaccounted" in output.ids
    (bench.reference / "libsgx_pce.config.xml").write_bytes(
        CASE.config.replace(b"<ISVSVN>0x7<", b"<ISVSVN>0x6<")
    )
    output = bench.run(bench.rpm(CASE.signed), least_isvsvn={"pce": 0})
    assert "sgx-enclave-svn-too-low" not in output.ids
    assert "sgx-enclave-metadata-unaccounted" in output.ids


@pytest.mark.parametrize(
    ("lifted", "kept"),
    [
        ({"least_isvsvn": {"pce": 0}, "any_product": []}, "sgx-enclave-wrong-signer"),
        ({"least_isvsvn": {}, "any_product": ["pce"]}, "sgx-enclave-svn-too-low"),
    ],
)
def test_another_signer_lifts_nothing_else(bench: Bench, lifted: dict[str, Any], kept: str) -> None:
    output = bench.run(bench.rpm(OTHER_PRODUCT.signed), **lifted)
    assert kept in [kind for _level, kind, _details in output.found]


def test_isvsvn_below_the_releases(bench: Bench) -> None:
    """Intel's signer is not asked for: only the floor of the release is looked at."""
    package = Pkg(bench.rpm(CASE.signed), name="p")
    output = bench.run(package, signers={}, least_isvsvn={})
    (details,) = [d for _level, kind, d in output.found if kind == "sgx-enclave-svn-too-low"]
    assert "lower than the one required; " in details


def test_a_manifest_of_a_build(bench: Bench) -> None:
    release = "sgx-2.25-dcap-1.22"
    files = [
        FileRecord(name, hashlib.sha256(data).hexdigest(), len(data))
        for name, data in (
            ("libsgx_pce.so", CASE.built),
            ("libsgx_pce.config.xml", CASE.config),
        )
    ]
    tree = replace(sample().trees[0], release=release)
    enclave = EnclaveRecord("pce", "pce", release, files[0], files[1], None)
    other = EnclaveRecord("qe3", "qe3", release, None, None, "its make took too long")
    write_manifest(bench.reference, Manifest(release, 1, 1, (tree,), (enclave, other), None))
    package = bench.rpm(CASE.signed)
    for place in (bench.reference, bench.reference / "manifest.json"):
        by_version = {"pce": {"1.25.100.1": str(place)}}
        output = bench.run(package, reference=by_version)
        assert output.ids == VERIFIED, output.found[0][2]
    (bench.reference / "libsgx_pce.so").write_bytes(CASE.built[:-1] + b"?")
    output = bench.run(package)
    assert "sgx-enclave-reference-unusable" in output.ids
    assert "sgx-enclave-verified" not in output.ids


def test_a_broken_place_does_not_hide_a_good_one(bench: Bench) -> None:
    places = ["/no/such/folder", str(bench.reference)]
    assert bench.run(bench.rpm(CASE.signed), reference=places).ids == VERIFIED


def test_what_nobody_expected_is_a_finding(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    output = bench.run(Pkg("x", provides=(1, 2)))
    assert output.ids == ["sgx-enclave-check-failed"]
    reported = Output()

    def fail(_provide: str) -> list[Any]:
        raise RuntimeError("no database")

    monkeypatch.setattr(DATABASE, fail)
    broken = Session({}, reported)
    broken.note(Pkg(bench.rpm(CASE.signed)))
    broken.conclude()
    assert [found[:2] for found in reported.found] == [("E", "sgx-enclave-check-failed")]


def test_a_name_cannot_forge_a_line(bench: Bench) -> None:
    path = ENCLAVE_FOLDER + "a\nb: I: sgx-enclave-verified.signed.so"
    output = bench.run(bench.rpm(CASE.signed, path))
    assert all("\n" not in details for _level, _kind, details in output.found)


@pytest.mark.parametrize(
    "table",
    [
        7,
        {"reference": 7},
        {"signers": {"pce": "short"}},
        {"signers": 1},
        {"least_isvsvn": {"pce": -1}},
        {"permit": "pce"},
        {"refrence": "x"},
    ],
)
def test_a_wrong_table_is_reported(table: Any) -> None:
    assert len(Options(table).problems) == 1


def test_errors_are_defended() -> None:
    output = Output(badness={"sgx-enclave-payload-differs": "0"})
    Session({}, output)
    for name, kind in kinds().items():
        assert output.error_details[name] == f"{kind.meaning} {kind.do}"
        assert (name in output.blocked_filters) is (kind.severity == "error")
        assert (int(output.badness.get(name, 0)) > 0) is (kind.severity == "error")


def test_every_code_of_the_core_has_words() -> None:
    """A finding that the core learns must not come out as a failure of the check."""
    root = Path(__file__).parents[3] / "sgx_enclaves"
    sources = [*root.glob("enclave/*.py"), root / "rpm" / "check.py"]
    form = re.compile(r'(?:Finding|finding_at|_found|finding_of)\(\s*(?:\w+, )?"([a-z0-9-]+)"')
    codes = {code for source in sources for code in form.findall(source.read_text())}
    assert len(codes) > 15
    unknown = {c for c in codes if id_of(c) == FAILED}
    assert not unknown


def test_only_the_verified_file_is_quietened() -> None:
    path = SIGNED
    sample = Pkg.name
    lines = [
        f"{sample}.x86_64: E: statically-linked-binary {path}",
        f"{sample}.x86_64: W: executable-stack {path} more",
        f"{sample}.x86_64: E: statically-linked-binary {path}2",
        f"other.x86_64: E: statically-linked-binary {path}",
        f"{sample}.x86_64: E: setuid-binary {path} root",
        f"{sample}.x86_64: E: statically-linked-binary /usr/bin/x",
    ]
    output = Output(results=list(lines), printed_messages={"E": 5, "W": 1, "I": 0}, score=5)
    subject: Any = Pkg("f")
    quiet = {"statically-linked-binary", "executable-stack"}
    withdraw(output, subject, {path, "/usr/bin/x"}, quiet)
    assert output.results == lines[2:]
    assert (output.printed_messages, output.score) == ({"E": 4, "W": 0, "I": 0}, 4)


def unsigned_rpm(
    bench: Bench, name: str = "sgx-enclave-reproducible-pce-unsigned", **changes: Any
) -> Pkg:
    """A package with the counterpart, as rpmlint sees it."""
    files = [
        RpmFile("/usr/share/sgx-enclaves/pce.config.xml", CASE.config),
        RpmFile(ENCLAVE_FOLDER + "libsgx_pce.so", CASE.built),
    ]
    package = bench.folder / f"{name}.rpm"
    provides = (("sgx-enclave(pce:unsigned)", 8, ("0", "2.25", None)),)
    package.write_bytes(packaged(files, name, **{"provides": provides, **changes}))
    return Pkg(str(package), name=name, provides=provides)


def test_one_enclave_is_held_at_a_time(bench: Bench) -> None:
    size = 4 << 20
    case = signed_enclave("2.25", data=bytes(size))
    bench.put(case)
    packages = []
    for number in range(6):
        package = bench.folder / f"{number}.rpm"
        package.write_bytes(packaged([RpmFile(SIGNED, case.signed)]))
        packages.append(Pkg(str(package), arch=str(number)))
    del case
    tracemalloc.start()
    output = bench.run(*packages)
    _current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert output.ids.count("sgx-enclave-verified") == len(packages), output.found
    # A signed enclave and its counterpart, and copies of them while they are compared.
    assert peak < 6 * size


def test_a_damaged_package_verifies_nothing(bench: Bench) -> None:
    """Its enclave was read and is right; what comes behind it is not."""
    files = [RpmFile(SIGNED, CASE.signed), RpmFile("/usr/z", b"z", digest="0" * 64)]
    package = bench.folder / "tail.rpm"
    package.write_bytes(packaged(files))
    output = bench.run(Pkg(str(package)))
    assert "sgx-enclave-package-damaged" in output.ids
    assert "sgx-enclave-verified" not in output.ids


def test_a_link_with_another_enclaves_name(bench: Bench) -> None:
    files = [RpmFile(SIGNED, CASE.signed), link(ENCLAVE_FOLDER + "libsgx_qe3.signed.so", SIGNED)]
    package = bench.folder / "link.rpm"
    package.write_bytes(packaged(files))
    output = bench.run(Pkg(str(package)))
    (details,) = [d for lv, kind, d in output.found if (lv, kind) == ("E", WRONG)]
    assert details.startswith("a link with the name of the enclave qe3 leads to ")
    assert "sgx-enclave-verified" not in output.ids


WRONG = "sgx-enclave-wrong-signer"


def test_a_package_that_is_named_twice_is_judged_once(bench: Bench) -> None:
    """rpmlint's last package may come twice; what came before it is still a neighbour."""
    output = Output()
    table = {"signers": {"pce": mrsigner(vendor_key())}, **LIFTED}
    session = Session(table, output)
    session.note(unsigned_rpm(bench))
    signed = Pkg(bench.rpm(CASE.signed))
    for _ in range(2):
        session.note(signed)
        session.conclude()
    assert output.ids.count("sgx-enclave-verified") == 1, output.found
    other = bench.folder / "other.rpm"
    other.write_bytes(Path(signed.filename).read_bytes())
    session.note(Pkg(str(other), arch="noarch"))
    session.conclude()
    assert output.ids.count("sgx-enclave-verified") == 2, output.found


def test_ten_gigabytes_that_are_not_there(bench: Bench) -> None:
    """rpmlint unpacks them all by itself, so this is asked of the check alone."""
    files = [RpmFile(SIGNED, CASE.signed), RpmFile("/usr/sparse", b"", size=10 << 30)]
    package = bench.folder / "sparse.rpm"
    package.write_bytes(packaged(files))
    start = time.process_time()
    output = bench.run(Pkg(str(package), files={"/usr/sparse": File("/nowhere", 10 << 30)}))
    assert output.ids == ["sgx-enclave-package-unreadable"], output.found
    assert time.process_time() - start < 5


def unpacked(bench: Bench, package: str, files: Mapping[str, bytes]) -> Pkg:
    """A package whose files rpmlint has unpacked."""
    root = bench.folder / "unpacked" / "rpmlint.x"
    listed = {}
    for path, data in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        listed[path] = File(str(place), len(data), -0o077023)
    return Pkg(package, files=listed, folder=str(root))


def test_a_program_that_holds_an_enclave_as_data(bench: Bench) -> None:
    program = small_enclave(note=None) + CASE.signed
    path = bench.folder / "signer.rpm"
    path.write_bytes(packaged([RpmFile("/usr/bin/signer", program)], provides=()))
    package = unpacked(bench, str(path), {"/usr/bin/signer": program})
    ((level, kind, details),) = bench.run(replace(package, provides=())).found
    assert (level, kind) == ("I", "sgx-enclave-embedded")
    assert "/usr/bin/signer" in details


def test_what_rpmlint_unpacked_may_be_gone_at_the_end(bench: Bench) -> None:
    package = unpacked(bench, bench.rpm(CASE.signed, provides=[]), {SIGNED: CASE.signed})
    output = Output()
    table = {
        "reference": str(bench.reference),
        "signers": {"pce": mrsigner(vendor_key())},
        **LIFTED,
    }
    session = Session(table, output)
    session.note(package)
    shutil.rmtree(package.folder)
    session.conclude()
    assert "sgx-enclave-verified" in output.ids, output.found


def test_the_package_is_judged_and_not_what_was_unpacked(bench: Bench) -> None:
    changed = CASE.signed[:-1] + b"?"
    package = unpacked(bench, bench.rpm(changed, provides=[]), {SIGNED: CASE.signed})
    assert "sgx-enclave-verified" not in bench.run(package).ids


def header_of(data: bytes) -> bytes:
    """The main header of a package."""
    start = data.rindex(b"\x8e\xad\xe8\x01")
    count, size = (int.from_bytes(data[start + i : start + i + 4], "big") for i in (8, 12))
    return data[start + 8 : start + 16 + 16 * count + size]


@pytest.mark.parametrize("signature", [None, b"garbage", b"\x89\x02\x33\x04\0\x01\x08" + bytes(50)])
def test_what_is_installed_is_trusted_only_for_a_signature_that_holds(
    bench: Bench, signature: Optional[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """rpm installs packages that nobody has signed, and that claim it."""
    files = {bench.folder / "libsgx_pce.so": CASE.built, bench.folder / "config.xml": CASE.config}
    for path, content in files.items():
        path.write_bytes(content)
    header = header_of(write_rpm([RpmFile(str(p), c) for p, c in files.items()], name="x"))
    whole = librpm().hdr(header)
    if signature is not None:
        whole[268] = signature
    package = Pkg(bench.rpm(CASE.signed))
    for neighbours, expected in (
        ("warn", ["sgx-enclave-reference-unauthenticated", "sgx-enclave-verified"]),
        ("signed", ["sgx-enclave-not-reproduced"]),
    ):
        output = Output()
        table = {"signers": {"pce": mrsigner(vendor_key())}, **LIFTED, "neighbours": neighbours}
        monkeypatch.setattr(DATABASE, lambda _provide: [("installed x", whole.unload())])
        session = Session(table, output)
        session.note(package)
        session.conclude()
        assert output.ids == expected, output.found
        verified = [text for _, kind, text in output.found if [kind] == VERIFIED]
        # What limits the good news comes before what there is no room for.
        words = "1; reference unauthenticated; version not checked; policy: signer by option"
        assert all(words in text for text in verified)


def test_an_installed_package(bench: Bench) -> None:
    path = f"{bench.folder}/unpacked/rpmlint.x{SIGNED}"
    installed = bench.folder / "installed.rpm"
    installed.write_bytes(packaged([RpmFile(path, CASE.signed)], provides=()))
    file = str(installed)
    package = unpacked(bench, file, {SIGNED: CASE.signed})

    class Header:
        def unload(self) -> bytes:
            return header_of(Path(file).read_bytes())

    package = replace(package, filename="x-1-1.x86_64.rpm", folder="/", header=Header())
    output = bench.run(package)
    assert "sgx-enclave-verified" in output.ids, output.found
    Path(path).write_bytes(CASE.signed[:-1] + b"?")
    assert bench.run(package).ids == ["sgx-enclave-package-damaged"]
    Path(path).unlink()
    assert bench.run(package).ids == ["sgx-enclave-package-damaged"]


def test_findings_that_look_alike_are_not_withdrawn(bench: Bench) -> None:
    signed = Pkg(bench.rpm(CASE.signed))
    line = f"{signed.name}.x86_64: E: statically-linked-binary {SIGNED}"
    namesake = replace(signed, filename="/elsewhere.rpm", provides=())
    blank = {f"{SIGNED} x": File("/etc/hostname", 0)}
    for packages, stays in (
        ([signed], False),
        ([signed, namesake], True),
        ([replace(signed, files=blank)], True),
        ([signed, replace(namesake, arch="noarch")], False),
    ):
        output = Output(results=[line], printed_messages={"E": 1}, score=1)
        table = {
            "reference": str(bench.reference),
            "signers": {"pce": mrsigner(vendor_key())},
            **LIFTED,
            "quiet": ["statically-linked-binary"],
        }
        session = Session(table, output)
        for package in packages:
            session.note(package)
        session.conclude()
        assert "sgx-enclave-verified" in output.ids, output.found
        assert output.results == ([line] if stays else [])


@pytest.mark.parametrize(
    ("path", "data", "stays"),
    [
        (ENCLAVE_FOLDER + "libsgx_pce.so", CASE.built, False),
        (ENCLAVE_FOLDER + "libsgx_pce.so", CASE.built[:900], True),
        (ENCLAVE_FOLDER + "libsgx_pce.so", CASE.signed, True),
        ("/opt/libsgx_pce.so", CASE.built, True),
    ],
)
def test_an_unsigned_enclave_is_quietened_if_it_is_one(
    bench: Bench, path: str, data: bytes, stays: bool
) -> None:
    package = bench.folder / "unsigned.rpm"
    package.write_bytes(packaged([RpmFile(path, data)], provides=["sgx-enclave(pce:unsigned)"]))
    subject = Pkg(str(package), provides=provided(("pce:unsigned", "2.25")))
    line = f"{subject.name}.x86_64: E: statically-linked-binary {path}"
    output = Output(results=[line], printed_messages={"E": 1}, score=1)
    session = Session({"quiet": ["statically-linked-binary"]}, output)
    session.note(subject)
    session.conclude()
    assert output.results == ([line] if stays else []), output.found


def test_the_manual_has_every_key() -> None:
    manual = (Path(__file__).parents[3] / "docs" / "rpmlint.md").read_text()
    for key in ("reference", "signers", "any_product", "least_isvsvn", "permit", "quiet"):
        assert f"| `{key}` |" in manual
    assert not Options({key: {} for key in ("signers", "least_isvsvn")}).problems
