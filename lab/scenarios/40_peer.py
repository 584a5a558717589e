# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""A peer that dies, resets, panics, leaves, hangs or has no module: what the other end notices, and how it ends."""
import signal
import time

from shuntlab import lab as labs
from shuntlab.faults import *
from shuntlab.scenario import *

SETUP = {"vms": 2}
DEAD = ("peer-dead",)
LEFT = ("peer-closed", "peer-dead")     # an orderly leave, or QEMU's word for it, whichever came first


def back(lab, before):
    """The link after its loss: the survivor's device is recycled, and the segment belongs to a new epoch."""
    device = peer(lab.vm1, lab.vm2).get("device")
    after = wait_link(lab, lab.vm1, lab.vm2)
    expect_equal(after["segment"], before["segment"], "the segment is the one the survivor has plugged")
    expect(after["epoch"] > before["epoch"], f"epoch {before['epoch']} became {after['epoch']}")
    expect_equal(end(after, lab.vm1)["device"], end(before, lab.vm1)["device"], "the survivor's device")
    expect(device in (None, peer(lab.vm1, lab.vm2)["device"]), f"it was {device} in the survivor")
    sent = counter(lab.vm1, lab.vm2, "tx_frames")
    network_works(lab.vm1, lab.vm2)
    expect(counter(lab.vm1, lab.vm2, "tx_frames") >= sent + 5, "echo requests go through the link again")


def test_qemu_killed(lab):
    """kill -9 of the peer's QEMU under TCP and echo traffic closes the link at once; the restarted VM gets one again."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    transfer = Transfer(lab.vm1, lab.vm2)   # broken off by the death of its receiver
    with pinging(lab.vm1, lab.vm2):
        lab.vm2.kill()
        wait_down(lab.vm1, lab.vm2, DEAD)
    said = pair(lab, lab.vm1, lab.vm2)
    expect_equal((said["path"], reason(said)), ("network", "peer-dead"), "the daemon's word")
    expect_equal(served(lab, lab.vm2)["state"], "gone", "the VM, as the daemon sees it")
    lab.vm1.sh("ping -q -c 1 -W 5 host1")
    transfer.sender.stop(signal.SIGKILL)
    lab.vm2.start()
    back(lab, before)


@limit(120)
def test_paused(lab):
    """A paused peer stalls the link, others are served meanwhile, and after cont all resumes with nothing lost."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    transfer = Transfer(lab.vm1, lab.vm2)
    ping = lab.vm1.bg(f"exec ping -D -i 0.1 {lab.vm2.ip}")
    ping.wait_output("icmp_seq=3 ")
    lab.vm2.pause()
    try:
        wait_until(lambda: served(lab, lab.vm2)["state"] == "paused", 5, "the daemon says paused")
        entry = wait_until(lambda: peer(lab.vm1, lab.vm2).get("link") == "stalled" and peer(lab.vm1, lab.vm2), 10,
                           "the guest says stalled")
        expect_equal((entry["path"], reason(entry)), ("network", "stalled"), "the guest's word")
        wait_until(lambda: reason(pair(lab, lab.vm1, lab.vm2)) == "stalled", 5, "the daemon says stalled")
        expect_equal(pair(lab, lab.vm1, lab.vm2)["path"], "network", "the path, as the daemon sees it")
        expect(entry["stats"]["stalls"] > 0, "the stall is counted")
        in_ring, on_tap = entry["stats"]["tx_frames"], tap_frames(lab, lab.vm1)
        expect_equal(lab.vm1.run("ping -q -c 20 -i 0.05 host1", timeout=20).ok, True, "the host is reached")
        lab.vm1.sh("python3 -c 'import socket\ns = socket.socket(2, 2)\n"
                   f"for i in range(50): s.sendto(b\"x\", (\"{lab.vm2.ip}\", 9))'")
        wait_until(lambda: tap_frames(lab, lab.vm1) >= on_tap + 70, 5, "datagrams and echo requests took the network")
        expect_equal(counter(lab.vm1, lab.vm2, "tx_frames"), in_ring, "frames put into the ring of a stalled link")
    finally:
        lab.vm2.cont()
    resumed = len(ping.out)
    after = wait_link(lab, lab.vm1, lab.vm2)
    expect_equal((after["epoch"], after["segment"]), (before["epoch"], before["segment"]), "the same link")
    wait_until(lambda: "bytes from" in ping.out[resumed:], 20, "echo replies come again")
    ping.stop()
    transfer.finish()


def test_paused_shortly(lab):
    """A pause below the stall limit closes and stalls nothing for good, many times over, under a checked transfer."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    transfer = Transfer(lab.vm1, lab.vm2)
    for _ in range(soak(100, 8)):
        lab.vm2.pause()
        time.sleep(0.3)         # the duration is what is tested
        lab.vm2.cont()
    after = wait_link(lab, lab.vm1, lab.vm2)
    expect_equal((after["epoch"], after["segment"]), (before["epoch"], before["segment"]), "the same link")
    transfer.finish()


@allows("^vm2: ")
def test_panic(lab):
    """A guest that panics (pvpanic tells) closes the survivor's link; after reset and boot the link is back."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    with pinging(lab.vm1, lab.vm2):
        lab.vm2.bg("echo 0 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger")
        wait_until(lambda: lab.vm2.qmp("query-status")["status"] == "guest-panicked", 30, "QEMU saw the panic")
        wait_down(lab.vm1, lab.vm2, DEAD)
    expect_equal(reason(pair(lab, lab.vm1, lab.vm2)) in ("peer-dead", "no-module"), True, "the daemon's word")
    lab.vm2.qmp("system_reset")
    lab.vm2.cont()
    restart_guest(lab.vm2)
    back(lab, before)


def test_reset(lab):
    """A hard reset without warning, under traffic, does the same, as often as it comes."""
    for _ in range(soak(20, 1)):
        before = wait_link(lab, lab.vm1, lab.vm2)
        with pinging(lab.vm1, lab.vm2):
            lab.vm2.qmp("system_reset")
            wait_down(lab.vm1, lab.vm2, DEAD)
        restart_guest(lab.vm2)
        back(lab, before)


def test_reboot_without_module(lab):
    """A guest that reboots leaves in order; until it loads the module both sides and the host say that it has none."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    with pinging(lab.vm1, lab.vm2):
        lab.vm2.bg("exec reboot -f")
        wait_down(lab.vm1, lab.vm2, LEFT)
        lab.vm2.wait_ready()
    labs.install("vm2")
    expect(not lab.vm2.run("test -d /sys/module/shunt").ok, "the module is not there after boot")
    with pinging(lab.vm1, lab.vm2):
        ping_start = time.monotonic()
        wait_until(lambda: reason(pair(lab, lab.vm1, lab.vm2)) == "no-module", 5, "the daemon says no module")
        while time.monotonic() < ping_start + 1.5:      # more than a WANT's interval
            expect_equal(pair(lab, lab.vm1, lab.vm2)["path"], "network", "path")
    expect_equal(served(lab, lab.vm2)["uplink"], "no-hello", "its uplink")
    entry = peer(lab.vm1, lab.vm2)
    expect_equal((entry["path"], reason(entry)), ("network", "no-module"), f"the other guest's word in {entry}")
    done = lab.vm2.run("shunt status")
    expect(done.status != 0 and "modprobe shunt" in done.err, f"shunt status in the guest: {done}")
    expect("modprobe shunt" in lab.host1.shunt("status"), "the host is told what to do")
    network_works(lab.vm1, lab.vm2)
    lab.vm2.module(True)
    back(lab, before)


def test_poweroff(lab):
    """An orderly power-off closes the link with a reason; the VM started again gets one."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    with pinging(lab.vm1, lab.vm2):
        lab.vm2.bg("exec poweroff -f")
        wait_down(lab.vm1, lab.vm2, LEFT)
    wait_until(lambda: served(lab, lab.vm2)["state"] == "gone", 10, "QEMU exits")
    lab.vm2.kill()          # what the lab still keeps of it
    lab.vm2.start()
    back(lab, before)


def test_module_unloaded(lab):
    """rmmod on one side under a checked transfer: it goes on over the network, and returns with the module."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    transfer = Transfer(lab.vm1, lab.vm2)
    lab.vm2.module(False)
    wait_down(lab.vm1, lab.vm2, ("peer-closed", "module-unloaded", "no-module"))
    wait_until(lambda: reason(pair(lab, lab.vm1, lab.vm2)) == "module-unloaded", 5, "the daemon says unloaded")
    on_tap = tap_frames(lab, lab.vm1)
    wait_until(lambda: tap_frames(lab, lab.vm1) > on_tap + 100, 10, "the transfer goes by the network")
    expect_equal(reason(peer(lab.vm1, lab.vm2)) != "none", True, "the other guest says why")
    lab.vm2.module(True)
    back(lab, before)
    transfer.finish()
