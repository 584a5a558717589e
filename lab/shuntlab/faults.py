# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What the fault scenarios share: state as both sides see it, checked transfers, and a way into a segment."""
import contextlib
import json
import mmap
import os
import re
import signal
import socket
import time

from . import lab as labs
from .scenario import expect, expect_equal, wait_until

LINK_SECONDS = 60


def host_of(lab, vm):
    """The host a guest runs on."""
    return getattr(lab, vm.host)


def pair(lab, one, two):
    """What the daemon says of two VMs."""
    for found in host_of(lab, one).status()["pairs"]:
        if {found["a"], found["b"]} == {one.name, two.name}:
            return found
    return None


def end(entry, vm):
    """The end of a pair that is @vm's."""
    return next(e for e in entry["ends"] if e["vm"] == vm.name)


def served(lab, vm):
    """What the daemon says of a VM."""
    return next((found for found in host_of(lab, vm).status()["vms"] if found["name"] == vm.name), None)


def status(vm):
    """What a guest's module says."""
    return json.loads(vm.shunt("status", "--json"))


def peer(vm, other):
    """What a guest says of a peer; an empty dictionary when it knows none of that name."""
    return next((p for p in status(vm)["peers"] if p["name"] == other.name), {})


def counter(vm, other, name):
    """A counter of a guest's end of a link; 0 when there is none."""
    return peer(vm, other).get("stats", {}).get(name, 0)


def reason(entry):
    """The reason's token of what either side said."""
    return (entry or {}).get("reason", {}).get("name")


def is_up(lab, one, two):
    """Do the daemon and both guests say that the link is up?"""
    entry = pair(lab, one, two)
    return (entry and entry["state"] == "up" and entry["path"] == "packet" and
            all(peer(x, y).get("link") == "up" for x, y in ((one, two), (two, one))) and entry)


@contextlib.contextmanager
def pinging(vm, other, interval=0.01, size=56):
    """Echo requests all the while."""
    running = vm.bg(f"exec ping -q -i {interval} -s {size} {other.ip}")
    try:
        running.wait_output("PING")
        yield running
    finally:
        running.stop(signal.SIGKILL)


def wait_link(lab, one, two, timeout=LINK_SECONDS):
    """Make traffic until the pair's link is up at both ends; what the daemon says of it."""
    entry = is_up(lab, one, two)
    if entry:
        return entry
    with pinging(one, two):
        try:
            return wait_until(lambda: is_up(lab, one, two), timeout, "the link is up", every=0.2)
        except AssertionError:
            print(host_of(lab, one).shunt("status"), one.shunt("status"), two.shunt("status"), sep="\n")
            raise


def wait_down(vm, other, reasons, timeout=10):
    """
    Wait until a guest's link to @other is no longer in use. It must say why, unless the peer left the roster
    with its QEMU: then its host must. What was said.
    """
    def left():
        entry = peer(vm, other)
        return None if entry.get("link") in ("up", "opening", "stalled", "closing") else [entry]
    start = time.monotonic()
    entry = wait_until(left, timeout, f"{vm.name} says that the link to {other.name} is down")[0]
    why = entry.get("link_reason", {}).get("name")
    if not entry:
        entry = pair(vm.lab, vm, other) | {"link": "none"}
        expect_equal(served(vm.lab, other)["state"], "gone", f"{other.name} left the roster, so its state")
        why = reason(entry)
    print(f"{vm.name}: {entry['link']} ({why}) after {time.monotonic() - start:.2f} s")
    expect(entry["path"] == "network" and why in reasons, f"{vm.name}'s link to {other.name}: {entry}")
    return entry


def restart_guest(vm):
    """A guest that was reset comes up again, and gets the command and the module."""
    vm.wait_ready()
    labs.install(vm.name)
    vm.module(True)


def network_works(one, two):
    """The two reach each other, whatever the path."""
    one.sh(f"ping -q -c 5 -i 0.02 -W 5 {two.ip}", timeout=20)


def log_position(host):
    """Where the daemon's log ends now."""
    return len(host.log)


def wait_log(host, position, pattern, timeout=20):
    """Wait for a line of the daemon's log after @position; the match."""
    return wait_until(lambda: re.search(pattern, host.log[position:]), timeout, f"the log says {pattern!r}",
                      every=0.002)


@contextlib.contextmanager
def configured(lab, text):
    """shuntd runs with @text as its configuration for a while."""
    path = lab.host1.dir / "shuntd.conf"
    old = path.read_text()

    def use(new):
        path.write_text(new)
        position = log_position(lab.host1)
        os.kill(lab.host1.daemon_pid, signal.SIGHUP)
        wait_log(lab.host1, position, "config-loaded")
    use(text)
    try:
        yield
    finally:
        use(old)


def tap_frames(lab, vm):
    """Frames that left a guest by its virtual NIC: those that took the network."""
    return int(host_of(lab, vm).sh(f"cat /sys/class/net/{vm.name}/statistics/rx_packets"))


class Transfer:
    """
    TCP from one guest to another at a steady pace until told to finish; the hashes of what was sent and of what
    arrived must agree, and the receiver knows its longest wait.
    """
    RECEIVER = r"""
import hashlib, socket, sys, time
server = socket.create_server(("", int(sys.argv[1])))
s = server.accept()[0]
digest, total, gap, last = hashlib.sha256(), 0, 0.0, time.monotonic()
while data := s.recv(262144):
    now = time.monotonic()
    gap, last = max(gap, now - last), now
    digest.update(data)
    total += len(data)
print(total, digest.hexdigest(), gap, flush=True)
"""
    SENDER = r"""
import hashlib, random, signal, socket, sys, time
going = True
def finish(*_):
    global going
    going = False
signal.signal(signal.SIGINT, finish)
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
block, digest, total = random.Random(4).randbytes(65536), hashlib.sha256(), 0
print("connected", flush=True)
while going:
    piece = total.to_bytes(8, "little") + block[total % 4093:][:16384]
    s.sendall(piece)
    digest.update(piece)
    total += len(piece)
    time.sleep(0.01)
s.close()
print(total, digest.hexdigest(), flush=True)
"""
    port = 7100

    def __init__(self, source, target):
        Transfer.port += 1
        target.sh("cat >/tmp/receiver.py", stdin=self.RECEIVER.encode())
        source.sh("cat >/tmp/sender.py", stdin=self.SENDER.encode())
        self.receiver = target.serve(f"exec python3 /tmp/receiver.py {self.port}", self.port)
        self.sender = source.bg(f"exec python3 /tmp/sender.py {target.ip} {self.port}")
        self.sender.wait_output("connected")

    def finish(self, timeout=60):
        """End it: both hashes must agree. The receiver's longest wait in seconds."""
        sent = self.sender.stop(signal.SIGINT, timeout)
        expect(sent.ok, f"the sender failed: {sent}")
        received = self.receiver.wait(timeout)
        expect_equal(received.out.split()[:2], sent.out.split()[1:3], "bytes and hash received")
        print(f"transferred {received.out.split()[0]} bytes, longest wait {received.out.split()[2]} s")
        return float(received.out.split()[2])


# --- descriptors and memory of QEMU ---

def descriptors(vm):
    """What a VM's QEMU holds: {memfd name: (descriptor, inode)} and the ids of its eventfds."""
    base = f"/proc/{vm.record['qemu']['pid']}"
    memfds, eventfds = {}, set()
    for fd in os.listdir(f"{base}/fd"):
        with contextlib.suppress(FileNotFoundError):        # QEMU closed it meanwhile
            target = os.readlink(f"{base}/fd/{fd}")
            if target.startswith("/memfd:shunt-"):
                memfds[target.removeprefix("/memfd:").split(" ")[0]] = (int(fd), os.stat(f"{base}/fd/{fd}").st_ino)
            elif target == "anon_inode:[eventfd]":
                with open(f"{base}/fdinfo/{fd}", encoding="ascii") as info:
                    eventfds.add(int(re.search(r"eventfd-id:\s*(\d+)", info.read())[1]))
    return memfds, eventfds


@contextlib.contextmanager
def pair_memory(vm, segment):
    """The pair segment's memory, as the host maps it through a QEMU's descriptor."""
    fd, _ = descriptors(vm)[0][f"shunt-pair-{segment}"]
    with open(f"/proc/{vm.record['qemu']['pid']}/fd/{fd}", "r+b", buffering=0) as file:
        with mmap.mmap(file.fileno(), 0) as memory:
            yield memory


def connect_unix(path):
    """A client's end of a UNIX socket."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(path))
    return client
