// SPDX-License-Identifier: GPL-2.0-only
/*
 * Validation of what guests send. The record lies in memory the guest can still change: it is
 * copied once, and only the copy is looked at.
 */
#include "daemon/msg.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* NUL-terminated within the array, printable: these strings end up in logs and on terminals. */
static bool text_ok(const char *s, size_t size)
{
	size_t n = strnlen(s, size);

	if (n == size)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isascii(s[i]) || !isprint((unsigned char)s[i]))
			return false;
	return true;
}

static bool hello_ok(const struct shunt_abi_msg_hello *h)
{
	return h->version_min && h->version_min <= h->version_max && h->generation &&
	       h->nics <= SHUNT_ABI_NICS_MAX && text_ok(h->kernel, sizeof(h->kernel)) &&
	       text_ok(h->module, sizeof(h->module));
}

static bool link_state_ok(const struct shunt_abi_msg_link_state *s)
{
	return s->segment_id && s->epoch && s->state <= SHUNT_ABI_LINK_BROKEN &&
	       s->reason < SHUNT_ABI_R_MAX && s->peer_member < SHUNT_ABI_MEMBERS_MAX;
}

static size_t size_of(__u16 type)
{
	switch (type) {
	case SHUNT_ABI_MSG_HELLO:
		return sizeof(struct shunt_abi_msg_hello);
	case SHUNT_ABI_MSG_ROSTER_ACK:
		return sizeof(struct shunt_abi_msg_roster_ack);
	case SHUNT_ABI_MSG_WANT:
		return sizeof(struct shunt_abi_msg_want);
	case SHUNT_ABI_MSG_LINK_STATE:
		return sizeof(struct shunt_abi_msg_link_state);
	case SHUNT_ABI_MSG_BYE:
		return sizeof(struct shunt_abi_msg_bye);
	case SHUNT_ABI_MSG_STATS:
		return sizeof(struct shunt_abi_msg_stats);
	default:
		return 0;
	}
}

static bool body_ok(const union shunt_msg_up *m)
{
	switch (m->msg.type) {
	case SHUNT_ABI_MSG_HELLO:
		return hello_ok(&m->hello);
	case SHUNT_ABI_MSG_WANT:
		return m->want.vm_id != 0;
	case SHUNT_ABI_MSG_LINK_STATE:
		return link_state_ok(&m->link_state);
	case SHUNT_ABI_MSG_BYE:
		return m->bye.reason < SHUNT_ABI_R_MAX;
	case SHUNT_ABI_MSG_STATS:
		return m->stats.segment_id != 0;
	default:
		return true;
	}
}

/**
 * shunt_msg_parse() - Copy a guest's message out of shared memory and validate the copy.
 * @raw: the record, in shared memory.
 * @len: its length, as the ring validated it.
 * @ret: the valid message; undefined on failure.
 *
 * Return: 0; -ENOMSG: a type of a later version, to be ignored and counted; -EPROTO: malformed,
 * the guest breaks the protocol.
 */
int shunt_msg_parse(const void *raw, __u32 len, union shunt_msg_up *ret)
{
	size_t size;

	if (len < sizeof(ret->msg) || len > SHUNT_ABI_MSG_MAX)
		return -EPROTO;
	memset(ret, 0, sizeof(*ret));
	memcpy(ret, raw, len < sizeof(*ret) ? len : sizeof(*ret));
	if (ret->msg.reserved)
		return -EPROTO;
	size = size_of(ret->msg.type);
	if (!size)
		return -ENOMSG;
	if (len < size || !body_ok(ret))
		return -EPROTO;
	return 0;
}
