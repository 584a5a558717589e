# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What cannot be had is said clearly where an operator looks, and costs no VM anything: it stays on the network."""
import os
import signal
import subprocess
import tempfile

from shuntlab import lab as labs, state
from shuntlab.faults import *
from shuntlab.paths import BUILD, LabError
from shuntlab.scenario import *

SETUP = {"vms": 2}
FAILED = 1


def without_module(lab):
    """vm2 boots afresh, with an uplink but no pair device yet: that comes with its module."""
    wait_link(lab, lab.vm1, lab.vm2)
    lab.vm2.kill()
    with state.locked():
        labs.boot(state.load(), ["vm2"])
    labs.install("vm2")
    wait_until(lambda: served(lab, lab.vm2)["uplink"] == "no-hello", 20, "the uplink is plugged")


def remove_devices(vm, names):
    """device_del of each, waiting until QEMU has forgotten them."""
    for name in names:
        vm.qmp("device_del", id=name)
    wait_until(lambda: not {d["name"] for d in vm.qmp("qom-list", path="/machine/peripheral")} & set(names), 30,
               "the devices are gone", every=0.3)


def attached_again(lab):
    """An operator's attach, when the obstacle is out of the way, brings the link."""
    lab.host1.shunt("attach", "vm2")
    wait_link(lab, lab.vm1, lab.vm2)


def test_no_slot(lab):
    """No slot left for the pair's device: the host says so and what to do; the network carries on; a free slot helps."""
    without_module(lab)
    names = []
    try:
        while add_testdev(lab.vm2, f"filler{len(names)}"):
            names.append(f"filler{len(names)}")
        expect(len(names) > 3, f"slots were free: {names}")
        lab.vm2.module(True)
        with pinging(lab.vm1, lab.vm2):
            entry = wait_until(lambda: reason(e := pair(lab, lab.vm1, lab.vm2)) == "no-slot" and e, 20, "no slot")
        expect_equal((entry["path"], end(entry, lab.vm2)["plug"]), ("network", "failed"), "path and plug")
        expect("vm2" in entry["reason"]["detail"] and "slot" in entry["reason"]["detail"], f"{entry['reason']}")
        expect("To do:" in lab.host1.shunt("status"), "the host is told what to do")
        expect_equal(lab.vm2.qmp("query-status")["status"], "running", "the VM")
        network_works(lab.vm1, lab.vm2)
    finally:
        remove_devices(lab.vm2, names)
    attached_again(lab)


def add_testdev(vm, name, **properties):
    """device_add of a device that does nothing; False when QEMU has no place for it."""
    try:
        vm.qmp("device_add", driver="pci-testdev", id=name, **properties)
        return True
    except LabError as error:
        expect("slot" in str(error), f"device_add: {error}")
        return False


@limit(200)
def test_no_room_for_the_bar(lab):
    """The guest has no address space for the pair's memory: guest and host name BAR 2; the VM lives on the network."""
    without_module(lab)
    names, size = [], 1 << 38
    try:
        # Eat up the guest's window from large pieces to small, as far as it assigns them.
        while size >= 16 << 20:
            name = f"eater{len(names)}"
            expect(add_testdev(lab.vm2, name, membar=size), f"no slot left for {name} of {size} bytes")
            names.append(name)
            if not all_assigned(lab.vm2, len(names)):
                remove_devices(lab.vm2, [names.pop()])
                size //= 2
        print(f"{len(names)} devices eat the address space down to {size} bytes")
        lab.vm2.module(True)
        with pinging(lab.vm1, lab.vm2):
            wait_until(lambda: end(pair(lab, lab.vm1, lab.vm2), lab.vm2)["plug"] == "plugged", 20, "it is plugged")
            wait_until(lambda: "BAR 2 was not assigned" in lab.vm2.sh("dmesg"), 10, "the guest says BAR 2")
            entry = wait_until(lambda: reason(e := pair(lab, lab.vm1, lab.vm2)) == "no-bar" and e, 20, "no room")
        expect_equal(entry["path"], "network", "path")
        expect("vm2" in entry["reason"]["detail"], f"the daemon names the guest: {entry['reason']}")
        expect("pref64-reserve" in lab.host1.shunt("status"), "the host is told what to do")
        network_works(lab.vm1, lab.vm2)
        expect_equal(lab.vm2.qmp("query-status")["status"], "running", "the VM")
    finally:
        lab.vm2.kill()
        lab.vm2.start()
    wait_link(lab, lab.vm1, lab.vm2)


def all_assigned(vm, count):
    """Has the guest found @count test devices, and given each one's BAR 2 an address?"""
    script = "for d in $(grep -lx 0x1b36 /sys/bus/pci/devices/*/vendor); do sed -n 3p ${d%vendor}resource; done"
    lines = wait_until(lambda: len(found := vm.sh(script).splitlines()) == count and found, 20, f"{count} test devices",
                       every=0.2)
    return not any(line.startswith("0x0000000000000000") for line in lines)


def test_monitor_busy(lab):
    """Another client holds a VM's monitor: the host says busy and what to do, links stay, and it heals by itself."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    path = lab.host1.dir / "run/vms.d/vm2.qmp"
    lab.host1.kill_daemon()
    with connect_unix(path) as client:
        expect(b"QMP" in client.recv(4096), "the monitor greets the other client")
        lab.host1.start_daemon()
        entry = wait_until(lambda: "busy" in (v := served(lab, lab.vm2) or {"reason": {"detail": ""}})["reason"]["detail"]
                           and v, 20, "the daemon says busy")
        expect("give shuntd one of its own" in entry["reason"]["detail"], f"{entry['reason']}")
        expect("busy" in lab.host1.shunt("status"), "it is in the table")
        sent = counter(lab.vm1, lab.vm2, "tx_frames")
        network_works(lab.vm1, lab.vm2)
        expect(counter(lab.vm1, lab.vm2, "tx_frames") >= sent + 5, "the link goes on meanwhile")
        done = lab.host1.shunt("attach", "--qmp", f"{lab.vm2.directory}/none.qmp", check=False)
        expect(done.status == FAILED and "none.qmp" in done.err, f"a socket that is not there: {done}")
    wait_until(lambda: served(lab, lab.vm2)["state"] == "running", 20, "attached again by itself")
    after = wait_link(lab, lab.vm1, lab.vm2)
    expect_equal((after["segment"], after["epoch"]), (before["segment"], before["epoch"]), "the link")


def test_monitor_unreadable(lab):
    """A daemon without the right to a VM's monitor says which and what to do; the VM does not notice."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        config = f"{name}/shuntd.conf"
        with open(config, "w", encoding="utf-8") as file:
            file.write(f'runtime_dir = "{name}/run";\n')
        os.chmod(config, 0o644)
        monitor = lab.host1.dir / "run/vms.d/vm2.qmp"
        os.chmod(monitor, 0o600)
        with open(f"{name}/log", "wb") as log, subprocess.Popen(
                [BUILD / "daemon/shuntd", "--config", config, "--runtime-dir", f"{name}/run"], stderr=log,
                stdin=subprocess.DEVNULL, user=65534, group=65534, extra_groups=[]) as other:
            try:
                wait_until(lambda: os.path.exists(f"{name}/run/shuntd.sock") or other.poll() is not None, 10, "it runs")
                done = subprocess.run([BUILD / "cli/shunt", "attach", "--qmp", monitor], text=True, capture_output=True,
                                      env=os.environ | {"SHUNT_SOCKET": f"{name}/run/shuntd.sock"}, timeout=30)
            finally:
                other.send_signal(signal.SIGTERM)
                other.wait(10)
        print(done, open(f"{name}/log", encoding="utf-8").read())
        expect_equal(done.returncode, FAILED, "exit status")
        expect("ermission denied" in done.stderr and str(monitor) in done.stderr, f"what and why: {done.stderr}")
        expect("root" in done.stderr, f"what to do: {done.stderr}")
    network_works(lab.vm1, lab.vm2)


def test_bad_configuration(lab):
    """File, line and what is allowed; a running daemon keeps the old configuration, its links with it."""
    before = wait_link(lab, lab.vm1, lab.vm2)
    path = lab.host1.dir / "shuntd.conf"
    old = path.read_text()
    try:
        for text, line, allowed in (('\n\nplug = "often";\n', 3, "eager"), ('\nbogus = 1;\n', 2, "bogus"),
                                    ('pair_size = "3M";\n', 1, "power of two"),
                                    ('labels = (\n { vm = "x"; };\n', 2, "")):
            path.write_text(text)
            done = lab.host1.run(f"{BUILD}/daemon/shuntd --check-config={path}")
            print(done)
            expect(not done.ok and f"{path}:{line}" in done.err + done.out and allowed in done.err + done.out,
                   f"{text!r} gives {done}")
            position = log_position(lab.host1)
            os.kill(lab.host1.daemon_pid, signal.SIGHUP)
            said = wait_log(lab.host1, position, r"config-rejected.*")[0]
            expect(f":{line}" in said and "the old configuration stays" in said, f"the daemon's log: {said}")
        after = pair(lab, lab.vm1, lab.vm2)
        expect_equal((after["state"], after["epoch"]), ("up", before["epoch"]), "the link")
    finally:
        path.write_text(old)
        os.kill(lab.host1.daemon_pid, signal.SIGHUP)
