# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
CPU time of the host, around one run. Two accounts:

- `moving`: the QEMU processes with all their threads, the kernel threads vhost has for them, shuntd, and a rival's
  switch. QEMU writes to and reads from the tap by system calls, so the work of tap and bridge is in its system time;
  what neighbours on the machine do is not in it. Results are given in this one.
- `host`: all that /proc/stat counts as not idle, neighbours and the bench included: to see that nothing is left out.
"""
import os
import re

TICK = os.sysconf("SC_CLK_TCK")


def of_process(pid):
    """Seconds of user and system time of a process, all its threads; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def of_host():
    """Seconds the host's CPUs were not idle since it started."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = [int(x) for x in file.readline().split()[1:9]]
    return (user + nice + system + irq + softirq + steal) / TICK


def vhost_threads(pids):
    """Kernel threads named vhost-PID of these processes."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/comm", encoding="ascii", errors="replace") as file:
                match = re.fullmatch(r"vhost-(\d+)", file.read().strip())
        except OSError:
            continue
        if match and int(match[1]) in pids:
            found.append(int(entry))
    return found


class Meter:
    """The accounts of the processes that move data for a lab."""

    def __init__(self, pids):
        self.pids = list(pids) + vhost_threads(set(pids))

    def read(self):
        """(moving, host) in seconds; the difference of two of them is what a run took."""
        return sum(of_process(pid) for pid in self.pids), of_host()
