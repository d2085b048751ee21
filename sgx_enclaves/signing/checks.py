# SPDX-License-Identifier: GPL-2.0-or-later
"""Option values that the signing tool refuses together.

Source: CMetadata::check_xml_parameter in
sdk/sign_tool/SignTool/manage_metadata.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sgx_enclaves.errors import ConfigError
from sgx_enclaves.format.config import Config
from sgx_enclaves.format.elf import PAGE_SIZE

_PAGED = (
    "StackMaxSize",
    "StackMinSize",
    "HeapMaxSize",
    "HeapMinSize",
    "HeapInitSize",
    "ReservedMemMaxSize",
    "ReservedMemMinSize",
    "ReservedMemInitSize",
    "UserRegionSize",
)


def check_values(values: Mapping[str, int], config: Config) -> None:
    """Refuse what the tool refuses.

    Args:
        values: every option's value, defaults filled in.
        config: which of them the file really gives.

    Raises:
        ConfigError: naming the first rule that is broken.
    """
    for problem in _problems(values, config.given):
        raise ConfigError(problem, file=config.name)


def _problems(values: Mapping[str, int], given: Mapping[str, int]) -> Iterator[str]:
    for name in _PAGED:
        if values[name] % PAGE_SIZE:
            yield f"{name} is not a multiple of 0x{PAGE_SIZE:x}: 0x{values[name]:x}"
    if values["StackMinSize"] > values["StackMaxSize"]:
        yield "StackMinSize is larger than StackMaxSize"
    for kind in ("Heap", "ReservedMem"):
        minimum, initial, maximum = (f"{kind}{part}Size" for part in ("Min", "Init", "Max"))
        middle = initial if initial in given else maximum
        if values[minimum] > values[middle]:
            yield f"{minimum} is larger than {middle}"
        if values[middle] > values[maximum]:
            yield f"{middle} is larger than {maximum}"
    if bool(values["HW"]) != bool(values["LaunchKey"]):
        yield "HW and LaunchKey must be both zero or both not"
    threads = "TCSMaxNum" if "TCSMaxNum" in given else "TCSNum"
    if values[threads] < values["TCSNum"]:
        yield "TCSMaxNum is smaller than TCSNum"
    if "TCSMinPool" in given and values["TCSMinPool"] > values[threads]:
        yield f"TCSMinPool is larger than {threads}"
    identities = ("ISVFAMILYID_H", "ISVFAMILYID_L", "ISVEXTPRODID_H", "ISVEXTPRODID_L")
    if not values["EnableKSS"] and any(values[name] for name in identities):
        yield "ISVFAMILYID and ISVEXTPRODID need EnableKSS"
    if "ELRangeSize" not in given:
        for name in ("EnclaveImageAddress", "ELRangeStartAddress"):
            if name in given:
                yield f"{name} needs ELRangeSize"
    if values["EnableIPPFIPS"] and values["EnableOSSLFIPS"]:
        yield "EnableIPPFIPS and EnableOSSLFIPS exclude each other"
