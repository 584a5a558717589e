#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Groups: VMs without QMP, played by fakevm.py, that connect to the sockets of the configuration."""
import os

import fakevm as f
from harness import check, equal, run, with_config


def group(more="", members=None, size="16M"):
    """A configuration with group g of a, b and c; @members: {name: more keys}."""
    entries = ",\n".join(f'{{ name = "{name}"; macs = [ "52:54:00:00:01:{i + 1:02x}" ]; {keys} }}'
                         for i, (name, keys) in enumerate((members or {"a": "", "b": "", "c": ""}).items()))
    return f'groups = ( {{ name = "g"; size = "{size}"; members = (\n{entries} ); }} );\n{more}'


def three(w):
    vms = [w.joined(name) for name in "abc"]
    for a, b in "ab", "ac", "bc":
        w.up_any(a, b)
    return vms


def quiet(*vms):
    """Forget what they were told until now."""
    for vm in vms:
        vm.do("auto", on=True)
        vm.forget()


@with_config(group())
def test_three_members_get_links(w):
    a = w.member("a")
    equal(a.wait("joined"), {"event": "joined", "member": 1, "members": 4}, "greeting")
    vm = w.d.vm("a")
    equal((vm["state"], vm["uplink"], vm["group"], vm["qmp"]), ("running", "no-hello", "g", ""), "connected")
    equal((w.d.vm("b")["state"], w.d.vm("b")["uplink"]), ("awaited", "awaited"), "not there yet")
    reason = w.d.vm("b")["reason"]
    check(reason["name"] == "awaited" and "b.sock" in reason["detail"] and "vectors=2" in reason["hint"], reason)
    welcome = w.hello(a)
    equal((welcome["name"], welcome["label"], welcome["nics"]), ("a", "g", 1), "welcome")
    b, c = w.joined("b"), w.joined("c")
    entry = a.wait("roster", op=f.ROSTER_ADD, name="c", generation=c.generation)
    equal(entry["macs"], ["52:54:00:00:01:03"], "MACs are the configuration's")
    for one, two in "ab", "ac", "bc":
        w.up_any(one, two)
    seen = {}
    for vm, number in (a, 1), (b, 2), (c, 3):
        for _ in range(2):
            o = vm.wait("open")
            equal((o["own"], o["epoch"], o["channels"]), (number, 1, 1), "open")
            seen.setdefault(tuple(sorted((number, o["peer"]))), []).append(o["ends"])
    equal(sorted(seen), [(1, 2), (1, 3), (2, 3)], "links")
    check(all(len(ends) == 2 and ends[0] == ends[1] != 0 for ends in seen.values()), f"both ends agree: {seen}")
    equal(len({ends[0] for ends in seen.values()}), 3, "places of the ends' states")
    p = w.d.pair("a", "c")
    equal((p["kind"], p["group"], p["path"]), ("group", "g", "packet"), "status")
    equal([e["member"] for e in p["ends"]], [1, 3], "members")
    equal(w.d.result("status")["shared_bytes"], 16 << 20, "the segment counts once")


@with_config(group())
def test_member_killed_and_back(w):
    a, b, c = three(w)
    quiet(a, c)
    b.kill()
    equal(a.wait("close", reason=f.R_PEER_DEAD)["peer"], 2, "a is told")
    equal(c.wait("close", reason=f.R_PEER_DEAD)["peer"], 2, "c is told")
    w.d.wait_any("pair a=a b=b state=parked")
    w.d.wait_any("pair a=b b=c state=parked")
    equal(w.d.vm("b")["state"], "gone", "b")
    equal((w.d.pair("a", "c")["state"], w.d.pair("a", "c")["epoch"]), ("up", 1), "the link of the others")
    equal([e for e in a.queue if e["event"] == "close"], [], "a keeps its link to c")
    b = w.joined("b")
    equal(b.number, 2, "the same place")
    a.wait("open", peer=2, epoch=2)
    equal(w.d.pair("b", "c")["epoch"], 2, "and of the other")
    equal(w.d.pair("a", "c")["epoch"], 1, "not of the third")


@with_config(group())
def test_scrub_is_of_one_link(w):
    a, b, _ = three(w)
    ends = {}
    for _ in range(2):
        o = a.wait("open")
        ends[o["peer"]] = o["ends"]
    for peer in 2, 3:
        a.do("poke", id="group", offset=ends[peer], data="ab" * 16)
    b.kill()
    w.d.wait_any("pair a=a b=b state=parked")
    for peer, want in (2, "00" * 16), (3, "ab" * 16):
        a.do("peek", id="group", offset=ends[peer], length=16)
        equal(a.wait("peek")["data"], want, f"the ends of the link to {peer}")


@with_config(group())
def test_one_process_at_a_time(w):
    a = w.joined("a")
    equal(w.member("a").wait("refused")["version"], -1, "what a second process is told: no such version")
    line = w.d.wait_log("peer-refused")
    check(f"process {a.pid} has the place" in line, line)
    equal(w.d.result("status")["refused_peers"], 1, "counted")
    equal(w.d.vm("a")["pid"], a.pid, "the first one stays")
    a.kill()
    w.d.wait_log("vm-exited")
    w.joined("a")


@with_config(group(members={"a": 'pidfile = "/nonexistent/a.pid";', "b": 'cgroup = "/no/such/group";',
                            "c": 'cgroup = "/"; user = "65534";'}))
def test_restrictions(w):
    w.member("a").wait("refused")
    check("not the process named in /nonexistent/a.pid" in w.d.wait_log("peer-refused"), "pidfile")
    w.member("b").wait("refused")
    check("not in control group /no/such/group" in w.d.wait_log("peer-refused"), "cgroup")
    w.joined("c")
    info = os.stat(f"{w.d.rt}/groups/g/c.sock")
    equal((info.st_uid, info.st_mode & 0o777), (65534, 0o600), "the socket is its user's alone")


@with_config(group())
def test_kill9_and_adoption(w):
    a, b, c = three(w)
    before = w.d.pair("a", "b")
    quiet(a, b, c)
    w.d.kill9()
    c.kill()
    w.d.start()
    w.d.wait_any("adopted vm=b what=member")
    equal(a.wait("close", reason=f.R_PEER_DEAD)["peer"], 3, "who died meanwhile is told of")
    p = w.d.pair("a", "b")
    equal([p[k] for k in ("state", "segment", "epoch")], [before[k] for k in ("state", "segment", "epoch")], "adopted")
    equal([e for e in a.queue if e["event"] == "open"], [], "nothing is opened again")
    w.member("a").wait("refused")      # a has its place still
    c = w.joined("c")
    w.up_any("a", "c")
    equal(w.d.pair("a", "c")["epoch"], 2, "c is back")
    equal(w.d.pair("a", "c")["segment"], before["segment"], "in the same segment")


@with_config(group())
def test_events_while_the_daemon_was_dead(w):
    a, b, _ = three(w)
    quiet(a)
    w.d.kill9()
    b.do("bye", reason=f.R_UNLOAD)
    w.d.start()
    equal(a.wait("close", reason=f.R_UNLOAD)["peer"], 2, "the mailbox was continued")
    equal(w.d.pair("a", "c")["state"], "up", "the others")


@with_config(group())
def test_changed_configuration(w):
    a, _, _ = three(w)
    w.d.configure(group(size="32M"))
    w.d.hup()
    w.d.wait_log("config-needs-restart key=groups")
    equal(w.d.pair("a", "b")["state"], "up", "a reload changes no group")
    w.d.kill9()
    w.d.start()
    w.d.wait_any("not-adopted group=g .*configuration changed")
    vm = w.d.vm("a")
    check(f"process {a.pid} has the memory of a former shuntd: restart the VM" in vm["reason"]["detail"], vm)
    a.kill()
    equal(w.joined("a").number, 1, "restarted it is served again")


@with_config(group())
def test_garbage_breaks_only_its_sender(w):
    a, _, _ = three(w)
    a.do("scribble", prod=1 << 40)
    w.d.wait_any("uplink-broken vm=a")
    equal((w.d.vm("a")["uplink"], w.d.vm("b")["uplink"]), ("broken", "ready"), "uplinks")
    equal(w.d.pair("b", "c")["state"], "up", "the others' link")
    code, _, err = w.d.cli("attach", "a")
    equal(code, 0, err)
    equal(w.d.vm("a")["uplink"], "ready" if w.d.vm("a")["module"] else "no-hello", "mended")
    a.kill()
    w.joined("a")
    w.up_any("a", "b")


@with_config(group())
def test_storm_is_bounded(w):
    a, b, c = three(w)
    for _ in range(20):
        a.do("bells", n=2000)
    w.d.result("status")
    b.do("bye", reason=f.R_UNLOAD)
    equal(c.wait("close", reason=f.R_UNLOAD)["peer"], 2, "the others are served all the same")


@with_config(group(more='plug = "eager";'))
def test_nothing_leads_out(w):
    a, _, _ = three(w)
    out = w.guest("out")
    equal(out.wait("roster", op=f.ROSTER_SYNC)["roster_gen"], 2, "it knows nobody")
    p = w.d.pair("a", "out")
    equal((p["path"], p["reason"]["name"]), ("network", "policy"), "status")
    equal([e for e in a.queue if e.get("name") == "out"], [], "nobody knows it")
    same = w.vm("b", n=9)
    w.d.wait_any("name-in-use")
    equal(w.d.vm("b")["group"], "g", "the name is the member's")
    same.kill()


@with_config(group())
def test_detach_and_reset(w):
    a, b, _ = three(w)
    quiet(b)
    equal(w.d.cli("detach", "a")[0], 0, "detach")
    equal(b.wait("close", reason=f.R_DETACHED)["peer"], 1, "b is told")
    equal(w.d.cli("attach", "a")[0], 0, "attach")
    equal(b.wait("open")["epoch"], 2, "back")
    w.hello(a)      # the guest was reset: nobody saw it but by this
    equal(b.wait("close", reason=f.R_PEER_DEAD)["peer"], 1, "b is told")
    equal(b.wait("open")["epoch"], 3, "back again")
    code, out, _ = w.d.cli("status")
    equal(code, 0, out)
    check("group g" in out, out)


@with_config(group(members={"a": 'socket = "/proc/nonexistent/a.sock";', "b": 'user = "no-such-user";', "c": ""}))
def test_member_that_cannot_be_served(w):
    for name, says in ("a", "/proc/nonexistent/a.sock"), ("b", "is there such a user"):
        vm = w.d.vm(name)
        equal((vm["uplink"], vm["served"]), ("failed", False), name)
        check(says in vm["reason"]["detail"], vm)
    w.joined("c")


if __name__ == "__main__":
    run([v for k, v in list(globals().items()) if k.startswith("test_")])
