# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""shuntd dies, at any moment: traffic does not notice, and the restarted one adopts what it finds."""
import random
import threading
import time

from shuntlab import state
from shuntlab.faults import *
from shuntlab.scenario import *

SETUP = {"vms": 2}
GAP_SECONDS = 2.0       # a wait in a paced transfer that an emulated guest on a busy machine may show by itself


def same_link(lab, before):
    """The link of before: same segment, same epoch, same devices, at both ends and as the daemon has it."""
    entry = wait_link(lab, lab.vm1, lab.vm2)
    for key in ("segment", "epoch"):
        expect_equal(entry[key], before[key], f"the adopted link's {key}")
    for vm in lab.vms:
        expect_equal(end(entry, vm)["device"], end(before, vm)["device"], f"the device of {vm.name}")
    return entry


def ages(lab):
    """For how long each end says its link has been as it is, in seconds."""
    return [peer(one, other)["age_ms"] / 1000 for one, other in ((lab.vm1, lab.vm2), (lab.vm2, lab.vm1))]


def qemus(lab):
    """The guests' QEMU processes; each must be alive."""
    records = [vm.record["qemu"] for vm in lab.vms]
    expect(all(state.alive(record) for record in records), "every QEMU is alive")
    return [record["pid"] for record in records]


def test_killed_under_traffic(lab):
    """kill -9 of shuntd: a checked transfer goes on through the link without a gap, and the next shuntd adopts it."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    transfer = Transfer(lab.vm1, lab.vm2)
    for _ in range(soak(50, 2)):
        start = time.monotonic()
        sent = counter(lab.vm1, lab.vm2, "tx_frames")
        lab.host1.kill_daemon()
        done = lab.host1.shunt("status", check=False)
        expect(done.status not in (0, 1) and "not running" in done.err, f"shunt status without shuntd: {done}")
        for _ in range(3):
            now = wait_until(lambda: (n := counter(lab.vm1, lab.vm2, "tx_frames")) > sent + 50 and n, 10,
                             "frames go through the link without shuntd")
            sent = now
        expect_equal([peer(lab.vm1, lab.vm2)["link"], peer(lab.vm2, lab.vm1)["link"]], ["up", "up"], "the ends")
        lab.host1.start_daemon()
        wait_until(lambda: is_up(lab, lab.vm1, lab.vm2), 10, "the new shuntd says up")
        same_link(lab, before)
        elapsed = time.monotonic() - start
        expect(min(ages(lab)) > elapsed, f"the link was up all the {elapsed:.1f} s: {ages(lab)}")
    gap = transfer.finish()
    expect(gap < GAP_SECONDS, f"the longest wait of the transfer was {gap} s")


def test_nothing_new_without_daemon(lab):
    """While shuntd is gone a guest that loads its module gets no link and stays on the network; then it gets one."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    lab.vm2.module(False)
    lab.host1.kill_daemon()
    lab.vm2.module(True)
    with pinging(lab.vm1, lab.vm2):
        start = time.monotonic()
        while time.monotonic() < start + 2:         # two intervals of WANT
            expect_equal(status(lab.vm2)["uplink"], "hello", "the guest's uplink")
            expect_equal((peer(lab.vm1, lab.vm2).get("path"), peer(lab.vm2, lab.vm1)), ("network", {}), "links")
    network_works(lab.vm1, lab.vm2)
    lab.host1.start_daemon()
    after = wait_link(lab, lab.vm1, lab.vm2)
    expect(after["epoch"] > before["epoch"], "a new epoch")
    expect_equal(after["segment"], before["segment"], "the segment")


def replug(lab):
    """Make the daemon plug a pair device into vm2 again: remove the one that is there."""
    entry = wait_link(lab, lab.vm1, lab.vm2)
    lab.vm2.qmp("device_del", id=end(entry, lab.vm2)["device"])
    wait_until(lambda: end(pair(lab, lab.vm1, lab.vm2), lab.vm2)["plug"] == "removed", 20, "the device is gone")
    wait_down(lab.vm1, lab.vm2, ("peer-closed", "device-gone"))
    expect_equal(reason(pair(lab, lab.vm1, lab.vm2)), "device-gone", "the daemon's word")


def kill_at(lab, act, moment, then=lambda: None):
    """Do @act and kill the daemon when its log says @moment (or after so many seconds); start it again, do @then."""
    position = log_position(lab.host1)
    with pinging(lab.vm1, lab.vm2):
        acting = threading.Thread(target=act)       # its answer may never come
        acting.start()
        if isinstance(moment, str):
            wait_log(lab.host1, position, moment)
        else:
            time.sleep(moment)      # any moment at all is what is tested
        pid = lab.host1.daemon_pid
        lab.host1.kill_daemon()
        acting.join()
        expect(pid, "the daemon was alive until then")
        network_works(lab.vm1, lab.vm2)
        lab.host1.start_daemon()
        then()
    wait_link(lab, lab.vm1, lab.vm2)


@limit(240)
def test_killed_while_plugging(lab):
    """kill -9 at each step of unplugging and plugging a pair device: VMs live, traffic flows, the link comes in the end."""
    pids = qemus(lab)

    def attach():
        lab.host1.shunt("attach", "vm2", check=False)

    device = end(wait_link(lab, lab.vm1, lab.vm2), lab.vm2)["device"]
    kill_at(lab, lambda: lab.vm2.qmp("device_del", id=device), "fill-holes", attach)
    expect_equal(qemus(lab), pids, "the QEMU processes")
    moments = ["plugged vm=vm2", "state=parked", "state=offered"]
    moments += [random.Random(n).uniform(0, 0.3) for n in range(soak(60, 2))]
    for moment in moments:
        print(f"moment: {moment}", flush=True)
        replug(lab)
        kill_at(lab, attach, moment)
        expect_equal(qemus(lab), pids, "the QEMU processes")


def test_killed_while_opening_and_closing(lab):
    """kill -9 right after attach and at each step of closing and opening a link: likewise."""
    pids = qemus(lab)
    for moment in ("state=closing", "state=parked"):
        wait_link(lab, lab.vm1, lab.vm2)
        print(f"detach until {moment}", flush=True)
        position = log_position(lab.host1)
        lab.host1.shunt("detach", "vm2", check=False)
        wait_log(lab.host1, position, moment)
        lab.host1.kill_daemon()
        network_works(lab.vm1, lab.vm2)
        lab.host1.start_daemon()
        wait_until(lambda: served(lab, lab.vm2)["state"] == "detached", 10, "the operator's wish outlives the daemon")
        kill_at(lab, lambda: lab.host1.shunt("attach", "vm2", check=False), "state=offered")
        expect_equal(qemus(lab), pids, "the QEMU processes")


def test_peer_dies_without_daemon(lab):
    """A peer that dies while shuntd is gone stalls the link; the restarted shuntd notices the death and closes it."""
    wait_link(lab, lab.vm1, lab.vm2)
    lab.host1.kill_daemon()
    with pinging(lab.vm1, lab.vm2):
        lab.vm2.kill()
        wait_until(lambda: peer(lab.vm1, lab.vm2)["link"] == "stalled", 15, "the survivor says stalled")
        lab.host1.start_daemon()
        wait_down(lab.vm1, lab.vm2, ("peer-dead",), 10)
    lab.vm2.start()
    wait_link(lab, lab.vm1, lab.vm2)
