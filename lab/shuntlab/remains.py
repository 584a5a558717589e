# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What is left of a lab that should be gone."""
import os
import pathlib

from . import paths


def remains(directory):
    """What a lab left behind: processes, namespaces, files of its state."""
    tag = paths.lab_tag(directory)
    left = [f"namespace {n}" for n in os.listdir("/run/netns") if n.startswith(tag)]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(f"={directory}/vms" in word or f"{directory}/host" in word for word in words):
            left.append(f"process {pid}")
    return left + [p for p in ("state.json", "vms", "host1") if os.path.exists(f"{directory}/{p}")]
