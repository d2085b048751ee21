# SPDX-License-Identifier: GPL-2.0-or-later
"""The users, hosts, tags and targets of the test Koji. Passwords are the name + "-pw".

demo <- demo-build    the build tag
demo-candidate        where the target `demo` puts builds
demo-release          a tag for the gate
"""

from __future__ import annotations

from typing import Any

from tests.koji.harness.database import Database

ADMIN = "kojiadmin"
PLAIN = "plainuser"
# May start verifications, and nothing else of note.
RELENG = "releng"
PERMISSION = "sgx-enclaves"
KOJIRA = "kojira"
BUILDER = "builder1"
# A host with an account of its own that no one should believe.
HOSTILE = "hostile1"
USERS = (ADMIN, PLAIN, RELENG, KOJIRA)
HOSTS = (BUILDER, HOSTILE)

TARGET = "demo"
BUILD_TAG = "demo-build"
CANDIDATE = "demo-candidate"
RELEASE = "demo-release"
GROUPS = ("build", "srpm-build")
PACKAGES = ("hello-harness",)
_CHANNELS = ("createrepo", "image")
_USER, _HOST = 0, 1


def password(user: str) -> str:
    """A user's password."""
    return f"{user}-pw"


def _insert_user(name: str, kind: int) -> str:
    values = f"('{name}', '{password(name)}', 0, {kind})"
    return f"insert into users (name, password, status, usertype) values {values};"  # noqa: S608


def grant(user: str, permission: str) -> str:
    """The SQL that gives a user a permission."""
    ids = "select u.id, p.id, a.id from users u, permissions p, users a "
    ids += f"where u.name = '{user}' and p.name = '{permission}' and a.name = '{ADMIN}'"
    return f"insert into user_perms (user_id, perm_id, creator_id) {ids};"


def add_users(database: Database) -> None:
    """Make the users, before there is a hub that could be asked to."""
    database.execute("\n".join(_insert_user(name, _USER) for name in USERS))
    database.execute(grant(ADMIN, "admin") + grant(KOJIRA, "repo"))


def add_tags(admin: Any, database: Database) -> None:
    """Make hosts, tags, target and package lists.

    Args:
        admin: a session of ADMIN.
        database: for the hosts' passwords, which the hub has no call for.
    """
    for host in HOSTS:
        admin.addHost(host, ["x86_64"])
        where = f"where name = '{host}'"
        database.execute(f"update users set password = '{password(host)}' {where}")  # noqa: S608
        admin.editHost(host, capacity=20.0)
        for channel in _CHANNELS:
            admin.addHostToChannel(host, channel, create=True)
    # Nothing is to be scheduled on it.
    admin.disableHost(HOSTILE)
    admin.createTag("demo")
    admin.createTag(BUILD_TAG, parent="demo", arches="x86_64")
    admin.createTag(CANDIDATE)
    admin.createTag(RELEASE)
    admin.createBuildTarget(TARGET, BUILD_TAG, CANDIDATE)
    for group in GROUPS:
        admin.groupListAdd(BUILD_TAG, group)
    for package in PACKAGES:
        add_package(admin, package)


def add_package(admin: Any, package: str) -> None:
    """Let builds of a package into the tags."""
    for tag in ("demo", CANDIDATE, RELEASE):
        admin.packageListAdd(tag, package, owner=ADMIN)
