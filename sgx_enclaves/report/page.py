# SPDX-License-Identifier: GPL-2.0-or-later
"""What every HTML report is made of: one page, no scripts, nothing to load, all escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --bad: #c01c28; --unsure: #9a6700; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.35rem; border-left: .5rem solid; padding: .2rem .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
.identical, .proved { color: var(--ok); }
.differs, .refuted { color: var(--bad); }
.unverifiable, .not-done { color: var(--unsure); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; }
code { font: 13px/1.4 ui-monospace, monospace; }
.whole { white-space: nowrap; }
.bar { display: flex; height: 1.1rem; border-radius: .2rem; overflow: hidden; margin: .5rem 0; }
.bar span { min-width: 2px; }
.built { background: #4c8ed9; } .regenerated { background: #3fa66a; }
.signature { background: #d9a521; } .unexplained { background: #d43c45; }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; }
.hint { opacity: .75; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page; the title is text, the parts are HTML, empty ones are left out."""
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{text(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>"
    )
    return "\n".join([head, *(part for part in parts if part), "</body>\n</html>\n"])


def text(value: object) -> str:
    """Escaped; control characters, which HTML forbids, as `\\xNN`."""
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))
    return html.escape(shown)


def code(value: object) -> str:
    """The value in a fixed-width face."""
    return f"<code>{text(value)}</code>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are HTML already."""
    head = "".join(f"<th>{text(h)}</th>" for h in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"
