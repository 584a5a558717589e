#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
One TCP connection whose every byte is known: what is received is compared with what belongs at that position.
Sends --send bytes (-1: until SIGINT) and receives to the end of file, both at once; with nothing to send it ends the
stream only after the other has. Status 0: all as it should be. Says `sent N` and `received N` at the end, `at N` on
the way.
"""
import argparse
import random
import signal
import socket
import sys
import threading
import time

PERIOD = (1 << 20) + 7      # odd, so that no power of two lost or repeated goes unnoticed
CHUNK = 1 << 18
SEED = 77
SAY_SECONDS = 0.2

stop = threading.Event()


def pattern():
    """The endless sequence, as one period and enough to cut any chunk from."""
    block = random.Random(SEED).randbytes(PERIOD)
    return block + block[:CHUNK]


def send(sock, data, count, result):
    """Send, then end the stream."""
    sent = 0
    try:
        while not stop.is_set() and sent != count:
            start = sent % PERIOD
            size = CHUNK if count < 0 else min(CHUNK, count - sent)
            sock.sendall(memoryview(data)[start:start + size])
            sent += size
        sock.shutdown(socket.SHUT_WR)
        result["sent"] = sent
    except OSError as error:
        result["error"] = f"sending after {sent}: {error}"
    print(f"sent {sent}", flush=True)


def receive(sock, data, result):
    """Receive and compare to the end."""
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    got, said = 0, time.monotonic()
    while True:
        size = sock.recv_into(view)
        if not size:
            break
        start = got % PERIOD
        if bytes(view[:size]) != data[start:start + size]:
            wrong = next(i for i in range(size) if buffer[i] != data[start + i])
            raise ValueError(f"the byte at {got + wrong} is wrong")
        got += size
        if time.monotonic() - said >= SAY_SECONDS:
            said = time.monotonic()
            print(f"at {got}", flush=True)
    result["received"] = got
    print(f"received {got}", flush=True)


def connection(args):
    """Connect, or accept one."""
    if not args.listen:
        return socket.create_connection((args.host, args.port), 20)
    server = socket.create_server((args.host, args.port), family=socket.AF_INET6 if ":" in args.host
                                  else socket.AF_INET)
    return server.accept()[0]


def main():
    """Parse and run; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--listen", action="store_true")
    parser.add_argument("--send", type=int, default=0)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    data = pattern()
    sock = connection(args)
    sock.settimeout(None)
    result = {}
    sender = threading.Thread(target=send, args=(sock, data, args.send, result))
    if args.send:
        sender.start()
    try:
        receive(sock, data, result)
        if not args.send:
            sender.start()
    except (OSError, ValueError) as error:
        result["error"] = f"receiving: {error}"
        sock.close()
    if sender.ident:
        sender.join()
    if "error" in result:
        print(result["error"], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
