/* SPDX-License-Identifier: GPL-2.0-only */
/* What targets that are fed text share: JSON with one value or another changed, and what QEMU would answer. */
#ifndef TESTS_FUZZ_TEXT_H
#define TESTS_FUZZ_TEXT_H

#include <jansson.h>

#include "input.h"

/* A value of another kind, or out of bounds. */
static inline json_t *text_value(struct input *in)
{
	static const char *const words[] = {
		"", "shunt-", "vm1", "a\nb", "../..", "ffffffffffffffff", "-1", "52540000000",
	};

	switch (input_byte(in) % 9) {
	case 0:
		return json_null();
	case 1:
		return json_boolean(input_byte(in) & 1);
	case 2:
		return json_integer((json_int_t)input_word(in, 8));
	case 3:
		return json_integer(input_byte(in));
	case 4:
		return json_string(words[input_byte(in) % 8]);
	case 5:
		return json_object();
	case 6:
		return json_array();
	case 7:
		return json_pack("[{s:s}]", "name", "x");
	default:
		return json_sprintf("%0*d", input_byte(in) * 4, 7);	/* longer than any name */
	}
}

/* Change, drop or add the value number *@n of @at, counted from the top; true once that is done. */
static inline _Bool text_change(json_t *at, unsigned int *n, struct input *in)
{
	const char *key;
	json_t *value;
	size_t i;
	void *tmp;

	json_object_foreach_safe(at, tmp, key, value) {
		if ((*n)--) {
			if (text_change(value, n, in))
				return 1;
			continue;
		}
		if (input_byte(in) % 4)
			json_object_set_new(at, key, text_value(in));
		else
			json_object_del(at, key);
		return 1;
	}
	json_array_foreach(at, i, value) {
		if ((*n)--) {
			if (text_change(value, n, in))
				return 1;
			continue;
		}
		if (input_byte(in) % 4)
			json_array_set_new(at, i, text_value(in));
		else
			json_array_append(at, value);
		return 1;
	}
	return 0;
}

#endif
