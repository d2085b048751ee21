# SPDX-License-Identifier: GPL-2.0-or-later
"""How far steps are shut off inside a buildroot: no network, no rights to leave.

Koji and mock may have seen to that already; here it is done by the buildroot's own
util-linux besides, and what came of it is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

from .chroot import Chroot

_PROBE_TIMEOUT = 20.0
_UNSHARE = ("unshare", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--")
# Installers that run as root unpack with owners; nothing else is needed.
_SETPRIV = (
    "setpriv",
    "--no-new-privs",
    "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid",
    "--inh-caps=-all",
)
_ROUTES = ("cat", "/proc/self/net/route", "/proc/self/net/ipv6_route")


@dataclass(frozen=True)
class Shutters:
    """How far steps can be shut off in a buildroot.

    Attributes:
        prefix: what comes before each command.
        network: whether steps can reach one.
        missing: what could not be done, in words.
    """

    prefix: tuple[str, ...]
    network: bool
    missing: tuple[str, ...]


def find_shutters(chroot: Chroot) -> Shutters:
    """Try what the buildroot's programs can do."""
    commands = [[*_UNSHARE, "true"], [*_SETPRIV, "true"], [*_UNSHARE, *_ROUTES], _ROUTES]
    unshare, setpriv, inner, outer = chroot.run_all(commands, _PROBE_TIMEOUT)
    prefix: tuple[str, ...] = ()
    missing = []
    routes = outer
    if unshare.status == 0:
        prefix, routes = _UNSHARE, inner
    else:
        missing.append(f"processes of their own: {_short(unshare.text)}")
    if setpriv.status == 0:
        prefix += _SETPRIV
    else:
        missing.append(f"fewer rights: {_short(setpriv.text)}")
    # what cannot be seen counts as a way out
    network = routes.status != 0 or has_routes(routes.text)
    return Shutters(prefix, network, tuple(missing))


def _short(text: str) -> str:
    return " ".join(text.split())[:200]


def has_routes(text: str) -> bool:
    """Whether the kernel's routing tables lead anywhere but to the machine itself.

    Args:
        text: `/proc/net/route`, which has a header unless there is no table at all,
            then `/proc/net/ipv6_route`.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return any(line[0] not in ("Iface", "lo") and line[-1] != "lo" for line in lines)
