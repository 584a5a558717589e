# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What this lab has created, on disk, so that any later command can find it and `down` can remove it."""
import contextlib
import fcntl
import json
import os
import signal
import select

from .paths import LabError, lab_dir

EMPTY = {"hosts": {}, "vms": {}, "options": {}, "wire": None}


def load():
    """The state as a dictionary; EMPTY when no lab is up."""
    try:
        return json.loads((lab_dir() / "state.json").read_text())
    except FileNotFoundError:
        return json.loads(json.dumps(EMPTY))


def save(state):
    """Replace the state on disk."""
    path = lab_dir() / "state.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(state, indent=1) + "\n")
    fresh.rename(path)


@contextlib.contextmanager
def locked(path=None):
    """Hold the lock of this lab (or of a cached thing): commands that change it take turns."""
    path = path or lab_dir() / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def vm_record(state, name):
    """The record of VM @name."""
    if name not in state["vms"]:
        known = ", ".join(sorted(state["vms"])) or "no lab is up"
        raise LabError(f"no VM {name!r} ({known})")
    return state["vms"][name]


def process(pid):
    """How a process is recorded: its pid and start time, since pids are used again."""
    return {"pid": pid, "start": start_time(pid)}


def start_time(pid):
    """Start time of @pid in clock ticks, or None when there is no such process (or only its zombie)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            fields = f.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def alive(record):
    """Is the recorded process still the one that runs?"""
    return bool(record) and record["start"] is not None and start_time(record["pid"]) == record["start"]


def kill(record, timeout=10, sig=signal.SIGKILL):
    """Kill the recorded process, and only that one, and wait until it is gone. False: it still lives."""
    if not alive(record):
        return True
    try:
        fd = os.pidfd_open(record["pid"])
    except ProcessLookupError:
        return True
    try:
        if alive(record):       # still the same one, now that the descriptor pins it
            signal.pidfd_send_signal(fd, sig)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(timeout * 1000))
    except ProcessLookupError:
        return True
    finally:
        os.close(fd)
