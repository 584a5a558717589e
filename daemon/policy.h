/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_DAEMON_POLICY_H
#define SHUNT_DAEMON_POLICY_H

#include "daemon/config.h"

const char *shunt_policy_label(const struct shunt_config *c, const char *name,
			       const struct shunt_abi_mac *nic, unsigned int nics);
bool shunt_policy_allows(const struct shunt_config *c, const char *a, const char *b);

#endif
