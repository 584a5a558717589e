# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The lab as a whole: up, down, and what its parts do together."""
import concurrent.futures
import json
import shutil
import os
import stat
import subprocess
import threading

from . import accel, agent, daemon, host, image, kernel, state, vm
from .paths import BUILD, LabError, lab_dir, lab_tag
from .progress import say
from .qmp import Qmp

PARALLEL_BOOTS = 2
# kernel and machine are of all VMs that kernels and machines ({VM: ...}) say nothing of.
DEFAULTS = {"vms": 2, "hosts": 1, "kernel": kernel.DEFAULT, "kernels": {}, "vcpus": 1, "mem": 768, "machine": "pc",
            "machines": {}, "ports": 4, "port_room": "256M", "with": [], "no_shunt": False, "place": {}, "static": [],
            "nics": 1, "queues": 1,
            "shared_memory": False}     # guests' memory in a memfd that a vhost-user back end can map
SHUNT_CLI = "/usr/bin/shunt"
SHUNT_KO = "/root/shunt.ko"


def up(**given):
    """Boot a lab as the options say. Anything that fails (or Ctrl-C) takes it down again."""
    options = DEFAULTS | given
    with state.locked():
        lab = state.load()
        if lab["hosts"] and not is_up(lab):     # the machine restarted under it
            _down(lab)
            lab = state.load()
        if lab["hosts"]:
            raise LabError(f"a lab is up already in {lab_dir()}: `lab/shunt-lab down` first")
        try:
            _up(lab, options)
        except BaseException:
            _down(lab)
            raise
    return lab


def is_up(lab):
    """Is anything left of the lab in @lab?"""
    return any(host.netns_exists(r["netns"]) or state.alive(r["shuntd"]) for r in lab["hosts"].values()) or \
        any(state.alive(r["qemu"]) for r in lab["vms"].values())


def _up(lab, options):
    lab["options"] = options
    records = new_records(options)
    kernels = [kernel.get(version) for version in sorted({r["kernel"] for r in records.values()})]
    check_shunt(options, kernels)
    root = str(image.image(with_headers(options["with"], kernels)))
    accelerator = "kvm" if all(accel.choose(k) == "kvm" for k in kernels) else "tcg"
    say(f"kernel {' and '.join(k.release for k in kernels)}, accelerator {accelerator}")
    if options["hosts"] > 1:
        lab["wire"] = f"{lab_tag()}-wire"
        state.save(lab)
        host.create_wire()
    for number in range(1, options["hosts"] + 1):
        lab["hosts"][f"host{number}"] = {"netns": f"{lab_tag()}-host{number}", "number": number, "shuntd": None}
        state.save(lab)
        host.create(number, lab["wire"])
        if options["static"]:
            configure_group(number, options)
        if not options["no_shunt"]:
            daemon.start(f"host{number}", lab)
    for name, record in records.items():
        lab["vms"][name] = record | {"image": root, "accel": accelerator}
    boot(lab, list(lab["vms"]))
    if not options["no_shunt"]:
        for name in lab["vms"]:
            install(name)
            load(lab, name)


def with_headers(packages, kernels):
    """The packages @packages, where "linux-headers" stands for those of @kernels."""
    return [name for package in packages for name in
            ([f"linux-headers-{k.release}" for k in kernels] if package == "linux-headers" else [package])]


def new_records(options):
    """What is known of each VM before it runs."""
    names = [f"vm{number}" for number in range(1, options["vms"] + 1)]
    for key in ("kernels", "machines", "place"):
        for name in set(options[key]) - set(names):
            raise LabError(f"{name}={options[key][name]}: there is no {name} among {', '.join(names)}")
    return {name: vm.new_record(number, place(name, number, options), options)
            for number, name in enumerate(names, 1)}


def check_shunt(options, kernels):
    """Everything that is to be put into guests must be built: say so before booting anything."""
    if options["no_shunt"]:
        return
    for path in (BUILD / "daemon/shuntd", BUILD / "cli/shunt", *(module_path(k.release) for k in kernels)):
        if not path.exists():
            raise LabError(f"{path} is not built: run make (or use --no-shunt)")


def configure_group(number, options):
    """The static VMs of a host are one group there."""
    placed = {f"vm{i}": i for i in range(1, options["vms"] + 1)}
    unknown = [name for name in options["static"] if name not in placed]
    if unknown or options["no_shunt"]:
        raise LabError(f"--static {unknown[0]}: no such VM" if unknown else "--static and --no-shunt exclude each other")
    macs = {name: [vm.mac(placed[name], number, nic) for nic in range(options["nics"])] for name in options["static"]
            if place(name, placed[name], options) == f"host{number}"}
    if len(macs) == 1:
        raise LabError(f"--static: {list(macs)[0]} would be alone in the group of host{number}")
    if macs:
        daemon.configure_group(f"host{number}", macs)


def place(name, number, options):
    """The host of a VM: as told, else VMs in even runs over the hosts (2 hosts, 4 VMs: 1 1 2 2)."""
    told = options["place"].get(name)
    if told:
        if told not in [f"host{i}" for i in range(1, options["hosts"] + 1)]:
            raise LabError(f"--place {name}={told}: no such host")
        return told
    return f"host{(number - 1) * options['hosts'] // options['vms'] + 1}"


def boot(lab, names):
    """Start VMs, PARALLEL_BOOTS at a time, and wait until they are ready."""
    turn = threading.Lock()     # for the state, which all threads share

    def one(name):
        say(f"booting {name}")
        with turn:
            vm.start(name, lab)
            state.save(lab)
        vm.wait_ready(name, lab["vms"][name])
        say(f"{name} is ready")

    with concurrent.futures.ThreadPoolExecutor(PARALLEL_BOOTS) as pool:
        futures = [pool.submit(one, name) for name in names]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            for name in names:          # ends the waits of those that are booting
                state.kill(lab["vms"][name]["qemu"], timeout=2)
            raise
    state.save(lab)


def down():
    """Remove everything this lab created."""
    with state.locked():
        _down(state.load())


def _down(lab):
    for name, record in lab["vms"].items():
        if not state.kill(record["qemu"]):
            say(f"{name}: QEMU (pid {record['qemu']['pid']}) does not die")
    for record in lab["hosts"].values():
        state.kill(record["shuntd"])
        host.remove_netns(record["netns"])
    host.remove_netns(lab["wire"])
    keep_logs(lab)
    for name in list(lab["hosts"]) + ["vms", "state.json"]:
        path = lab_dir() / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def keep_logs(lab):
    """The logs of the last lab stay in last/, for a look after a failure."""
    last = lab_dir() / "last"
    shutil.rmtree(last, ignore_errors=True)
    if not lab["vms"] and not lab["hosts"]:
        return
    last.mkdir(parents=True, exist_ok=True)
    logs = [(lab_dir() / name / "shuntd.log", f"{name}-shuntd.log") for name in lab["hosts"]]
    logs += [(vm.directory(name) / log, f"{name}-{log}") for name in lab["vms"] for log in ("console.log", "qemu.log")]
    for source, target in logs:
        if source.exists():
            shutil.copy(source, last / target)


def run(name, argv, **kwargs):
    """Run a command in VM @name: (status, stdout, stderr)."""
    state.vm_record(state.load(), name)
    return agent.capture(str(vm.directory(name)), argv, **kwargs)


def check_run(name, argv, **kwargs):
    """As run(), but a failure is an error; its standard output."""
    status, out, err = run(name, argv, **kwargs)
    if status:
        raise LabError(f"{name}: {' '.join(argv)}: status {status}: {err.decode(errors='replace').strip()}")
    return out


def put(name, source, destination):
    """Copy a file into a VM, with its mode; a directory as destination ends with "/"."""
    if destination.endswith("/"):
        destination += os.path.basename(source)
    script = 'd=$1; [ -d "$d" ] && d=$d/$3; mkdir -p "$(dirname "$d")" && cat >"$d.part" && ' \
             'chmod "$2" "$d.part" && mv -f "$d.part" "$d"'
    with open(source, "rb") as file:
        mode = oct(stat.S_IMODE(os.fstat(file.fileno()).st_mode))[2:]
        check_run(name, ["sh", "-c", script, "put", destination, mode, os.path.basename(source)],
                  stdin=file.fileno())


def get(name, source, destination):
    """Copy a file out of a VM, with its mode."""
    if os.path.isdir(destination):
        destination = os.path.join(destination, os.path.basename(source))
    mode = int(check_run(name, ["stat", "-L", "-c", "%a", source]), 8)
    part = f"{destination}.part{os.getpid()}"
    errors = bytearray()
    try:
        with open(part, "wb") as file:
            status = agent.execute(str(vm.directory(name)), ["cat", source],
                                   on_output=lambda kind, data: file.write(data) if kind == agent.R_STDOUT
                                   else errors.extend(data))
        if status:
            raise LabError(f"{name}: {errors.decode(errors='replace').strip()}")
        os.chmod(part, mode)
        os.rename(part, destination)
    finally:
        if os.path.exists(part):
            os.unlink(part)


def module_path(release):
    """The module built for kernel @release: the one that says so, whatever its directory is called."""
    for path in sorted((BUILD / "kmod").glob("*/shunt.ko"), key=lambda p: -p.stat().st_mtime):
        said = subprocess.run(["modinfo", "-F", "vermagic", path], text=True, capture_output=True).stdout
        if said.split(" ", 1)[0] == release:
            return path
    return BUILD / "kmod" / release / "shunt.ko"


def install(name):
    """Put the shunt command into a guest."""
    put(name, str(BUILD / "cli/shunt"), SHUNT_CLI)


def load(lab, name):
    """Put the module into a guest and load it; nothing to do when it is loaded."""
    if run(name, ["test", "-d", "/sys/module/shunt"])[0] == 0:
        return
    path = module_path(kernel.get(lab["vms"][name]["kernel"]).release)
    if not path.exists():
        raise LabError(f"{path} is not built: run make")
    put(name, str(path), SHUNT_KO)
    check_run(name, ["insmod", SHUNT_KO], timeout=60)


def shunt_on(name):
    """Load the guest's module and attach the VM."""
    lab = state.load()
    record = state.vm_record(lab, name)
    if not state.alive(lab["hosts"][record["host"]]["shuntd"]):
        with state.locked():
            lab = state.load()
            daemon.start(record["host"], lab)
            state.save(lab)
    install(name)
    load(lab, name)
    daemon.control(record["host"], lab, "attach", name)


def shunt_off(name):
    """Detach the VM and unload its module."""
    lab = state.load()
    record = state.vm_record(lab, name)
    daemon.control(record["host"], lab, "detach", name)
    if run(name, ["test", "-d", "/sys/module/shunt"])[0] == 0:
        check_run(name, ["rmmod", "shunt"], timeout=60)


def host_name(lab, given):
    """The host an operation without one means: the only one."""
    given = given or ("host1" if len(lab["hosts"]) == 1 else None)
    if given not in lab["hosts"]:
        raise LabError(f"no host {given!r}" if given else "which host? Give " + " or ".join(lab["hosts"]))
    return given


def kill(what, on=None):
    """kill -9 of a VM's QEMU or a host's shuntd."""
    with state.locked():
        lab = state.load()
        if what == "shuntd":
            daemon.kill(host_name(lab, on), lab)
        else:
            vm.kill(what, lab)
        state.save(lab)


def start(what, on=None):
    """Start again what was killed (a VM boots afresh; its module is loaded when the lab is one with Shunt)."""
    with state.locked():
        lab = state.load()
        if what == "shuntd":
            daemon.start(host_name(lab, on), lab)
            state.save(lab)
            return
        state.vm_record(lab, what)["host"] = on or lab["vms"][what]["host"]
        boot(lab, [what])
    if not lab["options"]["no_shunt"]:
        install(what)
        load(lab, what)


def qmp(name, text):
    """One QMP command, given as its name or as JSON, on the lab's monitor; what it returns."""
    state.vm_record(state.load(), name)
    message = json.loads(text) if text.lstrip().startswith("{") else {"execute": text}
    with Qmp(vm.directory(name) / "qmp") as monitor:
        return monitor.raw(message)


def table():
    """What is up, for `list`."""
    lab = state.load()
    vms = [{"vm": name, "status": vm.status(r, name), "host": r["host"], "ip": r["ip"], "ip6": r["ip6"],
            "mac": r.get("mac"), "vcpus": r["vcpus"], "mem": r["mem"], "kernel": r["kernel"], "machine": r["machine"],
            "accel": r["accel"], "pid": (r["qemu"] or {}).get("pid")} for name, r in lab["vms"].items()]
    hosts = [{"host": name, "netns": r["netns"], "shuntd": "running" if state.alive(r["shuntd"]) else "off",
              "runtime_dir": str(host.directory(name) / "run")} for name, r in lab["hosts"].items()]
    return {"vms": vms, "hosts": hosts}
