# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs beside the tests, under the system's Python: never imports pytest or Koji's client."""
