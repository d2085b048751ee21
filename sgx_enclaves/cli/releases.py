# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of the catalogue: what is known of a release, its files, and a spec file of it; and
what the arguments lead to that name a release, and how its files are fetched.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sgx_enclaves.catalogue import writing
from sgx_enclaves.catalogue.artifact import Lookaside
from sgx_enclaves.catalogue.draft import Trees, draft_release
from sgx_enclaves.catalogue.reader import OWN_FOLDER, USER_FOLDER, load_catalogue
from sgx_enclaves.catalogue.records import Catalogue, Release
from sgx_enclaves.cli import arguments, output
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.sign import extract
from sgx_enclaves.errors import FetchError, InputError
from sgx_enclaves.files import (
    digest_file,
    make_folder,
    read_file,
    sha256_of,
    system_errors,
    write_files,
)
from sgx_enclaves.limits import MIB
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release import vendor
from sgx_enclaves.release.archive import lay_out, pack_members, read_contents, read_members
from sgx_enclaves.release.build import find_targets
from sgx_enclaves.release.fetch import Fetched, Fetcher
from sgx_enclaves.release.sandbox import Isolation, Machine, best_isolation
from sgx_enclaves.release.transport import HttpsTransport
from sgx_enclaves.report.forms import table
from sgx_enclaves.specs import SpecKind, SpecRequest, render

_EPOCH = "SOURCE_DATE_EPOCH"
# What Fedora's look-aside cache calls the source of the prebuilt enclaves.
_PACKAGE = "linux-sgx-enclaves-prebuilt"


def chosen_catalogue(args: argparse.Namespace) -> Catalogue:
    """Our own releases, the machine's, and those of `--catalogue`."""
    return load_catalogue((OWN_FOLDER, USER_FOLDER, *args.catalogue))


def chosen_release(args: argparse.Namespace) -> tuple[Catalogue, Release]:
    """The catalogue, and the release of it that is named."""
    if args.release is None:
        raise InputError("no release is named", hint="`sgx-enclaves releases list` names them")
    catalogue = chosen_catalogue(args)
    return catalogue, catalogue.release(args.release)


def chosen_cache_dir(args: argparse.Namespace) -> Path:
    """The directory of fetched files: as named, `SGX_ENCLAVES_CACHE`, or the user's own."""
    own = args.cache or os.environ.get("SGX_ENCLAVES_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME", "/"), ".cache")
    return Path(own or Path(home, "sgx-enclaves"))


def chosen_work_dir(args: argparse.Namespace) -> Path:
    """The directory of builds and of trees to resume in: as named, or in the cache."""
    return args.work or chosen_cache_dir(args) / "work"


def chosen_fetcher(args: argparse.Namespace) -> Fetcher:
    """A fetcher as `@fetching` asks for it; it shows on standard error how it goes."""
    lookaside = None
    if args.lookaside is not None:
        package, _, url = args.lookaside.rpartition("=")
        lookaside = Lookaside(url, package or _PACKAGE)
    return Fetcher(
        chosen_cache_dir(args),
        None if args.offline else HttpsTransport(ca_file=args.ca_file),
        attempts=args.attempts,
        progress=output.progress(),
        lookaside=lookaside,
        local=args.local,
        allow_unpinned=args.allow_unpinned,
    )


def releases(args: argparse.Namespace) -> int:
    if args.action == "new":
        output.print_or_write(args, writing.toml_of(_draft(args)), name="toml")
        return 0
    if args.action == "list":
        return _list(args, chosen_catalogue(args))
    catalogue, release = chosen_release(args)
    if args.action == "show":
        unpinned = _unpinned(catalogue, release)
        plain = {"release": as_plain(release), "unpinned": unpinned}
        output.answer(args, plain, "entry.txt", release=release, unpinned=unpinned)
        return 0
    return {"pin": _pin, "check": _check, "repack": _repack}[args.action](args, release)


def _list(args: argparse.Namespace, catalogue: Catalogue) -> int:
    rows = []
    for release in catalogue.releases.values():
        unpinned = len(_unpinned(catalogue, release))
        row = {"name": release.name, "sgx": release.sgx, "dcap": release.dcap}
        row["status"] = f"{unpinned} NOT PINNED" if unpinned else "all pinned"
        same = dict.fromkeys(run.enclave for run in release.runs if run.verdict == "identical")
        row["reproduced"] = " ".join(same) or "-"
        row["toolchain"] = release.toolchain.name if release.toolchain else "-"
        row["enclaves"] = " ".join(enclave.name for enclave in release.enclaves)
        rows.append(row)
    header = ["RELEASE", "SGX", "DCAP", "STATUS", "REPRODUCED", "TOOLCHAIN", "ENCLAVES"]
    output.answer(args, {"releases": rows}, table(header, [list(row.values()) for row in rows]))
    return 0


def _unpinned(catalogue: Catalogue, release: Release) -> list[str]:
    """The facts without a pin: the release's own, and of the trees that it is built in."""
    return list(dict.fromkeys((*release.unpinned, *catalogue.unpinned_digests(release))))


def _draft(args: argparse.Namespace) -> Release:
    if args.sgx is None or args.dcap is None:
        raise InputError("two source trees are needed", hint="name them with --sgx and --dcap")
    sgx = writing.source_tree(args.sgx, args.sgx_release)
    dcap = writing.source_tree(args.dcap, args.dcap_release)
    return draft_release(Trees(sgx, dcap), chosen_catalogue(args))


def _pin(args: argparse.Namespace, release: Release) -> int:
    fetcher = chosen_fetcher(args)
    sources = release.build.sources if release.build is not None else ()
    files = {f"source.{item.id}": (item.artifact, item.unpack) for item in sources}
    files |= {f"vendor.{item.id}": (item.artifact, False) for item in release.vendor}
    signed = {f"vendor.{e.vendor}" for e in release.enclaves if e.signed_sha256 is None}
    pins: dict[str, dict[str, str]] = {}
    status = 0
    for name, (artifact, contents) in files.items():
        if artifact.pinned and name not in signed:
            continue
        try:
            path = fetcher.fetch(artifact, allow_unpinned=True).path
        except FetchError as error:
            # the others are worth having
            output.message(f"{name} is left as it is: {error}")
            status = 2
            continue
        if not artifact.pinned:
            pins[name] = {kind: digest_file(path, kind) for kind in ("sha256", "sha512")}
            pins[name] |= {"contents_sha256": read_contents(path).sha256} if contents else {}
        own = {e.name: e.member for e in release.enclaves if name == f"vendor.{e.vendor}"}
        data = read_members(path, set(own.values())) if own else {}
        for enclave, member in own.items():
            pins[f"enclave.{enclave}"] = {"signed_sha256": sha256_of(data[member])}
    text = read_file(release.file, MIB).decode()
    # the release's own file may be replaced
    args.catalogue = []
    output.print_or_write(args, writing.write_pins(text, pins), name="toml")
    return status


def _check(args: argparse.Namespace, release: Release) -> int:
    if args.route is not None or args.enclaves:
        build, _ = release.own_tree()
        built = [enclave.name for enclave in release.enclaves if enclave.build is not None]
        routes = {route.id: route.enclaves for route in build.routes}
        names = args.enclaves or routes.get(args.route, built)
        release = release.only(names).along(args.route)
    archives = vendor.fetch_sources(release, chosen_fetcher(args))
    build, _ = release.own_tree()
    isolation, reason = best_isolation()
    with tempfile.TemporaryDirectory(prefix="sgx-enclaves-") as scratch:
        tree, path = None, Path(scratch, "tree")
        if isolation is Isolation.NONE:
            output.note(f"make's targets are not looked for: {reason}")
        else:
            tree = Machine(isolation=isolation).open(path, build.root)
            path = tree.path
            path.parent.mkdir(parents=True, exist_ok=True)
        lay_out(path, build, archives, output.progress())
        found = [*writing.check_tree(release, path)]
        found += find_targets(release, tree, Path(scratch, "log")) if tree is not None else ()
    checks = [{"what": what, "problem": problem or None} for what, problem in found]
    status = int(any(problem for _, problem in found))
    plain = {"release": release.name, "exit_status": status, "checks": checks}
    output.answer(args, plain, "checked.txt")
    return status


def _repack(args: argparse.Namespace, release: Release) -> int:
    if args.output is None:
        raise InputError("no file is named to write to", hint="name it with -o")
    part = release.only([enclave.name for enclave in release.enclaves if enclave.may_ship])
    archives = vendor.fetch_signed(part, chosen_fetcher(args))
    signed = vendor.read_signed_enclaves(part, archives)
    data = pack_members({enclave.member: signed[enclave.name] for enclave in part.enclaves})
    enclaves = []
    for enclave in part.enclaves:
        pin = {"sha256": sha256_of(signed[enclave.name]), "pinned": bool(enclave.signed_sha256)}
        enclaves.append({"name": enclave.name, "member": enclave.member, **pin})
    facts = {"enclaves": enclaves, "sha512": hashlib.sha512(data).hexdigest()}
    output.answer(args, {**output.write_output(args, data), **facts}, "repacked.txt")
    return 0


def spec(args: argparse.Namespace) -> int:
    catalogue, release = chosen_release(args)
    request = SpecRequest(
        catalogue,
        release,
        SpecKind(args.kind),
        args.packager,
        args.date or _default_date(release),
        tuple(args.toolchain_package),
        args.allow_unpinned,
    )
    output.print_or_write(args, render(request), name="spec")
    return 0


def _default_date(release: Release) -> datetime.date:
    """One that is the same in each run, where any is known."""
    own = release.toolchain.environment.get(_EPOCH) if release.toolchain is not None else None
    seconds = os.environ.get(_EPOCH, own)
    if seconds is None:
        return arguments.today()
    try:
        return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc).date()
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"{_EPOCH} is no date",
            expected="seconds since 1970",
            found=repr(seconds),
            hint="correct it, or name the day with --date",
        ) from None


def fetch(args: argparse.Namespace) -> int:
    catalogue, release = chosen_release(args)
    fetcher = chosen_fetcher(args)
    chosen = release.only(args.enclaves or [e.name for e in release.enclaves if e.required])
    wanted = args.signed_into is not None or args.signatures_into is not None
    if wanted and args.what == "sources":
        raise InputError("the sources have no signed enclaves", hint="drop --what=sources")
    files: list[dict[str, object]] = []
    named: dict[str, Path] = {}
    if args.what != "signed":
        for tree in catalogue.trees_of(release):
            fetched = vendor.fetch_sources(tree, fetcher)
            files += [_entry("source", tree, name, file) for name, file in fetched.items()]
            for source in tree.build.sources if tree.build is not None else ():
                named[source.artifact.filename] = fetched[source.id].path
    if args.what != "sources":
        signed = vendor.fetch_signed(release, fetcher)
        for archive in release.vendor:
            here = signed[archive.id]
            entry = _entry("signed", release, archive.id, here.fetched)
            files.append({**entry, "cross_checked": not here.note, "note": here.note})
            named[archive.artifact.filename] = here.fetched.path
            if archive.checksums is not None and here.checksums is not None:
                named[archive.checksums.filename] = here.checksums
        if wanted:
            _write_signed(args, chosen, signed)
    if args.into is not None:
        _copy(named, args.into)
    output.answer(args, {"release": release.name, "files": files}, "fetched.txt")
    return 0


def _copy(files: Mapping[str, Path], into: Path) -> None:
    make_folder(into)
    for name, path in files.items():
        # a file of --local may lie there already
        there = contextlib.suppress(shutil.SameFileError)
        with system_errors(str(into / name), "cannot be written"), there:
            shutil.copyfile(path, into / name)


def _write_signed(
    args: argparse.Namespace, release: Release, archives: Mapping[str, vendor.SignedArchive]
) -> None:
    """Write each enclave of the release, or its signatures, as asked."""
    enclaves = vendor.read_signed_enclaves(release, archives)
    for enclave in release.enclaves:
        data = enclaves[enclave.name]
        if args.signed_into is not None:
            write_files(args.signed_into, {enclave.signed_file: data})
        if args.signatures_into is not None:
            image = EnclaveImage.parse(data, enclave.signed_file)
            signatures = extract(arguments.load_descriptor(image, signed=True))
            content = b"".join(s.serialise() for s in signatures)
            write_files(args.signatures_into, {enclave.signature_file: content})


def _entry(kind: str, release: Release, name: str, file: Fetched) -> dict[str, object]:
    about = {"kind": kind, "release": release.name, "id": name}
    fields = ("path", "sha256", "contents_sha256", "size", "url", "pinned", "rejected")
    return {**about, **{field: as_plain(getattr(file, field)) for field in fields}}
