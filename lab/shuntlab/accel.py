# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Which accelerator works here. /dev/kvm may exist and still not run a kernel, so one is really booted."""
import os
import pathlib
import subprocess
import tempfile

from .paths import cache, digest
from .progress import say

# erms and fsrm off: emulated `rep movs` is many times slower than other copies.
FLAGS = {"kvm": ["-accel", "kvm", "-cpu", "host"],
         "tcg": ["-accel", "tcg,thread=multi", "-cpu", "max,erms=off,fsrm=off"]}
WORD = b"shunt-lab-kvm-works"
TRIAL_SECONDS = 20


def choose(kernel):
    """"kvm" or "tcg" ($SHUNT_ACCEL overrides); the verdict is kept until the host reboots."""
    forced = os.environ.get("SHUNT_ACCEL")
    if forced:
        return forced
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot_id = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
    verdict = cache("accel", digest(boot_id, kernel.release))
    if not verdict.exists():
        say("trying whether KVM can run the guests' kernel")
        verdict.write_text("kvm" if trial(kernel) else "tcg")
    return verdict.read_text()


def trial(kernel):
    """Boot @kernel under KVM with an initramfs that says a word and powers off."""
    with tempfile.TemporaryDirectory() as name:
        tree = pathlib.Path(name) / "tree"
        (tree / "bin").mkdir(parents=True)
        (tree / "bin/busybox").write_bytes(pathlib.Path("/bin/busybox").read_bytes())
        (tree / "init").write_text(f"#!/bin/busybox sh\necho {WORD.decode()}\n/bin/busybox poweroff -f\n")
        os.chmod(tree / "bin/busybox", 0o755)
        os.chmod(tree / "init", 0o755)
        archive = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, check=True, capture_output=True,
                                 input=b"bin\nbin/busybox\ninit\n").stdout
        initrd = pathlib.Path(name) / "initrd"
        initrd.write_bytes(archive)
        argv = ["qemu-system-x86_64", "-machine", "pc", *FLAGS["kvm"], "-smp", "1", "-m", "256", "-nodefaults",
                "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
                "-kernel", kernel.boot_image, "-initrd", initrd, "-append", "console=ttyS0 panic=-1 quiet"]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return WORD in done.stdout
