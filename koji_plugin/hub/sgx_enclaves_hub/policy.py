# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy tests for hub.conf: does a build hold signed enclaves, and were they verified?

tag =
    operation tag move && tag f42* && sgx_enclaves_present :: {
        sgx_enclaves_verified max_age=30d signer=intel !! deny enclaves are not verified
    }
"""

from __future__ import annotations

from typing import Any

import koji
import koji.policy

from sgx_enclaves.gate.rule import Rule, parse_rule

from . import hub_api
from .config import settings
from .gate import judge
from .hub_api import koji_errors

# Other policies have no build in their data.
_POLICIES = ("tag", "draft_promotion")


def _build_in(data: dict[str, Any]) -> dict[str, Any]:
    """The build that a policy is asked about: an id, an NVR or a mapping, as the route has it."""
    build = data.get("build")
    if isinstance(build, dict):
        build = build["id"]
    if not build:
        raise koji.GenericError("the policy needs a build")
    found: dict[str, Any] = hub_api.get_build(build, strict=True)
    return found


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
        with koji_errors():
            return judge(_build_in(data), [Rule()])[0].present


class SgxEnclavesVerifiedTest(koji.policy.BaseSimpleTest):
    """sgx_enclaves_verified [RULE]: true if a record of the build counts, and fits the rule.

    False for a build without signed enclaves: it has nothing to verify.
    """

    name = "sgx_enclaves_verified"
    policy = _POLICIES

    def __init__(self, str: str) -> None:
        super().__init__(str)
        with koji_errors():
            self.rule = parse_rule(str.split()[1:], settings().signers)

    def run(self, data: dict[str, Any]) -> bool:
        """Compare the record with the build's packages."""
        with koji_errors():
            decision = judge(_build_in(data), [self.rule])[0]
        return decision.present and decision.allowed
