# SPDX-License-Identifier: GPL-2.0-or-later
"""Put the vendor's signatures on our build, and hand it out only if it verifies."""

from __future__ import annotations

from typing import Optional

from sgx_enclaves.enclave.compare import compare, detect_generation, require_unsigned
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.policy import Policy
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sdk import Generation
from sgx_enclaves.enclave.sign import parse_signatures, put_on
from sgx_enclaves.enclave.verdict import Outcome, Verdict
from sgx_enclaves.errors import GraftError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits


def graft(
    built: bytes,
    signatures: bytes,
    config: bytes,
    policy: Policy,
    *,
    names: tuple[str, str, str] = ("built", "signatures", "config.xml"),
    generation: Optional[Generation] = None,
    fips: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[bytes, Verdict]:
    """The signed enclave made of our bytes and the vendor's signatures.

    Args:
        built: the unsigned enclave that we made.
        signatures: a signature file, see `sgx_enclaves.enclave.sign`.
        config: the enclave's config.xml.
        policy: what must hold of each signature.
        names: what to call the three files.
        generation: the SDK to follow; None chooses it from the build.
        fips: see `regenerate`.
        limits: bounds on memory and time.

    Returns:
        The file, and its verdict, which is always *identical*.

    Raises:
        GraftError: the signatures are not for this build, or do not satisfy the
            policy. Nothing may be written then.
        FormatError, ConfigError, UnsupportedError, LimitError: bad input.
    """
    image = EnclaveImage.parse(built, names[0], limits)
    require_unsigned(image)
    chosen = generation or detect_generation(image)
    regenerated = regenerate(image, Config.parse(config, names[2], limits), chosen, fips, limits)
    descriptor = put_on(regenerated, parse_signatures(signatures, regenerated))
    result = built[: image.descriptor_offset] + descriptor + built[image.descriptor_end :]
    verdict = compare(
        built,
        result,
        config,
        policy,
        names=(names[0], names[1], names[2]),
        generation=chosen,
        limits=limits,
    )
    if verdict.outcome is not Outcome.IDENTICAL:
        worst = verdict.findings[0]
        raise GraftError(
            f"the graft does not verify: {worst.message}",
            file=names[1],
            expected=worst.expected,
            found=worst.found,
            hint=worst.hint or "nothing was written",
        )
    return result, verdict
