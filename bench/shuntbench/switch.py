# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
The switch of the vhost-user rival: DPDK's testpmd, of Debian's package, with a vhost port per VM and frames handed
from one to the other as they are. It polls: one CPU of the host is its own, as with any such switch.

The package wants two hundred others; it is unpacked into the cache together with the libraries it needs, and the host's
packages stay as they are.
"""
import ctypes
import os
import re
import select
import shutil
import signal
import subprocess

from shuntlab.apt import Apt
from shuntlab.paths import LabError, cache
from shuntlab.progress import say
from shuntlab.state import locked

PACKAGE = "dpdk-dev"
PLUGINS = ["librte-net-vhost23", "librte-mempool-ring23"]
LIBRARY = re.compile(r"lib(?!c6$|gcc|stdc|dpdk-dev|crypt1$).*|ibverbs-providers")
START_SECONDS = 30
PR_SET_PDEATHSIG = 1


def fetch():
    """The directory testpmd is unpacked in; done at the first use."""
    root = cache("dpdk", "testpmd")
    if not root.exists():
        with locked(cache("dpdk", "lock")):
            if not root.exists():
                unpack(root)
    return root


def closure(apt):
    """The package, and every library it needs, by apt's graph of all that it could want."""
    text = apt.run("apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
                   "--no-breaks", "--no-replaces", "--no-enhances", PACKAGE, *PLUGINS)
    graph, current = {}, None
    for line in text.splitlines():
        if not line.startswith(" "):
            current = graph.setdefault(line.strip(), set())
        elif "Depends: " in line:
            current.add(line.split("Depends: ", 1)[1].strip())
    wanted, found = [PACKAGE, *PLUGINS], set()
    while wanted:
        name = wanted.pop()
        found.add(name)
        wanted += [d for d in graph.get(name, ()) if LIBRARY.fullmatch(d) and d not in found]
    return sorted(found)


def unpack(root):
    """Download and unpack them, as a user's own apt would."""
    say("fetching DPDK's testpmd and its libraries (once)")
    apt = Apt()
    with locked(cache("lock")):         # apt's lists are shared with what fetches kernels
        apt.update()
        packages = closure(apt)
        work = root.with_name(f"{root.name}.tmp{os.getpid()}")
        try:
            apt.unpack(packages, work)
            work.rename(root)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def die_with_parent():
    """In the child: a bench that is killed leaves no switch behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Testpmd:
    """A running switch between the sockets @paths, which it makes."""

    def __init__(self, paths, log):
        root = fetch()
        libraries = root / "usr/lib/x86_64-linux-gnu"
        plugins = [next(libraries.rglob(f"{name}.so.23*")) for name in ("librte_net_vhost", "librte_mempool_ring")]
        argv = [root / "usr/bin/dpdk-testpmd", "-l", "0,1", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry",
                "--no-shconf"]
        for plugin in plugins:
            argv += ["-d", plugin]
        for number, path in enumerate(paths):
            argv += ["--vdev", f"net_vhost{number},iface={path},queues=1"]
        argv += ["--", "--forward-mode=io", "--auto-start", "--total-num-mbufs=8192", "--stats-period=0",
                 "--no-lsc-interrupt"]
        self.log = log
        self.out = open(log, "wb")
        self.input, child_input = os.pipe()         # it ends when its input does: kept open, nothing is written
        self.proc = subprocess.Popen(argv, stdin=self.input, stdout=self.out, stderr=subprocess.STDOUT,
                                     preexec_fn=die_with_parent,
                                     env=os.environ | {"LD_LIBRARY_PATH": f"{libraries}:{root}/lib/x86_64-linux-gnu"})
        os.close(self.input)
        self.input = child_input
        try:
            self.wait(paths)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self):
        """Its process."""
        return self.proc.pid

    def wait(self, paths):
        """Until the sockets are there, or it has ended."""
        pidfd = os.pidfd_open(self.proc.pid)
        try:
            for _ in range(START_SECONDS * 20):
                if all(path.exists() for path in paths):
                    return
                if select.select([pidfd], [], [], 0.05)[0]:
                    break
        finally:
            os.close(pidfd)
        text = self.log.read_text(errors="replace")[-2000:]
        raise LabError(f"testpmd made no sockets in {START_SECONDS} s; it said:\n{text}")

    def pause(self, paused):
        """Stop it from polling, or let it go on."""
        self.proc.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

    def close(self):
        """End it."""
        self.proc.kill()
        self.proc.wait()
        os.close(self.input)
        self.out.close()
