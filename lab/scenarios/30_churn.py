# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Links come and go under load and traffic does not notice."""
import contextlib
import re
import time

from shuntlab.scenario import *
from shuntlab.traffic import is_up, link_up, peer, stats, tool

SETUP = {"vms": 2}
PORT = 7020
SETTLE_SECONDS = 30
CYCLES = soak(100, 10)
CYCLE_SECONDS = 20      # at the very most


class Load:
    """Between vm1 and vm2: a TCP connection whose every byte is compared, both ways, and iperf3."""

    def __init__(self, lab):
        self.vms = lab.vms
        program = [tool(vm, "stream.py") for vm in lab.vms][0]
        listener = f"{program} 0.0.0.0 {PORT} --listen --send -1"
        self.ends = [lab.vm2.serve(listener, PORT, timeout=CYCLES * CYCLE_SECONDS + 100)]
        self.ends.append(lab.vm1.bg(f"{program} {lab.vm2.ip} {PORT} --send -1", timeout=CYCLES * CYCLE_SECONDS + 100))
        self.server = lab.vm2.serve("iperf3 -s -1", 5201, timeout=None)
        self.iperf = lab.vm1.bg("exec iperf3 -c vm2 -t 0 -i 1 -b 300M --forceflush", timeout=None)
        self.iperf.wait_output(r"sec.*bits/sec")

    def received(self):
        """Bytes each end has compared so far."""
        return [int((re.findall(r"at (\d+)", end.out) or [0])[-1]) for end in self.ends]

    def goes_on(self, what):
        """Both directions carry bytes now."""
        before = self.received()
        for program in self.ends + [self.server, self.iperf]:
            expect(program.running, f"{what}: `{program.command}` ended: {program.out[-100:]}{program.err}")
        wait_until(lambda: all(now > then for now, then in zip(self.received(), before))
                   or not all(end.running for end in self.ends), SETTLE_SECONDS, f"{what}: both directions move")

    def end(self):
        """Nothing was lost, nothing reset, all that was sent arrived."""
        rates = re.findall(r"([\d.]+) ([GMK]?)bits/sec", self.iperf.out)
        expect(self.iperf.running and self.server.running, f"iperf3 ended: {self.iperf.out[-200:]}{self.iperf.err}")
        expect(len(rates) > 1 and float(rates[-1][0]) > 0, f"iperf3 stands still: {self.iperf.out[-200:]}")
        self.iperf.stop()
        for end in self.ends:
            expect(end.running, f"`{end.command}` ended early: {end.out[-100:]}{end.err}")
        for vm in self.vms:         # both at once: each ends when the other has
            vm.sh("pkill -INT -f 'bin/strea[m].py'")
        one, two = [end.wait(60, check=False) for end in reversed(self.ends)]
        expect(one.ok and two.ok, f"client {one.status}: {one.out[-100:]}{one.err}; "
               f"server {two.status}: {two.out[-100:]}{two.err}")
        for source, target in ((one, two), (two, one)):
            expect_equal(re.search(r"received (\d+)", target.out)[1], re.search(r"sent (\d+)", source.out)[1], "bytes")


@contextlib.contextmanager
def load(lab):
    """A load that must survive the block."""
    link_up(lab)
    running = Load(lab)
    yield running
    running.goes_on("at the end")
    running.end()


def wait_down(lab, what):
    """Until neither end has a link in use. The host is asked first: the guests are busy."""
    wait_until(lambda: lab.host1.status()["pairs"][0]["state"] not in ("up", "offered", "closing"), SETTLE_SECONDS,
               f"{what}: shuntd says the link is down", every=0.1)
    for a, b in ((lab.vm1, lab.vm2), (lab.vm2, lab.vm1)):
        if a.run("test -d /sys/module/shunt").ok:
            expect(peer(a, b).get("link", "none") in ("none", "down", "closed"), f"{what}: {a.name} says {peer(a, b)}")


def wait_up(lab, what):
    """Until both ends say it is up."""
    wait_until(lambda: lab.host1.status()["pairs"][0]["state"] == "up", SETTLE_SECONDS,
               f"{what}: shuntd says the link is up", every=0.1)
    wait_until(lambda: is_up(lab.vm1, lab.vm2), SETTLE_SECONDS, f"{what}: both ends say it is up", every=0.1)


def churn(lab, leave, come, cycles=None):
    """Take the link away and bring it back, again and again, under load; each time it carries frames again."""
    with load(lab) as running:
        for number in range(cycles or CYCLES):
            start = time.monotonic()
            leave(number)
            wait_down(lab, f"cycle {number}")
            running.goes_on(f"cycle {number}, on the network")
            come(number)
            wait_up(lab, f"cycle {number}")
            before = stats(lab.vm1, lab.vm2)["tx_frames"]
            wait_until(lambda: stats(lab.vm1, lab.vm2)["tx_frames"] > before, SETTLE_SECONDS,
                       f"cycle {number}: the link carries frames", every=0.1)
            running.goes_on(f"cycle {number}, link up")
            print(f"cycle {number}: {time.monotonic() - start:.1f} s", flush=True)


def either(lab, number):
    """The guests in turn."""
    return lab.vms[number % 2]


@limit(soak(1800, 240))
def test_detach_guest(lab):
    """`shunt detach` and `attach` in either guest under load: no byte lost, no reset, the link comes back."""
    churn(lab, lambda n: either(lab, n).shunt("detach"), lambda n: either(lab, n).shunt("attach"))


@limit(soak(1800, 240))
def test_detach_host(lab):
    """The same by the host's `shunt detach VM` and `attach VM`."""
    churn(lab, lambda n: lab.host1.shunt("detach", either(lab, n).name),
          lambda n: lab.host1.shunt("attach", either(lab, n).name))


@limit(soak(1800, 240))
def test_module_reload(lab):
    """The same by rmmod and insmod in either guest."""
    churn(lab, lambda n: either(lab, n).module(False), lambda n: either(lab, n).module(True))


@limit(240)
def test_device_del(lab):
    """An operator's device_del of the pair device under load costs the link, not a byte; `shunt attach` brings it back."""
    def leave(number):
        end = next(e for e in lab.host1.status()["pairs"][0]["ends"] if e["vm"] == either(lab, number).name)
        either(lab, number).qmp("device_del", id=end["device"])

    churn(lab, leave, lambda n: lab.host1.shunt("attach", either(lab, n).name), cycles=soak(20, 2))


def healthy(lab):
    """No stall is left: link up, frames by ring, nothing held back."""
    wait_until(lambda: is_up(lab.vm1, lab.vm2), SETTLE_SECONDS, "the link is up")
    before = stats(lab.vm1, lab.vm2)["tx_frames"]
    expect("5 received" in lab.vm1.sh("ping -q -c 5 -i 0.02 -W 5 vm2"), "ping")
    after = stats(lab.vm1, lab.vm2)["tx_frames"]
    expect(after >= before + 5, f"the link is up but ping does not take it: {before} -> {after}")


def test_udp_flood(lab):
    """A UDP flood in both directions harms nothing: the link is up afterwards and works."""
    link_up(lab)
    lab.vm2.serve("iperf3 -s -1", 5201)
    seconds = soak(60, 4)
    before = stats(lab.vm1, lab.vm2)["tx_frames"]
    lab.vm1.sh(f"iperf3 -c vm2 -u -b 0 -l 1400 -t {seconds} --bidir", timeout=60 + 2 * seconds)
    expect(stats(lab.vm1, lab.vm2)["tx_frames"] - before > 1000 * seconds, "the flood took the ring")
    healthy(lab)


def test_many_streams(lab):
    """64 TCP connections at once push back on their senders; all of them carry bytes."""
    link_up(lab)
    lab.vm2.serve("iperf3 -s -1", 5201)
    seconds = soak(60, 4)
    before = stats(lab.vm1, lab.vm2)
    out = lab.vm1.sh(f"iperf3 -c vm2 -P 64 -t {seconds} -i 0", timeout=60 + 2 * seconds)
    after = stats(lab.vm1, lab.vm2)
    sums = re.findall(r"^\[ *\d+\].* ([\d.]+) [KMG]?Bytes .*receiver$", out, re.M)
    expect(len(sums) == 64 and all(float(x) > 0 for x in sums), out[-3000:])
    expect(after["tx_bytes"] - before["tx_bytes"] > 10_000_000, f"it took the ring: {before} {after}")
    print(f"held {after['tx_held'] - before['tx_held']}, stalls {after['stalls'] - before['stalls']}")
    healthy(lab)


def test_forwarded(lab):
    """What a guest forwards for others (no socket to push back on) crosses by ring, too, and arrives whole."""
    link_up(lab)
    # A namespace in vm1 is the station behind the router vm1.
    lab.vm1.sh("ip netns add far && ip link add in type veth peer name out netns far && ip addr add 10.78.0.1/24 dev in && "
               "ip link set in up && sysctl -qw net.ipv4.ip_forward=1 && "
               "ip -n far addr add 10.78.0.2/24 dev out && ip -n far link set out up && ip -n far route add default via 10.78.0.1")
    lab.vm2.sh(f"ip route add 10.78.0.0/24 via {lab.vm1.ip}")
    try:
        before = stats(lab.vm1, lab.vm2)
        server = lab.vm2.serve(f"{tool(lab.vm2, 'stream.py')} 0.0.0.0 {PORT} --listen", PORT)
        program = tool(lab.vm1, "stream.py").removeprefix("exec ")
        size = soak(1024, 64) << 20
        lab.vm1.sh(f"ip netns exec far {program} {lab.vm2.ip} {PORT} --send {size}", timeout=200)
        expect(f"received {size}\n" in server.wait().out, f"{server.out[-300:]}{server.err}")
        lab.vm2.serve("iperf3 -s -1", 5201)
        lab.vm1.sh(f"ip netns exec far iperf3 -c {lab.vm2.ip} -u -b 0 -l 1400 -t 3", timeout=60)
        after = stats(lab.vm1, lab.vm2)
        expect(after["tx_bytes"] - before["tx_bytes"] > size // 2, f"it took the ring: {before} {after}")
        healthy(lab)
    finally:
        lab.vm2.run("ip route del 10.78.0.0/24")
        lab.vm1.run("ip netns del far; sysctl -qw net.ipv4.ip_forward=0; ip link del in")
