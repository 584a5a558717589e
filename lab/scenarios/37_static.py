# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""VMs without QMP: their device is on QEMU's command line, they are one group; a fourth VM is not in it."""
import mmap
import random
import time

from shuntlab.faults import *
from shuntlab.scenario import *

SETUP = {"vms": 4, "static": ["vm1", "vm2", "vm3"]}
DEAD = ("peer-dead",)
LEFT = ("peer-closed", "module-unloaded", "no-module")


def members(lab):
    """The VMs of the group."""
    return lab.vms[:3]


def couples(lab):
    """Every two of them."""
    return [(a, b) for a in members(lab) for b in members(lab) if a.name < b.name]


def all_linked(lab):
    """Wait for all links of the group; what the daemon says of each."""
    return {(a.name, b.name): wait_link(lab, a, b) for a, b in couples(lab)}


def grows(vm, other, frames=20):
    """Frames go from @vm to @other by their link."""
    before = counter(vm, other, "tx_frames")
    wait_until(lambda: counter(vm, other, "tx_frames") >= before + frames, 20,
               f"{vm.name} sends to {other.name} by the link")


def test_three_talk(lab):
    """Every two members talk by shared memory, in one segment, on one device; both sides say that it is a group."""
    links = all_linked(lab)
    expect_equal(len({entry["segment"] for entry in links.values()}), 1, "segments")
    for (a, b), entry in zip(couples(lab), links.values()):
        expect_equal((entry["kind"], entry["group"]), ("group", "lab"), "what the daemon says of the link")
        transfer = Transfer(a, b)
        grows(a, b)
        grows(b, a, 5)
        on_tap = tap_frames(lab, a)
        grows(a, b)
        expect(tap_frames(lab, a) < on_tap + 20, f"{a.name} sends by its NIC: {on_tap} {tap_frames(lab, a)}")
        transfer.finish()
    for vm in members(lab):
        expect_equal(status(vm)["kind"], "group", f"what {vm.name} says of its uplink")
        expect_equal({p["name"]: p["kind"] for p in status(vm)["peers"]},
                     {other.name: "group" for other in members(lab) if other is not vm}, "its links")
        expect_equal(served(lab, vm)["group"], "lab", "the daemon's word")
        expect("a group's" in vm.shunt("status"), "for people")
    expect("group lab" in lab.host1.shunt("status"), "for people on the host")


def test_outsider(lab):
    """A VM that is not of the group shares nothing with it: not its memory, not its doorbells, not its roster."""
    all_linked(lab)
    network_works(lab.vm4, lab.vm1)
    expect_equal((status(lab.vm4)["kind"], status(lab.vm4)["peers"]), ("uplink", []), "what the outsider knows")
    entry = pair(lab, lab.vm1, lab.vm4)
    expect_equal((reason(entry), entry["path"]), ("policy", "network"), "why")
    memfds, eventfds = descriptors(lab.vm4)
    for vm in members(lab):
        theirs, bells = descriptors(vm)
        expect_equal(list(theirs), [f"shunt-group-{pair(lab, lab.vm1, lab.vm2)['segment']}"], f"memory of {vm.name}")
        expect(not set(theirs) & set(memfds) and not bells & eventfds, f"vm4 shares {memfds} with {vm.name}")
        expect("vm4" not in [p["name"] for p in status(vm)["peers"]], f"{vm.name} knows the outsider")


def test_second_process_refused(lab):
    """Another process on a member's socket is sent no memory; it is told so in a way that QEMU understands."""
    all_linked(lab)
    refused = lab.host1.status()["refused_peers"]
    with connect_unix(lab.host1.dir / "run/groups/lab/vm1.sock") as client:
        expect_equal(client.recvmsg(64, 4096)[:2], (b"\xff" * 8, []), "what it is sent")
        expect_equal(client.recv(1), b"", "and no more")
    expect_equal(lab.host1.status()["refused_peers"], refused + 1, "it is counted")
    done = lab.host1.run(f"qemu-system-x86_64 -M pc -m 32 -display none -nodefaults -S -chardev socket,id=s,path="
                         f"{lab.host1.dir}/run/groups/lab/vm1.sock -device ivshmem-doorbell,vectors=2,chardev=s", timeout=30)
    expect(not done.ok and "version" in done.err, f"a second QEMU: {done}")
    before = counter(lab.vm1, lab.vm2, "tx_frames")
    network_works(lab.vm1, lab.vm2)
    expect(counter(lab.vm1, lab.vm2, "tx_frames") >= before + 5, "vm1 is served as before")


def test_member_killed_and_back(lab):
    """A member dies under a checked transfer of the two others, and comes back: they do not notice."""
    before = all_linked(lab)
    transfer = Transfer(lab.vm1, lab.vm2)
    with pinging(lab.vm1, lab.vm3):
        lab.vm3.kill()
        for vm in lab.vms[:2]:
            wait_down(vm, lab.vm3, DEAD)
    grows(lab.vm1, lab.vm2)
    lab.vm3.start()
    after = all_linked(lab)
    for names, entry in after.items():
        same = "vm3" not in names
        expect_equal(entry["segment"], before[names]["segment"], f"segment of {names}")
        expect(same == (entry["epoch"] == before[names]["epoch"]), f"epochs of {names}: {before[names]} {entry}")
    grows(lab.vm1, lab.vm2)
    transfer.finish()


def test_daemon_restarted(lab):
    """shuntd dies under a checked transfer: it goes on; the next one adopts the group, whose links can change again."""
    before = all_linked(lab)
    transfer = Transfer(lab.vm1, lab.vm2)
    lab.host1.kill_daemon()
    grows(lab.vm1, lab.vm2, 50)
    lab.host1.start_daemon()
    for names, entry in all_linked(lab).items():
        expect_equal([entry[k] for k in ("segment", "epoch")], [before[names][k] for k in ("segment", "epoch")],
                     f"the link of {names}")
    lab.vm3.module(False)
    wait_down(lab.vm1, lab.vm3, LEFT)
    lab.vm3.module(True)
    after = all_linked(lab)
    expect(after["vm1", "vm3"]["epoch"] > before["vm1", "vm3"]["epoch"], f"a new epoch: {after}")
    transfer.finish()


def test_reload_and_reset(lab):
    """A checked transfer survives its receiver's module; a guest reset, which nobody tells shuntd, ends in new links."""
    before = all_linked(lab)
    transfer = Transfer(lab.vm1, lab.vm2)
    lab.vm2.module(False)
    wait_down(lab.vm1, lab.vm2, LEFT)
    on_tap = tap_frames(lab, lab.vm1)
    wait_until(lambda: tap_frames(lab, lab.vm1) > on_tap + 20, 20, "the transfer goes by the network")
    lab.vm2.module(True)
    wait_link(lab, lab.vm1, lab.vm2)
    grows(lab.vm1, lab.vm2)
    transfer.finish()
    with pinging(lab.vm1, lab.vm3):
        lab.vm3.qmp("system_reset")
        restart_guest(lab.vm3)
    after = all_linked(lab)
    expect(after["vm1", "vm3"]["epoch"] > before["vm1", "vm3"]["epoch"], f"a new epoch: {after}")
    expect_equal(after["vm1", "vm2"]["segment"], before["vm1", "vm2"]["segment"], "the segment")


@damages
def test_garbage_everywhere(lab):
    """A member that writes anything anywhere in the group's memory ends what its members share, and no kernel."""
    entry = all_linked(lab)["vm1", "vm2"]
    fd, _ = descriptors(lab.vm1)[0][f"shunt-group-{entry['segment']}"]
    rng = random.Random(37)
    with open(f"/proc/{lab.vm1.record['qemu']['pid']}/fd/{fd}", "r+b", buffering=0) as file, \
            mmap.mmap(file.fileno(), 0) as memory, pinging(lab.vm1, lab.vm2), pinging(lab.vm3, lab.vm2):
        control = 256 * 1024        # header, member table, mailboxes, control blocks and ends lie below this
        deadline = time.monotonic() + soak(60, 4)
        while time.monotonic() < deadline:
            offset = rng.randrange(control if rng.random() < 0.9 else len(memory)) & ~7
            memory[offset:offset + 8] = rng.choice([rng.randbytes(8), b"\xff" * 8, bytes(8), b"\1" + bytes(7)])
    for one, other in couples(lab):
        network_works(one, other)
    network_works(lab.vm4, lab.vm1)
    expect_equal(served(lab, lab.vm4)["uplink"], "ready", "the daemon serves the outsider")
    network_works(lab.vm2, lab.vm4)
