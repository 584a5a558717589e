# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The machine the figures come from, in words that stand beside them."""
import os
import pathlib
import platform
import re
import subprocess
import time

from shuntlab.paths import BUILD, TOP


def first(pattern, path, default="unknown"):
    """The first match of a pattern in a file."""
    found = re.search(pattern, pathlib.Path(path).read_text(errors="replace"), re.M)
    return found[1].strip() if found else default


def output(*argv):
    """The first line a command prints; "" if it cannot be run."""
    try:
        done = subprocess.run(argv, cwd=TOP, text=True, capture_output=True)
    except FileNotFoundError:
        return ""
    return (done.stdout.splitlines() or [""])[0]


def describe(accelerator):
    """What the results say of the machine: {what: value}."""
    gib = int(first(r"^MemTotal:\s+(\d+)", "/proc/meminfo", "0")) / 2 ** 20
    return {"date": time.strftime("%Y-%m-%d %H:%M"),
            "processor": first(r"^model name\s*:\s*(.*)$", "/proc/cpuinfo"),
            "cores": os.cpu_count(), "memory": f"{gib:.0f} GiB", "host kernel": platform.release(),
            "load before": round(os.getloadavg()[0], 2),
            "virtual machines": {"kvm": "KVM", "tcg": "emulated (TCG)"}[accelerator],
            "qemu": output("qemu-system-x86_64", "--version"),
            "vhost-net": os.path.exists("/dev/vhost-net"),
            "shunt": output("git", "describe", "--always", "--dirty") or "no version known"}


def raw_ring():
    """
    What the rings do between two processes of this host, by bench/ring-bench: {"stream": bit/s, "rr": round trips/s};
    {} when it does not say.
    """
    done = subprocess.run([BUILD / "bench/ring-bench"], text=True, capture_output=True)
    trip = re.search(r"round trip\s+ring\s+([\d.]+) ns", done.stdout)
    bulk = re.search(r"64 KiB\s+ring\s+([\d.]+) Gbit/s", done.stdout)
    return {"stream": float(bulk[1]) * 1e9, "rr": 1e9 / float(trip[1])} if trip and bulk else {}
