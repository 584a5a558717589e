# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What scenarios of guests' network set-ups share."""
import contextlib
import json

from .scenario import expect, wait_until
from .traffic import causes, tool


def nic_state(vm, name="eth0"):
    """What `shunt status` in the guest says of a NIC."""
    nics = {nic["name"]: nic["state"] for nic in json.loads(vm.shunt("status", "--json"))["nics"]}
    expect(name in nics, f"{vm.name}'s NICs: {nics}")
    expect(nics[name] in vm.shunt("status"), f"{vm.name}: the state of {name} for people")
    return nics[name]


@contextlib.contextmanager
def counted(vm, other, cause, at_least=1):
    """The block makes frames take the network for this cause, and `shunt peers` says so in words."""
    before = causes(vm, other)
    yield
    after = causes(vm, other)
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    expect(grown.get(cause, 0) >= at_least, f"{vm.name}: wanted {at_least} frames by {cause}, got {grown}")
    expect(f"{other.name}: frames by the network while linked: " in vm.shunt("peers"), vm.shunt("peers"))


class Stream:
    """A TCP connection from vm1 to vm2 that goes on in both directions, every byte compared."""

    def __init__(self, lab):
        program = [tool(vm, "stream.py") for vm in lab.vms][0]
        self.vms = lab.vms
        self.ends = [lab.vm2.serve(f"{program} 0.0.0.0 7037 --listen --send -1", 7037)]
        self.ends.append(lab.vm1.bg(f"{program} {lab.vm2.ip} 7037 --send -1"))

    def _at(self):
        return [int(end.out.rpartition("at ")[2].split()[0]) if "at " in end.out else 0 for end in self.ends]

    def goes_on(self, what, timeout=30):
        """Both directions carry bytes now."""
        before = self._at()
        wait_until(lambda: all(now > then for now, then in zip(self._at(), before)) or
                   not all(end.running for end in self.ends), timeout, f"{what}: both directions move")
        expect(all(end.running for end in self.ends), f"{what}: it ended: {[e.err for e in self.ends]}")

    def end(self):
        """Nothing was lost."""
        for vm in self.vms:
            vm.sh("pkill -INT -f 'bin/strea[m].py'")
        for end in self.ends:
            end.wait(60)
