# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The lab itself: what every other scenario relies on."""
import hashlib
import os
import pathlib
import signal
import subprocess
import tempfile
import time

from shuntlab import agent, state
from shuntlab.remains import remains
from shuntlab.paths import LAB
from shuntlab.scenario import allows, expect, expect_equal, limit, wait_until

SETUP = {"vms": 2, "no_shunt": True}
SHUNT_LAB = str(LAB / "shunt-lab")


def command(*args, **kwargs):
    """Run shunt-lab as a user would."""
    return subprocess.run([SHUNT_LAB, *args], capture_output=True, timeout=60, **kwargs)


def test_exec_streams(lab):
    """stdout, stderr and the exit status of exec are the command's own."""
    done = command("exec", "vm1", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    expect_equal((done.stdout, done.stderr, done.returncode), (b"out\n", b"err\n", 7), "exec")
    done = command("exec", "vm1", "--", "no-such-program")
    expect_equal(done.returncode, 127, "a missing program")
    done = command("exec", "vm1", "--", "sh", "-c", "kill -9 $$")
    expect_equal(done.returncode, 137, "killed by a signal")


def test_exec_binary(lab):
    """Ten million random bytes go in and come out of a command unchanged."""
    data = os.urandom(10_000_000)
    done = command("exec", "vm1", "--", "cat", input=data)
    expect_equal(hashlib.sha256(done.stdout).digest(), hashlib.sha256(data).digest(), "cat")


def test_exec_stdin_not_read(lab):
    """A command that does not read its input ends all the same, and its port works afterwards."""
    done = command("exec", "vm1", "--", "true", input=bytes(2_000_000))
    expect_equal(done.returncode, 0, "true")
    for _ in range(agent.PORTS):
        expect_equal(lab.vm1.sh("echo alive"), "alive\n", "echo")


def test_exec_timeout(lab):
    """A time limit kills the whole process group and gives 124."""
    done = command("exec", "vm1", "--timeout", "1", "--", "sh", "-c", "sleep 4711; true")
    expect_equal(done.returncode, 124, "status")
    expect(not lab.vm1.run("pgrep -f 'sleep 471[1]'").ok, "the command still runs")


def test_exec_client_killed(lab):
    """When the client dies its command dies, in the middle of a stream too; a session of its own survives."""
    script = "setsid sleep 4712 & until [ $(ps -o sid= -p $!) = $! ]; do :; done; cat /dev/zero"
    client = subprocess.Popen([SHUNT_LAB, "exec", "vm1", "--", "sh", "-c", script],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    client.stdout.read(1_000_000)
    client.kill()
    client.wait()
    wait_until(lambda: not lab.vm1.run("pgrep -x cat").ok, 10, "the command is dead")
    for _ in range(20):
        expect_equal(lab.vm1.sh("echo alive"), "alive\n", "the port after an abandoned stream")
    lab.vm1.sh("pkill -f 'sleep 471[2]'")


def test_exec_parallel(lab):
    """Seven commands at once in one guest."""
    running = [lab.vm1.bg(f"sleep 0.5; echo {i}") for i in range(agent.PORTS - 1)]
    for i, background in enumerate(running):
        expect_equal(background.wait().out, f"{i}\n", "output")


def test_background(lab):
    """A command in the background is watched while it runs, and stops when told."""
    background = lab.vm1.bg("trap 'echo bye; exit 3' INT; echo here; while :; do sleep 0.1; done")
    background.wait_output("here")
    expect(background.running, "it runs")
    result = background.stop()
    expect_equal((result.status, result.out), (3, "here\nbye\n"), "after SIGINT")


def test_background_stopped_at_once(lab):
    """A command told to stop before it has begun, or in its first moments, stops."""
    for delay in [0] * 10 + [n / 1000 for n in range(20)]:
        background = lab.vm1.bg("exec sleep 4713")
        time.sleep(delay)       # any moment at all is what is tested
        expect_equal(background.stop(signal.SIGTERM, timeout=10).status, 128 + signal.SIGTERM, f"after {delay} s")
    expect(not lab.vm1.run("pgrep -f 'sleep 471[3]'").ok, "one still runs")


def test_exec_latency(lab):
    """The agent answers quickly: a median of less than 100 ms for a whole command, emulated."""
    times = []
    for _ in range(11):
        start = time.monotonic()
        lab.vm1.sh("true")
        times.append(time.monotonic() - start)
    print(f"median {sorted(times)[5] * 1000:.1f} ms")
    expect(sorted(times)[5] < 0.1, f"median of {times}")


def test_put_get(lab):
    """put and get keep contents and mode."""
    with tempfile.TemporaryDirectory() as name:
        source = pathlib.Path(name) / "some file"
        source.write_bytes(os.urandom(3_000_001))
        source.chmod(0o741)
        expect_equal(command("put", "vm1", str(source), "/tmp/some file").returncode, 0, "put")
        target = pathlib.Path(name) / "back"
        expect_equal(command("get", "vm1", "/tmp/some file", str(target)).returncode, 0, "get")
        expect(target.read_bytes() == source.read_bytes(), "contents differ")
        expect_equal(oct(target.stat().st_mode), oct(source.stat().st_mode), "mode")
        lab.vm1.sh("rm '/tmp/some file'")
        done = command("get", "vm1", "/no/such", name)
        expect(done.returncode == 1 and b"No such file" in done.stderr, f"a missing file: {done}")


def test_network(lab):
    """Guests reach each other and their host by name, over IPv4 and IPv6, with the MACs the lab gave them."""
    for target in ("vm2", "vm2-6", "host1", "fd77::1"):
        lab.vm1.sh(f"ping -q -c 1 -W 5 {target}")
    expect(lab.vm2.mac in lab.vm1.sh("ip neigh show to 10.77.0.12"), "MAC of vm2")
    lab.host1.sh("ping -q -c 1 -W 5 10.77.0.11")


def test_ssh(lab):
    """Guests may ssh to each other, nothing asked."""
    expect_equal(lab.vm1.sh("ssh vm2 hostname"), "vm2\n", "ssh")


@allows("^vm2: ")
def test_panic_stays(lab):
    """A panicked guest is seen by QEMU, and its console says so."""
    lab.vm2.bg("echo 0 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger")
    wait_until(lambda: lab.vm2.qmp("query-status")["status"] == "guest-panicked", 30, "QEMU saw the panic")
    console = pathlib.Path(lab.vm2.directory) / "console.log"
    wait_until(lambda: "sysrq triggered crash" in console.read_text(errors="replace"), 10, "the console says panic")
    lab.vm2.kill()
    lab.vm2.start()
    lab.vm1.sh("ping -q -c 1 -W 5 vm2")


def test_reboot(lab):
    """A guest that reboots comes back, in the same QEMU."""
    pid = lab.vm2.record["qemu"]["pid"]
    lab.vm2.reboot()
    expect_equal(lab.vm2.record["qemu"]["pid"], pid, "pid")


def test_kill_start(lab):
    """kill -9 of a VM and its return."""
    expect_equal(command("kill", "vm2").returncode, 0, "kill")
    done = command("exec", "vm2", "--", "true")
    expect(done.returncode == 1 and b"does not run" in done.stderr, f"exec on a dead VM: {done}")
    expect_equal(command("start", "vm2").returncode, 0, "start")
    lab.vm1.sh("ping -q -c 1 -W 5 vm2")


def test_up_twice(lab):
    """A second `up` says that a lab is up and harms nothing."""
    done = command("up")
    expect(done.returncode == 1 and b"is up already" in done.stderr, f"{done}")
    lab.vm1.sh("true")


@limit(120)
def test_down_leaves_nothing(lab):
    """Ctrl-C in the middle of `up` removes everything, and so does `down`."""
    with tempfile.TemporaryDirectory() as name:
        env = os.environ | {"SHUNT_LAB_DIR": f"{name}/l"}
        up = subprocess.Popen([SHUNT_LAB, "up", "--vms", "1", "--no-shunt"], env=env, stderr=subprocess.PIPE,
                              stdout=subprocess.DEVNULL)
        for line in up.stderr:
            if b"booting vm1" in line:
                break
        wait_until(lambda: any("process" in x for x in remains(f"{name}/l")), 10, "QEMU runs")
        up.send_signal(2)
        expect(up.wait(30) != 0, "an interrupted up says success")
        expect_equal(remains(f"{name}/l"), [], "left after Ctrl-C")
        subprocess.run([SHUNT_LAB, "-q", "up", "--vms", "1", "--no-shunt"], env=env, check=True, timeout=90,
                       stdout=subprocess.DEVNULL)
        expect(remains(f"{name}/l"), "the check for remains sees a running lab")
        subprocess.run([SHUNT_LAB, "down"], env=env, check=True, timeout=30)
        expect_equal(remains(f"{name}/l"), [], "left after down")


def test_state_of_others(lab):
    """A recorded pid whose process is another by now is not killed."""
    with subprocess.Popen(["sleep", "60"]) as other:
        record = state.process(other.pid)
        record["start"] -= 1
        expect(state.kill(record), "counts as gone")
        expect_equal(other.poll(), None, "the other process")
        other.kill()
