# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What guests use to see and filter traffic works on what crosses shared memory: firewalls, captures, conntrack."""
import json
import re

from shuntlab.scenario import *
from shuntlab.traffic import by_ring, link_up, tool

SETUP = {"vms": 2}
PORT, OTHER = 7010, 7011
COUNT = 10
DEVICE_CHAIN = "table netdev t {{ chain c {{ type filter hook {hook} device eth0 priority 0; {match} counter drop; }}; }}"
INET_CHAIN = "table inet t {{ chain c {{ type filter hook {hook} priority {priority}; {match} counter drop; }}; }}"


def came_back(lab, *ports):
    """How many of COUNT datagrams from vm1 to an echo in vm2 were answered, for each port."""
    out = lab.vm1.sh(f"exec python3 /usr/local/bin/datagram.py try {lab.vm2.ip} {COUNT} {' '.join(map(str, ports))}")
    return [int(re.search(rf"{port} back (\d+)", out)[1]) for port in ports]


def echo(lab):
    """Both ports answered by vm2."""
    tool(lab.vm1, "datagram.py")
    lab.vm2.serve(f"{tool(lab.vm2, 'datagram.py')} echo {PORT} {OTHER}", OTHER, udp=True)


def rule_packets(vm):
    """The counter of the one rule."""
    rules = json.loads(vm.sh("nft -j list ruleset"))["nftables"]
    return sum(part["counter"]["packets"] for entry in rules if "rule" in entry
               for part in entry["rule"]["expr"] if "counter" in part)


def dropped_by(lab, vm, rules, reaches_ring):
    """@rules in @vm drop what goes to PORT of vm2 and nothing else, while they are there."""
    link_up(lab)
    echo(lab)
    vm.sh(["nft", rules])
    try:
        with by_ring(lab.vm1, lab.vm2, COUNT * (2 if reaches_ring else 1), COUNT) as counted:
            expect_equal(came_back(lab, PORT, OTHER), [0, COUNT], "answers with the rule, and from another port")
        expect_equal(rule_packets(vm), COUNT, "packets the rule counted")
        expect(reaches_ring or counted.grown(0, "tx_frames") < 2 * COUNT, f"dropped frames were sent: {counted}")
    finally:
        vm.sh("nft flush ruleset")
    with by_ring(lab.vm1, lab.vm2, COUNT, COUNT):
        expect_equal(came_back(lab, PORT), [COUNT], "answers without the rule")


MATCH = f"ip protocol udp udp dport {PORT}"


def test_firewall_output(lab):
    """An output rule of the sender drops before anything reaches shared memory."""
    dropped_by(lab, lab.vm1, INET_CHAIN.format(hook="output", priority=0, match=MATCH), False)


def test_firewall_egress(lab):
    """So does an egress rule on the NIC itself, at the hook Shunt uses."""
    dropped_by(lab, lab.vm1, DEVICE_CHAIN.format(hook="egress", match=MATCH), False)


def test_firewall_input(lab):
    """An input rule of the receiver drops what came through shared memory."""
    dropped_by(lab, lab.vm2, INET_CHAIN.format(hook="input", priority=0, match=MATCH), True)


def test_firewall_prerouting(lab):
    """So does a prerouting rule before connection tracking."""
    dropped_by(lab, lab.vm2, INET_CHAIN.format(hook="prerouting", priority=-300, match=MATCH), True)


def test_firewall_ingress(lab):
    """So does an ingress rule on the NIC: frames come in by it."""
    dropped_by(lab, lab.vm2, DEVICE_CHAIN.format(hook="ingress", match=MATCH), True)


def test_firewall_reject_tcp(lab):
    """A receiver that rejects a TCP port is heard at once; an open connection through another goes on."""
    link_up(lab)
    server = lab.vm2.serve(f"{tool(lab.vm2, 'stream.py')} 0.0.0.0 {PORT} --listen", PORT)
    program = tool(lab.vm1, "stream.py")
    lab.vm2.sh(["nft", "table inet t { chain c { type filter hook input priority 0; "
                       f"tcp dport {OTHER} counter reject with tcp reset; }}; }}"])
    try:
        with by_ring(lab.vm1, lab.vm2, 10, 2):
            client = lab.vm1.bg(f"{program} {lab.vm2.ip} {PORT} --send -1")
            server.wait_output("at [1-9]")
            refused = lab.vm1.run(f"nc -v -w 20 -z {lab.vm2.ip} {OTHER}")
            sent = client.stop()
        expect(not refused.ok and "refused" in refused.err, f"the port is not closed: {refused}")
        expect_equal(rule_packets(lab.vm2), 1, "packets the rule counted")
    finally:
        lab.vm2.sh("nft flush ruleset")
    expect(sent.ok, f"{sent}")
    expect_equal(re.search(r"received (\d+)", server.wait().out)[1], re.search(r"sent (\d+)", sent.out)[1], "bytes")


class Capture:
    """tcpdump in a guest."""

    def __init__(self, vm, what):
        self.process = vm.bg(f"exec tcpdump -i eth0 -nn -tt -S -s 128 -B 16384 --immediate-mode -l '{what}'")
        self.process.wait_output("listening on")

    def end(self, pattern, count):
        """Stop when @count lines matched (or soon after none do); all lines."""
        try:
            wait_until(lambda: len(re.findall(pattern, self.process.out)) >= count, 10, "all is captured", every=0.2)
        except Failed:
            pass        # the caller shows what is there
        done = self.process.stop()
        dropped = re.search(r"(\d+) packets? dropped by kernel", done.err)
        expect(dropped and dropped[1] == "0", f"the capture lost packets: {done.err}")
        return done.out.splitlines()


def test_tcpdump_udp(lab):
    """A capture in each guest shows each datagram once, both directions."""
    link_up(lab)
    echo(lab)
    captures = [(vm, Capture(vm, f"udp port {PORT}")) for vm in lab.vms]
    with by_ring(lab.vm1, lab.vm2, COUNT, COUNT):
        expect_equal(came_back(lab, PORT), [COUNT], "answers")
    for vm, capture in captures:
        lines = capture.end("UDP", 2 * COUNT)
        for what in (rf"{lab.vm1.ip}\.\d+ > {lab.vm2.ip}\.{PORT}: UDP", rf"{lab.vm2.ip}\.{PORT} > {lab.vm1.ip}\.\d+: UDP"):
            expect_equal(sum(bool(re.search(what, line)) for line in lines), COUNT, f"{vm.name} saw {what}; {lines}")


def test_tcpdump_tcp(lab):
    """A capture in each guest shows every byte of a TCP stream; once, unless TCP repeated it."""
    link_up(lab)
    size = 4 << 20
    lab.vm2.serve(f"{tool(lab.vm2, 'stream.py')} 0.0.0.0 {PORT} --listen", PORT)
    program = tool(lab.vm1, "stream.py")
    captures = [(vm, Capture(vm, f"tcp port {PORT}")) for vm in lab.vms]
    before = retransmitted(lab.vm1)
    with by_ring(lab.vm1, lab.vm2, size // 65536, 10):
        lab.vm1.sh(f"{program} {lab.vm2.ip} {PORT} --send {size}")
    repeated = retransmitted(lab.vm1) - before
    for vm, capture in captures:
        lines = capture.end(r"Flags \[F", 2)
        spans = [(int(m[1]), int(m[2])) for m in (re.search(r"seq (\d+):(\d+)", line) for line in lines) if m]
        origin = int(re.search(rf"> {lab.vm2.ip}\.{PORT}: Flags \[S\], seq (\d+)", "\n".join(lines))[1]) + 1
        spans = sorted(((a - origin) % 2**32, (b - origin) % 2**32) for a, b in spans)
        position = 0
        for start, end in spans:
            expect(start <= position, f"{vm.name} did not see {position}..{start}")
            position = max(position, end)
        expect_equal(position, size, f"{vm.name} saw")
        twice = sum(end - start for start, end in spans) - size
        expect(twice == 0 if not repeated else twice <= repeated * 65536,
               f"{vm.name} saw {twice} bytes twice, TCP repeated {repeated} segments")
        expect(re.search(rf"{lab.vm2.ip}\.{PORT} > .*ack", "\n".join(lines)), f"{vm.name} saw no acknowledgement")


def retransmitted(vm):
    """TCP segments the guest has sent again."""
    return int(vm.sh("nstat -saz TcpRetransSegs | awk '/Tcp/ {print $2}'"))


def test_conntrack(lab):
    """Connection tracking in both guests follows a shunted connection from establishment to its end."""
    link_up(lab)
    for vm in lab.vms:
        vm.sh(["nft", "table inet t { chain c { type filter hook input priority 0; policy drop; iif lo accept; "
                      "ct state established,related accept; meta l4proto ipv6-icmp accept; "
                      f"tcp dport {PORT} ct state new accept; udp dport {OTHER} accept; }}; "
                      "chain o { type filter hook output priority 0; ct state invalid counter drop; }; }"])
    try:
        server = lab.vm2.serve(f"{tool(lab.vm2, 'stream.py')} 0.0.0.0 {PORT} --listen", PORT)
        echo(lab)
        with by_ring(lab.vm1, lab.vm2, COUNT, COUNT):
            client = lab.vm1.bg(f"{tool(lab.vm1, 'stream.py')} {lab.vm2.ip} {PORT} --send -1")
            server.wait_output("at [1-9]")
            expect_equal(came_back(lab, OTHER), [COUNT], "UDP through the stateful firewalls")
            for vm in lab.vms:
                table = vm.sh("conntrack -L 2>/dev/null")
                expect(re.search(rf"tcp .* ESTABLISHED .*src={lab.vm1.ip} dst={lab.vm2.ip} .*dport={PORT} .*\[ASSURED\]",
                                 table), f"{vm.name} tracks no TCP connection: {table}")
                udp = re.search(rf"^udp .*dport={OTHER} .*$", table, re.M)
                expect(udp and "UNREPLIED" not in udp[0], f"{vm.name} tracks no answered UDP: {table}")
            expect(client.stop().ok and server.wait().ok, "the stream ended well")
        for vm in lab.vms:
            table = vm.sh("conntrack -L -p tcp 2>/dev/null")
            expect(re.search(rf"TIME_WAIT .*dport={PORT} ", table), f"{vm.name} did not see the end: {table}")
        out = lab.vm1.run(f"nc -w 2 -z {lab.vm2.ip} {OTHER}")
        expect(not out.ok, "what no rule lets in came in")
    finally:
        for vm in lab.vms:
            vm.sh("nft flush ruleset")
