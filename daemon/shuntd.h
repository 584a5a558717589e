/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The daemon's nouns and how they hang together.
 *
 * DOC: Theory of operation
 *
 * Everything happens in one thread, in an sd-event loop. Handlers of events (QMP, mailboxes, timers,
 * operators) only record facts in the objects below. After each round of handlers daemon_settle()
 * runs once and acts on the facts, in this order:
 *
 *   1. hostpolicy_fresh(), if a link is about to be made: what the host enforces is looked at again;
 *   2. roster_update(): what each guest must be told of the others is queued;
 *   3. pair_step(): each pair moves to the state the facts call for, queueing LINK_OPEN/LINK_CLOSE;
 *   4. the state file is written, if anything in it changed;
 *   5. the guests' messages are released (consumer index) and the queued ones are published.
 *
 * So a daemon killed at any point finds on restart a state file that is never behind what
 * guests were told, and messages it had not recorded are still in the mailbox.
 *
 * vm    a QEMU process: QMP connection, identity, NICs, its uplink
 * end   one ivshmem device of one VM: where a segment is plugged
 * pair  two VMs that may share a segment
 * group VMs without QMP that share one segment, as the configuration says
 */
#ifndef SHUNT_DAEMON_SHUNTD_H
#define SHUNT_DAEMON_SHUNTD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "core/ring.h"
#include "daemon/config.h"
#include "daemon/hostpolicy.h"
#include "daemon/msg.h"
#include "daemon/qmp.h"
#include "daemon/segment.h"

#define VM_INERT_MAX 1024u	/* descriptors leaked into one QEMU process by fd-hole filling */

struct control;
struct vm;
struct pair;
struct vm_group;

/* --- end: plug.c, ivshmem.c --- */

enum end_state {
	END_NONE,	/* nothing plugged */
	END_QUEUED,	/* waits for its turn: one plug at a time per VM */
	END_PLUGGING,	/* QMP commands under way */
	END_PLUGGED,
	END_FAILED,	/* see reason and detail; until an operator's attach */
	END_REMOVED,	/* device_del by an operator; until an operator's attach */
};

struct end {
	struct vm *vm;
	struct segment *seg;	/* owned by the uplink or the pair */
	unsigned int member;
	enum end_state state;
	bool announced;		/* chardev exists and the whole greeting lies in its socket */
	bool chardev;		/* chardev-add was answered */
	bool removing;		/* plug_remove(): until it is gone, or an operator's attach */
	char qdev[32];		/* id of the device and of its chardev */
	char bus[64];		/* pcie-root-port chosen, or "" */
	uint32_t bdf;
	uint32_t reason;
	char detail[200];
	int listen_fd, conn_fd;
	sd_event_source *listen_io, *conn_io, *timer;
	TAILQ_ENTRY(end) queue;
};

/* --- vm: vm.c, uplink.c, roster.c --- */

enum vm_state {
	VM_CONNECTING,	/* no QMP connection (yet), or not answered */
	VM_IDENTIFYING,	/* asking QEMU who it is */
	VM_ATTACHED,	/* identity known; see the uplink for more */
	VM_GONE,	/* its QEMU exited */
};

struct told {		/* what a guest was told of another */
	uint32_t vm_id;
	uint64_t hash;
};

struct out_msg {
	TAILQ_ENTRY(out_msg) link;
	uint32_t len;
	uint8_t body[];
};

struct uplink {
	struct end end;
	struct segment *seg;
	struct shunt_producer down;
	struct shunt_consumer up;
	sd_event_source *bell;
	TAILQ_HEAD(, out_msg) out;
	unsigned int out_len;
	uint32_t seq;
	uint32_t broken;	/* sticky enum shunt_abi_reason, or 0 */
	unsigned int budget;	/* work left in this tick */
	bool silence_noted;	/* that the guest says no HELLO was logged */
	uint64_t busy_usec;	/* for how long it has used up its budget in every tick */
	bool masked;		/* budget used up: the doorbell is not looked at until the tick */
	uint64_t bad_msgs, unknown_msgs, stale_msgs, masked_ticks, breaks;
	uint64_t plugged_at;	/* CLOCK_MONOTONIC usec */
	uint64_t last_liveness, liveness_at;
};

struct vm {
	TAILQ_ENTRY(vm) link;
	struct shuntd *d;
	char name[SHUNT_ABI_NAME_MAX];		/* "" until known */
	char wanted_name[SHUNT_ABI_NAME_MAX];	/* operator's --name */
	char label[SHUNT_ABI_NAME_MAX];
	char wanted_label[SHUNT_ABI_NAME_MAX];	/* operator's --label */
	uint32_t id;
	enum vm_state state;
	uint32_t reason;	/* why it is not served, and ... */
	char detail[200];	/* ... in QEMU's or our words */
	bool detached;		/* by an operator on the host */
	bool from_dir;		/* found in vms.d */
	bool running;
	bool identified;	/* at least once in this QEMU's life */

	struct vm_group *group;	/* a static member: no QMP, its segment is the group's */
	const struct shunt_group_member *rule;	/* its entry in the configuration */
	char *qmp_path;		/* of a static member: the socket its QEMU connects to */
	struct qmp *qmp;
	pid_t pid;
	uid_t uid;
	uint64_t start_time;	/* of the process, clock ticks after boot */
	int pidfd;
	sd_event_source *exit_io, *retry;
	uint64_t retry_ms;

	bool kvm, no_ivshmem;
	unsigned int max_cpus;	/* 0: not known */
	char machine[SHUNT_ABI_NAME_MAX];
	struct shunt_abi_mac nic[SHUNT_ABI_NICS_MAX];
	unsigned int nics;
	struct shunt_abi_mac shown_nic[SHUNT_ABI_NICS_MAX];	/* those that are this VM's alone */
	unsigned int shown_nics;
	struct shunt_abi_mac new_nic[SHUNT_ABI_NICS_MAX];	/* while identifying */
	unsigned int new_nics;
	json_t *devices;	/* ids of our devices in this QEMU, while identifying */
	struct vm_host host;

	struct uplink uplink;
	bool hello;		/* the guest's module has said HELLO and not BYE */
	uint32_t bye;		/* reason of its BYE, or 0 */
	uint64_t generation, features;
	char kernel[SHUNT_ABI_NAME_MAX], module[SHUNT_ABI_NAME_MAX];
	uint64_t roster_gen, roster_acked;
	bool roster_reset;	/* the whole list must be told */
	struct told *told;
	size_t n_told;

	TAILQ_HEAD(, end) plugs;	/* queued and, first, under way */
	unsigned int inert_due;		/* descriptor holes to fill, at the latest before the next plug */
	unsigned int inert_asked;	/* of these, QEMU has been asked for so many */
	unsigned int inert_sent;
	unsigned int deleting;		/* device_del under way */
	sd_event_source *delete_timer;
};

/* --- pair: pair.c --- */

enum pair_state {
	PAIR_NONE,	/* no segment */
	PAIR_PLUGGING,	/* a segment, not plugged at both ends */
	PAIR_PARKED,	/* scrubbed, nobody uses it */
	PAIR_OFFERED,	/* LINK_OPEN sent to both */
	PAIR_UP,
	PAIR_CLOSING,	/* at least one LINK_CLOSE sent; not scrubbed before both are CLOSED */
};

struct pair_end {
	struct end end;
	uint32_t link_state;	/* as reported for this epoch */
	uint32_t link_reason;
	bool closed;		/* reported CLOSED or BROKEN, or the guest is dead */
	bool told_close;
	uint32_t close_reason;	/* if closed: what the other end is told */
	struct shunt_abi_link_stats stats;
	uint64_t stats_at;
};

struct pair {
	TAILQ_ENTRY(pair) link;
	struct shuntd *d;
	struct vm *vm[2];
	enum pair_state state;
	struct segment *seg;
	struct pair_end e[2];	/* member i + 1; in a group the uplink's end is used instead */
	struct vm_group *group;	/* the two are members of it; seg is the group's, and of the link there ... */
	unsigned int channel;	/* ... this channel and */
	uint32_t epoch;		/* this epoch are used */
	bool wanted;		/* a guest asked */
	uint32_t broken;	/* sticky until an operator's attach */
	uint32_t failed;	/* could not be made; sticky likewise */
	char detail[200];
	uint32_t last_reason;	/* why the last link ended */
	uint64_t since;		/* of the state, CLOCK_MONOTONIC usec */
	uint64_t not_before;	/* reopening waits until then */
	uint64_t backoff_ms;
	bool late;		/* CLOSED is overdue */
};

/* --- group: group.c, member.c --- */

struct vm_group {
	TAILQ_ENTRY(vm_group) link;
	struct shuntd *d;
	const struct shunt_group_rule *rule;	/* fixed while this daemon runs */
	const char *name;
	struct segment *seg;
	struct vm *vm[SHUNT_ABI_MEMBERS_MAX - 1];	/* member i + 1 */
	unsigned int n;
	sd_event_source *bell;	/* shuntd's doorbell, rung by all members */
	unsigned int bells;	/* left in this tick */
	uint64_t masked_ticks;
};

/* --- the daemon --- */

TAILQ_HEAD(vm_list, vm);
TAILQ_HEAD(pair_list, pair);
TAILQ_HEAD(group_list, vm_group);

struct shuntd {
	sd_event *event;
	struct shunt_config *config;
	const char *config_path;
	bool config_required;
	char host[SHUNT_ABI_NAME_MAX];
	uint64_t generation;
	uint32_t next_vm_id;
	struct vm_list vms;
	struct pair_list pairs;
	struct group_list groups;
	struct control *control;
	struct hostpolicy *hostpolicy;
	sd_event_source *tick, *settle, *watch;
	int lock_fd, watch_fd;
	bool dirty;		/* facts of VMs or policy changed: rosters are behind, and the state file */
	bool unsaved;		/* only the state file is behind */
	bool stopping;
	uint64_t started_at;
	uint64_t refused_peers;	/* foreign processes on device sockets */
};

#define uplink_vm(u_) ((struct vm *)((char *)(u_) - offsetof(struct vm, uplink)))

uint64_t now_usec(const struct shuntd *d);

/* daemon.c */
int daemon_run(struct shuntd *d);
void daemon_settle(struct shuntd *d);

/* ivshmem.c */
int ivshmem_listen(struct end *e);
void ivshmem_unlisten(struct end *e);
void ivshmem_path(const struct end *e, char *buf, size_t size);
int ivshmem_greet(const struct end *e, int sock);
int ivshmem_watch(struct end *e, int sock);

/* plug.c */
void plug_end(struct end *e, struct vm *vm, struct segment *seg, unsigned int member);
void plug_announced(struct end *e, int error);
void plug_next(struct vm *vm);
void plug_device_deleted(struct vm *vm, const char *qdev, struct end *e);
void plug_purge(struct vm *vm, const char *qdev, bool device);
void plug_forget(struct end *e);
void plug_remove(struct end *e);
void plug_cancel_all(struct vm *vm);

/* vm.c */
struct vm *vm_find(struct shuntd *d, const char *name);
struct vm *vm_find_id(struct shuntd *d, uint32_t id);
struct vm *vm_find_qmp(struct shuntd *d, const char *qmp_path);
int vm_attach(struct shuntd *d, const char *qmp_path, const char *name, const char *label, bool from_dir,
	      struct vm **ret);
struct vm *vm_new(struct shuntd *d, const char *qmp_path);
int vm_watch_process(struct vm *vm);
void vm_connect(struct vm *vm);
void vm_free(struct vm *vm);
void vm_guest_left(struct vm *vm, const char *why);
bool vm_alive(const struct vm *vm);
bool vm_usable(const struct vm *vm);
uint32_t vm_why_not(const struct vm *vm, const char **ret_detail);
void vm_relabel(struct vm *vm);
void vm_reattach(struct vm *vm);
uint64_t process_start_time(pid_t pid);

/* identify.c */
void vm_identify(struct vm *vm);
void vm_refresh_nics(struct vm *vm);

/* uplink.c */
int uplink_create(struct vm *vm);
int uplink_start(struct vm *vm, bool adopt);
void uplink_stop(struct vm *vm);
void uplink_forget(struct vm *vm);
void uplink_drain(struct vm *vm);
void uplink_mend(struct vm *vm);
void uplink_send(struct vm *vm, void *msg, size_t len, uint16_t type);
void uplink_flush(struct vm *vm);
void uplink_tick(struct vm *vm);
void uplink_break(struct vm *vm, uint32_t reason, const char *why);
bool uplink_ready(const struct vm *vm);

/* roster.c */
void roster_welcome(struct vm *vm, bool reset);
void roster_update_all(struct shuntd *d);
void roster_ack(struct vm *vm, uint64_t gen);
bool roster_sees(const struct vm *vm, const struct vm *peer);
const struct vm *roster_mac_conflict(const struct vm *vm);

/* pair.c */
struct pair *pair_find(struct shuntd *d, const struct vm *a, const struct vm *b);
struct pair *pair_find_segment(struct shuntd *d, uint64_t segment_id, uint32_t peer_member, const struct vm *vm,
			       unsigned int *ret_end);
unsigned int pair_member(const struct pair *p, unsigned int i);
uint32_t pair_epoch(const struct pair *p);
int pair_scrub(struct pair *p);
struct pair *pair_new(struct shuntd *d, struct vm *a, struct vm *b);
void pair_free(struct pair *p);
void pair_step_all(struct shuntd *d);
bool pair_any_due(struct shuntd *d);
void pair_vm_links_dead(struct vm *vm, uint32_t reason);
void pair_vm_process_exited(struct vm *vm);
void pair_link_state(struct vm *vm, const struct shunt_abi_msg_link_state *m);
void pair_stats(struct vm *vm, const struct shunt_abi_msg_stats *m);
void pair_want(struct vm *vm, uint32_t peer_id);
void pair_clear_errors(struct vm *vm);
void pair_resend(struct vm *vm);
bool pair_vm_closed(const struct vm *vm);
uint32_t pair_reason(const struct pair *p, const char **ret_detail);
const char *pair_state_name(enum pair_state s);

/* group.c */
void group_create_all(struct shuntd *d);
void group_keep(struct shuntd *d, struct shunt_config *c);
struct vm_group *group_find(struct shuntd *d, const char *name);
struct segment_spec group_spec(const struct vm_group *g);
int group_use(struct vm_group *g, struct segment *seg);
void group_start_all(struct shuntd *d);
void group_tick(struct shuntd *d);
void group_member_here(struct vm *vm);
void group_member_gone(struct vm *vm);
void group_free_all(struct shuntd *d);

/* member.c */
int member_listen(struct vm *vm);
void member_unlisten(struct vm *vm);

/* state.c */
int state_save(struct shuntd *d);
void state_load(struct shuntd *d);

/* watch.c */
int watch_start(struct shuntd *d);

/* status.c */
json_t *status_json(struct shuntd *d);
json_t *status_peers(struct shuntd *d);
json_t *status_links(struct shuntd *d);

/* control.c */
int control_start(struct shuntd *d);
void control_stop(struct shuntd *d);
void control_poll(struct shuntd *d);

#endif
