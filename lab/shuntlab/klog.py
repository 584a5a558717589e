# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The verdict on a guest's kernel log."""
import re

BAD = re.compile(r"WARNING:|BUG:|BUG |\bOops|general protection|kernel panic|lockdep|INFO: task .* blocked|hung task"
                 r"|rcu.*(stall|detected)|soft lockup|hard lockup|Call Trace|unreferenced object|leaked|refcount_t"
                 r"|UBSAN|KASAN|KCSAN|possible (circular|recursive) locking|suspicious RCU|unregister_netdevice: waiting"
                 r"|scheduling while atomic|sleeping function called|page allocation failure|Out of memory", re.I)
# Lines a clean boot prints that BAD would catch.
HARMLESS = re.compile(r"rcu: (Preemptible|Hierarchical|\tRCU)|RCU calculated|rcu_scheduler|debug_locks"
                      r"|Command line:|Lockdown|lockdown|kernel: Linux version"
                      r"|MP-BIOS bug: 8254 timer")      # a starved emulator's; the kernel goes on by another timer


def problems(text):
    """The lines of a kernel log that no test may leave behind."""
    return [line for line in text.splitlines() if BAD.search(line) and not HARMLESS.search(line)]
