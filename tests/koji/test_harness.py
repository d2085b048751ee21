# SPDX-License-Identifier: GPL-2.0-or-later
"""The harness itself: a real Koji comes up, builds in its chroot, survives faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.koji.harness import work, world
from tests.koji.harness.site import Site

_SPEC = """
Name: hello-harness
Version: {version}
Release: 1
Summary: A package for the harness
License: GPL-2.0-or-later
Source0: hello.txt

%global debug_package %{{nil}}

%description
A package for the harness.

%build
{build}

%install
install -D -m 644 %{{SOURCE0}} %{{buildroot}}/usr/share/hello-harness/hello.txt

%files
/usr/share/hello-harness
"""


def hello(folder: Path, version: str, build: str = "") -> Path:
    """An SRPM whose build runs `build`."""
    spec = _SPEC.format(version=version, build=build)
    return work.make_srpm(folder, spec, {"hello.txt": b"hello\n"})


def test_the_hub_answers_and_the_builder_checks_in(site: Site, admin: Any) -> None:
    assert admin.getLoggedInUser()["name"] == world.ADMIN
    assert admin.getLastHostUpdate(admin.getHost(world.BUILDER)["id"], ts=True) is not None


def test_a_source_package_becomes_a_tagged_build(admin: Any, tmp_path: Path) -> None:
    built = work.build(admin, hello(tmp_path, "1.0"))
    assert built["nvr"] == "hello-harness-1.0-1"
    names = {rpm["arch"] for rpm in admin.listRPMs(buildID=built["id"])}
    assert names == {"src", "x86_64"}
    assert work.tagged(admin, world.CANDIDATE, built["nvr"])


def test_a_build_has_no_network_and_a_read_only_usr(admin: Any, tmp_path: Path) -> None:
    checks = "test $(ls /sys/class/net | wc -l) -le 1\n! touch /usr/bin/written-by-a-build\n"
    checks += "test $(wc -l < /proc/net/dev) -eq 3"
    assert work.build(admin, hello(tmp_path, "1.1", checks))["state"] == 1


def test_a_failed_build_is_a_failed_task(admin: Any, tmp_path: Path) -> None:
    ended = work.wait(admin, work.start_build(admin, hello(tmp_path, "1.2", "false")))
    assert ended.state == "FAILED"
    assert "build.log" in ended.error
