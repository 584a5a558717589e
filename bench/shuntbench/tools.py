# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
One run of a test by the program that measures it: which command, in which VM, and what its output says.

The load program (bench/load) does what netperf does, for the curves over message sizes and for connection set-up;
iperf3, sockperf, redis-benchmark and wrk are Debian's own, for the points where they can measure.
"""
import dataclasses
import json

from shuntlab import programs
from shuntlab.scenario import Failed

LOAD = "/usr/bin/load"
LOAD_PORT = 7000
REDIS_PER_SECOND = 8000         # requests that take about a second


@dataclasses.dataclass
class Sample:
    """What one run said. Times in microseconds; @moved: bytes delivered, both ways together, None if unknown."""
    value: float
    p50: float = None
    p99: float = None
    p999: float = None
    moved: int = None
    cpu: float = None           # seconds of what moves the data
    host_cpu: float = None      # seconds of the whole host


@dataclasses.dataclass(frozen=True)
class Target:
    """Where to: addresses of the serving VM, as the path under test reaches them."""
    ip: str
    ip6: str

    def of(self, test):
        """The one this test uses."""
        return self.ip6 if test.ipv6 else self.ip


def load_command(test, target):
    """The load program's command line."""
    rate = f" -r {test.offered:.0f}" if test.offered else ""
    return f"{LOAD} {test.mode} {target.of(test)} {LOAD_PORT} -b {test.bytes} -f {test.connections} -s {test.seconds}{rate}"


def load_sample(_test, out):
    """Its line of JSON."""
    said = json.loads(out)
    if not said["value"]:
        raise Failed(f"nothing arrived: {out}")
    return Sample(said["value"], said.get("p50"), said.get("p99"), said.get("p999"), said["bytes"])


def whole_seconds(test):
    """For programs that count seconds by the piece."""
    return max(1, round(test.seconds))


def iperf_command(test, target):
    """iperf3 sends from the client, with -R to it."""
    words = ["iperf3", "-c", target.of(test), "-t", str(whole_seconds(test)), "-l", str(test.bytes), "-P",
             str(test.connections), "-J"]
    words += ["-u", "-b", "0"] if test.mode == "udp-stream" else []
    return " ".join(words + (["-R"] if test.reverse else []))


def iperf_sample(test, out):
    """Bits per second at the receiver."""
    value = programs.iperf_received(out)
    return Sample(value, moved=round(value / 8 * whole_seconds(test)))


def sockperf_command(test, target):
    """Round trips, not halves of them."""
    proto, port = ("--tcp ", 11112) if test.mode == "rr" else ("", 11111)
    return f"sockperf ping-pong --full-rtt -i {target.of(test)} -p {port} {proto}-m {test.bytes} -t {whole_seconds(test)}"


def sockperf_sample(_test, out):
    """The mean of the round trips, and their quantiles."""
    quantiles = [programs.sockperf_percentile(out, percent) for percent in (50, 99, 99.9)]
    return Sample(programs.sockperf_latency(out), *quantiles)


def redis_command(test, target):
    """One of redis-benchmark's tests; its command is the test's mode."""
    return f"redis-benchmark -h {target.of(test)} -c {test.connections} -n {round(REDIS_PER_SECOND * test.seconds)} " \
           f"-t {test.mode} --csv"


def redis_sample(test, out):
    """Requests per second."""
    return Sample(programs.redis_rate(test.mode.upper())(out))


def wrk_command(test, target):
    """One page, again and again; the page is the test's mode."""
    return f"wrk -t 1 -c {test.connections} -d {whole_seconds(test)}s http://{target.of(test)}/{test.mode}"


def wrk_sample(_test, out):
    """Requests per second."""
    return Sample(programs.wrk_rate(out))


TOOLS = {"load": (load_command, load_sample), "iperf3": (iperf_command, iperf_sample),
         "sockperf": (sockperf_command, sockperf_sample), "redis-benchmark": (redis_command, redis_sample),
         "wrk": (wrk_command, wrk_sample)}
OVERHEAD = {"load": 0.15, "iperf3": 0.25, "sockperf": 2.6, "redis-benchmark": 0.3, "wrk": 0.3}


def seconds(test):
    """How long a run of the test takes, about."""
    length = test.seconds if test.tool in ("load", "redis-benchmark") else whole_seconds(test)
    return length + OVERHEAD[test.tool]


def once(test, client, target):
    """One run of @test from the VM @client; its Sample."""
    command, sample = TOOLS[test.tool]
    return sample(test, client.sh(command(test, target), timeout=30 + 10 * test.seconds))
