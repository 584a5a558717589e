#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
Datagrams with known contents.

  echo PORT..            UDP, both families: send back whatever comes
  ask HOST PORT N SIZE.. send N datagrams of each size, one at a time; each must come back unchanged
  try HOST N PORT..      send N small ones to each, 50 ms apart; say how many came back (`PORT back K`)
  hear PORT N SECONDS    join the lab's groups, receive N datagrams; print where each came and what it said
  say ADDRESS PORT TEXT N   send TEXT0..TEXTN-1 to a group or broadcast address
  raw-echo PROTOCOL      IP protocol, both families: send back whatever comes, its first byte turned round
  raw-ask HOST PROTOCOL N SIZE..
"""
import random
import select
import socket
import sys
import time

GROUP4, GROUP6, NIC = "239.7.7.7", "ff12::7777", "eth0"
PATIENCE = 10


def family(host):
    """Of an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def echo(*ports):
    """Each socket is for both families."""
    socks = []
    for port in ports:
        socks.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        socks[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socks[-1].bind(("::", int(port)))
    while True:
        for sock in select.select(socks, [], [])[0]:
            data, sender = sock.recvfrom(65536)
            sock.sendto(data, sender)


def payload(number, size):
    """Different for each datagram, and long runs of it match nothing else."""
    return random.Random(number * 100003 + size).randbytes(size)


def ask(host, port, count, *sizes):
    """Send, wait, compare. Retries nothing: a lost datagram is a failure."""
    sock = socket.socket(family(host), socket.SOCK_DGRAM)
    sock.connect((host, int(port)))
    sock.settimeout(PATIENCE)
    for size in map(int, sizes):
        for number in range(int(count)):
            data = payload(number, size)
            sock.send(data)
            if sock.recv(65536) != data:
                sys.exit(f"datagram {number} of {size} bytes came back changed")
    print("all back")


def attempt(host, count, *ports):
    """What comes back, when some may not."""
    socks = {port: socket.socket(family(host), socket.SOCK_DGRAM) for port in ports}
    back = dict.fromkeys(ports, 0)
    for port, sock in socks.items():
        sock.connect((host, int(port)))
    for number in range(int(count)):
        for sock in socks.values():
            try:
                sock.send(b"try %d" % number)
            except PermissionError:         # a local firewall's drop
                pass
        while ready := select.select(socks.values(), [], [], 0.05)[0]:
            for port, sock in socks.items():
                if sock in ready and sock.recv(100).startswith(b"try"):
                    back[port] += 1
    late = time.monotonic() + 1     # a busy machine; what is dropped costs this second
    while min(back.values()) < int(count) and (ready := select.select(
            socks.values(), [], [], max(0, late - time.monotonic()))[0]):
        for port, sock in socks.items():
            if sock in ready and sock.recv(100).startswith(b"try"):
                back[port] += 1
    for port, number in back.items():
        print(f"{port} back {number}")


def hear(port, count, seconds):
    """Group members for both families, and broadcast."""
    index = socket.if_nametoindex(NIC)
    four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    four.bind(("", int(port)))
    mreq = socket.inet_aton(GROUP4) + bytes(4) + index.to_bytes(4, sys.byteorder)
    four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreq)
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.bind(("::", int(port)))
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                   socket.inet_pton(socket.AF_INET6, GROUP6) + index.to_bytes(4, sys.byteorder))
    print("listening", flush=True)
    deadline = time.monotonic() + float(seconds)
    heard = 0
    while heard < int(count) and time.monotonic() < deadline:
        for sock in select.select([four, six], [], [], 0.5)[0]:
            print("heard", sock.recv(2000).decode(), flush=True)
            heard += 1
    while ready := select.select([four, six], [], [], 0.5)[0]:      # none may come twice
        print("heard", ready[0].recv(2000).decode(), flush=True)


def say(address, port, text, count):
    """To many."""
    sock = socket.socket(family(address), socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if family(address) == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(NIC))
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF,
                        bytes(8) + socket.if_nametoindex(NIC).to_bytes(4, sys.byteorder))
    for number in range(int(count)):
        sock.sendto(f"{text}{number}".encode(), (address, int(port)))


def turned(data):
    """An answer that is no copy of the question."""
    return bytes([data[0] ^ 0xff]) + data[1:]


def raw_echo(protocol):
    """Raw IPv4 sockets give the header, too; IPv6 ones do not."""
    four = socket.socket(socket.AF_INET, socket.SOCK_RAW, int(protocol))
    six = socket.socket(socket.AF_INET6, socket.SOCK_RAW, int(protocol))
    print("listening", flush=True)
    while True:
        for sock in select.select([four, six], [], [])[0]:
            data, sender = sock.recvfrom(65536)
            if sock is four:
                data = data[(data[0] & 15) * 4:]
            sock.sendto(turned(data), sender)


def raw_ask(host, protocol, count, *sizes):
    """As ask."""
    sock = socket.socket(family(host), socket.SOCK_RAW, int(protocol))
    sock.settimeout(PATIENCE)
    for size in map(int, sizes):
        for number in range(int(count)):
            data = payload(number, size)
            sock.sendto(data, (host, 0))
            back = sock.recv(65536)
            if family(host) == socket.AF_INET:
                back = back[(back[0] & 15) * 4:]
            if back != turned(data):
                sys.exit(f"packet {number} of {size} bytes came back changed")
    print("all back")


COMMANDS = {"echo": echo, "ask": ask, "try": attempt, "hear": hear, "say": say, "raw-echo": raw_echo,
            "raw-ask": raw_ask}
if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
