# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""A third VM, another label, a stolen address, a foreign process: none gets at what two VMs share."""
import contextlib
import os
import pathlib
import signal

from shuntlab.faults import *
from shuntlab.scenario import *

SETUP = {"vms": 3}
OTHER_LABEL = 'labels = ( { vm = "vm3"; label = "other"; } );\n'


def test_third_vm_holds_nothing(lab):
    """No QEMU but the pair's two has its memory or its eventfds; nobody has another's uplink; guests see only their own."""
    entry = wait_link(lab, lab.vm1, lab.vm2)
    memfds, eventfds = zip(*(descriptors(vm) for vm in lab.vms))
    name = f"shunt-pair-{entry['segment']}"
    expect_equal(memfds[0][name][1], memfds[1][name][1], "the pair's memory, by inode")
    inodes = {inode for _, inode in memfds[2].values()}
    expect(memfds[0][name][1] not in inodes, f"vm3 holds the pair's memory: {memfds[2]}")
    shared = eventfds[0] & eventfds[1]
    expect(len(shared) >= 3 * 4, f"the pair's eventfds, four of each member: {sorted(shared)}")
    third = [set(memfds[i]) & set(memfds[2]) for i in (0, 1)]
    allowed = [pair(lab, vm, lab.vm3) for vm in lab.vms[:2]]
    own = {f"shunt-pair-{p['segment']}" for p in allowed if p.get("segment")}
    expect(set().union(*third) <= own, f"vm3 shares {third}, its own pairs are {own}")
    expect(not shared & eventfds[2], f"vm3 has eventfds of the pair: {shared & eventfds[2]}")
    for i, vm in enumerate(lab.vms):
        uplinks = {fd for fd in memfds[i] if fd.startswith("shunt-up-")}
        expect_equal(len(uplinks), 1, f"uplinks of {vm.name}")
        expect(not any(uplinks & set(memfds[k]) for k in range(3) if k != i), f"{vm.name}'s uplink is its own")
        devices = vm.sh("grep -l 0x1af4 /sys/bus/pci/devices/*/vendor | xargs -n1 dirname | "
                        "while read d; do grep -lx 0x1110 $d/device; done; true").split()
        expect_equal(len(devices), len(memfds[i]), f"devices {vm.name} sees, of segments its QEMU has")


def test_third_vm_rings_nobody(lab):
    """Every doorbell the third VM can press, on its own uplink, reaches no link of the other two."""
    wait_link(lab, lab.vm1, lab.vm2)
    lab.vm3.put(pathlib.Path(__file__).parent / "guest/hostile.py", "/tmp/hostile.py")
    uplink = lab.vm3.sh("basename $(dirname $(grep -lx 0x1110 /sys/bus/pci/devices/*/device | head -n1))").strip()
    lab.vm3.module(False)
    try:
        def interrupts():
            return [vm.sh("grep shunt- /proc/interrupts | awk '{ n += $2 } END { print n }'") for vm in lab.vms[:2]]
        wait_until(lambda: interrupts() == interrupts(), 20, "the pair is quiet", every=0.3)
        before = interrupts()
        expect(lab.vm3.sh(f"python3 /tmp/hostile.py {uplink} storm") == "rung\n", "the storm was rung")
        after = interrupts()
        expect_equal(after, before, "interrupts of vm1 and vm2")
        lab.vm1.sh(f"ping -q -c 5 -i 0.02 {lab.vm2.ip}")
        expect(interrupts() != before, "their own doorbells are seen by this measure")
    finally:
        lab.vm3.module(True)


def test_foreign_process_refused(lab):
    """A process that is not the VM's QEMU gets nothing from a device socket; it is counted, and the plug goes on."""
    wait_link(lab, lab.vm1, lab.vm3)        # so that shuntd remembers that the pair is worth a link
    lab.vm3.kill()
    sockets = lambda: [p for p in lab.host1.dir.rglob("*") if p.is_socket() and "vms.d" not in p.parts  # noqa: E731
                       and p.name != "shuntd.sock"]
    with contextlib.ExitStack() as stack:
        with configured(lab, OTHER_LABEL):  # vm3 gets its uplink, and nothing else yet
            lab.vm3.start()
            wait_until(lambda: status(lab.vm3)["label"] == "other", 20, "vm3 is of another label")
            expect_equal(sockets(), [], "device sockets at rest")
            refused = lab.host1.status()["refused_peers"]
            qemu = lab.vm3.record["qemu"]["pid"]
            stack.callback(os.kill, qemu, signal.SIGCONT)
            os.kill(qemu, signal.SIGSTOP)   # so that the socket stays open for a while
        path = wait_until(sockets, 20, "a device socket")[0]
        with connect_unix(path) as client:
            expect_equal(client.recv(1), b"", "what a foreign process is sent")
        wait_until(lambda: lab.host1.status()["refused_peers"] == refused + 1, 5, "it is counted")
    wait_link(lab, lab.vm1, lab.vm3)


def test_another_label(lab):
    """A VM of another label leaves every roster and loses its links; the network still carries it; and back again."""
    wait_link(lab, lab.vm1, lab.vm2)
    wait_link(lab, lab.vm1, lab.vm3)
    with configured(lab, OTHER_LABEL):
        with pinging(lab.vm3, lab.vm1), pinging(lab.vm2, lab.vm3):
            wait_until(lambda: not status(lab.vm3)["peers"], 10, "vm3 knows nobody")
            wait_until(lambda: not peer(lab.vm1, lab.vm3) and not peer(lab.vm2, lab.vm3), 10, "nobody knows vm3")
            for vm in (lab.vm1, lab.vm2):
                entry = wait_until(lambda: reason(pair(lab, vm, lab.vm3)) == "policy" and pair(lab, vm, lab.vm3), 10,
                                   "the daemon says policy")
                expect(entry["path"] == "network" and entry["state"] in ("none", "parked"), f"{entry}")
        network_works(lab.vm3, lab.vm1)
        network_works(lab.vm2, lab.vm3)
        expect_equal(status(lab.vm3)["peers"], [], "peers of vm3 after all that traffic")
        expect_equal(status(lab.vm3)["label"], "other", "its label")
        expect_equal(pair(lab, lab.vm1, lab.vm2)["path"], "packet", "the others' link")
    wait_link(lab, lab.vm1, lab.vm3)


def test_stolen_address(lab):
    """A guest that takes another's MAC gets none of its frames and none of its links; its own frames take the network."""
    wait_link(lab, lab.vm1, lab.vm2)
    wait_link(lab, lab.vm1, lab.vm3)
    for one, other in ((lab.vm1, lab.vm2), (lab.vm2, lab.vm1)):
        one.sh(f"ip neigh replace {other.ip} lladdr {other.mac} dev eth0")
    received = counter(lab.vm1, lab.vm3, "rx_frames")
    from_vm2 = counter(lab.vm1, lab.vm2, "rx_frames")
    lab.vm3.sh(f"ip link set eth0 address {lab.vm2.mac} && ip neigh replace {lab.vm1.ip} lladdr {lab.vm1.mac} dev eth0")
    try:
        capture = lab.vm3.bg(f"exec tcpdump -l -n -i eth0 'icmp and ether dst {lab.vm2.mac} and src host {lab.vm1.ip} "
                             f"and dst host {lab.vm2.ip}'")
        capture.wait_output("listening on")
        nic = status(lab.vm3)["nics"][0]
        expect("address was changed" in nic["state"], f"the guest is told: {nic}")
        on_tap = tap_frames(lab, lab.vm3)
        lab.vm3.sh("python3 -c 'import socket\ns = socket.socket(2, 2)\n"
                   f"for i in range(100): s.sendto(b\"x\", (\"{lab.vm1.ip}\", 9))'")
        wait_until(lambda: tap_frames(lab, lab.vm3) >= on_tap + 100, 5, "its frames took the network")
        expect_equal(counter(lab.vm1, lab.vm3, "rx_frames"), received, "frames from its ring")
        expect_equal(counter(lab.vm1, lab.vm2, "rx_frames"), from_vm2, "frames from the ring of the VM it poses as")
        lab.vm1.sh(f"ping -q -c 100 -i 0.02 {lab.vm2.ip}", timeout=30)
        expect(counter(lab.vm1, lab.vm2, "rx_frames") >= from_vm2 + 100, "the real one answers through its link")
        capture.stop()
        expect("ICMP" not in capture.out, f"vm3 saw frames meant for vm2: {capture.out}")
    finally:
        lab.vm3.sh(f"ip link set eth0 address {lab.vm3.mac}")
        lab.vm1.sh(f"ip neigh replace {lab.vm3.ip} lladdr {lab.vm3.mac} dev eth0 nud reachable")
        # The host's bridge learns again where the two live.
        lab.vm2.sh("ip neigh flush dev eth0; ping -q -c 1 -W 5 host1")
        lab.vm3.sh("ip neigh flush dev eth0; ping -q -c 1 -W 5 host1")
        lab.vm1.sh("ip neigh flush dev eth0; ping -q -c 1 -W 5 host1")
    wait_link(lab, lab.vm1, lab.vm3)
    sent = counter(lab.vm3, lab.vm1, "tx_frames")
    network_works(lab.vm3, lab.vm1)
    expect(counter(lab.vm3, lab.vm1, "tx_frames") >= sent + 5, "with its own address its frames use the link again")
