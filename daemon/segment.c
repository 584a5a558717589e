// SPDX-License-Identifier: GPL-2.0-only
/*
 * A segment: a sealed memfd, the eventfds of each end, and the layout of man/shunt-segment.5.
 *
 * Nothing read from the mapping is trusted, not even by a restarted daemon: what it needs is in
 * segment_spec, kept in the daemon's own state file.
 */
#include "daemon/segment.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"

static unsigned int channels_of(const struct segment_spec *spec)
{
	switch (spec->kind) {
	case SHUNT_ABI_PAIR:
		return 1;	/* per-vCPU channels will be more entries of the same kind */
	case SHUNT_ABI_GROUP:
		return shunt_layout_group_channels(spec->members);
	default:
		return 0;
	}
}

static int lay_out(struct segment *s)
{
	int r;

	s->channels = channels_of(&s->spec);
	s->channel = calloc(s->channels + 1, sizeof(*s->channel));
	r = shunt_layout_compute(s->spec.kind, s->spec.size, s->spec.members, s->channels, &s->layout);
	for (unsigned int i = 0; !r && i < s->channels; i++)
		r = shunt_layout_channel(&s->layout, i, SHUNT_ABI_CHAN_PACKET, 0, SHUNT_ABI_VECTOR_CHANNEL,
					 s->spec.ring_size, &s->channel[i]);
	return r;
}

/* The whole header and channel directory again: a guest may have scribbled over either. */
static void write_header(struct segment *s)
{
	for (unsigned int i = 0; i < s->channels; i++)
		*shunt_layout_entry(&s->layout, s->map, i) = s->channel[i];
	shunt_layout_init(&s->layout, s->map, s->spec.id, s->spec.epoch);
}

static int eventfd_id(const char *fdinfo, uint64_t *ret)
{
	_cleanup_file_ FILE *f = fopen(fdinfo, "re");
	char line[128];
	unsigned long long id;

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "eventfd-id: %llu", &id) == 1) {
			*ret = id;
			return 0;
		}
	return -ENODATA;
}

static int make_eventfds(struct segment *s)
{
	char path[64];

	for (unsigned int m = 0; m < s->spec.members; m++) {
		for (unsigned int v = 0; v < s->spec.vectors; v++) {
			s->efd[m][v] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
			if (s->efd[m][v] < 0)
				return -errno;
			snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", s->efd[m][v]);
			if (eventfd_id(path, &s->spec.efd_id[m][v]))
				s->spec.efd_id[m][v] = UINT64_MAX;	/* old kernel: no adoption */
		}
	}
	return 0;
}

static int map_it(struct segment *s)
{
	void *p = mmap(NULL, s->spec.size, PROT_READ | PROT_WRITE, MAP_SHARED, s->memfd, 0);

	if (p == MAP_FAILED)
		return -errno;
	s->map = p;
	return 0;
}

static int make_memfd(struct segment *s)
{
	static const char *const kinds[] = {
		[SHUNT_ABI_UPLINK] = "up", [SHUNT_ABI_PAIR] = "pair", [SHUNT_ABI_GROUP] = "group",
	};
	char name[64];
	struct stat st;

	snprintf(name, sizeof(name), "shunt-%s-%016llx", kinds[s->spec.kind], (unsigned long long)s->spec.id);
	s->memfd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (s->memfd < 0)
		return -errno;
	if (ftruncate(s->memfd, (off_t)s->spec.size) < 0 ||
	    fcntl(s->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ||
	    fstat(s->memfd, &st) < 0)
		return -errno;
	s->spec.ino = st.st_ino;
	return map_it(s);
}

static int new_segment(const struct segment_spec *spec, struct segment **ret)
{
	struct segment *s = calloc(1, sizeof(*s));

	s->spec = *spec;
	s->memfd = -1;
	for (unsigned int m = 0; m < SEGMENT_MEMBERS; m++)
		for (unsigned int v = 0; v < SEGMENT_VECTORS; v++)
			s->efd[m][v] = -1;
	*ret = s;
	return lay_out(s);
}

static void segment_cleanup(struct segment **s)
{
	segment_free(*s);
}

/**
 * segment_create() - A new, scrubbed segment.
 * @spec: kind, size, members, vectors, ring_size; the rest is filled in.
 *
 * Return: 0, or a negative errno (descriptors or memory exhausted).
 */
int segment_create(struct segment_spec spec, struct segment **ret)
{
	__attribute__((cleanup(segment_cleanup))) struct segment *s = NULL;
	int r;

	while (!spec.id)
		if (getrandom(&spec.id, sizeof(spec.id), 0) != sizeof(spec.id))
			return -EIO;
	spec.epoch = 1;
	r = new_segment(&spec, &s);
	if (!r)
		r = make_memfd(s);
	if (!r)
		r = make_eventfds(s);
	if (r)
		return r;
	write_header(s);
	*ret = shunt_take_ptr(s);
	return 0;
}

/** segment_free() - Unmap and close; QEMU's own references live on. NULL is fine. */
void segment_free(struct segment *s)
{
	if (!s)
		return;
	if (s->map)
		munmap(s->map, s->spec.size);
	shunt_close(&s->memfd);
	for (unsigned int m = 0; m < SEGMENT_MEMBERS; m++)
		for (unsigned int v = 0; v < SEGMENT_VECTORS; v++)
			shunt_close(&s->efd[m][v]);
	free(s->channel);
	free(s);
}

/**
 * segment_wipe() - Forget everything but the header, which is written anew.
 *
 * The header is never invalid on the way, not even for a moment: a guest may be probing the device
 * just now (its module was loaded again, say). Punching a hole zeroes the other pages for every
 * mapping and gives the memory back. What a guest that writes all the while leaves behind hurts the
 * link that is opened next, which it may break anyway; nothing is read from here that decides more.
 *
 * Context: no member uses the segment in its epoch: nobody was told of it yet.
 * Return: 0 or a negative errno; on failure the segment must not be used again.
 */
int segment_wipe(struct segment *s)
{
	struct shunt_abi_segment *h = (struct shunt_abi_segment *)s->map;
	uint64_t from = s->layout.mailbox_off;		/* page-aligned */

	memset(h->reserved, 0, sizeof(h->reserved));
	memset(s->map + sizeof(*h), 0, from - sizeof(*h));
	if (fallocate(s->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
		      (off_t)(s->spec.size - from)) < 0)
		return -errno;
	write_header(s);
	return 0;
}

/**
 * segment_scrub() - segment_wipe() for the next epoch.
 *
 * Context: no member uses the segment any more (both ends reported CLOSED, or are dead). The caller
 * has recorded the new epoch (spec.epoch + 1) before anybody is told of it.
 * Return: 0 or a negative errno; on failure the segment must not be used again.
 */
int segment_scrub(struct segment *s)
{
	if (!++s->spec.epoch)
		s->spec.epoch = 1;
	return segment_wipe(s);
}

static void zero_ring(struct segment *s, uint64_t off)
{
	memset(s->map + off, 0, sizeof(struct shunt_abi_ring));
}

/**
 * segment_scrub_channel() - Forget what two members of a group had on their link.
 * @n: the channel.
 *
 * Context: as segment_scrub(), for the two VMs of this link; the others may be using theirs.
 * Return: 0 or a negative errno; on failure the link must not be used again.
 */
int segment_scrub_channel(struct segment *s, unsigned int n)
{
	const struct shunt_abi_channel *c = &s->channel[n];

	for (int i = 0; i < 2; i++)
		if (fallocate(s->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)c->dir[i].ext_off,
			      (off_t)c->dir[i].ext_size) < 0)
			return -errno;
	zero_ring(s, c->dir[0].ctl_off);
	zero_ring(s, c->dir[1].ctl_off);
	memset(s->map + shunt_layout_ends(&s->layout, n), 0, 2 * sizeof(struct shunt_abi_member));
	write_header(s);
	return 0;
}

/**
 * segment_reset_member() - An empty mailbox and an absent member, for the next process of a VM.
 *
 * Context: the VM's process has exited, or an operator wants the guest to begin anew.
 */
void segment_reset_member(struct segment *s, unsigned int member)
{
	struct shunt_abi_segment *h = (struct shunt_abi_segment *)s->map;

	memset(h->reserved, 0, sizeof(h->reserved));
	memset(segment_mailbox(s, member), 0, sizeof(struct shunt_abi_mailbox));
	memset(segment_member(s, member), 0, sizeof(struct shunt_abi_member));
	write_header(s);
}

/** segment_ring() - Ring a member's doorbell. */
void segment_ring(const struct segment *s, unsigned int member, unsigned int vector)
{
	uint64_t one = 1;

	if (write(s->efd[member][vector], &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_debug("doorbell-failed", "segment=%016llx error=\"%m\"", (unsigned long long)s->spec.id);
}

/** segment_mailbox() - The mailbox of a member (from 1) with shuntd. */
struct shunt_abi_mailbox *segment_mailbox(const struct segment *s, unsigned int member)
{
	return shunt_layout_mailbox(&s->layout, s->map, member);
}

/** segment_member() - A member's entry in the member table. */
struct shunt_abi_member *segment_member(const struct segment *s, unsigned int member)
{
	return shunt_layout_member(&s->layout, s->map, member);
}

/* --- taking back from QEMU what a killed daemon had --- */

static bool all_there(const struct segment *s)
{
	if (s->memfd < 0)
		return false;
	for (unsigned int m = 0; m < s->spec.members; m++)
		for (unsigned int v = 0; v < s->spec.vectors; v++)
			if (s->efd[m][v] < 0)
				return false;
	return true;
}

static int *eventfd_slot(struct segment *s, uint64_t id)
{
	for (unsigned int m = 0; m < s->spec.members; m++)
		for (unsigned int v = 0; v < s->spec.vectors; v++)
			if (s->spec.efd_id[m][v] == id && s->efd[m][v] < 0)
				return &s->efd[m][v];
	return NULL;
}

static bool is_our_memfd(const struct segment *s, const char *target, const char *path)
{
	struct stat st;

	return !strncmp(target, "/memfd:shunt-", 13) && !stat(path, &st) && st.st_ino == s->spec.ino &&
	       (uint64_t)st.st_size == s->spec.size;
}

static void adopt_fd(struct segment *s, pid_t pid, int pidfd, int fd)
{
	char path[64], target[256];
	int *slot = NULL;
	uint64_t id;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	n = readlink(path, target, sizeof(target) - 1);
	if (n <= 0)
		return;
	target[n] = '\0';
	if (s->memfd < 0 && is_our_memfd(s, target, path)) {
		slot = &s->memfd;
	} else if (!strcmp(target, "anon_inode:[eventfd]")) {
		snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
		if (!eventfd_id(path, &id))
			slot = eventfd_slot(s, id);
	}
	if (slot) {
		*slot = pidfd_getfd(pidfd, fd, 0);
		if (*slot < 0)
			log_warn("getfd-failed", "pid=%d fd=%d error=\"%m\"", pid, fd);
	}
}

static void adopt_from(struct segment *s, pid_t pid, int pidfd)
{
	char path[64];
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	if (!d)
		return;
	while (!all_there(s) && (e = readdir(d)))
		if (e->d_name[0] != '.')
			adopt_fd(s, pid, pidfd, atoi(e->d_name));
	closedir(d);
}

/* A seal can never be taken off: what has ours is a memfd that cannot shrink under the mapping. */
static bool sealed(int memfd)
{
	int seals = fcntl(memfd, F_GET_SEALS);
	const int want = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

	return seals >= 0 && (seals & want) == want;
}

/**
 * segment_adopt() - Take a segment's descriptors back from the QEMU processes that have it plugged.
 * @spec: as the state file has it.
 * @pids, @pidfds, @n: the processes, already checked to be the same as then.
 *
 * Descriptors that two processes hold are taken from the first that has them. The contents of
 * the segment are left as they are: members may be using it.
 *
 * Return: 0, or -ENOENT: not everything was found.
 */
int segment_adopt(const struct segment_spec *spec, const pid_t *pids, const int *pidfds, size_t n,
		  struct segment **ret)
{
	__attribute__((cleanup(segment_cleanup))) struct segment *s = NULL;
	int r = new_segment(spec, &s);

	if (r)
		return r;
	for (size_t i = 0; i < n; i++)
		adopt_from(s, pids[i], pidfds[i]);
	if (!all_there(s) || !sealed(s->memfd))
		return -ENOENT;
	r = map_it(s);
	if (r)
		return r;
	*ret = shunt_take_ptr(s);
	return 0;
}
