// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* For targets that have nothing to do between loads. */
#include "hooks.h"

__attribute__((weak)) void fuzz_load(const void *p)
{
	(void)p;
}
