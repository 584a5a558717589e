/* SPDX-License-Identifier: GPL-2.0-only */
/* Scope-bound cleanup for userland (STYLE.md: userland uses cleanup attributes, never goto). */
#ifndef SHUNT_DAEMON_CLEANUP_H
#define SHUNT_DAEMON_CLEANUP_H

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void shunt_cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void shunt_cleanup_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved;
}

static inline void shunt_cleanup_json(json_t **j)
{
	json_decref(*j);
}

static inline void shunt_cleanup_file(FILE **f)
{
	if (*f)
		fclose(*f);
}

#define _cleanup_free_ __attribute__((cleanup(shunt_cleanup_free)))
#define _cleanup_close_ __attribute__((cleanup(shunt_cleanup_close)))
#define _cleanup_json_ __attribute__((cleanup(shunt_cleanup_json)))
#define _cleanup_file_ __attribute__((cleanup(shunt_cleanup_file)))

/* Close *fd and mark it closed. */
static inline void shunt_close(int *fd)
{
	shunt_cleanup_close(fd);
	*fd = -1;
}

/* Hand ownership of *p to the caller's return value. */
#define shunt_take_ptr(p)			\
	({					\
		typeof(p) taken_ = (p);		\
		(p) = NULL;			\
		taken_;				\
	})

static inline int shunt_take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

#endif
