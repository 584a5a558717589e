/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Times in a histogram of 64 steps per power of two (1.6 % wide at most), so that a run of any length costs the same
 * memory and the time of recording never depends on what was recorded.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEP_BITS 6
#define HISTOGRAM_STEPS (1u << HISTOGRAM_STEP_BITS)
#define HISTOGRAM_BINS ((64 - HISTOGRAM_STEP_BITS + 1) * HISTOGRAM_STEPS)

struct histogram {
	uint64_t count;
	uint64_t bins[HISTOGRAM_BINS];
};

static inline unsigned int histogram_bin(uint64_t ns)
{
	unsigned int shift;

	if (ns < HISTOGRAM_STEPS)
		return ns;
	shift = 63 - __builtin_clzll(ns) - HISTOGRAM_STEP_BITS;
	return (shift + 1) * HISTOGRAM_STEPS + (unsigned int)((ns >> shift) - HISTOGRAM_STEPS);
}

/* The middle of a bin. */
static inline double histogram_value(unsigned int bin)
{
	unsigned int shift = bin / HISTOGRAM_STEPS;

	if (!shift)
		return bin;
	return ((double)(HISTOGRAM_STEPS + bin % HISTOGRAM_STEPS) + 0.5) * (double)(1ull << (shift - 1));
}

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
	h->bins[histogram_bin(ns)]++;
	h->count++;
}

static inline void histogram_merge(struct histogram *into, const struct histogram *from)
{
	unsigned int i;

	for (i = 0; i < HISTOGRAM_BINS; i++)
		into->bins[i] += from->bins[i];
	into->count += from->count;
}

/* The time that @share (0..1) of all do not exceed, in ns; 0 if nothing was recorded. */
static inline double histogram_quantile(const struct histogram *h, double share)
{
	uint64_t seen = 0, wanted = (uint64_t)(share * (double)h->count);
	unsigned int i;

	if (!h->count)
		return 0;
	if (wanted >= h->count)
		wanted = h->count - 1;
	for (i = 0; i < HISTOGRAM_BINS; i++) {
		seen += h->bins[i];
		if (seen > wanted)
			break;
	}
	return histogram_value(i);
}

#endif
