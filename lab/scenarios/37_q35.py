# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Machines of type q35: devices in root ports, plugged by ACPI (vm1) and by native hot-plug (vm2)."""
from shuntlab.scenario import *
from shuntlab.traffic import link_up

SETUP = {"vms": 2, "machine": "q35", "machines": {"vm2": "q35-pciehp"}, "ports": 2}
MIB = 1 << 20

traffic = others("10_traffic")


def ports_of(vm):
    """{root port's id: qdev ids behind it}, as QEMU says."""
    return {dev["qdev_id"]: [d["qdev_id"] for d in dev["pci_bridge"].get("devices", [])]
            for bus in vm.qmp("query-pci") for dev in bus["devices"]
            if "pci_bridge" in dev and dev["qdev_id"].startswith("port")}


def test_traffic(lab):
    """Uplink and pair sit in root ports of their own; ping of all sizes and checked TCP both ways take the ring."""
    link_up(lab)
    for vm in lab.vms:
        held = sorted(name.split("-")[1] for names in ports_of(vm).values() for name in names)
        expect_equal(held, ["pair", "up"], f"devices in the ports of {vm.name}: {ports_of(vm)}")
    traffic.test_ping(lab)
    with traffic.by_ring(lab.vm1, lab.vm2, 200, 200, stray=200):
        traffic.stream(lab, lab.vm2.ip, 32 * MIB, 32 * MIB, "0.0.0.0")
