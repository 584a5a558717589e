#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What an operator enforces on the host closes links and keeps them closed: real taps, bridges, rules; pretended VMs.

Runs in a network namespace of its own. A row of OBSTACLES that this kernel cannot set up is named and left out, unless
SHUNT_ALL_OBSTACLES is set (a lab scenario runs this in a guest whose kernel has everything).
"""
import ctypes
import os
import socket
import struct
import subprocess
import sys

import fakevm as f
from harness import check, equal, run, with_config

RESPECT = 'plug = "eager"; host_policy = "respect";'
LACKING = ("not supported", "Unknown device type", "not found", "No such file", "no such device", "kind is unknown",
           "Could not process rule")


def sh(command, may_lack=False):
    """Run a shell command; with @may_lack, whether the kernel could."""
    p = subprocess.run(["sh", "-ec", command], capture_output=True, text=True)
    said = p.stdout + p.stderr
    if p.returncode and may_lack and any(x.lower() in said.lower() for x in LACKING) and \
            not os.environ.get("SHUNT_ALL_OBSTACLES"):
        print(f"  left out, this kernel cannot: {command}: {said.strip()}", flush=True)
        return False
    check(p.returncode == 0, f"{command}: {said}")
    return True


def bridged(w, **opts):
    """Two guests, their taps ta and tb on br0, linked."""
    sh("ip link del br0 2>/dev/null || true; ip link add br0 type bridge forward_delay 0; ip link set br0 up")
    a = w.vm("a", taps=["ta"], **opts)
    b = w.vm("b", taps=["tb"], **opts)
    sh("ip link set ta master br0 up; ip link set tb master br0 up")
    for vm in a, b:
        vm.wait("plugged", vectors=1)
        w.hello(vm)
    w.up("a", "b")
    return a, b


def obstructed(w, a, b, words):
    """The link is closed at both ends for that reason; everybody says so."""
    for vm in a, b:
        vm.wait("close", reason=f.R_HOST_POLICY)
        vm.wait("roster", reason=f.R_HOST_POLICY, op=f.ROSTER_ADD)
    w.d.wait_log("pair .*state=parked")
    p = w.d.pair("a", "b")
    equal((p["path"], p["state"], p["reason"]["name"]), ("network", "parked", "host-policy"), words)
    check(words in p["reason"]["detail"], p["reason"])


def cleared(w, a, b):
    w.up("a", "b")
    for vm in a, b:
        vm.wait("roster", reason=0, op=f.ROSTER_ADD)
        vm.forget()
    equal(w.d.pair("a", "b")["path"], "packet", "it is back")


OBSTACLES = [
    ("tc qdisc add dev ta root tbf rate 1mbit burst 10k latency 10ms", "tc qdisc del dev ta root",
     "a: tap ta: tc qdisc tbf limits or shapes it"),
    ("tc qdisc add dev tb root handle 7: fq maxrate 10mbit", "tc qdisc del dev tb root",
     "b: tap tb: tc qdisc fq with a maxrate limits it"),
    ("tc qdisc add dev ta clsact; tc filter add dev ta egress matchall action drop", "tc qdisc del dev ta clsact",
     "tap ta: a tc filter"),
    ("tc qdisc add dev tb ingress; tc filter add dev tb parent ffff: matchall action police rate 1mbit burst 10k "
     "conform-exceed drop", "tc qdisc del dev tb ingress", "tap tb: a tc filter"),
    ("tc qdisc add dev ta ingress_block 3 clsact", "tc qdisc del dev ta clsact", "tap ta: a shared block"),
    ("nft 'table netdev n { chain c { type filter hook ingress device ta priority 0; udp dport 53 drop; }; }'",
     "nft delete table netdev n", "a: tap ta: nftables: table netdev n, chain c"),
    ("nft 'table netdev n { chain c { type filter hook egress device tb priority 0; policy drop; }; }'",
     "nft delete table netdev n", "b: tap tb: nftables: table netdev n, chain c"),
    ("nft 'table inet n { chain c { type filter hook ingress device ta priority 0; counter; }; }'",
     "nft delete table inet n", "a: tap ta: nftables: table inet n, chain c"),
    ("nft 'table bridge f { chain c { type filter hook forward priority 0; iifname tb drop; }; }'",
     "nft delete table bridge f", "b: tap tb: nftables: table bridge f, chain c"),
    ("nft 'table bridge f { chain c { type filter hook prerouting priority 0; iifname \"t*\" ip saddr 1.2.3.4 drop; }; "
     "}'", "nft delete table bridge f", "a: tap ta: nftables: table bridge f, chain c"),
    ("nft 'table bridge f { chain c { type filter hook forward priority 0; ether type arp drop; }; }'",
     "nft delete table bridge f", "a: tap ta: nftables: table bridge f, chain c"),
    ("nft 'table bridge f { chain c { type filter hook forward priority 0; policy drop; }; }'",
     "nft delete table bridge f", "a: tap ta: nftables: table bridge f, chain c"),
    ("nft 'table bridge f { chain d { }; chain c { type filter hook forward priority 0; oifname tb jump d; }; }'",
     "nft delete table bridge f", "b: tap tb: nftables: table bridge f, chain c"),
    ("sysctl -qw net.bridge.bridge-nf-call-iptables=1; "
     "nft 'table ip f { chain c { type filter hook forward priority 0; iifname br0 tcp dport 25 drop; }; }'",
     "nft delete table ip f", "a: tap ta: nftables: table ip f, chain c"),
    ("bridge link set dev ta isolated on", "bridge link set dev ta isolated off",
     "a: tap ta: its bridge port is isolated"),
    ("bridge link set dev tb learning off", "bridge link set dev tb learning on",
     "b: tap tb: its bridge port does not learn"),
    ("bridge link set dev tb locked on", "bridge link set dev tb locked off",
     "b: tap tb: its bridge port is locked"),
    ("ip link set ta down", "ip link set ta up", "a: tap ta: it is down"),
    ("ip link set br0 down", "ip link set br0 up", "a: tap ta: its bridge is down"),
    ("ip link set ta nomaster", "ip link set ta master br0", "a: tap ta: it is on no bridge"),
    ("ip link add br1 up type bridge forward_delay 0; ip link set tb master br1",
     "ip link set tb master br0; ip link del br1", "their NICs are not on the same bridges and VLANs"),
    ("ip link set br0 type bridge vlan_filtering 1; bridge vlan add dev ta vid 9 pvid untagged",
     "bridge vlan add dev ta vid 1 pvid untagged; ip link set br0 type bridge vlan_filtering 0",
     "their NICs are not on the same bridges and VLANs"),
    ("ip link set br0 type bridge vlan_filtering 1; bridge vlan del dev tb vid 1",
     "bridge vlan add dev tb vid 1 pvid untagged; ip link set br0 type bridge vlan_filtering 0",
     "b: tap tb: its bridge port takes only tagged frames"),
    ("ip link set br0 type bridge vlan_filtering 1; bridge vlan add dev tb vid 1 pvid",
     "bridge vlan add dev tb vid 1 pvid untagged; ip link set br0 type bridge vlan_filtering 0",
     "b: tap tb: its bridge port tags what it sends"),
]


@with_config(RESPECT)
def test_obstacles(w):
    """Each closes the link at once, in order, says so in words, and its removal brings the link back."""
    a, b = bridged(w)
    a.forget()
    b.forget()
    done = 0
    for make, undo, words in OBSTACLES:
        if sh(make, may_lack=True):
            obstructed(w, a, b, words)
            sh(undo)
            cleared(w, a, b)
            done += 1
        else:
            sh(f"({undo}) >/dev/null 2>&1 || true")
            for vm in a, b:
                vm.forget()
    check(done >= 15, f"only {done} obstacles could be tried")
    print(f"  {done} of {len(OBSTACLES)} obstacles")


HARMLESS = [
    "tc qdisc add dev ta root handle 5: fq_codel",
    "tc qdisc add dev ta clsact",
    "nft 'table bridge f { chain c { type filter hook forward priority 0; iifname eth9 drop; }; "
    "chain i { type filter hook input priority 0; drop; }; }'",
    "nft 'table bridge g { chain empty { type filter hook forward priority 0; }; chain unused { drop; }; }'",
    "nft 'table ip g { chain c { type filter hook forward priority 0; oifname docker0 drop; }; "
    "chain i { type filter hook input priority 0; tcp dport 22 drop; }; }'",
    "nft 'table netdev n { chain c { type filter hook ingress device lo priority 0; drop; }; }'",
]


@with_config(RESPECT)
def test_harmless(w):
    """What does not touch frames between these two taps is none of our business."""
    bridged(w)
    before = w.d.in_log('host-policy vm=a .*obstacle="[^"]')      # its tap may have been down at first
    for command in HARMLESS:
        sh(command, may_lack=True)
    sh("ip link set tb alias last")      # an event after all of these, then an obstacle to see that they were looked at
    sh("bridge link set dev tb isolated on")
    w.d.wait_log('host-policy vm=b .*obstacle="tap tb: its bridge port is isolated"')
    equal(w.d.in_log('host-policy vm=a .*obstacle="[^"]'), before, "obstacles of a")
    sh("bridge link set dev tb isolated off")
    w.up("a", "b")
    sh("nft flush ruleset; tc qdisc del dev ta clsact")


@with_config(RESPECT)
def test_never_opened(w):
    """With the obstacle there from the start nothing is even plugged; host and guests are told why, and what to do."""
    sh("ip link del br0 2>/dev/null || true; ip link add br0 up type bridge forward_delay 0")
    for name in "a", "b":
        w.vm(name, taps=["t" + name])
        sh(f"ip link set t{name} master br0 up; bridge link set dev t{name} isolated on")
    for vm in w.vms:
        vm.wait("plugged", vectors=1)
        w.hello(vm)
    for vm in w.vms:
        vm.wait("roster", op=f.ROSTER_ADD, reason=f.R_HOST_POLICY)
    p = w.d.pair("a", "b")
    equal((p["state"], p["reason"]["name"], p["reason"]["detail"]),
          ("none", "host-policy", "a: tap ta: its bridge port is isolated"), "pair")
    equal(w.d.vm("a")["host_policy"], {"judged": True, "obeyed": True, "taps": ["ta"],
                                       "obstacle": "tap ta: its bridge port is isolated"}, "VM")
    check(not w.d.in_log("plugged vm=.*shunt-pair"), "nothing was plugged")
    for command in "status", "peers":
        out = w.d.cli(command)[1]
        check("the host enforces something that must not be bypassed (a: tap ta: its bridge port is isolated)" in out
              and "host_policy in shuntd.conf" in out, out)
    out = w.d.cli("status")[1]
    check("b: no links: tap tb: its bridge port is isolated" in out, out)


@with_config(RESPECT)
def test_override(w):
    """host_policies lets single VMs off, host_policy all; taken back, it counts again."""
    a, b = bridged(w)
    sh("bridge link set dev ta isolated on; tc qdisc add dev tb root tbf rate 1mbit burst 10k latency 10ms")
    obstructed(w, a, b, "a: tap ta")
    w.d.configure(RESPECT + 'host_policies = ( { vm = "a"; host_policy = "ignore"; } );')
    w.d.hup()
    w.d.wait_log("config-loaded")
    p = w.d.pair("a", "b")
    check(p["reason"]["detail"].startswith("b: tap tb: tc qdisc tbf"), p["reason"])
    w.d.configure(RESPECT + 'host_policies = ( { vm = "[ab]"; host_policy = "ignore"; } );')
    w.d.hup()
    w.up("a", "b")
    equal(w.d.vm("a")["host_policy"]["obeyed"], False, "of a")
    w.d.configure(RESPECT)
    w.d.hup()
    for vm in a, b:
        vm.forget()
    w.d.wait_log("state=parked")
    w.d.configure('plug = "eager"; host_policy = "ignore";')
    w.d.hup()
    w.up("a", "b")


@with_config(RESPECT)
def test_no_tap(w):
    """A NIC that is no tap, and a tap that is elsewhere, cannot be judged: that is an obstacle, and named."""
    w.guest("a")
    check("it has 1 NICs and 0 taps" in w.d.vm("a")["host_policy"]["obstacle"], w.d.vm("a")["host_policy"])
    ns = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE)
    ns.stdout.readline()
    b = w.vm("b", taps=["ta"])
    sh(f"ip link set ta netns {ns.pid}")
    b.wait("plugged", vectors=1)
    w.hello(b)
    w.d.wait_any('host-policy vm=b .*its tap is in another network namespace')
    ns.stdin.close()
    ns.wait()


@with_config(RESPECT)
def test_restart_closes_nothing(w):
    """A killed and restarted shuntd leaves links alone until it has looked, then closes what must be."""
    a, b = bridged(w)
    for vm in a, b:
        vm.forget()
    w.d.restart()
    w.d.wait_any("host-policy vm=a")
    equal(w.d.pair("a", "b")["state"], "up", "after a restart")
    equal([e for vm in (a, b) for e in vm.queue if e["event"] == "close"], [], "closed")
    w.d.kill9()
    sh("bridge link set dev tb isolated on")
    w.d.start()
    obstructed(w, a, b, "b: tap tb: its bridge port is isolated")


@with_config(RESPECT)
def test_plain_sysctl(w):
    """What has no event (br_netfilter's switch) is seen at the next look; one that was refused is tried again."""
    a, b = bridged(w)
    for vm in a, b:
        vm.forget()
    sh("sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0; "
       "nft 'table ip f { chain c { type filter hook forward priority 0; drop; }; }'")
    w.d.hup()
    w.d.wait_log("config-loaded")
    equal(w.d.pair("a", "b")["state"], "up", "the rule sees no bridged frame")
    sh("sysctl -qw net.bridge.bridge-nf-call-iptables=1; ip link set ta alias x")
    obstructed(w, a, b, "nftables: table ip f, chain c")
    sh("nft delete table ip f")
    cleared(w, a, b)


def libc_call(name, *args):
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if getattr(libc, name)(*args) == 0 else ctypes.get_errno()


def ebtables_forward(policy):
    """Set the policy (-1 accept, -2 drop) of the old ebtables' FORWARD, as its tool does."""
    chains = b"".join(struct.pack("I32sIiI", 0, name, 0, -1 if name != b"FORWARD" else policy, 0)
                      for name in (b"INPUT", b"FORWARD", b"OUTPUT"))
    entries = ctypes.create_string_buffer(chains, len(chains))
    at = ctypes.addressof(entries)
    table = struct.pack("32sIIIxxxx6QIxxxxQQ", b"filter", 14, 0, len(chains), 0, at, at + 48, at + 96, 0, 0, 0, 0, at)
    with socket.socket() as s:
        error = libc_call("setsockopt", s.fileno(), 0, 128, table + bytes(len(chains)), len(table) + len(chains))
    check(not error, f"ebtables: {os.strerror(error)}")


def iptables_forward(verdict):
    """Set the policy (-2 accept, -1 drop) of the old iptables' FORWARD, as its tool does."""
    with socket.socket() as s:
        info = ctypes.create_string_buffer(struct.pack("32s", b"filter"), 84)
        length = ctypes.c_uint32(84)
        error = libc_call("getsockopt", s.fileno(), 0, 64, info, ctypes.byref(length))
        check(not error, f"iptables info: {os.strerror(error)}")
        count, size = struct.unpack_from("II", info.raw, 76)
        table = ctypes.create_string_buffer(struct.pack("32sI", b"filter", size), 40 + size)
        length = ctypes.c_uint32(40 + size)
        error = libc_call("getsockopt", s.fileno(), 0, 65, table, ctypes.byref(length))
        check(not error, f"iptables entries: {os.strerror(error)}")
        rules = bytearray(table.raw[40:])
        forward = struct.unpack_from("I", info.raw, 36 + 20 + 8)[0]
        struct.pack_into("i", rules, forward + 112 + 32, verdict)       # ipt_entry, xt_entry_target, verdict
        counters = ctypes.create_string_buffer(16 * count)
        new = info.raw[:36] + struct.pack("II", count, size) + info.raw[36:76] + \
            struct.pack("<IQ", count, ctypes.addressof(counters)) + bytes(rules)
        error = libc_call("setsockopt", s.fileno(), 0, 64, new, len(new))
    check(not error, f"iptables replace: {os.strerror(error)}")


@with_config(RESPECT)
def test_old_filters(w):
    """The older ebtables and iptables, which announce no change: seen at the next look."""
    if not os.path.exists("/sys/module/ebtable_filter") or not os.path.exists("/sys/module/iptable_filter"):
        check(not os.environ.get("SHUNT_ALL_OBSTACLES"), "no ebtables, iptables here")
        print("  left out, this kernel cannot: ebtables, iptables")
        return
    a, b = bridged(w)
    for change, words in ((ebtables_forward, "a: tap ta: ebtables: table filter, chain FORWARD"),
                          (iptables_forward, "a: tap ta: iptables: table filter, chain FORWARD")):
        drop, accept = (-2, -1) if change is ebtables_forward else (-1, -2)
        sh("sysctl -qw net.bridge.bridge-nf-call-iptables=1")
        change(accept)
        w.d.hup()
        w.d.wait_log("config-loaded")
        equal(w.d.pair("a", "b")["state"], "up", "empty tables enforce nothing")
        for vm in a, b:
            vm.forget()
        change(drop)
        w.d.hup()
        obstructed(w, a, b, words)
        change(accept)
        w.d.hup()
        cleared(w, a, b)


def ovs(family, command, name, *attrs):
    """One request to Open vSwitch's kernel side."""
    def attr(kind, data):
        return struct.pack("HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
    s.bind((0, 0))

    def ask(kind, head, body):
        s.send(struct.pack("IHHII", 16 + len(head) + len(body), kind, 5, 1, 0) + head + body)
        return s.recv(65536)
    found = ask(16, struct.pack("BBxx", 3, 1), attr(2, family.encode() + b"\0"))
    at = 20
    number = None
    while at < len(found):
        size, kind = struct.unpack_from("HH", found, at)
        if kind == 1:
            number, = struct.unpack_from("H", found, at + 4)
        at += (size + 3) & ~3 or 4
    if number is None:
        return False
    index = socket.if_nametoindex(name) if command == "port" else 0
    answer = ask(number, struct.pack("BBxxi", 1, 2 if command == "dp" else 1, index),
                 b"".join(attr(kind, data) for kind, data in attrs))
    error, = struct.unpack_from("i", answer, 16)
    check(struct.unpack_from("H", answer, 4)[0] != 2 or error == 0, f"{family}: {os.strerror(-error)}")
    return True


@with_config(RESPECT)
def test_open_vswitch(w):
    """A port of Open vSwitch: flows cannot be judged."""
    a, b = bridged(w)
    subprocess.run(["modprobe", "openvswitch"], capture_output=True)
    if not ovs("ovs_datapath", "dp", "", (1, b"ovs0\0"), (2, bytes(4))):
        check(not os.environ.get("SHUNT_ALL_OBSTACLES"), "no openvswitch here")
        print("  left out, this kernel cannot: openvswitch")
        return
    for vm in a, b:
        vm.forget()
    sh("ip link set ta nomaster")
    obstructed(w, a, b, "on no bridge")
    ovs("ovs_vport", "port", "ovs0", (2, struct.pack("I", 1)), (3, b"ta\0"), (5, bytes(4)))
    w.d.wait_log('host-policy vm=a .*it is on Open vSwitch')


def main():
    if not os.environ.get("SHUNT_OWN_NETNS"):
        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):     # CLONE_NEWNET
            sys.exit(f"needs root, for a network namespace: {os.strerror(ctypes.get_errno())}")
        os.environ["SHUNT_OWN_NETNS"] = "1"
    sh("ip link set lo up")
    run([v for k, v in list(globals().items()) if k.startswith("test_")])


if __name__ == "__main__":
    main()
