// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who may share memory with whom. A VM has one network label; VMs with the same label may, and
 * those whose labels an `allow` rule joins. Nothing here comes from a guest: names and MACs are
 * what QEMU was configured with.
 */
#include "daemon/policy.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

static bool mac_matches(const char *mac, const struct shunt_abi_mac *nic, unsigned int nics)
{
	char text[18];

	for (unsigned int i = 0; i < nics; i++) {
		const __u8 *a = nic[i].addr;

		snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3],
			 a[4], a[5]);
		if (!strcmp(text, mac))
			return true;
	}
	return false;
}

/**
 * shunt_policy_label() - The label of a VM: the first rule that matches, else the default.
 * @name: the VM's name.
 * @nic: its MACs, as QEMU has them.
 */
const char *shunt_policy_label(const struct shunt_config *c, const char *name,
			       const struct shunt_abi_mac *nic, unsigned int nics)
{
	for (size_t i = 0; i < c->n_labels; i++) {
		const struct shunt_label_rule *r = &c->labels[i];

		if (r->vm ? !fnmatch(r->vm, name, 0) : mac_matches(r->mac, nic, nics))
			return r->label;
	}
	return c->default_label;
}

/** shunt_policy_allows() - Whether VMs with labels @a and @b may have a link. Symmetric. */
bool shunt_policy_allows(const struct shunt_config *c, const char *a, const char *b)
{
	if (!strcmp(a, b))
		return true;
	for (size_t i = 0; i < c->n_allow; i++) {
		char *const *l = c->allow[i].label;

		if ((!strcmp(l[0], a) && !strcmp(l[1], b)) || (!strcmp(l[0], b) && !strcmp(l[1], a)))
			return true;
	}
	return false;
}
