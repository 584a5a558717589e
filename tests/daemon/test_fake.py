#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The real shuntd against VMs played by fakevm.py: membership, links, failures, restarts."""
import json
import os
import random
import socket
import struct
import time

import fakevm as f
from harness import check, equal, run, with_config

POOL = 1 << 20      # somewhere in a pair's pool


def test_two_vms_get_a_link(w):
    a, b = w.vm("a"), w.vm("b")
    up = a.wait("plugged")
    equal((up["vectors"], up["members"]), (1, [0, 1]), "uplink")
    b.wait("plugged")
    welcome = w.hello(a)
    equal((welcome["name"], welcome["label"], welcome["host"], welcome["nics"]),
          ("a", "default", "testhost", 1), "welcome")
    a.wait("roster", op=f.ROSTER_RESET)
    entry = a.wait("roster", op=f.ROSTER_ADD, name="b")
    equal((entry["generation"], entry["macs"]), (0, ["52:54:00:00:00:02"]), "b has no module yet")
    a.wait("roster", op=f.ROSTER_SYNC)
    w.hello(b)
    entry = a.wait("roster", op=f.ROSTER_ADD, name="b")
    equal(entry["generation"], b.generation, "b's generation")
    for vm in a, b:
        pair = vm.wait("plugged")
        equal((pair["vectors"], pair["members"]), (4, [0, 1, 2]), "pair")
    oa, ob = a.wait("open"), b.wait("open")
    equal((oa["segment"], oa["epoch"], oa["own"], oa["peer"]), (ob["segment"], ob["epoch"], ob["peer"], ob["own"]),
          "both ends")
    equal((oa["vm_id"], oa["generation"], oa["channels"], oa["bdf"]), (b.id, b.generation, 1, 4 << 3), "open")
    w.up("a", "b")
    p = w.d.pair("a", "b")
    equal((p["path"], p["state"], p["reason"]["name"]), ("packet", "up", "none"), "status")
    vm = w.d.vm("a")
    equal((vm["module"], vm["kernel"], vm["accel"], vm["served"]), ("0.0-fake", "6.1.0-fake", "tcg", True), "vm")
    equal(vm["roster_gen"], vm["roster_acked"], "acknowledged")


def test_stats_and_cli(w):
    a, b = w.linked()
    seg = a.wait("open")["segment"]
    a.do("stats", segment=seg, tx_bytes=12345)
    b.do("stats", segment=seg, tx_bytes=99)
    code, out, _ = w.d.cli("status")
    equal(code, 0, "exit status")
    check("packet" in out and "12.1K" in out, out)
    a.wait("stats_get")
    code, out, _ = w.d.cli("stats", "--json")
    check('"tx_bytes": 12345' in out, out)
    for cmd in "peers", "links", "stats", "version":
        equal(w.d.cli(cmd)[0], 0, cmd)
    equal(w.d.cli("detach", "nobody")[0], 1, "unknown VM")
    equal(w.d.cli("detach")[0], 2, "usage")
    code, _, err = w.d.cli("attach", "--qmp", "/nonexistent")
    equal(code, 1, "no such socket")
    check("-qmp unix" in err, err)


@with_config('plug = "demand";')
def test_demand(w):
    a, b = w.guest("a"), w.guest("b")
    a.wait("roster", op=f.ROSTER_ADD, name="b", generation=b.generation)
    p = w.d.pair("a", "b")
    equal((p["path"], p["reason"]["name"]), ("network", "idle"), "before")
    a.do("want", vm_id=b.id)
    w.up("a", "b")
    a.do("want", vm_id=4711)
    w.d.result("status")
    equal(w.d.vm("a")["counters"]["stale_msgs"], 1, "a stranger is nobody")


LABELS = 'plug = "eager"; labels = ({ vm = "b"; label = "other"; });'


@with_config(LABELS)
def test_labels(w):
    a, b = w.guest("a"), w.guest("b")
    equal(b.wait("roster", op=f.ROSTER_SYNC)["roster_gen"], 2, "only RESET and SYNC")
    a.do("want", vm_id=b.id)
    p = w.d.pair("a", "b")
    equal((p["path"], p["reason"]["name"], p["state"]), ("network", "policy", "none"), "not allowed")
    w.d.configure(LABELS + 'allow = (("other", "default"));')
    w.d.hup()
    w.up("a", "b")
    w.d.configure(LABELS)
    w.d.hup()
    a.wait("close", reason=f.R_POLICY)
    b.wait("roster", op=f.ROSTER_DEL)
    w.d.wait_log("state=parked")
    equal(w.d.pair("a", "b")["reason"]["name"], "policy", "withdrawn")


def test_bad_config_keeps_the_old(w):
    w.linked()
    w.d.configure('plug = "eagre";')
    w.d.hup()
    line = w.d.wait_log("config-rejected")
    check("shuntd.conf:4:" in line and 'allowed: "eager", "demand"' in line, line)
    w.guest("c")
    w.up("a", "c")


def test_peers_are_told_why(w):
    """A guest's roster tells who left on purpose from who has no module, and nothing else of a peer's troubles."""
    a, b = w.linked()
    for act, why in ((lambda: w.d.result("detach", vm="b"), f.R_DETACHED),
                     (lambda: b.do("bye", reason=f.R_DETACHED), f.R_DETACHED),
                     (lambda: b.do("bye", reason=f.R_UNLOAD), f.R_UNLOAD),
                     (lambda: b.do("bye", reason=f.R_BAR), f.R_NO_MODULE)):
        a.wait("roster", op=f.ROSTER_ADD, name="b", generation=b.generation, reason=0)
        a.forget()
        act()
        entry = a.wait("roster", op=f.ROSTER_ADD, name="b")
        equal((entry["generation"], entry["reason"]), (0, why), "what a is told")
        w.d.result("attach", vm="b")
        w.hello(b)
        w.up("a", "b")


def test_detach_attach(w):
    a, b = w.linked()
    first = a.wait("open")
    pair_id = w.d.end("a", "b", "a")["device"]
    a.do("poke", id=pair_id, offset=POOL, data="deadbeef")
    for offset in 0, f.AT["shunt_abi_segment.reserved"], 256 + 8, 4000:
        a.do("poke", id=pair_id, offset=offset, data="ee" * 16)
    code, _, err = w.d.cli("detach", "a")
    equal(code, 0, err)
    for vm in a, b:
        vm.wait("close", reason=f.R_DETACHED)
    p = w.d.pair("a", "b")
    equal((p["state"], p["path"], p["reason"]["name"], p["epoch"]), ("parked", "network", "detached", 2), "parked")
    a.do("peek", id=pair_id, offset=POOL, length=4)
    equal(a.wait("peek")["data"], "00000000", "scrubbed")
    tail = f.AT["shunt_abi_segment.reserved"]
    a.do("peek", id=pair_id, offset=tail, length=4096 - tail)
    head = bytes.fromhex(a.wait("peek")["data"])
    a.do("peek", id=pair_id, offset=0, length=8)
    equal(bytes.fromhex(a.wait("peek")["data"]), b"SHUNTSEG", "the header is whole again")
    check(b"\xee" not in head, "members and reserved fields are scrubbed, too")
    equal(w.d.cli("attach", "a")[0], 0, "attach")
    w.up("a", "b")
    again = a.wait("open")
    equal((again["segment"], again["epoch"]), (first["segment"], 2), "same segment, new epoch")
    check(len(w.d.in_log("plugged vm=")) == 4, "nothing was plugged again")


@with_config('plug = "eager"; release_timeout_ms = 300;')
def test_late_release_is_not_scrubbed(w):
    a, b = w.linked()
    o = a.wait("open")
    pair_id = w.d.end("a", "b", "a")["device"]
    a.do("poke", id=pair_id, offset=POOL, data="deadbeef")
    b.do("auto", on=False)
    code, _, err = w.d.cli("detach", "a")
    equal(code, 1, "a guest that does not answer")
    check("in time" in err, err)
    w.d.wait_log("release-late a=. b=. waiting-for=b")
    p = w.d.pair("a", "b")
    equal((p["state"], p["reason"]["name"], p["late"]), ("closing", "timeout", True), "says so")
    a.do("peek", id=pair_id, offset=POOL, length=4)
    equal(a.wait("peek")["data"], "deadbeef", "untouched")
    b.do("link", segment=o["segment"], epoch=o["epoch"], state=f.CLOSED, reason=0)
    w.d.wait_log("state=parked")


def test_peer_killed_and_back(w):
    a, b = w.linked()
    first = a.wait("open")
    device = w.d.end("a", "b", "a")["device"]
    b.kill()
    equal(a.wait("close")["reason"], f.R_PEER_DEAD, "reason")
    a.wait("roster", op=f.ROSTER_DEL)
    w.d.wait_log("state=parked")
    equal(w.d.vm("b")["state"], "gone", "b")
    equal(w.d.pair("a", "b")["reason"]["name"], "peer-dead", "why")
    w.guest("b", n=2)
    w.up("a", "b")
    again = a.wait("open")
    equal((again["segment"], again["epoch"]), (first["segment"], first["epoch"] + 1), "recycled")
    equal(w.d.end("a", "b", "a")["device"], device, "the survivor's device stayed")


def test_segment_passes_to_another_peer(w):
    a, b = w.linked()
    first = a.wait("open")
    b.kill()
    os.unlink(b.qmp)
    w.d.wait_log("state=parked")
    c = w.guest("c")
    w.d.wait_log("recycled")
    w.up("a", "c")
    again = a.wait("open", vm_id=c.id)
    equal((again["segment"], again["epoch"], again["own"]), (first["segment"], 2, first["own"]), "recycled")
    equal(c.wait("open")["segment"], first["segment"], "c")


def test_reset(w):
    a, b = w.linked()
    a.forget()
    b.do("event", name="RESET")
    equal(a.wait("close")["reason"], f.R_PEER_DEAD, "reason")
    entry = a.wait("roster", op=f.ROSTER_ADD, name="b")
    equal((entry["generation"], entry["reason"]), (0, f.R_NO_MODULE), "no module now")
    w.d.wait_log("state=parked")
    equal(w.d.pair("a", "b")["reason"]["name"], "no-module", "why")
    w.hello(b)
    w.up("a", "b")
    equal(len(w.d.in_log("plugged vm=")), 4, "devices stayed plugged")


def test_new_hello_ends_old_links(w):
    a, b = w.linked()
    w.hello(b)
    equal(a.wait("close")["reason"], f.R_PEER_DEAD, "reason")
    w.up("a", "b")
    equal(a.wait("open", epoch=2)["generation"], b.generation, "new generation")


def test_bye(w):
    a, b = w.linked()
    b.do("bye", reason=f.R_UNLOAD)
    equal(a.wait("close")["reason"], f.R_UNLOAD, "reason")
    w.d.wait_log("state=parked")
    equal(w.d.pair("a", "b")["reason"]["name"], "module-unloaded", "why")


def test_stop_and_resume_are_only_shown(w):
    a, b = w.linked()
    b.do("event", name="STOP")
    w.d.wait_log("vm-run-state vm=b running=0")
    equal((w.d.vm("b")["state"], w.d.pair("a", "b")["path"]), ("paused", "packet"), "paused")
    b.do("event", name="RESUME")
    w.d.wait_log("vm-run-state vm=b running=1")


GARBAGE = {
    "impossible index": lambda vm: vm.do("scribble", prod=1 << 40),
    "index going back": lambda vm: vm.do("scribble", prod=16),
    "short message": lambda vm: vm.do("raw", data=struct.pack("<HHI", f.HELLO, 0, 0).hex()),
    "empty record": lambda vm: vm.do("raw", data=""),
    "bad version range": lambda vm: vm.do("hello", generation=5, lo=3, hi=2),
    "no generation": lambda vm: vm.do("hello", generation=0),
    "impossible state": lambda vm: vm.do("link", segment=1, epoch=1, state=99, reason=0),
    "impossible reason": lambda vm: vm.do("bye", reason=5000),
}


@with_config('plug = "eager"; liveness_ms = 20;')
def test_garbage_breaks_only_its_sender(w):
    a, _ = w.linked()
    for i, (what, send) in enumerate(GARBAGE.items()):
        c = w.guest(f"c{i}")
        w.up("a", f"c{i}")
        send(c)
        w.d.wait_log(f"uplink-broken vm=c{i} ")
        a.wait("close", reason=9)
        equal(w.d.vm(f"c{i}")["uplink"], "broken", what)
        equal(w.d.pair("a", "b")["path"], "packet", what)
        check(w.d.pair("a", f"c{i}")["path"] == "network", what)
        c.kill()
        os.unlink(c.qmp)
        w.d.wait_log("state=parked")


def test_broken_uplink_mended_by_operator(w):
    a, b = w.linked()
    b.do("scribble", prod=1 << 40)
    w.d.wait_log("uplink-broken vm=b reason=broken-index")
    b.do("hello", generation=7)
    equal(w.d.vm("b")["uplink"], "broken", "sticky")
    equal(w.d.cli("attach", "b")[0], 0, "attach")
    w.d.wait_log("uplink-mended")
    w.hello(b)
    w.up("a", "b")
    equal(w.d.vm("b")["counters"]["breaks"], 1, "counted")


def test_scribbling_over_the_whole_uplink(w):
    w.linked()
    for seed in range(5):
        c = w.guest(f"c{seed}")
        w.up_any("a", f"c{seed}")
        c.do("auto", on=False)
        try:
            c.do("scribble_all", seed=seed, n=3000)
        except f.Failure:
            pass        # the guest's own half may choke on it
        equal(w.d.pair("a", "b")["path"], "packet", "others")
        c.kill()
        os.unlink(c.qmp)
        w.d.wait_any(f"vm-exited vm=c{seed}")
    w.guest("z")
    w.up_any("a", "z")


@with_config('plug = "eager"; liveness_ms = 500; storm_ms = 1000;')
def test_storm_breaks_only_its_sender(w):
    """A guest that rings, or writes, without end has its uplink broken, and nobody else notices."""
    a, b = w.linked()
    c = w.guest("c")
    w.up_any("a", "c")
    broken = 0
    for what in (lambda: b.do("bells", n=2000), lambda: b.do("flood", n=200, kind=60)):
        end = time.monotonic() + 30
        while not w.d.in_log("uplink-broken vm=b")[broken:]:
            check(time.monotonic() < end, "the storm was noticed")
            what()
        broken += 1
        w.d.wait_log("uplink-broken vm=b reason=doorbell-storm")
        w.d.wait_any("pair a=(a|b) b=(a|b) state=closing")
        equal(w.d.pair("a", "c")["path"], "packet", "others")
        cpu = w.d.cpu()
        b.do("bells", n=20000)
        check(w.d.cpu() - cpu < 0.5, "its doorbells are not looked at any more")
        equal(w.d.ask("attach", vm="b")["ok"], True, "attach")
        w.hello(b)
    equal(c.opts["name"], "c", "c is there")
    equal(a.opts["name"], "a", "a is there")


def test_storm_against_a_peer(w):
    """A guest that goes on ringing a closed link loses the device, and gets it back with the operator's attach."""
    a, b = w.linked()
    o = a.wait("open")
    device = w.d.end("a", "b", "b")["device"]
    report = dict(segment=o["segment"], epoch=o["epoch"], state=f.BROKEN, reason=f.R_DOORBELLS)
    a.do("link", **report)
    w.d.wait_log("pair-broken reported-by=a offender=b reason=doorbell-storm")
    w.d.wait_log("state=parked")
    b.do("devices")
    check(device in b.wait("devices")["ids"], "broken, but still plugged")
    a.do("link", **report)
    w.d.wait_log(f"doorbell-storm reported-by=a offender=b device={device}")
    w.d.wait_log(f"device-deleted vm=b device={device}")
    a.do("link", **report)      # the vector was unmasked too early: nothing more to unplug
    equal(w.d.pair("a", "b")["reason"]["name"], "doorbell-storm", "why")
    equal(len(w.d.in_log("goes on, unplugging")), 1, "times unplugged")
    a.forget()
    equal(w.d.ask("attach", vm="b")["ok"], True, "attach")
    check(a.wait("open")["epoch"] > o["epoch"], "a new epoch")
    w.up("a", "b")


def test_written_on_while_parked(w):
    """What a guest leaves in a parked segment does not meet the next link."""
    a, b = w.linked()
    o = a.wait("open")
    equal(w.d.ask("detach", vm="b")["ok"], True, "detach")
    w.d.wait_log("state=parked")
    device = w.d.end("a", "b", "b")["device"]
    b.do("poke", id=device, offset=0, data="ff" * 4096)
    b.do("poke", id=device, offset=POOL - 4096, data="ff" * 4096)
    equal(w.d.ask("attach", vm="b")["ok"], True, "attach")
    a.wait("open", epoch=o["epoch"] + 1)
    w.d.wait_log("state=up")
    b.do("peek", id=device, offset=0, length=8)
    equal(b.wait("peek")["data"], b"SHUNTSEG".hex(), "the header")
    b.do("peek", id=device, offset=POOL - 4096, length=4096)
    equal(b.wait("peek")["data"], "00" * 4096, "the rest")


def test_unknown_messages_are_ignored(w):
    a, _ = w.linked()
    a.do("raw", data=struct.pack("<HHI", 60, 0, 0).hex())
    a.do("link", segment=0x1234, epoch=1, state=f.CLOSED, reason=0)
    w.hello(a)
    w.up("a", "b")
    c = w.d.vm("a")["counters"]
    equal((c["unknown_msgs"], c["stale_msgs"], c["breaks"]), (1, 1, 0), "counted")


def test_flood_is_bounded(w):
    a = w.guest("a")
    a.do("flood", n=2000, kind=60)
    a.do("bells", n=5000)
    w.guest("b")
    w.guest("c")
    w.up_any("b", "c")
    w.up_any("a", "b")
    check(w.d.vm("a")["counters"]["masked"] > 0, "was not masked")


def test_pair_broken_is_sticky(w):
    a, b = w.linked()
    o = a.wait("open")
    a.do("link", segment=o["segment"], epoch=o["epoch"], state=f.BROKEN, reason=f.R_BROKEN_INDEX)
    equal(b.wait("close")["reason"], f.R_BROKEN_INDEX, "b is told")
    w.d.wait_log("state=parked")
    w.hello(b)
    p = w.d.pair("a", "b")
    equal((p["path"], p["reason"]["name"]), ("network", "broken-index"), "sticky")
    check("says that b" in p["reason"]["detail"], p)
    w.d.result("attach", vm="b")
    w.up("a", "b")


def test_bar_not_assigned(w):
    a, b = w.vm("a", auto=False), w.vm("b")
    for vm in a, b:
        vm.wait("plugged")
        w.hello(vm)
    o = a.wait("open")
    a.do("link", segment=o["segment"], epoch=o["epoch"], state=f.CLOSED, reason=f.R_BAR)
    b.wait("close", reason=f.R_BAR)
    w.d.wait_log("state=parked")
    p = w.d.pair("a", "b")
    equal(p["reason"]["name"], "no-bar", "why")
    check("pref64-reserve" in p["reason"]["hint"], p)


def test_foreign_process_on_a_device_socket(w):
    a = w.vm("a", hold=True)
    path = a.wait("held")["path"]
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    s.settimeout(10)
    equal(s.recv(64), b"", "a stranger gets nothing")
    line = w.d.wait_log("peer-refused")
    check(f"pid={os.getpid()} " in line and f"expected-pid={a.pid}" in line, line)
    equal(w.d.result("status")["refused_peers"], 1, "counted")
    a.do("connect_held")
    a.wait("plugged", vectors=1)
    check(not os.path.exists(path), "the socket goes once it is used")
    w.hello(a)


def test_device_socket_twice(w):
    """A device socket gives its descriptors once, even to the right process; and then it is gone."""
    a = w.vm("a", hold=True)
    path = a.wait("held")["path"]
    a.do("connect_twice")
    equal(a.wait("second")["data"], "", "what the second connection is sent")
    a.wait("plugged")
    check(not os.path.exists(path), "the socket is gone")
    a.do("opt", key="hold", value=False)
    w.hello(a)


def test_kill9_and_adoption(w):
    a, b = w.linked()
    o = a.wait("open")
    device = w.d.end("a", "b", "a")["device"]
    a.do("poke", id=device, offset=POOL, data="deadbeef")
    for vm in a, b:
        vm.forget()
    for _ in range(3):
        w.d.restart()
        w.d.wait_log("vm-attached")
        w.d.wait_log("vm-attached")
    p = w.d.pair("a", "b")
    equal((p["state"], p["path"], p["epoch"]), ("up", "packet", o["epoch"]), "adopted")
    a.do("peek", id=device, offset=POOL, length=4)
    equal(a.wait("peek")["data"], "deadbeef", "traffic undisturbed")
    a.do("devices")
    equal(len(a.wait("devices")["ids"]), 2, "nothing plugged again")
    check(not [e for vm in (a, b) for e in vm.queue if e["event"] in ("close", "open", "welcome")],
          "guests noticed nothing")
    equal(w.d.cli("detach", "a")[0], 0, "and it works on")
    b.wait("close", reason=f.R_DETACHED)
    w.d.restart()
    equal(w.d.pair("a", "b")["reason"]["name"], "detached", "remembered")
    w.d.result("attach", vm="a")
    w.up("a", "b")


def test_kill9_anywhere(w):
    w.linked()
    rng = random.Random(1)
    for n in range(25):
        s = socket.socket(socket.AF_UNIX)
        s.connect(f"{w.d.rt}/shuntd.sock")
        s.sendall(json.dumps({"cmd": "detach" if n % 2 else "attach", "vm": "ab"[n % 3 % 2]}).encode() + b"\n")
        for _ in range(rng.randrange(5)):
            try:
                w.d.wait_log(".", timeout=0.2)
            except f.Failure:
                break
        w.d.restart()
        s.close()
    for name in "ab":
        w.d.result("attach", vm=name)
    deadline = time.monotonic() + 10
    while w.d.pair("a", "b")["path"] != "packet" and time.monotonic() < deadline:
        pass
    equal(w.d.pair("a", "b")["path"], "packet", "it works after all")
    equal([w.d.vm(n)["counters"]["breaks"] for n in "ab"], [0, 0], "nothing broke")
    w.vms[0].do("devices")
    equal(len(w.vms[0].wait("devices")["ids"]), 2, "devices were recycled")


def test_pipelined_requests(w):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(10)
    s.connect(f"{w.d.rt}/shuntd.sock")
    s.sendall(b'{"cmd":"version"}\nnonsense\n{"cmd":"status"}\n{"cmd":"frob"}\n{"cmd":"version"}\n')
    answers = [json.loads(line)["ok"] for _, line in zip(range(5), s.makefile())]
    equal(answers, [True, False, True, False, True], "in order")
    s.sendall(b"x" * 70000)
    try:
        equal(s.recv(1), b"", "an endless line")
    except ConnectionResetError:
        pass
    equal(w.d.ask("version")["ok"], True, "others")


def test_slow_reader(w):
    """A client that asks and asks and does not read is held back; nothing of its is lost, and others are served."""
    w.guest("a")
    s = socket.socket(socket.AF_UNIX)
    s.connect(f"{w.d.rt}/shuntd.sock")
    s.setblocking(False)
    request = b'{"cmd": "no such command, and a long one"}\n' * 1000
    data, end = request * 100, time.monotonic() + 3
    sent = 0
    while sent < len(data) and time.monotonic() < end:
        try:
            sent += s.send(data[sent:])
            end = time.monotonic() + 1      # until nothing moves for a second
        except BlockingIOError:
            time.sleep(0.01)
    check(sent < len(data), f"it was held back after {sent} bytes")
    equal(w.d.ask("version")["ok"], True, "others")
    s.settimeout(20)
    answers = 0
    while answers < data[:sent].count(b"\n"):
        answers += s.recv(1 << 16).count(b"\n")
    s.sendall(b"x" * 70000)     # a line longer than any request
    try:
        equal(s.recv(1), b"", "what it is answered")
    except ConnectionResetError:
        pass
    clients = [socket.socket(socket.AF_UNIX) for _ in range(64)]
    for i, client in enumerate(clients):
        client.connect(f"{w.d.rt}/shuntd.sock")
        client.send(b'{"cmd": "sta'[:i % 13])       # half a request, and nothing more
    with socket.socket(socket.AF_UNIX) as one_more:
        one_more.connect(f"{w.d.rt}/shuntd.sock")
        one_more.settimeout(10)
        equal(one_more.recv(1), b"", "the 65th client")
    for client in clients:
        client.close()
    equal(w.d.ask("version")["ok"], True, "others, afterwards")


def test_events_while_the_daemon_was_dead(w):
    a, b = w.linked()
    c = w.guest("c")
    w.up("b", "c")
    w.d.kill9()
    b.kill()
    c.do("hello", generation=999)
    w.d.start()
    equal(a.wait("close")["reason"], f.R_PEER_DEAD, "b died meanwhile")
    c.wait("welcome", generation=999)
    w.up("a", "c")
    equal(w.d.pair("a", "b")["reason"]["name"], "peer-dead", "b")


def test_kill9_in_mid_close(w):
    a, b = w.linked()
    o = a.wait("open")
    a.do("auto", on=False)
    b.do("bye", reason=f.R_UNLOAD)
    a.wait("close")
    w.d.kill9()
    w.d.start()
    equal(a.wait("close")["epoch"], o["epoch"], "said again")
    equal(w.d.pair("a", "b")["state"], "closing", "not scrubbed yet")
    a.do("link", segment=o["segment"], epoch=o["epoch"], state=f.CLOSED, reason=0)
    w.d.wait_log("state=parked")


def test_kill9_in_mid_plug(w):
    a = w.vm("a", hold=True)
    a.wait("held")
    w.d.kill9()
    a.do("opt", key="hold", value=False)
    w.d.start()
    up = a.wait("plugged", vectors=1)["id"]
    w.d.wait_log("plugged vm=a")
    a.do("devices")
    equal(a.wait("devices")["chardevs"], [up], "the old chardev was removed")
    w.hello(a)


def test_lost_state_file_replugs(w):
    a, b = w.linked()
    a.do("devices")
    old = a.wait("devices")["ids"]
    w.d.kill9()
    os.unlink(f"{w.d.rt}/state.json")
    w.d.start()
    for vm in a, b:
        vm.forget()
        vm.wait("plugged", vectors=1)
    for vm in a, b:
        w.hello(vm)
    w.up("a", "b")
    a.do("devices")
    e = a.wait("devices")
    check(not set(old) & set(e["ids"]) and len(e["ids"]) == 2, (old, e))
    check(e["inert"] >= 2 * 10, "descriptor holes are filled")


def test_device_del_by_an_operator(w):
    a, b = w.linked()
    device = w.d.end("a", "b", "a")["device"]
    a.do("link", segment=a.wait("open")["segment"], epoch=1, state=f.CLOSED, reason=f.R_DEVICE_GONE)
    a.do("device_del", id=device)
    equal(b.wait("close")["reason"], f.R_DEVICE_GONE, "b is told")
    w.d.wait_log("state=parked segment=.* epoch=2")
    w.d.wait_any("device-deleted")
    p = w.d.pair("a", "b")
    equal((p["path"], p["reason"]["name"]), ("network", "device-gone"), "not plugged again unasked")
    w.d.result("attach", vm="a")
    w.up("a", "b")
    a.do("devices")
    e = a.wait("devices")
    check(device not in e["ids"] and device not in e["chardevs"], e)
    equal(e["inert"], 3 * 4 + 10, "descriptor holes are filled")
    equal(w.d.vm("a")["counters"]["inert_fds"], 22, "counted")


@with_config('plug = "eager"; qmp_greeting_timeout_ms = 200;')
def test_errors_say_what_to_do(w):
    d = w.d
    w.vm("busy", where="outside", busy=True)
    code, _, err = d.cli("attach", "--qmp", f"{w.work}/busy.qmp")
    equal(code, 1, "busy")
    check("give shuntd one of its own" in err, err)
    w.vm("noiv", where="outside", no_ivshmem=True)
    code, _, err = d.cli("attach", "--qmp", f"{w.work}/noiv.qmp")
    check(code == 1 and "ivshmem" in err and "to do:" in err, err)
    w.vm("full", where="outside", no_slot=True)
    code, _, err = d.cli("attach", "--qmp", f"{w.work}/full.qmp")
    check(code == 1 and "no slot/function available" in err and "pcie-root-port" in err, err)
    w.vm("tight", where="outside", ports={"rp0": 1 << 16})
    code, _, err = d.cli("attach", "--qmp", f"{w.work}/tight.qmp")
    check(code == 1 and "no free pcie-root-port with room for 1 MiB" in err, err)
    roomy = w.vm("roomy", where="outside", ports={"rp0": 1 << 16, "rp1": 1 << 28})
    code, out, err = d.cli("attach", "--qmp", f"{w.work}/roomy.qmp", "--name", "big", "--label", "x")
    equal(code, 0, err)
    equal(roomy.wait("plugged")["bus"], "rp1", "port")
    check("big: attached (label x)" in out and "module" in out, out)
    equal(d.vm("big")["reason"]["name"], "no-module", "module missing")
    w.vm("big", where="outside")
    code, _, err = d.cli("attach", "--qmp", f"{w.work}/big.qmp")
    check(code == 1 and "attached already" in err, err)


def test_notes(w):
    w.vm("a", n=1)
    w.vm("b", n=1)
    w.vm("c", n=3, cpus=1)
    for name in "abc":
        w.d.wait_any(f"plugged vm={name} ")
    check("also b's" in w.d.vm("a")["notes"][0] and "also a's" in w.d.vm("b")["notes"][0], "MAC conflict")
    check("maxcpus=2" in w.d.vm("c")["notes"][0], "unordered memory")
    check("also b's" in w.d.cli("status")[1], "the CLI says so")
    w.hello(w.vms[0])
    entry = w.vms[0].wait("roster", op=f.ROSTER_ADD, name="b")
    equal(entry["macs"], [], "a MAC of two VMs belongs to neither")


@with_config('plug = "eager"; release_timeout_ms = 200;')
def test_device_never_opened(w):
    a, b = w.vm("a"), w.vm("b", auto=False)
    for vm in a, b:
        vm.wait("plugged")
        w.hello(vm)
    b.wait("open")
    a.wait("open")
    w.d.wait_log("link-state vm=a")
    while w.d.pair("a", "b")["reason"]["name"] == "timeout":
        pass
    p = w.d.pair("a", "b")
    equal((p["reason"]["name"], p["reason"]["detail"]), ("no-bar", "b"), "who")


def test_reopening_is_not_a_busy_loop(w):
    a, _ = w.linked()
    o = a.wait("open")
    for i in range(5):
        a.do("link", segment=o["segment"], epoch=o["epoch"] + i, state=f.CLOSED, reason=0)
        if i < 4:
            a.wait("open", epoch=o["epoch"] + i + 1)
    w.d.wait_log("state=parked segment=.* epoch=6")
    p = w.d.pair("a", "b")
    equal((p["state"], p["path"]), ("parked", "network"), "waits longer each time")


@with_config('plug = "eager"; qmp_timeout_ms = 300;')
def test_qmp_without_an_answer(w):
    a = w.vm("a", mute=True)
    w.d.wait_log("qmp-lost vm=a .*timed out")
    up = a.wait("plugged")["id"]
    w.hello(a)
    a.do("devices")
    equal(a.wait("devices")["chardevs"], [up], "what was left behind is purged")


def test_stale_sockets_are_quiet(w):
    s = socket.socket(socket.AF_UNIX)
    s.bind(f"{w.d.rt}/vms.d/old.qmp")
    s.close()
    w.guest("a")
    check(not w.d.in_log("warning:.*old.qmp|error:"), "worth a debug line only")
    w.guest("old", n=9)


def test_version_refused(w):
    a = w.vm("a")
    a.wait("plugged")
    a.do("hello", generation=1, lo=2, hi=3)
    equal(a.wait("refuse")["reason"], f.R_VERSION, "reason")
    w.d.wait_log("plugged vm=a")
    equal(w.d.vm("a")["reason"]["name"], "version", "why")


@with_config('plug = "eager"; hello_timeout_ms = 200;')
def test_module_missing(w):
    w.guest("a")
    w.vm("b")
    w.d.wait_log("no-hello vm=b")
    p = w.d.pair("a", "b")
    equal((p["path"], p["reason"]["name"]), ("network", "no-module"), "why")
    _, out, _ = w.d.cli("status")
    check("b: the guest runs no shunt module. To do: load it in the guest: modprobe shunt" in out, out)


@with_config('plug = "eager"; max_pairs_per_vm = 1;')
def test_caps(w):
    w.linked()
    w.guest("c")
    w.d.wait_log("pair-failed")
    got = [w.d.pair("a", "c"), w.d.pair("b", "c")]
    check(all(p["path"] == "network" for p in got), got)
    check(any("max_pairs_per_vm" in p["reason"]["detail"] for p in got), got)


def test_orderly_stop_leaves_everything(w):
    a, _ = w.linked()
    w.d.stop()
    a.forget()
    w.d.start()
    equal(w.d.pair("a", "b")["path"], "packet", "as it was")
    a.do("devices")
    equal(len(a.wait("devices")["ids"]), 2, "devices")


def test_second_daemon_refuses(w):
    import subprocess
    from harness import SHUNTD
    p = subprocess.run([SHUNTD, "-c", w.d.conf], capture_output=True, text=True, timeout=20)
    equal(p.returncode, 1, "exit status")
    check("another shuntd runs here" in p.stderr, p.stderr)


if __name__ == "__main__":
    run([v for k, v in list(globals().items()) if k.startswith("test_")])
