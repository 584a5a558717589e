/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_DAEMON_MSG_H
#define SHUNT_DAEMON_MSG_H

#include <shunt/abi/msg.h>

union shunt_msg_up {
	struct shunt_abi_msg msg;
	struct shunt_abi_msg_hello hello;
	struct shunt_abi_msg_roster_ack ack;
	struct shunt_abi_msg_want want;
	struct shunt_abi_msg_link_state link_state;
	struct shunt_abi_msg_bye bye;
	struct shunt_abi_msg_stats stats;
};

int shunt_msg_parse(const void *raw, __u32 len, union shunt_msg_up *ret);

#endif
