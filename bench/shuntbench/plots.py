# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
The plots, by gnuplot, from results.json alone: throughput and transactions over message size in the manner of figures
3 and 4 of the survey (Ren et al.), times of a round trip, and what stability means there (3.6.3): message size, rate,
number of flows and of VMs. Points are medians, bars reach from the lower to the upper quartile of the runs.
"""
import json
import re
import shutil
import subprocess

from shuntlab.progress import say

from . import stats

PATHS = {"network": ("virtio-net over tap", "#c0392b", 7), "packet": ("Shunt", "#1f6fb2", 5),
         "e1000": ("e1000", "#7f8c8d", 9), "vhost-user": ("vhost-user", "#8e44ad", 11),
         "in-guest loopback": ("in-guest loopback", "#b08d57", 13)}
MAIN = {"kernel": "6.1", "vcpus": 1}
GIGA, MEGA, KILO = 1e9, 1e6, 1e3
HEAD = """set terminal svg size 640,420 dynamic font "sans,13" background "white"
set key below horizontal
set grid lc rgb "#dddddd"
set border 3
set tics nomirror
"""
SIZES = "\n".join(['set logscale x 2', 'set xlabel "message size"', 'set xrange [45:400000]',
                   'set xtics ("64 B" 64, "256 B" 256, "1 KiB" 1024, "4 KiB" 4096, "16 KiB" 16384, "64 KiB" 65536, '
                   '"256 KiB" 262144)'])


class Plot:
    """One drawing: which rows, what is on the axes."""

    def __init__(self, name, title, test, y, scale, x="bytes", axis=SIZES, column="value", tool="load", **same):
        self.name = name
        self.title = title
        self.test = re.compile(test)
        self.y = y
        self.scale = scale
        self.x = x
        self.axis = axis
        self.column = column
        self.same = MAIN | {"tool": tool} | same

    def position(self, row, match):
        """Where on the x axis: what the test's name says, or a column."""
        return float(match["x"]) if "x" in match.groupdict() else row[self.x]

    def points(self, rows):
        """{path: {x: (median, low, high)}}; of two set-ups with the same point the one with more runs counts."""
        found, runs = {}, {}
        for row in rows:
            test, _, rival = row["test"].partition(", ")
            path = rival if rival in PATHS else row["path"]
            match = self.test.fullmatch(test if rival in PATHS else row["test"])
            if not match or path not in PATHS or any(row[key] != value for key, value in self.same.items()):
                continue
            x = self.position(row, match)
            if row[self.column] is None or runs.get((path, x), 0) >= len(row["runs"]):
                continue
            runs[path, x] = len(row["runs"])
            low, high = stats.quartiles(row["runs"]) if self.column == "value" else (row["p50"], row["p99"])
            found.setdefault(path, {})[x] = [v / self.scale for v in (row[self.column], low, high)]
        return found

    def script(self, path, found):
        """What gnuplot is told."""
        lines = [HEAD, f'set output "{path}"', f'set title "{self.title}"', f'set ylabel "{self.y}"', self.axis,
                 "set yrange [0:*]" if "logscale y" not in self.axis else ""]
        curves = []
        for name in (name for name in PATHS if name in found):
            label, colour, shape = PATHS[name]
            data = "$" + re.sub("[^a-z0-9]", "_", name)
            lines += [f"{data} << END", *(f"{x} {v} {low} {high}" for x, (v, low, high) in sorted(found[name].items())),
                      "END"]
            curves += [f'{data} using 1:2 with lines lc rgb "{colour}" lw 1.6 notitle',
                       f'{data} using 1:2:3:4 with yerrorbars lc rgb "{colour}" pt {shape} ps 0.7 title "{label}"']
        return "\n".join(lines) + "\nplot " + ", ".join(curves) + "\n"


FLOWS = 'set logscale x 2\nset xlabel "flows"\nset xtics (1, 8, 64)\nset xrange [0.8:80]'
LOG_Y = SIZES + '\nset logscale y'
PLOTS = [
    Plot("tcp-stream", "TCP stream", "TCP stream", "Mbit/s", MEGA, axis=LOG_Y, connections=1, direction="vm1->vm2"),
    Plot("udp-stream", "UDP stream, received", "UDP stream received", "Mbit/s", MEGA, axis=LOG_Y, connections=1,
         direction="vm1->vm2"),
    Plot("tcp-transactions", "TCP transactions", "TCP request-response", "thousand/s", KILO, connections=1),
    Plot("udp-transactions", "UDP transactions", "UDP request-response", "thousand/s", KILO, connections=1),
    Plot("tcp-latency", "TCP round trip: median, bar to the 99th percentile", "TCP request-response", "us", 1,
         axis=LOG_Y, column="p50", connections=1),
    Plot("udp-latency", "UDP round trip: median, bar to the 99th percentile", "UDP request-response", "us", 1,
         axis=LOG_Y, column="p50", connections=1),
    Plot("tcp-flows", "TCP stream, 64 KiB writes, all flows together", "TCP stream", "Gbit/s", GIGA, "connections", FLOWS,
         bytes=65536, direction="vm1->vm2"),
    Plot("udp-flows", "UDP stream of 1400 B, received, all flows together", "UDP stream received", "Mbit/s", MEGA,
         "connections", FLOWS, bytes=1400, direction="vm1->vm2"),
    Plot("transaction-flows", "TCP transactions of 64 B, all flows together", "TCP request-response", "thousand/s", KILO,
         "connections", FLOWS, bytes=64),
    Plot("rate", "UDP, 1400 B: received over offered", r"UDP stream offered at (?P<x>\d+) Mbit/s, received", "Mbit/s",
         MEGA, axis='set xlabel "offered, Mbit/s"\nset xrange [0:*]'),
    Plot("tcp-vms", "TCP streams in a ring of VMs, 64 KiB writes, sum", r"TCP stream, ring of (?P<x>\d+) VMs", "Gbit/s",
         GIGA, axis='set xlabel "VMs"\nset xtics 1\nset xrange [1.5:6.5]'),
    Plot("udp-vms", "UDP streams in a ring of VMs, 1400 B, sum received",
         r"UDP stream received, ring of (?P<x>\d+) VMs", "Mbit/s", MEGA,
         axis='set xlabel "VMs"\nset xtics 1\nset xrange [1.5:6.5]'),
]


def draw(out):
    """Draw what there are figures for, from results.json in @out: [(file name, title)]."""
    if not shutil.which("gnuplot"):
        say("no plots: gnuplot is missing, lab/setup installs it")
        return []
    rows = json.loads((out / "results.json").read_text())
    drawn = []
    for plot in PLOTS:
        path = out / f"{plot.name}.svg"
        path.unlink(missing_ok=True)
        found = plot.points(rows)
        if max((len(points) for points in found.values()), default=0) < 2:
            continue                    # a point is no curve
        done = subprocess.run(["gnuplot"], input=plot.script(path, found), text=True, capture_output=True)
        if done.returncode or not path.exists():
            say(f"{path.name}: gnuplot: {done.stderr.strip()}")
            path.unlink(missing_ok=True)
            continue
        drawn.append((path.name, plot.title))
    return drawn
