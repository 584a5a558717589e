# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""The figures as they come in, and the rows that are made of them."""
import json
import statistics

from . import stats

NAMES = {"e1000": "e1000", "vhost-user": "vhost-user", "loopback": "in-guest loopback"}
GIGA = 1e9


class Row:
    """One test on one path in one set-up: its runs, numbered by pair."""

    def __init__(self, setup, test, variant):
        self.setup = setup
        self.test = test
        self.variant = variant
        self.samples = {}

    @property
    def values(self):
        """The figures, in the order they were taken."""
        return [self.samples[i].value for i in sorted(self.samples)]

    @property
    def value(self):
        """Their median."""
        return statistics.median(self.values)

    def middle(self, name):
        """The median of something the runs may have said; None if none did."""
        said = [getattr(sample, name) for sample in self.samples.values() if getattr(sample, name) is not None]
        return statistics.median(said) if said else None

    def per_gb(self, name="cpu"):
        """Seconds of CPU per gigabyte delivered."""
        said = [getattr(s, name) / (s.moved / GIGA) for s in self.samples.values() if s.moved and s.cpu is not None]
        return statistics.median(said) if said else None


class Results:
    """All rows of a bench, and what went wrong on the way."""

    def __init__(self, machine, raw):
        self.machine = machine
        self.raw = raw              # what a bare ring does on this host: {"stream": bit/s, "rr": 1/s}
        self.rows = {}
        self.notes = []

    def add(self, setup, test, variant, pair, sample):
        """One more run."""
        key = (setup.name, test.key, variant)
        if key not in self.rows:
            self.rows[key] = Row(setup, test, variant)
        self.rows[key].samples[pair] = sample

    def note(self, setup, words):
        """Something a reader of the figures must know."""
        self.notes.append(f"{setup.name}: {words}")

    def against_network(self, row):
        """(ratio, lower bound, upper bound, pairs) of a row to the network's in the same set-up, or None."""
        base = self.rows.get((row.setup.name, row.test.key, "network"))
        if not base:
            return None
        common = sorted(set(base.samples) & set(row.samples))
        if not common:
            return None
        pairs = [(base.samples[i].value, row.samples[i].value) for i in common]
        return (*stats.ratio(pairs, row.test.less_is_better), len(common))

    def against_ring(self, row):
        """The share of what a bare ring between two processes of the host does; None where it does not apply."""
        test = row.test
        kind = test.mode if test.tool == "load" and row.variant == "packet" else None
        if kind not in self.raw or test.connections > 1 or (kind == "stream") != (test.bytes >= 65536):
            return None
        return row.value / self.raw[kind]

    def json_row(self, row):
        """A row in the form all of the project's results have."""
        test, ratio = row.test, self.against_network(row)
        rival = NAMES.get(row.variant)
        return {"test": test.name + (f", {rival}" if rival else ""), "tool": test.tool, "direction": test.direction,
                "bytes": test.bytes, "connections": test.connections, "vcpus": row.setup.vcpus,
                "kernel": row.setup.kernels,
                "path": None if row.variant == "loopback" else "packet" if row.variant == "packet" else "network",
                "value": row.value, "unit": test.unit, "p50": row.middle("p50"), "p99": row.middle("p99"),
                "p999": row.middle("p999"), "cpu_s_per_gb": row.per_gb(), "runs": row.values,
                "ratio_to_network": ratio[0] if ratio else None, "ratio_to_raw_ring": self.against_ring(row)}

    def write_json(self, path):
        """results.json."""
        rows = [self.json_row(row) for row in self.rows.values()]
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(rows, indent=1) + "\n")
        fresh.rename(path)
