# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Lines on stderr that say what is being waited for."""
import sys
import time

START = time.monotonic()
quiet = False


def say(text):
    """One line of progress with the seconds since the start."""
    if not quiet:
        print(f"[{time.monotonic() - START:6.1f}s] {text}", file=sys.stderr, flush=True)
