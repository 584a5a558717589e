# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""NICs with several queues in guests with several vCPUs: shunted, and every queue's discipline counts."""
from shuntlab.scenario import *
from shuntlab.setups import counted, nic_state
from shuntlab.traffic import by_ring, exchange, link_up

SETUP = {"vms": 2, "vcpus": 2, "queues": 2}


def test_multiqueue(lab):
    """Several flows at once from both vCPUs cross by ring and arrive whole."""
    link_up(lab)
    for vm in lab.vms:
        expect_equal(vm.sh("ls -d /sys/class/net/eth0/queues/tx-* | wc -l").strip(), "2", f"queues of {vm.name}")
        vm.sh("ethtool -L eth0 combined 2")
    with by_ring(lab.vm1, lab.vm2, 50, 50):
        exchange(lab.vm1, lab.vm2)
    lab.vm2.serve("iperf3 -s -1", 5201)
    with by_ring(lab.vm1, lab.vm2, 500, 500):
        lab.vm1.sh("iperf3 -c vm2 -P 8 -t 2 -i 0 --bidir", timeout=60)


def test_one_queue_limited(lab):
    """A rate limit on the second queue alone keeps the NIC's frames on the network, whichever queue they would take."""
    link_up(lab)
    lab.vm1.sh("ethtool -L eth0 combined 2")
    try:
        lab.vm1.sh("tc qdisc replace dev eth0 root handle 1: mq && "
                   "tc qdisc replace dev eth0 parent 1:2 tbf rate 500mbit burst 128k latency 50ms")
        expect("it has a queueing discipline" in nic_state(lab.vm1), nic_state(lab.vm1))
        with counted(lab.vm1, lab.vm2, "nic", 50):
            exchange(lab.vm1, lab.vm2)
    finally:
        lab.vm1.run("tc qdisc del dev eth0 root")
    expect_equal(nic_state(lab.vm1), "bound", "state without it")
    with by_ring(lab.vm1, lab.vm2, 50, 50):
        exchange(lab.vm1, lab.vm2)
