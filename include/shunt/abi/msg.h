/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * Control messages between a guest and shuntd: the records of the mailbox rings of an uplink or group.
 * Every message starts with struct shunt_abi_msg; a receiver takes a record of at least the
 * message's size (later versions may append), refuses a shorter one, and ignores types it does
 * not know (counted). "up" is guest to shuntd, "down" is shuntd to guest.
 *
 * Conversation: HELLO up; WELCOME down; then the roster (RESET, ADD..., SYNC), each acknowledged
 * by generation with ROSTER_ACK; then WANT up / LINK_OPEN down / LINK_STATE up as pairs come and
 * go; BYE up when the module leaves. A new HELLO at any time starts over.
 *
 * The mailbox rings are never reset while the device is plugged: a driver that probes (first boot,
 * reload, after a reset) adopts the indices it finds, like a restarted shuntd, and drops every down
 * message before the WELCOME that carries its HELLO's generation. With HELLO all links the guest had
 * are CLOSED by definition.
 *
 * A restarted shuntd may repeat WELCOME, the roster, LINK_OPEN and LINK_CLOSE: a LINK_OPEN for the
 * (segment, epoch) that is open changes nothing but is answered with the LINK_STATE as it is; a
 * LINK_CLOSE for one that is not open is answered with LINK_STATE CLOSED and the message's epoch.
 *
 * A link is named by its segment and the peer's member id there. A link of a pair has its segment's
 * epoch, one of a group an epoch of its own.
 */
#ifndef SHUNT_ABI_MSG_H
#define SHUNT_ABI_MSG_H

#include <shunt/abi/segment.h>

#define SHUNT_ABI_NAME_MAX 64u		/* names and labels, NUL-terminated within it */
#define SHUNT_ABI_LINK_CHANNELS 4u	/* channels a LINK_OPEN can carry */

enum shunt_abi_msg_type {
	/* up */
	SHUNT_ABI_MSG_HELLO = 1,
	SHUNT_ABI_MSG_ROSTER_ACK = 2,
	SHUNT_ABI_MSG_WANT = 3,
	SHUNT_ABI_MSG_LINK_STATE = 4,
	SHUNT_ABI_MSG_BYE = 5,
	SHUNT_ABI_MSG_STATS = 6,
	/* down */
	SHUNT_ABI_MSG_WELCOME = 65,
	SHUNT_ABI_MSG_ROSTER = 66,
	SHUNT_ABI_MSG_LINK_OPEN = 67,
	SHUNT_ABI_MSG_LINK_CLOSE = 68,
	SHUNT_ABI_MSG_STATS_GET = 69,
	SHUNT_ABI_MSG_REFUSE = 70,
};

struct shunt_abi_msg {
	__u16 type;		/* enum shunt_abi_msg_type */
	__u16 reserved;
	__u32 seq;		/* counts up per direction; diagnosis only */
};

struct shunt_abi_mac {
	__u8 addr[6];
	__u8 reserved[2];
};

/* up: the module is here. Sent at probe and after `shunt attach` in the guest. */
struct shunt_abi_msg_hello {
	struct shunt_abi_msg msg;
	__u16 version_min;
	__u16 version_max;
	__u32 nics;		/* entries used in nic[]: NICs the module has bound (status only) */
	__u64 features;
	__u64 generation;	/* as in the member entry */
	char kernel[SHUNT_ABI_NAME_MAX];	/* utsname release */
	char module[SHUNT_ABI_NAME_MAX];	/* module version */
	struct shunt_abi_mac nic[SHUNT_ABI_NICS_MAX];
};

/* down: who you are, as the host knows it. */
struct shunt_abi_msg_welcome {
	struct shunt_abi_msg msg;
	__u16 version;		/* the version both will speak */
	__u16 reserved0;
	__u32 vm_id;		/* on this host, for the life of this shuntd state; never zero */
	__u64 features;
	__u64 generation;	/* of the HELLO this answers */
	char name[SHUNT_ABI_NAME_MAX];
	char label[SHUNT_ABI_NAME_MAX];	/* network label */
	char host[SHUNT_ABI_NAME_MAX];
	__u32 nics;		/* own NICs that may be shunted: a frame whose source is none of */
	__u32 reserved1;	/* these takes the network */
	struct shunt_abi_mac nic[SHUNT_ABI_NICS_MAX];
};

/* down: no service. The guest stays on the network and says why. */
struct shunt_abi_msg_refuse {
	struct shunt_abi_msg msg;
	__u32 reason;		/* enum shunt_abi_reason */
	__u32 reserved;
};

enum shunt_abi_roster_op {
	SHUNT_ABI_ROSTER_RESET = 1,	/* forget all entries; a full list follows */
	SHUNT_ABI_ROSTER_ADD = 2,	/* add, or replace the entry with this vm_id */
	SHUNT_ABI_ROSTER_DEL = 3,	/* vm_id left; its links get LINK_CLOSE of their own */
	SHUNT_ABI_ROSTER_SYNC = 4,	/* the list is complete as of roster_gen */
};

/* down: one roster change. roster_gen counts up by one per message. */
struct shunt_abi_msg_roster {
	struct shunt_abi_msg msg;
	__u64 roster_gen;
	__u32 op;		/* enum shunt_abi_roster_op */
	__u32 vm_id;
	__u64 generation;	/* of the peer's module; 0: it has none (yet): no link possible */
	__u64 features;
	__u32 nics;
	__u32 reason;		/* enum shunt_abi_reason: why there is no link with it now, 0: none known */
	char name[SHUNT_ABI_NAME_MAX];
	char label[SHUNT_ABI_NAME_MAX];
	struct shunt_abi_mac nic[SHUNT_ABI_NICS_MAX];
};

/* up: everything up to roster_gen has taken effect in the data path. */
struct shunt_abi_msg_roster_ack {
	struct shunt_abi_msg msg;
	__u64 roster_gen;
};

/* up: enough frames go to this VM that a link is worth it. Repeated at most once a second. */
struct shunt_abi_msg_want {
	struct shunt_abi_msg msg;
	__u32 vm_id;
	__u32 frames_per_s;
};

#define SHUNT_ABI_BDF_UNKNOWN 0xffffffffu

/*
 * down: use this device for a link with vm_id. The device may be probed before or after this
 * arrives. @bdf names the device by what QEMU says of it (bus << 8 | slot << 3 | function); the
 * segment's own header must agree on segment_id but cannot replace it.
 */
struct shunt_abi_msg_link_open {
	struct shunt_abi_msg msg;
	__u64 segment_id;
	__u32 epoch;
	__u32 vm_id;		/* the peer; its roster entry precedes this */
	__u64 peer_generation;
	__u32 bdf;
	__u16 own_member;
	__u16 peer_member;
	__u32 channels;
	__u32 ends_off;		/* of the ends' entries, struct shunt_abi_member [2], lower member id first; */
				/* 0: those in the member table (pairs) */
	struct shunt_abi_channel channel[SHUNT_ABI_LINK_CHANNELS];
};

/* Why a link, an uplink or a peer is not (any more) in local mode. Wording: cli/reason table. */
enum shunt_abi_reason {
	SHUNT_ABI_R_NONE = 0,
	SHUNT_ABI_R_PEER_CLOSED = 1,	/* the peer closed in an orderly way */
	SHUNT_ABI_R_PEER_DEAD = 2,	/* the peer's QEMU exited, reset or panicked */
	SHUNT_ABI_R_DETACHED = 3,	/* detached by an operator, on the host or in the guest */
	SHUNT_ABI_R_UNLOAD = 4,		/* the module is being unloaded */
	SHUNT_ABI_R_DEVICE_GONE = 5,	/* the device is being removed */
	SHUNT_ABI_R_POLICY = 6,		/* labels or configuration do not allow it */
	SHUNT_ABI_R_BROKEN_INDEX = 7,	/* the peer published an impossible ring index */
	SHUNT_ABI_R_BROKEN_RECORD = 8,	/* the peer published an impossible record */
	SHUNT_ABI_R_BROKEN_STATE = 9,	/* the peer's state or the header make no sense */
	SHUNT_ABI_R_STALLED = 10,	/* the peer makes no progress */
	SHUNT_ABI_R_VERSION = 11,	/* no common ABI version */
	SHUNT_ABI_R_NO_SLOT = 12,	/* no hot-pluggable slot, or a cap was reached */
	SHUNT_ABI_R_NO_DEVICE = 13,	/* this QEMU has no ivshmem-doorbell */
	SHUNT_ABI_R_NO_MODULE = 14,	/* the guest runs no shunt module */
	SHUNT_ABI_R_BAR = 15,		/* the guest could not assign or map BAR 2 */
	SHUNT_ABI_R_DAEMON = 16,	/* shuntd is not there */
	SHUNT_ABI_R_DOORBELLS = 17,	/* the peer rang without reason, too often */
	SHUNT_ABI_R_TIMEOUT = 18,	/* the other side did not answer in time */
	SHUNT_ABI_R_IDLE = 19,		/* not enough traffic yet */
	SHUNT_ABI_R_HOST_POLICY = 20,	/* the host enforces something on an end's network port */
	SHUNT_ABI_R_AWAITED = 21,	/* a group's member whose QEMU has not connected yet */
	SHUNT_ABI_R_MAX
};

/* down: leave this link: stop producing, deliver what is there, report CLOSED. */
struct shunt_abi_msg_link_close {
	struct shunt_abi_msg msg;
	__u64 segment_id;
	__u32 epoch;
	__u32 reason;		/* enum shunt_abi_reason; PEER_DEAD: do not wait for the peer */
	__u32 peer_member;	/* which link of the segment */
	__u32 reserved;
};

enum shunt_abi_link_state {
	SHUNT_ABI_LINK_DOWN = 0,	/* no device, or not opened */
	SHUNT_ABI_LINK_OPENING = 1,	/* READY published, the peer is not READY yet */
	SHUNT_ABI_LINK_UP = 2,
	SHUNT_ABI_LINK_STALLED = 3,	/* as UP, but the peer makes no progress: network meanwhile */
	SHUNT_ABI_LINK_CLOSING = 4,
	SHUNT_ABI_LINK_CLOSED = 5,	/* nothing in this epoch is touched any more: may be scrubbed */
	SHUNT_ABI_LINK_BROKEN = 6,	/* as CLOSED, because the peer broke the rules */
};

/* up: the link's state at this end changed. */
struct shunt_abi_msg_link_state {
	struct shunt_abi_msg msg;
	__u64 segment_id;
	__u32 epoch;
	__u32 state;		/* enum shunt_abi_link_state */
	__u32 reason;		/* enum shunt_abi_reason */
	__u32 peer_member;	/* which link of the segment */
};

/* up: the module detaches or is being unloaded; all its links are CLOSED. */
struct shunt_abi_msg_bye {
	struct shunt_abi_msg msg;
	__u32 reason;
	__u32 reserved;
};

/* down: send one STATS per link. */
struct shunt_abi_msg_stats_get {
	struct shunt_abi_msg msg;
};

/* Counters of one end of a link; frames and bytes of Ethernet frames. */
struct shunt_abi_link_stats {
	__u64 tx_frames;	/* put into the ring */
	__u64 tx_bytes;
	__u64 rx_frames;	/* taken from the ring and handed up */
	__u64 rx_bytes;
	__u64 tx_held;		/* frames that waited because the ring was full */
	__u64 tx_returned;	/* held frames that went to the network after all */
	__u64 tx_ineligible;	/* frames for this peer that had to take the network */
	__u64 rx_refused;	/* records refused (foreign MAC, bad metadata): never handed up */
	__u64 doorbells_tx;
	__u64 doorbells_rx;
	__u64 polls;		/* times the poller found work without a doorbell */
	__u64 stalls;
	__u64 tx_dropped;	/* forwarded frames dropped because too many were held */
	__u64 rx_nomem;		/* received frames dropped for lack of memory */
	__u64 reserved[2];
};

/* up */
struct shunt_abi_msg_stats {
	struct shunt_abi_msg msg;
	__u64 segment_id;
	__u32 vm_id;
	__u32 peer_member;	/* which link of the segment */
	struct shunt_abi_link_stats stats;
};

#define SHUNT_ABI_MSG_MAX 1024u	/* no message is longer, in any version */

SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_msg_hello) == 224, "hello");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_msg_welcome) == 296, "welcome");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_msg_roster) == 240, "roster");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_msg_link_open) == 304, "link open");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_msg_link_close) == 32, "link close");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_msg_link_state) == 32, "link state");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_msg_stats) == 152, "stats");

#endif
