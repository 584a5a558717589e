# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The bench: what is measured, alternating between paths, and what is made of the figures. See bench/README.md."""
