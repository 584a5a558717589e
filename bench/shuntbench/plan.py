# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What is measured: tests, grouped into batches that run between two changes of path, in set-ups of VMs."""
import dataclasses

from . import tools

KIB = 1024
STREAM_SIZES = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB]
DATAGRAM_SIZES = [64, 256, KIB, 1400, 4 * KIB, 16 * KIB, 60 * KIB]
RR_SIZES = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB]
UDP_RR_SIZES = RR_SIZES[:-1] + [60 * KIB]
RATES = [25e6, 50e6, 100e6, 200e6, 400e6]
VMS = [2, 3, 4, 5, 6]
SWITCH_SECONDS = 3.0
BOOT_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Test:
    """One figure to take. @mode is the tool's own word for what it does."""
    name: str
    tool: str
    mode: str
    unit: str
    bytes: int = None
    connections: int = 1
    ipv6: bool = False
    reverse: bool = False
    ring: bool = False          # every VM to the next, all at once; the sum
    offered: float = None       # bit/s; None: as much as goes
    less_is_better: bool = False
    seconds: float = 1.0

    @property
    def direction(self):
        """For the results."""
        if self.ring:
            return "vmN->vmN+1"
        if self.unit != "bit/s":
            return "vm1<->vm2"
        return "vm2->vm1" if self.reverse else "vm1->vm2"

    @property
    def flows(self):
        """In words."""
        return f"{self.connections} flow" + ("s" if self.connections > 1 else "")

    @property
    def key(self):
        """What makes it a test of its own, whatever its length."""
        return (self.name, self.tool, self.bytes, self.connections, self.direction)

    def part(self):
        """What each VM of a ring does."""
        return dataclasses.replace(self, connections=1, ring=False)


@dataclasses.dataclass(frozen=True)
class Setup:
    """VMs as they are booted, and what is measured in them."""
    name: str
    batches: tuple
    pairs: int
    kernel: str = "6.1"
    vcpus: int = 1
    vms: int = 2
    variants: tuple = ("network", "packet")     # and e1000, vhost-user, loopback
    other_kernel: str = None                    # of vm2, if not the same

    @property
    def kernels(self):
        """For the results."""
        return f"{self.kernel}, {self.other_kernel}" if self.other_kernel else self.kernel

    @property
    def seconds(self):
        """How long it takes, about."""
        runs = sum(tools.seconds(test) for batch in self.batches for test in batch)
        return BOOT_SECONDS + self.pairs * (runs * len(self.variants) + SWITCH_SECONDS * len(self.batches))


def v6(ipv6):
    """The names' ending."""
    return " over IPv6" if ipv6 else ""


def stream(size, connections=1, ipv6=False, reverse=False, tool="load", **more):
    """TCP, one way."""
    return Test("TCP stream" + v6(ipv6), tool, "stream", "bit/s", size, connections, ipv6, reverse, **more)


def udp(size, connections=1, ipv6=False, reverse=False, tool="load", **more):
    """Datagrams, one way; those that arrive count."""
    return Test("UDP stream received" + v6(ipv6), tool, "udp-stream", "bit/s", size, connections, ipv6, reverse, **more)


def rr(size, connections=1, ipv6=False):
    """Request and answer of the same size over TCP."""
    return Test("TCP request-response" + v6(ipv6), "load", "rr", "1/s", size, connections, ipv6)


def udp_rr(size, connections=1, ipv6=False):
    """The same in datagrams."""
    return Test("UDP request-response" + v6(ipv6), "load", "udp-rr", "1/s", size, connections, ipv6)


def crr(connections=1, ipv6=False):
    """A connection, a request, an answer, the end of it: again and again."""
    return Test("TCP connect-request-response" + v6(ipv6), "load", "crr", "1/s", 64, connections, ipv6)


def offered(rate):
    """Datagrams at a rate."""
    return Test(f"UDP stream offered at {rate / 1e6:.0f} Mbit/s, received", "load", "udp-stream", "bit/s", 1400,
                offered=rate)


def ping_pong(mode):
    """sockperf's round trips."""
    return Test(f"{'TCP' if mode == 'rr' else 'UDP'} ping-pong", "sockperf", mode, "us", 64, less_is_better=True)


def redis(command):
    """Stock redis."""
    return Test(f"redis {command.upper()}", "redis-benchmark", command, "1/s", connections=20)


def nginx(page, size):
    """Stock nginx."""
    return Test("nginx", "wrk", page, "1/s", size, connections=8)


def rings(vms):
    """All VMs at once."""
    return tuple(dataclasses.replace(test, name=f"{test.name}, ring of {vms} VMs", connections=vms, ring=True)
                 for test in (stream(64 * KIB), udp(1400)))


PROGRAMS = (stream(128 * KIB, tool="iperf3"), stream(128 * KIB, reverse=True, tool="iperf3"),
            stream(128 * KIB, connections=8, tool="iperf3"), udp(1400, tool="iperf3"),
            redis("get"), redis("set"), nginx("1k", KIB), nginx("64k", 64 * KIB))
EVERYWHERE = (stream(64), stream(KIB), stream(64 * KIB), stream(64 * KIB, reverse=True), stream(64 * KIB, 8),
              udp(64), udp(1400), udp(16 * KIB), udp(1400, 8), rr(64), rr(16 * KIB), rr(64, 8), udp_rr(64), crr())
MIXED = (stream(64 * KIB), stream(64 * KIB, reverse=True), udp(1400), udp(1400, reverse=True), rr(64))
RIVALS = (stream(64), stream(KIB), stream(16 * KIB), stream(64 * KIB), udp(64), udp(KIB), udp(16 * KIB),
          rr(64), rr(KIB), rr(16 * KIB), udp_rr(64), udp_rr(KIB), udp_rr(16 * KIB), crr())


def main_batches():
    """Everything, for the set-up the floors are stated for."""
    sizes = tuple(stream(size) for size in STREAM_SIZES)
    other = tuple(stream(size, reverse=True) for size in (64, KIB, 64 * KIB)) + \
        tuple(stream(size, ipv6=True) for size in (64, KIB, 64 * KIB)) + \
        tuple(stream(size, flows) for size in (KIB, 64 * KIB) for flows in (8, 64))
    datagrams = tuple(udp(size) for size in DATAGRAM_SIZES)
    more = tuple(udp(size, reverse=True) for size in (64, 16 * KIB)) + \
        tuple(udp(size, ipv6=True) for size in (64, 1400, 16 * KIB)) + tuple(udp(1400, flows) for flows in (8, 64)) + \
        tuple(offered(rate) for rate in RATES)
    trips = tuple(rr(size) for size in RR_SIZES) + tuple(udp_rr(size) for size in UDP_RR_SIZES)
    crowds = tuple(make(64, flows) for make in (rr, udp_rr) for flows in (8, 64)) + \
        (rr(64, ipv6=True), udp_rr(64, ipv6=True), crr(), crr(8), crr(64), crr(ipv6=True))
    return (sizes, other, datagrams, more, trips, crowds, PROGRAMS, (ping_pong("rr"), ping_pong("udp-rr")))


def full():
    """About an hour."""
    plan = [Setup("main", main_batches(), 10)]
    for kernel, vcpus in (("6.1", 2), ("6.12", 1), ("6.12", 2)):
        plan.append(Setup(f"{kernel}, {vcpus} vCPU", (EVERYWHERE[:9], EVERYWHERE[9:]), 10, kernel=kernel, vcpus=vcpus))
    plan.append(Setup("6.1 to 6.12", (MIXED,), 10, other_kernel="6.12"))
    plan.append(Setup("rivals", (RIVALS,), 5, variants=("network", "e1000", "loopback", "packet")))
    plan.append(Setup("vhost-user", (RIVALS,), 5, variants=("network", "vhost-user")))
    plan += [Setup(f"{count} VMs", (rings(count),), 5, vms=count) for count in VMS]
    return shortened(plan, 0.8)


def quick():
    """Below five minutes: a sketch of the same picture; too few pairs to judge a floor."""
    one = (stream(64), stream(KIB), stream(16 * KIB), stream(64 * KIB), stream(64 * KIB, reverse=True),
           stream(64 * KIB, ipv6=True), stream(64 * KIB, 8), stream(64 * KIB, 64), udp(64), udp(1400), udp(16 * KIB),
           udp(1400, 8), offered(RATES[1]), offered(RATES[3]))
    two = (rr(64), rr(KIB), rr(16 * KIB), rr(64, 8), udp_rr(64), udp_rr(KIB), udp_rr(16 * KIB), crr(), crr(8))
    few = (stream(64), stream(64 * KIB), udp(64), udp(16 * KIB), rr(64), udp_rr(16 * KIB), crr())
    plan = [Setup("main", (one + two, PROGRAMS[:1] + PROGRAMS[3:5] + PROGRAMS[6:7]), 2),
            Setup("6.12, 2 vCPU", (few,), 1, kernel="6.12", vcpus=2),
            Setup("rivals", (few,), 1, variants=("network", "e1000", "loopback", "packet")),
            Setup("vhost-user", (few,), 1, variants=("network", "vhost-user")),
            Setup("3 VMs", (rings(3),), 1, vms=3)]
    return shortened(plan, 0.4)


def smoke():
    """Half a minute: does the bench itself work?"""
    return shortened([Setup("main", ((stream(64 * KIB), stream(64), udp(1400), rr(64), crr()),), 2,
                            variants=("network", "e1000", "loopback", "packet")),
                      Setup("vhost-user", ((stream(64 * KIB), rr(64)),), 2, variants=("network", "vhost-user"))], 0.1)


def shortened(plan, seconds):
    """Runs of @seconds each."""
    return [dataclasses.replace(setup, batches=tuple(tuple(dataclasses.replace(test, seconds=seconds) for test in batch)
                                                     for batch in setup.batches)) for setup in plan]


def describe(setup, test):
    """One line of --list, also what --only matches."""
    return f"[{setup.name}] {test.name}, {test.tool}, {test.bytes or '-'} B, {test.flows}, {test.direction}"


def chosen(plan, wanted):
    """Only the tests whose description matches; set-ups without any are not booted."""
    kept = []
    for setup in plan:
        batches = tuple(tuple(test for test in batch if wanted(setup, test)) for batch in setup.batches)
        batches = tuple(batch for batch in batches if batch)
        if batches:
            kept.append(dataclasses.replace(setup, batches=batches))
    return kept
