/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What a fuzz target is made of: its entry point, its input, and what it asserts.
 *
 * An input is read from both ends: what the target does next from the front, what the hostile side does in
 * between (hooks.h) from the back. So a mutation of one hardly disturbs the other.
 */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *front, *back;
};

/* A broken invariant ends the process as a sanitizer would: the engine keeps the input. */
#define DEMAND(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

static inline size_t input_left(const struct input *in)
{
	return (size_t)(in->back - in->front);
}

/* The next byte from the front; 0 when there are none. */
static inline uint8_t input_byte(struct input *in)
{
	return in->front < in->back ? *in->front++ : 0;
}

static inline uint64_t input_word(struct input *in, unsigned int bytes)
{
	uint64_t v = 0;

	while (bytes--)
		v = v << 8 | input_byte(in);
	return v;
}

/* The next byte from the back. */
static inline uint8_t input_last(struct input *in)
{
	return in->front < in->back ? *--in->back : 0;
}

static inline uint64_t input_last_word(struct input *in, unsigned int bytes)
{
	uint64_t v = 0;

	while (bytes--)
		v = v << 8 | input_last(in);
	return v;
}

#endif
