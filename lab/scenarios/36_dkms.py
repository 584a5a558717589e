# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
The DKMS package, with Debian's dkms: built for both kernels, installed in guests, loaded by modprobe and by hot-plug.

The compiler runs in a chroot of the guests' own image, at the host's speed; what it made goes into the guests as dkms
carries modules from machine to machine. Under `make soak` the guests compile it themselves.
"""
import contextlib
import pathlib
import re
import shutil
import subprocess
import tempfile

from shuntlab import lab as labs
from shuntlab.paths import TOP
from shuntlab.scenario import *
from shuntlab.traffic import by_ring, link_up

SETUP = {"vms": 2, "kernels": {"vm2": "6.12"}, "with": ["dkms", "linux-headers", "udev"]}
BUILD_SECONDS = 300
INSTALL_SECONDS = 200
CHROOT = """set -e
mount --rbind /proc "$0/proc"; mount --rbind /dev "$0/dev"
exec chroot "$0" sh -ec "$1"
"""


def version():
    """The version in the Makefile, which the package carries."""
    return re.search(r"^VERSION := (.*)$", (TOP / "Makefile").read_text(), re.M)[1]


def make_tree(root):
    """`make install-dkms` as a packager runs it."""
    subprocess.run(["make", "-s", "-C", TOP, "install-dkms", f"DESTDIR={root}"], check=True, timeout=60)


@contextlib.contextmanager
def image_tree(vm):
    """The guests' image, unpacked."""
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name) / "root"
        subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-d", root, vm.record["image"]], check=True,
                       timeout=BUILD_SECONDS)
        yield root


def build_in_chroot(vms, tarballs):
    """Build the package for the guests' kernels in their image; a tarball of dkms for each in @tarballs."""
    name = f"shunt/{version()}"
    with image_tree(vms[0]) as root:
        make_tree(root)
        for vm in vms:
            release = vm.sh("uname -r").strip()
            script = f"dkms build {name} -k {release}; dkms mktarball {name} -k {release} --archive={vm.name}.tar.gz"
            subprocess.run(["nice", "unshare", "--mount", "sh", "-ec", CHROOT, root, script], check=True,
                           timeout=BUILD_SECONDS)
            made = next(root.rglob(f"{vm.name}.tar.gz"))
            shutil.copy(made, tarballs)


def install(vm, tarballs):
    """Have dkms install the module in a guest."""
    if soak(True, False):
        with tempfile.TemporaryDirectory() as name:
            make_tree(name)
            subprocess.run(["tar", "-C", name, "-cf", f"{name}/tree.tar", "usr"], check=True)
            vm.put(f"{name}/tree.tar", "/tmp/")
        vm.sh("tar -C / -xf /tmp/tree.tar")
        print(vm.sh(f"time dkms install shunt/{version()}", timeout=3000))
        return
    vm.put(f"{tarballs}/{vm.name}.tar.gz", "/tmp/")
    vm.sh(f"dkms ldtarball /tmp/{vm.name}.tar.gz", timeout=INSTALL_SECONDS)
    print(vm.sh(f"dkms install shunt/{version()}", timeout=INSTALL_SECONDS))


def forget(vm):
    """No module, loaded or installed, from now on."""
    vm.run("rmmod shunt")
    vm.run(f"dkms remove shunt/{version()} --all; rm -rf /usr/src/shunt-*", timeout=INSTALL_SECONDS)
    vm.sh(f"rm -f {labs.SHUNT_KO}")


@limit(soak(7200, 600))
@damages
def test_install(lab):
    """dkms builds and installs it for 6.1 and 6.12; modinfo, modprobe and the PCI alias find it; hot-plug loads it."""
    with tempfile.TemporaryDirectory() as tarballs:
        build_in_chroot(lab.vms, tarballs)
        for vm in lab.vms:
            forget(vm)
            expect(not vm.run("modprobe shunt").ok, f"{vm.name} has the module from elsewhere")
            install(vm, tarballs)
    for vm in lab.vms:
        release = vm.sh("uname -r").strip()
        expect(f"shunt/{version()}, {release}, x86_64: installed" in vm.sh("dkms status"), vm.sh("dkms status"))
        said = dict(re.findall(r"^(\w+): +(.*)$", vm.sh("modinfo shunt"), re.M))
        expect("/updates/dkms/" in said["filename"], f"modinfo says {said}")
        expect_equal((said["version"], said["vermagic"].split()[0]), (version(), release), "version and kernel")
        alias = vm.sh("cat $(dirname $(grep -lx 0x1110 /sys/bus/pci/devices/*/device | head -n 1))/modalias").strip()
        expect("shunt" in vm.sh(f"modprobe --resolve-alias {alias}").split(), f"nothing belongs to the alias {alias}")
    lab.vm1.sh("modprobe shunt")
    hot_plugged(lab, lab.vm2)
    link_up(lab)
    with by_ring(lab.vm1, lab.vm2, 20, 20):
        expect("20 received" in lab.vm1.sh("ping -q -c 20 -i 0.02 -W 5 vm2"), "ping")


def hot_plugged(lab, vm):
    """A guest with udev and without the module loaded gets its uplink: the module comes by itself."""
    lab.host1.shunt("detach", vm.name)
    devices = [d["name"] for d in vm.qmp("qom-list", path="/machine/peripheral") if d["name"].startswith("shunt-")]
    for name in devices:
        vm.qmp("device_del", id=name)
    wait_until(lambda: not vm.run("grep -qsx 0x1110 /sys/bus/pci/devices/*/device").ok, 30, "the devices are gone")
    vm.sh("/lib/systemd/systemd-udevd --daemon && udevadm control --ping")
    expect(not vm.run("test -d /sys/module/shunt").ok, "the module is loaded before the plug")
    lab.host1.shunt("attach", vm.name)
    wait_until(lambda: vm.run("test -d /sys/module/shunt").ok, 30, "udev has loaded the module")


def test_wrong_kernel(lab):
    """dkms skips a kernel that the module cannot be built for, and says so, instead of failing in the compiler."""
    conf = (TOP / "contrib/dkms/dkms.conf.in").read_text()
    wanted = re.search(r'^BUILD_EXCLUSIVE_KERNEL="(.*)"$', conf, re.M)[1]
    for release, fits in (("5.10.0-30-amd64", False), ("6.0.12", False), ("6.1.0-56-amd64", True), ("6.12.9", True),
                          ("7.0.1", True), ("10.1", True)):
        expect_equal(bool(re.match(wanted, release)), fits, f"dkms builds for {release}")
