# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The lab: boots real VMs on namespaces that stand for hosts."""
