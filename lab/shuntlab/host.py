# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""A host of the lab: a network namespace with a bridge, addresses 10.77.0.N and fd77::N."""
import os
import subprocess

from .paths import LabError, lab_dir, lab_tag


def ip(*args, netns=None, check=True):
    """Run ip(8)."""
    argv = ["ip"] + (["-n", netns] if netns else []) + [str(a) for a in args]
    done = subprocess.run(argv, text=True, capture_output=True)
    if check and done.returncode:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done


def netns_exists(name):
    """Is there such a named namespace?"""
    return os.path.exists(f"/run/netns/{name}")


def directory(host):
    """What belongs to @host: its daemon's files and logs, its VMs' QMP sockets."""
    return lab_dir() / host


def create(number, wire=None):
    """Make host @number; joined to the namespace @wire when there are several. Its record."""
    name = f"host{number}"
    netns = f"{lab_tag()}-{name}"
    if netns_exists(netns):
        raise LabError(f"namespace {netns} exists already: `lab/shunt-lab down` first")
    (directory(name) / "run/vms.d").mkdir(parents=True, exist_ok=True)
    ip("netns", "add", netns)
    ip("link", "set", "lo", "up", netns=netns)
    ip("link", "add", "br0", "type", "bridge", "stp_state", 0, "forward_delay", 0, netns=netns)
    subprocess.run(["ip", "netns", "exec", netns, "sysctl", "-q", "-w", "net.ipv6.conf.br0.accept_dad=0",
                    "net.ipv6.conf.br0.accept_ra=0"], check=False)
    ip("link", "set", "br0", "up", netns=netns)
    ip("addr", "add", f"10.77.0.{number}/24", "dev", "br0", netns=netns)
    ip("addr", "add", f"fd77::{number}/64", "dev", "br0", "nodad", netns=netns)
    if wire:
        ip("link", "add", "wire0", "type", "veth", "peer", "name", name, "netns", wire, netns=netns)
        ip("link", "set", "wire0", "master", "br0", "up", netns=netns)
        ip("link", "set", name, "master", "br0", "up", netns=wire)
    return {"netns": netns, "number": number, "shuntd": None}


def create_wire():
    """The switch between several hosts; the name of its namespace."""
    netns = f"{lab_tag()}-wire"
    ip("netns", "add", netns)
    ip("link", "add", "br0", "type", "bridge", "stp_state", 0, "forward_delay", 0, netns=netns)
    ip("link", "set", "br0", "up", netns=netns)
    return netns


def add_tap(record, tap, queues=1):
    """A tap on the host's bridge. Kept by the namespace, so that a killed VM can be started again."""
    netns = record["netns"]
    if ip("link", "show", tap, netns=netns, check=False).returncode == 0:
        return
    ip("tuntap", "add", tap, "mode", "tap", "vnet_hdr", *(["multi_queue"] if queues > 1 else []), netns=netns)
    ip("link", "set", tap, "master", "br0", "up", netns=netns)


def remove_netns(netns):
    """Delete a namespace and with it every link in it."""
    if netns and netns_exists(netns):
        ip("netns", "del", netns, check=False)
