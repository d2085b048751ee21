# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of explanations share: a build, its metadata, and a vendor's file of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Optional

import pytest

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.enclave.verdict import Explanation
from sgx_enclaves.errors import SgxEnclavesError, UnsupportedError
from sgx_enclaves.explain.explain import Explainer

PLAIN = {
    "ProdID": 1,
    "ISVSVN": 16,
    "ProvisionKey": 1,
    "DisableDebug": 1,
    "StackMinSize": 0x5000,
    "StackMaxSize": 0x5000,
    "HeapMinSize": 0x8000,
    "HeapMaxSize": 0x8000,
    "TCSMinPool": 0,
}


@dataclass(frozen=True)
class Case:
    """Our build, and the metadata that follow from it."""

    built: EnclaveImage
    config: Config
    regenerated: Regenerated

    @classmethod
    def of(
        cls, data: bytes, sdk: str = "2.25", options: Optional[Mapping[str, int]] = None
    ) -> Case:
        built = EnclaveImage.parse(data, "built")
        config = Config(dict(PLAIN if options is None else options))
        return cls(built, config, regenerate(built, config, generation_named(sdk)))

    def signed(self, descriptor: Optional[bytes] = None, data: Optional[bytes] = None) -> bytes:
        """The vendor's file; its signature fields are zero, which no explanation looks at."""
        data = self.built.data if data is None else data
        image = EnclaveImage.parse(data)
        descriptor = self.regenerated.descriptor if descriptor is None else descriptor
        end = image.descriptor_offset + len(descriptor)
        return data[: image.descriptor_offset] + descriptor + data[end:]

    def explain(self, signed: bytes, **options: Any) -> Explanation:
        generation = self.regenerated.generation
        explainer = Explainer(self.built, signed, generation, self.config, "signed", **options)
        return explainer.explanation()

    def with_options(self, **changes: int) -> bytes:
        """The vendor's descriptor, had its config other values."""
        config = Config({**self.config.given, **changes})
        return regenerate(self.built, config, self.regenerated.generation).descriptor


def _worked_here(work: Callable[[], bytes], *, what: str, **_: float) -> bytes:
    try:
        return work()
    except SgxEnclavesError:
        raise
    except Exception as error:
        raise UnsupportedError(what, found=str(error)) from None


@contextmanager
def described_here() -> Iterator[None]:
    """Files are described in this process: where hundreds are, and a child shows nothing more.

    As from a child, an error is one of ours.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgx_enclaves.explain.description.in_child", _worked_here)
        yield


def codes(explanation: Explanation) -> list[str]:
    return [cause.code for cause in explanation.causes]


def message(explanation: Explanation, code: str) -> str:
    """What the causes with a code say, one a line."""
    return "\n".join(cause.message for cause in explanation.causes if cause.code == code)
