# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What `shunt` says is so: which path and why, on host and in guests, for people and machines; and the knobs work."""
import json
import re

from shuntlab.scenario import *
from shuntlab.traffic import by_ring, is_up, link_up, peer, stats

SETUP = {"vms": 2}


def host_pair(lab):
    """The host's word on the one pair."""
    pairs = lab.host1.status()["pairs"]
    expect_equal([sorted((p["a"], p["b"])) for p in pairs], [["vm1", "vm2"]], "pairs")
    return pairs[0]


def every_view(lab):
    """(who says so, JSON entry, line for people) of host and both guests."""
    yield "host1", host_pair(lab), next(x for x in lab.host1.shunt("peers").splitlines() if "vm1 - vm2" in x or
                                        "vm2 - vm1" in x)
    for vm, other in ((lab.vm1, lab.vm2), (lab.vm2, lab.vm1)):
        status = json.loads(vm.shunt("status", "--json"))
        entry = next((p for p in status["peers"] if p["name"] == other.name), None)
        if not entry:       # a detached guest knows nobody
            expect_equal((status["uplink"], peer(vm, other)), ("detached", {}), f"{vm.name}'s uplink and peer")
            continue
        line = next(x for x in vm.shunt("peers").splitlines() if x.startswith(other.name + " "))
        for key in ("path", "link", "reason"):
            expect_equal(peer(vm, other).get(key), entry.get(key), f"{vm.name}: {key} of `peers` and `status`")
        yield vm.name, entry, line


def test_status_up(lab):
    """With the link up, host and guests say path packet; JSON, tables and counters of both agree."""
    link_up(lab)
    wait_until(lambda: host_pair(lab)["path"] == "packet", 10, "the host says packet")
    for who, entry, line in every_view(lab):
        expect_equal((entry["path"], entry["reason"]["name"]), ("packet", "none"), f"{who}'s path and reason")
        expect(" packet " in line and " up " in line and line.endswith(" -"), f"{who}'s line: {line!r}")
    for vm, other in ((lab.vm1, lab.vm2), (lab.vm2, lab.vm1)):
        said = json.loads(vm.shunt("status", "--json"))
        expect_equal((said["name"], said["uplink"], said["nics"][0]["state"]), (vm.name, "ready", "bound"), "own state")
        expect_equal(peer(vm, other)["macs"], [other.mac], "MACs of the peer")
        host_vm = next(v for v in lab.host1.status()["vms"] if v["name"] == vm.name)
        expect_equal((host_vm["uplink"], host_vm["generation"], host_vm["macs"], host_vm["kernel"]),
                     ("ready", said["generation"], [vm.mac], vm.sh("uname -r").strip()), f"the host on {vm.name}")
        expect_equal(peer(other, vm)["generation"], said["generation"], "generation as the peer knows it")
    with by_ring(lab.vm1, lab.vm2, 10, 10):
        lab.vm1.sh("ping -q -c 10 -i 0.02 vm2")
    pair = json.loads(lab.host1.shunt("stats", "--json"))[0]
    for end in pair["ends"]:
        vm, other = (lab.vm1, lab.vm2) if end["vm"] == "vm1" else (lab.vm2, lab.vm1)
        own = stats(vm, other)
        for key in ("tx_frames", "tx_bytes", "rx_frames", "rx_bytes", "rx_refused"):
            expect_equal(end["stats"][key], own[key], f"{vm.name}'s {key} as host and guest have it")


def detached(lab, where):
    """What all say while vm1 is detached; then attach it."""
    wait_until(lambda: host_pair(lab)["path"] == "network", 10, "the host says network")
    wait_until(lambda: peer(lab.vm2, lab.vm1).get("path") == "network" and
               peer(lab.vm2, lab.vm1)["reason"]["name"] == "detached", 10, "vm2 says network, and why")
    views = []
    for who, entry, line in every_view(lab):
        views.append(who)
        expect_equal((entry["path"], entry["reason"]["name"]), ("network", "detached"), f"{who}'s path and reason")
        expect(" network " in line and entry["reason"]["text"] in line, f"{who}'s line: {line!r}")
    expect("host1" in views and "vm2" in views, f"only {views} say something")
    before = int(lab.host1.sh("cat /sys/class/net/vm1/statistics/rx_packets"))
    lab.vm1.sh("ping -q -c 10 -i 0.02 vm2")
    expect(int(lab.host1.sh("cat /sys/class/net/vm1/statistics/rx_packets")) - before >= 10, "ping took the network")
    where("attach")
    link_up(lab)
    wait_until(lambda: host_pair(lab)["path"] == "packet", 10, "the host says packet again")


def test_status_detached_guest(lab):
    """Detached in a guest: network everywhere, the host says why; attach brings the packet path back."""
    link_up(lab)
    lab.vm1.shunt("detach")
    expect_equal(json.loads(lab.vm1.shunt("status", "--json"))["uplink"], "detached", "vm1's uplink")
    detached(lab, lab.vm1.shunt)


def test_status_detached_host(lab):
    """Detached on the host: network everywhere, the host says why; attach brings the packet path back."""
    link_up(lab)
    lab.host1.shunt("detach", "vm1")
    detached(lab, lambda word: lab.host1.shunt(word, "vm1"))


def test_status_no_module(lab):
    """The module unloaded in a guest: the host and the peer say so; the guest's `shunt` says what to do."""
    link_up(lab)
    lab.vm1.module(False)
    said = lab.vm1.run("shunt status")
    expect_equal(said.status, 3, "exit status of shunt without the module")
    expect("shunt module" in said.err and "modprobe shunt" in said.err, f"{said}")
    wait_until(lambda: host_pair(lab)["path"] == "network", 10, "the host says network")
    expect(host_pair(lab)["reason"]["name"] in ("module-unloaded", "no-module"), f"the host: {host_pair(lab)['reason']}")
    wait_until(lambda: peer(lab.vm2, lab.vm1)["path"] == "network", 10, "vm2 says network")
    wait_until(lambda: peer(lab.vm2, lab.vm1)["reason"]["name"] == "module-unloaded", 10, "vm2 says why")
    lab.vm1.module(True)
    link_up(lab)


def forget(lab):
    """Both VMs afresh, so that the pair has never had a segment."""
    for vm in lab.vms:
        vm.kill()
    wait_until(lambda: all(vm["state"] == "gone" for vm in lab.host1.status()["vms"]), 10, "both VMs are gone")
    for vm in lab.vms:
        vm.start()
    wait_until(lambda: all(peer(a, b).get("generation", "0").strip("0") for a, b in
                           ((lab.vm1, lab.vm2), (lab.vm2, lab.vm1))), 30, "both guests know each other")


def knob(vm, name, value):
    """Set a module parameter; what it was."""
    return vm.sh(f"cat /sys/module/shunt/parameters/{name}; echo {value} >/sys/module/shunt/parameters/{name}").strip()


def test_demand(lab):
    """Below the rate a pair stays on the network, with the reason; above it gets its segment. plug_rate sets the rate."""
    forget(lab)
    for _, entry, line in every_view(lab):
        expect_equal((entry["path"], entry["reason"]["name"]), ("network", "idle"), "path and reason before any traffic")
        expect("not enough traffic yet" in line, line)
    lab.vm1.sh("ping -q -c 20 -i 0.2 vm2")
    expect_equal(host_pair(lab)["reason"]["name"], "idle", "the reason at 5 frames/s")
    expect("link" not in peer(lab.vm1, lab.vm2), "5 frames/s got a link")
    seen = peer(lab.vm1, lab.vm2)["network_frames"]
    expect(20 <= seen <= 40, f"frames counted on the network: {seen}")
    for vm in lab.vms:
        expect_equal(knob(vm, "plug_rate", 1000), "32", "plug_rate")
    lab.vm1.sh("ping -q -c 100 -i 0.02 vm2")
    expect("link" not in peer(lab.vm1, lab.vm2), "less than plug_rate got a link")
    for vm in lab.vms:
        knob(vm, "plug_rate", 32)
    lab.vm1.sh("ping -q -c 100 -i 0.02 vm2")
    wait_until(lambda: is_up(lab.vm1, lab.vm2), 15, "the link is up after 50 frames/s")


def test_spin_knob(lab):
    """spin_us=0: nobody polls, and traffic goes on by doorbells alone; with the default some frames are found polling."""
    link_up(lab)
    lab.vm2.serve("sockperf sr --tcp -p 11112", 11112)
    polls, bells = {}, {}
    for value in (0, 50):
        for vm in lab.vms:
            expect_equal(knob(vm, "spin_us", value), "50" if value == 0 else "0", "spin_us before")
        lab.vm1.sh("ping -q -c 5 -i 0.02 vm2")      # what was spinning is asleep
        before = stats(lab.vm1, lab.vm2)
        with by_ring(lab.vm1, lab.vm2, 300, 300):
            lab.vm1.sh(f"sockperf ping-pong -i {lab.vm2.ip} -p 11112 --tcp -m 64 -t 2")
        after = stats(lab.vm1, lab.vm2)
        polls[value] = after["polls"] - before["polls"]
        bells[value] = after["doorbells_rx"] - before["doorbells_rx"]
    print(f"polls {polls}, doorbells {bells}")
    expect_equal(polls[0], 0, "frames found by polling with spin_us=0")
    expect(bells[0] > 100, f"doorbells with spin_us=0: {bells[0]}")
    expect(polls[50] > 0, "nothing was found by polling with spin_us=50")


def test_windows_recover(lab):
    """Two ends that have both learned that spinning does not pay find out again that it does, within seconds."""
    link_up(lab)
    lab.vm2.serve("sockperf sr --tcp -p 11113", 11113)

    def polled(seconds):
        before = stats(lab.vm1, lab.vm2)
        said = lab.vm1.sh(f"sockperf ping-pong -i {lab.vm2.ip} -p 11113 --tcp -m 64 -t {seconds}")
        after = stats(lab.vm1, lab.vm2)
        share = (after["polls"] - before["polls"]) / max(1, after["rx_frames"] - before["rx_frames"])
        return share, float(re.search(r"avg-latency=([\d.]+)", said)[1])

    for vm in lab.vms:
        expect_equal(knob(vm, "spin_max_us", 1), "400", "spin_max_us")
    shares = []
    try:
        asleep, one_way_us = polled(1)
        expect(asleep < 0.3, f"they were not asleep: {asleep}")
        for vm in lab.vms:      # longer than one wake-up takes, shorter than two
            knob(vm, "spin_max_us", int(one_way_us * 1.25))
        wait_until(lambda: shares.append(polled(1)[0]) or shares[-1] > 0.3, 40, "frames are found by polling again")
        print(f"share of frames found by polling: {asleep:.2f} asleep at {one_way_us} us one way, then {shares}")
    finally:
        for vm in lab.vms:
            knob(vm, "spin_max_us", 400)


def test_hold_knob(lab):
    """hold_us is the time frames wait for a peer that does not move: a long one outlives a short pause of the peer."""
    link_up(lab)
    for vm in lab.vms:
        expect_equal(knob(vm, "hold_us", 2000000), "10000", "hold_us")
    try:
        before = stats(lab.vm1, lab.vm2)
        lab.vm2.serve("iperf3 -s -1", 5201)
        client = lab.vm1.bg("iperf3 -c vm2 -t 3 -i 0.5 --forceflush")
        client.wait_output("bits/sec")
        lab.vm2.pause()
        wait_until(lambda: stats(lab.vm1, lab.vm2)["tx_held"] > before["tx_held"], 5, "frames are held")
        lab.vm2.cont()
        client.wait()
        after = stats(lab.vm1, lab.vm2)
        expect_equal((after["stalls"], after["tx_returned"]), (before["stalls"], before["tx_returned"]),
                     "stalls and frames sent back to the network")
    finally:
        lab.vm2.cont()
        for vm in lab.vms:
            knob(vm, "hold_us", 10000)
