# SPDX-License-Identifier: GPL-2.0-or-later
"""What the stand-in for mock understands of mock's command line and configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.koji.machine.standin.request import parse, read_config

CONFIG = """
config_opts['root'] = 'demo-build-1-2'
config_opts['basedir'] = '/scratch/mock'
config_opts['chroot_setup_cmd'] = 'install @srpm-build'
config_opts['rpmbuild_networking'] = False
config_opts['yum.conf'] = '[main]\\n[build]\\nname=build\\nbaseurl=http://127.0.0.1:1/repos/x/\\n'
config_opts['plugin_conf']['ccache_enable'] = False
config_opts['macros']['%vendor'] = 'Koji'
"""


@pytest.mark.parametrize(
    ("argv", "mode", "words"),
    [
        (["--init"], "init", []),
        (["--chroot", "uname -r"], "chroot", ["uname -r"]),
        (["--no-clean", "--chroot", "--", "rpm", "-iv", "x"], "chroot", ["rpm", "-iv", "x"]),
        (["--cwd", "/x", "--chroot", "ls", "--all"], "chroot", ["ls", "--all"]),
        (["--target", "x86_64", "--rebuild", "/x.src.rpm"], "rebuild", ["/x.src.rpm"]),
        (["--install", "gcc", "make"], "install", ["gcc", "make"]),
    ],
)
def test_the_calls_that_kojid_makes(argv: list[str], mode: str, words: list[str]) -> None:
    args = parse(["-r", "koji/x", *argv])
    assert (args.mode, args.words, args.root) == (mode, words, "koji/x")


@pytest.mark.parametrize("argv", [[], ["--init", "--clean"], ["--no-such-option", "--init"]])
def test_what_it_does_not_know_is_an_error(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["-r", "koji/x", *argv])
    assert stopped.value.code == 2


@pytest.mark.parametrize("command", ["install @srpm-build", "groupinstall srpm-build"])
def test_a_configuration_as_koji_writes_it(tmp_path: Path, command: str) -> None:
    (tmp_path / "koji").mkdir()
    (tmp_path / "koji/x.cfg").write_text(CONFIG.replace("install @srpm-build", command))
    config = read_config("koji/x", str(tmp_path))
    assert config.root == Path("/scratch/mock/demo-build-1-2/root")
    assert config.repositories == ("http://127.0.0.1:1/repos/x",)
    assert (config.group, config.network) == ("srpm-build", False)
    assert config.macros == {"%vendor": "Koji"}
