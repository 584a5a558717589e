/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * Layout of a segment: one memfd shared by its members (shuntd is member 0 of every segment).
 * man/shunt-segment.5 is normative. All fields are little-endian, offsets count from the start
 * of the segment, reserved fields are zero.
 *
 *   0                 struct shunt_abi_segment           writer: shuntd
 *   member_off        struct shunt_abi_member [members]  writer: each member its own
 *   channel_off       struct shunt_abi_channel [n]       writer: shuntd (informative; see below)
 *   mailbox_off       struct shunt_abi_mailbox [members - 1], member 1 first
 *   pool_off          extents, and the ring control blocks of the channels
 *
 * Trust: any member can write any byte of a segment. What a guest acts on (who the peer is, which
 * extents are granted) comes over its uplink, which only it and shuntd can map; the header and the
 * channel directory of a pair are there for diagnosis and for adoption by a restarted shuntd, and
 * are cross-checked, never believed.
 * A guest recognises the kind of a device by what only QEMU can set, its number of MSI-X vectors: exactly
 * SHUNT_ABI_UPLINK_VECTORS mark its uplink, exactly SHUNT_ABI_GROUP_VECTORS a group, more a pair. Its own
 * member id is the device's IVPosition register, never a field in memory.
 *
 * A group is uplink and carrier at once: every VM has its mailbox with shuntd and a link with every other
 * VM. Its members trust one another: each can write the others' mailboxes, too.
 */
#ifndef SHUNT_ABI_SEGMENT_H
#define SHUNT_ABI_SEGMENT_H

#include <shunt/abi/ring.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Shunt's segments are little-endian and are accessed natively"
#endif

#define SHUNT_ABI_MAGIC 0x474553544e554853ull	/* the bytes "SHUNTSEG" */
#define SHUNT_ABI_VERSION 1u

#define SHUNT_ABI_UPLINK_VECTORS 1u	/* MSI-X vectors of an uplink */
#define SHUNT_ABI_GROUP_VECTORS 2u	/* of a group's device; those of pairs have more */
#define SHUNT_ABI_MEMBERS_MAX 16u	/* shuntd included */
#define SHUNT_ABI_CHANNELS_MAX 128u	/* a group of 15 VMs has 105 */
#define SHUNT_ABI_NICS_MAX 8u

enum shunt_abi_kind {
	SHUNT_ABI_UPLINK = 1,
	SHUNT_ABI_PAIR = 2,
	SHUNT_ABI_GROUP = 3,
};

/* Offset 0; writer: shuntd. Two segments never have the same segment_id on one host. */
struct shunt_abi_segment {
	__u64 magic;
	__u16 version_min;	/* versions this segment can be used with */
	__u16 version_max;
	__u32 kind;		/* enum shunt_abi_kind */
	__u64 features;		/* feature bits; none defined in version 1 */
	__u64 segment_id;	/* never zero */
	__u64 size;		/* bytes, a power of two */
	__u32 epoch;		/* raised by shuntd each time it scrubs; never zero */
	__u32 members;		/* including shuntd */
	__u32 member_off;
	__u32 channel_off;
	__u32 channels;
	__u32 mailbox_off;
	__u64 pool_off;		/* multiple of SHUNT_ABI_EXTENT_MIN */
	__u64 pool_size;
	__u64 reserved[22];
};

/*
 * What a member says of itself on a link (and, on an uplink, of its attachment).
 * Legal order: ABSENT -> READY -> CLOSING -> CLOSED; back to ABSENT only by shuntd's scrub.
 */
enum shunt_abi_member_state {
	SHUNT_ABI_ABSENT = 0,	/* not using the segment in this epoch */
	SHUNT_ABI_READY = 1,	/* may produce once every peer of the link is READY in this epoch */
	SHUNT_ABI_CLOSING = 2,	/* produces no more: its producer indices are final; still consumes */
	SHUNT_ABI_CLOSED = 3,	/* consumed all it will; touches the rings no more in this epoch */
};

#define SHUNT_ABI_MTU_NONE 1u	/* frames for this NIC take the network, all of them */

/* What a NIC of a member takes through rings. Written and read whole: one aligned word. */
struct shunt_abi_member_nic {
	__u8 addr[6];		/* its permanent address; zero: entry unused */
	__u16 mtu;		/* largest IP packet; SHUNT_ABI_MTU_NONE; 0: not said */
};

/*
 * Two lines per member, written by the member itself. In a group, where a member has several
 * links, each link has two such entries of its own besides (ends_off of LINK_OPEN).
 */
struct shunt_abi_member {
	__u32 state;		/* enum shunt_abi_member_state */
	__u32 epoch;		/* the segment epoch @state speaks of */
	__u64 generation;	/* random, new for each probe of the driver (or start of shuntd) */
	__u64 liveness;		/* counts up while the member is alive, every liveness tick */
	__u32 running;		/* nonzero while the member is executing (hint for spinning) */
	__u32 doorbells;	/* doorbells this member has rung on the segment (diagnosis) */
	__u64 reserved0[4];
	/* line 1; a hint for senders. Changes when the guest changes its NICs */
	struct shunt_abi_member_nic nic[SHUNT_ABI_NICS_MAX];
};

enum shunt_abi_channel_type {
	SHUNT_ABI_CHAN_PACKET = 1,
	SHUNT_ABI_CHAN_STREAM = 2,
	SHUNT_ABI_CHAN_MESSAGE = 3,
};

struct shunt_abi_channel_dir {
	__u64 ctl_off;		/* struct shunt_abi_ring, line-aligned */
	__u64 ext_off;		/* the ring's first extent */
	__u64 ext_size;		/* bytes, a power of two */
};

/* A channel: two rings. dir[0] carries from the lower member id to the higher, dir[1] back. */
struct shunt_abi_channel {
	__u16 type;		/* enum shunt_abi_channel_type; 0: entry unused */
	__u16 index;		/* among channels of this type (packet: 0 .. vCPU channels - 1) */
	__u16 vector;		/* doorbell vector for this channel, the same at both ends */
	__u16 reserved0;
	struct shunt_abi_channel_dir dir[2];
	__u64 reserved1;
};

/*
 * The mailbox of one member with shuntd. Records are struct shunt_abi_msg_* (msg.h).
 * Only uplinks and groups use it.
 */
#define SHUNT_ABI_MAILBOX_RING 16384u

struct shunt_abi_mailbox {
	struct shunt_abi_ring up_ctl;	/* member -> shuntd */
	struct shunt_abi_ring down_ctl;	/* shuntd -> member */
	__u64 reserved[448];
	__u8 up[SHUNT_ABI_MAILBOX_RING];
	__u8 down[SHUNT_ABI_MAILBOX_RING];
};

/* Doorbell vectors */
#define SHUNT_ABI_VECTOR_CONTROL 0u	/* mailbox, member state changes */
#define SHUNT_ABI_VECTOR_CHANNEL 1u	/* first channel vector; in a group that of all links */

/*
 * A frame on a packet channel: this header, then the frame from its Ethernet header on.
 * Semantics are those of struct virtio_net_hdr (VIRTIO 1.2, 5.1.6): GSO frames cross whole.
 */
#define SHUNT_ABI_PKT_NEEDS_CSUM 1u	/* checksum from csum_start, to store at +csum_offset */
#define SHUNT_ABI_PKT_DATA_VALID 2u	/* checksum is known good */

#define SHUNT_ABI_PKT_GSO_NONE 0u
#define SHUNT_ABI_PKT_GSO_TCPV4 1u
#define SHUNT_ABI_PKT_GSO_TCPV6 4u
#define SHUNT_ABI_PKT_GSO_UDP_L4 5u
#define SHUNT_ABI_PKT_GSO_ECN 0x80u

#define SHUNT_ABI_PKT_FRAME_MAX (65536u + 64u)	/* bytes of frame, Ethernet header included */

struct shunt_abi_pkt {
	__u8 flags;
	__u8 gso_type;
	__u16 hdr_len;		/* bytes up to and including the transport header (hint) */
	__u16 gso_size;
	__u16 csum_start;
	__u16 csum_offset;
	__u16 reserved[3];
};

SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_segment) == 256, "segment header");
SHUNT_ABI_ASSERT(__builtin_offsetof(struct shunt_abi_segment, segment_id) == 24, "segment id");
SHUNT_ABI_ASSERT(__builtin_offsetof(struct shunt_abi_segment, pool_off) == 64, "pool offset");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_member) == 128, "member entry is 2 lines");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_member_nic) == 8, "member's NIC is a word");
SHUNT_ABI_ASSERT(__builtin_offsetof(struct shunt_abi_member, nic) == 64, "member's NICs are a line");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_channel) == 64, "channel entry is 1 line");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_mailbox) == 4096 + 2 * SHUNT_ABI_MAILBOX_RING, "mailbox");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_pkt) == 16, "packet header");

#endif
