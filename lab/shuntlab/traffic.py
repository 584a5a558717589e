# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
Which path traffic takes: for scenarios that say "through shared memory" or "over the network" and must prove it.

The proof is double: the guests' own counters of the link, and the frames the host's tap devices saw.
"""
import contextlib
import json
import signal

from .paths import LAB
from .scenario import expect, wait_until

GUEST_TOOLS = LAB / "scenarios/guest"
LINK_SECONDS = 30
STRAY_FRAMES = 25       # what else may cross a tap meanwhile: ARP, neighbour discovery, router solicitations


def peer(vm, other):
    """What @vm's module says of its peer @other: link, path, reason, stats...; {} if it is not on the roster."""
    for entry in json.loads(vm.shunt("peers", "--json")):
        if entry["name"] == other.name:
            return entry
    return {}


def stats(vm, other):
    """The counters of @vm's end of the link to @other; there must be one."""
    entry = peer(vm, other)
    expect("stats" in entry, f"{vm.name} has no link to {other.name}: {entry}")
    return entry["stats"]


def causes(vm, other):
    """Why frames from @vm to its linked peer @other took the network: frames by cause."""
    return peer(vm, other)["network_causes"]


def is_up(a, b):
    """Do both ends say that the link is up?"""
    return all(peer(x, y).get("link") == "up" for x, y in ((a, b), (b, a)))


def link_up(lab, a=None, b=None, timeout=LINK_SECONDS):
    """Make traffic between two VMs (vm1 and vm2) until their link is up at both ends."""
    a, b = a or lab.vm1, b or lab.vm2
    if is_up(a, b):
        return
    pinging = a.bg(f"while :; do ping -q -i 0.005 -c 200 {b.ip} >/dev/null; done", timeout=timeout + 30)
    try:
        wait_until(lambda: is_up(a, b), timeout, f"the link between {a.name} and {b.name} is up", every=0.1)
    finally:
        pinging.stop(signal.SIGKILL)


def tool(vm, name):
    """Put one of lab/scenarios/guest into a VM; the command that runs it."""
    vm.put(GUEST_TOOLS / name, f"/usr/local/bin/{name}")
    return f"exec python3 /usr/local/bin/{name}"


PORT = 7036


def exchange(a, b, address=None, inside=("", ""), mib=4, sizes=(56, 1400, 8000)):
    """
    Any traffic from @a to @address of @b (or of stations inside them: @inside is put before their commands): echo
    requests, datagrams that come back unchanged, and one TCP connection that carries @mib each way, every byte
    compared. Nothing may be lost.
    """
    address = address or b.ip
    before, behind = (f"{word} " if word else "" for word in inside)
    for vm in (a, b):
        if vm.run("test -e /usr/local/bin/station.py").status:
            for name in ("stream.py", "datagram.py", "station.py"):
                tool(vm, name)
    server = b.bg(f"{behind}python3 /usr/local/bin/station.py serve {PORT} {mib << 20}")
    server.wait_output("listening")
    for size in sizes:
        out = a.sh(f"{before}ping -q -c 5 -i 0.02 -W 5 -s {size} {address}")
        expect("5 received, 0% packet loss" in out, f"{size} bytes to {address}: {out}")
    a.sh(f"{before}python3 /usr/local/bin/station.py visit {address} {PORT} {mib << 20} {' '.join(map(str, sizes))}",
         timeout=120)
    server.wait(30)


def tap_frames(vm):
    """Frames the VM sent over its real NICs, as its host counts them."""
    host = getattr(vm.lab, vm.host)
    return sum(map(int, host.sh(f"cat /sys/class/net/{vm.name}/statistics/rx_packets "
                                f"/sys/class/net/{vm.name}-*/statistics/rx_packets 2>/dev/null || :").split()))


class Counted:
    """What a block of traffic did, in both directions; filled in at its end."""

    def __init__(self, a, b):
        self.ends = (a, b)
        self.before = self._look()
        self.after = None

    def _look(self):
        a, b = self.ends
        return [(stats(x, y), tap_frames(x)) for x, y in ((a, b), (b, a))]

    def end(self):
        """Count, once what was sent has been received."""
        def settled():
            self.after = self._look()
            return all(self.grown(i, "tx_frames") == self.grown(1 - i, "rx_frames") for i in (0, 1))
        wait_until(settled, 10, "all frames put into the rings were received")

    def grown(self, end, counter):
        """By how much a counter of an end (0 or 1) grew."""
        return self.after[end][0][counter] - self.before[end][0][counter]

    def tap(self, end):
        """Frames an end sent over the network."""
        return self.after[end][1] - self.before[end][1]

    def __str__(self):
        return "; ".join(f"{vm.name}: " + ", ".join(f"{k} +{self.grown(i, k)}" for k in self.after[i][0]
                                                     if self.grown(i, k)) + f", tap +{self.tap(i)}"
                         for i, vm in enumerate(self.ends))


@contextlib.contextmanager
def by_ring(a, b, frames, back=0, stray=STRAY_FRAMES):
    """
    The traffic of the block takes shared memory: at least @frames frames from @a to @b and @back the other way. The
    network sees only what had to go there (counted by the module) and @stray others.
    """
    counted = Counted(a, b)
    yield counted
    counted.end()
    print(f"by ring: {counted}")
    for i, least in enumerate((frames, back)):
        name = counted.ends[i].name
        expect(counted.grown(i, "tx_frames") >= least, f"{name} sent too little by ring: wanted {least}; {counted}")
        excused = counted.grown(i, "tx_returned") + counted.grown(i, "tx_ineligible")
        if not counted.grown(i, "stalls"):      # while it is stalled, a link's frames take the network uncounted
            expect(counted.tap(i) <= excused + stray, f"{name} sent too much over the network: {counted}")
        expect(counted.grown(i, "rx_refused") == 0, f"{name} refused frames: {counted}")


@contextlib.contextmanager
def by_network(a, b, frames, back=0, ring=0):
    """The traffic of the block takes the network, at least so many frames; the rings carry @ring at most."""
    counted = Counted(a, b)
    yield counted
    counted.end()
    print(f"by network: {counted}")
    for i, least in enumerate((frames, back)):
        name = counted.ends[i].name
        expect(counted.tap(i) >= least, f"{name} sent too little over the network: wanted {least}; {counted}")
        expect(counted.grown(i, "tx_frames") <= ring, f"{name} sent too much by ring: {counted}")
