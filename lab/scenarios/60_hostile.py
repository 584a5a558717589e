# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""A hostile peer: garbage in the shared segment, from the host and from a guest. Only the pair may suffer."""
import contextlib
import pathlib
import signal
import sys
import time

from shuntlab.faults import *
from shuntlab.scenario import *

sys.path.insert(0, str(pathlib.Path(__file__).parent / "guest"))
import hostile  # noqa: E402

SETUP = {"vms": 2}
BROKEN = ("broken-index", "broken-record", "broken-state")
SLEEPLESS = ("prod-sealed", "prod-odd", "record-skip", "all")      # what could keep a victim polling
OUT_OF_USE = (None, "down", "opening", "closed", "broken")


def heal(lab, before):
    """`shunt attach` on the host, when it said broken, brings the link back in a new epoch."""
    if reason(pair(lab, lab.vm1, lab.vm2)) in BROKEN:
        with pinging(lab.vm1, lab.vm2):
            time.sleep(1.2)         # longer than the interval of WANT: what is broken stays broken
            expect(reason(pair(lab, lab.vm1, lab.vm2)) in BROKEN, "broken until an operator says otherwise")
        lab.host1.shunt("attach", "vm2")
    after = wait_link(lab, lab.vm1, lab.vm2)
    expect(after["epoch"] > before["epoch"], f"epoch {before['epoch']} became {after['epoch']}")
    sent = counter(lab.vm1, lab.vm2, "tx_frames")
    network_works(lab.vm1, lab.vm2)
    expect(counter(lab.vm1, lab.vm2, "tx_frames") >= sent + 5, "echo requests go through the link again")


def broken(lab):
    """Either end has noticed, and said so; the daemon counts the pair as broken."""
    ends = (lab.vm1, lab.vm2), (lab.vm2, lab.vm1)
    return any(peer(*e).get("link") == "broken" for e in ends) and reason(pair(lab, lab.vm1, lab.vm2)) in BROKEN


def said(lab):
    """What everybody says, for a failure's log."""
    return [lab.host1.shunt("status")] + [vm.shunt("status") for vm in lab.vms]


def clean(lab):
    """No guest's kernel has complained so far; the runner looks again at the end."""
    for vm in lab.vms:
        lines = vm.sh("dmesg | grep -iE 'BUG|WARNING|Oops|Call Trace|stall|lockup' || true")
        expect(not lines, f"{vm.name}: {lines}")


def from_host(lab, what, attack):
    """Attack a live link through the host's mapping until either end calls it broken; then the network carries on."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    with pair_memory(lab.vm1, before["segment"]) as memory:
        whole = memory[:8] == b"SHUNTSEG"
    if not whole:       # the last attack went on while the segment was scrubbed: have it scrubbed again
        lab.host1.shunt("detach", "vm2")
        lab.host1.shunt("attach", "vm2")
        before = wait_link(lab, lab.vm1, lab.vm2)
    print(f"--- {what}", flush=True)
    with pinging(lab.vm1, lab.vm2), pinging(lab.vm2, lab.vm1), pair_memory(lab.vm1, before["segment"]) as memory:
        segment = hostile.Segment(memory)
        try:
            deadline = time.monotonic() + 20
            while not broken(lab):
                expect(time.monotonic() < deadline, f"nobody noticed {what}: {said(lab)}")
                if pair(lab, lab.vm1, lab.vm2)["state"] == "up":
                    attack(hostile.End(segment, 2, 1))
        finally:
            segment.close()
    entry = pair(lab, lab.vm1, lab.vm2)
    expect_equal(entry["path"], "network", "the path")
    expect("broke the rules" in entry["reason"]["detail"], f"the daemon names the offender: {entry['reason']}")
    for one, other in ((lab.vm1, lab.vm2), (lab.vm2, lab.vm1)):
        wait_until(lambda: peer(one, other).get("link") in OUT_OF_USE, 10, f"{one.name} uses the link no more")
    network_works(lab.vm1, lab.vm2)
    heal(lab, before)


@limit(150)
def test_garbage_from_the_host(lab):
    """Garbage over the whole segment of a busy link, several seeds: broken, counted, network; attach brings it back."""
    for seed in range(soak(200, 3)):
        from_host(lab, f"seed {seed}", lambda end_: hostile.write_all(end_, seed))
    clean(lab)
    transfer = Transfer(lab.vm1, lab.vm2)
    transfer.finish()


@limit(150)
def test_garbage_in_control_words(lab):
    """Garbage in header, member lines and ring control blocks alone, several seeds: likewise."""
    for seed in range(soak(200, 3)):
        from_host(lab, f"seed {seed}", lambda end_: hostile.write_control(end_, seed))
    clean(lab)


class Hostile:
    """vm2 as a hostile peer: its pair device belongs to a program in user space; its module keeps the uplink."""

    def __init__(self, lab):
        self.lab = lab
        wait_link(lab, lab.vm1, lab.vm2)
        self.device = peer(lab.vm2, lab.vm1)["device"]
        lab.vm2.put(pathlib.Path(__file__).parent / "guest/hostile.py", "/tmp/hostile.py")
        memory = f"/sys/bus/pci/devices/{self.device}/resource2"
        refused = lab.vm2.run(["python3", "-c", f"import mmap; f = open('{memory}', 'r+b', 0); mmap.mmap(f.fileno(), 0)"])
        expect(not refused.ok and "Invalid argument" in refused.err, f"who maps a driver's device: {refused}")
        lab.vm2.sh(f"echo {self.device} >/sys/bus/pci/drivers/shunt/unbind")

    @contextlib.contextmanager
    def attack(self, *words):
        """Run one attack; the program stays, as a peer that is alive would."""
        program = self.lab.vm2.bg(f"exec python3 /tmp/hostile.py {self.device} " + " ".join(map(str, words)))
        try:
            program.wait_output("joined", 40)
            wait_until(lambda: peer(self.lab.vm1, self.lab.vm2).get("link") != "opening", 10, "the victim goes up")
            program.wait_output("done", 30)
            yield program
        finally:
            program.stop(signal.SIGTERM)

    def release(self):
        """Be honest again: a fresh module says HELLO, which ends what the hostile one had opened."""
        self.lab.vm2.module(False)
        self.lab.vm2.module(True)


@contextlib.contextmanager
def hostile_vm2(lab):
    """vm2 turns hostile for a while."""
    vm2 = Hostile(lab)
    try:
        yield vm2
    finally:
        vm2.release()


def renew(lab, epoch):
    """The operator allows the pair again; the victim waits in a new epoch."""
    lab.host1.shunt("attach", "vm2")
    with pinging(lab.vm1, lab.vm2, 0.02):
        wait_until(lambda: (p := peer(lab.vm1, lab.vm2)).get("link") == "opening" and p["epoch"] > epoch, 20,
                   "the victim is offered a new epoch")


@limit(120)
def test_forged_frames(lab):
    """Frames with a foreign source or target, or no IP, are refused and counted; none is handed to the victim's stack."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    lab.vm1.sh("cat >/tmp/listen.py", stdin=b"""import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 9999))
while True:
    print(s.recv(2000).decode(), flush=True)
""")
    listener = lab.vm1.serve("exec python3 /tmp/listen.py", 9999, udp=True)
    foreign = "52:54:00:77:01:63"
    with hostile_vm2(lab) as vm2:
        with vm2.attack("forge", lab.vm1.mac, lab.vm2.mac, foreign, lab.vm2.ip, lab.vm1.ip):
            listener.wait_output("genuine-last", 10)        # the program's frames arrive, so the others could have
            entry = peer(lab.vm1, lab.vm2)
            expect_equal(listener.out.split(), ["genuine", "genuine-last"], "datagrams that arrived")
            expect_equal(entry["stats"]["rx_refused"], 6, "frames refused")
            expect_equal(entry["link"], "up", "a refused frame breaks nothing")
            lab.vm1.sh("ping -q -c 3 -i 0.05 -W 5 host1")
    listener.stop(signal.SIGKILL)
    heal(lab, before)
    clean(lab)


@limit(280)
def test_attacks_from_a_guest(lab):
    """A guest that breaks one rule at a time: the victim calls it broken, answers on the network, and is healthy."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    attacks = [[name] for name in hostile.ATTACKS]
    attacks += [["all", seed] for seed in range(soak(100, 2))] + [["control", seed] for seed in range(soak(100, 2))]
    with hostile_vm2(lab) as vm2:
        for words in attacks:
            print(f"--- {words}", flush=True)
            # A producer looks at the consumer's index when it runs out of room: there must be enough to send.
            with vm2.attack(*words), pinging(lab.vm1, lab.vm2, 0.002, 1400):
                entry = wait_until(lambda: (p := peer(lab.vm1, lab.vm2)).get("link") == "broken" and p, 15,
                                   f"the victim calls the peer broken after {words}: {peer(lab.vm1, lab.vm2)}")
                expect(reason(entry) in BROKEN and entry["path"] == "network", f"{entry}")
                wait_until(lambda: reason(pair(lab, lab.vm1, lab.vm2)) == reason(entry), 5, "the daemon says the same")
            network_works(lab.vm1, lab.vm2)
            if words[0] in SLEEPLESS:
                idle(lab.vm1)
            renew(lab, entry["epoch"])
        clean(lab)
    heal(lab, before)


def idle(vm):
    """Nothing in the guest's kernel spins: a second passes mostly idle."""
    def ticks():
        return list(map(int, vm.sh("cat /proc/stat").splitlines()[0].split()[1:]))
    before = ticks()
    time.sleep(1)
    used = [b - a for a, b in zip(before, ticks())]
    expect(used[6] < 0.5 * sum(used), f"{vm.name} spends its time in softirqs: {used}")
