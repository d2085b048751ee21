# SPDX-License-Identifier: GPL-2.0-or-later
"""`python3 -m sgx_enclaves`: the same as the command `sgx-enclaves`."""

import sys

from sgx_enclaves.cli.main import main

sys.exit(main())
