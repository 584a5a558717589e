# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What guests boot from: the read-only image of Debian packages and the initramfs that brings it up."""
import lzma
import os
import pathlib
import shutil
import subprocess
import tempfile

from . import kernel as kernels
from .apt import BACKPORTS, SOURCES
from .paths import BUILD, LAB, LabError, cache, digest
from .progress import say
from .state import locked

PACKAGES = """iperf3 sockperf redis-server redis-tools nginx-light wrk openssh-server openssh-client curl wget tcpdump
nftables conntrack iproute2 iputils-ping ethtool socat netcat-openbsd python3 netbase procps kmod strace perl-base
libmnl0 libjansson4""".split()
INITRAMFS_MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "squashfs", "overlay",
                     "pvpanic_mmio", "evdev", "button", "af_packet"]
# Run in the image's tree ($1): keys that let guests ssh each other, nothing asked.
CUSTOMIZE = r"""
set -e
mkdir -p "$1/root/.ssh"
chmod 700 "$1/root/.ssh"
ssh-keygen -q -t ed25519 -N '' -C lab -f "$1/root/.ssh/id_ed25519"
cp "$1/root/.ssh/id_ed25519.pub" "$1/root/.ssh/authorized_keys"
printf 'Host *\n\tStrictHostKeyChecking no\n\tUserKnownHostsFile /dev/null\n\tLogLevel ERROR\n' >"$1/root/.ssh/config"
printf 'PermitRootLogin yes\nUseDNS no\nUsePAM no\n' >"$1/etc/ssh/sshd_config.d/lab.conf"
rm -f "$1/etc/resolv.conf" "$1/etc/hostname"
"""


def image(extra=()):
    """The squashfs with the lab's packages and @extra ones; made at the first use (about a minute)."""
    packages = sorted(set(PACKAGES) | set(extra))
    # The newer kernels' headers are only in backports, and apt takes nothing else from there unasked.
    sources = SOURCES + [BACKPORTS] * any(package.startswith("linux-headers-") for package in extra)
    recipe = digest(" ".join(packages), " ".join(sources), CUSTOMIZE)
    path = cache("images", f"{recipe}.squashfs")
    if not path.exists():
        with locked(cache("lock")):
            if not path.exists():
                make_image(packages, sources, path)
    return path


def make_image(packages, sources, path):
    """mmdebstrap @packages of @sources into @path."""
    say(f"making the guest image of {len(packages)} packages (once, about a minute)")
    work = path.with_name(f"{path.name}.tmp{os.getpid()}.squashfs")
    log = path.with_suffix(".log")
    excludes = [f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("doc", "man", "locale", "info")]
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as hook, open(log, "w", encoding="utf-8") as out:
        hook.write("#!/bin/sh\n" + CUSTOMIZE)
        hook.flush()
        os.chmod(hook.name, 0o755)
        argv = ["mmdebstrap", "--variant=minbase", "--include=" + ",".join(packages),
                "--aptopt=Apt::Install-Recommends false", '--aptopt=Acquire::Languages "none"',
                "--aptopt=Acquire::Retries 3", *excludes, f"--customize-hook=sh {hook.name} \"$1\"",
                "--format=tar", "bookworm", f"{work}.tar", *sources]
        try:
            if subprocess.run(argv, stdout=out, stderr=subprocess.STDOUT).returncode:
                raise LabError(f"the guest image could not be made:\n{tail(log)}")
            with open(f"{work}.tar", "rb") as tar:
                done = subprocess.run(["mksquashfs", "-", work, "-tar", "-comp", "zstd", "-Xcompression-level", "6",
                                       "-noappend", "-quiet", "-no-progress"], stdin=tar, stdout=out,
                                      stderr=subprocess.STDOUT)
            if done.returncode:
                raise LabError(f"the guest image could not be packed:\n{tail(log)}")
            work.rename(path)
        finally:
            work.unlink(missing_ok=True)
            pathlib.Path(f"{work}.tar").unlink(missing_ok=True)


def tail(path, lines=20):
    """The last lines of a log."""
    return "\n".join(pathlib.Path(path).read_text(errors="replace").splitlines()[-lines:])


def agent():
    """The guest agent, compiled when its source changed."""
    source = LAB / "agent/agent.c"
    path = BUILD / "lab-agent" / f"agent-{digest(source)}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_suffix(f".tmp{os.getpid()}")
        subprocess.run(["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-static", "-s", "-o", work, source],
                       check=True)
        work.rename(path)
    return path


def initramfs(kernel):
    """The initramfs for @kernel, cached by the contents of what is in it."""
    guest = sorted(p for p in (LAB / "guest").iterdir() if p.is_file())
    busybox = pathlib.Path("/bin/busybox")
    path = cache("initramfs", f"{kernel.release}-" + digest(
        agent(), busybox, " ".join(INITRAMFS_MODULES), kernel.modules / "modules.builtin", *guest) + ".cpio")
    if path.exists():
        return path
    with tempfile.TemporaryDirectory() as name:
        tree = pathlib.Path(name)
        (tree / "bin").mkdir()
        (tree / "modules").mkdir()
        shutil.copy(busybox, tree / "bin/busybox")
        shutil.copy(agent(), tree / "agent")
        for file in guest:
            shutil.copy(file, tree / file.name)
        order = [add_module(kernel.modules / m, tree / "modules")
                 for m in kernels.load_order(kernel, INITRAMFS_MODULES)]
        (tree / "modules/order").write_text("\n".join(order) + "\n")
        names = "\n".join(str(p.relative_to(tree)) for p in sorted(tree.rglob("*")))
        work = path.with_suffix(f".tmp{os.getpid()}")
        with open(work, "wb") as out:
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=tree, input=names.encode(),
                           stdout=out, check=True)
        work.rename(path)
    return path


def add_module(source, directory):
    """Copy one module, uncompressed; its file name."""
    name = source.name.removesuffix(".xz")
    data = source.read_bytes()
    (directory / name).write_bytes(lzma.decompress(data) if source.suffix == ".xz" else data)
    return name
