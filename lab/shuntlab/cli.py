# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The command line of lab/shunt-lab."""
import argparse
import json
import os
import select
import signal
import socket
import sys
import termios
import tty

from . import agent, host, image, kernel, klog, lab, progress, state, vm
from .paths import LabError, lab_dir

EPILOG = """The lab's state is in build/lab ($SHUNT_LAB_DIR: another one beside it), kernels and images in
/var/cache/shunt-lab ($SHUNT_CACHE). $SHUNT_ACCEL=kvm|tcg overrides the choice of accelerator."""


def parser():
    """All commands and options."""
    top = argparse.ArgumentParser(prog="shunt-lab", description="Boot real VMs on this machine.", epilog=EPILOG)
    top.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = sub.add_parser("up", help="boot VMs vm1.. (10.77.0.11..) on hosts host1..")
    p.add_argument("--vms", type=int, default=2, metavar="N")
    p.add_argument("--hosts", type=int, default=1, metavar="N")
    p.add_argument("--kernel", action="append", default=[], metavar="[VM=]VERSION",
                   help="6.1 (default) or 6.12, of all VMs or of one; may be repeated")
    p.add_argument("--no-shunt", action="store_true", help="no shuntd, no module")
    p.add_argument("--vcpus", type=int, default=1, metavar="N")
    p.add_argument("--nics", type=int, default=1, metavar="N", help="NICs of each VM: eth0, and eth1.. left down")
    p.add_argument("--queues", type=int, default=1, metavar="N", help="queue pairs of each NIC")
    p.add_argument("--mem", type=int, default=768, metavar="MIB")
    p.add_argument("--machine", action="append", default=[], metavar="[VM=]TYPE",
                   help="pc (default), q35 or q35-pciehp, of all VMs or of one; may be repeated")
    p.add_argument("--ports", type=int, default=4, metavar="N", help="free root ports of a q35 machine")
    p.add_argument("--port-room", default="256M", metavar="SIZE",
                   help="memory window of each (pref64-reserve); 0: what the firmware gives")
    p.add_argument("--with", nargs="+", default=[], metavar="PACKAGE", help="more Debian packages in the image;"
                   " linux-headers: those of the kernels")
    p.add_argument("--place", action="append", default=[], metavar="VM=HOST", help="put a VM on a host")
    p.add_argument("--static", nargs="*", metavar="VM",
                   help="these VMs (or all) without QMP for shuntd: a group, its device on their command lines")

    p = sub.add_parser("exec", help="run a command in a guest")
    p.add_argument("vm", metavar="VM")
    p.add_argument("--timeout", type=float, metavar="S", help="kill it after S seconds (status 124)")
    p.add_argument("-n", "--no-stdin", action="store_true", help="do not read standard input")
    p.add_argument("argv", nargs="*", metavar="-- COMMAND...")

    p = sub.add_parser("put", help="copy a file into a guest")
    p.add_argument("vm", metavar="VM")
    p.add_argument("file", metavar="FILE")
    p.add_argument("dest", nargs="?", default="/root/", metavar="DEST")
    p = sub.add_parser("get", help="copy a file out of a guest")
    p.add_argument("vm", metavar="VM")
    p.add_argument("path", metavar="PATH")
    p.add_argument("dest", nargs="?", default=".", metavar="DEST")

    p = sub.add_parser("shunt", help="on: load the guest's module and attach; off: detach and unload")
    p.add_argument("vm", metavar="VM")
    p.add_argument("state", choices=["on", "off"])
    p = sub.add_parser("migrate", help="live migration (not there yet)")
    p.add_argument("vm", metavar="VM")
    p.add_argument("host", metavar="HOST")
    for name, text in (("kill", "kill -9 of a VM's QEMU or of a host's shuntd"), ("start", "start it again")):
        p = sub.add_parser(name, help=text)
        p.add_argument("what", metavar="VM|shuntd")
        p.add_argument("host", nargs="?", metavar="HOST")

    p = sub.add_parser("console", help="the guest's serial console (Ctrl-] leaves)")
    p.add_argument("vm", metavar="VM")
    p = sub.add_parser("qmp", help="a command for QEMU's monitor: its name or JSON")
    p.add_argument("vm", metavar="VM")
    p.add_argument("message", metavar="COMMAND|JSON")
    p = sub.add_parser("dmesg", help="a guest's kernel log")
    p.add_argument("vm", metavar="VM")
    p.add_argument("--check", action="store_true", help="print only what should not be there; fail when there is any")
    p = sub.add_parser("logs", help="where the logs are, and their last lines")
    p.add_argument("what", nargs="?", metavar="VM|HOST")
    p = sub.add_parser("host", help="run a command in a host's namespace")
    p.add_argument("host", metavar="HOST")
    p.add_argument("argv", nargs="*", metavar="-- COMMAND...")
    p = sub.add_parser("list", help="what is up")
    p.add_argument("--json", action="store_true")
    sub.add_parser("down", help="remove everything")
    p = sub.add_parser("kernel", help="the cached guest kernel, fetched at the first use")
    p.add_argument("version", nargs="?", default=kernel.DEFAULT)
    group = p.add_mutually_exclusive_group()
    group.add_argument("--headers", "--path", action="store_true", help="only the directory for make -C")
    group.add_argument("--release", action="store_true", help="only the release")
    p = sub.add_parser("image", help="the cached guest image, made at the first use")
    p.add_argument("--with", nargs="+", default=[], metavar="PACKAGE")
    return top


def do_up(args):
    options = {key: getattr(args, key) for key in ("vms", "hosts", "no_shunt", "vcpus", "mem", "with", "ports",
                                                   "port_room", "nics", "queues")}
    if args.vms < 1 or args.vms > 89 or args.hosts < 1 or args.hosts > 9 or args.vcpus < 1 or \
            not 1 <= args.nics <= 8 or not 1 <= args.queues <= 8:
        raise LabError("--vms 1..89, --hosts 1..9, --vcpus 1.., --nics 1..8, --queues 1..8")
    options["place"] = dict(item.split("=", 1) for item in args.place)
    if args.static is not None:
        options["static"] = args.static or [f"vm{i}" for i in range(1, args.vms + 1)]
    for key in ("kernel", "machine"):
        given, options[f"{key}s"] = per_vm(getattr(args, key))
        options |= {key: given} if given else {}
    lab.up(**options)
    show_table(lab.table())
    return 0


def per_vm(items):
    """["A", "vm2=B"]: what all VMs are to have (None: not said), and {VM: what it alone is to have}."""
    single = dict(item.split("=", 1) for item in items if "=" in item)
    common = [item for item in items if "=" not in item]
    if len(set(common)) > 1:
        raise LabError(f"{' and '.join(common)} for all VMs? Say VM={common[-1]} for which")
    return (common[0] if common else None), single


def command_words(args):
    if not args.argv:
        raise LabError("no command given (after --)")
    return args.argv


def do_exec(args):
    words = command_words(args)
    state.vm_record(state.load(), args.vm)
    streams = {agent.R_STDOUT: 1, agent.R_STDERR: 2}

    def output(kind, data):
        view = memoryview(data)
        while view:
            view = view[os.write(streams[kind], view):]

    try:
        return agent.execute(str(vm.directory(args.vm)), words, stdin=b"" if args.no_stdin else 0, on_output=output,
                             timeout=args.timeout)
    except TimeoutError as error:
        print(f"shunt-lab: {args.vm}: {error}", file=sys.stderr)
        return agent.TIMED_OUT


def do_kernel(args):
    kern = kernel.get(args.version)
    if args.headers:
        print(kern.headers)
    elif args.release:
        print(kern.release)
    else:
        print(f"release {kern.release}\nheaders {kern.headers}\nboot    {kern.boot_image}\nmodules {kern.modules_image}")
    return 0


def do_image(args):
    print(image.image(getattr(args, "with")))
    return 0


def do_dmesg(args):
    status, out, err = lab.run(args.vm, ["dmesg"], timeout=60)
    if status:
        raise LabError(f"{args.vm}: dmesg: {err.decode(errors='replace')}")
    text = out.decode(errors="replace")
    if not args.check:
        sys.stdout.write(text)
        return 0
    bad = klog.problems(text)
    for line in bad:
        print(f"{args.vm}: {line}")
    return 1 if bad else 0


def do_logs(args):
    known = state.load()
    paths = []
    for name in known["hosts"]:
        paths.append((name, host.directory(name) / "shuntd.log"))
    for name in known["vms"]:
        paths += [(name, vm.directory(name) / log) for log in ("console.log", "qemu.log")]
    if not known["hosts"]:
        paths = [("last", path) for path in sorted((lab_dir() / "last").glob("*"))]
    for name, path in paths:
        if (not args.what or args.what == name) and path.exists():
            print(f"==> {path}\n{image.tail(path, 40)}")
    return 0


def do_console(args):
    """Relay the terminal and the serial console; always drained, so a slow terminal cannot stall the guest long."""
    state.vm_record(state.load(), args.vm)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(vm.directory(args.vm) / "console"))
    saved = termios.tcgetattr(0) if os.isatty(0) else None
    if saved:
        tty.setraw(0)
    try:
        watched = [0, sock]
        while True:
            readable, _, _ = select.select(watched, [], [])
            if sock in readable:
                data = sock.recv(65536)
                if not data:
                    return 0
                os.write(1, data)
            if 0 in readable:
                data = os.read(0, 4096)
                if b"\x1d" in data:
                    return 0
                if not data:
                    watched = [sock]
                sock.sendall(data)
    finally:
        if saved:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)


def show_table(table):
    """The table of `list` for people."""
    for rows in (table["hosts"], table["vms"]):
        if not rows:
            continue
        columns = list(rows[0])
        cells = [[c.upper() for c in columns]] + [["-" if r[c] is None else str(r[c]) for c in columns] for r in rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        for row in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        print()


def do_list(args):
    table = lab.table()
    if args.json:
        json.dump(table, sys.stdout, indent=1)
        print()
    elif not table["hosts"]:
        print("no lab is up")
    else:
        show_table(table)
    return 0


def do_shunt(args):
    (lab.shunt_on if args.state == "on" else lab.shunt_off)(args.vm)
    return 0


def do_host(args):
    known = state.load()
    netns = known["hosts"][lab.host_name(known, args.host)]["netns"]
    os.environ["SHUNT_SOCKET"] = str(host.directory(args.host) / "run/shuntd.sock")
    os.execvp("ip", ["ip", "netns", "exec", netns] + command_words(args))


def do_qmp(args):
    print(json.dumps(lab.qmp(args.vm, args.message)))
    return 0


def do_migrate(_args):
    print("shunt-lab: migrate is not there yet", file=sys.stderr)
    return 2


def done(function, *args):
    """For commands that print nothing."""
    function(*args)
    return 0


COMMANDS = {
    "up": do_up, "exec": do_exec, "console": do_console, "list": do_list, "shunt": do_shunt, "migrate": do_migrate,
    "qmp": do_qmp, "dmesg": do_dmesg, "logs": do_logs, "host": do_host, "kernel": do_kernel, "image": do_image,
    "put": lambda a: done(lab.put, a.vm, a.file, a.dest), "get": lambda a: done(lab.get, a.vm, a.path, a.dest),
    "down": lambda a: done(lab.down), "kill": lambda a: done(lab.kill, a.what, a.host),
    "start": lambda a: done(lab.start, a.what, a.host),
}


def main():
    """Run one command; errors in words, without a traceback."""
    words, command = sys.argv[1:], None
    if "--" in words:           # what follows is the guest's, options and all
        command = words[words.index("--") + 1:]
        words = words[:words.index("--")]
    args = parser().parse_args(words)
    if command is not None and hasattr(args, "argv"):
        args.argv += command
    progress.quiet = args.quiet

    def terminate(signum, _frame):
        signal.signal(signum, signal.SIG_IGN)
        raise SystemExit(128 + signum)

    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, terminate)
    try:
        return COMMANDS[args.command](args)
    except BrokenPipeError:
        return 141
    except (LabError, TimeoutError, OSError, json.JSONDecodeError) as error:
        print(f"shunt-lab: {error}", file=sys.stderr)
        return 1
