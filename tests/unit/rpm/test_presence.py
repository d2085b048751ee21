# SPDX-License-Identifier: GPL-2.0-or-later
"""What Provides and file names say of enclaves, and what they do not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from sgx_enclaves.rpm.presence import (
    ENCLAVE_FOLDER,
    HINTS,
    Evidence,
    contains_signed_enclaves,
    evidence,
    is_suspect,
)

UNSIGNED = ENCLAVE_FOLDER + "libsgx_pce.so"
SIGNED = ENCLAVE_FOLDER + "libsgx_pce.signed.so.1.25.100.1"


def test_a_signed_package_of_fedora() -> None:
    provides = ["sgx-enclave(ide:signed) = 1.22", "sgx-enclave(ide:signed:prebuilt)", "x(y)"]
    files = [ENCLAVE_FOLDER + f"libsgx_id_enclave.signed.so{v}" for v in ("", ".1", ".1.22.100.1")]
    found = tuple(evidence(provides, [*files, ENCLAVE_FOLDER[:-1], "/usr/share/licenses/x"]))
    assert found == (
        Evidence(provides[0], "ide", True),
        Evidence(provides[1], "ide", True),
        *(Evidence(path, "ide", True) for path in files),
    )
    assert is_suspect(provides, files)
    assert contains_signed_enclaves(provides, files)


def test_an_unsigned_package_of_fedora() -> None:
    provides = ["sgx-enclave(pce:unsigned)", "sgx-enclave(pce:unsigned:reproducible) = 1.25"]
    assert [e.signed for e in evidence(provides, [UNSIGNED])] == [False] * 3
    assert is_suspect(provides, [])
    assert not contains_signed_enclaves(provides, [UNSIGNED])


def test_either_list_is_enough() -> None:
    for provides, files in ((["sgx-enclave(pce:signed)"], []), ([], [SIGNED])):
        assert is_suspect(provides, files)
        assert contains_signed_enclaves(provides, files)
        # Any iterable will do, also one that can be read once only.
        assert is_suspect(iter(provides), iter(files))


@pytest.mark.parametrize(
    ("provide", "name"),
    [
        ("sgx-enclave(mine)", "mine"),
        ("sgx-enclave(mine:other)", "mine"),
        ("sgx-enclave(mine:unsignedx)", "mine"),
        ("sgx-enclave(:signed)", None),
        ("sgx-enclave(", None),
        ("sgx-enclave(x:signed", "x"),
    ],
)
def test_a_provides_that_is_odd_asks_for_trust(provide: str, name: str | None) -> None:
    assert tuple(evidence([provide], [])) == (Evidence(provide, name, True),)


@pytest.mark.parametrize(
    ("path", "signed"),
    [
        (UNSIGNED, False),
        (SIGNED, True),
        (ENCLAVE_FOLDER + "deep/er/anything.so.1", False),
        ("/opt/vendor/mine.signed.so", True),
        ("/opt/vendor/mine.signed.so.old", True),
        ("/usr/lib64/libsgx_qe3.so.1", False),
    ],
)
def test_paths_of_enclaves(path: str, signed: bool) -> None:
    assert [e.signed for e in evidence([], [path])] == [signed]
    assert is_suspect([], [path])
    assert contains_signed_enclaves([], [path]) is signed


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/usr/lib64/libsgx_urts.so.2",
        "/usr/lib64/libsgx_dcap_ql.so.1",
        ENCLAVE_FOLDER,
        ENCLAVE_FOLDER + "libsgx_tstdc.a",
        "/usr/x86_64-intel-sgx/include/sgx.h",
        "/usr/share/x.signed.so/readme",
        "/usr/lib64/x86_64-intel-sgx/lib64/libx.so",
    ],
)
def test_paths_of_other_things(path: str) -> None:
    assert not any(evidence([], [path]))


@pytest.mark.parametrize("provide", ["", "sgx-enclave", "x-sgx-enclave(pce:signed)", "sgx-common"])
def test_provides_of_other_things(provide: str) -> None:
    assert not any(evidence([provide], []))


PIECES = st.lists(
    st.sampled_from(
        ["/usr", "/x86_64-intel-sgx/lib64/", "libsgx_", "pce", ".signed", ".so", ".1", "/", "a"]
    ),
    max_size=7,
).map("".join)


@given(st.lists(PIECES, max_size=4), st.lists(PIECES, max_size=4))
def test_all_functions_agree_and_the_hints_are_in_every_evidence(
    provides: list[str], files: list[str]
) -> None:
    provides = [f"sgx-enclave({p})" if p.startswith("a") else p for p in provides]
    found = tuple(evidence(provides, files))
    assert is_suspect(provides, files) >= bool(found)
    assert contains_signed_enclaves(provides, files) is any(e.signed for e in found)
    assert all(any(hint in e.text for hint in HINTS) for e in found)


def test_it_is_light_and_reads_nothing() -> None:
    """A server that only wants to know must not load cryptography, or the ELF reader."""
    code = (
        "import sys, sgx_enclaves.rpm.presence\n"
        "print(*(n for n in sys.modules if n.split('.')[0] in ('sgx_enclaves', 'cryptography')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == {
        "sgx_enclaves",
        "sgx_enclaves.rpm",
        "sgx_enclaves.rpm.presence",
    }
