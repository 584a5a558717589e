# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The packet path between two VMs: everything that works on the network works there, and is seen there."""
import json
import signal

from shuntlab.scenario import *
from shuntlab.traffic import Stream, frames, go_local, pair, path, peer

SETUP = {"vms": 2, "mem": 1536}


def crossed(lab, command, at_least=1, **kwargs):
    """Run a command in vm1 and prove that its frames went through shared memory."""
    before = frames(lab.vm1, lab.vm2)
    out = lab.vm1.sh(command, **kwargs)
    now = frames(lab.vm1, lab.vm2)
    expect(now - before >= at_least, f"`{command}` sent {now - before} frames through shared memory")
    return out


def test_goes_local(lab):
    """Traffic between two attached VMs goes through shared memory by itself, and all say so."""
    go_local(lab)
    entry = pair(lab)
    expect(entry["state"] == "up" and entry["bytes_shared"], f"the pair: {entry}")
    crossed(lab, "ping -q -c 20 -i 0.01 vm2", 20)
    expect("packet" in lab.vm1.shunt("peers"), "the guest's table")


def test_ping_sizes(lab):
    """Pings of 56, 9000 and 65000 bytes over IPv4 and IPv6 lose nothing; those that need fragments, too."""
    go_local(lab)
    for target in ("vm2", "vm2-6"):
        for size in (56, 1400, 9000, 65000):
            out = crossed(lab, f"ping -q -c 10 -i 0.05 -W 5 -s {size} {target}", 10)
            expect(" 0% packet loss" in out, f"{target} {size}: {out}")


def test_neighbours(lab):
    """ARP and neighbour discovery still work: their tables emptied, traffic goes on."""
    go_local(lab)
    for vm in lab.vms:
        vm.sh("ip neigh flush all")
    for target in ("vm2", "vm2-6"):
        lab.vm1.sh(f"ping -q -c 5 -i 0.05 -W 5 {target}")


def test_udp_fragments(lab):
    """UDP datagrams larger than the MTU arrive whole."""
    go_local(lab)
    lab.vm2.serve("timeout 60 socat -u -b 65536 UDP4-RECV:7101 OPEN:/tmp/udp,creat,trunc", 7101, udp=True)
    lab.vm1.sh("head -c 60000 /dev/urandom >/tmp/udp")
    crossed(lab, "socat -u -b 65536 OPEN:/tmp/udp UDP4-DATAGRAM:vm2:7101")
    want = lab.vm1.sh("sha256sum </tmp/udp")
    wait_until(lambda: lab.vm2.sh("sha256sum </tmp/udp") == want, 10, "the datagram arrived whole")
    lab.vm2.sh("pkill socat")


def test_multicast_broadcast(lab):
    """Multicast and broadcast, which take the network, still arrive."""
    go_local(lab)
    lab.vm2.sh("sysctl -q -w net.ipv4.icmp_echo_ignore_broadcasts=0")
    try:
        lab.vm1.sh("ping -b -q -c 3 -i 0.1 -W 5 10.77.0.255")
        lab.vm1.sh("ping -q -c 3 -i 0.1 -W 5 ff02::1%eth0")
    finally:
        lab.vm2.sh("sysctl -q -w net.ipv4.icmp_echo_ignore_broadcasts=1")


def test_other_protocol(lab):
    """Another IP protocol (253) passes both ways."""
    go_local(lab)
    seen = lab.vm2.bg("tcpdump -Z root -lni eth0 -c 1 ip proto 253")
    seen.wait_output("listening on")
    crossed(lab, "echo hello | socat -u - IP4-SENDTO:10.77.0.12:253")
    expect("10.77.0.11 > 10.77.0.12" in seen.wait(20).out, "vm2 saw it")


def test_tcpdump_sees(lab):
    """tcpdump in both guests shows the frames that go through shared memory, once."""
    go_local(lab)
    dumps = [vm.bg("tcpdump -Z root -lni eth0 'icmp and host 10.77.0.11'") for vm in lab.vms]
    for dump in dumps:
        dump.wait_output("listening on")
    crossed(lab, "ping -q -c 5 -i 0.1 vm2", 5)
    for dump in dumps:
        dump.wait_output(r"echo reply, id \d+, seq 5")
        out = dump.stop(signal.SIGINT).out
        for kind in ("echo request", "echo reply"):
            expect_equal(out.count(kind), 5, f"{kind} seen in {dump.vm.name}:\n{out}")


def test_firewall(lab):
    """A rule in either guest, on its way in or out, drops what it drops."""
    go_local(lab)
    for vm, hook in ((lab.vm2, "input"), (lab.vm1, "output")):
        vm.sh(f"nft add table inet t; nft 'add chain inet t c {{ type filter hook {hook} priority 0; }}'; "
              "nft add rule inet t c icmp type echo-request counter drop")
        try:
            result = lab.vm1.run("ping -q -c 3 -i 0.1 -W 1 vm2")
            expect(not result.ok and "100% packet loss" in result.out, f"{vm.name} {hook}: {result}")
            expect("packets 3" in vm.sh("nft list table inet t"), f"the rule in {vm.name} counted")
        finally:
            vm.sh("nft delete table inet t")
        crossed(lab, "ping -q -c 3 -i 0.1 vm2", 3)


def test_conntrack(lab):
    """Connection tracking follows what goes through shared memory: only established traffic may enter vm1."""
    go_local(lab)
    lab.vm1.sh("nft add table inet t; nft 'add chain inet t c { type filter hook input priority 0; policy drop; }'; "
               "nft add rule inet t c iif lo accept; nft add rule inet t c icmpv6 type nd-neighbor-solicit accept; "
               "nft add rule inet t c ct state established,related accept")
    try:
        lab.vm2.serve("timeout 60 iperf3 -s -1", 5201)
        crossed(lab, "iperf3 -c vm2 -n 20M")
        expect("dport=5201" in lab.vm1.sh("conntrack -L -p tcp 2>/dev/null"), "conntrack has the connection")
        result = lab.vm2.run("ping -q -c 2 -i 0.1 -W 1 vm1")
        expect(not result.ok, "what vm2 begins is dropped")
    finally:
        lab.vm1.sh("nft delete table inet t")


@limit(soak(600, 240))
def test_scp(lab):
    """A file copied by scp arrives with the same checksum (1 GiB under soak)."""
    go_local(lab)
    mib = soak(1024, 64)
    for vm in lab.vms:      # a file system of its own: it shares its memory with the page cache only
        vm.sh(f"mkdir -p /mnt/scp && mount -t tmpfs -o size={mib + 1}m scp /mnt/scp")
    try:
        lab.vm1.sh(f"head -c {mib}M /dev/urandom >/mnt/scp/file", timeout=200)
        crossed(lab, "scp -q /mnt/scp/file vm2:/mnt/scp/", 100, timeout=500)
        expect_equal(lab.vm2.sh("sha256sum </mnt/scp/file", timeout=200),
                     lab.vm1.sh("sha256sum </mnt/scp/file", timeout=200), "checksum")
    finally:
        for vm in lab.vms:
            vm.sh("umount /mnt/scp")


def test_stream_checked(lab):
    """Bytes of a TCP stream arrive as they were sent, over IPv4 and IPv6, both ways at once."""
    go_local(lab)
    streams = [Stream(lab.vm1, lab.vm2, 7001), Stream(lab.vm2, lab.vm1, 7002, ip6=True)]
    lab.vm1.sh("ping -q -c 100 -i 0.03 vm2")
    for stream in streams:
        expect(stream.finish() > 10_000_000, "it carried something")


def test_observability(lab):
    """Status of host and guest are valid JSON that agree on who is there."""
    go_local(lab)
    host = lab.host1.status()
    expect_equal(sorted(vm["name"] for vm in host["vms"]), ["vm1", "vm2"], "VMs")
    expect_equal(json.loads(lab.vm1.shunt("status", "--json"))["name"], "vm1", "the guest's own name")
    expect_equal(peer(lab.vm1, lab.vm2)["macs"], [lab.vm2.mac], "the peer's MAC")
    expect_equal(path(lab), "packet", "path")
