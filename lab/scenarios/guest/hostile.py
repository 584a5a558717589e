# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
A hostile end of a pair segment, in user space: it maps the BAR of a device that its driver let go of, says READY
for the link that shuntd offers, and then breaks every rule. The attacks work on any mapping of the segment, so the
host's scenarios use them as well.
"""
import atexit
import ctypes
import mmap
import os
import random
import signal
import struct
import sys
import threading
import time

HEADER = struct.Struct("=QHHIQQQIIIIII")        # struct shunt_abi_segment up to mailbox_off
MEMBER_BYTES, LINE, RECORD = 128, 64, struct.Struct("=IHHQ")
PACKET = struct.Struct("=BBHHHH6x")
ABSENT, READY, CLOSING, CLOSED = range(4)
SEALED = 1 << 63


class Segment:
    """A mapped pair segment."""

    def __init__(self, memory):
        self.words = memoryview(memory).cast("Q")
        self.halves = memoryview(memory).cast("I")
        self.bytes = memoryview(memory)
        fields = HEADER.unpack_from(memory)
        self.size, self.epoch, self.members, self.member_off, self.channel_off = fields[6:11]
        channel = struct.unpack_from("=8x6Q", memory, self.channel_off)
        self.rings = [channel[0:3], channel[3:6]]   # control block, extent, its size: from lower id to higher, and back

    def word(self, offset, value=None):
        """Read or write eight bytes, in one access."""
        if value is not None:
            self.words[offset // 8] = value
        return self.words[offset // 8]

    def half(self, offset, value=None):
        """Likewise four."""
        if value is not None:
            self.halves[offset // 4] = value
        return self.halves[offset // 4]

    def close(self):
        """Let go of the mapping."""
        for view in (self.words, self.halves, self.bytes):
            view.release()

    def member(self, number):
        """Offset of a member's line."""
        return self.member_off + number * MEMBER_BYTES


class End:
    """One member's end, as its owner sees it."""

    def __init__(self, segment, own, peer):
        self.segment = segment
        self.own = segment.member(own)
        self.peer = segment.member(peer)
        self.tx, self.extent, self.extent_size = segment.rings[0 if own < peer else 1]
        self.rx = segment.rings[1 if own < peer else 0][0]
        self.ring = lambda: None        # the doorbell of the peer's channel, for who has one

    def record(self, payload, kind=1, flags=0, length=None):
        """Put a record into the ring, and publish it."""
        prod = self.segment.word(self.tx) & ~SEALED
        room = 16 + (len(payload) + 15 & ~15)
        at = prod & (self.extent_size - 1)
        if at + room > self.extent_size:
            raise SystemExit("the attack is longer than the ring")
        header = RECORD.pack(len(payload) if length is None else length, kind, flags, 0)
        self.segment.bytes[self.extent + at:self.extent + at + len(payload) + 16] = header + payload
        self.segment.word(self.tx, prod + room)
        self.ring()


# --- attacks: each takes the victim's peer's end ---

def write_all(end, seed):
    """Garbage over the whole segment, in pieces."""
    chance = random.Random(seed)
    size = len(end.segment.bytes)
    for offset in range(0, size, 1 << 20):
        end.segment.bytes[offset:offset + (1 << 20)] = chance.randbytes(1 << 20)


def write_control(end, seed):
    """Garbage words over header, members and ring control blocks, wherever chance has it."""
    chance = random.Random(seed)
    places = [*range(0, end.segment.channel_off, 8), *range(end.tx, end.tx + 256, 8), *range(end.rx, end.rx + 256, 8)]
    for _ in range(2000):
        end.segment.word(chance.choice(places), chance.choice((0, chance.getrandbits(64), chance.getrandbits(20))))


def add(end, offset, amount):
    """Move an index."""
    end.segment.word(offset, (end.segment.word(offset) + amount) & (1 << 64) - 1)


ATTACKS = {
    "prod-ahead": lambda end: add(end, end.tx, 1 << 40),
    "prod-back": lambda end: (end.record(bytes(64)), time.sleep(0.3), add(end, end.tx, -16)),
    "prod-odd": lambda end: add(end, end.tx, 8),
    "prod-sealed": lambda end: end.segment.word(end.tx, end.segment.word(end.tx) | SEALED),
    "cons-ahead": lambda end: add(end, end.rx + LINE, 1 << 40),
    "cons-back": lambda end: end.segment.word(end.rx + LINE, (1 << 64) - 16),
    "theirs-prod": lambda end: add(end, end.rx, 4096),
    "theirs-sealed": lambda end: end.segment.word(end.rx, end.segment.word(end.rx) | SEALED),
    "move": lambda end: ([end.segment.word(end.tx + 128 + 8 * i, v) for i, v in enumerate((9, 0, 4096, 1 << 62))],
                         end.record(bytes(64))),
    "record-type": lambda end: end.record(bytes(64), kind=77),
    "record-flags": lambda end: end.record(bytes(64), flags=1),
    "record-long": lambda end: end.record(bytes(64), length=0xfffffff0),
    "record-empty": lambda end: end.record(b""),
    "record-skip": lambda end: end.record(bytes(64), kind=2),
    "state-absent": lambda end: end.segment.half(end.own, ABSENT),
    "state-garbage": lambda end: end.segment.half(end.own, 0xdeadbeef),
    "epoch": lambda end: end.segment.half(end.own + 4, 0x7fffffff),
}


# --- in the guest ---

FREE_ADDRESS = 0xe0000000        # a guest of the lab has neither memory nor devices there


def map_page(path, offset):
    """The address of a mapped page; Python's own mmap refuses files smaller than that."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    with open(path, "r+b", buffering=0) as file:
        page = libc.mmap(None, ctypes.c_size_t(4096), 3, 1, file.fileno(), ctypes.c_long(offset))
    if page == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), f"cannot map {path}")
    return page


class Device:
    """An ivshmem device whose driver is unbound."""

    def __init__(self, address):
        base = f"/sys/bus/pci/devices/{address}"
        with open(f"{base}/resource", encoding="ascii") as file:
            starts = [int(line.split()[0], 16) for line in file.read().splitlines()[:3]]
        try:
            page = map_page(f"{base}/resource0", 0)
        except OSError:     # it shares its page with the uplink's, which a driver holds
            page = self.move(base)
            starts[0] = 0
        self.registers = (ctypes.c_uint32 * 64).from_address(page + (starts[0] & 4095))
        with open(f"{base}/resource2", "r+b", buffering=0) as file:
            self.memory = mmap.mmap(file.fileno(), 0)
        self.position = self.registers[2]

    @staticmethod
    def move(base):
        """Give BAR 0 a page of its own, until this program ends."""
        config = os.open(f"{base}/config", os.O_RDWR)
        old = os.pread(config, 4, 0x10)
        atexit.register(os.pwrite, config, old, 0x10)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        os.pwrite(config, struct.pack("=I", FREE_ADDRESS), 0x10)
        return map_page("/dev/mem", FREE_ADDRESS)

    def ring(self, member, vector):
        """A doorbell."""
        self.registers[3] = member << 16 | vector


def join(device):
    """Wait until the victim offers the link of this epoch, and say READY; our end."""
    deadline = time.monotonic() + 30
    while True:
        segment = Segment(device.memory)
        peer = 3 - device.position
        end = End(segment, device.position, peer)
        if segment.half(end.peer) == READY and segment.half(end.peer + 4) == segment.epoch:
            break
        if time.monotonic() > deadline:
            raise SystemExit("the victim is not READY")
        time.sleep(0.01)
    segment.half(end.own + 4, segment.epoch)
    segment.word(end.own + 8, random.getrandbits(64))
    segment.half(end.own, READY)
    device.ring(peer, 0)
    end.ring = lambda: device.ring(peer, 1)

    def live():
        while True:
            segment.word(end.own + 16, (segment.word(end.own + 16) + 1) & (1 << 64) - 1)
            time.sleep(0.05)
    threading.Thread(target=live, daemon=True).start()
    return end


def frame(target, source, kind, body):
    """An Ethernet frame in a packet record."""
    return PACKET.pack(0, 0, 0, 0, 0, 0) + bytes.fromhex(target.replace(":", "")) + \
        bytes.fromhex(source.replace(":", "")) + struct.pack("!H", kind) + body


def udp(source, target, text):
    """An IPv4 datagram to port 9999, without UDP checksum."""
    body = struct.pack("!HHHH", 9999, 9999, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, source, target)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xffff) + (total >> 16)
    return head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xffff) + head[12:] + body


def forge(end, device, words):
    """Frames that only the right addresses may carry; every one says which it is."""
    victim, own, foreign, source, target = words
    source, target = (bytes(map(int, address.split("."))) for address in (source, target))
    for name, to, by, kind in (("genuine", victim, own, 0x800), ("foreign-source", victim, foreign, 0x800),
                               ("victim-source", victim, victim, 0x800), ("foreign-target", foreign, own, 0x800),
                               ("broadcast", "ff:ff:ff:ff:ff:ff", own, 0x800), ("arp", victim, own, 0x806),
                               ("vlan", victim, own, 0x8100), ("genuine-last", victim, own, 0x800)):
        end.record(frame(to, by, kind, udp(source, target, name.encode())))
    device.ring(3 - device.position, 1)


def main():
    """hostile.py ADDRESS storm | forge ADDRESSES... | all SEED | control SEED | ATTACK"""
    device = Device(sys.argv[1])
    if sys.argv[2] == "storm":      # every doorbell there is, and many there are not
        for member in [*range(64), 255, 4096, 65535]:
            for vector in (0, 1, 2, 3, 255):
                device.ring(member, vector)
        print("rung", flush=True)
        return
    end = join(device)
    print("joined", flush=True)
    action, words = sys.argv[2], sys.argv[3:]
    time.sleep(0.5)         # the victim goes up; there is nothing to wait on from here but its traffic
    if action == "forge":
        forge(end, device, words)
    elif action == "all":
        write_all(end, int(words[0]))
    elif action == "control":
        write_control(end, int(words[0]))
    else:
        ATTACKS[action](end)
    for vector in (0, 1):
        device.ring(3 - device.position, vector)
    print("done", flush=True)
    time.sleep(20)          # keeps the liveness counter going until it is killed


if __name__ == "__main__":
    main()
