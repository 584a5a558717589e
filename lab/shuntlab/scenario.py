# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
What a scenario (lab/scenarios/*.py) is written with; tests/run boots its lab and runs each test in its own process.

    '''What this file proves.'''
    from shuntlab.scenario import expect, wait_until

    SETUP = {"vms": 2}                  # options of `shunt-lab up`; tests with the same set-up share one boot
                                        # or SETUPS = {NAME: {...}, ...}: every test of the file runs in each of them

    def test_ping(lab):
        '''A guest reaches the other.'''
        lab.vm1.sh("ping -c 1 vm2")

A test passes if it returns, and the kernel logs of all guests are clean afterwards. A test leaves the lab as it found
it, or says @damages: then the next one gets a fresh boot (as after any failure).
"""
import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import threading
import time

from . import agent, daemon, host, lab as labs, state, vm as vms
from .paths import LAB, TOP, LabError
from .qmp import Qmp

__all__ = ["Background", "Failed", "Host", "Lab", "Result", "Skip", "Vm", "allows", "damages", "expect", "expect_equal",
           "limit", "others", "soak", "wait_until"]


class Failed(AssertionError):
    """An expectation that did not hold."""


class Skip(Exception):
    """The test cannot run here; its reason. Only tests in tests/allowed-skips may."""


def limit(seconds):
    """The test's time limit instead of the runner's."""
    def mark(test):
        test.limit = seconds
        return test
    return mark


def damages(test):
    """The lab is not fit for another test after this one."""
    test.damages = True
    return test


def allows(*patterns):
    """Regular expressions of kernel log lines that this test provokes and that are no fault."""
    def mark(test):
        test.allows = list(patterns)
        return test
    return mark


def soak(full, quick):
    """@full under `make soak`, else @quick."""
    return full if os.environ.get("SHUNT_SOAK") else quick


def others(name):
    """The module of another scenario file, for one that runs its tests in another set-up."""
    spec = importlib.util.spec_from_file_location(name, LAB / "scenarios" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expect(condition, message):
    """Fail with @message unless @condition."""
    if not condition:
        raise Failed(message)


def expect_equal(got, wanted, what):
    """Fail unless equal, showing both."""
    expect(got == wanted, f"{what}: got {got!r}, wanted {wanted!r}")


def wait_until(condition, timeout, what, every=0.05):
    """Wait for what has no event of its own; returns the condition's first true value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed(f"after {timeout} s still not: {what}")
        time.sleep(every)


@dataclasses.dataclass
class Result:
    """How a command ended."""
    status: int
    out: str
    err: str

    @property
    def ok(self):
        """Did it succeed?"""
        return self.status == 0


class Background:
    """A command running in a guest while the test goes on; it dies with the test."""

    def __init__(self, vm, command, timeout):
        self.vm = vm
        self.command = command
        self.status = None
        self._session = None
        self._out = {agent.R_STDOUT: bytearray(), agent.R_STDERR: bytearray()}
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(timeout,), daemon=True)
        self._thread.start()

    def _run(self, timeout):
        try:
            status = agent.execute(self.vm.directory, ["sh", "-c", self.command], on_output=self._output,
                                   timeout=timeout, on_start=self._start)
        except (LabError, TimeoutError) as error:
            self._output(agent.R_STDERR, f"[{error}]".encode())
            status = 255
        with self._changed:
            self.status = status
            self._changed.notify_all()

    def _start(self, session):
        with self._changed:
            self._session = session
            self._changed.notify_all()

    def _output(self, kind, data):
        with self._changed:
            self._out[kind] += data
            self._changed.notify_all()

    @property
    def out(self):
        """Standard output so far."""
        return self._out[agent.R_STDOUT].decode(errors="replace")

    @property
    def err(self):
        """Standard error so far."""
        return self._out[agent.R_STDERR].decode(errors="replace")

    @property
    def running(self):
        """Has it not ended yet?"""
        return self.status is None

    def wait_output(self, pattern, timeout=30):
        """Wait until its output (either stream) matches; the match."""
        def matched():
            return re.search(pattern, self.out + self.err)
        with self._changed:
            self._changed.wait_for(lambda: matched() or self.status is not None, timeout)
            found = matched()
        expect(found, f"{self.vm.name}: `{self.command}` did not say {pattern!r}; it said: {self.out}{self.err}")
        return found

    def wait(self, timeout=60, check=True):
        """Wait for its end."""
        with self._changed:
            ended = self._changed.wait_for(lambda: self.status is not None, timeout)
        expect(ended, f"{self.vm.name}: `{self.command}` still runs after {timeout} s; so far: {self.out}{self.err}")
        expect(not check or self.status == 0,
               f"{self.vm.name}: `{self.command}`: status {self.status}: {self.out}{self.err}")
        return Result(self.status, self.out, self.err)

    def stop(self, number=signal.SIGINT, timeout=30):
        """Send its process group a signal and wait for its end; how it ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._session or self.status is not None, timeout)
            if self.status is None:
                self._session.signal(number)
        return self.wait(timeout, check=False)


class Vm:
    """A guest."""

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.directory = str(vms.directory(name))

    @property
    def record(self):
        """What the lab recorded of it: ip, ip6, mac, host..."""
        return state.load()["vms"][self.name]

    def __getattr__(self, key):
        if key in ("ip", "ip6", "mac", "host"):
            return self.record[key]
        raise AttributeError(key)

    def run(self, command, timeout=60, stdin=b""):
        """Run a shell command (or a list of words); its Result. It is killed at the time limit: status 124."""
        argv = ["sh", "-c", command] if isinstance(command, str) else [str(word) for word in command]
        status, out, err = agent.capture(self.directory, argv, timeout=timeout, stdin=stdin)
        return Result(status, out.decode(errors="replace"), err.decode(errors="replace"))

    def sh(self, command, timeout=60, stdin=b""):
        """As run(), but it must succeed; its standard output."""
        result = self.run(command, timeout, stdin)
        expect(result.ok, f"{self.name}: `{command}`: status {result.status}: {result.out}{result.err}")
        return result.out

    def bg(self, command, timeout=600):
        """Start a shell command; a Background."""
        return Background(self, command, timeout)

    def serve(self, command, port, udp=False, timeout=600):
        """Start a server and wait until its port is open."""
        background = self.bg(command, timeout)
        kind = "u" if udp else "t"
        wait_until(lambda: self.run(f"ss -Hln{kind} sport = :{port} | grep -q .").ok or not background.running, 30,
                   f"{self.name}: port {port} of `{command}` is open")
        expect(background.running, f"{self.name}: `{command}` ended: {background.out}{background.err}")
        return background

    def put(self, source, destination):
        """Copy a file in."""
        labs.put(self.name, str(source), destination)

    def get(self, source, destination):
        """Copy a file out."""
        labs.get(self.name, source, str(destination))

    def shunt(self, *args):
        """Run the shunt command in the guest; its output."""
        return self.sh(["shunt", *args])

    def qmp(self, command, **arguments):
        """Run a monitor command."""
        with Qmp(vms.directory(self.name) / "qmp") as monitor:
            return monitor.execute(command, **arguments)

    def pause(self):
        """QMP stop."""
        self.qmp("stop")

    def cont(self):
        """QMP cont."""
        self.qmp("cont")

    def kill(self):
        """kill -9 of its QEMU."""
        labs.kill(self.name)

    def start(self):
        """Boot it again after kill()."""
        labs.start(self.name)

    def reboot(self):
        """The guest reboots itself, at once and without shutting down; back when it is ready again."""
        before = self.sh("cat /proc/sys/kernel/random/boot_id")
        self.sh("setsid sh -c 'sleep 0.2; reboot -f' >/dev/null 2>&1 &")
        wait_until(lambda: self._boot_id() not in (None, before), vms.BOOT_SECONDS, f"{self.name} rebooted")

    def _boot_id(self):
        try:
            return self.run("cat /proc/sys/kernel/random/boot_id", timeout=5).out or None
        except TimeoutError:
            return None

    def wait_ready(self, timeout=vms.BOOT_SECONDS):
        """Wait for the agent, after a reboot."""
        vms.wait_ready(self.name, self.record, timeout)

    def module(self, loaded):
        """Load or unload the guest's module."""
        if loaded:
            labs.load(state.load(), self.name)
        else:
            self.sh("rmmod shunt")


class Host:
    """A host of the lab."""

    def __init__(self, name):
        self.name = name
        self.dir = host.directory(name)

    @property
    def netns(self):
        """Its network namespace."""
        return state.load()["hosts"][self.name]["netns"]

    def run(self, command, timeout=60):
        """Run a shell command in its namespace; its Result."""
        done = subprocess.run(["ip", "netns", "exec", self.netns, "sh", "-c", command], cwd=TOP, text=True,
                              capture_output=True, timeout=timeout)
        return Result(done.returncode, done.stdout, done.stderr)

    def sh(self, command, timeout=60):
        """As run(), but it must succeed; its standard output."""
        result = self.run(command, timeout)
        expect(result.ok, f"{self.name}: `{command}`: status {result.status}: {result.out}{result.err}")
        return result.out

    def shunt(self, *args, check=True, timeout=60):
        """Run the shunt command against its daemon; its output (or with check=False its Result)."""
        done = daemon.control(self.name, state.load(), *args, check=check, timeout=timeout)
        return done.stdout if check else Result(done.returncode, done.stdout, done.stderr)

    def status(self, *args):
        """`shunt status --json`, parsed."""
        return json.loads(self.shunt("status", "--json", *args))

    def kill_daemon(self):
        """kill -9 of its shuntd."""
        labs.kill("shuntd", self.name)

    def start_daemon(self):
        """Start its shuntd."""
        labs.start("shuntd", self.name)

    @property
    def daemon_pid(self):
        """The pid of its shuntd, or None."""
        record = state.load()["hosts"][self.name]["shuntd"]
        return record["pid"] if state.alive(record) else None

    @property
    def log(self):
        """What its daemon has logged."""
        path = self.dir / "shuntd.log"
        return path.read_text(errors="replace") if path.exists() else ""


class Lab:
    """The lab that is up: lab.vm1, lab.host1..."""

    def __init__(self):
        known = state.load()
        self.vms = [Vm(self, name) for name in known["vms"]]
        self.hosts = [Host(name) for name in known["hosts"]]
        for member in self.vms + self.hosts:
            setattr(self, member.name, member)

    def shunt_on(self, *names):
        """Load the module and attach (all VMs when none is named)."""
        for name in names or [vm.name for vm in self.vms]:
            labs.shunt_on(name)

    def shunt_off(self, *names):
        """Detach and unload."""
        for name in names or [vm.name for vm in self.vms]:
            labs.shunt_off(name)
