# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for mock, as far as a Koji builder asks of mock; not mock.

Its chroot is the host's own /usr and /etc, read-only, with what the build tag's repository has laid
over them. The packages of the tag's groups and what an SRPM requires are unpacked there and
registered in the chroot's RPM database *if the repository has them*; everything else is the host's
and is not registered. So the hub's list of a buildroot's components is true of the tag's packages.
"""
