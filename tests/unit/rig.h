/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * A ring with both halves and some extents in ordinary memory, each extent an allocation of exactly its
 * size, so that the address sanitizer sees a step beyond it.
 */
#ifndef TESTS_UNIT_RIG_H
#define TESTS_UNIT_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/ring.h"

#define RIG_EXTENTS 6
#define SEALED SHUNT_ABI_RING_SEALED

struct rig {
	struct shunt_abi_ring *ctl;
	struct shunt_producer p;
	struct shunt_consumer c;
	uint8_t *ext[RIG_EXTENTS];
	uint64_t ext_size[RIG_EXTENTS];
	int n_ext;
	int resolved;		/* calls of resolve */
	uint64_t written;	/* byte ring: bytes written and read so far */
	uint64_t read;
};

/* Extent i is "granted" at segment offset (i + 1) << 24. */
static inline uint64_t rig_off(int i)
{
	return (uint64_t)(i + 1) << 24;
}

static inline int rig_resolve(void *ctx, __u64 off, __u64 size, const __u8 **ret_base)
{
	struct rig *r = ctx;
	int i;

	r->resolved++;
	for (i = 0; i < r->n_ext; i++)
		if (rig_off(i) == off && r->ext_size[i] == size) {
			*ret_base = r->ext[i];
			return 0;
		}
	return -ENOENT;
}

static inline int rig_extent(struct rig *r, uint64_t size)
{
	int i = r->n_ext++;

	assert_true(i < RIG_EXTENTS);
	r->ext[i] = aligned_alloc(4096, size);
	r->ext_size[i] = size;
	memset(r->ext[i], 0xee, size);
	return i;
}

static inline void rig_up(struct rig *r, uint64_t size)
{
	memset(r, 0, sizeof(*r));
	r->ctl = aligned_alloc(64, sizeof(*r->ctl));
	memset(r->ctl, 0, sizeof(*r->ctl));
	rig_extent(r, size);
	shunt_producer_init(&r->p, r->ctl, r->ext[0], size);
	shunt_consumer_init(&r->c, r->ctl, r->ext[0], size);
	r->c.resolve = rig_resolve;
	r->c.resolve_ctx = r;
}

static inline void rig_down(struct rig *r)
{
	while (r->n_ext)
		free(r->ext[--r->n_ext]);
	free(r->ctl);
}

/* A ring whose indices already stand at @index (a multiple of 16), empty. */
static inline void rig_up_at(struct rig *r, uint64_t size, uint64_t index)
{
	rig_up(r, size);
	r->ctl->prod = index;
	r->ctl->cons = index;
	assert_int_equal(shunt_producer_adopt(&r->p, r->ctl, r->ext[0], size), 0);
	assert_int_equal(shunt_consumer_adopt(&r->c, r->ctl, r->ext[0], size), 0);
	r->c.resolve = rig_resolve;
	r->c.resolve_ctx = r;
}

static inline uint8_t rig_byte(uint64_t n)
{
	return (uint8_t)((n * 0x9e3779b97f4a7c15ull) >> 56);
}

/* Stage a record of @len bytes whose content is derived from @tag. */
static inline int rig_put(struct rig *r, uint32_t len, uint64_t tag)
{
	void *at;
	uint32_t i;
	int err = shunt_rec_reserve(&r->p, len, &at);

	if (err)
		return err;
	for (i = 0; i < len; i++)
		((uint8_t *)at)[i] = rig_byte(tag + i);
	shunt_rec_commit(&r->p, len);
	return 0;
}

/* Take a record and check it. */
static inline void rig_get(struct rig *r, uint32_t len, uint64_t tag)
{
	const void *at;
	uint32_t got, i;

	assert_int_equal(shunt_rec_peek(&r->c, &at, &got), 0);
	assert_int_equal(got, len);
	for (i = 0; i < len; i++)
		assert_int_equal(((const uint8_t *)at)[i], rig_byte(tag + i));
	shunt_rec_consume(&r->c);
}

static inline void rig_empty(struct rig *r, int want)
{
	const void *at;
	uint32_t len;

	assert_int_equal(shunt_rec_peek(&r->c, &at, &len), want);
}

/* Byte ring: write up to @n bytes of the running sequence; how many there was room for. */
static inline uint64_t rig_write(struct rig *r, uint64_t n)
{
	uint64_t done = 0, i;
	__u64 len;
	void *at;

	while (done < n) {
		len = n - done;
		if (shunt_bytes_reserve(&r->p, &len, &at))
			break;
		for (i = 0; i < len; i++)
			((uint8_t *)at)[i] = rig_byte(r->written + i);
		shunt_bytes_commit(&r->p, len);
		r->written += len;
		done += len;
	}
	return done;
}

/* Byte ring: read and check up to @n bytes. */
static inline uint64_t rig_read(struct rig *r, uint64_t n)
{
	uint64_t done = 0, i;
	const void *at;
	__u64 len;

	while (done < n && !shunt_bytes_peek(&r->c, &at, &len)) {
		if (len > n - done)
			len = n - done;
		for (i = 0; i < len; i++)
			assert_int_equal(((const uint8_t *)at)[i], rig_byte(r->read + i));
		shunt_bytes_consume(&r->c, len);
		r->read += len;
		done += len;
	}
	return done;
}

#endif
