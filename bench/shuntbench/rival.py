# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
Other ways from a VM to its neighbour, plugged into the same VMs beside virtio-net over tap, so that one run alternates
between all of them. Each has addresses of its own: 10.78.N.0/24 and fd78:N::/64.
"""
import pathlib
import tempfile

from shuntlab import host, image, kernel
from shuntlab.paths import lab_dir
from shuntlab.scenario import wait_until

from . import switch, tools

PLUG_SECONDS = 30


class Loopback:
    """The guest's own lo: no second VM, what the guest's stack can do at best. One VM does the work of both ends."""
    pids = ()

    def __init__(self, lab):
        pass

    def target(self, _vm):
        """Nothing but itself."""
        return tools.Target("127.0.0.1", "::1")

    def use(self, now):
        """Nothing to start or stop."""

    def close(self):
        """Nothing was made."""


class Nic:
    """A second NIC for each VM, plugged while they run."""
    net = None
    pids = ()

    def __init__(self, lab):
        self.lab = lab
        try:
            for vm in lab.vms:
                self.plug(vm)
            for vm in lab.vms:
                self.configure(vm)
            # An e1000 takes a second or two to have its link.
            wait_until(lambda: lab.vm1.run(f"ping -q -c 1 -W 1 {self.address(lab.vm2)}").ok, PLUG_SECONDS,
                       f"vm1 reaches {self.address(lab.vm2)}")
        except BaseException:
            self.close()
            raise

    def mac(self, vm):
        """Its address on this NIC."""
        return f"52:54:00:78:{self.net:02x}:{vm.record['number']:02x}"

    def address(self, vm):
        """IPv4."""
        return f"10.78.{self.net}.{10 + vm.record['number']}"

    def address6(self, vm):
        """IPv6."""
        return f"fd78:{self.net}::{10 + vm.record['number']}"

    def target(self, vm):
        """The VM by way of this NIC."""
        return tools.Target(self.address(vm), self.address6(vm))

    def configure(self, vm):
        """Find the NIC in the guest by its MAC and give it addresses."""
        script = f"for n in /sys/class/net/*; do [ $(cat $n/address) = {self.mac(vm)} ] && basename $n; done; true"
        name = wait_until(lambda: vm.sh(script).strip(), PLUG_SECONDS, f"{vm.name} has the NIC {self.mac(vm)}")
        vm.sh(f"sysctl -q -w net.ipv6.conf.{name}.accept_dad=0 && ip link set {name} up && "
              f"ip addr add {self.address(vm)}/24 dev {name} && ip addr add {self.address6(vm)}/64 dev {name} nodad")

    def plug(self, vm):
        """The NIC and what is behind it."""
        raise NotImplementedError

    def use(self, now):
        """It is to be measured now, or no more."""

    def close(self):
        """What is not gone with the VMs."""


def load_driver(vm, name):
    """Load a driver of the guest's kernel that the lab's image has no room for."""
    kern = kernel.get(vm.record["kernel"])
    source = next((kern.modules / "kernel/drivers/net").rglob(f"{name}.ko*"))
    with tempfile.TemporaryDirectory() as directory:
        vm.put(pathlib.Path(directory) / image.add_module(source, pathlib.Path(directory)), f"/root/{name}.ko")
    vm.sh(f"insmod /root/{name}.ko")


class E1000(Nic):
    """An emulated NIC over a tap on the same bridge."""
    net = 1

    def plug(self, vm):
        load_driver(vm, "e1000")
        tap = f"{vm.name}-e1000"
        vm.qmp("netdev_add", type="tap", id="rival1", ifname=tap, script="no", downscript="no")
        host.ip("link", "set", tap, "master", "br0", "up", netns=self.lab.host1.netns)
        vm.qmp("device_add", driver="e1000", id="rival1", netdev="rival1", mac=self.mac(vm), romfile="")


class VhostUser(Nic):
    """
    A virtio NIC whose back end is a polling switch in user space that has the guests' memory mapped. Not together with
    Shunt: QEMU hands every change of memory to the back end, and waits for a switch that is paused.
    """
    net = 2

    def __init__(self, lab):
        self.paths = {vm.name: lab_dir() / f"vhost-{vm.name}" for vm in lab.vms}
        self.switch = switch.Testpmd(list(self.paths.values()), lab_dir() / "testpmd.log")
        super().__init__(lab)

    @property
    def pids(self):
        """The switch's CPU time counts."""
        return [self.switch.pid]

    def plug(self, vm):
        address = {"type": "unix", "data": {"path": str(self.paths[vm.name])}}
        vm.qmp("chardev-add", id="rival2", backend={"type": "socket", "data": {"addr": address, "server": False}})
        vm.qmp("netdev_add", type="vhost-user", id="rival2", chardev="rival2")
        # With MSI-X vectors QEMU 7.2 crashes under emulation.
        vm.qmp("device_add", driver="virtio-net-pci", id="rival2", netdev="rival2", mac=self.mac(vm), vectors=0,
               romfile="")

    def use(self, now):
        self.switch.pause(not now)      # polling, it would take a CPU from the others' runs

    def close(self):
        self.switch.close()
        for path in self.paths.values():
            path.unlink(missing_ok=True)


KINDS = {"loopback": Loopback, "e1000": E1000, "vhost-user": VhostUser}


def needs(variants):
    """Options of `up` that the VMs must be booted with for these variants."""
    return {"shared_memory": "vhost-user" in variants}
