# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate on a real hub: every route into a gated tag, every way to cheat, every refusal."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import koji
import pytest

from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from tests.koji import gatekit
from tests.koji.gatekit import Binary, Recorder, Workshop
from tests.koji.harness import work, world
from tests.koji.harness.daemon import DaemonError
from tests.koji.harness.site import Site
from tests.support.attested import Rebuilder
from tests.support_rpm import RpmFile

HARD, BY_POLICY, OPEN = "gate-hard", "gate-policy", "gate-open"
TARGET = "gate-target"
MARK = "sgx_enclaves.enforce"
RULES = {
    "gate-fresh": "max_age=1h",
    "gate-release": "release=demo-*",
    "gate-other-release": "release=sgx-* reproducible=no",
    "gate-any-origin": "origin=*",
    "gate-intel": "signer=intel",
    "gate-demo": f"signer=intel,{gatekit.MRSIGNER}",
    "gate-named": "signer=demo-vendor",
    "gate-reproducible": "reproducible=yes",
    "gate-typing-error": "maxage=30d",
    "gate-off": "false",
}
POLICY = {
    "tag": f"""
        operation tag move && tag {BY_POLICY} && sgx_enclaves_present :: {{
            sgx_enclaves_verified max_age=30d release=demo-* !! deny enclaves are not verified
        }}
        all :: allow
    """
}
OTHER_FILES = (RpmFile(gatekit.PATH, gatekit.OTHER.signed, 0o100755),)
CONF = f"""
[tasks]
build_tags = {world.BUILD_TAG}:NUMBER
channel = {gatekit.CHANNEL}

[hook]
enabled = yes

[hook targets]
{TARGET} = {world.BUILD_TAG}

[signers]
demo-vendor = {gatekit.MRSIGNER}

[enforce]
gate-by-conf* = signer=demo-vendor
"""


@pytest.fixture(scope="module", name="shop")
def _shop(site: Site, admin: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """The gated tags, their policy, and who makes builds for them."""
    gatekit.add_host(site, admin)
    admin.createTag(HARD, extra={MARK: "true"})
    for tag in (BY_POLICY, OPEN, "gate-by-conf-1"):
        admin.createTag(tag)
    for tag, rule in RULES.items():
        admin.createTag(tag, extra={MARK: rule})
    for tag in (HARD, BY_POLICY, OPEN, "gate-by-conf-1", *RULES):
        admin.packageListAdd(tag, gatekit.PACKAGE, owner=world.ADMIN)
    admin.createBuildTarget(TARGET, world.BUILD_TAG, HARD)
    number = str(admin.getTag(world.BUILD_TAG)["id"])
    site.hub.plugin_conf("sgx_enclaves.conf", CONF.replace("NUMBER", number))
    site.hub.set_policy(POLICY)
    yield Workshop(site, admin, tmp_path_factory.mktemp("gate"))
    # the doctor of other modules would name marks that cannot be read
    for tag in RULES:
        admin.editTag2(tag, remove_extra=[MARK])
    site.hub.plugin_conf("sgx_enclaves.conf", None)
    site.hub.set_policy({})


@pytest.fixture(scope="module", name="recorder")
def _recorder(site: Site, shop: Workshop) -> Recorder:
    return Recorder(site, shop, site.session(world.RELENG))


@pytest.fixture(scope="module", name="unverified")
def _unverified(shop: Workshop) -> dict[str, Any]:
    return shop.build(Binary())


@pytest.fixture(scope="module", name="verified")
def _verified(shop: Workshop, recorder: Recorder) -> dict[str, Any]:
    build = shop.build(Binary(), Binary("-doc", gatekit.PLAIN, (), "noarch"))
    recorder.verify(build)
    return build


# --- every route into a tag


def tag_build(admin: Any, tag: str, nvr: str, *, force: bool = False) -> str:
    try:
        return work.tag(admin, tag, nvr, force=force).error
    except koji.GenericError as error:
        return str(error)


def force_tag_build(admin: Any, tag: str, nvr: str) -> str:
    return tag_build(admin, tag, nvr, force=True)


def move_build(admin: Any, tag: str, nvr: str, *, force: bool = False) -> str:
    admin.tagBuildBypass(OPEN, nvr, force=True)
    try:
        return work.wait(admin, admin.moveBuild(OPEN, tag, nvr, force)).error
    except koji.GenericError as error:
        return str(error)


def force_move_build(admin: Any, tag: str, nvr: str) -> str:
    return move_build(admin, tag, nvr, force=True)


def move_all(admin: Any, tag: str, nvr: str) -> str:
    for build in admin.listTagged(OPEN):
        admin.untagBuildBypass(OPEN, build["nvr"])
    admin.tagBuildBypass(OPEN, nvr)
    try:
        tasks = admin.moveAllBuilds(OPEN, tag, gatekit.PACKAGE, True)
    except koji.GenericError as error:
        return str(error)
    # Each task starts the one that tags.
    children = [work.wait(admin, child["id"]) for task in tasks for child in _children(admin, task)]
    return "".join(child.error for child in children)


def _children(admin: Any, task: int) -> list[dict[str, Any]]:
    work.wait(admin, task)
    found: list[dict[str, Any]] = admin.getTaskChildren(task)
    return found


def bypass(admin: Any, tag: str, nvr: str) -> str:
    return _error(lambda: admin.tagBuildBypass(tag, nvr))


def force_bypass(admin: Any, tag: str, nvr: str) -> str:
    return _error(lambda: admin.tagBuildBypass(tag, nvr, force=True))


def mass_tag(admin: Any, tag: str, nvr: str) -> str:
    return _error(lambda: admin.massTag(tag, [nvr]))


def snapshot_modify(admin: Any, tag: str, nvr: str) -> str:
    admin.tagBuildBypass(OPEN, nvr, force=True)
    return _error(
        lambda: admin.snapshotTagModify(
            OPEN, tag, config=False, pkgs=True, builds=True, groups=False, remove=False
        )
    )


def _error(call: Callable[[], Any]) -> str:
    try:
        call()
    except koji.GenericError as error:
        return str(error)
    return ""


Route = Callable[[Any, str, str], str]
FORCED: tuple[Route, ...] = (force_tag_build, force_move_build, force_bypass, mass_tag)
ROUTES: tuple[Route, ...] = (tag_build, move_build, move_all, bypass, snapshot_modify, *FORCED)
POLICY_ROUTES: tuple[Route, ...] = (tag_build, move_build, bypass)


def name_of(value: Any) -> str:
    return value.__name__ if callable(value) else str(value)


@pytest.fixture(name="untagged")
def _untagged(admin: Any) -> Iterator[None]:
    """Start and end with empty tags."""
    yield
    for tag in (HARD, BY_POLICY, OPEN):
        for build in admin.listTagged(tag):
            admin.untagBuildBypass(tag, build["nvr"])


@pytest.mark.usefixtures("untagged")
@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_no_route_leads_an_unverified_build_into_a_gated_tag(
    admin: Any, unverified: Mapping[str, Any], route: Route
) -> None:
    nvr = unverified["nvr"]
    words = route(admin, HARD, nvr)
    assert f"{nvr} holds SGX enclaves and may not be tagged into {HARD}" in words
    assert "never verified" in words
    assert f"koji sgx-enclaves verify {nvr}" in words
    assert not work.tagged(admin, HARD, nvr)


@pytest.mark.usefixtures("untagged")
@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_every_route_is_open_to_a_verified_build(
    admin: Any, verified: Mapping[str, Any], route: Route
) -> None:
    assert route(admin, HARD, verified["nvr"]) == ""
    assert work.tagged(admin, HARD, verified["nvr"])


@pytest.mark.usefixtures("untagged")
@pytest.mark.parametrize("route", POLICY_ROUTES, ids=name_of)
def test_the_policy_denies_what_is_not_forced(
    admin: Any, unverified: Mapping[str, Any], verified: Mapping[str, Any], route: Route
) -> None:
    assert "enclaves are not verified" in route(admin, BY_POLICY, unverified["nvr"])
    assert not work.tagged(admin, BY_POLICY, unverified["nvr"])
    assert route(admin, BY_POLICY, verified["nvr"]) == ""
    assert work.tagged(admin, BY_POLICY, verified["nvr"])


@pytest.mark.usefixtures("untagged")
@pytest.mark.parametrize("route", FORCED, ids=name_of)
def test_the_policy_alone_is_passed_by_force(
    admin: Any, unverified: Mapping[str, Any], route: Route
) -> None:
    """Why the hard gate is there; documented."""
    assert route(admin, BY_POLICY, unverified["nvr"]) == ""


@pytest.mark.usefixtures("untagged")
def test_mass_tag_is_all_or_nothing(
    admin: Any, unverified: Mapping[str, Any], verified: Mapping[str, Any]
) -> None:
    words = _error(lambda: admin.massTag(HARD, [verified["nvr"], unverified["nvr"]]))
    assert unverified["nvr"] in words
    assert admin.listTagged(HARD) == []


def test_a_target_s_destination_tag_is_gated_and_the_build_is_verified(
    site: Site, admin: Any, recorder: Recorder, tmp_path: Path
) -> None:
    admin.packageListAdd(HARD, "gate-built", owner=world.RELENG)
    srpm = work.make_srpm(tmp_path, SPEC, {"signed.so": gatekit.CASE.signed})
    ended = work.wait(admin, work.start_build(admin, srpm, TARGET))
    assert ended.state == "FAILED"
    assert f"gate-built-1-1 holds SGX enclaves and may not be tagged into {HARD}" in ended.error
    build = admin.getBuild("gate-built-1-1")
    assert build["state"] == koji.BUILD_STATES["COMPLETE"]
    assert not work.tagged(admin, HARD, "gate-built-1-1")
    # The hook has started what opens the gate.
    tasks = admin.listTasks({"method": "sgxEnclaves", "decode": True}, {"order": "id"})
    (task,) = [t for t in tasks if t["request"][2] == build["nvr"]]
    assert task["request"] == [None, world.BUILD_TAG, build["nvr"], {"tag_allowed": True}]
    # Before 1.35, Koji gives such a task to the builder's user.
    assert (task["owner"] == build["owner_id"]) is (version_of(site) >= (1, 35))
    recorder.answer(task["id"], build)
    assert work.tag(admin, HARD, build["nvr"]).error == ""
    admin.untagBuildBypass(HARD, build["nvr"])


def version_of(site: Site) -> tuple[int, ...]:
    return tuple(int(part) for part in site.version.split(".")[:2])


SPEC = f"""
Name: gate-built
Version: 1
Release: 1
Summary: A signed enclave without any Provides
License: GPL-2.0-or-later
Source0: signed.so
AutoReqProv: no
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}

%description
Says nothing of enclaves.

%install
install -D -m 755 %{{SOURCE0}} %{{buildroot}}{gatekit.PATH}

%files
{gatekit.PATH}
"""


# --- what counts as an enclave


def status(admin: Any, build: Mapping[str, Any], tag: str = HARD) -> Any:
    return admin.getSgxGateStatus(build["nvr"], tag)


SIGNED = gatekit.CASE.signed
ODD = {
    "no Provides": Binary(provides=()),
    "Provides only": Binary(files=gatekit.PLAIN),
    "the name of an unsigned one": Binary(
        files=(RpmFile(ENCLAVE_FOLDER + "libsgx_demo.so", SIGNED),), provides=()
    ),
    "Provides of an unsigned one": Binary(
        files=(RpmFile("/opt/demo.bin", SIGNED),), provides=("sgx-enclave(demo:unsigned)",)
    ),
    "another folder": Binary(files=(RpmFile("/opt/libsgx_x.signed.so", SIGNED),), provides=()),
    "a noarch package": Binary(arch="noarch"),
    "debuginfo": Binary("-debuginfo"),
    "a broken enclave": Binary(
        files=(RpmFile(gatekit.PATH, SIGNED[: len(SIGNED) - 100]),), provides=()
    ),
}
PLAIN = {
    "no package": (),
    "plain files": (Binary(files=gatekit.PLAIN, provides=("something",)),),
    "an unsigned enclave": (
        Binary(
            files=(RpmFile(ENCLAVE_FOLDER + "libsgx_demo.so", gatekit.CASE.built),),
            provides=("sgx-enclave(demo:unsigned)",),
        ),
    ),
    "a text with an enclave's name": (
        Binary(files=(RpmFile("/opt/libsgx_x.signed.so", b"text"),), provides=()),
    ),
    "a library in the folder": (
        Binary(files=(RpmFile(ENCLAVE_FOLDER + "libsgx_urts.so", b"\x7fELF"),), provides=()),
    ),
}


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("kind", ODD)
def test_an_enclave_is_found_however_it_is_packed(admin: Any, shop: Workshop, kind: str) -> None:
    build = shop.build(Binary("-x", gatekit.PLAIN, ()), ODD[kind])
    answer = status(admin, build)
    assert answer["present"]
    assert not answer["allowed"]
    assert "may not be tagged" in mass_tag(admin, HARD, build["nvr"])


@pytest.mark.usefixtures("shop", "untagged")
@pytest.mark.parametrize("kind", PLAIN)
def test_a_build_without_signed_enclaves_passes(admin: Any, shop: Workshop, kind: str) -> None:
    build = shop.build(*PLAIN[kind])
    assert status(admin, build) == {
        "present": False,
        "enforced": True,
        "verified": False,
        "allowed": True,
        "reasons": [],
        "record": None,
    }
    assert bypass(admin, HARD, build["nvr"]) == ""
    assert bypass(admin, BY_POLICY, build["nvr"]) == ""


def test_the_status_says_what_the_gate_would(
    admin: Any, verified: Mapping[str, Any], unverified: Mapping[str, Any]
) -> None:
    good = status(admin, verified)
    assert (good["present"], good["enforced"], good["verified"]) == (True, True, True)
    assert good["allowed"]
    assert good["record"] == admin.getSgxVerification(verified["nvr"])["id"]
    bad = status(admin, unverified, OPEN)
    assert (bad["enforced"], bad["verified"], bad["allowed"]) == (False, False, True)
    assert "never verified" in bad["reasons"][0]


def test_the_status_needs_a_login(site: Site, verified: Mapping[str, Any]) -> None:
    with pytest.raises(koji.GenericError, match="must be logged in"):
        status(site.session(""), verified)


# --- which bytes a record is for


@pytest.mark.usefixtures("untagged")
def test_a_file_that_changed_closes_the_gate(
    admin: Any, shop: Workshop, verified: Mapping[str, Any]
) -> None:
    path = next(p for p in shop.files(verified) if "-doc-" not in p.name)
    kept = path.read_bytes()
    rebuilt = shop.write(verified["nvr"], Binary(files=(RpmFile(gatekit.PATH, OTHER),)))
    try:
        path.write_bytes(rebuilt.read_bytes())
        words = force_bypass(admin, HARD, verified["nvr"])
        assert "is another file than the one that was verified" in words
        assert "has other bytes" in words
        path.write_bytes(resigned(kept))
        words = mass_tag(admin, HARD, verified["nvr"])
        assert "is another file than the one that was verified" in words
        path.unlink()
        assert "nobody can say what is in" in mass_tag(admin, HARD, verified["nvr"])
    finally:
        path.write_bytes(kept)
    assert mass_tag(admin, HARD, verified["nvr"]) == ""


OTHER = gatekit.OTHER.signed


def resigned(data: bytes) -> bytes:
    """A package with a signature more in its signature header, and the same content."""
    from tests.support_rpm import header  # noqa: PLC0415

    start = 96
    entries, size = (int.from_bytes(data[start + i : start + i + 4], "big") for i in (8, 12))
    end = start + 16 + 16 * entries + size
    end += -size % 8
    index, store = data[start + 16 : start + 16 + 16 * entries], data[start + 16 + 16 * entries :]
    values = _signature_values(index, store)
    made = header({**values, 1002: b"a signature"}, 62)
    return data[:start] + made + bytes(-len(made) % 8) + data[end:]


def _signature_values(index: bytes, store: bytes) -> dict[int, Any]:
    values: dict[int, Any] = {}
    for at in range(0, len(index), 16):
        tag, kind, offset, count = (
            int.from_bytes(index[at + i : at + i + 4], "big") for i in (0, 4, 8, 12)
        )
        if kind == 6:
            values[tag] = store[offset : store.index(b"\0", offset)].decode()
        elif kind == 4:
            values[tag] = [int.from_bytes(store[offset : offset + 4], "big")]
        elif tag != 62:
            values[tag] = store[offset : offset + count]
    return values


@pytest.mark.usefixtures("untagged")
def test_signed_copies_must_have_the_same_content(
    admin: Any, shop: Workshop, verified: Mapping[str, Any]
) -> None:
    path = next(p for p in shop.files(verified) if "-doc-" not in p.name)
    copy = shop.build_folder(verified) / "data/signed/deadbeef" / path.parent.name / path.name
    copy.parent.mkdir(parents=True)
    rebuilt = shop.write(verified["nvr"], Binary(files=(RpmFile(gatekit.PATH, OTHER),)))
    try:
        copy.write_bytes(resigned(path.read_bytes()))
        assert mass_tag(admin, HARD, verified["nvr"]) == ""
        copy.write_bytes(rebuilt.read_bytes())
        assert "signed with deadbeef has another content" in mass_tag(admin, HARD, verified["nvr"])
        copy.write_bytes(b"")
        assert "signed with deadbeef cannot be read" in mass_tag(admin, HARD, verified["nvr"])
    finally:
        shutil.rmtree(shop.build_folder(verified) / "data/signed")


@pytest.mark.usefixtures("untagged")
def test_a_package_that_came_later_closes_the_gate(
    admin: Any, shop: Workshop, recorder: Recorder
) -> None:
    build = shop.build(Binary())
    recorder.verify(build)
    assert status(admin, build)["allowed"]
    shop.upload_and_import(shop.write(build["nvr"], Binary("-late", gatekit.PLAIN, ())))
    assert "was not there when the build was verified" in mass_tag(admin, HARD, build["nvr"])
    recorder.verify(build)
    assert mass_tag(admin, HARD, build["nvr"]) == ""


@pytest.mark.usefixtures("untagged")
def test_no_enclave_slips_into_a_build_behind_the_gate(
    admin: Any, shop: Workshop, recorder: Recorder
) -> None:
    build = shop.build(Binary())
    recorder.verify(build)
    admin.massTag(HARD, [build["nvr"]])
    late = shop.write(build["nvr"], Binary("-late"))
    with pytest.raises(koji.GenericError, match=f"tagged into {HARD}"):
        shop.upload_and_import(late)
    shop.upload_and_import(shop.write(build["nvr"], Binary("-doc", gatekit.PLAIN, ())))
    admin.untagBuildBypass(HARD, build["nvr"])
    shop.upload_and_import(late)


@pytest.mark.usefixtures("untagged")
def test_the_newest_record_that_proved_something_decides(
    admin: Any, shop: Workshop, recorder: Recorder
) -> None:
    build = shop.build(Binary())
    recorder.verify(build)
    assert mass_tag(admin, HARD, build["nvr"]) == ""
    # what proved nothing hides nothing
    recorder.verify(build, verdict="unverifiable", enclaves=[], reproducible=False)
    assert mass_tag(admin, HARD, build["nvr"]) == ""
    recorder.verify(build, verdict="differs", reproducible=False)
    assert "ended with the verdict differs" in mass_tag(admin, HARD, build["nvr"])
    recorder.verify(build, verdict="unverifiable", enclaves=[], reproducible=False)
    assert "ended with the verdict differs" in mass_tag(admin, HARD, build["nvr"])
    recorder.verify(build)
    assert mass_tag(admin, HARD, build["nvr"]) == ""


@pytest.mark.usefixtures("untagged")
@pytest.mark.parametrize("first", ["tag", "import"])
def test_an_import_and_a_tagging_at_the_same_time_do_not_both_pass(
    site: Site, shop: Workshop, recorder: Recorder, first: str
) -> None:
    """Held at the build's row until both have begun; without a lock of ours both would pass."""
    build = shop.build(Binary())
    recorder.verify(build)
    late = shop.write(build["nvr"], Binary("-late"))
    errors: dict[str, str] = {}
    others = {name: site.session(world.ADMIN) for name in ("tag", "import")}
    others["import"].uploadWrapper(str(late), "gate-race")
    calls: dict[str, Callable[[], Any]] = {
        "tag": lambda: others["tag"].massTag(HARD, [build["nvr"]]),
        "import": lambda: others["import"].importRPM("gate-race", late.name),
    }
    hold = (
        f"begin; select id from build where id = {build['id']} for update; "  # noqa: S608
        "select pg_sleep(5); commit;"
    )
    threads = [Thread(target=site.database.execute, args=(hold,))]
    for name in sorted(calls, key=lambda name: name != first):

        def run(name: str = name) -> None:
            errors[name] = _error(calls[name])

        threads.append(Thread(target=run))
    for thread in threads:
        thread.start()
        time.sleep(1)
    for thread in threads:
        thread.join(60)
    assert sorted(map(bool, errors.values())) == [False, True], errors
    second = "import" if first == "tag" else "tag"
    assert "sgx_enclaves" in errors[second], errors


@pytest.mark.usefixtures("untagged")
def test_what_is_shown_of_a_build_that_was_imported_again(
    site: Site, admin: Any, shop: Workshop, recorder: Recorder
) -> None:
    build = shop.build(Binary())
    number = recorder.verify(build)
    assert admin.getSgxVerification(build["nvr"])["outdated"] is None
    admin.resetBuild(build["nvr"])
    shown = site.cli(world.PLAIN, "sgx-enclaves", "show", build["nvr"])
    assert "OUTDATED: the build is not complete any more: CANCELED" in shown.out
    admin.createEmptyBuild(build["name"], build["version"], build["release"], None)
    for path in (shop.source(build["nvr"]), shop.write(build["nvr"], Binary(files=OTHER_FILES))):
        # where the first ones were, links to deleted files are left
        shop.upload_and_import(path, "gate-again")
    found = admin.getSgxVerification(build["nvr"])
    assert (found["id"], found["verdict"]) == (number, "identical")
    assert "not the ones that were verified" in found["outdated"]
    listed = site.cli(world.PLAIN, "sgx-enclaves", "list", "--build", build["nvr"])
    assert listed.out.splitlines()[1].split()[4] == "no"
    assert "another file than the one that was" in mass_tag(admin, HARD, build["nvr"])


@pytest.mark.usefixtures("untagged")
def test_a_tag_that_the_configuration_gates_stays_so_under_another_name(
    admin: Any, shop: Workshop
) -> None:
    build = shop.build(Binary())
    for name in ("gate-by-conf-2", "gate-swapped"):
        admin.createTag(name)
        admin.packageListAdd(name, gatekit.PACKAGE, owner=world.ADMIN)
    # somebody tags anything anywhere
    admin.massTag(OPEN, [build["nvr"]])
    admin.editTag2("gate-by-conf-2", name="gate-aside")
    assert "never verified" in mass_tag(admin, "gate-aside", build["nvr"])
    admin.editTag2("gate-swapped", name="gate-by-conf-2")
    admin.editTag2("gate-aside", name="gate-swapped")
    for name in ("gate-swapped", "gate-by-conf-2"):
        assert "never verified" in mass_tag(admin, name, build["nvr"])
    assert admin.getSgxGateStatus(build["nvr"], "gate-swapped")["enforced"]


@pytest.mark.usefixtures("untagged")
def test_the_configuration_s_rule_and_the_tag_s_own_both_hold(
    admin: Any, verified: Mapping[str, Any]
) -> None:
    admin.createTag("gate-by-conf-both", extra={MARK: "release=other-*"})
    admin.packageListAdd("gate-by-conf-both", gatekit.PACKAGE, owner=world.ADMIN)
    assert ", not other-*" in mass_tag(admin, "gate-by-conf-both", verified["nvr"])
    admin.editTag2("gate-by-conf-both", extra={MARK: "release=demo-*"})
    assert mass_tag(admin, "gate-by-conf-both", verified["nvr"]) == ""


@pytest.mark.usefixtures("untagged")
def test_rebuilders_must_vouch_for_what_a_record_rests_on(
    site: Site, admin: Any, verified: Mapping[str, Any], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    one, two = (Rebuilder(tmp_path, name) for name in "ab")
    number = str(admin.getTag(world.BUILD_TAG)["id"])
    conf = CONF.replace("NUMBER", number)
    site.hub.plugin_conf(
        "sgx_enclaves.conf",
        f"{conf}[gate]\nattestations = {kept}\nattestation_keys = {one.key} {two.key}\n"
        "attestation_threshold = 2\n",
    )
    try:
        assert "no statement names" in mass_tag(admin, HARD, verified["nvr"])
        one.attest(kept / "a", {"demo": "0" * 64})
        assert "too few signers vouch for demo" in mass_tag(admin, HARD, verified["nvr"])
        assert (
            "too few signers"
            in {item["what"]: item["says"] for item in admin.checkSgxSetup()}["attestations"]
        )
        two.attest(kept / "b", {"demo": "1" * 64})
        assert "the signers disagree about demo" in mass_tag(admin, HARD, verified["nvr"])
        for rebuilder, name in ((one, "a"), (two, "b")):
            rebuilder.attest(kept / name, {"demo": "1" * 64})
        status = admin.getSgxGateStatus(verified["nvr"], HARD)
        assert not status["allowed"]
        assert "no attestation names the unsigned enclave" in status["reasons"][0]
        assert status["reasons"][0] in mass_tag(admin, HARD, verified["nvr"])
        for rebuilder, name in ((one, "a"), (two, "b")):
            rebuilder.attest(kept / name, {"demo": "0" * 64})
        assert mass_tag(admin, HARD, verified["nvr"]) == ""
    finally:
        site.hub.plugin_conf("sgx_enclaves.conf", conf)


def test_an_audit_finds_what_was_inherited(
    site: Site, admin: Any, shop: Workshop, recorder: Recorder
) -> None:
    admin.createTag("gate-below")
    admin.createTag("gate-heir", parent="gate-below", extra={MARK: "true"})
    admin.packageListAdd("gate-below", gatekit.PACKAGE, owner=world.ADMIN)
    build, plain = shop.build(Binary()), shop.build(Binary(files=gatekit.PLAIN, provides=()))
    for one in (build, plain):
        admin.massTag("gate-below", [one["nvr"]])
    done = site.cli(world.RELENG, "sgx-enclaves", "audit", "gate-heir")
    assert done.status == 1
    assert f"{build['nvr']} (in tag gate-below)" in done.out
    assert "1 of 2 builds" in done.out
    recorder.verify(build)
    done = site.cli(world.RELENG, "sgx-enclaves", "audit", "gate-heir", "--json")
    assert (done.status, json.loads(done.out)["refused"]) == (0, [])
    assert site.cli(world.RELENG, "sgx-enclaves", "audit", "no-such-tag").status == 2


def test_another_volume(admin: Any, shop: Workshop, recorder: Recorder) -> None:
    build = shop.build(Binary())
    recorder.verify(build)
    (shop.site.layout.topdir / "vol/second").mkdir(parents=True, exist_ok=True)
    if not any(v["name"] == "second" for v in admin.listVolumes()):
        admin.addVolume("second")
    admin.changeBuildVolume(build["nvr"], "second")
    assert (shop.site.layout.topdir / "vol/second/packages" / build["name"]).exists()
    assert status(admin, build)["allowed"]


def test_a_deleted_build(admin: Any, shop: Workshop, recorder: Recorder) -> None:
    build = shop.build(Binary())
    recorder.verify(build)
    admin.deleteBuild(build["nvr"])
    answer = status(admin, build)
    assert answer["present"]
    assert not answer["allowed"]
    assert "not complete" in mass_tag(admin, OPEN, build["nvr"])
    with pytest.raises(koji.GenericError, match="not complete"):
        recorder.open(build)


def test_a_content_generator_s_build(
    admin: Any, shop: Workshop, recorder: Recorder, tmp_path: Path
) -> None:
    build = shop.generated_build(tmp_path)
    assert "never verified" in mass_tag(admin, HARD, build["nvr"])
    recorder.verify(build)
    assert status(admin, build)["allowed"]


@pytest.mark.usefixtures("untagged")
def test_a_draft_and_what_becomes_of_it(
    site: Site, admin: Any, shop: Workshop, recorder: Recorder, tmp_path: Path
) -> None:
    if version_of(site) < (1, 34):
        pytest.skip("this Koji has no draft builds")
    spec = SPEC.replace("gate-built", "gate-draft")
    admin.packageListAdd(HARD, "gate-draft", owner=world.ADMIN)
    admin.packageListAdd(world.CANDIDATE, "gate-draft", owner=world.ADMIN)
    srpm = work.make_srpm(tmp_path, spec, {"signed.so": gatekit.CASE.signed})
    draft = work.build(admin, srpm, draft=True)
    assert draft["draft"]
    assert "never verified" in mass_tag(admin, HARD, draft["nvr"])
    task = recorder.open(draft)
    # Its name changes when it is promoted, so the task does not have it.
    assert admin.getTaskRequest(task)[2] == draft["id"]
    recorder.session.host.recordSgxVerification(task, shop.record(draft, task))
    recorder.close(task)
    assert mass_tag(admin, HARD, draft["nvr"]) == ""
    admin.untagBuildBypass(HARD, draft["nvr"])
    promoted = admin.promoteBuild(draft["nvr"], force=True)
    assert promoted["nvr"] == "gate-draft-1-1"
    assert status(admin, promoted)["verified"]
    assert mass_tag(admin, HARD, promoted["nvr"]) == ""


# --- rules


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("gate-fresh", ""),
        ("gate-release", ""),
        ("gate-other-release", ", not sgx-"),
        ("gate-any-origin", ""),
        ("gate-intel", "who is not asked for"),
        ("gate-demo", ""),
        ("gate-named", ""),
        ("gate-reproducible", ""),
        ("gate-by-conf-1", ""),
        ("gate-typing-error", "a word that cannot be read: 'maxage=30d'"),
    ],
)
def test_a_tag_s_own_rule(admin: Any, verified: Mapping[str, Any], tag: str, reason: str) -> None:
    words = mass_tag(admin, tag, verified["nvr"])
    assert reason in words
    assert bool(words) == bool(reason)


def test_rules_that_ask_for_more(admin: Any, shop: Workshop, recorder: Recorder) -> None:
    build = shop.build(Binary())
    recorder.verify(build, reproducible=False, release="sgx-1")
    assert mass_tag(admin, "gate-other-release", build["nvr"]) == ""
    assert ", not demo-" in mass_tag(admin, "gate-release", build["nvr"])
    assert "designated toolchain" in mass_tag(admin, "gate-reproducible", build["nvr"])
    assert "designated toolchain" in mass_tag(admin, HARD, build["nvr"])
    assert "enclaves are not verified" in bypass(admin, BY_POLICY, build["nvr"])


def test_a_release_from_somewhere_else_opens_only_what_asks_for_it(
    admin: Any, shop: Workshop, recorder: Recorder
) -> None:
    build = shop.build(Binary())
    url = "https://example.org/mine.toml"
    task = recorder.open(build, url)
    record = shop.record(build, task)
    with pytest.raises(koji.GenericError, match="origin is not that of task"):
        recorder.session.host.recordSgxVerification(task, record)
    recorder.session.host.recordSgxVerification(task, {**record, "origin": url})
    recorder.close(task)
    assert f"is from {url}" in mass_tag(admin, HARD, build["nvr"])
    assert mass_tag(admin, "gate-any-origin", build["nvr"]) == ""


def test_an_old_verification(admin: Any, site: Site, shop: Workshop, recorder: Recorder) -> None:
    build = shop.build(Binary())
    task = recorder.open(build)
    record = shop.record(build, task, verified_at="2024-01-01T00:00:00Z")
    with pytest.raises(koji.GenericError, match="the hub sets verified_at"):
        recorder.session.host.recordSgxVerification(task, record)
    # Nobody can write it but the database's owner.
    site.database.execute(old_record(record, admin.getHost(gatekit.HOST)["id"]))
    assert mass_tag(admin, HARD, build["nvr"]) == ""
    assert "too old: of 2024-01-01" in mass_tag(admin, "gate-fresh", build["nvr"])
    assert "enclaves are not verified" in bypass(admin, BY_POLICY, build["nvr"])


def old_record(record: Mapping[str, Any], host: int) -> str:
    from sgx_enclaves.gate.record import read_record  # noqa: PLC0415

    text = read_record(record).as_json().replace("'", "''")
    values = f"{record['build_id']}, {record['task_id']}, {host}, 'demo-1', 'catalogue'"
    columns = "build_id, task_id, host_id, release, origin, verdict, reproducible, record"
    return (
        f"insert into sgx_verification ({columns}) "  # noqa: S608
        f"values ({values}, 'identical', true, '{text}')"
    )


@pytest.mark.usefixtures("untagged")
def test_a_mark_that_says_no_is_none(admin: Any, unverified: Mapping[str, Any]) -> None:
    assert mass_tag(admin, "gate-off", unverified["nvr"]) == ""


def test_a_tag_may_be_gated_by_configuration(admin: Any, unverified: Mapping[str, Any]) -> None:
    assert "never verified" in mass_tag(admin, "gate-by-conf-1", unverified["nvr"])


def test_a_mark_is_not_inherited(admin: Any, unverified: Mapping[str, Any]) -> None:
    """Documented: each tag that builds are put into needs its own."""
    admin.createTag("gate-child", parent=HARD)
    admin.packageListAdd("gate-child", gatekit.PACKAGE, owner=world.ADMIN)
    assert mass_tag(admin, "gate-child", unverified["nvr"]) == ""


# --- who may write a record, and what


def write(session: Any, task: int, record: Any) -> str:
    return _error(lambda: session.host.recordSgxVerification(task, record))


def test_only_the_host_that_runs_the_task_may_write(
    site: Site, shop: Workshop, recorder: Recorder, plain: Any, admin: Any
) -> None:
    build = shop.build(Binary())
    task = recorder.open(build)
    record = shop.record(build, task)
    assert "is not a host" in write(plain, task, record)
    assert "is not a host" in write(admin, task, record)
    assert "ot logged" in write(site.session(""), task, record)
    hostile = site.session(world.HOSTILE)
    assert "exclusive session" in write(hostile, task, record)
    hostile.exclusiveSession(force=True)
    assert f"does not own task {task}" in write(hostile, task, record)
    assert admin.getSgxVerification(build["id"]) is None
    assert write(recorder.session, task, record) == ""
    assert "has written its record already" in write(recorder.session, task, record)
    recorder.close(task)
    assert f"does not own task {task}" in write(recorder.session, task, record)
    assert len(admin.listSgxVerifications(build["id"])) == 1


def test_a_task_may_write_of_its_own_build_only(
    shop: Workshop, recorder: Recorder, unverified: Mapping[str, Any], admin: Any
) -> None:
    build = shop.build(Binary())
    task = recorder.open(build)
    others = shop.record(unverified, task)
    assert "build_id is not that of task" in write(recorder.session, task, others)
    sly = {**others, "build_id": build["id"], "nvr": build["nvr"]}
    assert "was not there when the build was verified" in write(recorder.session, task, sly)
    both = shop.record(build, task)
    both["rpms"] += others["rpms"]
    assert "which is not in the build" in write(recorder.session, task, both)
    other_task = {**shop.record(build, task), "task_id": task + 1}
    assert "task_id is not that of task" in write(recorder.session, task, other_task)
    assert admin.getSgxVerification(unverified["id"]) is None
    assert admin.getSgxVerification(build["id"]) is None
    recorder.close(task)


def test_a_task_of_another_kind_may_write_nothing(
    shop: Workshop, recorder: Recorder, admin: Any
) -> None:
    build = shop.build(Binary())
    task = admin.makeTask("sleep", [1], channel=gatekit.CHANNEL)
    assert recorder.session.host.openTask(task)
    words = write(recorder.session, task, shop.record(build, task))
    assert f"task {task} is not the verification of a build" in words
    recorder.close(task)
    release_only = recorder.open(None, "demo-1")
    words = write(recorder.session, release_only, shop.record(build, release_only))
    assert f"task {release_only} is not the verification of a build" in words
    recorder.close(release_only)


def changed(record: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = list(record) if isinstance(record, list) else dict(record)
    copy[place[0]] = changed(copy[place[0]], place[1:], value)
    return copy


F = "f" * 64


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("rpms", 0, "file_sha256"), F, "is another file than the one that was verified"),
        (("rpms", 0, "content_sha256"), F, "is another file than the one that was verified"),
        (("enclaves", 0, "signed_sha256"), F, "has other bytes than verified"),
        (("enclaves", 0, "path"), "/opt/other", "was not verified"),
        (("enclaves", 0, "name"), "pce", "no such enclave of it was verified"),
        (("enclaves", 0, "verdict"), "differs", "not that of the enclaves"),
        (("enclaves",), [], "not that of the enclaves"),
        (("enclaves", 0, "rpm"), "other-1-1.x86_64.rpm", "does not name its package"),
        (("rpms",), [], "does not name its package"),
        (("schema",), 3, "schema does not fit"),
        (("verdict",), "fine", "verdict does not fit"),
        (("release",), "a\nb", "release does not fit"),
        (("release",), "ü" * 2000, "release does not fit"),
        (("nvr",), "x'; drop table build; --", "nvr does not fit"),
        (("report_sha256",), "x" * 64, "report_sha256 does not fit"),
        (("plugin_version",), "x" * 5000, "plugin_version does not fit"),
        (("rpms",), [{}] * 3000, "does not fit"),
        (("enclaves", 0, "isvsvn"), 1 << 16, "isvsvn does not fit"),
    ],
)
def test_a_false_or_malformed_record_is_refused(
    shop: Workshop, recorder: Recorder, admin: Any, place: tuple[Any, ...], value: Any, reason: str
) -> None:
    build = shop.build(Binary())
    task = recorder.open(build)
    record = changed(shop.record(build, task), place, value)
    assert reason in write(recorder.session, task, record)
    assert admin.getSgxVerification(build["id"]) is None
    recorder.close(task)


@pytest.mark.usefixtures("shop")
def test_the_database_refuses_to_change_a_record(
    site: Site, admin: Any, verified: Mapping[str, Any]
) -> None:
    kept = admin.getSgxVerification(verified["id"])
    for sql in (
        "update sgx_verification set verdict = 'identical'",
        "delete from sgx_verification",
        "truncate sgx_verification cascade",
        "delete from sgx_verification where false",
    ):
        with pytest.raises(DaemonError, match="never changed"):
            site.database.execute(sql)
    assert admin.getSgxVerification(verified["id"]) == kept


def test_without_the_tables_the_gate_stays_shut_and_says_why(
    site: Site, admin: Any, verified: Mapping[str, Any]
) -> None:
    site.database.execute("alter table sgx_verification rename to put_aside")
    try:
        assert "load 0001-sgx-verification.sql" in mass_tag(admin, HARD, verified["nvr"])
        assert "load 0001-sgx-verification.sql" in _error(lambda: status(admin, verified))
        # What is not gated has nothing to do with it.
        assert mass_tag(admin, OPEN, verified["nvr"]) == ""
    finally:
        site.database.execute("alter table put_aside rename to sgx_verification")
    admin.untagBuildBypass(OPEN, verified["nvr"])


def test_the_migration_can_be_run_again(
    site: Site, admin: Any, verified: Mapping[str, Any]
) -> None:
    kept = admin.getSgxVerification(verified["id"])
    site.migrate()
    assert admin.getSgxVerification(verified["id"]) == kept


# --- the other calls


def test_a_verification_needs_the_permission(
    plain: Any, admin: Any, unverified: Mapping[str, Any]
) -> None:
    with pytest.raises(koji.ActionNotAllowed):
        plain.sgxEnclaves(None, world.BUILD_TAG, unverified["nvr"])
    assert admin.listTasks({"method": "sgxEnclaves", "owner": plain.getLoggedInUser()["id"]}) == []


def test_a_build_tag_is_trusted_by_name_and_id(
    site: Site, admin: Any, shop: Workshop, recorder: Recorder
) -> None:
    """Somebody with the permission `tag` renames, swaps, makes and deletes tags."""
    for name in ("trusted", "renamed", "swapped", "other"):
        admin.createTag(name, arches="x86_64")
    pins = {name: admin.getTag(name)["id"] for name in ("trusted", "renamed", "swapped")}
    # of a tag that does not exist yet
    pins["later"] = max(pins.values()) + 10
    conf = CONF.replace(f"{world.BUILD_TAG}:NUMBER", " ".join(f"{n}:{i}" for n, i in pins.items()))
    site.hub.plugin_conf("sgx_enclaves.conf", conf)

    def trusted(tag: str) -> bool:
        task = recorder.asker.sgxEnclaves("demo-1", tag, channel=gatekit.CHANNEL)
        admin.cancelTask(task)
        opts: dict[str, Any] = admin.getTaskInfo(task, request=True)["request"][3]
        return opts == {"tag_allowed": True}

    def says(tag: str) -> str:
        found = {item["what"]: item["says"] for item in admin.checkSgxSetup()}
        text: str = found.get(f"[tasks] build tag {tag}", "")
        return text

    try:
        assert trusted("trusted")
        admin.editTag2("trusted", arches="x86_64 i686")
        admin.editTag2("trusted", arches="x86_64")
        assert trusted("trusted")
        assert not says("trusted")
        admin.deleteTag("trusted")
        assert admin.createTag("trusted", arches="x86_64") == pins["trusted"]
        assert not trusted("trusted")
        assert "deleted and made again" in says("trusted")
        admin.editTag2("renamed", name="aside")
        assert not trusted("aside")
        assert "does not exist" in says("renamed")
        admin.editTag2("aside", name="renamed")
        assert not trusted("renamed")
        assert "another name before" in says("renamed")
        for old, new in (("swapped", "aside"), ("other", "swapped"), ("aside", "other")):
            admin.editTag2(old, name=new)
        assert not trusted("swapped")
        assert not trusted("other")
        assert f"[tasks] build_tags pins {pins['swapped']}" in says("swapped")
        admin.createTag("later", arches="x86_64")
        assert not trusted("later")
        # even where nobody has noted the names
        site.database.execute("delete from sgx_former_tag_name")
        assert trusted("renamed")
        assert not trusted("swapped")
        assert not trusted("other")
    finally:
        number = str(admin.getTag(world.BUILD_TAG)["id"])
        site.hub.plugin_conf("sgx_enclaves.conf", CONF.replace("NUMBER", number))


@pytest.mark.parametrize(
    ("arguments", "options", "reason"),
    [
        ((None, world.BUILD_TAG), {}, "nothing to verify"),
        (("demo-1", "no-such-tag"), {}, "no-such-tag"),
        (("demo-1", OPEN), {}, "no architectures"),
        (("demo-1", world.BUILD_TAG, "no-such-1-1"), {}, "no-such-1-1"),
        (("x" * 5000, world.BUILD_TAG), {}, "release does not fit"),
        (("a\tb", world.BUILD_TAG), {}, "release does not fit"),
        ((["demo-1"], world.BUILD_TAG), {}, "release does not fit"),
        (("demo-1", {"name": "demo"}), {}, "build_tag does not fit"),
        (("demo-1", True), {}, "build_tag does not fit"),
        (("demo-1", world.BUILD_TAG, -1), {}, "build does not fit"),
        (("demo-1", world.BUILD_TAG, None, {"x": 1}), {}, "opts does not fit"),
        (("demo-1", world.BUILD_TAG, None, []), {}, "opts does not fit"),
        (("demo-1", world.BUILD_TAG, None, {"enclaves": []}), {}, "enclaves does not fit"),
        (("demo-1", world.BUILD_TAG, None, {"timeout": "1h"}), {}, "timeout does not fit"),
        (("demo-1", world.BUILD_TAG, None, {"timeout": True}), {}, "timeout does not fit"),
        (("demo-1", world.BUILD_TAG, None, {"repo_id": 0}), {}, "repo_id does not fit"),
        (("demo-1", world.BUILD_TAG, None, {"allow_unpinned": 1}), {}, "allow_unpinned"),
        (("demo-1", world.BUILD_TAG, None, {"unsigned_build": "no-1-1"}), {}, "no-1-1"),
        (("demo-1", world.BUILD_TAG), {"channel": "no-such-channel"}, "no-such-channel"),
    ],
)
def test_arguments_are_checked(
    recorder: Recorder, arguments: tuple[Any, ...], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(koji.GenericError) as caught:
        recorder.asker.sgxEnclaves(*arguments, **options)
    assert reason in str(caught.value)


def test_a_task_is_made_as_asked(
    admin: Any, recorder: Recorder, verified: Mapping[str, Any], unverified: Mapping[str, Any]
) -> None:
    opts = {
        "unsigned_build": verified["id"],
        "enclaves": ["demo"],
        "repo_id": 1,
        "timeout": 60,
        "allow_unpinned": True,
    }
    task = recorder.asker.sgxEnclaves(
        "demo-1",
        world.BUILD_TAG,
        unverified["id"],
        {**opts, "timeout": None},
        channel=gatekit.CHANNEL,
    )
    info = admin.getTaskInfo(task, request=True)
    del opts["timeout"]
    wanted = {**opts, "unsigned_build": verified["nvr"], "tag_allowed": True}
    assert info["request"] == ["demo-1", world.BUILD_TAG, unverified["nvr"], wanted]
    assert info["method"] == "sgxEnclaves"
    admin.cancelTask(task)


def test_records_are_found(
    site: Site, shop: Workshop, recorder: Recorder, verified: Mapping[str, Any]
) -> None:
    reader = site.session("")
    build = shop.build(Binary())
    number = recorder.verify(build, verdict="differs")
    found = reader.listSgxVerifications(build=build["nvr"])
    assert [row["id"] for row in found] == [number]
    (row,) = found
    assert (row["nvr"], row["verdict"], row["release"]) == (build["nvr"], "differs", "demo-1")
    assert row["enclaves"][0]["name"] == "demo"

    def ids(**filters: Any) -> set[int]:
        return {r["id"] for r in reader.listSgxVerifications(**filters)}

    mrenclave = gatekit.CASE.regenerated.mrenclave.hex()
    good = reader.getSgxVerification(verified["id"])["id"]
    assert {number, good} <= ids(mrenclave=mrenclave.upper())
    assert ids(mrenclave="0" * 64) == set()
    assert ids(enclave="nobody") == set()
    assert ids(enclave="demo", mrenclave="0" * 64) == set()
    assert number in ids(verdict="differs")
    assert number not in ids(verdict="identical")
    assert ids(tag=world.BUILD_TAG) == set()
    shop.admin.tagBuildBypass(OPEN, build["nvr"])
    assert ids(tag=OPEN) == {number}
    shop.admin.untagBuildBypass(OPEN, build["nvr"])
    assert ids(tag=OPEN) == set()
    assert reader.listSgxVerifications(build["id"], queryOpts={"countOnly": True}) == 1
    newest = reader.listSgxVerifications(queryOpts={"limit": 1})
    assert [r["id"] for r in newest] == [number]
    for hostile in ("x' or '1'='1", "%(build_id)s", "\\"):
        assert ids(enclave=hostile) == set()


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ({"verdict": "good"}, "verdict does not fit"),
        ({"enclave": ""}, "enclave does not fit"),
        ({"mrenclave": 5}, "mrenclave does not fit"),
        ({"build": "no-1-1"}, "no-1-1"),
        ({"tag": "no-tag"}, "no-tag"),
        ({"queryOpts": {"order": "record; drop table build"}}, "order does not fit"),
        ({"queryOpts": {"limit": 10**6}}, "limit does not fit"),
        ({"queryOpts": {"limit": "1"}}, "limit does not fit"),
        ({"queryOpts": {"rowlock": True}}, "found rowlock"),
        ({"queryOpts": []}, "queryOpts does not fit"),
    ],
)
@pytest.mark.usefixtures("shop")
def test_filters_are_checked(site: Site, filters: dict[str, Any], reason: str) -> None:
    with pytest.raises(koji.GenericError) as caught:
        site.session("").listSgxVerifications(**filters)
    assert reason in str(caught.value)


def test_a_build_without_a_record(admin: Any, unverified: Mapping[str, Any]) -> None:
    assert admin.getSgxVerification(unverified["nvr"]) is None


def test_the_calls_explain_themselves(site: Site) -> None:
    calls = {call["name"]: call["doc"] for call in site.session("")._listapi()}
    for name in (
        "sgxEnclaves",
        "getSgxVerification",
        "listSgxVerifications",
        "getSgxGateStatus",
        "host.recordSgxVerification",
    ):
        assert calls[name]
