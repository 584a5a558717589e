/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
#ifndef SHUNT_DAEMON_REASON_H
#define SHUNT_DAEMON_REASON_H

#include <shunt/abi/msg.h>

const char *shunt_reason_name(__u32 reason);
const char *shunt_reason_text(__u32 reason);
const char *shunt_reason_hint(__u32 reason);
const char *shunt_link_state_name(__u32 state);

#endif
