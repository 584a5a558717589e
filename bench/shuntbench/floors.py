# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""
What must hold, and whether it does. A ratio's floor is judged on the medians of at least ten alternating pairs; "not
below 1.0x" means that the upper end of the one-sided 95 % interval of the ratio is not below 1.0.
"""
import dataclasses

KIB = 1024
PAIRS = 10
HELD, MISSED, OPEN = "held", "MISSED", "not judged"


@dataclasses.dataclass
class Verdict:
    """One floor, judged for one row."""
    floor: str
    state: str


def floor_of(row):
    """The least ratio to the network of virtio-net over tap this row must reach; None: only not slower."""
    test, setup = row.test, row.setup
    if setup.vcpus != 1 or setup.vms != 2:
        return None
    if test.tool in ("redis-benchmark", "wrk"):
        return 1.3
    if test.connections != 1 or test.offered:
        return None
    if test.mode == "stream":
        return 2.5 if test.bytes >= 64 * KIB else {KIB: 1.2, 64: 1.2}.get(test.bytes)
    if test.mode == "udp-stream":
        return {64: 2.0, 16 * KIB: 4.0}.get(test.bytes)
    if test.mode in ("rr", "udp-rr"):
        return 3.0 if test.bytes == 16 * KIB else 2.5 if test.bytes < 16 * KIB else None
    return 1.8 if test.mode == "crr" else None


def judge(results, row):
    """The verdicts of a row of the packet path; [] for others, and for those without a network's figure."""
    against = results.against_network(row) if row.variant == "packet" else None
    if not against:
        return []
    ratio, _, upper, pairs = against
    enough = pairs >= PAIRS

    def verdict(text, good):
        return Verdict(text, (HELD if good else MISSED) if enough else OPEN)
    found = [verdict("1.0x", upper is not None and upper >= 1.0)]
    floor = floor_of(row)
    if floor:
        found.append(verdict(f"{floor}x", ratio >= floor))
    base = results.rows[(row.setup.name, row.test.key, "network")]
    if row.test.mode in ("stream", "udp-stream") and not row.test.offered and row.per_gb() and base.per_gb():
        found.append(verdict("CPU", row.per_gb() < base.per_gb()))
    return found


def words(verdicts):
    """A cell of the table."""
    if not verdicts:
        return ""
    missed = [v.floor for v in verdicts if v.state == MISSED]
    if missed:
        return "MISSED " + ", ".join(missed)
    if any(v.state == OPEN for v in verdicts):
        return f"not judged ({', '.join(v.floor for v in verdicts)})"
    return "held " + ", ".join(v.floor for v in verdicts)
