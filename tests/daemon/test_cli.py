# SPDX-License-Identifier: GPL-2.0-only
"""
`shunt` against whatever may answer on a control socket, under the sanitizers: it ends with a documented status, says
nothing a terminal would obey, and touches no memory it should not. And mutants of it, which must be noticed.
"""
import json
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import threading

from harness import SHUNT, check, equal, run

from fakevm import Failure

COMMANDS = ("status", "peers", "links", "stats", "version", "attach", "detach")
REPORT = 99     # exit status of a sanitizer's report
RANDOM = 1500 if os.environ.get("SHUNT_SOAK") else 40
MAX = 64 << 20


class Answerer:
    """Answers each connection to a control socket with the same bytes, in pieces, and hangs up."""

    def __init__(self, path):
        self.path, self.data, self.read = path, b"", True
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen(16)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            client, _ = self.sock.accept()
            try:
                if self.read:
                    client.recv(1 << 16)
                half = len(self.data) // 2
                client.sendall(self.data[:half])
                client.sendall(self.data[half:])
            except OSError:
                pass        # it had enough
            client.close()


def shunt(program, path, *words):
    env = os.environ | {"ASAN_OPTIONS": f"exitcode={REPORT}", "UBSAN_OPTIONS": f"exitcode={REPORT}"}
    try:
        return subprocess.run([program, "--socket", path, *words], env=env, capture_output=True, timeout=30)
    except subprocess.TimeoutExpired:
        raise Failure(f"{words}: hangs") from None


def fault(done, human):
    """What is wrong with how it ended, or None."""
    if done.returncode not in (0, 1, 2, 3):
        return f"status {done.returncode}"
    if re.search(rb"Sanitizer|runtime error", done.stderr):
        return "a sanitizer's report"
    if human and re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", done.stdout + done.stderr):
        return "control characters"
    if b"(null)" in done.stdout + done.stderr:
        return "(null)"
    return None


def try_answer(program, server, data, command, *, option=(), read=True):
    """Let it have that answer; how it ended, and what is wrong with that."""
    server.data, server.read = data, read
    words = [command, "vm"] if command in ("attach", "detach") else [command]
    done = shunt(program, server.path, *words, *option)
    wrong = fault(done, not option)
    return done, wrong and f"{command} answered {data[:300]!r}: {wrong}: {done.stdout[-300:]} {done.stderr[-2000:]}"


def line(value):
    return json.dumps(value).encode() + b"\n"


def good(result):
    return line({"ok": True, "result": result})


def hostile(sample):
    """(answer, statuses that are right)."""
    whole = good(sample["status"])
    vm, pair = sample["status"]["vms"][0], sample["peers"][0]
    yield from ((data, {3}) for data in (
        b"", b"\n", b"{", b"\0\n", b"\xff\xfe\n", b"[" * 100000 + b"\n", b"{\"ok\":" * 5000 + b"\n", b"nonsense\n",
        whole[:-1], whole[:len(whole) // 2] + b"\n", b"{\"ok\": true, \"result\": \"\\ud800\"}\n", b"x" * 200000,
        b"{\"ok\": 1e999999}\n", b"{\"ok\": 99999999999999999999999}\n", b"{\"a\\u0000b\": 1}\n"))
    yield from ((data, {1}) for data in (
        b"[]\n", b"{}\n", line({"ok": "yes"}), line({"ok": True}), good(None), good(7), good("x" * 100000),
        line({"ok": False}), line({"ok": False, "error": 5, "hint": []}), line({"ok": False, "error": "x" * 300000}),
        line({"ok": False, "error": "\x1b]0;owned\x07", "hint": "\x9b31m\u009b31m\x7f"})))
    long, escape = "n" * 70000, "\x1b[2J\u009b2J\r\t"
    for result in ([], {}, [None] * 50, [[]], {"vms": 5, "pairs": "x"}, {"vms": [1, None, "x", [], {}]},
                   {"vms": [dict.fromkeys(vm, 5)], "pairs": [dict.fromkeys(pair, 5)]},
                   {"vms": [dict.fromkeys(vm, long)], "pairs": [dict.fromkeys(pair, long)]},
                   {"vms": [dict.fromkeys(vm, escape)], "pairs": [dict.fromkeys(pair, escape)]},
                   {"vms": [vm | {"notes": [None, 3, escape, {}]}], "shared_bytes": -1},
                   {"vms": [vm | {"id": -2**63, "macs": [long, 5]}], "shared_bytes": 2**63 - 1},
                   [dict.fromkeys(pair, 5)], [dict.fromkeys(pair, escape)], [pair | {"ends": [escape]}],
                   [pair | {"ends": [dict.fromkeys(pair["ends"][0], long), None]}],
                   [pair | {"ends": [{"stats": {"tx_frames": 2**63 - 1, "rx_frames": "x"}}]}],
                   [pair | {"tx_bytes_a": 1e308, "epoch": 1e308, "late": escape}], [pair] * 3000):
        yield good(result), {0, 1}


def mutate(dice, value):
    """Another value somewhere in it."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(sorted(value))
        return value | {key: mutate(dice, value[key])}
    if isinstance(value, list) and value and dice.random() < 0.9:
        i = dice.randrange(len(value))
        return value[:i] + [mutate(dice, value[i])] * dice.choice((0, 1, 1, 1, 40)) + value[i + 1:]
    return dice.choice((None, True, -1, 2**63 - 1, -2**63, 1e300, "", "\x1b[31m", "%s%n%n", "y" * dice.randrange(5000),
                        [], {}, [[]], {"reason": 5}, {"text": 1, "detail": [], "hint": {}}))


def samples(w):
    w.linked()
    return {command: w.d.result(command) for command in ("status", "peers", "links", "stats", "version")}


def check_all(program, server, sample):
    """Every hostile answer to every command; what is wrong, or None."""
    for data, right in hostile(sample):
        # What is no result at all is seen in one place, whatever was asked.
        for command in COMMANDS if right == {0, 1} else ("status", "attach"):
            done, wrong = try_answer(program, server, data, command)
            if not wrong and done.returncode not in right:
                wrong = f"{command} answered {data[:300]!r}: status {done.returncode}, not {right}: {done.stderr[-500:]}"
            if wrong:
                return wrong
    return None


def test_hostile_answers(w):
    """Truncated, nested, huge, of wrong types, with control characters: each command says so or prints what it can."""
    sample = samples(w)
    server = Answerer(f"{w.work}/answers")
    for command, result in sample.items():
        for option in ((), ("--json",)):
            done, wrong = try_answer(SHUNT, server, good(result), command, option=option)
            check(not wrong and done.returncode == 0 and done.stdout, wrong or done)
    wrong = check_all(SHUNT, server, sample)
    check(not wrong, wrong)


def test_mutated_answers(w):
    """True answers with something else somewhere in them; a seed that fails is printed with the answer."""
    sample = samples(w)
    server = Answerer(f"{w.work}/answers")
    for seed in range(RANDOM):
        dice = random.Random(seed)
        command = dice.choice(sorted(sample))
        value = {"ok": True, "result": sample[command]}
        for _ in range(dice.choice((1, 1, 2, 8))):
            value = mutate(dice, value)
        data = line(value)
        if dice.random() < 0.2:
            data = data[:dice.randrange(len(data))] + bytes(dice.randrange(256) for _ in range(8)) + b"\n"
        option = dice.choice(((), ("--json",)))
        done, wrong = try_answer(SHUNT, server, data, command, option=option)
        check(not wrong, f"seed {seed}: {wrong}")
        check(done.returncode in (0, 1, 3), f"seed {seed}: {done}")


def test_rude_servers(w):
    """One that hangs up before it was asked, and one that never stops talking."""
    server = Answerer(f"{w.work}/answers")
    for _ in range(10):
        done, wrong = try_answer(SHUNT, server, b"", "status", read=False)
        check(not wrong and done.returncode == 3 and b"without an answer" in done.stderr, wrong or done)
    done, wrong = try_answer(SHUNT, server, b"x" * (MAX + (1 << 20)), "status")
    check(not wrong and done.returncode == 3, wrong or done)
    done = shunt(SHUNT, server.path, "attach", b"\xff\xfe")
    equal(done.returncode, 2, f"a name that is not UTF-8: {done}")


MUTANTS = (
    # what the check is for, file, text, replacement
    ("address", "cli/host.c", "recv(fd, buf + len, size - len, 0)", "recv(fd, buf + len, size - len + 64, 0)"),
    ("undefined", "cli/print.c", "int u = 0;", "int u = 0x7fffffff; u += n < 0;"),
    ("leak", "cli/print.c", "\tfree(copy);\n", ""),
    ("control characters", "cli/main.c", "\t\tmake_printable(result);\n", ""),
    ("(null)", "cli/print.c", "if (json_is_string(n))", "if (n)"),
    ("status", "cli/host.c", "json_is_array(result) : json_is_object(result)", "1 : 1"),
)


def test_mutants_are_noticed(w):
    """Builds of the command with one fault each, by the same compiler flags: the table above finds every one."""
    sample = samples(w)
    server = Answerer(f"{w.work}/answers")
    compiler = shlex.split(os.environ["SHUNT_SANITIZED"])
    compiler += ["-Iinclude", "-I.", "-D_GNU_SOURCE", '-DSHUNT_VERSION="mutant"']
    libs = subprocess.run(["pkg-config", "--libs", "jansson", "libmnl"], capture_output=True, text=True, check=True)
    for what, file, text, other in MUTANTS:
        tree = f"{w.work}/mutant"
        shutil.copytree("cli", f"{tree}/cli")
        with open(file, encoding="utf-8") as f:
            source = f.read()
        equal(source.count(text), 1, f"{what}: {file} has {text!r} so often")
        with open(f"{tree}/{file}", "w", encoding="utf-8") as f:
            f.write(source.replace(text, other))
        sources = sorted(f"{tree}/cli/{name}" for name in os.listdir("cli") if name.endswith(".c"))
        subprocess.run([*compiler, f"-I{tree}", "-w", "-o", f"{tree}/shunt", *sources, "daemon/reason.c",
                        *libs.stdout.split()], check=True)
        wrong = check_all(f"{tree}/shunt", server, sample)
        check(wrong, f"a mutant was not noticed: {what}")
        print(f"  {what}: {wrong.splitlines()[0][-160:]}", flush=True)
        shutil.rmtree(tree)


if __name__ == "__main__":
    run([test for name, test in list(globals().items()) if name.startswith("test_")])
