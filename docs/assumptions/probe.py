# SPDX-License-Identifier: GPL-2.0-only
"""What every probe says: one line per fact, and an exit status."""
import sys

sys.dont_write_bytecode = True
SKIP = 77
_no = 0


def fact(words, holds, detail=""):
    """Print yes or no; a "no" makes the probe fail."""
    global _no
    _no += not holds
    print(f"{'yes' if holds else 'NO '} {words}{': ' + str(detail) if detail else ''}", flush=True)


def skip(why):
    """This machine cannot tell."""
    print(f"skipped: {why}")
    sys.exit(SKIP)


def done():
    """Exit."""
    sys.exit(1 if _no else 0)
