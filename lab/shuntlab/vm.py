# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""A VM of the lab: its QEMU process, from command line to death."""
import os
import shutil
import subprocess
import time

from . import accel, agent, daemon, host, image, kernel, state
from .paths import LabError, lab_dir
from .qmp import Qmp

BOOT_SECONDS = 120      # emulated, with other work on the machine; usual is below 20
SUN_PATH_MAX = 107
# q35 plugs by ACPI as QEMU has it by default; q35-pciehp leaves it to the guest's native PCI Express hot-plug.
MACHINES = {"pc": ["pc"], "q35": ["q35"],
            "q35-pciehp": ["q35", "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]}


def directory(name):
    """What belongs to VM @name: sockets, logs."""
    return lab_dir() / "vms" / name


def new_record(number, host_name, options):
    """What is known of a VM before it runs."""
    name = f"vm{number}"
    machine = options["machines"].get(name, options["machine"])
    if machine not in MACHINES:
        raise LabError(f"machine {machine!r} of {name}: {', '.join(MACHINES)}")
    return {"number": number, "host": host_name, "ip": f"10.77.0.{10 + number}", "ip6": f"fd77::{10 + number}",
            "kernel": options["kernels"].get(name, options["kernel"]), "vcpus": options["vcpus"],
            "mem": options["mem"], "machine": machine, "ports": options["ports"] if machine != "pc" else 0,
            "port_room": options["port_room"], "shared_memory": options["shared_memory"], "nics": options["nics"],
            "queues": options["queues"], "static": name in options["static"], "qemu": None}


def mac(number, host_number, nic=0):
    """The MAC of a VM's NIC. It keeps that of the host it was made on when it moves."""
    return f"52:54:00:{0x77 + nic:02x}:{host_number:02x}:{number:02x}"


def tap(name, nic=0):
    """The host's end of a VM's NIC."""
    return f"{name}-{nic}" if nic else name


def _nics(name, record):
    """Arguments for the NICs: eth0, eth1..."""
    vhost = ",vhost=on" if os.path.exists("/dev/vhost-net") else ""
    queues = record.get("queues", 1)
    many = (f",queues={queues}", f",mq=on,vectors={2 * queues + 2}") if queues > 1 else ("", "")
    argv = []
    for nic in range(record.get("nics", 1)):
        address = mac(record["number"], int(record["mac"].split(":")[4], 16), nic)
        argv += ["-netdev", f"tap,id=net{nic},ifname={tap(name, nic)},script=no,downscript=no{vhost}{many[0]}",
                 "-device", f"virtio-net-pci,id=nic{nic},netdev=net{nic},mac={address},romfile={many[1]}"]
    return argv


def _sockets(name, record):
    """Arguments for console, monitors and agent ports: each a listening socket that waits for nobody."""
    vm_dir = directory(name)
    paths = {"con": vm_dir / "console", "qlab": vm_dir / "qmp"}
    if not record["static"]:
        paths["qshunt"] = host.directory(record["host"]) / "run/vms.d" / f"{name}.qmp"
    paths |= {f"agent{i}": vm_dir / f"agent.{i}" for i in range(agent.PORTS)}
    argv = []
    for chardev, path in paths.items():
        if len(str(path)) > SUN_PATH_MAX:
            raise LabError(f"socket path too long, set SHUNT_LAB_DIR to a shorter directory: {path}")
        path.unlink(missing_ok=True)
        log = f",logfile={vm_dir}/console.log,logappend=on" if chardev == "con" else ""
        argv += ["-chardev", f"socket,id={chardev},path={path},server=on,wait=off{log}"]
    for chardev in ("qlab", "qshunt") if "qshunt" in paths else ("qlab",):
        argv += ["-mon", f"chardev={chardev},mode=control"]
    argv += ["-serial", "chardev:con", "-device", f"virtio-serial-pci,max_ports={agent.PORTS + 1}"]
    for i in range(agent.PORTS):
        argv += ["-device", f"virtserialport,chardev=agent{i},name=shunt.agent.{i}"]
    return argv


def _memory(record):
    """Arguments for memory that other processes can be given."""
    if not record["shared_memory"]:
        return []
    return ["-object", f"memory-backend-memfd,id=mem,size={record['mem']}M,share=on", "-machine", "memory-backend=mem"]


def _ports(record):
    """Arguments for the free root ports that hot-plugged devices need on a q35 machine."""
    room = f",pref64-reserve={record['port_room']}" if record["port_room"] != "0" else ""
    return [word for i in range(record["ports"])
            for word in ("-device", f"pcie-root-port,id=port{i},chassis={i + 1}{room}")]


def _member(name, record):
    """Arguments that make a VM a member of its host's group, as an operator without QMP would write them."""
    if not record["static"]:
        return []
    return ["-chardev", f"socket,id=shunt,path={daemon.member_socket(record['host'], name)}",
            "-device", "ivshmem-doorbell,vectors=2,chardev=shunt"]


def command_line(name, record, hosts, vms):
    """QEMU's argv."""
    kern = kernel.get(record["kernel"])
    accelerator = record["accel"]
    vcpus = record["vcpus"]
    number = record["number"]
    disk = "if=none,format=raw,readonly=on"
    # maxcpus=2 at least: with 1, emulation drops the ordering of atomics between VMs.
    return ["ip", "netns", "exec", hosts[record["host"]]["netns"],
            "qemu-system-x86_64", "-name", f"{name},process={name}", "-machine", *MACHINES[record["machine"]],
            *accel.FLAGS[accelerator], "-smp", f"{vcpus},maxcpus={max(2, vcpus)}", "-m", str(record["mem"]), *_memory(record),
            "-nodefaults", "-no-user-config", "-display", "none",
            "-kernel", str(kern.boot_image), "-initrd", str(image.initramfs(kern)),
            "-append", "console=ttyS0 loglevel=5 random.trust_cpu=on net.ifnames=0 tsc=reliable "
            f"lab.name={name} lab.number={number} lab.vms={max(vms, 8)}",
            "-drive", f"id=root,file={record['image']},{disk}", "-device", "virtio-blk-pci,drive=root",
            "-drive", f"id=modules,file={kern.modules_image},{disk}", "-device", "virtio-blk-pci,drive=modules",
            *_nics(name, record), "-device", "virtio-rng-pci", *_ports(record), *_member(name, record),
            # A panicked guest stays, to be looked at.
            "-device", "pvpanic", "-action", "panic=pause", *_sockets(name, record)]


def start(name, lab):
    """Start QEMU for VM @name of the state @lab; records the process."""
    record = state.vm_record(lab, name)
    if state.alive(record["qemu"]):
        raise LabError(f"{name} runs already")
    if not shutil.which("qemu-system-x86_64"):
        raise LabError("no qemu-system-x86_64: run lab/setup")
    vm_dir = directory(name)
    vm_dir.mkdir(parents=True, exist_ok=True)
    host_record = lab["hosts"][record["host"]]
    record.setdefault("mac", mac(record["number"], host_record["number"]))
    for nic in range(record.get("nics", 1)):
        host.add_tap(host_record, tap(name, nic), record.get("queues", 1))
    argv = command_line(name, record, lab["hosts"], len(lab["vms"]))
    (vm_dir / "command").write_text(" ".join(argv) + "\n")
    with open(vm_dir / "qemu.log", "ab") as log:
        proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    record["qemu"] = state.process(proc.pid)
    return proc


def wait_ready(name, record, timeout=BOOT_SECONDS):
    """Wait for the agent of a booting VM: it comes last. Says what the console said when it does not come."""
    deadline = time.monotonic() + timeout
    vm_dir = str(directory(name))
    patience = 5.0
    while True:
        try:
            # Several tries: what is sent to a guest that is just resetting is lost.
            left = deadline - time.monotonic()
            if agent.execute(vm_dir, ["true"], on_output=lambda *_: None, timeout=max(0.1, min(patience, left))) == 0:
                return
            patience *= 2
        except TimeoutError:
            patience *= 2
            if time.monotonic() < deadline:
                continue
            raise LabError(f"{name} was not ready after {timeout} s; its console said last:\n"
                           + image.tail(directory(name) / "console.log")) from None
        except agent.AgentGone as gone:
            if not state.alive(record["qemu"]):
                raise LabError(f"{name}: QEMU ended ({gone}):\n"
                               + image.tail(directory(name) / "qemu.log")) from None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)    # QEMU has not made its sockets yet


def kill(name, lab):
    """kill -9 of the VM's QEMU, waiting until it is gone."""
    record = state.vm_record(lab, name)
    if not state.kill(record["qemu"]):
        raise LabError(f"{name}: QEMU (pid {record['qemu']['pid']}) does not die")
    record["qemu"] = None


def status(record, name):
    """For `list`: off, or what QEMU says (running, paused, guest-panicked...)."""
    if not state.alive(record["qemu"]):
        return "off"
    try:
        with Qmp(directory(name) / "qmp", timeout=3) as qmp:
            return qmp.execute("query-status")["status"]
    except LabError:
        return "no monitor"
