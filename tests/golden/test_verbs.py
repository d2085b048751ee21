# SPDX-License-Identifier: GPL-2.0-or-later
"""What each verb of the command prints, and what it says of a file that it cannot take."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.enclaves.synthetic import small_enclave
from tests.golden import enclaves
from tests.golden.stored import check
from tests.golden.subjects import CATALOGUE, command
from tests.support.keys import VENDOR_PEM, public_pem, vendor_key
from tests.support.signed import fips_enclave, signed_enclave
from tests.support_rpm import RpmFile, folder, link, write_rpm
from tests.unit.release import tarmaker

LIBRARIES = "/usr/x86_64-intel-sgx/lib64/"
SIGNED = f"{LIBRARIES}libsgx_pce.signed.so"

SHOWN = "sgx-2.25-dcap-1.22"
# What cryptography says of a key, which differs between its releases.
_LIBRARY = re.compile(r"\(found [^)]*PEM[^)]*\)")

# Every line is the arguments of a run; "-> FILE" prints the digest of what was written.
RUNS = """
show signed.so
show built.so
show fips.so
show elrange.so
show interpreter.so
show symbols.so
show text-relocations.so
show damaged.so
show empty.so
show text.txt
show absent.so
show .
show signed.so --json
show fips.so --json
measure signed.so
measure built.so --config built.xml
measure built.so
measure signed.so --json
measure damaged.so
verify-signature signed.so --signer vendor.pem
verify-signature signed.so
verify-signature fips.so --signer vendor.pem
verify-signature foreign.so --signer vendor.pem
verify-signature built.so --signer vendor.pem
verify-signature signed.so --enclave pce
verify-signature signed.so --signer vendor.pem --json
verify-signature text.txt --signer vendor.pem
extract-signature signed.so -o signature.bin -> signature.bin
extract-signature built.so -o none.bin
graft built.so signature.bin --config built.xml --signer vendor.pem -o grafted.so -> grafted.so
graft other.so signature.bin --config built.xml --signer vendor.pem -o none.so
graft built.so text.txt --config built.xml --signer vendor.pem -o none.so
sign built.so --config built.xml --key key.pem --date 2024-02-29 -o own.so -> own.so
sign signed.so --config built.xml --key key.pem --date 2024-02-29 -o none.so
sign built.so --config bad.xml --key key.pem --date 2024-02-29 -o none.so
sign built.so --config built.xml --key vendor.pem --date 2024-02-29 -o none.so
compare built.so signed.so --config built.xml
compare built.so signed.so --config bad.xml --signer vendor.pem
compare built.so signed.so --config absent.xml --signer vendor.pem
compare built.so signed.so --config built.xml --signer text.txt
compare built.so signed.so --config built.xml --sdk 9.9
compare built.so signed.so --config built.xml --sdk 2.25 --signer vendor.pem
compare built.so signed.so --config built.xml --enclave pce
compare other.so signed.so --config built.xml --signer vendor.pem
compare interpreter.so signed.so --config built.xml --signer vendor.pem
compare symbols.so signed.so --config built.xml --signer vendor.pem
compare built.so fips.so --config built.xml --signer vendor.pem
check-rpm tree/sub/signed.rpm --reference reference --signer vendor.pem
check-rpm tree/sub/signed.rpm --reference reference --signer vendor.pem --json
check-rpm tree/sub/signed.rpm --signer vendor.pem
check-rpm tree/sub/signed.rpm --reference absent --signer vendor.pem
check-rpm tree/sub/signed.rpm unsigned.rpm --signer vendor.pem
check-rpm unsigned.rpm
check-rpm tampered.rpm --reference reference --signer vendor.pem
check-rpm tree/hidden.rpm --reference reference --signer vendor.pem
check-rpm tree/broken.rpm
check-rpm tree/plain0.rpm
check-rpm packed.rpm --reference reference --signer vendor.pem
check-rpm six.rpm --reference reference --signer vendor.pem
check-rpm text.txt
check-rpm absent.rpm
scan tree --reference reference --signer vendor.pem --jobs 1
scan tree --reference reference --signer vendor.pem --jobs 1 --headers
scan tree --reference reference --signer vendor.pem --jobs 1 --deep
scan tree --reference reference --signer vendor.pem --jobs 1 --deep --json
scan absent
contents sources.tar
contents sources.tar --list
contents sources.tar --json --list
contents sources.tar --expect 00
contents text.txt
check-built reference
spec nothing --kind prebuilt
nothing
"""


def lay_out(here: Path) -> None:
    """The files that the runs are about."""
    case, fips = signed_enclave("2.17"), fips_enclave()
    spoiled, pairs = enclaves.spoiled(), enclaves.synthetic()
    files = {
        "built.so": case.built,
        "built.xml": case.config,
        "signed.so": case.signed,
        "fips.so": fips.signed,
        "foreign.so": spoiled["foreign signer"].signed,
        "damaged.so": case.signed[:5000],
        "other.so": pairs["other-code"].built,
        "empty.so": b"",
        "text.txt": b"no enclave\n",
        "bad.xml": b"<EnclaveConfiguration><ProdID>many</ProdID></EnclaveConfiguration>",
        "vendor.pem": public_pem(vendor_key()),
        "key.pem": VENDOR_PEM.read_bytes(),
        "reference/libsgx_pce.so": case.built,
        "reference/libsgx_pce.config.xml": case.config,
        **packages(case.signed, case.built, case.config),
    }
    for name in ("elrange", "interpreter", "symbols", "text-relocations"):
        files[f"{name}.so"] = pairs[name].signed
    for name in ("interpreter", "symbols"):
        files[f"{name}.so"] = pairs[name].built
    members = (tarmaker.directory("top/"), tarmaker.file("top/a"), tarmaker.symlink("top/b", "a"))
    files["sources.tar"] = b"".join([*members, tarmaker.END])
    for name, data in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(data)


def packages(signed: bytes, built: bytes, config: bytes) -> dict[str, bytes]:
    """Packages, unpacked: how tightly one is packed depends on the library."""
    full = f"{SIGNED}.1.25.100.1"
    files = [RpmFile(full, signed, 0o100755), link(f"{SIGNED}.1", full), link(SIGNED, full)]
    provides: dict[str, Any] = {"provides": ["sgx-enclave(pce:signed)"], "compressor": None}
    other = [RpmFile("/usr/lib/libx.so", small_enclave(note=None)), folder("/usr/share/x")]
    plain = write_rpm(other, provides=["x"], compressor=None)
    unsigned = [
        RpmFile(f"{LIBRARIES}libsgx_pce.so", built),
        RpmFile("/usr/share/sgx-enclaves/pce.config.xml", config),
    ]
    tampered = signed.replace(enclaves.CODE, b"\x90" + enclaves.CODE[1:])
    return {
        "tree/plain0.rpm": plain,
        "tree/plain1.rpm": plain,
        "tree/broken.rpm": plain[:-5],
        "tree/hidden.rpm": write_rpm([RpmFile("/usr/share/cat.jpg", signed)], compressor=None),
        "tree/sub/signed.rpm": write_rpm(files, **provides),
        "tampered.rpm": write_rpm([RpmFile(full, tampered)], **provides),
        "packed.rpm": write_rpm(files, **{**provides, "compressor": "xz"}),
        "six.rpm": write_rpm(files, v6=True, **provides),
        "unsigned.rpm": write_rpm(
            unsigned,
            name="sgx-enclave-reproducible-pce-unsigned",
            provides=["sgx-enclave(pce:unsigned:reproducible)"],
            compressor=None,
        ),
    }


def shown(here: Path, arguments: Sequence[str], written: str) -> str:
    text = command(here, *arguments).text.replace(str(here), "<here>")
    text = _LIBRARY.sub("(found <the library's words>)", text)
    if written:
        text += f"{written}: {hashlib.sha256((here / written).read_bytes()).hexdigest()}\n"
    return text


def test_what_verbs_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lay_out(tmp_path)
    texts = []
    for run in RUNS.strip().splitlines():
        arguments, _, written = run.partition(" -> ")
        texts.append(f"=== {run}\n{shown(tmp_path, arguments.split(), written)}")
    check("verbs.txt", "\n".join(texts))


def test_every_spec_file_of_the_catalogue(tmp_path: Path) -> None:
    """The whole catalogue is read, and most of it goes into these."""
    names = sorted(path.stem for path in CATALOGUE.glob("*.toml"))
    assert len(names) > 5
    texts = []
    for name in names:
        for kind in ("reproducible", "prebuilt", "grafted"):
            options = ("--kind", kind, "--date", "2026-01-01", "--allow-unpinned")
            output = command(tmp_path, "spec", name, *options)
            digest = hashlib.sha256(output.out.encode()).hexdigest()[:12]
            texts.append(f"{name} {kind}: {output.status} {digest} {output.err.strip()}")
            if name == SHOWN:
                check(f"{kind}.spec", output.out)
    check("specs.txt", "\n".join(texts))
