# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict on a package, and where its reference comes from."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sgx_enclaves.cli.main import main
from sgx_enclaves.enclave.policy import Policy, pin_named, policy_for
from sgx_enclaves.enclave.sigstruct import KEY_SIZE
from sgx_enclaves.enclave.verdict import Outcome, Severity
from sgx_enclaves.errors import InputError, LimitError, PackageError, SgxEnclavesError
from sgx_enclaves.explain import explain as explain_module
from sgx_enclaves.limits import Limits, PackageLimits
from sgx_enclaves.report.forms import result_dict
from sgx_enclaves.report.templated import result_text
from sgx_enclaves.rpm import check as check_module, references
from sgx_enclaves.rpm.check import PackageResult, check_package
from sgx_enclaves.rpm.payload import packed
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from sgx_enclaves.rpm.references import (
    FolderReference,
    PackageReference,
    Reference,
    config_for,
    open_reference,
)
from tests.enclaves.synthetic import small_enclave
from tests.support.keys import fips_key, foreign_key, mrsigner, vendor_key
from tests.support.signed import fips_enclave, signed_enclave
from tests.support_rpm import RpmFile, link, write_rpm

CASE = signed_enclave("2.25")
OTHER = signed_enclave("2.25", code=b"\xc3")
SIGNED_PATH = ENCLAVE_FOLDER + "libsgx_pce.signed.so.1.25.100.1"
SIGNED = [
    RpmFile(SIGNED_PATH, CASE.signed, 0o100755),
    link(ENCLAVE_FOLDER + "libsgx_pce.signed.so.1", "libsgx_pce.signed.so.1.25.100.1"),
    link(ENCLAVE_FOLDER + "libsgx_pce.signed.so", "libsgx_pce.signed.so.1"),
]
PROVIDES = ["sgx-enclave(pce:signed)", "sgx-enclave(pce:signed:prebuilt)"]


def vendor_policy(_path: str) -> Policy:
    return policy_for(None, mrsigners=[mrsigner(vendor_key())])


class Shop:
    """Packages and folders of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rpm(self, files: Sequence[RpmFile], name: str = "signed", **changes: Any) -> str:
        path = self.folder / f"{name}.rpm"
        path.write_bytes(write_rpm(files, name=name, **changes))
        return str(path)

    def reference(self, **files: bytes) -> str:
        """A folder of files whose names have `__` for `.`; by default the good one."""
        folder = self.folder / "reference"
        folder.mkdir()
        files = files or {"libsgx_pce__so": CASE.built, "libsgx_pce__config__xml": CASE.config}
        for name, data in files.items():
            (folder / name.replace("__", ".")).write_bytes(data)
        return str(folder)

    def unsigned_rpm(self, name: str = "pce-unsigned", **changes: Any) -> str:
        files = [
            RpmFile(ENCLAVE_FOLDER + "libsgx_pce.so", CASE.built),
            RpmFile("/usr/share/sgx-enclaves/pce/config.xml", CASE.config),
        ]
        return self.rpm(files, name, **changes)


@pytest.fixture(name="shop")
def _shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def check(path: str, *where: Reference, **changes: Any) -> PackageResult:
    return check_package(path, where, changes.pop("policy_of", vendor_policy), **changes)


def codes(result: PackageResult) -> list[str]:
    """All that speaks against a package; every result must be fit for words too."""
    assert json.loads(json.dumps(result_dict(result)))["exit_status"] == result.exit_status
    assert result_text(result).isprintable() or "\n" in result_text(result)
    found = [f.code for f in result.findings]
    for enclave in result.enclaves:
        found += [f.code for f in enclave.findings if f.severity is not Severity.NOTE]
        found += [f.code for f in enclave.verdict.findings] if enclave.verdict else []
    return found


def test_a_good_package_and_a_folder(shop: Shop) -> None:
    result = check(shop.rpm(SIGNED, provides=PROVIDES), FolderReference(shop.reference()))
    assert result.outcome is Outcome.IDENTICAL
    assert result.exit_status == 0
    assert codes(result) == []
    (enclave,) = result.enclaves
    assert enclave.path == SIGNED_PATH
    assert enclave.links == (SIGNED[2].path, SIGNED[1].path)
    assert enclave.name == "pce"
    assert enclave.verdict is not None
    assert enclave.verdict.mrenclave == CASE.regenerated.mrenclave.hex()
    assert enclave.reference is not None
    assert enclave.reference.endswith("reference/libsgx_pce.so")
    text = result_text(result)
    assert "signed-1.0-1.x86_64): IDENTICAL" in text
    assert f"MRENCLAVE {enclave.verdict.mrenclave}" in text


def test_a_source_package_alone_proves_nothing(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    source, other = shop.rpm([], tags={1044: None}), shop.rpm([], name="other")
    assert main(["check-rpm", source]) == 2
    said = capsys.readouterr()
    assert "signed-1.0-1.src): a source package: its archives were not looked into" in said.out
    assert "name the packages that were built" in said.err
    assert main(["check-rpm", source, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["exit_status"] == 2
    # What a source package says to provide, its builds do.
    named = shop.rpm([], tags={1044: None}, provides=["sgx-enclave(pce:signed)"])
    assert codes(check(named)) == []
    assert main(["check-rpm", source, other]) == 0
    assert capsys.readouterr().out.endswith("no enclave\n")


def test_the_key_of_a_second_signature_is_named(shop: Shop) -> None:
    case = fips_enclave()
    place = shop.reference(libsgx_pce__so=case.built, libsgx_pce__config__xml=case.config)
    files = [replace(SIGNED[0], data=case.signed), *SIGNED[1:]]
    result = check(shop.rpm(files, provides=PROVIDES), FolderReference(place))
    assert result.outcome is Outcome.IDENTICAL
    modulus = fips_key().public_key().public_numbers().n.to_bytes(KEY_SIZE, "little")
    assert hashlib.sha256(modulus).hexdigest() in result_text(result)


def test_a_good_package_and_a_package(shop: Shop) -> None:
    reference = open_reference(shop.unsigned_rpm())
    assert isinstance(reference, PackageReference)
    result = check(shop.rpm(SIGNED, provides=PROVIDES), reference)
    assert result.outcome is Outcome.IDENTICAL
    assert codes(result) == []


@pytest.mark.parametrize("name", ["own", "qae", "some_other"])
def test_an_enclave_that_is_not_pinned_can_keep_its_promise(shop: Shop, name: str) -> None:
    """The name that Provides must have is the one that the file is known by."""
    path = f"{ENCLAVE_FOLDER}libsgx_{name}.signed.so.1.0"
    folder = shop.reference(
        **{f"libsgx_{name}__so": CASE.built, f"libsgx_{name}__config__xml": CASE.config}
    )
    package = shop.rpm([RpmFile(path, CASE.signed)], provides=[f"sgx-enclave({name}:signed)"])
    # QAE is pinned, and its legal state is as QvE's.
    result = check(package, FolderReference(folder), permitted=["qae"])
    assert (codes(result), result.exit_status) == ([], 0)
    assert result.enclaves[0].name == name
    absent = shop.rpm([RpmFile(path, CASE.signed)], provides=["sgx-enclave(gone:signed)"])
    assert "enclave-missing" in codes(check(absent, FolderReference(folder)))


def test_another_payload_differs(shop: Shop) -> None:
    tampered = bytearray(CASE.signed)
    tampered[-1] ^= 1
    files = [replace(SIGNED[0], data=bytes(tampered)), *SIGNED[1:]]
    result = check(shop.rpm(files), FolderReference(shop.reference()))
    assert result.exit_status == 1
    assert codes(result) == ["payload-differs"]
    assert "DIFFERS" in result_text(result)


def test_another_build_differs(shop: Shop) -> None:
    where = shop.reference(libsgx_pce__so=OTHER.built, libsgx_pce__config__xml=CASE.config)
    result = check(shop.rpm(SIGNED), FolderReference(where))
    assert result.exit_status == 1
    assert "payload-differs" in codes(result)


def test_a_foreign_signer_differs(shop: Shop) -> None:
    def foreign(_path: str) -> Policy:
        return policy_for(None, mrsigners=[mrsigner(foreign_key())])

    reference = FolderReference(shop.reference())
    result = check(shop.rpm(SIGNED), reference, policy_of=foreign)
    assert (result.exit_status, codes(result)) == (1, ["signer-unexpected"])


def test_without_a_counterpart_nothing_is_known(shop: Shop) -> None:
    package = shop.rpm(SIGNED)
    wrong = shop.reference(libsgx_qe3__so=CASE.built, libsgx_qe3__config__xml=CASE.config)
    for where in ((), (FolderReference(wrong),)):
        result = check(package, *where)
        assert (result.exit_status, codes(result)) == (2, ["not-reproduced"])
        assert result.outcome is Outcome.UNVERIFIABLE


def test_without_a_config_nothing_is_known(shop: Shop) -> None:
    result = check(shop.rpm(SIGNED), FolderReference(shop.reference(libsgx_pce__so=CASE.built)))
    assert (result.exit_status, codes(result)) == (2, ["config-missing"])


def test_a_package_is_no_reference_for_itself(shop: Shop) -> None:
    both = shop.rpm(
        [
            *SIGNED,
            RpmFile(ENCLAVE_FOLDER + "libsgx_pce.so", CASE.built),
            RpmFile("/x/pce.config.xml", CASE.config),
        ]
    )
    result = check(both, PackageReference(both))
    assert codes(result) == ["reference-unusable", "not-reproduced"]
    assert [e.outcome for e in result.enclaves] == [Outcome.UNVERIFIABLE, None]


def test_a_signed_file_is_no_counterpart(shop: Shop) -> None:
    where = shop.reference(libsgx_pce__so=CASE.signed, libsgx_pce__config__xml=CASE.config)
    assert codes(check(shop.rpm(SIGNED), FolderReference(where))) == ["not-reproduced"]
    with pytest.raises(InputError, match="no unsigned enclave is in it"):
        PackageReference(shop.rpm(SIGNED))


def test_the_distribution_build_is_never_a_reference(shop: Shop) -> None:
    latest = shop.unsigned_rpm(provides=["sgx-enclave(pce:unsigned:latest)"])
    with pytest.raises(InputError, match="newest toolchain"):
        open_reference(latest)


def test_the_best_counterpart_counts(shop: Shop) -> None:
    wrong = shop.reference(libsgx_pce__so=OTHER.built, libsgx_pce__config__xml=CASE.config)
    good = PackageReference(shop.unsigned_rpm())
    result = check(shop.rpm(SIGNED), FolderReference(wrong), good)
    assert (result.exit_status, codes(result)) == (0, [])


def test_the_counterpart_of_the_same_version_comes_first(shop: Shop) -> None:
    where = shop.reference(
        libsgx_pce__so__1__24=OTHER.built,
        libsgx_pce__so__1__25__100__1=CASE.built,
        pce__config__xml=CASE.config,
    )
    first = next(FolderReference(where).counterparts(SIGNED_PATH))
    assert first.name.endswith("libsgx_pce.so.1.25.100.1")
    assert first.data == CASE.built


def test_a_reference_that_breaks_is_a_finding(shop: Shop) -> None:
    path = shop.unsigned_rpm()
    reference = PackageReference(path)
    Path(path).write_bytes(b"gone")
    result = check(shop.rpm(SIGNED), reference)
    assert codes(result) == ["reference-unusable", "not-reproduced"]
    folder = FolderReference(shop.reference())
    (Path(folder.name) / "libsgx_pce.so").unlink()
    assert codes(check(shop.rpm(SIGNED), folder)) == ["reference-unusable", "not-reproduced"]
    shop.rpm([RpmFile("/x", b"")], "pce-unsigned")
    assert codes(check(shop.rpm(SIGNED), reference))[0] == "reference-unusable"


def test_a_counterpart_that_is_no_enclave_is_a_finding(shop: Shop) -> None:
    where = shop.reference(libsgx_pce__so=b"text", libsgx_pce__config__xml=CASE.config)
    result = check(shop.rpm(SIGNED), FolderReference(where))
    assert (result.exit_status, codes(result)) == (2, ["reference-unusable"])


def test_qve_is_not_permitted_unless_asked_for(shop: Shop) -> None:
    path = ENCLAVE_FOLDER + "libsgx_qve.signed.so"
    package = shop.rpm([replace(SIGNED[0], path=path)])
    reference = FolderReference(
        shop.reference(libsgx_qve__so=CASE.built, qve__config__xml=CASE.config)
    )
    result = check(package, reference)
    assert (result.exit_status, codes(result)) == (1, ["not-permitted"])
    assert result.enclaves[0].verdict is not None
    assert check(package, reference, permitted=["qve"]).exit_status == 0


def test_qve_under_another_name_is_not_permitted_either(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    qve = pin_named("qve")
    assert qve is not None
    ours = replace(qve, mrsigner=mrsigner(vendor_key()), isvprodid=3)
    by_signer = {ours.mrsigner: (ours,)}.get
    monkeypatch.setattr("sgx_enclaves.rpm.rules.pins_of_signer", lambda s: by_signer(s, ()))
    result = check(shop.rpm(SIGNED), FolderReference(shop.reference()))
    assert codes(result) == ["not-permitted"]
    linked = [RpmFile("/opt/x", CASE.signed), link("/opt/libsgx_qve.so", "x")]
    monkeypatch.undo()
    assert "not-permitted" in codes(check(shop.rpm(linked)))


def test_what_find_debuginfo_makes_of_an_unsigned_enclave_is_no_error(shop: Shop) -> None:
    path = "/usr/lib/debug/usr/x86_64-intel-sgx/lib64/libsgx_pce.so-2.25-1.x86_64.debug"
    file, debug = shop.folder / "x.so", shop.folder / "x.debug"
    file.write_bytes(CASE.built)
    subprocess.run(["objcopy", "--only-keep-debug", str(file), str(debug)], check=True)
    result = check(shop.rpm([RpmFile(path, debug.read_bytes())]))
    assert (codes(result), result.exit_status) == ([], 0)
    assert [e.signed for e in result.enclaves] == [False]


def test_a_program_that_holds_an_enclave_as_data_is_information(shop: Shop) -> None:
    program = small_enclave(note=None) + CASE.signed
    result = check(shop.rpm([RpmFile("/usr/bin/signer", program)]))
    assert (result.exit_status, result.outcome, result.enclaves) == (0, None, ())
    assert [f.code for f in result.findings] == ["enclave-embedded"]
    text = result_text(result)
    assert "/usr/bin/signer holds enclaves as data" in text


@pytest.mark.parametrize("folder", [False, True])
def test_the_work_grows_with_the_enclaves_not_with_their_pairs(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    """As many signed enclaves as unsigned ones, all of one name, and none fits."""
    count = 12
    other = signed_enclave("2.25", code=b"\xc3")
    places = [f"{ENCLAVE_FOLDER}{n}/libsgx_pce" for n in range(count)]
    package = shop.rpm([RpmFile(f"{place}.signed.so", CASE.signed) for place in places])
    package = str(Path(package).rename(shop.folder / "many.rpm"))
    unsigned = [RpmFile(f"{place}.so", other.built) for place in places]
    unsigned.append(RpmFile("/usr/share/libsgx_pce.config.xml", other.config))
    calls: list[str] = []

    def counted(module: Any, name: str) -> None:
        function = getattr(module, name)

        def call(*arguments: Any, **more: Any) -> Any:
            calls.append(name)
            return function(*arguments, **more)

        monkeypatch.setattr(module, name, call)

    counted(check_module, "compare")
    counted(explain_module, "explained")
    counted(references, "enclaves_among")
    reference: Reference
    if folder:
        for file in unsigned:
            place = shop.folder / "many" / file.path[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.data)
        reference = FolderReference(str(shop.folder / "many"))
    else:
        reference = PackageReference(shop.rpm(unsigned))
    result = check(package, reference)
    assert (len(result.enclaves), result.exit_status) == (count, 1)
    assert calls.count("compare") == 4 * count
    assert calls.count("explained") == count
    assert calls.count("enclaves_among") == (not folder)


def test_a_malformed_enclave_is_a_finding(shop: Shop) -> None:
    files = [replace(SIGNED[0], data=CASE.signed[:-200])]
    result = check(shop.rpm(files), FolderReference(shop.reference()))
    assert (result.exit_status, codes(result)) == (2, ["enclave-malformed"])
    assert "malformed" in result_text(result)


def test_a_malformed_descriptor_is_a_finding(shop: Shop) -> None:
    at = CASE.image.descriptor_offset
    data = CASE.signed[:at] + b"\xff" * 64 + CASE.signed[at + 64 :]
    result = check(shop.rpm([replace(SIGNED[0], data=data)]), FolderReference(shop.reference()))
    assert (result.exit_status, codes(result)) == (2, ["metadata-malformed"])


def test_what_is_promised_must_be_there(shop: Shop) -> None:
    provides = ["sgx-enclave(qe3:signed)", "sgx-enclave(ide:unsigned)", "sgx-enclave(pce:signed)"]
    result = check(shop.rpm(SIGNED, provides=provides), FolderReference(shop.reference()))
    assert (result.exit_status, codes(result)) == (2, ["enclave-missing"])
    assert "qe3" in result_text(result)


def test_a_link_that_leaves_the_package_is_a_finding(shop: Shop) -> None:
    files = [*SIGNED, link(ENCLAVE_FOLDER + "libsgx_qe3.signed.so", "/opt/evil.so")]
    result = check(shop.rpm(files), FolderReference(shop.reference()))
    assert (result.exit_status, codes(result)) == (2, ["link-leaves-package"])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tags": {5092: ["0" * 64]}}, "package-damaged"),
        ({"signature": {1000: [1 << 30]}}, "package-damaged"),
        ({"signature": {273: "0" * 64}}, "package-damaged"),
        ({"payload": b"\x1f\x8b\x08" + bytes(20)}, "package-malformed"),
        ({"tags": {1125: "lzip"}}, "package-unsupported"),
        ({"cpio": b"nonsense"}, "package-malformed"),
        ({"lead": bytes(96)}, "package-malformed"),
        ({"tags": {1028: None, 5008: [10 << 30] * 3}}, "package-too-large"),
    ],
)
def test_a_package_that_lies_is_a_finding(shop: Shop, changes: dict[str, Any], code: str) -> None:
    result = check(shop.rpm(SIGNED, **changes), FolderReference(shop.reference()))
    assert result.exit_status == 2
    assert codes(result)[0] == code


def test_a_damaged_tail_spoils_a_good_enclave(shop: Shop) -> None:
    """The enclave was verified, but the package is not the one that its header describes."""
    files = [*SIGNED, replace(RpmFile("/x", b"1"), digest="0" * 64)]
    result = check(shop.rpm(files), FolderReference(shop.reference()))
    assert result.enclaves[0].outcome is Outcome.IDENTICAL
    assert (result.outcome, codes(result)) == (Outcome.UNVERIFIABLE, ["package-damaged"])


def test_packages_without_signed_enclaves_have_no_verdict(shop: Shop) -> None:
    none = check(shop.rpm([RpmFile("/usr/bin/x", b"text")]))
    assert (none.outcome, none.exit_status, codes(none)) == (None, 0, [])
    assert "no enclave" in result_text(none)
    unsigned = check(shop.unsigned_rpm())
    assert (unsigned.outcome, unsigned.exit_status) == (None, 0)
    assert "1 unsigned enclave(s), nothing to verify" in result_text(unsigned)


def test_a_file_that_is_not_there_is_a_finding(shop: Shop) -> None:
    result = check(str(shop.folder / "no.rpm"))
    assert (result.nevra, result.exit_status) == (None, 2)


def test_words_name_some_links_and_count_the_rest(shop: Shop) -> None:
    links = [link(f"/opt/{index:02}", SIGNED_PATH) for index in range(23)]
    result = check(shop.rpm([SIGNED[0], *links]), FolderReference(shop.reference()))
    text = result_text(result)
    assert text.count("  link      /opt/") == 20
    assert "  link      and 3 more\n" in text
    assert len(result.enclaves[0].links) == 23


def test_names_cannot_steer_a_terminal(shop: Shop) -> None:
    evil = "/opt/\x1b[2Jx.signed.so"
    result = check(shop.rpm([replace(SIGNED[0], path=evil)]))
    text = result_text(result)
    assert "\x1b" not in text
    assert "\\x1b[2Jx" in text


def test_limits_reach_the_enclave(shop: Shop) -> None:
    limits = PackageLimits(enclave=replace(Limits(), program_headers=1))
    result = check(
        shop.rpm(SIGNED),
        FolderReference(shop.reference()),
        opener=lambda path: packed(path, limits),
    )
    assert codes(result) == ["enclave-malformed"]


CONFIGS = [
    *("/r/a/config.xml", "/r/ide/config.xml", "/r/libsgx_qe3.config.xml", "/r/pce.config.xml"),
    *("qve/config.xml", "/r/tdqe/my.config.xml", "/r/mytdqe.config.xml"),
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/x/libsgx_pce.so", "/r/pce.config.xml"),
        ("/x/libsgx_qe3.so", "/r/libsgx_qe3.config.xml"),
        ("/x/libsgx_id_enclave.so", "/r/ide/config.xml"),
        ("/x/a.so", "/r/a/config.xml"),
        ("libsgx_qve.so", "qve/config.xml"),
        ("/x/libsgx_tdqe.so", None),
    ],
)
def test_the_config_of_an_enclave(path: str, expected: str | None) -> None:
    assert config_for(path, CONFIGS, only_enclave=False) == expected


def test_the_only_config_of_the_only_enclave() -> None:
    assert config_for("/x/libsgx_tdqe.so", ["/r/config.xml"], only_enclave=True) == "/r/config.xml"
    assert config_for("/x/libsgx_tdqe.so", ["/r/config.xml"], only_enclave=False) is None
    assert config_for("/x/libsgx_tdqe.so", CONFIGS, only_enclave=True) is None


def test_references_are_bounded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_FOLDER_ENTRIES", 1)
    with pytest.raises(LimitError, match="too many files in the reference"):
        FolderReference(shop.reference())
    monkeypatch.setattr(references, "_CONFIGS", 1)
    files = [RpmFile(f"/{i}.config.xml", b"x") for i in range(2)]
    with pytest.raises(LimitError, match=r"too many config\.xml"):
        PackageReference(shop.rpm(files))


def test_what_is_no_reference_is_refused(shop: Shop) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        open_reference(str(shop.folder / "missing"))
    text = shop.folder / "text"
    text.write_text("text")
    with pytest.raises(PackageError, match="not an RPM package"):
        open_reference(str(text))
    with pytest.raises(SgxEnclavesError):
        FolderReference(str(text / "below"))


def test_a_file_and_its_links_are_one_counterpart(shop: Shop) -> None:
    where = Path(shop.reference())
    (where / "libsgx_pce.so.1").symlink_to("libsgx_pce.so")
    (where / "libsgx_pce.so.2").symlink_to("missing")
    (where / "loop").symlink_to(where)
    assert len(list(FolderReference(str(where)).counterparts(SIGNED_PATH))) == 1


LIES = st.sampled_from([0, 1, 7, 0x1000, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1])


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_elf_that_lies_about_every_offset_is_a_finding(
    tmp_path: Path, data: st.DataObject
) -> None:
    """Each field of the ELF, program and section headers may hold anything."""
    enclave = bytearray(CASE.signed)
    fields = [(at, size) for at, size in ELF_FIELDS if at + size <= len(enclave)]
    for at, size in data.draw(st.lists(st.sampled_from(fields), min_size=1, max_size=4)):
        lie = data.draw(LIES) & ((1 << 8 * size) - 1)
        enclave[at : at + size] = lie.to_bytes(size, "little")
    path = tmp_path / "x.rpm"
    path.write_bytes(write_rpm([replace(SIGNED[0], data=bytes(enclave))]))
    folder = tmp_path / "reference"
    if not folder.exists():
        Shop(tmp_path).reference()
    start = time.process_time()
    result = check(str(path), FolderReference(str(folder)))
    assert time.process_time() - start < 5
    same = bytes(enclave) == CASE.signed
    assert (result.exit_status == 0) is same
    assert bool(codes(result)) is not same


def _elf_fields() -> list[tuple[int, int]]:
    header = CASE.image.header
    fields = [(24, 8), (32, 8), (40, 8), (54, 2), (56, 2), (58, 2), (60, 2), (62, 2)]
    for index in range(header.e_phnum):
        at = header.e_phoff + 56 * index
        fields += [(at, 4), (at + 4, 4), *((at + o, 8) for o in range(8, 56, 8))]
    for index in range(header.e_shnum):
        at = header.e_shoff + 64 * index
        fields += [(at, 4), (at + 4, 4), *((at + o, 8) for o in range(8, 40, 8)), (at + 40, 4)]
    return fields


ELF_FIELDS = _elf_fields()


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (RpmFile("", b"", ghost=True), "a %ghost"),
        (RpmFile("", b"", 0o120777, target="libsgx_pce.signed.so", ghost=True), "a %ghost"),
        (RpmFile("", b"", 0o010644), "pipe"),
    ],
)
def test_an_enclave_that_comes_from_elsewhere_is_missing(
    shop: Shop, file: RpmFile, what: str
) -> None:
    """A scriptlet or somebody else makes it."""
    path = ENCLAVE_FOLDER + "libsgx_qe3.signed.so.1.22.100.1"
    package = shop.rpm([*SIGNED, replace(file, path=path)])
    result = check(package, FolderReference(shop.reference()))
    assert "enclave-missing" in codes(result)
    assert [f.found for f in result.findings if f.code == "enclave-missing"] == [what]
    package = shop.rpm([*SIGNED, replace(file, path="/usr/lib64/libsgx_qe3.log")])
    assert codes(check(package, FolderReference(f"{shop.folder}/reference"))) == []


def test_digests_are_those_of_the_files(shop: Shop) -> None:
    result = check(shop.rpm(SIGNED), PackageReference(shop.unsigned_rpm()))
    (enclave,) = result.enclaves
    assert enclave.verdict is not None
    assert enclave.sha256 == enclave.verdict.signed.sha256
    assert enclave.sha256 == hashlib.sha256(CASE.signed).hexdigest()
    assert enclave.verdict.built.sha256 == hashlib.sha256(CASE.built).hexdigest()
    other = replace(SIGNED[0], digest=hashlib.sha512(CASE.signed).hexdigest())
    old = shop.rpm([other], tags={5011: [10]})
    (enclave,) = check(old).enclaves
    assert enclave.sha256 == hashlib.sha256(CASE.signed).hexdigest()
