# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""results.md: the figures for people."""
from . import floors, results as res, stats

PREFIXES = [(1e9, "G"), (1e6, "M"), (1e3, "k")]


def figure(value):
    """Three digits that say something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def amount(value, unit):
    """A value with its unit: 3.12 Gbit/s, 1750 /s, 488 us."""
    if unit == "bit/s":
        for scale, letter in PREFIXES:
            if value >= scale:
                return f"{figure(value / scale)} {letter}bit/s"
    return f"{figure(value)} {unit.replace('1/s', '/s')}"


def size(count):
    """64 B, 16 KiB."""
    if count is None:
        return "-"
    return f"{count // 1024} KiB" if count >= 1024 and count % 1024 == 0 else f"{count} B"


def times(row):
    """Quantiles in microseconds, where a run said them."""
    said = [row.middle(name) for name in ("p50", "p99", "p999")]
    return " / ".join("-" if x is None else figure(x) for x in said) if any(said) else ""


def per_gb(row, name):
    """CPU per byte, of streams: of small answers it says no more than their number does."""
    return figure(row.per_gb(name)) if row.test.unit == "bit/s" and row.per_gb(name) is not None else ""


def interval(against):
    """A ratio with its bounds."""
    if not against:
        return ""
    ratio, low, high, _ = against
    return f"{ratio:.2f}x" + (f" ({low:.2f}..{high:.2f})" if low is not None else "")


def setup_words(setup):
    """What is booted."""
    return f"kernel {setup.kernels}, {setup.vms} VMs of {setup.vcpus} vCPU" + ("s" if setup.vcpus > 1 else "")


def cells(results, row):
    """One line of a table."""
    test = row.test
    base = row.variant == "network"
    return [test.name, test.tool, size(test.bytes), str(test.connections), test.direction,
            res.NAMES.get(row.variant, "network" if base else "Shunt"), amount(row.value, test.unit),
            f"{100 * stats.spread(row.values):.0f} %", times(row),
            per_gb(row, "cpu"), per_gb(row, "host_cpu"),
            "" if base else interval(results.against_network(row)), floors.words(floors.judge(results, row))]


HEAD = ["test", "tool", "message", "flows", "direction", "path", "median", "spread", "p50 / p99 / p99.9 us",
        "CPU s/GB", "host s/GB", "ratio to network", "floors"]


def table(head, lines):
    """A table in Markdown."""
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)] + ["| " + " | ".join(x) + " |" for x in lines]


def setups(results):
    """The set-ups that have rows, in order."""
    return list({row.setup.name: row.setup for row in results.rows.values()}.values())


def missed(results):
    """Every floor that was judged and missed, in words."""
    found = []
    for row in results.rows.values():
        for verdict in floors.judge(results, row):
            if verdict.state == floors.MISSED:
                what = f"{row.test.name}, {row.test.tool}, {size(row.test.bytes)}, {row.test.flows}, " \
                       f"{row.test.direction}, {setup_words(row.setup)}"
                had = interval(results.against_network(row))
                if verdict.floor == "CPU":
                    base = results.rows[(row.setup.name, row.test.key, "network")]
                    had = f"{figure(row.per_gb())} s/GB, the network {figure(base.per_gb())}"
                found.append(f"{what}: {verdict.floor} wanted, {had}")
    return found


def verdict_lines(results):
    """How the floors stand."""
    verdicts = [v for row in results.rows.values() for v in floors.judge(results, row)]
    count = {state: sum(v.state == state for v in verdicts) for state in (floors.HELD, floors.MISSED, floors.OPEN)}
    lines = [f"{count[floors.HELD]} held, {count[floors.MISSED]} missed, {count[floors.OPEN]} not judged "
             f"(fewer than {floors.PAIRS} pairs)."]
    return lines + [f"- missed: {line}" for line in missed(results)]


def markdown(results, plots, complete):
    """All of results.md."""
    machine = results.machine
    lines = ["# Bench", "", "How these figures are taken and what they mean: bench/README.md.", ""]
    if not complete:
        lines += ["**The run was ended early: what follows is what had been measured.**", ""]
    lines += table(["the machine", ""], [[k, str(v)] for k, v in machine.items()]) + [""]
    if results.raw:
        lines += ["A bare ring between two processes of this host: "
                  f"{amount(results.raw['stream'], 'bit/s')} in records of 64 KiB, {results.raw['rr'] / 1e6:.1f} million "
                  "round trips a second.", ""]
    lines += ["## Floors", ""] + verdict_lines(results) + [""]
    if results.notes:
        lines += ["## Seen on the way", ""] + [f"- {note}" for note in results.notes] + [""]
    if plots:
        lines += ["## Plots", ""] + [f"![{title}]({name})" for name, title in plots] + [""]
    for setup in setups(results):
        rows = [row for row in results.rows.values() if row.setup.name == setup.name]
        lines += [f"## {setup.name}: {setup_words(setup)}", ""]
        lines += table(HEAD, [cells(results, row) for row in rows]) + [""]
    return "\n".join(lines)
