# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Any traffic between two VMs works with their link up, and takes the path it should."""
import re

from shuntlab.scenario import *
from shuntlab.traffic import by_network, by_ring, link_up, tool

SETUP = {"vms": 2}
MTU = 1500
MIB = 1 << 20


def fragments(size, header, family):
    """Frames a datagram of @size payload bytes with @header bytes above IP takes."""
    room = (MTU - 20) // 8 * 8 if family == 4 else (MTU - 40 - 8) // 8 * 8
    whole = MTU - (20 if family == 4 else 40)
    total = size + header
    return 1 if total <= whole else -(-total // room)


def addresses(vm):
    """(family, address) of both."""
    return ((4, vm.ip), (6, vm.ip6))


def test_ping(lab):
    """Echo requests of 56, 9000 and 65000 bytes, IPv4 and IPv6: all answered, every fragment by ring."""
    link_up(lab)
    count = 20
    for family, address in addresses(lab.vm2):
        for size in (56, 9000, 65000):
            frames = count * fragments(size, 8, family)
            with by_ring(lab.vm1, lab.vm2, frames, frames):
                # One process each: even with -A one ping sends on after 10 ms without an answer, and its receive
                # buffer holds two of the largest answers, which a starved vm2 then sends at once.
                out = lab.vm1.sh(f"for i in $(seq {count}); do ping -q -c 1 -W 10 -s {size} {address}; done")
            expect_equal(out.count("1 received, 0% packet loss"), count, f"answers of {size} bytes from {address}")


def neighbours_from_empty(lab, address, mac, family):
    """Forget the neighbour on both sides, then talk: resolved over the network, the rest by ring."""
    link_up(lab)
    for vm in lab.vms:
        vm.sh(f"ip -{family} neigh flush dev eth0 nud all")
    expect(not lab.vm1.sh(f"ip -{family} neigh show to {address} nud reachable"), "the table is not empty")
    with by_ring(lab.vm1, lab.vm2, 10, 10) as counted:
        out = lab.vm1.sh(f"ping -q -c 10 -i 0.02 -W 10 {address}")
    expect("10 received" in out, out)
    expect(mac in lab.vm1.sh(f"ip -{family} neigh show to {address}"), "no neighbour entry")
    expect(counted.grown(1, "tx_ineligible") >= 1 and counted.tap(0) >= 1,
           f"question and answer did not take the network: {counted}")


def test_arp(lab):
    """ARP from an empty table."""
    neighbours_from_empty(lab, lab.vm2.ip, lab.vm2.mac, 4)


def test_neighbour_discovery(lab):
    """IPv6 neighbour discovery from an empty table."""
    neighbours_from_empty(lab, lab.vm2.ip6, lab.vm2.mac, 6)


def test_udp_fragments(lab):
    """UDP datagrams of 1 byte to the largest possible come back unchanged; IP fragments take the ring too."""
    link_up(lab)
    program = tool(lab.vm1, "datagram.py")
    lab.vm2.serve(f"{tool(lab.vm2, 'datagram.py')} echo 7001", 7001, udp=True)
    for family, address in addresses(lab.vm2):
        sizes = [1, 1400, 1452, 1472, 1473, 4000, 9000, 30000, 65507 if family == 4 else 65487]
        frames = 10 * sum(fragments(size, 8, family) for size in sizes)
        with by_ring(lab.vm1, lab.vm2, frames, frames):
            lab.vm1.sh(f"{program} ask {address} 7001 10 {' '.join(map(str, sizes))}")


def test_multicast_broadcast(lab):
    """Multicast of both families and broadcast reach the other VM, each datagram once, over the network."""
    link_up(lab)
    program = tool(lab.vm1, "datagram.py")
    for source, target in ((lab.vm1, lab.vm2), (lab.vm2, lab.vm1)):
        listener = target.bg(f"{tool(target, 'datagram.py')} hear 7002 40 20")
        tool(source, "datagram.py")
        listener.wait_output("listening")
        sent = {"four": "239.7.7.7", "six": "ff12::7777", "broad": "10.77.0.255", "limited": "255.255.255.255"}
        source.sh("ip route replace 255.255.255.255 dev eth0")
        with by_network(source, target, 40):
            source.sh("; ".join(f"{program.removeprefix('exec ')} say {address} 7002 {word} 10"
                                for word, address in sent.items()))
            heard = sorted(re.findall(r"heard (\w+)", listener.wait().out))
        source.sh("ip route del 255.255.255.255 dev eth0")
        expect_equal(heard, sorted(f"{word}{i}" for word in sent for i in range(10)), f"{target.name} heard")


def test_other_protocol(lab):
    """IP protocol 253 over raw sockets, both families, also fragmented, takes the ring unchanged."""
    link_up(lab)
    program = tool(lab.vm1, "datagram.py")
    lab.vm2.bg(f"{tool(lab.vm2, 'datagram.py')} raw-echo 253").wait_output("listening")
    for family, address in addresses(lab.vm2):
        sizes = [8, 1000, 1400, 5000]
        frames = 10 * sum(fragments(size, 0, family) for size in sizes)
        with by_ring(lab.vm1, lab.vm2, frames, frames):
            lab.vm1.sh(f"{program} raw-ask {address} 253 10 {' '.join(map(str, sizes))}")


SCTP_SERVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
s.bind(('', 7003)); s.listen(1); print('listening', flush=True)
c = s.accept()[0]
while data := c.recv(65536):
    c.sendall(data)
"""
SCTP_CLIENT = """
import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
s.connect(('10.77.0.12', 7003))
for size in (1, 500, 1400, 3000, 20000) * 10:
    data = os.urandom(size); s.sendall(data); back = b''
    while len(back) < size:
        back += s.recv(65536)
    assert back == data
"""


def test_sctp(lab):
    """An SCTP association keeps working; what of it can cross takes the ring."""
    link_up(lab)
    for vm in lab.vms:
        vm.sh("modprobe sctp")
    server = lab.vm2.bg(f'exec python3 -c "{SCTP_SERVER}"')
    server.wait_output("listening")
    with by_ring(lab.vm1, lab.vm2, 50, 50, stray=2000):      # segmentation offload of SCTP takes the network
        lab.vm1.sh(["python3", "-c", SCTP_CLIENT])
    server.wait()


def stream(lab, address, send, back, listen):
    """A connection from vm1 to vm2 with known bytes both ways."""
    server = lab.vm2.serve(f"{tool(lab.vm2, 'stream.py')} {listen} 7004 --listen --send {back}", 7004)
    client = lab.vm1.sh(f"{tool(lab.vm1, 'stream.py')} {address} 7004 --send {send}", timeout=400)
    served = server.wait(400).out
    for end, said, sent, received in (("vm1", client, send, back), ("vm2", served, back, send)):
        expect(f"sent {sent}\n" in said and f"received {received}\n" in said, f"{end} said {said}")


@limit(400)
def test_tcp_one_gib(lab):
    """1 GiB over one TCP connection by ring; every byte is compared at the receiver."""
    link_up(lab)
    size = 1024 * MIB
    with by_ring(lab.vm1, lab.vm2, size // 65536 // 2, 100, stray=200):
        stream(lab, lab.vm2.ip, size, 0, "0.0.0.0")


@limit(400)
def test_tcp_both_ways(lab):
    """Both directions of a connection at once, IPv4 and IPv6."""
    link_up(lab)
    size = soak(1024, 128) * MIB
    for address, listen in ((lab.vm2.ip, "0.0.0.0"), (lab.vm2.ip6, "::")):
        with by_ring(lab.vm1, lab.vm2, size // 65536 // 2, size // 65536 // 2, stray=200):
            stream(lab, address, size, size, listen)


MAKE_FILE = """
import sys
with open(sys.argv[1], "wb") as file:       # no two pages alike, each of one repeated word: zram keeps it for nothing
    for page in range(int(sys.argv[2]) // 4096):
        file.write((page * 2654435761 % 2**64).to_bytes(8, "little") * 512)
"""


def roomy(vm):
    """A file system that takes a file larger than the guest's memory."""
    vm.sh("modprobe zram && echo 1500M >/sys/block/zram0/disksize && mkswap -q /dev/zram0 && swapon /dev/zram0")
    vm.sh("mount -t tmpfs -o size=1200M big /mnt")


def not_roomy(vm):
    """Undo roomy()."""
    vm.run("umount /mnt; swapoff /dev/zram0; rmmod zram")


@limit(soak(1200, 120))
def test_ssh_scp(lab):
    """ssh runs a command; scp of a large file (1 GiB in the soak) arrives with the same checksum."""
    link_up(lab)
    size = soak(1024, 32) * MIB
    try:
        for vm in lab.vms:
            roomy(vm)
        with by_ring(lab.vm1, lab.vm2, 10, 10):
            expect_equal(lab.vm1.sh("ssh vm2 hostname"), "vm2\n", "ssh")
        lab.vm1.sh(["python3", "-c", MAKE_FILE, "/mnt/big", size], timeout=200)
        with by_ring(lab.vm1, lab.vm2, size // 65536 // 2, 50, stray=500):
            lab.vm1.sh("scp -q -c aes128-gcm@openssh.com /mnt/big vm2:/mnt/", timeout=900)
        sums = [vm.sh("sha256sum </mnt/big", timeout=200) for vm in lab.vms]
        expect_equal(sums[1], sums[0], "the checksum")
        expect_equal(lab.vm2.sh("stat -c %s /mnt/big"), f"{size}\n", "the size")
    finally:
        for vm in lab.vms:
            not_roomy(vm)


def test_many_connections(lab):
    """Thousands of short HTTP connections at 64 in parallel, none fails; contents are compared."""
    link_up(lab)
    lab.vm2.sh("cd /var/www/html && head -c 1024 /dev/urandom >1k && head -c 100000 /dev/urandom >100k")
    nginx = lab.vm2.serve("nginx -g 'daemon off;'", 80)
    try:
        with by_ring(lab.vm1, lab.vm2, 3000, 2000, stray=500):
            out = lab.vm1.sh("wrk -t 1 -c 64 -d 3s -H 'Connection: close' http://vm2/1k", timeout=60)
            expect(not re.search(r"Non-2xx|Socket errors", out), out)
            expect(int(re.search(r"(\d+) requests in", out)[1]) > 300, out)
            wanted = lab.vm2.sh("cd /var/www/html && sha256sum <1k && sha256sum <100k").split()[::2]
            for name, total in zip(("1k", "100k"), wanted):
                got = lab.vm1.sh("rm -rf /tmp/h && mkdir /tmp/h && cd /tmp/h && curl -sf --no-keepalive -Z --parallel-max 32 "
                                 f"'http://vm2/{name}?[1-200]' -o 'f#1' && sha256sum * | cut -d' ' -f1 | uniq -c",
                                 timeout=100)
                expect_equal(got.split(), ["200", total], f"200 times {name}")
    finally:
        nginx.stop()
        lab.vm1.sh("rm -rf /tmp/h")
