# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The stock programs that the demo and the bench run between VMs: their servers, and how to read their figures."""
import json
import re
import signal

from .scenario import Failed, wait_until

LOCAL_SECONDS = 30      # from attaching to the first frame through shared memory
SERVERS = [("iperf3 -s", 5201, False),
           ("sockperf sr -p 11111", 11111, True),
           ("sockperf sr --tcp -p 11112", 11112, False),
           ("redis-server --port 6379 --bind 0.0.0.0 --protected-mode no --save '' --appendonly no", 6379, False),
           ("nginx -g 'daemon off;'", 80, False)]


def start_servers(vm):
    """Start the servers, stock programs with stock configurations, and wait for their ports."""
    vm.sh("cd /var/www/html && head -c 1024 /dev/zero >1k && head -c 65536 /dev/zero >64k")
    return [vm.serve(*server, timeout=None) for server in SERVERS]


def iperf_received(out):
    """Bit/s as the receiver counted them."""
    end = json.loads(out)["end"]
    if "lost_percent" in end.get("sum", {}):        # UDP: the sum is the sender's, less what was lost
        return end["sum"]["bits_per_second"] * (1 - end["sum"]["lost_percent"] / 100)
    return (end.get("sum_received") or end["sum"])["bits_per_second"]


def sockperf_latency(out):
    """What `sockperf ping-pong` reports, in microseconds as it says (half a round trip without --full-rtt): the mean.
    """
    return float(re.search(r"Summary: (?:Latency|Round trip) is ([\d.]+) usec", out)[1])


def sockperf_percentile(out, percent):
    """One line of sockperf's table of percentiles, in microseconds; None if it has none."""
    found = re.search(rf"percentile {percent:.3f}\s*=\s*([\d.]+)", out)
    return float(found[1]) if found else None


def redis_rate(command):
    """Requests per second of one command of redis-benchmark --csv."""
    return lambda out: float(re.search(rf'"{command}","([\d.]+)"', out)[1])


def wrk_rate(out):
    """Requests per second, provided that none failed."""
    if re.search(r"Non-2xx|Socket errors", out):
        raise Failed(f"wrk saw errors:\n{out}")
    return float(re.search(r"Requests/sec:\s*([\d.]+)", out)[1])


def are_local(lab, talking):
    """Do these pairs of VMs talk through shared memory?"""
    paths = {frozenset((p["a"], p["b"])): p["path"] for p in lab.host1.status()["pairs"]}
    return all(paths.get(frozenset(pair)) == "packet" for pair in talking)


def make_local(lab, talking):
    """Make traffic between VMs that are attached until it goes through shared memory."""
    # A pair gets its segment when it has traffic worth it; ping makes some until it does.
    loop = "while :; do ping -q -i 0.005 -c 200 {} >/dev/null; done"
    pings = [getattr(lab, a).bg(loop.format(b), timeout=LOCAL_SECONDS) for a, b in talking]
    try:
        wait_until(lambda: are_local(lab, talking), LOCAL_SECONDS, "traffic goes through shared memory")
    except Failed as failed:
        raise Failed(f"{failed}; shunt status says:\n{lab.host1.shunt('status')}") from None
    finally:
        for ping in pings:
            ping.stop(signal.SIGKILL)
