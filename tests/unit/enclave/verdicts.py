# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of verdicts ask of one."""

from __future__ import annotations

from sgx_enclaves.enclave.verdict import CheckState, Outcome, Verdict

CHECKS = ("payload", "metadata", "measurement", "signature", "policy")


def codes(verdict: Verdict) -> list[str]:
    """The findings' names, in order."""
    return [finding.code for finding in verdict.findings]


def refuted(verdict: Verdict) -> list[str]:
    """The checks that said no."""
    return [check.name for check in verdict.checks if check.state is CheckState.REFUTED]


def assert_only(verdict: Verdict, *expected: str) -> None:
    """The verdict is *differs* because of these checks; all others proved their claim.

    So the test that asserts this fails when those checks are taken out.
    """
    states = {check.name: check.state for check in verdict.checks}
    assert tuple(states) == CHECKS
    wanted = {
        name: CheckState.REFUTED if name in expected else CheckState.PROVED for name in CHECKS
    }
    assert states == wanted, verdict.findings
    assert verdict.outcome is Outcome.DIFFERS


def assert_unverifiable(verdict: Verdict, code: str) -> None:
    """The verdict is *unverifiable*, and this is the reason."""
    assert verdict.outcome is Outcome.UNVERIFIABLE
    assert code in codes(verdict), verdict.findings
