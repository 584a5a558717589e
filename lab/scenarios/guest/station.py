#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
Both ends of an exchange of known contents: datagrams that come back unchanged, then a TCP connection both ways at once.

  serve PORT BYTES              both families; says `listening`; ends with the connection
  visit HOST PORT BYTES SIZE..  five datagrams of each size, then the connection
"""
import select
import socket
import sys
import threading

import datagram
import stream

DATAGRAMS = 5


def carry(sock, count):
    """Send @count bytes and receive as many, each compared."""
    sock.settimeout(60)
    data, result = stream.pattern(), {}
    sender = threading.Thread(target=stream.send, args=(sock, data, count, result))
    sender.start()
    stream.receive(sock, data, result)
    sender.join()
    if (result.get("sent"), result.get("received")) != (count, count):
        sys.exit(f"wanted {count} bytes each way: {result}")


def serve(port, count):
    """Echo until the connection comes."""
    echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    echo.bind(("::", int(port)))
    server = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    print("listening", flush=True)
    while server not in (ready := select.select([echo, server], [], [])[0]):
        if ready:
            echo.sendto(*echo.recvfrom(65536))
    carry(server.accept()[0], int(count))


def visit(host, port, count, *sizes):
    """The other end."""
    datagram.ask(host, port, DATAGRAMS, *sizes)
    carry(socket.create_connection((host, int(port)), 20), int(count))


{"serve": serve, "visit": visit}[sys.argv[1]](*sys.argv[2:])
