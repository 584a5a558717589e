# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The same on a newer kernel, between two kernels and between two machine types: traffic, churn, a peer's death."""
import re
import signal

from shuntlab.scenario import *
from shuntlab.traffic import by_network, by_ring, link_up

SETUPS = {"6.12": {"vms": 2, "kernel": "6.12", "machines": {"vm2": "q35"}},
          "mixed": {"vms": 2, "kernels": {"vm2": "6.12"}}}
KERNELS = {"6.12": ("6.12", "6.12"), "mixed": ("6.1", "6.12")}
MIB = 1 << 20
OBSTACLE_SECONDS = 30

traffic = others("10_traffic")
churn = others("30_churn")
peers = others("40_peer")


def test_kernels(lab):
    """Each guest runs the kernel and the machine type that the set-up says."""
    said = tuple(re.match(r"\d+\.\d+", vm.sh("uname -r"))[0] for vm in lab.vms)
    expect_equal(said, tuple(vm.record["kernel"] for vm in lab.vms), "kernels")
    expect(said in KERNELS.values(), f"{said} is not a set-up of this file")
    for vm in lab.vms:
        vmm = vm.sh("cat /sys/class/dmi/id/product_name")
        expect(("Q35" in vmm) == (vm.record["machine"] == "q35"), f"{vm.name} is a {vmm}")


def test_ping(lab):
    """As 10_traffic: echo requests of 56, 9000 and 65000 bytes, IPv4 and IPv6."""
    traffic.test_ping(lab)


def test_udp_fragments(lab):
    """As 10_traffic: datagrams of all sizes, IPv4 and IPv6."""
    traffic.test_udp_fragments(lab)


def test_neighbours(lab):
    """As 10_traffic: ARP and neighbour discovery from empty tables."""
    traffic.test_arp(lab)
    traffic.test_neighbour_discovery(lab)


@limit(400)
def test_tcp_stream(lab):
    """Every byte of TCP streams is compared, both ways at once and with either guest as client, IPv4 and IPv6."""
    link_up(lab)
    size = soak(1024, 48) * MIB
    for address, listen in ((lab.vm2.ip, "0.0.0.0"), (lab.vm2.ip6, "::")):
        with by_ring(lab.vm1, lab.vm2, size // 65536 // 2, size // 65536 // 2, stray=200):
            traffic.stream(lab, address, size, size, listen)


def test_scp(lab):
    """scp of a file in either direction arrives with the same checksum."""
    link_up(lab)
    for source, target in ((lab.vm1, lab.vm2), (lab.vm2, lab.vm1)):
        source.sh("head -c 8M /dev/urandom >/tmp/scp")
        with by_ring(source, target, 8 * MIB // 65536 // 2, 20, stray=200):
            source.sh(f"scp -q -c aes128-gcm@openssh.com /tmp/scp root@{target.ip}:/tmp/scp-came", timeout=100)
        expect_equal(target.sh("sha256sum </tmp/scp-came"), source.sh("sha256sum </tmp/scp"), "the checksum")
        source.sh("rm /tmp/scp")
        target.sh("rm /tmp/scp-came")


def turn(lab, number):
    """The guests in turn, the one that differs first."""
    return lab.vms[(number + 1) % 2]


@limit(soak(1000, 200))
def test_detach_under_load(lab):
    """`shunt detach` and `attach` in either guest under load: no byte lost, no reset, the link comes back."""
    churn.churn(lab, lambda n: turn(lab, n).shunt("detach"), lambda n: turn(lab, n).shunt("attach"), soak(50, 1))


@limit(soak(1000, 200))
def test_module_reload_under_load(lab):
    """rmmod and insmod in either guest under load: the same."""
    churn.churn(lab, lambda n: turn(lab, n).module(False), lambda n: turn(lab, n).module(True), soak(50, 2))


@limit(150)
def test_device_del_under_load(lab):
    """An operator's device_del in either guest under load: the same."""
    def leave(number):
        end = next(e for e in lab.host1.status()["pairs"][0]["ends"] if e["vm"] == turn(lab, number).name)
        turn(lab, number).qmp("device_del", id=end["device"])

    churn.churn(lab, leave, lambda n: lab.host1.shunt("attach", turn(lab, n).name), soak(20, 1))


def test_udp_flood(lab):
    """As 30_churn: a UDP flood both ways leaves a working link."""
    churn.test_udp_flood(lab)


# Load a classifier that lets everything pass and attach it by a tcx link to eth0's egress, until the program ends.
TCX = """
import ctypes, signal, socket, struct
bpf = lambda command, attr: ctypes.CDLL(None, use_errno=True).syscall(321, command, attr, len(attr))
code = ctypes.create_string_buffer(struct.pack('<BBhi', 0xb7, 0, 0, -1) + struct.pack('<BBhi', 0x95, 0, 0, 0))
licence = ctypes.create_string_buffer(b'GPL')
SCHED_CLS, PROG_LOAD, LINK_CREATE, TCX_EGRESS = 3, 5, 28, 47
load = struct.pack('<IIQQIIQII16sII', SCHED_CLS, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0, b't',
                   0, TCX_EGRESS)
program = bpf(PROG_LOAD, load)
assert program >= 0, f'program: errno {ctypes.get_errno()}'
link = bpf(LINK_CREATE, struct.pack('<IIII32x', program, socket.if_nametoindex('eth0'), TCX_EGRESS, 0))
assert link >= 0, f'link: errno {ctypes.get_errno()}'
print('attached', flush=True)
signal.pause()
"""


def state_of_nic(vm):
    """What the guest's module says of its NIC."""
    return vm.shunt("status")


def echo(lab):
    """Twenty echo requests."""
    expect("20 received" in lab.vm1.sh(f"ping -q -c 20 -i 0.02 -W 5 {lab.vm2.ip}"), "ping")


def on_network(lab, vm):
    """What @vm sends takes the network; the other guest's answers, which nothing hinders, the ring."""
    other = next(x for x in lab.vms if x is not vm)
    with by_network(vm, other, 20, ring=25) as counted:
        echo(lab)
    expect_equal(counted.grown(0, "tx_frames"), 0, f"frames of {vm.name} by ring")
    expect(counted.grown(1, "tx_frames") >= 20, f"{other.name} left the ring: {counted}")


def test_tc_egress(lab):
    """A clsact without filters is no obstacle; a filter on egress is, on every kernel; gone, the ring is used again."""
    link_up(lab)
    for vm in lab.vms:
        vm.sh("tc qdisc add dev eth0 clsact")
        try:
            with by_ring(lab.vm1, lab.vm2, 20, 20):
                echo(lab)
            vm.sh("tc filter add dev eth0 egress matchall action pass")
            on_network(lab, vm)
            expect("a tc egress filter" in state_of_nic(vm), f"{vm.name} does not say it: {state_of_nic(vm)}")
            vm.sh("tc filter del dev eth0 egress")
            with by_ring(lab.vm1, lab.vm2, 20, 20):
                echo(lab)
        finally:
            vm.sh("tc qdisc del dev eth0 clsact")


def test_tcx_program(lab):
    """A BPF program at the tcx egress hook (6.6 and later) keeps its guest's frames on the network while it is there."""
    link_up(lab)
    vm = lab.vm2
    loader = vm.bg(f'exec python3 -c "{TCX}"')
    loader.wait_output("attached")
    on_network(lab, vm)
    expect("a tc egress filter" in state_of_nic(vm), f"{vm.name} does not say it: {state_of_nic(vm)}")
    loader.stop(signal.SIGKILL)
    wait_until(lambda: "a tc egress filter" not in state_of_nic(vm), OBSTACLE_SECONDS, "the program is gone")
    with by_ring(lab.vm1, lab.vm2, 20, 20):
        echo(lab)


def test_paused(lab):
    """As 40_peer: a paused peer stalls the link, and all resumes with nothing lost."""
    peers.test_paused(lab)


def test_peer_killed(lab):
    """As 40_peer: kill -9 of the peer's QEMU; the survivor goes on and links up with the peer that comes back."""
    peers.test_qemu_killed(lab)
