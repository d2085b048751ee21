# SPDX-License-Identifier: GPL-2.0-or-later
"""Sphinx's configuration; `make docs` lays the sources out and builds them."""

from __future__ import annotations

from sgx_enclaves import __version__

project = "sgx-enclaves"
release = __version__
root_doc = "docs/index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {"page_width": "72em", "sidebar_width": "16em"}
html_show_copyright = False
# The hub's policies have no highlighter.
suppress_warnings = ["misc.highlighting_failure"]
