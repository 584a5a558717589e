# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""A host's shuntd, started in the host's namespace as its service manager would."""
import json
import os
import select
import socket
import subprocess

from . import host, image, state
from .paths import BUILD, LAB, LabError

START_SECONDS = 20


def member_socket(name, vm):
    """Where the QEMU of a group's member connects: shuntd's default for the group "lab"."""
    return host.directory(name) / "run/groups/lab" / f"{vm}.sock"


def configure_group(name, macs):
    """Make VMs ({name: [MAC...]}) of a host the members of its group "lab", which shuntd serves without QMP."""
    members = ",\n".join(f'    {{ name = "{vm}"; macs = {json.dumps(own)}; }}' for vm, own in macs.items())
    (host.directory(name) / "shuntd.conf").write_text(
        f'groups = ( {{\n  name = "lab";\n  size = "16M";\n  members = (\n{members}\n  );\n}} );\n')


def start(name, lab):
    """Start shuntd of host @name and wait until it says READY=1."""
    record = lab["hosts"][name]
    if state.alive(record["shuntd"]):
        raise LabError(f"shuntd of {name} runs already")
    program = BUILD / "daemon/shuntd"
    if not program.exists():
        raise LabError(f"{program} is not built: run make (or use --no-shunt)")
    host_dir = host.directory(name)
    run_dir = host_dir / "run"
    config = host_dir / "shuntd.conf"
    if not config.exists():         # a test may have put its own there
        config.write_text((LAB / "shuntd.conf").read_text())
    log = host_dir / "shuntd.log"
    notify = host_dir / "notify"
    notify.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(log, "ab") as out:
        ready.bind(str(notify))
        argv = ["ip", "netns", "exec", record["netns"], str(program), "--config", str(config),
                "--runtime-dir", str(run_dir)] + (["--debug"] if os.environ.get("SHUNT_DEBUG") else [])
        proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                                env=os.environ | {"NOTIFY_SOCKET": str(notify)})
        record["shuntd"] = state.process(proc.pid)
        wait_ready(name, proc, ready, log)
    notify.unlink(missing_ok=True)


def wait_ready(name, proc, ready, log):
    """Wait for READY=1 or the daemon's end."""
    pidfd = os.pidfd_open(proc.pid)
    try:
        while True:
            readable, _, _ = select.select([ready, pidfd], [], [], START_SECONDS)
            if ready in readable:
                if b"READY=1" in ready.recv(4096):
                    return
            elif readable:
                raise LabError(f"shuntd of {name} ended with status {proc.wait()}:\n{image.tail(log)}")
            else:
                raise LabError(f"shuntd of {name} is not ready after {START_SECONDS} s:\n{image.tail(log)}")
    finally:
        os.close(pidfd)


def kill(name, lab):
    """kill -9, as a test of its death."""
    record = lab["hosts"][name]
    if not state.kill(record["shuntd"]):
        raise LabError(f"shuntd of {name} does not die")
    record["shuntd"] = None


def control(name, lab, *args, check=True, timeout=60):
    """Run the shunt command on host @name against its daemon."""
    program = BUILD / "cli/shunt"
    if not program.exists():
        raise LabError(f"{program} is not built: run make")
    argv = ["ip", "netns", "exec", lab["hosts"][name]["netns"], str(program), *args]
    env = os.environ | {"SHUNT_SOCKET": str(host.directory(name) / "run/shuntd.sock")}
    done = subprocess.run(argv, env=env, text=True, capture_output=True, timeout=timeout)
    if check and done.returncode:
        raise LabError(f"shunt {' '.join(args)} on {name}: {(done.stderr or done.stdout).strip()}")
    return done
