# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The plots, by gnuplot, from results.json alone."""


def draw(_out):
    """None yet."""
    return []
