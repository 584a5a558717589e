# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Debian packages from a private apt configuration: the host's own sources and lists stay untouched."""
import os
import re
import subprocess

from .paths import LabError, cache

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = os.environ.get("SHUNT_MIRROR", "http://deb.debian.org/debian")
SECURITY = os.environ.get("SHUNT_MIRROR_SECURITY", "http://deb.debian.org/debian-security")
SOURCES = [
    f"deb [signed-by={KEYRING}] {MIRROR} bookworm main",
    f"deb [signed-by={KEYRING}] {MIRROR} bookworm-updates main",
    f"deb [signed-by={KEYRING}] {SECURITY} bookworm-security main",
]
BACKPORTS = f"deb [signed-by={KEYRING}] {MIRROR} bookworm-backports main"


class Apt:
    """apt with its own sources, lists and cache below the lab's cache directory."""

    def __init__(self):
        self.dir = cache("apt", "x").parent
        for sub in ("lists/partial", "archives/partial", "parts", "state"):
            (self.dir / sub).mkdir(parents=True, exist_ok=True)
        (self.dir / "sources.list").write_text("\n".join(SOURCES + [BACKPORTS]) + "\n")
        (self.dir / "state" / "status").touch()

    def run(self, tool, *args, cwd=None):
        """Run apt-get or apt-cache; its standard output."""
        options = {
            "Dir::Etc::sourcelist": self.dir / "sources.list", "Dir::Etc::sourceparts": self.dir / "parts",
            "Dir::State": self.dir / "state", "Dir::State::lists": self.dir / "lists",
            "Dir::State::status": self.dir / "state" / "status",
            "Dir::Cache": self.dir, "Dir::Cache::archives": self.dir / "archives",
            "APT::Sandbox::User": "root", "Acquire::Languages": "none", "Acquire::Retries": "3",
            "APT::Architecture": "amd64",
        }
        argv = [tool, "-q"] + [f"-o{key}={value}" for key, value in options.items()] + list(args)
        done = subprocess.run(argv, cwd=cwd, text=True, capture_output=True)
        if done.returncode:
            raise LabError(f"{tool} {' '.join(args)} failed:\n{done.stderr.strip()}")
        return done.stdout

    def update(self):
        """Fetch the package lists."""
        self.run("apt-get", "update")

    def newest(self, pattern):
        """Name of the package matching the regular expression with the highest kernel version in its name."""
        names = [n for n in self.run("apt-cache", "pkgnames").split() if re.fullmatch(pattern, n)]
        if not names:
            raise LabError(f"no package matches {pattern}")
        return max(names, key=lambda n: [int(x) for x in re.findall(r"\d+", n)])

    def depends(self, package):
        """Names of the packages @package depends on directly."""
        text = self.run("apt-cache", "show", "--no-all-versions", package)
        line = next((x for x in text.splitlines() if x.startswith("Depends:")), "Depends:")
        return re.findall(r"(?:^|,)\s*([a-z0-9.+-]+)", line[len("Depends:"):])

    def unpack(self, packages, root):
        """Download @packages and unpack them below @root, without running their scripts."""
        debs = self.dir / "debs"
        debs.mkdir(exist_ok=True)
        self.run("apt-get", "download", *packages, cwd=debs)
        for package in packages:
            for deb in debs.glob(f"{package}_*.deb"):
                subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
                deb.unlink()
