# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""What is said of a handful of runs: medians, spread, and how sure a ratio is."""
import random
import statistics

RESAMPLES = 4000
SEED = 3            # the same runs give the same bounds
CONFIDENCE = 0.95   # of each bound alone


def quartiles(values):
    """The lower and upper quartile; of fewer than three values, the extremes."""
    if len(values) < 3:
        return min(values), max(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def spread(values):
    """Half the distance of the quartiles as a share of the median."""
    middle = statistics.median(values)
    low, high = quartiles(values)
    return (high - low) / 2 / middle if middle else 0.0


def ratio(pairs, less_is_better):
    """
    How many times better the second of each pair is: (ratio of the medians, lower bound, upper bound). The bounds are
    one-sided 95 % ones, from resampling the pairs; with fewer than four pairs there is nothing to resample: None.
    """
    def better(chosen):
        before = statistics.median(p[0] for p in chosen)
        after = statistics.median(p[1] for p in chosen)
        if less_is_better:
            before, after = after, before
        return after / before if before else float("inf")
    if len(pairs) < 4:
        return better(pairs), None, None
    dice = random.Random(SEED)
    tries = sorted(better(dice.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    edge = int(RESAMPLES * (1 - CONFIDENCE))
    return better(pairs), tries[edge], tries[-1 - edge]
