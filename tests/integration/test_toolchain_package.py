# SPDX-License-Identifier: GPL-2.0-or-later
"""The designated toolchain's spec file with the real rpmbuild, on archives of toy tools.

The toys stand in for hours of compiling: this machine's gcc behind a script that reads a
specs file where gcc does. What the spec file itself does with the tools is real.
"""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from demo.packages import Built, Workshop, can_install, rpm_in, run
from demo.release import sha256
from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.cli.main import main
from tests.enclaves.compiled import have_toolchain

pytestmark = [
    pytest.mark.skipif(not shutil.which("rpmbuild"), reason="rpmbuild is not installed"),
    pytest.mark.skipif(not have_toolchain(), reason="gcc, ld, strip or make is not installed"),
]

NAME = "sgx-2.25-dcap-1.22"
RELEASE = load_catalogue((OWN_FOLDER,)).release(NAME)
assert RELEASE.toolchain is not None
PREFIX = f"{RELEASE.toolchain.prefix}"
INTERPRETER = f"{RELEASE.toolchain.interpreter}"
TOOLS = {tool.name: tool for tool in RELEASE.toolchain.tools if tool.source is not None}

# Keeps what it was configured with; `make` alone does nothing. gcc compares its manual with what
# that is made from when it is installed; in a distribution's archive neither is there.
CONFIGURE = """\
#!/bin/sh
echo "$*" > configured
prefix=$(echo "$*" | sed 's,.*--prefix=\\([^ ]*\\).*,\\1,')
{
    echo "all:"
    echo "	mkdir -p gcc"
    case "$0" in *gcc/configure)
        echo "install: gcc/s-tm-texi"
        echo "gcc/s-tm-texi:"
        echo "	false"
    esac
    echo "install:"
    echo "	mkdir -p $(DESTDIR)$prefix/bin $(DESTDIR)$prefix/lib/gcc"
    echo "	cp $(dirname "$0")/tools/* configured $(DESTDIR)$prefix/bin"
} > Makefile
"""
GCC = """\
#!/bin/sh
lib=$(dirname "$(dirname "$(readlink -f "$0")")")/lib/gcc
case "$1" in
-print-libgcc-file-name) echo "$lib/libgcc.a"; exit ;;
-dumpspecs) exec /usr/bin/gcc "$1" ;;
esac
specs=
if test -e "$lib/specs"; then specs=-specs=$lib/specs; fi
printf 'GCC: (@COMMENT@) 9.5.0\\0' > comment
/usr/bin/gcc -fno-ident $specs -Wl,--hash-style=@HASH@,--@DTAGS@-new-dtags "$@" || exit
case "$*" in *-c*) objcopy --add-section .comment=comment probe.o ;; esac
rm comment
"""
OTHERS = ("as", "ld", "readelf")


@dataclass
class Toys:
    """Toy tools and the spec file that packages them.

    Attributes:
        folder: the test's own.
        comment: what the compiler says of whose it is.
        hash_style: what its linker writes; `dtags` likewise.
        wrong: tools whose archive is not the pinned one.
    """

    folder: Path
    comment: str = "GNU"
    hash_style: str = "both"
    dtags: str = "enable"
    wrong: set[str] = field(default_factory=set)

    def archive_of(self, tool: str) -> bytes:
        """The archive of one tool, as upstream's is laid out."""
        script = GCC.replace("@COMMENT@", self.comment).replace("@HASH@", self.hash_style)
        script = script.replace("@DTAGS@", self.dtags)
        programs = {"gcc": {"gcc": script}, "nasm": {"nasm": "#!/bin/sh\n"}}.get(
            tool, {name: f'#!/bin/sh\nexec /usr/bin/{name} "$@"\n' for name in OTHERS}
        )
        files = {f"tools/{name}": text for name, text in programs.items()}
        files["configure"] = CONFIGURE.replace("$(DESTDIR)", "\\$(DESTDIR)")
        for licence in ("COPYING3", "COPYING3.LIB", "COPYING.RUNTIME", "LICENSE"):
            files[licence] = f"{licence} of {tool}\n"
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, text in files.items():
                member = tarfile.TarInfo(f"{tool}-1.0/{name}")
                member.size, member.mode = len(text), 0o755
                tar.addfile(member, io.BytesIO(text.encode()))
        return packed.getvalue()

    def build(self, *more: str) -> Built:
        """Write the spec file beside the archives, and run rpmbuild."""
        text = (OWN_FOLDER / f"{NAME}.toml").read_text("utf-8")
        sources = self.folder / "sources"
        sources.mkdir()
        for name, tool in TOOLS.items():
            assert tool.source is not None
            data = self.archive_of(name)
            digest = "0" * 64 if name in self.wrong else sha256(data)
            text = text.replace(f"{tool.source.sha256}", digest)
            (sources / tool.source.filename).write_bytes(data)
        entry = self.folder / f"{NAME}.toml"
        entry.write_text(text, "utf-8")
        spec = self.folder / "toolchain.spec"
        words = ["spec", NAME, "--kind", "toolchain", "--catalogue", str(entry), "-o", str(spec)]
        assert main(words) == 0
        shop = Workshop(self.folder, self.folder)
        return shop.rpmbuild("-ba", spec, "--define", f"_sourcedir {sources}", *more)


@pytest.fixture(name="toys")
def _toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path)


def test_the_package_has_tools_that_bake_the_designated_paths_in(toys: Toys) -> None:
    built = toys.build()
    assert built.status == 0, built.text
    (package,) = built.packages
    provides = run(["rpm", "-qp", "--provides", str(package)]).text.splitlines()
    assert f"sgx-toolchain({NAME}) = 9.5.0" in provides
    assert {f"bundled({t.name}) = {t.version}" for t in TOOLS.values()} <= set(provides)
    form = "[%{FILENAMES} %{FILEMODES:perms} %{FILELINKTOS}\\n]"
    files = run(["rpm", "-qp", "--qf", form, str(package)]).text.splitlines()
    # a link to the distribution's loader, and where sources are built
    up = "../" * (INTERPRETER.count("/") - 1)
    assert f"{INTERPRETER} lrwxrwxrwx {up}lib64/ld-linux-x86-64.so.2" in files
    assert "/linux-sgx drwxrwxrwt " in files
    assert f"{PREFIX}/bin/cc lrwxrwxrwx gcc" in files
    assert any(re.match(r"/usr/share/licenses/\S+/gcc/COPYING.RUNTIME ", file) for file in files)
    if not can_install():
        return
    root = toys.folder / "root"
    root.mkdir()
    done = run([*rpm_in(root), "--install", "--nodeps", "--nosignature", str(package)])
    assert done.status == 0, done.text
    configured = (root / PREFIX[1:] / "bin/configured").read_text()
    assert f"--prefix={PREFIX} " in configured
    assert "--enable-languages=c,c++ --with-linker-hash-style=both" in configured
    assert INTERPRETER in (root / PREFIX[1:] / "lib/gcc/specs").read_text()


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({"comment": "Debian 12.2.0-14"}, "%check"),
        ({"hash_style": "gnu"}, "%check"),
        ({"dtags": "disable"}, "%check"),
        ({"wrong": {"binutils"}}, "%prep"),
    ],
)
def test_tools_that_are_not_upstreams_are_not_packaged(
    tmp_path: Path, changes: dict[str, object], stage: str
) -> None:
    built = Toys(tmp_path, **changes).build()  # type: ignore[arg-type]
    assert built.stage == stage, built.text
    assert built.packages == ()
