# SPDX-License-Identifier: GPL-2.0-only
"""Runs the real shuntd and shunt; the daemon's log is the event stream tests wait on."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from fakevm import FakeVM, Failure

BUILD = os.environ.get("SHUNT_BUILD", "build")
SHUNTD = os.path.abspath(f"{BUILD}/daemon/shuntd")
SHUNT = os.path.abspath(f"{BUILD}/cli/shunt")
LOG_TIMEOUT = 10.0

# A leak check at exit traces its process from a clone of it, which the filter would not let pass.
SECCOMP = 'seccomp = "log";' if os.environ.get("SHUNT_SANITIZED") else ""


class Shuntd:
    prefix = ()     # a command that starts it with other privileges

    def __init__(self, work, config):
        self.work, self.rt = work, f"{work}/rt"
        self.conf = f"{work}/shuntd.conf"
        self.log = []
        self.seen = 0
        self.news = threading.Condition()
        os.makedirs(f"{self.rt}/vms.d", exist_ok=True)
        self.configure(config)
        self.proc = None
        self.start()

    def configure(self, config):
        with open(self.conf, "w") as f:
            f.write(f'runtime_dir = "{self.rt}";\nhost = "testhost";\nlog_level = "debug"; {SECCOMP}\n{config}\n')
            if "host_policy" not in config:
                f.write('host_policy = "ignore";\n')   # pretended VMs have no taps

    def start(self):
        self.proc = subprocess.Popen([*self.prefix, SHUNTD, "-c", self.conf], stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self.read_log, args=(self.proc,), daemon=True).start()
        self.wait_log(r"info: started ")

    def read_log(self, proc):
        for line in proc.stderr:
            with self.news:
                self.log.append(line.rstrip())
                self.news.notify_all()
        with self.news:
            self.log.append("(log ended)")
            self.news.notify_all()

    def wait_log(self, pattern, timeout=LOG_TIMEOUT):
        """The next line that matches, after the last one waited for."""
        end = time.monotonic() + timeout
        with self.news:
            while True:
                for i in range(self.seen, len(self.log)):
                    if re.search(pattern, self.log[i]):
                        self.seen = i + 1
                        return self.log[i]
                left = end - time.monotonic()
                if left <= 0 or not self.news.wait(left):
                    raise Failure(f"not in the log: {pattern}")

    def wait_any(self, pattern):
        """As wait_log, but anywhere in the log: for events whose order is not determined."""
        here, self.seen = self.seen, 0
        try:
            return self.wait_log(pattern)
        finally:
            self.seen = here

    def in_log(self, pattern):
        with self.news:
            return [line for line in self.log if re.search(pattern, line)]

    def kill9(self):
        self.proc.send_signal(signal.SIGKILL)
        self.proc.wait()

    def restart(self):
        self.kill9()
        self.start()

    def hup(self):
        self.proc.send_signal(signal.SIGHUP)

    def stop(self):
        """Orderly end; anything but status 0 (a sanitizer's report, say) is a failure."""
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        code = self.proc.wait(timeout=20)
        if code not in (0, -signal.SIGKILL):
            raise Failure(f"shuntd ended with {code}")

    def ask(self, cmd, **args):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(f"{self.rt}/shuntd.sock")
        s.sendall(json.dumps(dict(args, cmd=cmd)).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            chunk = s.recv(1 << 16)
            if not chunk:
                raise Failure("shuntd closed the control connection")
            data += chunk
        s.close()
        return json.loads(data)

    def result(self, cmd, **args):
        answer = self.ask(cmd, **args)
        if not answer["ok"]:
            raise Failure(f"{cmd}: {answer}")
        return answer["result"]

    def cpu(self):
        """Seconds of CPU time the daemon has used."""
        with open(f"/proc/{self.proc.pid}/stat", encoding="ascii") as stat:
            words = stat.read().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def vm(self, name):
        return next(v for v in self.result("status")["vms"] if v["name"] == name)

    def pair(self, a, b):
        return next(p for p in self.result("peers") if {p["a"], p["b"]} == {a, b})

    def end(self, a, b, of):
        return next(e for e in self.pair(a, b)["ends"] if e["vm"] == of)

    def cli(self, *args):
        p = subprocess.run([SHUNT, "--socket", f"{self.rt}/shuntd.sock", *args], capture_output=True,
                           text=True, timeout=30)
        return p.returncode, p.stdout, p.stderr


class World:
    """One test's surroundings; everything in it ends with the test."""

    def __init__(self, config='plug = "eager";'):
        self.work = tempfile.mkdtemp(prefix="shuntd-test-")
        self.vms = []
        self.d = Shuntd(self.work, config)
        self.gen = 100

    def vm(self, name, n=None, where="vms.d", **opts):
        n = n if n is not None else len(self.vms) + 1
        path = f"{self.d.rt}/vms.d/{name}.qmp" if where == "vms.d" else f"{self.work}/{name}.qmp"
        vm = FakeVM(name=name, qmp=path, macs=[f"52:54:00:00:00:{n:02x}"], **opts)
        vm.qmp = path
        self.vms.append(vm)
        return vm

    def member(self, name, group="g"):
        """A VM without QMP that connects to its member's socket."""
        vm = FakeVM(name=name, member=f"{self.d.rt}/groups/{group}/{name}.sock")
        self.vms.append(vm)
        return vm

    def joined(self, name, group="g"):
        """The same, let in and with its module loaded."""
        vm = self.member(name, group)
        vm.number = vm.wait("joined")["member"]
        self.hello(vm)
        return vm

    def hello(self, vm):
        """The guest's module starts; its uplink is plugged first."""
        self.gen += 1
        vm.generation = self.gen
        vm.do("hello", generation=self.gen)
        w = vm.wait("welcome", generation=self.gen)
        vm.id = w["vm_id"]
        return w

    def guest(self, name, **opts):
        vm = self.vm(name, **opts)
        vm.up_id = vm.wait("plugged", vectors=1)["id"]
        self.hello(vm)
        return vm

    def linked(self, a="a", b="b", **opts):
        va, vb = self.guest(a, **opts), self.guest(b, **opts)
        self.up(a, b)
        return va, vb

    def up(self, a, b):
        self.d.wait_log(rf"pair a=({a}|{b}) b=({a}|{b}) state=up")

    def up_any(self, a, b):
        self.d.wait_any(rf"pair a=({a}|{b}) b=({a}|{b}) state=up")

    def close(self):
        for vm in self.vms:
            vm.kill()
        try:
            self.d.stop()
        finally:
            shutil.rmtree(self.work)


def check(cond, what):
    if not cond:
        raise Failure(what)


def equal(got, want, what=""):
    if got != want:
        raise Failure(f"{what}: got {got!r}, want {want!r}")


def run(tests):
    only = sys.argv[1:]
    failed = 0
    for test in tests:
        if only and test.__name__ not in only:
            continue
        w = None
        try:
            w = test.world() if hasattr(test, "world") else World()
            test(w)
            w.close()
            print(f"ok {test.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {test.__name__}", flush=True)
            traceback.print_exc()
            if w:
                print("\n".join("  | " + line for line in w.d.log[-40:]), flush=True)
                try:
                    w.close()
                except Exception:
                    traceback.print_exc()
    sys.exit(1 if failed else 0)


def with_config(config):
    def deco(f):
        f.world = lambda: World(config)
        return f
    return deco
