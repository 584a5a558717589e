#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The real shuntd against real QEMU processes, without a guest system.

A test says HELLO for the absent guest by writing to the uplink's memory through /proc/PID/fd, where
the memfd is found as shuntd itself finds it after a restart.
"""
import json
import mmap
import os
import shutil
import socket
import struct
import subprocess
import sys

import fakevm as f
from harness import World, check, equal, run

QEMU = "qemu-system-x86_64"


class Qemu:
    """A QEMU with a QMP socket for shuntd and one for the test."""

    def __init__(self, w, name, n, *args):
        self.name = name
        self.qmp = f"{w.d.rt}/vms.d/{name}.qmp"
        mine = f"{w.work}/{name}.test"
        self.err = open(f"{w.work}/{name}.err", "w+", encoding="utf-8")
        self.proc = subprocess.Popen(
            ["timeout", "120", QEMU, *(args or ["-machine", "pc,accel=tcg"]), "-nodefaults", "-display",
             "none", "-m", "64", "-name", name, "-netdev", "hubport,id=n0,hubid=0", "-device",
             f"virtio-net-pci,netdev=n0,mac=52:54:00:00:01:{n:02x}", "-qmp",
             f"unix:{self.qmp},server=on,wait=off", "-qmp", f"unix:{mine},server=on,wait=off"],
            stderr=self.err)
        w.vms.append(self)
        w.d.wait_any(f"vm-attached vm={name} ")
        self.pid = w.d.vm(name)["pid"]
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(mine)
        self.file = self.sock.makefile("rw")
        self.file.readline()
        self.command("qmp_capabilities")

    def command(self, name, **args):
        self.file.write(json.dumps({"execute": name, "arguments": args}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "event" not in answer:
                return answer

    def devices(self):
        return sorted(d["name"] for d in self.command("qom-list", path="/machine/peripheral")["return"]
                      if d["type"] == "child<ivshmem-doorbell>")

    def alive(self):
        return self.command("query-status")["return"]["status"]

    def stderr(self):
        self.err.seek(0)
        return [line for line in self.err if "hub 0 is not connected" not in line]

    def kill(self):
        self.proc.kill()
        if os.path.exists(f"/proc/{self.pid}/stat"):
            try:
                os.kill(self.pid, 9)
            except ProcessLookupError:
                pass
        self.proc.wait()

    # --- the absent guest's part ---

    def memfd(self, kind):
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            path = f"/proc/{self.pid}/fd/{fd}"
            if os.readlink(path).startswith(f"/memfd:shunt-{kind}-"):
                return path
        return None

    def guest(self, w, generation):
        fd = os.open(self.memfd("up"), os.O_RDWR)
        mem = mmap.mmap(fd, os.fstat(fd).st_size)
        os.close(fd)
        box, = struct.unpack_from("<I", mem, f.AT["shunt_abi_segment.mailbox_off"])
        self.up = f.Ring(mem, box, box + f.MAILBOX_HEAD)
        self.down = f.Ring(mem, box + 256, box + f.MAILBOX_HEAD + f.MAILBOX_RING)
        self.post(w, f.HELLO, struct.pack("<HHIQQ64s64s64s", 1, 1, 0, 0, generation, b"none", b"none", b""))

    def post(self, w, kind, body):
        """Without a doorbell: shuntd finds it when it looks next, which a restart makes it do."""
        check(self.up.put(struct.pack("<HHI", kind, 0, 0) + body), "mailbox full")

    def messages(self):
        out = []
        while (m := self.down.take()) is not None:
            out.append(m)
        return out


def kinds(messages):
    return [struct.unpack_from("<H", m)[0] for m in messages]


def two(w):
    a, b = Qemu(w, "a", 1), Qemu(w, "b", 2)
    for name in "a", "b":
        w.d.wait_any(f"plugged vm={name} ")
    w.d.result("status")    # answered after the state file was written
    return a, b


def link(w, a, b):
    for i, vm in enumerate((a, b)):
        vm.guest(w, 50 + i)
    w.d.restart()
    for name in "a", "b":
        w.d.wait_any(f"plugged vm={name} device=shunt-pair-")
    w.d.wait_any("state=offered")
    w.d.result("status")    # answered after what was decided has been published


def test_plug_uplinks_and_a_pair(w):
    a, b = two(w)
    equal(w.d.vm("a")["macs"], ["52:54:00:00:01:01"], "MAC from QEMU")
    equal(w.d.vm("a")["reason"]["name"], "no-module", "no guest")
    link(w, a, b)
    for vm in a, b:
        equal(len(vm.devices()), 2, "devices")
        equal(vm.alive(), "running", "QEMU lives")
        equal(vm.stderr(), [], "QEMU is content")
        m = vm.messages()
        check(f.WELCOME in kinds(m) and f.LINK_OPEN in kinds(m), kinds(m))
        opened = next(x for x in m if kinds([x]) == [f.LINK_OPEN])
        bdf = struct.unpack_from("<QIIQI", opened, 8)[4]
        pci = vm.command("query-pci")["return"][0]["devices"]
        slots = {d["qdev_id"]: d["slot"] for d in pci}
        equal(bdf >> 3, next(s for q, s in slots.items() if q.startswith("shunt-pair-")), "slot")


def test_adoption_from_real_qemu(w):
    a, b = two(w)
    link(w, a, b)
    before = [vm.devices() for vm in (a, b)], w.d.pair("a", "b")
    path = a.memfd("pair")
    with open(path, "r+b") as mem:
        mem.seek(1 << 20)
        mem.write(b"still here")
    for _ in range(3):
        w.d.restart()
        for _ in range(2):
            w.d.wait_log("vm-attached")
    equal([vm.devices() for vm in (a, b)], before[0], "devices")
    after = w.d.pair("a", "b")
    for key in "segment", "epoch", "state":
        equal(after[key], before[1][key], key)
    with open(path, "rb") as mem:
        mem.seek(1 << 20)
        equal(mem.read(10), b"still here", "memory")
    check(not w.d.in_log("not-adopted|purge"), "everything was adopted")


def test_sealed(w):
    a, _ = two(w)
    fd = os.open(a.memfd("up"), os.O_RDWR)
    try:
        os.ftruncate(fd, 0)
        check(False, "an uplink's memfd could be shrunk")
    except PermissionError:
        pass
    finally:
        os.close(fd)


def test_peer_qemu_killed(w):
    a, b = two(w)
    link(w, a, b)
    b.kill()
    w.d.wait_any("vm-exited vm=b")
    w.d.wait_any("state=closing")
    before = w.d.pair("a", "b")
    seg, epoch = before["segment"], before["epoch"]
    check(f.LINK_CLOSE in kinds(a.messages()), "a is told")
    w.d.kill9()     # first: it must not take the answer, and forget it
    other = 2 if before["a"] == "a" else 1    # b's number on the segment
    a.post(w, f.LINK_STATE, struct.pack("<QIIII", int(seg, 16), epoch, f.CLOSED, 0, other))
    w.d.start()
    w.d.wait_any(f"state=parked .*epoch={epoch + 1}")
    equal(w.d.pair("a", "b")["epoch"], epoch + 1, "the epoch after scrubbing")
    equal(a.alive(), "running", "the survivor")
    equal(len(a.devices()), 2, "keeps its device")


def test_q35_ports(w):
    args = ["-machine", "q35,accel=tcg"]
    Qemu(w, "noport", 3, *args)
    w.d.wait_any("plug-failed vm=noport .*no free pcie-root-port")
    q = Qemu(w, "ports", 4, *args, "-device", "pcie-root-port,id=rp1,chassis=1,pref64-reserve=256M")
    w.d.wait_any("plugged vm=ports ")
    equal(len(q.devices()), 1, "plugged into the port")
    equal(q.alive(), "running", "QEMU lives")
    equal(q.stderr(), [], "QEMU is content")


def test_slots_exhausted(w):
    args = ["-machine", "pc,accel=tcg"]
    for slot in range(3, 32):
        args += ["-device", f"pci-testdev,addr={slot:#x}"]
    q = Qemu(w, "full", 5, *args)
    w.d.wait_any("plug-failed vm=full .*reason=no-slot")
    equal(q.alive(), "running", "QEMU lives")
    equal(q.command("query-chardev")["return"][0]["label"][:5] != "shunt", True, "no chardev left")


def test_busy_monitor(w):
    a, _ = two(w)
    mine = f"{w.work}/a.test"
    code, _, err = w.d.cli("attach", "--qmp", mine)
    equal(code, 1, "busy")
    check("give shuntd one of its own" in err, err)
    equal(a.alive(), "running", "QEMU lives")


if __name__ == "__main__":
    if not shutil.which(QEMU):
        print(f"skip: {QEMU} is not installed")
        sys.exit(77)
    for t in list(globals().values()):
        if getattr(t, "__name__", "").startswith("test_"):
            t.world = lambda: World('plug = "eager"; qmp_greeting_timeout_ms = 500;')
    run([v for k, v in list(globals().items()) if k.startswith("test_")])
