# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What an operator enforces on taps and bridges is not bypassed; bridges keep knowing where guests are."""
import contextlib
import io
import pathlib
import re
import subprocess
import tarfile

from shuntlab.faults import *
from shuntlab.paths import TOP
from shuntlab.scenario import *

SETUP = {"vms": 2}


@contextlib.contextmanager
def enforced(lab, make, undo):
    """The operator does something on the host for a while."""
    lab.host1.sh(make)
    try:
        yield
    finally:
        lab.host1.sh(undo)


def refused(lab, words):
    """The link is closed in order at both ends; host and guests say why and what to do."""
    for vm, other in ((lab.vm1, lab.vm2), (lab.vm2, lab.vm1)):
        wait_down(vm, other, ("host-policy",))
        entry = wait_until(lambda: reason(peer(vm, other)) == "host-policy" and peer(vm, other), 10,
                           f"{vm.name} says host-policy")
        expect(entry["path"] == "network", f"{entry}")
        expect("the host enforces something" in vm.shunt("peers"), vm.shunt("peers"))
    entry = wait_until(lambda: pair(lab, lab.vm1, lab.vm2)["state"] == "parked" and pair(lab, lab.vm1, lab.vm2), 10,
                       "the pair is parked")
    expect(reason(entry) == "host-policy" and words in entry["reason"]["detail"], f"{entry['reason']}")
    for command in ("status", "peers"):
        said = lab.host1.shunt(command)
        expect(words in said and "host_policy in shuntd.conf" in said, said)


def test_rate_limit_under_traffic(lab):
    """tbf on a tap: the link closes with traffic running and nothing lost; it comes back when the limit is gone."""
    wait_link(lab, lab.vm1, lab.vm2)
    transfer = Transfer(lab.vm1, lab.vm2)
    back = Transfer(lab.vm2, lab.vm1)
    seen = tap_frames(lab, lab.vm1)
    with enforced(lab, "tc qdisc add dev vm2 root tbf rate 200mbit burst 100k latency 100ms", "tc qdisc del dev vm2 root"):
        refused(lab, "vm2: tap vm2: tc qdisc tbf limits or shapes it")
        wait_until(lambda: tap_frames(lab, lab.vm1) > seen + 100, 10, "the traffic takes the network")
        sent = int(re.search(r"Sent (\d+) bytes", lab.host1.sh("tc -s qdisc show dev vm2"))[1])
        wait_until(lambda: int(re.search(r"Sent (\d+) bytes", lab.host1.sh("tc -s qdisc show dev vm2"))[1]) >
                   sent + 100000, 10, "and passes the limit")
    wait_until(lambda: is_up(lab, lab.vm1, lab.vm2), 10, "the link is back")
    transfer.finish()
    back.finish()


def test_bridge_rule(lab):
    """A rule of the bridge family that may concern the VMs, then one that is another port's alone."""
    wait_link(lab, lab.vm1, lab.vm2)
    with enforced(lab, "nft 'table bridge f { chain c { type filter hook forward priority 0; ip protocol tcp drop; }; }'",
                  "nft delete table bridge f"):
        refused(lab, "nftables: table bridge f, chain c")
        expect(not lab.vm1.run(f"timeout 3 sh -c 'echo >/dev/tcp/{lab.vm2.ip}/22' 2>&1 | grep -q refused").ok,
               "TCP passed the filter")
    wait_until(lambda: is_up(lab, lab.vm1, lab.vm2), 10, "the link is back")
    position = log_position(lab.host1)
    with enforced(lab, "nft 'table bridge f { chain c { type filter hook forward priority 0; iifname wire9 drop; }; }'; "
                  "bridge link set dev vm1 learning off", "nft delete table bridge f; bridge link set dev vm1 learning on"):
        wait_log(lab.host1, position, 'host-policy vm=vm1 .*does not learn"')
        expect("vm=vm2" not in lab.host1.log[position:], "another port's rule does not concern vm2")
    wait_until(lambda: is_up(lab, lab.vm1, lab.vm2), 10, "the link is back")


def test_isolated_ports(lab):
    """Isolated from one another by the bridge, two VMs reach each other in no way; a plain third way is none of ours."""
    wait_link(lab, lab.vm1, lab.vm2)
    ports = "for p in vm1 vm2; do bridge link set dev $p isolated {}; done"
    with enforced(lab, ports.format("on"), ports.format("off")):
        refused(lab, "its bridge port is isolated")
        expect(not lab.vm1.run(f"ping -q -c 3 -i 0.2 -W 1 {lab.vm2.ip}").ok, "an isolated VM was reached")
        lab.vm1.sh("ping -q -c 1 -W 5 host1")
    wait_link(lab, lab.vm1, lab.vm2)


def test_override(lab):
    """With host_policies an operator lets one VM off: its link is up all the same, and status shows both."""
    wait_link(lab, lab.vm1, lab.vm2)
    with enforced(lab, "tc qdisc add dev vm1 root tbf rate 200mbit burst 100k latency 100ms", "tc qdisc del dev vm1 root"):
        refused(lab, "vm1: tap vm1: tc qdisc tbf")
        with configured(lab, 'host_policies = ( { vm = "vm1"; host_policy = "ignore"; } );\n'):
            wait_link(lab, lab.vm1, lab.vm2)
            said = served(lab, lab.vm1)["host_policy"]
            expect(not said["obeyed"] and "tbf" in said["obstacle"], f"{said}")
        refused(lab, "vm1: tap vm1: tc qdisc tbf")
    wait_link(lab, lab.vm1, lab.vm2)


def bridge_knows(lab, vm):
    """Has the bridge a learned entry for the VM's MAC?"""
    return lab.host1.run(f"bridge fdb show br br0 | grep -v permanent | grep -q '^{vm.mac} dev {vm.name} '").ok


def test_bridge_entries(lab):
    """
    While only shunted traffic flows the bridge keeps both MACs, by one frame per period that reaches no other guest;
    with refresh_s=0 it forgets them.
    """
    wait_link(lab, lab.vm1, lab.vm2)
    knobs = "/sys/module/shunt/parameters"
    knob = f"{knobs}/refresh_s"
    expect_equal([vm.sh(f"cat {knob}").strip() for vm in lab.vms], ["60", "60"], "refresh_s")
    both = ((lab.vm1, lab.vm2), (lab.vm2, lab.vm1))
    for vm, other in both:      # nobody asks where the other is: that would be real frames
        vm.sh(f"ip neigh replace {other.ip} lladdr {other.mac} dev eth0 nud permanent")
        vm.sh(f"echo 2000000 >{knobs}/hold_us")     # nor does a peer that is slow to be scheduled cause any
    with enforced(lab, "ip link set br0 type bridge ageing_time 300", "ip link set br0 type bridge ageing_time 30000"), \
            pinging(lab.vm1, lab.vm2, 0.1):
        for vm in lab.vms:
            vm.sh(f"echo 1 >{knob}")
        wait_until(lambda: all(bridge_knows(lab, vm) for vm in lab.vms), 5, "the bridge knows both")
        capture = subprocess.Popen(["ip", "netns", "exec", lab.host1.netns, "tcpdump", "-lneQ", "out", "-i", "vm2",
                                    "ether", "proto", "0x9000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        expect("listening" in capture.stderr.readline() + capture.stderr.readline(), "tcpdump did not start")
        before = {vm.name: status(vm)["nics"][0]["refreshed"] for vm in lab.vms}
        frames = {vm.name: tap_frames(lab, vm) for vm in lab.vms}

        def refreshed(n):
            expect(all(bridge_knows(lab, vm) for vm in lab.vms), "the bridge forgot a MAC")
            return all(status(vm)["nics"][0]["refreshed"] >= before[vm.name] + n for vm in lab.vms)
        wait_until(lambda: refreshed(9), 20, "nine more periods", every=0.2)
        for vm in lab.vms:
            real = tap_frames(lab, vm) - frames[vm.name]
            counted = status(vm)["nics"][0]["refreshed"] - before[vm.name]
            print(f"{vm.name}: {real} real frames, {counted} of them for bridges")
            expect(9 <= real <= counted + 20, f"{vm.name} sent {real} real frames, counted {counted}")
        expect(is_up(lab, lab.vm1, lab.vm2), "and the link was up")
        capture.terminate()
        expect_equal(capture.communicate()[0].strip(), "", "refreshing frames that went on to vm2")
        for vm in lab.vms:
            vm.sh(f"echo 0 >{knob}")
        wait_until(lambda: not any(bridge_knows(lab, vm) for vm in lab.vms), 30, "the bridge forgets both", every=0.2)
        expect(is_up(lab, lab.vm1, lab.vm2), "while traffic is shunted")
    for vm, other in both:
        vm.sh(f"echo 60 >{knob}; echo 10000 >{knobs}/hold_us; ip neigh replace {other.ip} lladdr {other.mac} dev eth0 nud reachable")


@limit(240)
def test_every_obstacle(lab):
    """tests/daemon/test_hostpolicy.py on a kernel that has everything: a guest's, as if it were a host."""
    libraries = subprocess.run(["ldd", TOP / "build/daemon/shuntd", TOP / "build/cli/shunt"], capture_output=True,
                               text=True, check=True).stdout
    needed = {pathlib.Path(p) for p in re.findall(r"=> (/\S+)", libraries)}
    bundle = io.BytesIO()
    with tarfile.open(fileobj=bundle, mode="w") as tar:
        for path in ("build/daemon/shuntd", "build/cli/shunt", "tests/abi/layout.golden", "tests/daemon/harness.py",
                     "tests/daemon/fakevm.py", "tests/daemon/test_hostpolicy.py"):
            tar.add(TOP / path, path)
        for path in needed:
            if not re.match(r"(libc|ld-linux.*)\.so", path.name):
                tar.add(path.resolve(), f"lib/{path.name}")
    lab.vm1.sh("mkdir -p /tmp/policy && tar -x -C /tmp/policy", stdin=bundle.getvalue())
    done = lab.vm1.run("modprobe -a tun bridge br_netfilter openvswitch ebtable_filter iptable_filter && cd /tmp/policy && SHUNT_ALL_OBSTACLES=1 LD_LIBRARY_PATH=/tmp/policy/lib "
                       "python3 tests/daemon/test_hostpolicy.py", timeout=220)
    print(done.out)
    expect(done.ok, f"status {done.status}: {done.err[-2000:]}")
    expect("left out" not in done.out, "a guest's kernel has everything")
