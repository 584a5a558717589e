/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_DAEMON_SANDBOX_H
#define SHUNT_DAEMON_SANDBOX_H

int sandbox_enter(const char *action);

#endif
