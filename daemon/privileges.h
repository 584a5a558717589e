/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_DAEMON_PRIVILEGES_H
#define SHUNT_DAEMON_PRIVILEGES_H

#include <stddef.h>

#include "daemon/config.h"

int privileges_check(const struct shunt_config *c, char *err, size_t err_size);
int privileges_drop(const struct shunt_config *c, const char *const *own);

#endif
