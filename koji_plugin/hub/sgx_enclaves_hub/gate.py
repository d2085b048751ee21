# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate before tags: what even --force and massTag do not pass.

A tag is gated when its own extra says so (`sgx_enclaves.enforce`; inherited marks
do not count), or when the plugin's configuration does.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any, Optional

import koji
from koji.plugin import callback, export

from sgx_enclaves.arguments import argument, name_or_id
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.gate.decide import Decision, decide
from sgx_enclaves.gate.inspect import inspect_build, may_hold_enclaves
from sgx_enclaves.gate.rule import Rule, parse_mark

from . import hub_api
from .config import settings
from .hub_api import koji_errors
from .store import build_files, newest

MARK = "sgx_enclaves.enforce"
_MOST_REASONS = 200


def rule_of_tag(tag: Mapping[str, Any]) -> Optional[Rule]:
    """What a tag asks of builds; None when it is not gated.

    Raises:
        RuleError: its mark cannot be read.
    """
    for glob, rule in settings().rules:
        if fnmatch.fnmatchcase(tag["name"], glob):
            return rule
    return parse_mark((tag.get("extra") or {}).get(MARK), settings().signers)


def judge(build: Mapping[str, Any], rule: Rule) -> tuple[Decision, Optional[int]]:
    """The decision on a build, and the id of the record that it rests on."""
    found = newest(build["id"])
    record = found.record if found is not None else None
    facts = inspect_build(build_files(build), record)
    decision = decide(facts, record, rule, hub_api.now())
    return decision, found.id if found is not None and decision.present else None


@callback("preTag")
def gate_tagging(cbtype: str, *, tag: Any, build: Any, **_: Any) -> None:
    """Refuse to put a build into a gated tag without a record that suffices."""
    tag = hub_api.get_tag(tag["id"], strict=True)
    try:
        rule = rule_of_tag(tag)
        if rule is None:
            return
        build = hub_api.get_build(build["id"], strict=True)
        decision, _record = judge(build, rule)
    except SgxEnclavesError as error:
        nvr = build.get("nvr") or build["name"]
        raise koji.TagError(
            f"sgx_enclaves: {nvr} cannot be tagged into {tag['name']}: {error}"
        ) from error
    if not decision.allowed:
        raise koji.TagError(refusal(build["nvr"], tag["name"], decision))


def refusal(nvr: str, tag: str, decision: Decision, most: int = 12) -> str:
    """Why a build does not pass, and what to do: words that stand alone."""
    reasons = list(decision.reasons[:most])
    if len(decision.reasons) > most:
        reasons.append(f"and {len(decision.reasons) - most} more reasons")
    what = "could hold SGX enclaves" if decision.unread else "holds SGX enclaves"
    return (
        f"sgx_enclaves: {nvr} {what} and may not be tagged into {tag}: "
        f"{'; '.join(reasons)}. "
        f"Verify it (koji sgx-enclaves verify {nvr}), then tag again; "
        f"koji sgx-enclaves gate-status {nvr} {tag} shows this again. "
        "--force does not pass this gate."
    )


@callback("preImport")
def guard_import(cbtype: str, *, type: str, **info: Any) -> None:
    """Refuse to add a package with enclaves to a build that has passed a gate already."""
    build = info.get("build")
    if type != "rpm" or not build or not build.get("id"):
        return
    tags = [tag["name"] for tag in tags_of(build["id"]) if rule_or_error(tag)]
    if tags and may_hold_enclaves(info["filepath"]):
        raise koji.ImportError(
            f"sgx_enclaves: {info['filepath']} holds SGX enclaves and may not be added to "
            f"{build['name']}-{build['version']}-{build['release']}, which is tagged into "
            f"{', '.join(tags)}. Untag the build, import, verify, tag again."
        )


def rule_or_error(tag: Mapping[str, Any]) -> bool:
    """Whether a tag is gated; one whose mark cannot be read is."""
    try:
        return rule_of_tag(tag) is not None
    except SgxEnclavesError:
        return True


def tags_of(build_id: int) -> list[dict[str, Any]]:
    """The tags that a build is in, directly."""
    rows = hub_api.query(
        "tag_listing",
        {"tag_id": "tag_id"},
        clauses=["build_id = %(build_id)s", "active = TRUE"],
        values={"build_id": build_id},
    )
    return [hub_api.get_tag(row["tag_id"], strict=True) for row in rows]


@export
def getSgxGateStatus(build: Any, tag: Any) -> dict[str, Any]:
    """Would a tag take this build, as far as its enclaves matter?

    Needs a login, because it reads the build's packages.

    :param build: NVR or id
    :param tag: name or id
    :returns: a mapping: 'present': the build holds signed enclaves; 'enforced': the
              tag is gated; 'verified': the build's record suffices for the tag's rule, or
              for the plain rule when it has none; 'allowed': the gate opens;
              'reasons': why it is not verified; 'record': id of the record
    """
    hub_api.session().assertLogin()
    with koji_errors():
        binfo = hub_api.get_build(argument(build, "build", name_or_id), strict=True)
        rule = rule_of_tag(hub_api.get_tag(argument(tag, "tag", name_or_id), strict=True))
        decision, record = judge(binfo, rule or Rule())
    return {
        "present": decision.present,
        "enforced": rule is not None,
        "verified": decision.present and decision.allowed,
        "allowed": decision.allowed or rule is None,
        "reasons": list(decision.reasons[:_MOST_REASONS]),
        "record": record,
    }
