# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate before tags, which even --force and massTag do not pass, and tests for hub policies.

A tag is gated when its own extra says so (`sgx_enclaves.enforce`; inherited marks
do not count), or when the plugin's configuration does, by the name that the tag has or has
had. All rules that are asked for must hold. `docs/koji.md` has policies with the tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import koji
import koji.policy
from koji.context import context
from koji.plugin import callback, export
from kojihub import get_build, get_tag, readTaggedBuilds
from kojihub.db import db_lock

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.gate.arguments import argument
from sgx_enclaves.gate.decide import Decision, Rule, decide, parse_mark, parse_rule
from sgx_enclaves.gate.inspect import inspect_build, may_hold_enclaves
from sgx_enclaves.gate.record import DIFFERS

from . import hub_api, store
from .config import settings
from .hub_api import koji_errors, logger
from .tasks import PERMISSION

MARK = "sgx_enclaves.enforce"
_MOST_REASONS = 200
# A lock of Koji's, which our SQL adds.
_ONE_AT_A_TIME = "sgx-enclaves-inspection"
# Other policies have no build in their data.
_POLICIES = ("tag", "draft_promotion")


def rules_of_tag(tag: Mapping[str, Any]) -> list[Rule]:
    """What a tag asks of builds; nothing when it is not gated."""
    names = {tag["name"], *store.former_names(tag["id"])} if settings().rules else set()
    asked = [settings().rule_for(name) for name in sorted(names)]
    asked.append(parse_mark((tag.get("extra") or {}).get(MARK), settings().signers))
    return [rule for rule in asked if rule is not None]


def judge(build: Mapping[str, Any], rules: Sequence[Rule]) -> tuple[Decision, dict[str, Any]]:
    """The decision on a build; its reasons and the id of its record, as callers get them."""
    facts = inspect_build(store.build_files(build))
    stored = store.records_of(build["id"]) if facts else []
    records = [row["record"] for row in stored]
    decision = decide(facts, records, rules, hub_api.now(), attested() if stored else None)
    for note in decision.notes:
        logger.info("%s: %s", build["nvr"], note)
    record = next((row["id"] for row in stored if row["record"] is decision.record), None)
    return decision, {"reasons": list(decision.reasons[:_MOST_REASONS]), "record": record}


def attested() -> Optional[frozenset[str]]:
    """SHA-256 of the unsigned enclaves that the site's attestations name; None if it has none.

    An SgxEnclavesError if they cannot be read, or are not by enough of the site's keys.
    """
    chosen = settings()
    if not chosen.gate_attestations:
        return None
    # Most sites have none, and this costs time to import.
    from sgx_enclaves.evidence import statements  # noqa: PLC0415

    keys, least = chosen.gate_attestation_keys, chosen.gate_attestation_threshold
    return statements.attested(chosen.gate_attestations, keys, None, least)


@callback("preTag")
def gate_tagging(cbtype: str, *, tag: Any, build: Any, user: Any, **_: Any) -> None:
    """Refuse to put a build into a gated tag without a record that suffices."""
    tag = get_tag(tag["id"], strict=True)
    nvr = build.get("nvr") or build["name"]
    try:
        with koji_errors():
            rules = rules_of_tag(tag)
            if not rules:
                return
            store.lock_build(build["id"])
            build = get_build(build["id"], strict=True)
            nvr = build["nvr"]
            decision, said = judge(build, rules)
        if decision.allowed:
            return
        reasons = said["reasons"]
        words = refusal(nvr, tag["name"], decision)
    except koji.GenericError as error:
        reasons = [str(error)]
        words = f"sgx_enclaves: {nvr} cannot be tagged into {tag['name']}: {error}"
    about = {"nvr": nvr, "build_id": build["id"], "tag": tag["name"], "reasons": reasons}
    hub_api.announce_refusal(**about, user=(user or {}).get("name"))
    raise koji.TagError(words)


def refusal(nvr: str, tag: str, decision: Decision, most: int = 12) -> str:
    """Why a build does not pass, and what to do: words that stand alone."""
    reasons = list(decision.reasons[:most])
    if len(decision.reasons) > most:
        reasons.append(f"and {len(decision.reasons) - most} more reasons")
    what = "could hold SGX enclaves" if decision.unread else "holds SGX enclaves"
    step = f"Verify it (koji sgx-enclaves verify {nvr} --build-tag BUILD_TAG), then tag again"
    if decision.record is not None and decision.record.verdict == DIFFERS:
        # Verifying the same bytes again gives the same.
        step = f"Do not ship it: koji sgx-enclaves show {nvr} says what differs"
    return (
        f"sgx_enclaves: {nvr} {what} and may not be tagged into {tag}: {'; '.join(reasons)}. "
        f"{step}; koji sgx-enclaves gate-status {nvr} {tag} shows this again. "
        "--force does not pass this gate."
    )


@callback("preImport")
def guard_import(cbtype: str, *, type: str, **info: Any) -> None:
    """Refuse to add a package with enclaves to a build that has passed a gate already."""
    build = info.get("build")
    if type != "rpm" or not build or not build.get("id"):
        return
    # Whoever tags this build now is waited for, and seen.
    store.lock_build(build["id"])
    clauses = ("build_id = %(build_id)s", "active = TRUE")
    ids = store.column("tag_id", "tag_listing", *clauses, build_id=build["id"])
    names = []
    for tag in [get_tag(number, strict=True) for number in ids]:
        # one whose mark cannot be read is gated
        with contextlib.suppress(SgxEnclavesError):
            if not rules_of_tag(tag):
                continue
        names.append(tag["name"])
    path = info["filepath"]
    if names and may_hold_enclaves(path):
        nvr = f"{build['name']}-{build['version']}-{build['release']}"
        reasons = [f"{path} was to be imported into a build of a gated tag"]
        for name in names:
            about = {"nvr": nvr, "build_id": build["id"], "tag": name, "reasons": reasons}
            hub_api.announce_refusal(**about, user=None)
        raise koji.ImportError(
            f"sgx_enclaves: {path} holds SGX enclaves and may not be added to {nvr}, which is "
            f"tagged into {', '.join(names)}. Untag the build, import, verify, tag again."
        )


@export
def getSgxGateStatus(build: Any, tag: Any = None) -> dict[str, Any]:
    """Would a tag take this build, as far as its enclaves matter?

    Needs a login, because it reads the build's packages. Those who have not the permission
    sgx-enclaves are answered one at a time: the hub hashes a build that it has not seen.

    :param build: NVR or id
    :param tag: name or id; None: one without a rule
    :returns: a mapping: 'present': the build holds signed enclaves; 'enforced': the tag is gated;
              'verified': the build's record, with the id 'record', suffices for the tag's rule, or
              the plain one when it has none; 'reasons': why it does not; 'allowed': the gate opens
    """
    session = context.session
    session.assertLogin()
    trusted = session.hasPerm(PERMISSION) or session.hasPerm("admin")
    if not trusted and not db_lock(_ONE_AT_A_TIME, wait=False):
        raise koji.GenericError("somebody else's build is being read: ask again in a moment")
    with koji_errors():
        binfo = get_build(argument(build, "build"), strict=True)
        named = tag is not None
        rules = rules_of_tag(get_tag(argument(tag, "tag"), strict=True)) if named else []
        decision, said = judge(binfo, rules or [Rule()])
    return {
        "present": decision.present,
        "enforced": bool(rules),
        "verified": decision.present and decision.allowed,
        "allowed": decision.allowed or not rules,
        **said,
    }


@export
def auditSgxTag(tag: Any, after: int = 0, limit: int = 100) -> dict[str, Any]:
    """Which builds that a tag shows, inherited ones too, hold enclaves without a fitting record?

    Needs the permission sgx-enclaves, because it reads all builds' packages. Asks for the
    tag's own rules, or for the plain rule when it has none.

    :param tag: name or id
    :param after: id of the build after which to continue, in the order of their ids
    :param limit: how many builds to look at, at most 1000
    :returns: a mapping: 'looked_at': number of builds; 'refused': a list of mappings with 'nvr',
              'tag' (that it is in), 'reasons' and 'record'; 'next': `after` to continue, or None
    """
    context.session.assertPerm(PERMISSION)
    refused = []
    with koji_errors():
        argument(after, "after")
        argument(limit, "limit")
        found = get_tag(argument(tag, "tag"), strict=True)
        rules = rules_of_tag(found) or [Rule()]
        shown = readTaggedBuilds(found["id"], inherit=True)
        builds = {b["build_id"]: b["tag_name"] for b in shown if b["build_id"] > after}
        chosen = sorted(builds)[:limit]
        for build_id in chosen:
            binfo = get_build(build_id, strict=True)
            decision, said = judge(binfo, rules)
            if not decision.allowed:
                refused.append({"nvr": binfo["nvr"], "tag": builds[build_id], **said})
    more = chosen[-1] if len(chosen) < len(builds) else None
    return {"looked_at": len(chosen), "refused": refused, "next": more}


def _decided(data: dict[str, Any], rule: Rule) -> Decision:
    """On the build that a policy asks about: an id, an NVR or a mapping, as the route has it."""
    build = data.get("build")
    if isinstance(build, dict):
        build = build["id"]
    if not build:
        raise koji.GenericError("the policy needs a build")
    with koji_errors():
        return judge(get_build(build, strict=True), [rule])[0]


class SgxEnclavesPresentTest(koji.policy.BaseSimpleTest):
    """sgx_enclaves_present: true if the build holds signed enclaves, or cannot be read."""

    name = "sgx_enclaves_present"
    policy = _POLICIES

    def __init__(self, str: str) -> None:
        super().__init__(str)
        if len(str.split()) > 1:
            raise koji.GenericError(f"{self.name} takes no arguments: {str.strip()}")

    def run(self, data: dict[str, Any]) -> bool:
        """Read the build's packages."""
        return _decided(data, Rule()).present


class SgxEnclavesVerifiedTest(koji.policy.BaseSimpleTest):
    """sgx_enclaves_verified [RULE]: true if a record of a build with enclaves fits the rule."""

    name = "sgx_enclaves_verified"
    policy = _POLICIES

    def __init__(self, str: str) -> None:
        super().__init__(str)
        with koji_errors():
            self.rule = parse_rule(str.split()[1:], settings().signers)

    def run(self, data: dict[str, Any]) -> bool:
        """Compare the record with the build's packages."""
        decision = _decided(data, self.rule)
        return decision.present and decision.allowed
