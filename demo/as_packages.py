# SPDX-License-Identifier: GPL-2.0-or-later
"""The release as packages: spec files from the catalogue, built with the real rpmbuild;
each tampering stops the build; rpmlint accepts what is good and refuses what was forged.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from demo import vendor
from demo.command import sgx_enclaves, shown, title
from demo.packages import Built, Workshop, install, rpm_in, rpmlint, write_lint_config
from demo.packages import run as run_program
from demo.release import ENCLAVE_LIST, VERSION
from demo.source_packages import (
    KINDS,
    SourcePackages,
    Stock,
    least_isvsvn,
    make_forged,
    pack,
    prepare,
    spec_command,
)
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Descriptor

PCE = ENCLAVE_LIST[0]
_ONLY_PCE = tuple(word for e in ENCLAVE_LIST[1:] for word in ("--without", e.name))
_REFUSES = re.compile(r"compare refuses: ([a-z,\s]+?)\n +-")
_LINE = re.compile(r"\S+: [EWI]: \S+.*|.* packages? and \d+ specfiles? checked;.*")


@dataclass(frozen=True)
class Tampering:
    """A vendor's file that must stop the build.

    Attributes:
        story: what is wrong with it.
        signed: the pce as delivered; None if there is none.
        stage: the section of the spec file that must refuse it.
    """

    story: str
    signed: Optional[bytes]
    stage: str


def run(folder: Path, rpmlint_home: Optional[Path]) -> int:
    """Show it.

    Args:
        folder: receives everything; what is in there is removed first.
        rpmlint_home: the environment with rpmlint; None leaves it out.

    Returns:
        How many results were not as they must be.
    """
    if shutil.which("rpmbuild") is None:
        title("packages: skipped, for rpmbuild is not installed")
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stock = prepare(folder)
    shop = Workshop(folder, folder / "buildroot")
    sources = _sources(shop, stock)
    built, wrong = _build(shop, sources)
    if wrong:
        return wrong
    wrong += _tamperings(shop, stock)
    wrong += _same(folder / "installed", stock, built)
    if rpmlint_home is None:
        title("rpmlint: skipped, for it is not installed")
        return wrong
    config = write_lint_config(folder / "site.toml", stock.signer, least_isvsvn())
    return wrong + _lint(rpmlint_home, config, built)


def _sources(shop: Workshop, stock: Stock) -> SourcePackages:
    title("packages: three spec files, all numbers from the catalogue")
    made = {}
    for kind in KINDS:
        where = stock.lay_out(shop.folder / kind)
        arguments = spec_command(kind, where)
        sgx_enclaves(*arguments)
        made[kind] = pack(shop, Path(arguments[-1]), where)
    return SourcePackages(**made, forged=make_forged(shop, stock.forged))


def _build(shop: Workshop, sources: SourcePackages) -> tuple[dict[str, Built], int]:
    """Build all four; the unsigned enclaves are installed where the others look for them."""
    title("packages: built with rpmbuild")
    built = {}
    wrong = 0
    for kind in (*KINDS, "forged"):
        source: Path = getattr(sources, kind)
        print(f"$ rpmbuild --rebuild {source.name}", flush=True)
        result = built[kind] = shop.rpmbuild("--rebuild", source, top=kind)
        for package in result.packages:
            print(f"  {package.name}")
        if result.status:
            print(f"NOT AS EXPECTED: failed in {result.stage}\n{result.text}")
            wrong += 1
        elif kind == "reproducible":
            wrong += _check(install(result.packages, shop.unsigned_root).status == 0, "installed")
    return built, wrong


def _tamperings(shop: Workshop, stock: Stock) -> int:
    title("packages: each tampering stops the prebuilt one's build")
    unsigned = shop.folder / "built" / PCE.unsigned
    key = vendor.make_key(shop.folder / "vendor.pem")
    mallory = vendor.make_key(shop.folder / "mallory.pem")
    honest = stock.signed[PCE.signed]
    wrong = 0
    for name, case in {
        "payload": Tampering("one byte of code changed after signing", stock.forged, "%check"),
        "metadata": Tampering(
            "validly signed, but the metadata overwrite code at load time",
            vendor.with_hostile_patch(unsigned, PCE.config, key),
            "%check",
        ),
        "signer": Tampering(
            "validly signed by somebody else",
            vendor.sign_enclave(unsigned, PCE.config, mallory),
            "%check",
        ),
        "appended": Tampering("a byte appended", honest + b"\0", "%check"),
        "missing": Tampering("not in the archive", None, "%prep"),
    }.items():
        signed = {**stock.signed, PCE.signed: case.signed or b""}
        if case.signed is None:
            del signed[PCE.signed]
        where = stock.delivering(signed).lay_out(shop.folder / "tampered" / name)
        spec = shop.folder / "prebuilt" / "linux-sgx-enclaves-prebuilt.spec"
        argument = f"_sourcedir {where.resolve()}"
        built = shop.rpmbuild("-bb", spec, "--define", argument, *_ONLY_PCE, top=f"tampered-{name}")
        print(f"{name}: {case.story}")
        wrong += judge(case, built)
    return wrong


def judge(case: Tampering, built: Built) -> int:
    """Tell how a build ended; 1 if not as it must."""
    if built.status:
        refused = _REFUSES.search(built.text)
        reason = f", refuses: {' '.join(refused[1].split())}" if refused else ""
        print(f"  rpmbuild fails in {built.stage}{reason}")
    else:
        print("  rpmbuild has built it")
    return _check(built.status != 0 and built.stage == case.stage, f"fails in {case.stage}")


def _same(root: Path, stock: Stock, built: dict[str, Built]) -> int:
    title("packages: the prebuilt and the grafted ones in one scratch root")
    packages = [*built["prebuilt"].packages, *built["grafted"].packages]
    folders = [shown(built[kind].packages[0].parent) for kind in ("prebuilt", "grafted")]
    print(f"$ rpm --root {shown(root)} --install {folders[0]}/*.rpm {folders[1]}/*.rpm")
    done = install(packages, root)
    # rpm refuses two packages that have one path with other bytes
    wrong = _check(done.status == 0, f"rpm installs them:\n{done.text}")
    same = 0
    for enclave in ENCLAVE_LIST:
        path = root / "usr/x86_64-intel-sgx/lib64" / f"{enclave.signed}.{VERSION}"
        same += path.is_file() and path.read_bytes() == stock.signed[enclave.signed]
    print(
        f"{same} of {len(ENCLAVE_LIST)} enclaves are the vendor's files, byte for byte, both ways"
    )
    wrong += _check(same == len(ENCLAVE_LIST), "all are the vendor's")
    return wrong + _ask(root, stock)


def _ask(root: Path, stock: Stock) -> int:
    """Ask what ships an enclave of that measurement."""
    image = EnclaveImage.parse(stock.signed[PCE.signed], PCE.signed)
    block = Descriptor.parse(image.descriptor).blocks[0]
    provide = f"sgx-enclave-mrenclave({mrenclave(image, block).hex()})"
    query = [*rpm_in(root), "--query", "--whatprovides", provide]
    print(f"$ rpm --root {shown(root)} --query --whatprovides '{provide}'")
    answer = run_program(query)
    print(answer.text, end="")
    return _check(answer.status == 0, "somebody provides it")


def _lint(home: Path, config: Path, built: dict[str, Built]) -> int:
    unsigned = built["reproducible"].packages
    wrong = 0
    for kind, story, status in (
        ("prebuilt", "the prebuilt packages", 0),
        ("grafted", "the grafted packages", 0),
        ("forged", "a package that was forged without the check", 64),
    ):
        title(f"rpmlint: {story}")
        packages = built[kind].packages
        wrong += _check(_show_lint(home, config, packages, unsigned) == status, f"status {status}")
    return wrong


def _show_lint(home: Path, config: Path, packages: Sequence[Path], unsigned: Sequence[Path]) -> int:
    folders = [shown(packages[0].parent), shown(unsigned[0].parent)]
    print("$ rpmlint " + " ".join(f"{folder}/*.rpm" for folder in folders), flush=True)
    done = rpmlint(home, config, [*packages, *unsigned])
    for line in done.text.splitlines():
        if _LINE.match(line) and not line.startswith("(none)"):
            print(line.replace(f"{unsigned[0].parent}/", ""))
    return done.status


def _check(good: bool, what: str) -> int:
    if not good:
        print(f"NOT AS EXPECTED: {what}")
    return 0 if good else 1
