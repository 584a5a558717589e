# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
Guests that do nothing but harm: doorbells without end, at a peer and at shuntd, and a program that breaks every rule
of a link as fast as it can. A third VM, and everything else of the victim, notice nothing.
"""
import contextlib
import pathlib
import re
import signal
import subprocess
import time

from shuntlab.faults import *
from shuntlab.paths import TOP
from shuntlab.scenario import *

SETUP = {"vms": 3}
BROKEN = ("broken-index", "broken-record", "broken-state", "doorbell-storm")


def install(vm):
    """The hostile program, as it runs on any guest."""
    program = TOP / "build/lab/scribble"
    program.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O2", "-Wall", "-static", f"-I{TOP}/include", "-o", str(program),
                    str(pathlib.Path(__file__).parent / "guest/scribble.c")], check=True)
    vm.put(program, "/tmp/scribble")
    vm.sh("chmod +x /tmp/scribble")


@contextlib.contextmanager
def unbound(vm, device):
    """A device that belongs to a program in user space; a fresh module takes everything back."""
    vm.sh(f"echo {device} >/sys/bus/pci/drivers/shunt/unbind")
    try:
        yield
    finally:
        vm.module(False)
        vm.module(True)


@contextlib.contextmanager
def wary(vm):
    """
    An emulated guest gets few hundred interrupts a second, however often it is rung: not enough for the default. Far
    more than an honest peer makes it are enough for the test.
    """
    vm.sh("echo 50 >/sys/module/shunt/parameters/storm_rate")
    try:
        yield
    finally:
        vm.sh("echo 2000 >/sys/module/shunt/parameters/storm_rate")


def interrupts(vm):
    """Doorbells that reached a guest."""
    return int(vm.sh("grep shunt- /proc/interrupts | awk '{ n += $2 } END { print n }'"))


def uplink_of(vm):
    """The address of a guest's uplink: the device with one vector."""
    return vm.sh("for d in /sys/bus/pci/drivers/shunt/0000:*; do "
                 "[ $(ls $d/msi_irqs | wc -l) = 1 ] && basename $d; done; true").strip()


def heal(lab):
    """The operator allows vm2 again; the link works."""
    lab.host1.shunt("attach", "vm2")
    wait_link(lab, lab.vm1, lab.vm2)
    sent = counter(lab.vm1, lab.vm2, "tx_frames")
    network_works(lab.vm1, lab.vm2)
    expect(counter(lab.vm1, lab.vm2, "tx_frames") >= sent + 5, "echo requests go through the link again")


@limit(150)
def test_storm_at_a_peer(lab):
    """A guest rings its peer's doorbells in a loop: masked, broken, unplugged; the victim's other link never stops."""
    for other in (lab.vm2, lab.vm3):
        wait_link(lab, lab.vm1, other)
    epoch = pair(lab, lab.vm1, lab.vm3)["epoch"]
    install(lab.vm2)
    device = peer(lab.vm2, lab.vm1)["device"]
    victim = 2 if pair(lab, lab.vm1, lab.vm2)["a"] == "vm2" else 1
    position = log_position(lab.host1)
    transfer = Transfer(lab.vm1, lab.vm3)
    with wary(lab.vm1), unbound(lab.vm2, device), pinging(lab.vm1, lab.vm2):
        # Wanted and offered again, the victim waits; a storm is a storm in every state.
        wait_until(lambda: peer(lab.vm1, lab.vm2).get("link") == "opening", 20, "the victim waits for its peer")
        program = lab.vm2.bg(f"exec /tmp/scribble {device} storm {victim} 1 0 1 2")
        program.wait_output("ringing")
        wait_log(lab.host1, position, "doorbell-storm reported-by=vm1 offender=vm2")
        wait_log(lab.host1, position, "device-deleted vm=vm2")
        program.stop(signal.SIGTERM)
        entry = wait_until(lambda: (p := pair(lab, lab.vm1, lab.vm2))["state"] == "parked" and p, 10, "parked")
        expect_equal((reason(entry), entry["path"]), ("doorbell-storm", "network"), "what the host says")
    network_works(lab.vm1, lab.vm2)
    gap = transfer.finish()
    expect(gap < 5, f"the victim's other traffic stood still for {gap} s")
    expect_equal(pair(lab, lab.vm1, lab.vm3)["epoch"], epoch, "epoch of the victim's other link")
    expect("storm" not in lab.vm3.sh("dmesg"), "vm3 noticed nothing")
    heal(lab)


@limit(120)
def test_storm_at_an_open_link(lab):
    """An open link whose peer starts to ring for nothing breaks with that reason, and the guest's status says so."""
    wait_link(lab, lab.vm1, lab.vm2)
    lab.vm2.put(pathlib.Path(__file__).parent / "guest/hostile.py", "/tmp/hostile.py")
    install(lab.vm2)
    device = peer(lab.vm2, lab.vm1)["device"]
    with wary(lab.vm1), unbound(lab.vm2, device), pinging(lab.vm1, lab.vm2, 0.05):
        # A link that is up: hostile.py joins it, forges harmless frames and stays as a peer that is alive would.
        joined = lab.vm2.bg(f"exec python3 /tmp/hostile.py {device} forge {lab.vm1.mac} {lab.vm2.mac} 52:54:00:77:01:63 "
                            f"{lab.vm2.ip} {lab.vm1.ip}")
        joined.wait_output("done", 40)
        expect_equal(peer(lab.vm1, lab.vm2)["link"], "up", "the link before the storm")
        victim = 2 if pair(lab, lab.vm1, lab.vm2)["a"] == "vm2" else 1
        before = interrupts(lab.vm1)
        program = lab.vm2.bg(f"exec /tmp/scribble {device} storm {victim} 1")
        entry = wait_until(lambda: (p := peer(lab.vm1, lab.vm2)).get("link") == "broken" and p, 20, "the link breaks")
        expect_equal(reason(entry), "doorbell-storm", "what the victim says")
        program.stop(signal.SIGTERM)
        joined.stop(signal.SIGTERM)
        print(f"{interrupts(lab.vm1) - before} interrupts until then and since")
    heal(lab)


@limit(120)
def test_storm_at_shuntd(lab):
    """A guest rings shuntd in a loop: its uplink is broken, links of others are set up all the while."""
    wait_link(lab, lab.vm1, lab.vm3)
    install(lab.vm2)
    device = uplink_of(lab.vm2)
    position = log_position(lab.host1)
    with unbound(lab.vm2, device):
        program = lab.vm2.bg(f"exec /tmp/scribble {device} storm 0 0")
        program.wait_output("ringing")
        wait_log(lab.host1, position, "uplink-broken vm=vm2 reason=doorbell-storm", 40)
        lab.host1.shunt("detach", "vm3")
        lab.host1.shunt("attach", "vm3")
        wait_link(lab, lab.vm1, lab.vm3)
        expect_equal(served(lab, lab.vm2)["reason"]["name"], "doorbell-storm", "what the host says of vm2")
        program.stop(signal.SIGTERM)
        lab.host1.shunt("attach", "vm2")
    heal(lab)


@limit(200)
def test_scribbler(lab):
    """Every rule broken, at speed and for as long as it is let: the victim breaks each link and stays healthy."""
    for other in (lab.vm2, lab.vm3):
        wait_link(lab, lab.vm1, other)
    epoch = pair(lab, lab.vm1, lab.vm3)["epoch"]
    install(lab.vm2)
    device = peer(lab.vm2, lab.vm1)["device"]
    transfer = Transfer(lab.vm1, lab.vm3)
    seed = int(time.time())
    print(f"seed {seed}")
    reasons = {}
    with unbound(lab.vm2, device), pinging(lab.vm1, lab.vm2, 0.01, 1400):
        program = lab.vm2.bg(f"exec /tmp/scribble {device} attack {seed} {lab.vm2.mac} {lab.vm1.mac}")
        until = time.monotonic() + soak(1800, 40)
        while time.monotonic() < until:
            entry = wait_until(lambda: (p := pair(lab, lab.vm1, lab.vm2)) and reason(p) in BROKEN and
                               p["state"] == "parked" and p, 30, "the victim has had enough", every=0.2)
            reasons[reason(entry)] = reasons.get(reason(entry), 0) + 1
            lab.host1.shunt("attach", "vm2")
        rounds = len(re.findall(r"^round", program.out, re.M))
        program.stop(signal.SIGTERM)
        # Its last words may lie in the header, which its own module would refuse: they are wiped for the next link.
        lab.host1.shunt("detach", "vm2")
        lab.host1.shunt("attach", "vm2")
        wait_until(lambda: pair(lab, lab.vm1, lab.vm2)["state"] == "offered", 10, "a new link is offered")
    print(f"{rounds} rounds, {reasons}")
    expect(sum(reasons.values()) >= 5, f"links broken: {reasons}")
    gap = transfer.finish()
    expect(gap < 5, f"the victim's other traffic stood still for {gap} s")
    expect_equal(pair(lab, lab.vm1, lab.vm3)["epoch"], epoch, "epoch of the victim's other link")
    network_works(lab.vm1, lab.vm2)
    heal(lab)
