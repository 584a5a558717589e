# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""A guest that routes between two others: what it forwards crosses both links by ring, whole, and is bounded when held."""
from shuntlab.scenario import *
from shuntlab.traffic import by_ring, exchange, link_up, stats

SETUP = {"vms": 3}


def route(lab, on):
    """vm1 and vm3 reach one another's further addresses only through vm2."""
    word = "add" if on else "del"
    for vm, own, other in ((lab.vm1, "10.82.1.1", "10.82.3.1"), (lab.vm3, "10.82.3.1", "10.82.1.1")):
        vm.run(f"ip addr {word} {own}/32 dev eth0; ip route {word} {other} via {lab.vm2.ip} src {own}")
        lab.vm2.run(f"ip route {word} {own} via {vm.ip}")
    lab.vm2.sh(f"sysctl -qw net.ipv4.ip_forward={int(on)} net.ipv4.conf.all.send_redirects=0 "
               "net.ipv4.conf.eth0.send_redirects=0")


def test_router(lab):
    """vm1 to vm3 through vm2: large segments stay large on both links, every byte arrives."""
    link_up(lab, lab.vm1, lab.vm2)
    link_up(lab, lab.vm2, lab.vm3)
    route(lab, True)
    try:
        with by_ring(lab.vm1, lab.vm2, 50, 50) as one, by_ring(lab.vm2, lab.vm3, 50, 50) as two:
            exchange(lab.vm1, lab.vm3, "10.82.3.1", mib=8)
        for flow in (one, two):
            expect(flow.grown(0, "tx_bytes") / flow.grown(0, "tx_frames") > 3000, f"segmented on the way: {flow}")
    finally:
        route(lab, False)


def test_router_held(lab):
    """
    What the router holds for a peer that stands still is bounded: beyond hold_bytes frames are dropped and counted;
    after hold_us they go to the network. Once the peer moves again all is as before.
    """
    link_up(lab, lab.vm1, lab.vm2)
    link_up(lab, lab.vm2, lab.vm3)
    route(lab, True)
    knobs = "/sys/module/shunt/parameters"
    try:
        lab.vm2.sh(f"echo 3000000 >{knobs}/hold_us; echo 100000 >{knobs}/hold_bytes")
        before = stats(lab.vm2, lab.vm3)
        lab.vm3.pause()
        lab.vm1.sh("python3 -c \"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
                   "for _ in range(1200): s.sendto(bytes(1400), ('10.82.3.1', 9))\"")
        wait_until(lambda: stats(lab.vm2, lab.vm3)["tx_dropped"] > before["tx_dropped"], 20,
                   "frames beyond the bound are dropped")
        held = stats(lab.vm2, lab.vm3)["tx_held"] - before["tx_held"]
        expect(0 < held <= 100000 // 1400 + 1, f"frames held: {held}")
        lab.vm3.cont()
        wait_until(lambda: lab.vm2.run("ping -q -c 1 -W 1 vm3").ok, 20, "vm3 moves again")
        link_up(lab, lab.vm2, lab.vm3)
        with by_ring(lab.vm2, lab.vm3, 50, 50):
            exchange(lab.vm1, lab.vm3, "10.82.3.1")
    finally:
        lab.vm3.cont()
        lab.vm2.run(f"echo 10000 >{knobs}/hold_us; echo 1048576 >{knobs}/hold_bytes")
        route(lab, False)
