# SPDX-License-Identifier: GPL-2.0-or-later
"""`python3 -m sgx_enclaves_rpmlint`: rpmlint with the check, from a checkout."""

from __future__ import annotations

import sys

from sgx_enclaves_rpmlint.hook import register


def main() -> int:
    """Run rpmlint with the program's arguments; its exit status."""
    register()
    try:
        from rpmlint.cli import lint  # noqa: PLC0415
    except ImportError as error:
        print(f"rpmlint cannot be imported: {error}; install rpmlint and rpm", file=sys.stderr)
        return 2
    sys.argv[0] = "rpmlint"
    status: int = lint() or 0
    return status


if __name__ == "__main__":
    sys.exit(main())
