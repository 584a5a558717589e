# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Guest kernels: stock Debian packages unpacked in the cache, with what building modules for them needs."""
import dataclasses
import lzma
import os
import pathlib
import re
import shutil
import subprocess

from .apt import Apt
from .paths import LabError, cache
from .progress import say
from .state import locked

DEFAULT = "6.1"
# What the guests have no use for; the rest of the modules is there, so that tests may load any.
DROPPED = ["drivers/gpu", "drivers/media", "drivers/net/wireless", "drivers/iio", "drivers/infiniband",
           "drivers/staging", "drivers/usb", "drivers/hid", "drivers/scsi", "drivers/mtd", "drivers/isdn",
           "drivers/net/ethernet", "sound", "drivers/input", "drivers/hwmon", "drivers/platform"]


@dataclasses.dataclass
class Kernel:
    """One unpacked kernel."""
    root: pathlib.Path
    release: str

    @property
    def headers(self):
        """The directory for `make -C`."""
        return self.root / "usr/src" / f"linux-headers-{self.release}"

    @property
    def modules(self):
        """lib/modules/RELEASE of the full package."""
        return self.root / "lib/modules" / self.release

    @property
    def modules_image(self):
        """The modules as a squashfs for the guests."""
        return self.root / "modules.squashfs"

    @property
    def boot_image(self):
        """What QEMU boots."""
        image = self.root / "boot" / f"vmlinux-{self.release}"
        return image if image.exists() else self.root / "boot" / f"vmlinuz-{self.release}"


def get(version=DEFAULT):
    """The kernel of series @version ("6.1", "6.12"), fetched at the first use."""
    if not re.fullmatch(r"\d+\.\d+", version):
        raise LabError(f"kernel version {version!r}: give a series such as 6.1 or 6.12")
    link = cache("kernels", version)
    if not link.exists():
        with locked(cache("lock")):
            if not link.exists():
                fetch(version, link)
    root = link.resolve()
    return Kernel(root, root.name)


def fetch(version, link):
    """Download and unpack the newest kernel of series @version, then point @link at it."""
    say(f"fetching kernel {version} (once)")
    apt = Apt()
    apt.update()
    image = apt.newest(rf"linux-image-{re.escape(version)}\.\d+(\+deb\d+)?(-\d+)?-amd64")
    release = image.removeprefix("linux-image-")
    headers = f"linux-headers-{release}"
    extra = [p for p in apt.depends(headers) if re.match(r"linux-(headers|kbuild)-", p)]
    root = link.with_name(release)
    work = link.with_name(f"{release}.tmp{os.getpid()}")
    apt.unpack([image, headers] + extra, work)
    relocate(work, root, release)
    extract_vmlinux(work, release)
    pack_modules(work, release)
    if root.exists():
        shutil.rmtree(root)
    work.rename(root)
    fresh = link.with_name(f"{version}.tmp{os.getpid()}")
    fresh.symlink_to(release)
    fresh.rename(link)


def relocate(work, root, release):
    """Point the absolute paths in the headers' makefile at the place in the cache."""
    makefile = work / "usr/src" / f"linux-headers-{release}" / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{root}/usr/src/"))


def extract_vmlinux(work, release):
    """Unpack the kernel proper, which boots through its PVH entry: emulated decompression takes seconds."""
    packed = (work / "boot" / f"vmlinuz-{release}").read_bytes()
    start = packed.find(b"\xfd7zXZ\0")
    if start < 0:
        return
    elf = lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(packed[start:])
    if elf[:4] == b"\x7fELF":
        (work / "boot" / f"vmlinux-{release}").write_bytes(elf)


def pack_modules(work, release):
    """Make the guests' squashfs of the modules."""
    say(f"packing the modules of {release}")
    tree = work / "modules-tree"
    modules = tree / "lib/modules" / release
    shutil.copytree(work / "lib/modules" / release, modules, symlinks=True,
                    ignore=lambda d, names: [n for n in names if os.path.relpath(os.path.join(d, n), os.path.join(
                        work, "lib/modules", release, "kernel")) in DROPPED or n in ("build", "source")])
    subprocess.run(["depmod", "-b", tree, release], check=True)
    subprocess.run(["mksquashfs", modules, work / "modules.squashfs", "-comp", "zstd", "-Xcompression-level", "6",
                    "-noappend", "-quiet", "-no-progress", "-all-root"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)


def load_order(kernel, names):
    """Files (relative to the modules' directory) to insmod in this order to have modules @names."""
    depends = {}
    for line in subprocess.run(["depmod", "-n", "-b", kernel.root, kernel.release], check=True, text=True,
                               capture_output=True).stdout.splitlines():
        match = re.match(r"(kernel/\S+\.ko\S*): ?(.*)$", line)
        if match:
            depends[match[1]] = match[2].split()
    by_name = {pathlib.Path(f).name.split(".")[0].replace("-", "_"): f for f in depends}
    builtin = {pathlib.Path(f).name.split(".")[0].replace("-", "_")
               for f in (kernel.modules / "modules.builtin").read_text().split()}
    order = []

    def add(path):
        for dependency in depends[path]:
            add(dependency)
        if path not in order:
            order.append(path)

    for name in names:
        if name in by_name:
            add(by_name[name])
        elif name not in builtin:
            raise LabError(f"kernel {kernel.release} has no module {name}")
    return order
