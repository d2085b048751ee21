# SPDX-License-Identifier: GPL-2.0-or-later
"""The spec templates with the real rpmbuild, rpm and rpmlint: what is honest builds and
comes out the same both ways; each tampering stops the build; a package that was forged
without our check is refused by rpmlint.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from demo import vendor
from demo.command import ROOT
from demo.packages import MACROS, Built, Workshop, install, rpm_in, rpmlint, run, write_lint_config
from demo.release import (
    CHECKSUMS_FILE,
    ENCLAVE_LIST,
    PREBUILT,
    SIGNED_FILE,
    SOURCE_FILE,
    VERSION,
    Tool,
    release_toml,
)
from demo.source_packages import (
    KINDS,
    RELEASE_FILE,
    REPACKED_FILE,
    Stock,
    least_isvsvn,
    make_forged,
    make_stock,
    signatures_of,
    write_spec,
)
from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.cli.main import main
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.sigstruct import TYPE_DEBUG, Sigstruct
from tests.enclaves.compiled import build_enclaves, have_toolchain, variant_file
from tests.integration.demonstration import OUTPUT, STATUS, demo_folder
from tests.support.keys import foreign_key, sign_sigstruct
from tests.support.once import made_once
from tests.support.signed import with_fips_signature

pytestmark = [
    pytest.mark.skipif(not shutil.which("rpmbuild"), reason="rpmbuild is not installed"),
    pytest.mark.skipif(not have_toolchain(), reason="gcc, ld, strip or make is not installed"),
]

RPMLINTS = ("2.4.0", "2.10.0")
OWN = load_catalogue((OWN_FOLDER,))
PACKAGED = [r.name for r in OWN.releases.values() if r.toolchain and r.toolchain.prefix]
FOLDER = "usr/x86_64-intel-sgx"
PCE, IDE, QE3, TDQE = ENCLAVE_LIST
ONLY_PCE = tuple(arg for e in (IDE, QE3, TDQE) for arg in ("--without", e.name))


@dataclass(frozen=True)
class World:
    """Packages of the honest release, which the demo has made.

    Attributes:
        folder: where it has made them.
        stock: what they were made of.
    """

    folder: Path
    stock: Stock

    @functools.cached_property
    def key(self) -> RSAPrivateKey:
        """The vendor's."""
        return vendor.make_key(self.folder / "vendor.pem")

    @property
    def unsigned(self) -> Path:
        """The vendor's own build of the unsigned pce."""
        return self.folder / "built" / PCE.unsigned

    @property
    def root(self) -> Path:
        """Where the packages of unsigned enclaves are installed."""
        return self.folder / "buildroot"

    def packages(self, kind: str) -> list[Path]:
        """The binary packages of a kind."""
        return sorted((self.folder / "rpmbuild" / kind).glob("RPMS/*/*.rpm"))

    def package(self, kind: str, name: str) -> Path:
        """The binary package of one enclave, or the one that all of them require."""
        return next(p for p in self.packages(kind) if f"-{name}-" in p.name)

    def alone(self, kind: str, name: str) -> list[Path]:
        """The package of one enclave and what it requires."""
        return [self.package(kind, name), self.package(kind, "common")]

    def source_package(self, kind: str) -> Path:
        """The source package of a kind."""
        return next((self.folder / "rpmbuild" / f"{kind}-source").glob("SRPMS/*.rpm"))


def stock_of(folder: Path) -> Stock:
    """What the demo's packages were made of."""
    with tarfile.open(folder / "prebuilt" / SIGNED_FILE) as archive:
        signed = {
            e.signed: archive.extractfile(f"{PREBUILT}/{e.signed}").read()  # type: ignore[union-attr]
            for e in ENCLAVE_LIST
        }
    forged = (folder / "forged" / PCE.signed).read_bytes()
    signer = vendor.mrsigner(vendor.make_key(folder / "vendor.pem"))
    stock = make_stock(signed, signer, forged)
    root = re.search(r'^root = "(.*)"$', (folder / "prebuilt" / RELEASE_FILE).read_text(), re.M)
    assert root is not None
    return replace(stock, description=replace(stock.description, root=root[1]))


@pytest.fixture(scope="session", name="world")
def _world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = demo_folder(tmp_path_factory)
    assert (folder / STATUS).read_text() == "0", (folder / OUTPUT).read_text()
    return World(folder / "packages", stock_of(folder / "packages"))


@dataclass
class Bench:
    """Builds a package of the pce alone from sources that a test may change.

    Attributes:
        world: the honest release.
        folder: the test's own.
        root: where unsigned enclaves are taken from.
    """

    world: World
    folder: Path
    root: Path

    @property
    def sources(self) -> Path:
        """The spec file and what it lists."""
        return self.folder / "sources"

    def write(self, stock: Stock, kind: str = "prebuilt", *, same_root: bool = False) -> Path:
        """Lay the sources out; returns the spec file.

        Args:
            stock: what to lay out.
            kind: of the spec file.
            same_root: keep the path that the tree is built in, which other tests may
                use at the same time where builds have no root of their own.
        """
        if kind == "reproducible" and not same_root:
            root = f"/tmp/sgx-enclaves-{os.getpid()}-{self.folder.name}/tree"  # noqa: S108
            stock = replace(stock, description=replace(stock.description, root=root))
        return write_spec(kind, stock.lay_out(self.sources))

    def build(self, spec: Path, *more: str) -> Built:
        """Run rpmbuild."""
        shop = Workshop(self.folder, self.root)
        where = ("--define", f"_sourcedir {self.sources}")
        return shop.rpmbuild("-bb", spec, *where, *ONLY_PCE, *more)

    def own_root(self) -> Path:
        """A copy of the installed unsigned enclaves and their licences, to be tampered with."""
        self.root = self.folder / "root"
        for part in (FOLDER, "usr/share/licenses"):
            shutil.copytree(self.world.root / part, self.root / part, symlinks=True)
        return self.root / FOLDER / "share" / "reproducible" / PCE.name


@pytest.fixture(name="bench")
def _bench(world: World, tmp_path: Path) -> Bench:
    return Bench(world, tmp_path, world.root)


# --- what is honest ---


def test_both_ways_ship_the_vendors_files(world: World, tmp_path: Path) -> None:
    """rpm itself refuses two packages that have the same path with other bytes or modes."""
    ours = [*world.packages("prebuilt"), *world.packages("grafted")]
    assert len(ours) == 2 * (len(ENCLAVE_LIST) + 1)
    for kind in ("prebuilt", "grafted", "both"):
        packages = ours if kind == "both" else world.packages(kind)
        done = install(packages, tmp_path / kind)
        assert done.status == 0, done.text
        for enclave in ENCLAVE_LIST:
            file = tmp_path / kind / FOLDER / "lib64" / f"{enclave.signed}.{VERSION}"
            assert file.read_bytes() == world.stock.signed[enclave.signed]
            assert file.stat().st_mode & 0o7777 == 0o755
            major = file.with_name(f"{enclave.signed}.1")
            assert os.readlink(major) == file.name
            assert os.readlink(file.with_name(enclave.signed)) == major.name


def test_rpm_refuses_other_bytes_beside_them(world: World, tmp_path: Path) -> None:
    """What the last test proves only if rpm does look."""
    forged = rebuild(world, make_forged(Workshop(tmp_path, tmp_path), world.stock.forged), tmp_path)
    done = install([forged, *world.alone("grafted", "pce")], tmp_path / "root")
    assert done.status != 0
    assert "conflicts between attempted installs" in done.text


def rebuild(world: World, source_package: Path, folder: Path) -> Path:
    built = Workshop(folder, world.root).rpmbuild("--rebuild", source_package)
    assert built.status == 0, built.text
    return built.packages[0]


def test_the_reproducible_package_is_a_built_directory(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for enclave in ENCLAVE_LIST:
        folder = world.root / FOLDER / "share" / "reproducible" / enclave.name
        assert main(["check-built", str(folder), "--designated"]) == 0
        assert enclave.unsigned in capsys.readouterr().out
        unsigned = world.root / FOLDER / "lib64" / enclave.unsigned
        built = world.folder / "built" / enclave.unsigned
        assert unsigned.read_bytes() == built.read_bytes()
        config = folder / f"libsgx_{enclave.file}.config.xml"
        assert config.read_bytes() == enclave.config.read_bytes()
        manifest = json.loads((folder / "manifest.json").read_text())
        assert [e["name"] for e in manifest["enclaves"]] == [enclave.name]


def test_nothing_of_the_vendors_but_signatures_is_in_the_grafted_source(world: World) -> None:
    package = world.source_package("grafted")
    listing = run(["rpm", "-qp", "--qf", "[%{FILENAMES} %{FILESIZES}\\n]", str(package)])
    sizes = dict(line.rsplit(" ", 1) for line in listing.text.splitlines() if " " in line)
    signatures = {f"libsgx_{e.file}.sig" for e in ENCLAVE_LIST}
    assert set(sizes) == {*signatures, RELEASE_FILE, "linux-sgx-enclaves-grafted.spec"}
    for enclave in ENCLAVE_LIST:
        signed = world.stock.signed[enclave.signed]
        blocks = Descriptor.parse(EnclaveImage.parse(signed).descriptor).blocks
        assert int(sizes[f"libsgx_{enclave.file}.sig"]) <= len(blocks) * (1808 + 772)


def test_what_may_be_shipped_is_in_the_prebuilt_source(bench: Bench) -> None:
    """The source package holds what the command makes of the vendor's archive."""
    package = bench.world.source_package("prebuilt")
    form = "[%{FILENAMES} %{FILEDIGESTS}\\n]"
    listing = run(["rpm", "-qp", "--qf", form, str(package)]).text
    bench.write(bench.world.stock)
    made = bench.folder / "made.tar"
    assert repack(bench, made) == 0
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    assert f"{REPACKED_FILE} {digest}\n" in listing
    assert SIGNED_FILE not in listing


def repack(bench: Bench, made: Path) -> int:
    where = ("--catalogue", str(bench.sources / RELEASE_FILE), "--local", str(bench.sources))
    own = ("--cache", str(bench.folder / "cache"), "--offline")
    return main(["releases", "repack", "demo", "-o", str(made), *where, *own])


@pytest.mark.parametrize("kind", KINDS)
def test_licences_come_with_every_enclave(world: World, tmp_path: Path, kind: str) -> None:
    assert install([world.package(kind, "pce")], tmp_path / "without").status != 0
    assert install(world.alone(kind, "pce"), tmp_path / "with").status == 0
    (text,) = (tmp_path / "with/usr/share/licenses").glob("*/demo/LICENSE")
    assert text.read_text().startswith("GPL-2.0-or-later")


def test_packages_of_the_same_files_that_nobody_verified_are_replaced(
    world: World, tmp_path: Path
) -> None:
    """What the distribution had under the prebuilt packages' name goes when ours come."""
    spec = tmp_path / "old.spec"
    spec.write_text(
        "Name: sgx-enclave-prebuilt-pce-signed\nVersion: 2.24\nRelease: 3\nSummary: Old\n"
        "License: MIT\n%description\nOld.\n%files\n"
    )
    (old,) = Workshop(tmp_path, tmp_path).rpmbuild("-bb", spec).packages
    for kind in ("prebuilt", "grafted"):
        root = tmp_path / kind
        assert install([old], root).status == 0
        files = [str(path) for path in world.alone(kind, "pce")]
        done = run([*rpm_in(root), "--upgrade", "--nosignature", *files])
        assert done.status == 0, done.text
        names = run([*rpm_in(root), "-qa", "--qf", "%{NAME} %{VERSION}\\n"]).text.splitlines()
        state = f"sgx-enclave-{kind}-"
        assert sorted(names) == [f"{state}common 2.25", f"{state}pce-signed 2.25"]


def provides(package: Path) -> set[str]:
    return set(run(["rpm", "-qp", "--provides", str(package)]).text.splitlines())


@pytest.mark.parametrize("kind", ["prebuilt", "grafted"])
def test_provides_tell_what_is_shipped(world: World, kind: str) -> None:
    for enclave in ENCLAVE_LIST:
        image = EnclaveImage.parse(world.stock.signed[enclave.signed])
        version = "2.25" if enclave.name == "pce" else "1.22"
        wanted = {
            f"sgx-enclave({enclave.name}:signed) = {version}",
            f"sgx-enclave({enclave.name}:signed:{kind}) = {version}",
            f"sgx-enclave-mrsigner({world.stock.signer})",
        }
        for block in Descriptor.parse(image.descriptor).blocks:
            wanted.add(f"sgx-enclave-mrenclave({mrenclave(image, block).hex()})")
        found = provides(world.package(kind, enclave.name))
        assert {p for p in found if p.startswith("sgx-enclave(")} <= wanted
        assert wanted <= found
        # An enclave has no soname that anybody may depend on.
        assert not [p for p in found if ".so" in p]


def test_provides_of_unsigned_enclaves(world: World) -> None:
    found = provides(world.package("reproducible", "ide"))
    assert "sgx-enclave(ide:unsigned) = 1.22" in found
    assert "sgx-enclave(ide:unsigned:reproducible) = 1.22" in found
    assert not [p for p in found if "mrenclave" in p or ":signed" in p]


def test_a_repository_can_be_asked_for_a_measurement(world: World, tmp_path: Path) -> None:
    install(world.packages("prebuilt"), tmp_path)
    image = EnclaveImage.parse(world.stock.signed[QE3.signed])
    (block, *_) = Descriptor.parse(image.descriptor).blocks
    query = [*rpm_in(tmp_path), "-q", "--qf", "%{NAME}\\n", "--whatprovides"]
    found = run([*query, f"sgx-enclave-mrenclave({mrenclave(image, block).hex()})"])
    assert "sgx-enclave-prebuilt-qe3-signed" in found.text
    assert run([*query, f"sgx-enclave-mrenclave({'0' * 64})"]).status != 0


def test_the_signed_packages_hold_the_report(world: World, tmp_path: Path) -> None:
    done = install(world.alone("prebuilt", "ide"), tmp_path)
    assert done.status == 0, done.text
    (report,) = tmp_path.glob("usr/share/doc/*/verdict.json")
    verdict = json.loads(report.read_text())
    signed = tmp_path / FOLDER / "lib64" / IDE.signed
    assert verdict["outcome"] == "identical"
    assert verdict["signed"]["sha256"] == hashlib.sha256(signed.read_bytes()).hexdigest()


def contents(package: Path) -> str:
    form = "[%{FILENAMES} %{FILEMODES} %{FILEDIGESTS} %{FILELINKTOS}\n]"
    return run(["rpm", "-qp", "--qf", form, str(package)]).text


@pytest.mark.parametrize("kind", KINDS)
def test_packages_hold_the_same_each_time(bench: Bench, kind: str) -> None:
    """Elsewhere, at another time, and without the other enclaves."""
    built = bench.build(bench.write(bench.world.stock, kind, same_root=True))
    assert len(built.packages) == 2
    for package, name in zip(built.packages, ("common", "pce")):
        assert contents(package) == contents(bench.world.package(kind, name))


def test_the_newest_toolchains_enclave_is_not_installed_beside_ours(world: World) -> None:
    """Both are the same file."""
    package = world.package("reproducible", "ide")
    conflicts = run(["rpm", "-qp", "--conflicts", str(package)]).text
    assert "sgx-enclave(ide:unsigned:latest)" in conflicts.split()


def test_an_enclave_can_be_left_out(bench: Bench) -> None:
    built = bench.build(bench.write(bench.world.stock))
    assert built.status == 0, built.text
    names = [path.name.rsplit("-", 2)[0] for path in built.packages]
    assert names == ["sgx-enclave-prebuilt-common", "sgx-enclave-prebuilt-pce-signed"]


def test_what_is_built_in_is_really_required(bench: Bench) -> None:
    """With rpm's own check of BuildRequires, in a database with and without the packages."""
    spec = bench.folder / "macros.spec"
    spec.write_text(
        "Name: rpm-macros\nVersion: 1\nRelease: 1\nSummary: Macros\nLicense: MIT\n"
        "BuildArch: noarch\nProvides: sgx-rpm-macros sgx-enclaves-rpm-macros\n"
        "%description\nMacros.\n%files\n"
    )
    macros = Workshop(bench.folder, bench.root).rpmbuild("-bb", spec).packages
    prebuilt = bench.write(bench.world.stock)
    shop = Workshop(bench.folder, bench.world.root)
    without, both = bench.folder / "without", bench.folder / "with"
    install(macros, without)
    install([*macros, *bench.world.alone("reproducible", "pce")], both)
    folder = run(["rpm", "--eval", "%{_dbpath}"]).text.strip()
    statuses = {}
    for root in (without, both):
        place = bench.folder / f"top-{root.name}"
        place.mkdir()
        where = ["--define", f"_sourcedir {bench.sources}", "--define", f"_dbpath {root}{folder}"]
        done = run([*shop.command("-bb", place), *where, *ONLY_PCE, str(prebuilt)])
        statuses[root.name] = done.status
        if root is without:
            assert "sgx-enclave(pce:unsigned:reproducible) = 2.25 is needed" in done.text
    assert statuses["without"] != 0
    assert statuses["with"] == 0


# --- how the sources are had ---


def fetch(bench: Bench, *arguments: str, enclave: str = "") -> int:
    """Run `sgx-enclaves fetch` without a network, on the files of the source package."""
    bench.write(bench.world.stock)
    where = ("--catalogue", str(bench.sources / RELEASE_FILE), "--local", str(bench.sources))
    own = ("--cache", str(bench.folder / "cache"), "--offline")
    names = ("demo", enclave) if enclave else ("demo",)
    return main(["fetch", *names, "--what", "signed", *where, *own, *arguments])


def test_fetch_writes_the_signed_enclaves_and_their_signatures(bench: Bench) -> None:
    signed, signatures = bench.folder / "signed", bench.folder / "signatures"
    into = ("--signed-into", str(signed), "--signatures-into", str(signatures))
    assert fetch(bench, *into) == 0
    assert {p.name: p.read_bytes() for p in signed.iterdir()} == bench.world.stock.signed
    assert {p.name: p.read_bytes() for p in signatures.iterdir()} == bench.world.stock.signatures


def test_fetch_puts_files_under_the_vendors_names(bench: Bench) -> None:
    into = bench.folder / "into"
    assert fetch(bench, "--into", str(into)) == 0
    names = {SIGNED_FILE, CHECKSUMS_FILE}
    assert {path.name for path in into.iterdir()} == names
    for name in names:
        assert (into / name).read_bytes() == (bench.sources / name).read_bytes()
    # Where they lie already they stay.
    assert fetch(bench, "--into", str(bench.sources)) == 0
    assert (bench.sources / SIGNED_FILE).stat().st_size > 0
    (bench.folder / "file").write_text("")
    assert fetch(bench, "--into", str(bench.folder / "file")) == 2


def test_fetch_puts_sources_there(bench: Bench) -> None:
    into = bench.folder / "into"
    assert fetch(bench, "--what", "sources", "--into", str(into)) == 0
    assert [path.name for path in into.iterdir()] == [SOURCE_FILE]
    listed = write_spec("reproducible", bench.sources).read_text()
    assert re.search(rf"^Source\d: +https://\S+/{SOURCE_FILE}$", listed, re.MULTILINE)


def test_fetch_writes_what_it_is_asked_for(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = bench.folder / "signed"
    assert fetch(bench, "--signed-into", str(signed), enclave="ide") == 0
    assert [p.name for p in signed.iterdir()] == [IDE.signed]
    assert fetch(bench, "--signed-into", str(signed), enclave="foo") == 2
    assert "demo has no enclave 'foo'" in capsys.readouterr().err
    assert fetch(bench, "--what", "sources", "--signed-into", str(signed)) == 2
    assert "the sources have no signed enclaves" in capsys.readouterr().err


def test_a_wrong_file_beside_the_spec_is_reported(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write(bench.world.stock)
    (bench.sources / SIGNED_FILE).write_bytes(b"another file")
    where = ("--catalogue", str(bench.sources / RELEASE_FILE), "--local", str(bench.sources))
    assert main(["fetch", "demo", *where, "--cache", str(bench.folder / "cache")]) == 2
    message = capsys.readouterr().err
    assert str(bench.sources / SIGNED_FILE) in message
    assert hashlib.sha256(b"another file").hexdigest() in message


def test_one_enclave_of_a_release_is_verified_alone(bench: Bench) -> None:
    world = bench.world
    bench.write(world.stock)
    signed = bench.folder / "signed"
    signed.mkdir()
    (signed / PCE.signed).write_bytes(world.stock.signed[PCE.signed])
    (signed / IDE.signed).write_bytes(world.stock.signed[IDE.signed] + b"\0")

    def verify(enclave: str) -> int:
        built = world.root / FOLDER / "share" / "reproducible" / enclave
        ready = ("--built", str(built), "--signed", str(signed))
        where = ("--catalogue", str(bench.sources / RELEASE_FILE), "--offline")
        own = ("--cache", str(bench.folder / "cache"))
        return main(["verify-release", "demo", enclave, *ready, *where, *own])

    assert verify("pce") == 0
    assert verify("ide") == 1
    assert verify("qe3") == 2
    assert verify("foo") == 2


# --- tampering ---


def pce_with(world: World, change: Callable[[Sigstruct], Sigstruct]) -> bytes:
    """The vendor's pce with its SIGSTRUCT changed, and validly signed by the vendor again."""
    signed = world.stock.signed[PCE.signed]
    image = EnclaveImage.parse(signed)
    (block,) = Descriptor.parse(image.descriptor).blocks
    sigstruct = sign_sigstruct(change(block.sigstruct), world.key, vendor.DATE)
    data = with_fips_signature(replace(block, sigstruct=sigstruct)).serialise()
    start = image.descriptor_offset
    return signed[:start] + data + signed[start + len(data) :]


def flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def in_descriptor(world: World, offset: int) -> bytes:
    """The vendor's pce with one bit of its metadata area flipped; from the end if negative."""
    signed = world.stock.signed[PCE.signed]
    image = EnclaveImage.parse(signed)
    start = image.descriptor_offset if offset >= 0 else image.descriptor_end
    return flipped(signed, start + offset)


def in_signature(world: World) -> bytes:
    """The vendor's pce with one bit of its RSA signature flipped."""
    signed = world.stock.signed[PCE.signed]
    image = EnclaveImage.parse(signed)
    (block,) = Descriptor.parse(image.descriptor).blocks
    start, _end = Sigstruct.range_of("signature")
    return in_descriptor(world, image.descriptor.index(block.sigstruct.serialise()) + start)


# What a vendor may deliver, and the claims about it that the comparison refuses.
DELIVERED: dict[str, tuple[Callable[[World], bytes], str]] = {
    "payload": (lambda w: w.stock.forged, "payload"),
    "trailing byte": (lambda w: w.stock.signed[PCE.signed] + b"\0", "payload"),
    "metadata": (lambda w: in_descriptor(w, -1), "metadata"),
    "patch table": (
        lambda w: vendor.with_hostile_patch(w.unsigned, PCE.config, w.key),
        "metadata, measurement",
    ),
    "signature": (in_signature, "signature, policy"),
    "other signer": (
        lambda w: vendor.sign_enclave(w.unsigned, PCE.config, foreign_key()),
        "policy",
    ),
    "debug": (lambda w: pce_with(w, lambda s: replace(s, type=TYPE_DEBUG)), "metadata, policy"),
    "lower ISVSVN": (
        lambda w: pce_with(w, lambda s: replace(s, isvsvn=15)),
        "metadata, policy",
    ),
    "other product": (
        lambda w: pce_with(w, lambda s: replace(s, isvprodid=9)),
        "metadata, policy",
    ),
    "other enclave": (
        lambda w: w.stock.signed[QE3.signed],
        "payload, metadata, measurement, policy",
    ),
    "not signed": (
        lambda w: w.unsigned.read_bytes(),
        "metadata, measurement, signature, policy",
    ),
    "no enclave": (
        lambda _w: b"\x7fELF",
        "payload, metadata, measurement, signature, policy",
    ),
}


@pytest.mark.parametrize("name", DELIVERED)
def test_what_the_vendor_delivers_is_refused(bench: Bench, name: str) -> None:
    """The archive's digest is the pinned one: it is the content that is wrong."""
    make, refused = DELIVERED[name]
    world = bench.world
    stock = world.stock.delivering({**world.stock.signed, PCE.signed: make(world)})
    built = bench.build(bench.write(stock))
    assert built.status != 0
    assert built.stage == "%check", built.text
    found = re.search(r"compare refuses: ([a-z,\s]+?)\n +-", built.text)
    assert found is not None, built.text
    assert " ".join(found[1].split()) == refused
    assert not list(bench.folder.rglob("*.rpm"))


def test_another_member_than_the_pinned_one(bench: Bench) -> None:
    """Whatever archive it came in, and though it would compare as identical."""
    pin = f'signed_sha256 = "{"0" * 64}"'
    spec = bench.write(bench.world.stock)
    edited(bench.sources / RELEASE_FILE, 'name = "pce"\n', f'name = "pce"\n{pin}\n')
    built = bench.build(spec)
    assert built.stage == "%check", built.text
    assert "the signed pce is not the file that the release pins" in built.text


def test_another_archive_than_the_pinned_one(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write(bench.world.stock)
    archive = bench.sources / SIGNED_FILE
    archive.write_bytes(flipped(archive.read_bytes(), 40))
    assert repack(bench, bench.folder / "made.tar") == 2
    assert "this is not the file that the release pins" in capsys.readouterr().err
    assert not (bench.folder / "made.tar").exists()


def test_the_vendors_list_says_otherwise(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write(bench.world.stock)
    (bench.sources / CHECKSUMS_FILE).write_text(f"{'0' * 64}  {SIGNED_FILE}\n")
    assert repack(bench, bench.folder / "made.tar") == 2
    assert CHECKSUMS_FILE in capsys.readouterr().err


def test_an_enclave_is_missing_in_the_archive(bench: Bench) -> None:
    signed = dict(bench.world.stock.signed)
    del signed[PCE.signed]
    built = bench.build(bench.write(bench.world.stock.delivering(signed)))
    assert built.stage == "%install", built.text
    assert PCE.signed in built.text


def test_a_lower_svn_than_the_release_demands(bench: Bench) -> None:
    world = bench.world
    description = replace(world.stock.description, least_isvsvn={PCE.name: PCE.isvsvn + 1})
    built = bench.build(bench.write(replace(world.stock, description=description)))
    assert built.stage == "%check", built.text
    assert "ISVSVN" in built.text


@pytest.mark.parametrize("kind", ["prebuilt", "grafted"])
def test_no_reference_is_installed(bench: Bench, kind: str) -> None:
    bench.root = bench.folder / "empty"
    bench.root.mkdir()
    built = bench.build(bench.write(bench.world.stock, kind))
    # the licences come from there first
    assert built.stage == "%prep", built.text


@pytest.mark.parametrize("kind", ["prebuilt", "grafted"])
@pytest.mark.parametrize("what", ["config", "unsigned", "host", "unpinned"])
def test_a_reference_that_was_tampered_with(bench: Bench, kind: str, what: str) -> None:
    folder = bench.own_root()
    manifest = folder / "manifest.json"
    words = "is not the file that the manifest describes"
    if what == "config":
        config = folder / f"libsgx_{PCE.file}.config.xml"
        config.write_bytes(config.read_bytes() + b"\n")
    elif what == "unsigned":
        unsigned = folder.parents[2] / "lib64" / PCE.unsigned
        unsigned.write_bytes(unsigned.read_bytes() + b"\0")
    elif what == "host":
        manifest.write_text(manifest.read_text().replace('"designated"', '"host"'))
        words = "not built with the designated toolchain"
    else:
        manifest.write_text(manifest.read_text().replace('"pinned": true', '"pinned": false'))
        words = "sources without a pinned digest"
    built = bench.build(bench.write(bench.world.stock, kind))
    assert built.status != 0
    # an unsigned file of another size is noticed before, by the graft itself
    assert words in built.text or (kind, what) == ("grafted", "unsigned"), built.text


def test_another_config_than_the_vendors(bench: Bench) -> None:
    """With a manifest that fits: more heap than the vendor signed for."""
    folder = bench.own_root()
    config = folder / f"libsgx_{PCE.file}.config.xml"
    data = re.sub(rb"(<HeapMaxSize>0x)", rb"\g<1>1", config.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert data != config.read_bytes()
    record = manifest["enclaves"][0]["config"]
    record.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    config.write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    built = bench.build(bench.write(bench.world.stock))
    assert built.stage == "%check", built.text
    assert "metadata" in built.text


def edited(spec: Path, old: str, new: str) -> Path:
    text = spec.read_text()
    assert old in text
    spec.write_text(text.replace(old, new, 1))
    return spec


def test_a_file_that_is_changed_after_it_was_unpacked(bench: Bench) -> None:
    """What is checked is what will be shipped, after every script of rpmbuild."""
    spec = edited(
        bench.write(bench.world.stock),
        "# The reports are written here",
        f"printf x >> %{{buildroot}}/{FOLDER}/lib64/{PCE.signed}\n# The reports are written here",
    )
    built = bench.build(spec)
    assert built.stage == "%check", built.text


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_cannot_be_left_out_by_an_option(bench: Bench, kind: str) -> None:
    built = bench.build(bench.write(bench.world.stock, kind), "--nocheck")
    assert built.status != 0
    assert "sgx-enclaves-report" in built.text
    assert built.packages == ()


def test_rpmbuild_leaves_the_bytes_alone(bench: Bench) -> None:
    """An enclave that strip would change comes out as it went in, and would not otherwise."""
    world = bench.world
    build_enclaves(bench.folder / "other", "variant-unstripped")
    unsigned = variant_file(bench.folder / "other", "unstripped")
    signed = vendor.sign_enclave(unsigned, PCE.config, world.key)
    folder = bench.own_root()
    (folder.parents[2] / "lib64" / PCE.unsigned).write_bytes(unsigned.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["enclaves"][0]["unsigned"].update(
        sha256=hashlib.sha256(unsigned.read_bytes()).hexdigest(), size=unsigned.stat().st_size
    )
    (folder / "manifest.json").write_text(json.dumps(manifest))
    stock = world.stock.delivering({**world.stock.signed, PCE.signed: signed})
    built = bench.build(bench.write(stock))
    assert built.status == 0, built.text
    install(built.packages, bench.folder / "installed")
    shipped = bench.folder / "installed" / FOLDER / "lib64" / PCE.signed
    assert shipped.read_bytes() == signed
    careless = edited(
        bench.write(stock), "%{?sgx_enclave_untouched}", "%global debug_package %{nil}"
    )
    built = bench.build(careless)
    assert built.stage == "%check", built.text


# --- the reproducible package ---


def test_another_toolchain_than_the_designated_one(bench: Bench) -> None:
    world = bench.world
    tools = tuple(
        Tool("gcc", "9.5.0") if t.name == "gcc" else t for t in world.stock.description.tools
    )
    stock = replace(world.stock, description=replace(world.stock.description, tools=tools))
    built = bench.build(bench.write(stock, "reproducible"))
    assert built.stage == "%build", built.text
    assert "this is not the release's designated toolchain" in built.text


def test_other_sources_than_the_pinned_ones(bench: Bench) -> None:
    spec = bench.write(bench.world.stock, "reproducible")
    archive = bench.sources / SOURCE_FILE
    archive.write_bytes(archive.read_bytes() + b"\0")
    built = bench.build(spec)
    assert built.stage == "%build", built.text
    assert "this is not the file that the release pins" in built.text


def test_an_unsigned_enclave_that_is_changed_after_it_was_built(bench: Bench) -> None:
    spec = edited(
        bench.write(bench.world.stock, "reproducible"),
        "# What it says is listed",
        f"printf x >> %{{buildroot}}/{FOLDER}/lib64/{PCE.unsigned}\n# What it says is listed",
    )
    built = bench.build(spec)
    assert built.stage == "%check", built.text
    assert "is not the file that the manifest describes" in built.text


# --- the grafted package ---


def grafted_with(bench: Bench, signatures: bytes) -> Built:
    spec = bench.write(bench.world.stock, "grafted")
    (bench.sources / f"libsgx_{PCE.file}.sig").write_bytes(signatures)
    return bench.build(spec)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other signer", "by another signer than the one pinned"),
        ("debug", "type of its SIGSTRUCT"),
        ("other enclave", "does not fit this build's metadata"),
    ],
)
def test_a_signature_that_does_not_belong_there(bench: Bench, name: str, words: str) -> None:
    make, _refused = DELIVERED[name]
    built = grafted_with(bench, signatures_of(make(bench.world)))
    assert built.stage == "%build", built.text
    assert words.lower() in built.text.lower()


@pytest.mark.parametrize("at", [0, 128, 516, 960, -1])
def test_a_flipped_bit_in_the_signature_file(bench: Bench, at: int) -> None:
    good = bench.world.stock.signatures[f"libsgx_{PCE.file}.sig"]
    built = grafted_with(bench, flipped(good, at % len(good)))
    assert built.stage == "%build", built.text


def test_a_signature_file_is_missing(bench: Bench) -> None:
    spec = bench.write(bench.world.stock, "grafted")
    (bench.sources / f"libsgx_{PCE.file}.sig").unlink()
    assert bench.build(spec).status != 0


# --- rpmlint ---


@pytest.fixture(scope="module", name="config")
def _config(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lint")
    return write_lint_config(folder / "site.toml", world.stock.signer, least_isvsvn())


def lint(
    version: str, config: Path, files: Sequence[Path]
) -> tuple[int, set[tuple[str, str]], str]:
    """Exit status, level and id of each error and warning, and all output."""
    home = ROOT / "build" / f"rpmlint-{version}"
    if not (home / "bin" / "rpmlint").exists():
        pytest.skip(f"rpmlint {version} is not installed: make rpmlint")
    done = rpmlint(home, config, files)
    found = re.findall(r"^(?!\(none\))\S+: ([EW]): (\S+)", done.text, re.MULTILINE)
    return done.status, set(found), done.text


@pytest.mark.parametrize("version", RPMLINTS)
@pytest.mark.parametrize("kind", KINDS)
def test_rpmlint_accepts_what_is_good(world: World, config: Path, version: str, kind: str) -> None:
    files = [
        *world.packages(kind),
        *(world.packages("reproducible") if kind != "reproducible" else []),
        world.source_package(kind),
        world.folder / kind / f"linux-sgx-enclaves-{kind}.spec",
    ]
    status, found, text = lint(version, config, files)
    assert found == set(), text
    assert status == 0
    if kind != "reproducible":
        assert text.count("sgx-enclave-verified") == len(ENCLAVE_LIST)


FORGED = {
    "payload": "sgx-enclave-payload-differs",
    "patch table": "sgx-enclave-metadata-unaccounted",
    "signature": "sgx-enclave-bad-signature",
    "other signer": "sgx-enclave-wrong-signer",
    "debug": "sgx-enclave-debug-allowed",
    "lower ISVSVN": "sgx-enclave-svn-too-low",
    "not signed": "sgx-enclave-missing",
}
# The check's own tests show that both versions say the same.
FORGED_FOR = [(RPMLINTS[-1], name) for name in FORGED] + [(RPMLINTS[0], "payload")]


@pytest.mark.parametrize(("version", "name"), FORGED_FOR)
def test_rpmlint_refuses_what_was_forged_without_our_check(
    world: World, config: Path, tmp_path: Path, version: str, name: str
) -> None:
    make, _refused = DELIVERED[name]
    source = make_forged(Workshop(tmp_path, tmp_path), make(world))
    forged = rebuild(world, source, tmp_path)
    status, found, text = lint(version, config, [forged, world.package("reproducible", "pce")])
    assert ("E", FORGED[name]) in found, text
    assert status != 0
    assert "sgx-enclave-verified" not in text


# --- every release of the catalogue ---


@pytest.fixture(scope="session", name="specs")
def _specs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "specs", write_all_specs)


def write_all_specs(folder: Path) -> None:
    for release in OWN.releases.values():
        for kind in KINDS:
            spec = folder / f"linux-sgx-enclaves-{kind}-{release.name}.spec"
            assert main(["spec", release.name, "--kind", kind, "-o", str(spec)]) == 0
    for name in PACKAGED:
        spec = folder / f"sgx-toolchain-{name}.spec"
        assert main(["spec", name, "--kind", "toolchain", "-o", str(spec)]) == 0


@pytest.mark.parametrize("macros", [True, False])
def test_every_spec_parses(specs: Path, macros: bool) -> None:
    """Also without the macros, as where a source package is made of it."""
    paths = sorted(specs.glob("*.spec"))
    assert len(paths) == len(KINDS) * len(OWN.releases) + len(PACKAGED)
    for path in paths:
        loads = [f"--load={MACROS}"] if macros else []
        done = run(["rpmspec", *loads, "--parse", str(path)])
        assert done.status == 0, done.text
        assert "error:" not in done.text
        assert "@" not in re.sub(r"\S+ <\S+@\S+>", "", done.text), path


def test_qve_is_off_unless_asked_for(specs: Path) -> None:
    spec = specs / "linux-sgx-enclaves-grafted-sgx-2.25-dcap-1.22.spec"
    query = ["rpmspec", f"--load={MACROS}", "-q", "--qf", "%{NAME}\n"]
    names = {f"sgx-enclave-grafted-{name}-signed" for name in ("pce", "ide", "qe3", "tdqe")}
    # rpmspec names the source package too, of which no binary package is built.
    names |= {"linux-sgx-enclaves-grafted", "sgx-enclave-grafted-common"}
    assert set(run([*query, str(spec)]).text.split()) == names
    asked = set(run([*query, "--with", "qve", str(spec)]).text.split())
    assert asked == {*names, "sgx-enclave-grafted-qve-signed"}


@pytest.mark.parametrize("version", RPMLINTS)
def test_rpmlint_accepts_every_spec(specs: Path, config: Path, version: str) -> None:
    status, found, text = lint(version, config, sorted(specs.glob("*.spec")))
    assert found == set(), text
    assert status == 0


def test_the_release_is_a_file_of_the_catalogue(world: World) -> None:
    text = (world.folder / "prebuilt" / RELEASE_FILE).read_text()
    assert text == release_toml(world.stock.description)
