# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What is attached to a guest's NIC (XDP, tc, queueing, MTU, tunnels, IPsec, offloads) is never passed by, and loses nothing."""
import contextlib
import pathlib
import subprocess
import tempfile

from shuntlab.scenario import *
from shuntlab.setups import counted, nic_state, Stream
from shuntlab.traffic import by_network, by_ring, causes, exchange, link_up, stats, tool

SETUP = {"vms": 2, "nics": 2}
XDP = pathlib.Path(__file__).parent / "guest/xdp.c"


def put_xdp(vm):
    """Compile the XDP program and put it into a guest."""
    with tempfile.NamedTemporaryFile(suffix=".o") as program:
        subprocess.run(["clang", "-target", "bpf", "-O2", "-g", "-I/usr/include/x86_64-linux-gnu", "-c", "-o", program.name,
                        XDP], check=True)
        vm.put(program.name, "/tmp/xdp.o")


def ports_back(lab, *ports):
    """Of 5 datagrams to each of these ports of vm2, how many came back."""
    echo = lab.vm2.bg(f"{tool(lab.vm2, 'datagram.py')} echo {' '.join(map(str, ports))}")
    wait_until(lambda: lab.vm2.run(f"ss -Hlnu sport = :{ports[-1]} | grep -q .").ok, 20, "the echo listens")
    out = lab.vm1.sh(f"{tool(lab.vm1, 'datagram.py')} try {lab.vm2.ip} 5 {' '.join(map(str, ports))}")
    echo.stop()
    return {int(line.split()[0]): int(line.split()[2]) for line in out.splitlines()}


@contextlib.contextmanager
def ringing(lab):
    """The ring carries traffic before and after the block."""
    link_up(lab)
    yield
    with by_ring(lab.vm1, lab.vm2, 50, 50):
        exchange(lab.vm1, lab.vm2)


def test_xdp(lab):
    """
    An XDP program on the receiver, native or generic, keeps both directions on the network; both ends say why; what it
    drops is dropped. Without it the ring is back.
    """
    with ringing(lab):
        put_xdp(lab.vm2)
        for mode in ("xdpdrv", "xdpgeneric"):
            lab.vm2.sh(f"ip link set dev eth0 {mode} obj /tmp/xdp.o sec xdp")
            try:
                expect("it has an XDP program" in nic_state(lab.vm2), f"{mode}: {nic_state(lab.vm2)}")
                told = causes(lab.vm1, lab.vm2)["peer-nic"]
                wait_until(lambda: lab.vm1.run("ping -q -c 1 -W 1 vm2").ok and
                           causes(lab.vm1, lab.vm2)["peer-nic"] > told, 10, "vm1 knows that vm2 takes nothing")
                with counted(lab.vm1, lab.vm2, "peer-nic", 50), counted(lab.vm2, lab.vm1, "nic", 50), \
                        by_network(lab.vm1, lab.vm2, 50, 50):
                    exchange(lab.vm1, lab.vm2)
                expect_equal(ports_back(lab, 9, 7041), {9: 0, 7041: 5}, f"datagrams back with {mode}")
            finally:
                lab.vm2.run(f"ip link set dev eth0 {mode} off")
            heard = stats(lab.vm1, lab.vm2)["tx_frames"]
            wait_until(lambda: lab.vm1.run("ping -q -c 1 -W 1 vm2").ok and
                       stats(lab.vm1, lab.vm2)["tx_frames"] > heard, 10, "the ring is back")


def test_tc(lab):
    """A tc egress filter keeps its NIC's frames on the network, an ingress filter sees frames from the ring; both drop what they should."""
    with ringing(lab):
        for vm, way in ((lab.vm1, "egress"), (lab.vm2, "ingress")):
            vm.sh(f"tc qdisc add dev eth0 clsact && tc filter add dev eth0 {way} protocol ip u32 "
                  "match ip protocol 17 0xff match ip dport 9 0xffff action drop")
            try:
                if way == "egress":
                    expect("it has a tc egress filter" in nic_state(vm), nic_state(vm))
                    with counted(lab.vm1, lab.vm2, "nic", 50):
                        exchange(lab.vm1, lab.vm2)
                    expect_equal(ports_back(lab, 9, 7041), {9: 0, 7041: 5}, "datagrams back past egress")
                else:
                    expect_equal(nic_state(vm), "bound", "state with an ingress filter")
                    with by_ring(lab.vm1, lab.vm2, 5, 5):
                        expect_equal(ports_back(lab, 9, 7041), {9: 0, 7041: 5}, "datagrams back past ingress")
            finally:
                vm.run("tc qdisc del dev eth0 clsact")


def test_qdiscs(lab):
    """tbf and htb enforce something, so their NIC's frames take the network; the kernel's defaults do not."""
    with ringing(lab):
        try:
            for qdisc, shunted in (("tbf rate 200mbit burst 128k latency 50ms", False), ("htb default 1", False),
                                   ("fq", True), ("fq_codel", True), ("pfifo_fast", True)):
                lab.vm1.sh(f"tc qdisc replace dev eth0 root {qdisc}")
                expect_equal(nic_state(lab.vm1), "bound" if shunted else
                             "bound, but it has a queueing discipline: frames take the network", f"state with {qdisc}")
                if shunted:
                    with by_ring(lab.vm1, lab.vm2, 20, 20):
                        lab.vm1.sh("ping -q -c 20 -i 0.02 vm2")
                else:
                    with counted(lab.vm1, lab.vm2, "nic", 50):
                        exchange(lab.vm1, lab.vm2)
        finally:
            lab.vm1.run("tc qdisc del dev eth0 root")


@contextlib.contextmanager
def jumbo(lab):
    """A network of MTU 9000; what the guests' NICs have is up to the block."""
    ports = "vm1 vm2 br0"
    lab.host1.sh(f"for i in {ports}; do ip link set $i mtu 9000; done")
    try:
        yield
    finally:
        for vm in lab.vms:
            vm.run("ip link set eth0 mtu 1500; ip route flush cache")
        lab.host1.run(f"for i in {ports}; do ip link set $i mtu 1500; done")


def test_mtu(lab):
    """
    With MTU 9000 at both ends large frames cross in one piece; with 9000 and 1500 those above the smaller take the
    network, of a TCP connection made for the larger too, whose peer's MTU shrinks: not a byte is lost.
    """
    with ringing(lab), jumbo(lab):
        for vm in lab.vms:
            vm.sh("ip link set eth0 mtu 9000")
        echoes = "ping -q -c 10 -i 0.02 -s 8900 -M do vm2"

        def by_ring_now():
            before = stats(lab.vm1, lab.vm2)["tx_frames"]
            return lab.vm1.run(echoes).ok and stats(lab.vm1, lab.vm2)["tx_frames"] >= before + 10
        wait_until(by_ring_now, 10, "both ends know of MTU 9000")
        with by_ring(lab.vm1, lab.vm2, 10, 10) as flow:
            expect("10 received" in lab.vm1.sh(echoes), "large echoes")
        expect(flow.grown(0, "tx_frames") < 20, f"fragments: {flow}")
        with by_ring(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2)
        running = Stream(lab)
        running.goes_on("with MTU 9000")
        told = causes(lab.vm1, lab.vm2)["mtu"]
        lab.vm2.sh("ip link set eth0 mtu 1500")
        wait_until(lambda: causes(lab.vm1, lab.vm2)["mtu"] > told + 100, 20, "large segments take the network")
        running.goes_on("with MTU 9000 and 1500")
        running.end()
        with counted(lab.vm1, lab.vm2, "mtu", 10):
            expect("10 received" in lab.vm1.sh("ping -q -c 10 -i 0.02 -s 8900 vm2"), "large echoes to the smaller MTU")
        with by_ring(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2, sizes=(56, 1400))
        told = causes(lab.vm2, lab.vm1)["mtu"]
        expect_equal(told, causes(lab.vm2, lab.vm1)["mtu"], "vm2 sends nothing too large")


def ends(lab):
    """(guest, its address, its peer's address, inner address) of both."""
    one, two = lab.vms
    return ((one, one.ip, two.ip, "10.80.0.1"), (two, two.ip, one.ip, "10.80.0.2"))


TUNNELS = {
    "vxlan": "ip link add tun9 type vxlan id 9 local {own} remote {peer} dstport 4789 dev eth0",
    "geneve": "ip link add tun9 type geneve id 9 remote {peer}",
    "gre": "ip link add tun9 type gre local {own} remote {peer} key 9",
    "ipip": "ip link add tun9 type ipip local {own} remote {peer}",
}


def test_tunnels(lab):
    """Tunnels between the guests cross by ring, cut to size before, in order and whole."""
    with ringing(lab):
        for kind, command in TUNNELS.items():
            try:
                for vm, own, other, inner in ends(lab):
                    vm.sh(f"{command.format(own=own, peer=other)} && sysctl -qw net.ipv6.conf.tun9.disable_ipv6=1 && "
                          f"ip addr add {inner}/24 dev tun9 && ip link set tun9 up")
                print(kind)
                with by_ring(lab.vm1, lab.vm2, 500, 500):
                    exchange(lab.vm1, lab.vm2, "10.80.0.2", mib=2)
            finally:
                for vm in lab.vms:
                    vm.run("ip link del tun9")


def xfrm(lab):
    """IPsec in transport mode between the guests, all but ssh."""
    key = "0x" + "4a" * 20
    for vm, own, other, _ in ends(lab):
        for source, target, way in ((own, other, "out"), (other, own, "in")):
            spi = f"0x{int(source.split('.')[3]):x}00"
            vm.sh(f"ip xfrm state add src {source} dst {target} proto esp spi {spi} mode transport "
                  f"aead 'rfc4106(gcm(aes))' {key} 128 && ip xfrm policy add src {source} dst {target} dir {way} "
                  f"tmpl src {source} dst {target} proto esp mode transport")


def test_ipsec(lab):
    """
    IPsec between the guests crosses by ring, encrypted; where encryption is put off until after the hook (esp4_offload)
    its frames take the network. Everything arrives.
    """
    with ringing(lab):
        try:
            for offload in (False, True):
                if offload:
                    for vm in lab.vms:
                        vm.sh("modprobe esp4_offload")
                xfrm(lab)
                if offload:
                    with counted(lab.vm1, lab.vm2, "encryption", 100), by_network(lab.vm1, lab.vm2, 100, 100, ring=300):
                        exchange(lab.vm1, lab.vm2)
                else:
                    with by_ring(lab.vm1, lab.vm2, 500, 500):
                        exchange(lab.vm1, lab.vm2)
                for vm in lab.vms:
                    vm.sh("ip xfrm policy flush; ip xfrm state flush")
        finally:
            for vm in lab.vms:
                vm.run("ip xfrm policy flush; ip xfrm state flush; rmmod esp4_offload")


SEND_SEGMENTED = """
import random, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('10.77.0.12', 7042)); s.settimeout(10)
s.setsockopt(socket.SOL_UDP, 103, 1200)
for number in range(50):
    data = random.Random(number).randbytes(30 * 1200 + number)
    s.send(data)
    assert s.recv(100) == b'%d' % number
"""
HEAR_SEGMENTED = """
import random, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
s.bind(('', 7042)); s.settimeout(20); print('listening', flush=True)
for number in range(50):
    data = random.Random(number).randbytes(30 * 1200 + number)
    for start in range(0, len(data), 1200):
        got, sender = s.recvfrom(65536)
        assert got == data[start:start + 1200], (number, start, len(got))
    s.sendto(b'%d' % number, sender)
"""


def test_udp_segmentation(lab):
    """Datagrams sent many at once (UDP_SEGMENT) cross by ring, each one as it was and in order."""
    with ringing(lab):
        hear = lab.vm2.bg(f'exec python3 -c "{HEAR_SEGMENTED}"')
        hear.wait_output("listening")
        with by_ring(lab.vm1, lab.vm2, 50 * 30, 50):
            lab.vm1.sh(["python3", "-c", SEND_SEGMENTED])
        hear.wait()


SCTP_SERVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
s.bind(('0.0.0.0', 7043)); s.listen(1); print('listening', flush=True)
c = s.accept()[0]
while True:
    data = c.recv(65536)
    if not data:
        break
    c.sendall(data)
"""
SCTP_CLIENT = """
import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
s.settimeout(20); s.connect(('10.81.2.2', 7043))
for size in (1, 500, 1400, 3000, 20000) * 10:
    data = os.urandom(size); s.sendall(data); back = b''
    while len(back) < size:
        back += s.recv(65536)
    assert back == data
"""


def test_sctp_forwarded(lab):
    """SCTP of a container, whose checksum was left to the NIC, crosses with it filled in: the container over there verifies it."""
    with ringing(lab):
        try:
            for number, vm, other in ((1, lab.vm1, lab.vm2), (2, lab.vm2, lab.vm1)):
                net = f"10.81.{number}"
                vm.sh("modprobe sctp; ip netns add box && ip link add in type veth peer name eth0 netns box && "
                      f"ip addr add {net}.1/24 dev in && ip link set in up && ip -n box addr add {net}.2/24 dev eth0 && "
                      f"ip -n box link set eth0 up && ip -n box route add default via {net}.1 && "
                      f"sysctl -qw net.ipv4.ip_forward=1 && ip route add 10.81.{3 - number}.0/24 via {other.ip}")
            lab.vm2.sh("ethtool -K in tx off")      # a checksum that is not there would be computed wrongly here
            server = lab.vm2.bg(f'exec ip netns exec box python3 -c "{SCTP_SERVER}"')
            server.wait_output("listening")
            with by_ring(lab.vm1, lab.vm2, 50, 50):
                lab.vm1.sh(["ip", "netns", "exec", "box", "python3", "-c", SCTP_CLIENT])
            server.wait()
        finally:
            for vm in lab.vms:
                vm.run("ip netns del box; ip link del in; sysctl -qw net.ipv4.ip_forward=0; "
                       "ip route del 10.81.1.0/24; ip route del 10.81.2.0/24")
