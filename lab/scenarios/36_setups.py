# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What guests build on their NICs works with Shunt: each set-up is shunted or left to the network, and status says which."""
from shuntlab.scenario import *
from shuntlab.setups import counted, nic_state, Stream
from shuntlab.traffic import by_network, by_ring, exchange, link_up, stats

SETUP = {"vms": 2, "nics": 2}
MIB = 1 << 20


def plain(vm):
    """eth0 as the lab made it."""
    vm.run("ip link set eth0 nomaster")
    vm.sh(f"ip link set eth0 up && ip addr replace {vm.ip}/24 dev eth0 && ip -6 addr replace {vm.ip6}/64 dev eth0 nodad")


def test_vlan(lab):
    """A VLAN device's frames take the network whole, in both directions; untagged ones beside them the ring."""
    link_up(lab)
    try:
        for vm in lab.vms:
            vm.sh(f"ip link add link eth0 name eth0.5 type vlan id 5 && ip link set eth0.5 up && "
                  f"ip addr add 10.79.0.{vm.record['number']}/24 dev eth0.5")
        with counted(lab.vm1, lab.vm2, "vlan", 100), by_network(lab.vm1, lab.vm2, 100, 100):
            exchange(lab.vm1, lab.vm2, "10.79.0.2")
        with by_ring(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2)
        expect("VLAN-tagged" in lab.vm1.shunt("peers"), lab.vm1.shunt("peers"))
    finally:
        for vm in lab.vms:
            vm.run("ip link del eth0.5")


def test_macvlan(lab):
    """A macvlan in a namespace talks by the network (its MAC is no NIC's), while the NIC below it takes the ring."""
    link_up(lab)
    try:
        lab.vm1.sh("ip netns add box && ip link add link eth0 name mv0 type macvlan mode bridge && "
                   "ip link set mv0 netns box && ip -n box addr add 10.77.0.91/24 dev mv0 && ip -n box link set mv0 up")
        with counted(lab.vm1, lab.vm2, "foreign-source", 50), by_network(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2, inside=("ip netns exec box", ""))
        with by_ring(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2)
    finally:
        lab.vm1.run("ip netns del box")


def test_ipvlan(lab):
    """An ipvlan device shares its NIC's MAC: its frames take the ring, both ways."""
    link_up(lab)
    try:
        lab.vm1.sh("ip netns add box && ip link add link eth0 name iv0 type ipvlan mode l2 && "
                   "ip link set iv0 netns box && ip -n box addr add 10.77.0.92/24 dev iv0 && ip -n box link set iv0 up")
        with by_ring(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2, inside=("ip netns exec box", ""))
    finally:
        lab.vm1.run("ip netns del box")


def test_bridge_port(lab):
    """A NIC enslaved to a bridge: the guest itself takes the ring; a container on the bridge has a MAC of its own and does not."""
    link_up(lab)
    try:
        lab.vm1.sh("ip link add br0 type bridge stp_state 0 forward_delay 0 && ip addr flush dev eth0 && "
                   f"ip link set eth0 master br0 && ip link set br0 address {lab.vm1.mac} up && "
                   f"ip addr add {lab.vm1.ip}/24 dev br0 && ip netns add box && "
                   "ip link add p0 type veth peer name eth0 netns box && ip link set p0 master br0 up && "
                   "ip -n box addr add 10.77.0.93/24 dev eth0 && ip -n box link set eth0 up")
        expect_equal(nic_state(lab.vm1), "bound, a port of br0", "state of the port")
        with by_ring(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2)
        with counted(lab.vm1, lab.vm2, "foreign-source", 50), by_network(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2, inside=("ip netns exec box", ""))
    finally:
        lab.vm1.run("ip netns del box; ip link set eth0 nomaster; ip link del br0")
        plain(lab.vm1)


def container(vm):
    """A namespace behind the guest, 10.0.0.2/24 in every guest, its way out masqueraded, port 7036 published."""
    vm.sh("ip netns add box && ip link add in type veth peer name eth0 netns box && ip addr add 10.0.0.1/24 dev in && "
          "ip link set in up && ip -n box addr add 10.0.0.2/24 dev eth0 && ip -n box link set eth0 up && "
          "ip -n box route add default via 10.0.0.1 && sysctl -qw net.ipv4.ip_forward=1 && "
          "nft 'table ip box { chain post { type nat hook postrouting priority 100; ip saddr 10.0.0.0/24 oif eth0 masquerade; }; "
          "chain pre { type nat hook prerouting priority -100; iif eth0 meta l4proto { tcp, udp } th dport 7036 dnat to 10.0.0.2; }; }'")


def no_container(vm):
    """Undo container()."""
    vm.run("nft delete table ip box; ip netns del box; ip link del in; sysctl -qw net.ipv4.ip_forward=0")


def test_containers(lab):
    """
    Containers with equal private addresses in both guests, masqueraded out and published in: what is forwarded for
    them has the NICs' MACs and takes the ring, segmentation offload and all.
    """
    link_up(lab)
    try:
        for vm in lab.vms:
            container(vm)
        with by_ring(lab.vm1, lab.vm2, 100, 100) as flow:
            exchange(lab.vm1, lab.vm2, inside=("ip netns exec box", "ip netns exec box"))
        for end in (0, 1):
            expect(flow.grown(end, "tx_bytes") / flow.grown(end, "tx_frames") > 3000, f"segmented on the way: {flow}")
    finally:
        for vm in lab.vms:
            no_container(vm)


def bond(vm):
    """bond0 over both NICs, active-backup, with eth0's address."""
    vm.sh("modprobe bonding max_bonds=0; ip link add bond0 type bond mode active-backup miimon 50 && "
          "ip addr flush dev eth0 && ip link set eth0 down && ip link set eth1 down && ip link set eth0 master bond0 && ip link set eth1 master bond0 && "
          "echo eth0 >/sys/class/net/bond0/bonding/active_slave; "
          f"ip link set bond0 up && ip addr replace {vm.ip}/24 dev bond0 && ip addr replace {vm.ip6}/64 dev bond0 nodad")
    wait_until(lambda: active(vm) == "eth0", 10, "eth0 is the bond's active port")


def active(vm):
    """The bond's active port."""
    return vm.sh("cat /sys/class/net/bond0/bonding/active_slave").strip()


def no_bond(vm):
    """Undo bond()."""
    vm.run("ip link del bond0; ip link set eth1 down")
    for nic in (0, 1):
        vm.qmp("set_link", name=f"nic{nic}", up=True)
    plain(vm)


def test_bond_failover(lab):
    """
    A bond of two NICs keeps a connection through fail-over and back, by ring each time: frames leave by the second
    NIC with the first one's address, and those for that address arrive although its NIC has no carrier.
    """
    link_up(lab)
    try:
        bond(lab.vm1)
        expect_equal(nic_state(lab.vm1), "bound, a port of bond0", "state of the port")
        with by_ring(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2)
        running = Stream(lab)
        running.goes_on("before the fail-over")
        for nic, takes_over in ((0, "eth1"), (1, "eth0")):
            lab.vm1.qmp("set_link", name=f"nic{nic}", up=False)
            wait_until(lambda: active(lab.vm1) == takes_over, 10, f"{takes_over} takes over")
            running.goes_on(f"after the fail-over to {takes_over}")
            before = [stats(a, b)["tx_bytes"] for a, b in (lab.vms, lab.vms[::-1])]
            wait_until(lambda: all(stats(a, b)["tx_bytes"] > n + 4 * MIB for (a, b), n in
                                   zip((lab.vms, lab.vms[::-1]), before)), 30, f"both directions take the ring by {takes_over}")
            expect("no carrier" in nic_state(lab.vm1, f"eth{nic}"), f"eth{nic}: {nic_state(lab.vm1, f'eth{nic}')}")
            lab.vm1.qmp("set_link", name=f"nic{nic}", up=True)
            wait_until(lambda: lab.vm1.sh(f"cat /sys/class/net/eth{nic}/carrier") == "1\n", 10, "the cable is back")
        running.end()
    finally:
        no_bond(lab.vm1)


def test_cable(lab):
    """A NIC whose cable the operator pulled (set_link) talks by neither path; back in, the ring carries on."""
    link_up(lab)
    try:
        for vm, what in ((lab.vm1, "the sender"), (lab.vm2, "the receiver")):
            vm.qmp("set_link", name="nic0", up=False)
            wait_until(lambda: "no carrier" in nic_state(vm), 10, f"{what} sees it")
            before = stats(lab.vm2, lab.vm1)["rx_frames"]
            expect("100% packet loss" in lab.vm1.run("ping -q -c 5 -i 0.2 -W 1 vm2").out, f"{what} without cable talks")
            expect(stats(lab.vm2, lab.vm1)["rx_frames"] - before <= 1, f"{what} without cable uses the ring")
            vm.qmp("set_link", name="nic0", up=True)
            wait_until(lambda: nic_state(vm) == "bound", 10, f"{what} sees the cable")
            wait_until(lambda: lab.vm1.run("ping -q -c 1 -W 1 vm2").ok, 20, "they talk again")
        with by_ring(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2)
    finally:
        for vm in lab.vms:
            vm.qmp("set_link", name="nic0", up=True)


def test_namespace(lab):
    """A NIC moved into a namespace is followed: traffic in there takes the ring, status says where it is; and back."""
    link_up(lab)
    try:
        lab.vm1.sh("ip netns add box && ip link set eth0 netns box && "
                   f"ip -n box addr add {lab.vm1.ip}/24 dev eth0 && ip -n box link set eth0 up")
        expect_equal(nic_state(lab.vm1), "bound, in another network namespace", "state in the namespace")
        with by_ring(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2, inside=("ip netns exec box", ""))
    finally:
        lab.vm1.run("ip netns exec box ip link set eth0 netns 1; ip netns del box")
        plain(lab.vm1)
    expect_equal(nic_state(lab.vm1), "bound", "state at home again")
    with by_ring(lab.vm1, lab.vm2, 50, 50):
        exchange(lab.vm1, lab.vm2)


def test_mac_changed(lab):
    """A NIC whose MAC the guest changed is not what the host knows: all its frames take the network, and status says why."""
    link_up(lab)
    try:
        lab.vm1.sh("ip link set eth0 address 02:00:00:00:00:99")
        lab.vm2.sh("ip neigh flush dev eth0")
        expect("its address was changed" in nic_state(lab.vm1), nic_state(lab.vm1))
        with counted(lab.vm1, lab.vm2, "foreign-source", 50), by_network(lab.vm1, lab.vm2, 50, 50):
            exchange(lab.vm1, lab.vm2)
    finally:
        lab.vm1.run(f"ip link set eth0 address {lab.vm1.mac}")
        lab.vm2.run("ip neigh flush dev eth0")
    with by_ring(lab.vm1, lab.vm2, 50, 50):
        exchange(lab.vm1, lab.vm2)


def second_nics(lab, on):
    """eth1 of both VMs up, 10.78.0.1 and .2, on a bridge of its own on the host; or as the lab left them."""
    for vm in lab.vms:
        vm.run("ip addr flush dev eth1; ip link set eth1 down")
    if on:
        lab.host1.sh("ip link add br1 type bridge stp_state 0 forward_delay 0 && ip link set br1 up")
    for vm in lab.vms:
        lab.host1.sh(f"ip link set {vm.name}-1 master {'br1' if on else 'br0'}")
        if on:
            vm.sh(f"ip link set eth1 up && ip addr add 10.78.0.{vm.record['number']}/24 dev eth1")
    if not on:
        lab.host1.run("ip link del br1")


def test_two_networks(lab):
    """VMs that share two networks use the ring for both: each frame arrives by the NIC it is addressed to."""
    link_up(lab)
    try:
        second_nics(lab, True)
        with by_ring(lab.vm1, lab.vm2, 100, 100):
            exchange(lab.vm1, lab.vm2, "10.78.0.2")
            exchange(lab.vm1, lab.vm2)
        for address, nic, other in ((lab.vm2.ip, "eth0", "eth1"), ("10.78.0.2", "eth1", "eth0")):
            heard = lab.vm2.bg(f"exec tcpdump -l -n -i any -c 3 icmp and dst {address}")
            heard.wait_output("listening")
            with by_ring(lab.vm1, lab.vm2, 3, 3):
                lab.vm1.sh(f"ping -q -c 3 -i 0.05 {address}")
            out = heard.wait().out
            expect(nic in out and other not in out, f"{address} is heard by {nic}: {out}")
    finally:
        second_nics(lab, False)


def plug_again(vm, address):
    """nic1, if it is not there."""
    if vm.run("test -e /sys/class/net/eth1").ok:
        return
    wait_until(lambda: "nic1" not in str(vm.qmp("qom-list", path="/machine/peripheral")), 20, "QEMU let go of the NIC")
    vm.qmp("device_add", driver="virtio-net-pci", id="nic1", netdev="net1", mac=address)
    wait_until(lambda: vm.run("test -e /sys/class/net/eth1").ok, 20, "the NIC is back")


def test_nic_unplugged(lab):
    """A NIC unplugged while its link carries traffic is forgotten and costs the link nothing; plugged again it is shunted again."""
    link_up(lab)
    address = lab.vm1.sh("cat /sys/class/net/eth1/address").strip()
    try:
        second_nics(lab, True)
        with by_ring(lab.vm2, lab.vm1, 50, 50):
            exchange(lab.vm2, lab.vm1, "10.78.0.1")
        flood = lab.vm2.bg("exec ping -q -i 0.002 10.78.0.1")
        wait_until(lambda: flood.running and stats(lab.vm1, lab.vm2)["rx_frames"], 10, "the flood flows")
        lab.vm1.qmp("device_del", id="nic1")
        wait_until(lambda: not lab.vm1.run("test -e /sys/class/net/eth1").ok, 20, "the guest let go of it")
        expect("eth1" not in lab.vm1.shunt("status"), "status has forgotten it")
        with by_ring(lab.vm1, lab.vm2, 50, 50, stray=5000):     # the flood has to take the network
            exchange(lab.vm1, lab.vm2)
        flood.stop()
    finally:
        plug_again(lab.vm1, address)
        second_nics(lab, False)
    try:
        second_nics(lab, True)
        expect_equal(nic_state(lab.vm1, "eth1"), "bound", "state of the NIC plugged again")
        wait_until(lambda: lab.vm2.run("ping -q -c 1 -W 1 10.78.0.1").ok, 20, "it talks again")
        with by_ring(lab.vm2, lab.vm1, 50, 50):
            exchange(lab.vm2, lab.vm1, "10.78.0.1")
    finally:
        second_nics(lab, False)
