# SPDX-License-Identifier: GPL-2.0-or-later
"""What `protonmsg` derives its handler from."""


class MessagingHandler:
    """Has nothing of its own."""
