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
from demo.command import Result, sgx_enclaves, shown, title
from demo.packages import (
    RPMLINTRC,
    Built,
    Ran,
    Workshop,
    can_install,
    install,
    rpm_in,
    rpmlint,
    run as run_program,
    write_lint_config,
)
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
# What rpmlint refuses an enclave for.
_ERROR = re.compile(r": E: (sgx-enclave-\S+)")
# The kinds of packages with signed enclaves.
_SIGNED = ("prebuilt", "grafted")
_LINE = re.compile(r"\S+: [EWI]: \S+.*|.* packages? and \d+ specfiles? checked;.*")


@dataclass(frozen=True)
class Tampering:
    """A vendor's pce, or its absence, and the section of the spec file that must refuse it."""

    story: str
    signed: Optional[bytes]
    stage: str


def run(folder: Path, rpmlint_home: Optional[Path], enclaves: Path) -> list[Result]:
    """Show it in a folder, which is emptied first, with the rpmlint of an environment, if any.

    The vendor has built its enclaves already, and made the keys that lie beside their folder.
    """
    if shutil.which("rpmbuild") is None:
        title("packages: skipped, for rpmbuild is not installed")
        return [Result("packages", "everything", "not tried: rpmbuild is not installed", True)]
    if not can_install():
        title("packages: skipped, for this user can install none, not even into a scratch root")
        return [Result("packages", "everything", "not tried: needs root or namespaces", True)]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(enclaves, folder / "built")
    for key in ("vendor.pem", "mallory.pem"):
        shutil.copy(enclaves.with_name(key), folder)
    stock = prepare(folder)
    shop = Workshop(folder, folder / "buildroot")
    sources = _sources(shop, stock)
    built, results = _build(shop, sources)
    if not all(result.good for result in results):
        return results
    results += _tamperings(shop, stock)
    results += _same(folder / "installed", stock, built)
    if rpmlint_home is None:
        title("rpmlint: skipped, for it is not installed")
        return [*results, Result("rpmlint", "everything", "not tried: it is not installed", True)]
    config = write_lint_config(folder / "site.toml", stock.signer, least_isvsvn())
    return [*results, *_lint(rpmlint_home, config, built)]


def _sources(shop: Workshop, stock: Stock) -> SourcePackages:
    title("packages: three spec files, all numbers from the catalogue")
    made = {}
    for kind in KINDS:
        where = stock.lay_out(shop.folder / kind)
        arguments = spec_command(kind, where)
        sgx_enclaves(*arguments)
        made[kind] = pack(shop, Path(arguments[-1]), where)
    return SourcePackages(**made, forged=make_forged(shop, stock.forged))


def _build(shop: Workshop, sources: SourcePackages) -> tuple[dict[str, Built], list[Result]]:
    """Build all four; the unsigned enclaves are installed where the others look for them."""
    title("packages: built with rpmbuild")
    built = {}
    problems = []
    for kind in (*KINDS, "forged"):
        source: Path = getattr(sources, kind)
        print(f"$ rpmbuild --rebuild {source.name}", flush=True)
        result = built[kind] = shop.rpmbuild("--rebuild", source, top=kind)
        for package in result.packages:
            print(f"  {package.name}")
        if result.status:
            problems.append(f"{kind} failed in {result.stage}")
            print(result.text)
        elif kind == "reproducible" and install(result.packages, shop.unsigned_root).status:
            problems.append("cannot be installed")
    answer = "; ".join(problems) or f"{sum(len(b.packages) for b in built.values())} packages"
    return built, [Result("packages", "honest files, built with rpmbuild", answer, not problems)]


def _tamperings(shop: Workshop, stock: Stock) -> list[Result]:
    title("packages: each tampering stops the prebuilt one's build")
    unsigned = shop.folder / "built" / PCE.unsigned
    key = vendor.make_key(shop.folder / "vendor.pem")
    mallory = vendor.make_key(shop.folder / "mallory.pem")
    honest = stock.signed[PCE.signed]
    results = []
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
        "missing": Tampering("not in the archive", None, "%install"),
    }.items():
        signed = {**stock.signed, PCE.signed: case.signed or b""}
        if case.signed is None:
            del signed[PCE.signed]
        where = stock.delivering(signed).lay_out(shop.folder / "tampered" / name)
        spec = shop.folder / "prebuilt" / "linux-sgx-enclaves-prebuilt.spec"
        argument = f"_sourcedir {where.resolve()}"
        built = shop.rpmbuild("-bb", spec, "--define", argument, *_ONLY_PCE, top=f"tampered-{name}")
        print(f"{name}: {case.story}")
        results.append(judge(case, built))
    return results


def judge(case: Tampering, built: Built) -> Result:
    """Say how a build ended, and whether it had to end so."""
    answer = "rpmbuild has built it"
    if built.status:
        refused = _REFUSES.search(built.text)
        reason = f", refuses: {' '.join(refused[1].split())}" if refused else ""
        answer = f"rpmbuild fails in {built.stage}{reason}"
    print(f"  {answer}")
    good = built.status != 0 and built.stage == case.stage
    return Result("packages", case.story, answer, good)


def _same(root: Path, stock: Stock, built: dict[str, Built]) -> list[Result]:
    title("packages: the prebuilt and the grafted ones in one scratch root")
    packages = [*built["prebuilt"].packages, *built["grafted"].packages]
    folders = [shown(built[kind].packages[0].parent) for kind in _SIGNED]
    print(f"$ rpm --root {shown(root)} --install {folders[0]}/*.rpm {folders[1]}/*.rpm")
    done = install(packages, root)
    # rpm refuses two packages that have one path with other bytes
    print(done.text, end="")
    same = 0
    for enclave in ENCLAVE_LIST:
        path = root / "usr/x86_64-intel-sgx/lib64" / f"{enclave.signed}.{VERSION}"
        same += path.is_file() and path.read_bytes() == stock.signed[enclave.signed]
    answer = f"{same} of {len(ENCLAVE_LIST)} enclaves are the vendor's files, byte for byte"
    print(f"{answer}, both ways")
    good = done.status == 0 and same == len(ENCLAVE_LIST)
    story = "prebuilt and grafted packages in one root"
    return [Result("packages", story, answer, good), _ask(root, stock)]


def _ask(root: Path, stock: Stock) -> Result:
    """Ask what ships an enclave of that measurement."""
    image = EnclaveImage.parse(stock.signed[PCE.signed], PCE.signed)
    block = Descriptor.parse(image.descriptor).blocks[0]
    provide = f"sgx-enclave-mrenclave({mrenclave(image, block).hex()})"
    query = [*rpm_in(root), "--query", "--whatprovides", provide]
    print(f"$ rpm --root {shown(root)} --query --whatprovides '{provide}'")
    answer = run_program(query)
    print(answer.text, end="")
    providers = len(answer.text.splitlines()) if answer.status == 0 else 0
    words = f"{providers} packages provide it"
    return Result("packages", "rpm is asked for a measurement", words, providers == len(_SIGNED))


def _lint(home: Path, config: Path, built: dict[str, Built]) -> list[Result]:
    unsigned = built["reproducible"].packages
    results = []
    for kind, story, status in (
        ("prebuilt", "the prebuilt packages", 0),
        ("grafted", "the grafted packages", 0),
        ("forged", "a package that was forged without the check", 64),
    ):
        title(f"rpmlint: {story}")
        packages = built[kind].packages
        found = _show_lint(home, config, packages, unsigned)
        refused = _ERROR.findall(found.text)
        answer = f"exit status {found.status}"
        answer += f", {', '.join(dict.fromkeys(refused))}" if refused else ", verified"
        # No other finding may be to blame, nor stand in for ours.
        good = found.status == status and bool(refused) == bool(status)
        results.append(Result("rpmlint", story, answer, good))
    return results


def _show_lint(home: Path, config: Path, packages: Sequence[Path], unsigned: Sequence[Path]) -> Ran:
    folders = dict.fromkeys(shown(path.parent) for path in [*packages, *unsigned])
    options = f"--config {shown(config)} --rpmlintrc {shown(RPMLINTRC)}"
    print(f"$ rpmlint {options} " + " ".join(f"{folder}/*.rpm" for folder in folders), flush=True)
    done = rpmlint(home, config, [*packages, *unsigned])
    for line in done.text.splitlines():
        if _LINE.match(line) and not line.startswith("(none)"):
            print(line.replace(f"{unsigned[0].parent}/", ""))
    return done
