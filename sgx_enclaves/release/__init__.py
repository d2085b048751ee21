# SPDX-License-Identifier: GPL-2.0-or-later
"""What a release is made of, and how its parts are brought here.

The only room of the core that uses the network and starts processes. Nothing
is imported here: a program that only compares files must not pay for HTTPS.
"""
