/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Put before core/'s sources by the compiler (-include): every load of shared memory, as core/access.h does
 * them, first asks the target, which may change the memory just then. A value that is loaded twice where it
 * should be loaded once differs the second time.
 *
 * The macros name the compiler's builtins; inside its own expansion a macro is not expanded again.
 */
#ifndef TESTS_FUZZ_HOOKS_H
#define TESTS_FUZZ_HOOKS_H

/* The target's: the word at @p is about to be loaded. */
void fuzz_load(const void *p);

#define __atomic_load_n(p, order) (fuzz_load(p), __atomic_load_n(p, order))
#define __atomic_exchange_n(p, v, order) (fuzz_load(p), __atomic_exchange_n(p, v, order))
#define __atomic_compare_exchange_n(p, old, v, weak, yes, no) \
	(fuzz_load(p), __atomic_compare_exchange_n(p, old, v, weak, yes, no))

#endif
