# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""QEMU's monitor protocol, on the lab's own socket of a VM (shuntd has another)."""
import json
import socket
import time

from .paths import LabError


class QmpError(LabError):
    """QEMU refused a command."""


class Qmp:
    """A connection to one VM's monitor."""

    def __init__(self, path, timeout=30):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        try:
            self.sock.connect(str(path))
        except OSError as error:
            raise LabError(f"the VM does not run ({error})") from None
        self.file = self.sock.makefile("rwb")
        self.events = []
        self._read()
        self.execute("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Let the socket go, for the next command."""
        self.file.close()
        self.sock.close()

    def _read(self):
        try:
            line = self.file.readline()
        except TimeoutError:
            raise LabError("QEMU's monitor does not answer (is somebody else connected to it?)") from None
        except ConnectionError:
            line = b""
        if not line:
            raise LabError("QEMU closed its monitor")
        return json.loads(line)

    def execute(self, command, **arguments):
        """Run @command; what it returns."""
        return self.raw({"execute": command, "arguments": arguments} if arguments else {"execute": command})

    def raw(self, message):
        """Send one message as it is; what it returns. Events that come meanwhile are kept in self.events."""
        try:
            self.file.write(json.dumps(message).encode() + b"\n")
            self.file.flush()
        except (BrokenPipeError, ConnectionError):
            raise LabError("QEMU closed its monitor") from None
        while True:
            answer = self._read()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(f"{message.get('execute')}: {answer['error']['desc']}")
            elif "return" in answer:
                return answer["return"]

    def wait_event(self, *names, timeout=30):
        """The next event with one of @names, also of those that came already."""
        deadline = time.monotonic() + timeout
        while True:
            for i, event in enumerate(self.events):
                if event["event"] in names:
                    return self.events.pop(i)
            self.sock.settimeout(max(0.01, deadline - time.monotonic()))
            message = self._read()
            if "event" in message:
                self.events.append(message)
