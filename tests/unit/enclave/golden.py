# SPDX-License-Identifier: GPL-2.0-or-later
"""The golden values of tests/data/golden: how they are read, and the images they are about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

from tests.enclaves.synthetic import Enclave, Load, Relocation, Tls, build

DATA = Path(__file__).resolve().parents[2] / "data" / "golden"


def lines(name: str) -> Iterator[dict[str, Any]]:
    """The records of a JSON lines file."""
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def image_shapes() -> dict[str, dict[str, Any]]:
    """Name to parameters of each synthetic image."""
    shapes: dict[str, dict[str, Any]] = json.loads((DATA / "images.json").read_text("utf-8"))
    return shapes


def write_image(shape: Mapping[str, Any], sdk: str) -> bytes:
    """The unsigned enclave that the parameters of an image describe.

    Args:
        shape: fields of `Enclave`; `tls` as [bytes in memory, alignment] or None,
            a load as [address, bytes in the file, bytes in memory, p_flags, alignment],
            `relocations` as addresses.
        sdk: release whose enclave it is.
    """
    fields = dict(shape)
    fields["trailing"] = fields.get("trailing", "").encode("ascii")
    tls: Optional[tuple[int, int]] = fields.pop("tls", (0x90, 0x10))
    relocations = fields.pop("relocations", None)
    return build(
        Enclave(
            sdk=sdk,
            tls=None if tls is None else Tls(memsz=tls[0], align=tls[1]),
            loads=[
                Load(vaddr, bytes(i & 0xFF for i in range(filesz)), memsz, flags, align)
                for vaddr, filesz, memsz, flags, align in fields.pop("loads", ())
            ],
            relocations=None if relocations is None else [Relocation(at) for at in relocations],
            **fields,
        )
    ).data
