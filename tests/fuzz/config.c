// SPDX-License-Identifier: GPL-2.0-only
/*
 * shuntd.conf by anybody (daemon/config.c). Asserted: a file that is refused leaves nothing and says why; one that is
 * accepted has every number within the bounds that the rest of the daemon relies on.
 */
#include "world.h"

#include <sys/mman.h>

#include "daemon/cleanup.h"
#include "daemon/policy.h"
#include "input.h"

/* libconfig 1.5 does not free a string that stands where it cannot be. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libconfig";
}

static bool is_power_of_two(uint64_t n)
{
	return n && !(n & (n - 1));
}

static void check(const struct shunt_config *c)
{
	struct shunt_layout l;
	struct shunt_abi_channel ch;

	DEMAND(is_power_of_two(c->pair_size) && is_power_of_two(c->ring_size));
	DEMAND(!shunt_layout_compute(SHUNT_ABI_PAIR, c->pair_size, 3, 1, &l));
	DEMAND(!shunt_layout_channel(&l, 0, SHUNT_ABI_CHAN_PACKET, 0, 1, c->ring_size, &ch));
	DEMAND(c->liveness_ms >= 10 && c->max_vms >= 1 && c->max_pairs_per_vm <= 64);
	DEMAND(c->runtime_dir && c->control_mode && c->default_label);
	for (size_t i = 0; i < c->n_labels; i++)
		DEMAND(c->labels[i].label && strlen(c->labels[i].label) < SHUNT_ABI_NAME_MAX);
	DEMAND(*shunt_policy_label(c, "vm1", NULL, 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_close_ int fd = memfd_create("shuntd.conf", MFD_CLOEXEC);
	struct shunt_config *c = NULL;
	char path[64], err[1024] = "";

	/* An @include would read this machine's files. */
	if (memchr(data, '@', size) || write(fd, data, size) != (ssize_t)size)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (shunt_config_load(path, &c, err, sizeof(err))) {
		DEMAND(!c && *err);
		return 0;
	}
	check(c);
	shunt_config_free(c);
	return 0;
}
