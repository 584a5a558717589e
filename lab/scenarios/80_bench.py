# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The bench works: its smallest run takes figures on every path, and an interrupted one leaves nothing but them."""
import json
import os
import pathlib
import subprocess
import tempfile

from shuntlab.paths import TOP
from shuntlab.remains import remains
from shuntlab.scenario import expect, expect_equal, limit

SETUP = {"vms": 2, "no_shunt": True}    # that of the lab's own scenarios; the bench boots VMs of its own
KEYS = {"test", "tool", "direction", "bytes", "connections", "vcpus", "kernel", "path", "value", "unit", "p50", "p99",
        "p999", "cpu_s_per_gb", "runs", "ratio_to_network", "ratio_to_raw_ring"}
RUN = str(TOP / "bench/run")


def started(directory, *args):
    """The bench, with its lab and its output in @directory."""
    return subprocess.Popen([RUN, "--out", f"{directory}/out", *args], stdin=subprocess.DEVNULL, text=True,
                            env=os.environ | {"SHUNT_LAB_DIR": f"{directory}/l"},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@limit(240)
def test_bench_smoke(_lab):
    """Every path and rival gives figures, in the results' form; a plot is drawn; no VM or switch is left."""
    with tempfile.TemporaryDirectory() as name:
        bench = started(name, "--smoke")
        out, err = bench.communicate(timeout=220)
        print(out, err)
        expect_equal(bench.returncode, 0, "status")
        expect_equal(remains(f"{name}/l"), [], "left")
        rows = json.loads(pathlib.Path(f"{name}/out/results.json").read_text())
        expect_equal({frozenset(row) for row in rows}, {frozenset(KEYS)}, "keys of the rows")
        streams = {(row["test"], row["path"]) for row in rows if row["bytes"] == 65536}
        expect_equal(streams, {("TCP stream", "network"), ("TCP stream", "packet"), ("TCP stream, e1000", "network"),
                               ("TCP stream, vhost-user", "network"), ("TCP stream, in-guest loopback", None)}, "paths")
        expect_equal({row["test"].split(",")[0] for row in rows}, {
            "TCP stream", "UDP stream received", "TCP request-response", "TCP connect-request-response"}, "tests")
        for row in rows:
            expect(row["value"] > 0 and len(row["runs"]) == 2 and row["ratio_to_network"] > 0, f"{row}")
            expect((row["p50"] is not None) == (row["unit"] == "1/s"), f"quantiles of transactions alone: {row}")
            expect(not row["p50"] or row["p50"] <= row["p99"] <= row["p999"], f"quantiles in order: {row}")
            expect(row["cpu_s_per_gb"] > 0, f"CPU: {row}")
        for file in ("tcp-stream.svg", "results.md"):
            expect(pathlib.Path(f"{name}/out/{file}").stat().st_size > 1000, file)


@limit(120)
def test_bench_interrupted(_lab):
    """Ctrl-C in the middle: what was measured is kept and says that it is not all, and nothing else is left."""
    with tempfile.TemporaryDirectory() as name:
        bench = started(name, "--only", r"\[main\] TCP stream, load, 64 B.*vm1->vm2", "--pairs", "500", "--seconds", "0.1")
        for line in bench.stderr:
            print(line, end="")
            if "pair 1/500" in line:
                break
        expect(any("process" in x for x in remains(f"{name}/l")), "the check for remains sees a running bench")
        bench.send_signal(2)
        _, err = bench.communicate(timeout=60)
        print(err)
        expect_equal(bench.returncode, 130, "status")
        expect_equal(remains(f"{name}/l"), [], "left")
        rows = json.loads(pathlib.Path(f"{name}/out/results.json").read_text())
        expect_equal({row["path"] for row in rows}, {"network", "packet"}, "paths")
        expect("ended early" in pathlib.Path(f"{name}/out/results.md").read_text(), "results.md says so")
