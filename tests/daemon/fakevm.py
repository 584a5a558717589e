# SPDX-License-Identifier: GPL-2.0-only
"""A stand-in for a VM: one process that is QEMU (QMP server, ivshmem client) and guest (mailbox).

The process is a child, driven by FakeVM over a socket pair: JSON lines both ways. It keeps the
descriptors it was given, as QEMU does, so that a restarted shuntd can take them back.
"""
import ctypes
import fcntl
import json
import mmap
import os
import random
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time

EVENT_TIMEOUT = 10.0

# include/shunt/abi/msg.h
HELLO, ROSTER_ACK, WANT, LINK_STATE, BYE, STATS = range(1, 7)
WELCOME, ROSTER, LINK_OPEN, LINK_CLOSE, STATS_GET, REFUSE = range(65, 71)
R_PEER_CLOSED, R_PEER_DEAD, R_DETACHED, R_UNLOAD, R_DEVICE_GONE, R_POLICY, R_BROKEN_INDEX = range(1, 8)
R_BAR, R_VERSION, R_HOST_POLICY, R_NO_MODULE = 15, 11, 20, 14
R_DOORBELLS = 17
DOWN, OPENING, UP, STALLED, CLOSING, CLOSED, BROKEN = range(7)
ROSTER_RESET, ROSTER_ADD, ROSTER_DEL, ROSTER_SYNC = range(1, 5)

MAILBOX_RING = 16384
MAILBOX_HEAD = 4096


def abi_offsets():
    """Where fields are, from the golden layout: "struct NAME.FIELD at OFFSET size BYTES"."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../abi/layout.golden")
    with open(path, encoding="utf-8") as golden:
        words = [line.split() for line in golden if " at " in line]
    return {w[1]: int(w[3]) for w in words if w[0] == "struct"}


AT = abi_offsets()


def text(raw):
    return raw.split(b"\0", 1)[0].decode()


class Ring:
    """One direction of a mailbox, seen from the guest. Always wakes, so it needs no event checks."""

    def __init__(self, mem, ctl, data):
        self.mem, self.data = mem, data
        self.prod = ctypes.c_uint64.from_buffer(mem, ctl + AT["shunt_abi_ring.prod"])
        self.cons = ctypes.c_uint64.from_buffer(mem, ctl + AT["shunt_abi_ring.cons"])
        self.data_event = ctypes.c_uint64.from_buffer(mem, ctl + AT["shunt_abi_ring.data_event"])

    def put(self, payload):
        prod, size = self.prod.value, MAILBOX_RING
        need = (16 + len(payload) + 15) & ~15
        pos = prod & (size - 1)
        skip = size - pos if pos + need > size else 0
        if prod + skip + need - self.cons.value > size:
            return False
        if skip:
            struct.pack_into("<IHHQ", self.mem, self.data + pos, skip - 16, 2, 0, 0)
            pos = 0
        struct.pack_into("<IHHQ", self.mem, self.data + pos, len(payload), 1, 0, 0)
        self.mem[self.data + pos + 16:self.data + pos + 16 + len(payload)] = payload
        self.prod.value = prod + skip + need
        return True

    def take(self):
        cons, size = self.cons.value, MAILBOX_RING
        while cons != self.prod.value:
            pos = cons & (size - 1)
            length, kind, _, _ = struct.unpack_from("<IHHQ", self.mem, self.data + pos)
            payload = bytes(self.mem[self.data + pos + 16:self.data + pos + 16 + length])
            cons += (16 + length + 15) & ~15
            self.cons.value = cons
            if kind == 1:
                return payload
        return None

    def arm(self):
        """Wake me past what I have; True: nothing came meanwhile."""
        self.data_event.value = self.cons.value
        return self.cons.value == self.prod.value


def become(uid, path):
    """Give the socket to a user nobody else may connect as, and become that user."""
    os.chown(path, uid, uid)
    os.chmod(path, 0o600)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def open_tap(name):
    """Make a tap, or attach to it, as QEMU does."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x5002))   # TUNSETIFF: tap, no_pi, vnet_hdr
    return fd


class Device:
    """What QEMU holds of one ivshmem device."""

    def __init__(self, sock):
        self.sock = sock
        self.memfd = None
        self.own = None
        self.eventfds = {}

    def greeting(self, version=None):
        version = self.message() if version is None else (version, None)
        own, minus = self.message(), self.message()
        assert version[0] == 0 and version[1] is None, version
        assert minus[0] == -1 and minus[1] is not None, minus
        self.own, self.memfd = own[0], minus[1]

    def rest(self, vectors):
        """Everything announced at connect: nothing may block here."""
        self.sock.setblocking(False)
        while True:
            try:
                member, fd = self.message()
            except BlockingIOError:
                break
            self.eventfds.setdefault(member, []).append(fd)
        assert self.own in self.eventfds and 0 in self.eventfds, self.eventfds
        assert all(len(v) == vectors for v in self.eventfds.values()), self.eventfds

    def all(self, vectors):
        """As a QEMU reads that was started with the device: it waits, and the memory says how many members."""
        self.mem = mmap.mmap(self.memfd, os.fstat(self.memfd).st_size)
        members, = struct.unpack_from("<I", self.mem, AT["shunt_abi_segment.members"])
        for _ in range(members * vectors):
            member, fd = self.message()
            self.eventfds.setdefault(member, []).append(fd)
        assert all(len(self.eventfds[m]) == vectors for m in range(members)), self.eventfds

    def message(self):
        data, fds, _, _ = socket.recv_fds(self.sock, 8, 1)
        assert len(data) == 8, "shuntd closed the greeting"
        return struct.unpack("<q", data)[0], fds[0] if fds else None

    def ring(self, member, vector=0):
        os.eventfd_write(self.eventfds[member][vector], 1)


class Child:
    """The process. Options: see FakeVM."""

    def __init__(self, control, opts):
        self.control, self.opts = control, opts
        self.sel = selectors.DefaultSelector()
        self.qmp = None
        self.chardevs, self.devices = {}, {}
        self.inert = []
        self.held = None
        self.uplink = None
        self.seq = 0
        self.stats = {}
        self.peers = {}         # segment: the peer's member id
        self.auto = opts.get("auto", True)
        self.taps = [open_tap(name) for name in opts.get("taps", [])]
        self.sel.register(control, selectors.EVENT_READ, self.on_control)
        self.buffers = {}
        if opts.get("member"):
            self.join(opts["member"])
        else:
            self.listen(opts)

    def listen(self, opts):
        self.listener = socket.socket(socket.AF_UNIX)
        if os.path.exists(opts["qmp"]):
            os.unlink(opts["qmp"])
        self.listener.bind(opts["qmp"])
        if "uid" in opts:
            become(opts["uid"], opts["qmp"])
        self.listener.listen(1)     # from here on the kernel says whose it is
        self.sel.register(self.listener, selectors.EVENT_READ, self.on_connect)

    def join(self, path):
        """Connect to the socket of a group's member."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        d = Device(sock)
        version, _ = d.message()
        if version:
            self.say(event="refused", version=version)
            return
        d.greeting(version)
        d.all(2)
        self.devices["group"] = d
        self.take_uplink(d)
        self.say(event="joined", member=d.own, members=len(d.eventfds))

    def run(self):
        while True:
            for key, _ in self.sel.select():
                key.data(key.fileobj)

    def say(self, **event):
        self.control.sendall(json.dumps(event).encode() + b"\n")

    def lines(self, sock):
        data = sock.recv(1 << 16)
        if not data:
            return None
        buf = self.buffers.get(sock, b"") + data
        *whole, self.buffers[sock] = buf.split(b"\n")
        return [json.loads(line) for line in whole if line.strip()]

    # --- QMP ---

    def on_connect(self, listener):
        if self.qmp or self.opts.get("busy"):
            return self.sel.unregister(listener)   # accepted by the kernel, never greeted
        self.qmp, _ = listener.accept()
        self.sel.register(self.qmp, selectors.EVENT_READ, self.on_qmp)
        self.send({"QMP": {"version": {}, "capabilities": []}})
        return None

    def send(self, obj):
        try:
            if self.qmp:
                self.qmp.sendall(json.dumps(obj).encode() + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass    # on_qmp notices

    def on_qmp(self, sock):
        try:
            data, fds, _, _ = socket.recv_fds(sock, 1 << 16, 32)
        except ConnectionResetError:    # shuntd was killed with an answer unread
            data, fds = b"", []
        self.inert += fds
        if not data:
            self.sel.unregister(sock)
            sock.close()
            self.qmp = None
            self.buffers.pop(sock, None)
            try:
                self.sel.register(self.listener, selectors.EVENT_READ, self.on_connect)
            except KeyError:
                pass
            return
        buf = self.buffers.get(sock, b"") + data
        *whole, self.buffers[sock] = buf.split(b"\n")
        for line in whole:
            req = json.loads(line)
            name = req["execute"].replace("-", "_")
            try:
                result = getattr(self, "qmp_" + name)(**req.get("arguments", {}))
                self.send({"return": result, "id": req["id"]})
            except QmpError as e:
                self.send({"error": {"class": "GenericError", "desc": str(e)}, "id": req["id"]})
            except NoAnswer:
                pass

    def qmp_qmp_capabilities(self):
        return {}

    def qmp_query_name(self):
        return {"name": self.opts["name"]} if self.opts.get("name") else {}

    def qmp_query_status(self):
        return {"running": True, "status": "running"}

    def qmp_query_kvm(self):
        return {"enabled": False, "present": True}

    def qmp_query_hotpluggable_cpus(self):
        return [{"type": "x", "vcpus-count": 1, "props": {}}] * self.opts.get("cpus", 2)

    def qmp_qom_get(self, path, property):
        if path == "/machine":
            return "pc-q35-7.2-machine" if "ports" in self.opts else "pc-i440fx-7.2-machine"
        macs = self.opts.get("macs", [])
        index = path.rsplit("nic", 1)
        if len(index) == 2 and int(index[1]) < len(macs):
            return macs[int(index[1])]
        raise QmpError("Property 'x.mac' not found")

    def qmp_qom_list_types(self, implements):
        return [] if self.opts.get("no_ivshmem") else [{"name": implements}]

    def qmp_query_chardev(self):
        return [{"label": c, "filename": "x"} for c in self.chardevs]

    def qmp_qom_list(self, path):
        if path.endswith("-anon"):
            return [{"name": f"nic{i}", "type": "child<virtio-net-pci>"}
                    for i in range(len(self.opts.get("macs", [])))]
        return [{"name": "type", "type": "string"}] + \
            [{"name": d, "type": "child<ivshmem-doorbell>"} for d in self.devices]

    def qmp_query_pci(self):
        devices = [{"bus": 0, "slot": 3 + i, "function": 0, "qdev_id": d}
                   for i, d in enumerate(self.devices)]
        for i, (port, room) in enumerate(self.opts.get("ports", {}).items()):
            devices.append({"bus": 0, "slot": 20 + i, "function": 0, "qdev_id": port, "pci_bridge": {
                "bus": {"prefetchable_range": {"base": 1 << 32, "limit": (1 << 32) + room - 1}},
                "devices": []}})
        return [{"bus": 0, "devices": devices}]

    def qmp_getfd(self, fdname):
        return {}

    def qmp_chardev_add(self, id, backend):
        path = backend["data"]["addr"]["data"]["path"]
        self.chardevs[id] = None
        if self.opts.get("hold"):
            self.held = (id, path)
            self.say(event="held", path=path)
        else:
            self.connect(id, path)
        return {}

    def connect(self, id, path):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        self.chardevs[id] = Device(sock)

    def qmp_chardev_remove(self, id):
        self.chardevs.pop(id, None)
        return {}

    def qmp_device_add(self, driver, id, chardev, vectors, bus=None):
        assert driver == "ivshmem-doorbell"
        if self.opts.pop("mute", None):
            raise NoAnswer
        if self.opts.get("no_slot"):
            raise QmpError("PCI: no slot/function available for ivshmem-doorbell, all in use or reserved")
        d = self.chardevs[chardev]
        d.sock.setblocking(False)      # as the rule has it: the whole greeting is there already
        d.greeting()
        d.rest(vectors)
        self.devices[id] = d
        d.mem = mmap.mmap(d.memfd, os.fstat(d.memfd).st_size)
        d.sock.setblocking(True)
        if id.startswith("shunt-up-"):
            self.take_uplink(d)
        self.say(event="plugged", id=id, vectors=vectors, bus=bus, members=sorted(d.eventfds))
        return {}

    def qmp_device_del(self, id):
        self.remove(id)
        return {}

    def remove(self, id):
        self.devices.pop(id)
        self.send({"event": "DEVICE_DELETED", "data": {"device": id, "path": "/x"}, "timestamp": {}})

    # --- guest ---

    def take_uplink(self, d):
        self.uplink = d
        box, = struct.unpack_from("<I", d.mem, AT["shunt_abi_segment.mailbox_off"])
        box += (d.own - 1) * (MAILBOX_HEAD + 2 * MAILBOX_RING)
        self.up = Ring(d.mem, box, box + MAILBOX_HEAD)
        self.down = Ring(d.mem, box + 256, box + MAILBOX_HEAD + MAILBOX_RING)
        self.sel.register(d.eventfds[d.own][0], selectors.EVENT_READ, self.on_bell)

    def on_bell(self, fd):
        os.eventfd_read(fd)
        self.receive()

    def receive(self):
        while True:
            while (m := self.down.take()) is not None:
                self.uplink.ring(0)
                self.on_message(m)
            if self.down.arm():
                return

    def post(self, kind, body):
        self.seq += 1
        if not self.up.put(struct.pack("<HHI", kind, 0, self.seq) + body):
            self.say(event="full")
            return
        self.uplink.ring(0)

    def on_message(self, m):
        kind, _, _ = struct.unpack_from("<HHI", m)
        if kind == WELCOME:
            version, _, vm_id, _, gen, name, label, host, nics = struct.unpack_from("<HHIQQ64s64s64sI", m, 8)
            self.say(event="welcome", version=version, vm_id=vm_id, generation=gen, name=text(name),
                     label=text(label), host=text(host), nics=nics)
        elif kind == ROSTER:
            rgen, op, vm_id, gen, _, nics, why, name, label = struct.unpack_from("<QIIQQII64s64s", m, 8)
            self.say(event="roster", roster_gen=rgen, op=op, vm_id=vm_id, generation=gen, nics=nics,
                     name=text(name), label=text(label), reason=why,
                     macs=[m[176 + 8 * i:182 + 8 * i].hex(":") for i in range(nics)])
            if op == ROSTER_SYNC and self.auto:
                self.post(ROSTER_ACK, struct.pack("<Q", rgen))
        elif kind == LINK_OPEN:
            seg, epoch, vm_id, pgen, bdf, own, peer, channels, ends = struct.unpack_from("<QIIQIHHII", m, 8)
            self.peers[seg] = peer
            self.say(event="open", segment=seg, epoch=epoch, vm_id=vm_id, generation=pgen, bdf=bdf,
                     own=own, peer=peer, channels=channels, ends=ends)
            if self.auto:
                self.stats.setdefault(seg, 0)
                self.link(seg, epoch, UP, 0, peer)
        elif kind == LINK_CLOSE:
            seg, epoch, reason, peer = struct.unpack_from("<QIII", m, 8)
            self.say(event="close", segment=seg, epoch=epoch, reason=reason, peer=peer)
            if self.auto:
                self.link(seg, epoch, CLOSED, reason, peer)
        elif kind == STATS_GET:
            self.say(event="stats_get")
            for segment, tx_bytes in self.stats.items():
                self.do_stats(segment, tx_bytes)
        elif kind == REFUSE:
            self.say(event="refuse", reason=struct.unpack_from("<I", m, 8)[0])

    def link(self, seg, epoch, state, reason, peer=None):
        peer = self.peers.get(seg, 0) if peer is None else peer
        self.post(LINK_STATE, struct.pack("<QIIII", seg, epoch, state, reason, peer))

    # --- commands of the test ---

    def on_control(self, sock):
        lines = self.lines(sock)
        if lines is None:
            os._exit(0)
        for c in lines:
            getattr(self, "do_" + c.pop("do"))(**c)
            self.say(event="done")

    def do_hello(self, generation, lo=1, hi=1):
        self.post(HELLO, struct.pack("<HHIQQ64s64s64s", lo, hi, 0, 0, generation, b"6.1.0-fake", b"0.0-fake",
                                     b""))

    def do_bye(self, reason):
        self.post(BYE, struct.pack("<II", reason, 0))

    def do_want(self, vm_id):
        self.post(WANT, struct.pack("<II", vm_id, 100))

    def do_link(self, segment, epoch, state, reason, peer=None):
        self.link(segment, epoch, state, reason, peer)

    def do_stats(self, segment, tx_bytes):
        self.stats[segment] = tx_bytes
        self.post(STATS, struct.pack("<QIIQQ", segment, 0, self.peers.get(segment, 0), 7, tx_bytes) + bytes(112))

    def do_raw(self, data):
        self.up.put(bytes.fromhex(data))
        self.uplink.ring(0)

    def do_scribble(self, prod):
        self.up.prod.value = prod
        self.uplink.ring(0)

    def do_scribble_all(self, seed, n):
        rng = random.Random(seed)
        size = len(self.uplink.mem)
        for _ in range(n):
            at = rng.choice([rng.randrange(4096), 4096 + rng.randrange(512), rng.randrange(size - 64)])
            self.uplink.mem[at:at + 16] = rng.randbytes(16)
            self.uplink.ring(0)

    def do_bells(self, n):
        for _ in range(n):
            self.uplink.ring(0)

    def do_flood(self, n, kind):
        for _ in range(n):
            end = time.monotonic() + 3
            while not self.up.put(struct.pack("<HHI", kind, 0, 0) + bytes(216)):
                if time.monotonic() > end:
                    return      # nobody listens any more
                time.sleep(0.001)
            self.uplink.ring(0)

    def do_connect_held(self):
        self.connect(*self.held)

    def do_connect_twice(self):
        """Both at once, before shuntd looks: only one may be served."""
        name, path = self.held
        first, second = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        first.connect(path)
        self.chardevs[name] = Device(first)
        second.settimeout(5)
        try:
            second.connect(path)
            data = second.recv(8)
        except (ConnectionResetError, ConnectionRefusedError, FileNotFoundError, BrokenPipeError):
            data = b""      # shuntd was quicker
        self.say(event="second", data=data.hex())

    def do_event(self, name):
        self.send({"event": name, "data": {}, "timestamp": {}})

    def do_device_del(self, id):
        self.remove(id)

    def do_auto(self, on):
        self.auto = on

    def do_open_tap(self, name):
        self.taps.append(open_tap(name))

    def do_opt(self, key, value):
        self.opts[key] = value

    def do_devices(self):
        self.say(event="devices", ids=sorted(self.devices), chardevs=sorted(self.chardevs),
                 inert=len(self.inert))

    def do_poke(self, id, offset, data):
        raw = bytes.fromhex(data)
        self.devices[id].mem[offset:offset + len(raw)] = raw

    def do_peek(self, id, offset, length):
        self.say(event="peek", data=bytes(self.devices[id].mem[offset:offset + length]).hex())


class QmpError(Exception):
    pass


class NoAnswer(Exception):
    pass


class Failure(AssertionError):
    pass


class FakeVM:
    """A VM as the test sees it.

    Options: name, qmp (socket path), macs, busy (never greets), no_ivshmem, no_slot, ports ({id: room}:
    a q35 with these root ports), hold (chardev-add does not connect until connect_held), auto (answers
    LINK_OPEN, LINK_CLOSE and the roster as a healthy guest does; default true), taps (names of taps it holds),
    uid (whose process it is),
    member (no QMP: the socket of a group's member that it connects to).
    """

    def __init__(self, **opts):
        ours, theirs = socket.socketpair()
        self.opts = opts
        self.proc = subprocess.Popen([sys.executable, __file__, json.dumps(opts)], stdin=theirs)
        theirs.close()
        self.pid = self.proc.pid
        self.sock = ours
        self.buf = b""
        self.queue = []
        self.wait("ready")

    def do(self, what, **args):
        self.sock.sendall(json.dumps(dict(args, do=what)).encode() + b"\n")
        self.wait("done")

    def wait(self, event, timeout=EVENT_TIMEOUT, **match):
        """The first event of this kind with these fields; others of other kinds stay queued."""
        end = time.monotonic() + timeout
        while True:
            for i, e in enumerate(self.queue):
                if e["event"] == event and all(e[k] == v for k, v in match.items()):
                    return self.queue.pop(i)
            left = end - time.monotonic()
            if left <= 0:
                raise Failure(f"{self.opts['name']}: no event {event} {match}; have {self.queue}")
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(1 << 16)
            except TimeoutError:
                continue
            if not data:
                raise Failure(f"{self.opts['name']}: process ended")
            *lines, self.buf = (self.buf + data).split(b"\n")
            self.queue += [json.loads(line) for line in lines]

    def forget(self):
        self.queue.clear()

    def kill(self):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGKILL)
        self.proc.wait()
        self.sock.close()


def main():
    control = socket.socket(fileno=os.dup(0))
    child = Child(control, json.loads(sys.argv[1]))
    child.say(event="ready")
    child.run()


if __name__ == "__main__":
    main()
