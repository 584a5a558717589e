# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Run commands in a guest through its agent; lab/agent/agent.c has the protocol's description."""
import fcntl
import os
import selectors
import socket
import threading
import time

from .paths import LabError

PORTS = 8
FRAME_MAX = 16 * 1024
STDIN_WINDOW = 256 * 1024
MAGIC = b"\x7fSHUNTAGENT1\n\0\0\0"
HELLO, EXEC, RUN, STDIN, KILL = 1, 2, 3, 4, 5
R_HELLO, R_STDOUT, R_STDERR, R_EXIT, R_CREDIT, R_ERROR = 1, 2, 3, 4, 5, 6
TIMED_OUT = 124         # as timeout(1)
KILL_GRACE = 3.0        # seconds for the agent to report the end of a command that was told to die


class AgentGone(LabError):
    """The VM went away (or its agent did) while a command ran."""


def frame(kind, payload=b""):
    """One frame on the wire."""
    return bytes([kind]) + len(payload).to_bytes(3, "little") + payload


def request(argv, env):
    """The frames that start a command."""
    words = [str(len(argv))] + list(argv) + [f"{k}={v}" for k, v in env.items()]
    data = b"".join(os.fsencode(w) + b"\0" for w in words)
    parts = [frame(EXEC, data[i:i + FRAME_MAX]) for i in range(0, len(data), FRAME_MAX)]
    return b"".join(parts) + frame(RUN)


class Session:
    """One port of a VM's agent, held while this object lives."""

    def __init__(self, directory, deadline=None):
        self.sock = None
        self.lock = None
        self.received = bytearray()
        self.outgoing = bytearray()
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)     # signals are waiting
        self._signals = []
        self._guard = threading.Lock()      # of the two above: signal() and close() may meet
        self._take_port(directory, deadline)
        try:
            self._hello(deadline)
        except BaseException:
            self.close()
            raise

    def _take_port(self, directory, deadline):
        """Take a free port: the lock of its file says so. When all are taken, wait for the last."""
        for port in range(PORTS):
            path = os.path.join(directory, f"agent.{port}")
            self.lock = open(path + ".lock", "w", encoding="utf-8")
            try:
                blocking = port == PORTS - 1 and deadline is None
                fcntl.flock(self.lock, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
                break
            except BlockingIOError:
                self.lock.close()
        else:
            raise LabError("all agent ports of the VM are in use")
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.connect(path)
        except OSError as error:
            self.close()
            raise AgentGone(f"the VM does not run ({error})") from None

    def _hello(self, deadline):
        """Synchronise with the agent: zeros finish a frame cut off, then everything before our nonce is stale."""
        nonce = os.urandom(16)
        self.sock.settimeout(None if deadline is None else max(0.01, deadline - time.monotonic()))
        want = MAGIC + nonce
        try:
            self.sock.sendall(bytes(FRAME_MAX + 4) + frame(HELLO, nonce))
            while want not in self.received:
                data = self.sock.recv(65536)
                if not data:
                    raise AgentGone("the VM's QEMU closed the agent port")
                self.received += data
        except TimeoutError:
            raise TimeoutError("the VM's agent does not answer") from None
        except OSError as error:
            raise AgentGone(f"the agent port failed: {error}") from None
        del self.received[:self.received.index(want) + len(want)]
        self.sock.setblocking(False)

    def signal(self, number):
        """
        Send the command's process group a signal. Any thread may, at any time: it is sent behind what makes the
        agent start the command, and never within another frame.
        """
        with self._guard:
            if self.wake >= 0:              # else it has just ended
                self._signals.append(number)
                os.eventfd_write(self.wake, 1)

    def queue_signals(self):
        """Queue the frames of the signals asked for."""
        with self._guard:
            os.eventfd_read(self.wake)
            for number in self._signals:
                self.outgoing += frame(KILL, bytes([number]))
            self._signals.clear()

    def close(self):
        """Give the port back; a command that still runs is killed by the agent."""
        with self._guard:
            if self.wake >= 0:
                os.close(self.wake)
            self.wake = -1
        if self.sock:
            self.sock.close()
        if self.lock:
            self.lock.close()

    def frames(self):
        """The complete frames received so far."""
        while len(self.received) >= 4:
            length = int.from_bytes(self.received[1:4], "little")
            if len(self.received) < 4 + length:
                return
            kind, payload = self.received[0], bytes(self.received[4:4 + length])
            del self.received[:4 + length]
            yield kind, payload


class Command:
    """A command running in a guest: relays its streams until it ends."""

    def __init__(self, session, argv, env, stdin, on_output, deadline):
        self.session = session
        self.on_output = on_output
        self.deadline = deadline
        self.timed_out = False
        self.status = None
        self.credit = STDIN_WINDOW
        self.stdin = stdin
        self.stdin_done = False
        self.selector = selectors.PollSelector()
        session.outgoing += request(argv, env)

    def run(self):
        """Relay until the command ended; its exit status (124 when the time limit ended it)."""
        with self.selector:
            self.selector.register(self.session.sock, selectors.EVENT_READ)
            self.selector.register(self.session.wake, selectors.EVENT_READ)
            while self.status is None:
                self._feed()
                self._interest()
                for key, events in self.selector.select(self._remaining()):
                    self._ready(key.fileobj, events)
                self._check_deadline()
        return TIMED_OUT if self.timed_out else self.status

    def _remaining(self):
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def _check_deadline(self):
        if self.deadline is None or time.monotonic() < self.deadline:
            return
        if self.timed_out:              # told to die, and no answer
            self.status = TIMED_OUT
            return
        self.timed_out = True
        self.deadline = time.monotonic() + KILL_GRACE
        self.session.outgoing += frame(KILL)

    def _wants_stdin(self):
        return not self.stdin_done and self.credit >= FRAME_MAX and len(self.session.outgoing) < STDIN_WINDOW

    def _feed(self):
        """Input given as bytes is there at once; a descriptor is read when it is ready."""
        while isinstance(self.stdin, (bytes, memoryview)) and self._wants_stdin():
            self._send_stdin(bytes(self.stdin[:FRAME_MAX]))
            self.stdin = memoryview(self.stdin)[FRAME_MAX:]

    def _send_stdin(self, data):
        self.session.outgoing += frame(STDIN, data)
        self.credit -= len(data)
        if not data:
            self.stdin_done = True

    def _interest(self):
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.session.outgoing else 0)
        self.selector.modify(self.session.sock, events)
        if not isinstance(self.stdin, int):
            return
        registered = self.stdin in self.selector.get_map()
        if self._wants_stdin() and not registered:
            self.selector.register(self.stdin, selectors.EVENT_READ)
        elif registered and not self._wants_stdin():
            self.selector.unregister(self.stdin)

    def _ready(self, ready, events):
        if ready == self.session.wake:
            self.session.queue_signals()
            return
        if ready == self.stdin and isinstance(ready, int):
            self._send_stdin(os.read(ready, FRAME_MAX))
            return
        try:
            if events & selectors.EVENT_WRITE:
                sent = self.session.sock.send(self.session.outgoing[:65536])
                del self.session.outgoing[:sent]
            if events & selectors.EVENT_READ:
                data = self.session.sock.recv(262144)
                if not data:
                    raise AgentGone("the VM went away while the command ran")
                self.session.received += data
        except BlockingIOError:
            return
        except ConnectionError as error:
            raise AgentGone(f"the VM went away while the command ran ({error})") from None
        for kind, payload in self.session.frames():
            self._frame(kind, payload)

    def _frame(self, kind, payload):
        if kind in (R_STDOUT, R_STDERR):
            self.on_output(kind, payload)
        elif kind == R_CREDIT:
            self.credit += int.from_bytes(payload, "little")
        elif kind == R_EXIT:
            self.status = int.from_bytes(payload, "little")
        elif kind == R_ERROR:
            raise LabError(f"agent: {payload.decode(errors='replace')}")


def execute(directory, argv, *, stdin=b"", on_output, timeout=None, env=None, on_start=lambda session: None):
    """
    Run @argv in the guest whose agent sockets are in @directory. @stdin: bytes or a descriptor.
    @on_output(kind, bytes) gets R_STDOUT and R_STDERR pieces as they come. Returns the exit status.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    session = Session(directory, deadline)
    try:
        on_start(session)
        return Command(session, argv, env or {}, stdin, on_output, deadline).run()
    finally:
        session.close()


def capture(directory, argv, *, stdin=b"", timeout=None, env=None):
    """Run @argv and collect: (status, stdout, stderr)."""
    out = {R_STDOUT: bytearray(), R_STDERR: bytearray()}
    status = execute(directory, argv, stdin=stdin, timeout=timeout, env=env,
                     on_output=lambda kind, data: out[kind].extend(data))
    return status, bytes(out[R_STDOUT]), bytes(out[R_STDERR])
