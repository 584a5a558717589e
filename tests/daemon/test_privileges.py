# SPDX-License-Identifier: GPL-2.0-only
"""What shuntd may do: exactly the documented capabilities, each of which is needed; as any user; under its filter."""
import os
import pwd
import re
import subprocess

from harness import SHUNTD, check, equal, run, with_config

# docs/privileges.md
CAPS = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19}
NOBODY = pwd.getpwnam("nobody")
OTHER = 1       # whose QEMU is neither root's nor nobody's


def status(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def confined(w, uid, gid):
    """The daemon has what is documented and nothing else."""
    s = status(w.d.proc.pid)
    mask = sum(1 << n for n in CAPS.values())
    for key, want in (("CapPrm", mask), ("CapEff", mask), ("CapInh", 0), ("CapBnd", 0), ("CapAmb", 0)):
        equal(int(s[key], 16), want, key)
    equal((s["NoNewPrivs"], s["Seccomp"]), ("1", "2"), "no_new_privs and seccomp")
    equal((s["Uid"].split(), s["Gid"].split()), ([str(uid)] * 4, [str(gid)] * 4), "user and group")


def open_to_all(w):
    """Other users reach what is in the test's directory, as they do /run/shunt."""
    os.chmod(w.work, 0o755)


def start_with(w, *prefix):
    w.d.kill9()
    w.d.prefix = prefix
    w.d.start()


def survives(w, then):
    """The link of a and b is up before and after, and was never closed."""
    before = w.d.pair("a", "b")     # answered when what is recorded is true
    then()
    after = w.d.pair("a", "b")
    equal((after["state"], after["segment"], after["epoch"]), ("up", before["segment"], before["epoch"]), "the link")
    equal(w.d.in_log("not-adopted"), [], "not adopted")


def without(w, cap):
    """Start it again without one capability."""
    start_with(w, "setpriv", "--bounding-set", "-" + cap.removeprefix("CAP_").lower())
    w.d.wait_any(rf"capability-missing cap={cap} ")
    equal(len(w.d.in_log("capability-missing")), 1, "capabilities missing")


def test_root(w):
    """Started as root it keeps the listed capabilities only, and serves root's VMs and those of other users."""
    open_to_all(w)
    confined(w, 0, 0)
    check(not w.d.in_log("capability-missing"), "root has all it needs")
    w.guest("a")
    w.guest("b", uid=OTHER)
    w.up("a", "b")
    equal(os.listdir(f"{w.d.rt}/dev"), [], "device sockets left")


def test_restart_adopts(w):
    """A restarted daemon takes everything back from QEMU processes of root and of another user."""
    open_to_all(w)
    w.guest("a")
    w.guest("b", uid=OTHER)
    w.up("a", "b")
    survives(w, w.d.restart)
    for what in ("vm=a what=uplink", "vm=b what=uplink", "a=. b=. what=pair state=up"):
        w.d.wait_any(rf"info: adopted {what}")
    confined(w, 0, 0)


@with_config('plug = "eager"; user = "nobody";')
def test_own_user(w):
    """As a user of its own it has the same capabilities, and does the same: other users' VMs, restart, reload."""
    open_to_all(w)
    confined(w, NOBODY.pw_uid, NOBODY.pw_gid)
    equal(os.stat(w.d.rt).st_uid, NOBODY.pw_uid, "owner of the runtime directory")
    w.guest("a")
    w.guest("b", uid=OTHER)
    w.up("a", "b")
    survives(w, w.d.restart)
    confined(w, NOBODY.pw_uid, NOBODY.pw_gid)
    w.d.configure('plug = "demand"; user = "daemon"; seccomp = "off";')
    w.d.hup()
    w.d.wait_log("config-needs-restart key=user")
    w.d.wait_log("config-needs-restart key=seccomp")
    w.d.wait_log("config-loaded")
    confined(w, NOBODY.pw_uid, NOBODY.pw_gid)
    equal(w.d.pair("a", "b")["state"], "up", "the link")


@with_config('user = "nobody"; group = "daemon";')
def test_group(w):
    """A group of its own, too."""
    confined(w, NOBODY.pw_uid, 1)


def test_back_to_root(w):
    """What a daemon of another user left is taken over by root's, and the other way round."""
    open_to_all(w)
    w.linked()
    for config, uid, gid in (('user = "nobody";', NOBODY.pw_uid, NOBODY.pw_gid), ("", 0, 0)):
        w.d.configure('plug = "eager";' + config)
        survives(w, w.d.restart)
        confined(w, uid, gid)
        w.d.result("detach", vm="a")
        w.d.result("attach", vm="a")
        w.up("a", "b")


def test_without_ptrace(w):
    """CAP_SYS_PTRACE is needed: without it nothing is adopted."""
    open_to_all(w)
    a = w.guest("a", uid=OTHER)
    without(w, "CAP_SYS_PTRACE")
    w.d.wait_any("not-adopted vm=a what=uplink")
    check(not w.d.in_log(r"info: adopted vm=a"), "adopted all the same")
    check(a.proc.poll() is None, "the VM lives")


def test_without_dac_override(w):
    """CAP_DAC_OVERRIDE is needed: without it another user's QMP socket is refused, and the operator told."""
    open_to_all(w)
    without(w, "CAP_DAC_OVERRIDE")
    vm = w.vm("a", where="elsewhere", uid=OTHER)
    answer = w.d.ask("attach", qmp=vm.qmp)
    check(not answer["ok"] and "Permission denied" in answer["error"] and "shuntd" in answer["hint"], answer)


def test_without_chown(w):
    """CAP_CHOWN is needed: without it another user's QEMU cannot reach its device socket."""
    open_to_all(w)
    without(w, "CAP_CHOWN")
    w.vm("a", uid=OTHER)
    w.d.wait_log("chown-failed .*Operation not permitted")


def test_without_net_admin(w):
    """CAP_NET_ADMIN missing is said."""
    without(w, "CAP_NET_ADMIN")


def test_plain_user(w):
    """Started by a plain user it says what it misses and serves that user's VMs."""
    open_to_all(w)
    for path in (w.d.rt, f"{w.d.rt}/vms.d", f"{w.d.rt}/dev", f"{w.d.rt}/shuntd.lock"):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    start_with(w, "setpriv", "--reuid=nobody", f"--regid={NOBODY.pw_gid}", "--clear-groups")
    s = status(w.d.proc.pid)
    equal((int(s["CapPrm"], 16), s["NoNewPrivs"], s["Seccomp"]), (0, "1", "2"), "of a plain user")
    for cap in CAPS:
        w.d.wait_any(f"capability-missing cap={cap} ")
    w.guest("a", uid=NOBODY.pw_uid)
    w.guest("b", uid=NOBODY.pw_uid)
    w.up("a", "b")


@with_config('seccomp = "log";')
def test_seccomp_choices(w):
    """seccomp: log filters, off does not."""
    equal(status(w.d.proc.pid)["Seccomp"], "2", "with log")
    w.d.configure('seccomp = "off";')
    w.d.restart()
    equal(status(w.d.proc.pid)["Seccomp"], "0", "with off")
    equal(status(w.d.proc.pid)["NoNewPrivs"], "1", "no_new_privs all the same")


def refused(w, config, option, says):
    w.d.configure(config)
    p = subprocess.run([SHUNTD, option, w.d.conf], capture_output=True, text=True, timeout=20)
    equal(p.returncode, 1, f"{option} with {config}")
    check(re.search(says, p.stderr), f"{option} with {config} says: {p.stderr}")


def test_errors(w):
    """A bad user, group or filter is refused with what is allowed."""
    w.d.stop()
    for option in ("--check-config", "--config"):
        refused(w, 'user = "no-such-user";', option, 'no user "no-such-user"; allowed: .*getent passwd')
        refused(w, 'user = "nobody"; group = "no-such-group";', option, 'no group "no-such-group"; allowed: ')
        refused(w, 'group = "daemon";', option, "group: goes with user; allowed: user = ")
        refused(w, 'seccomp = "maybe";', option, 'allowed: "kill", "deny", "log", "off"')
    open_to_all(w)
    w.d.configure('user = "daemon";')
    os.chown(w.d.rt, NOBODY.pw_uid, NOBODY.pw_gid)
    os.unlink(f"{w.d.rt}/shuntd.lock")
    p = subprocess.run(["setpriv", "--reuid=nobody", "--clear-groups", SHUNTD, "--config", w.d.conf],
                       capture_output=True, text=True, timeout=20)
    check(p.returncode == 1 and "start shuntd as root, or take `user` out" in p.stderr, p)


if __name__ == "__main__":
    run([test for name, test in list(globals().items()) if name.startswith("test_")])
