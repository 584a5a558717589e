/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * The generic-netlink family of shunt.ko: what `shunt` asks in a guest.
 * GET commands need no privilege; ATTACH and DETACH need CAP_NET_ADMIN.
 */
#ifndef SHUNT_ABI_NETLINK_H
#define SHUNT_ABI_NETLINK_H

#define SHUNT_GENL_NAME "shunt"
#define SHUNT_GENL_VERSION 1
#define SHUNT_GENL_MCGRP_EVENTS "events"

enum shunt_genl_cmd {
	SHUNT_CMD_UNSPEC,
	SHUNT_CMD_STATUS_GET,	/* doit: one message */
	SHUNT_CMD_NIC_GET,	/* dump: one message per bound NIC */
	SHUNT_CMD_PEER_GET,	/* dump: one message per roster entry, with its link */
	SHUNT_CMD_ATTACH,	/* doit: HELLO again after DETACH */
	SHUNT_CMD_DETACH,	/* doit: leave all links, BYE; returns when done (release time-out) */
	SHUNT_CMD_EVENT,	/* multicast: SHUNT_A_PEER_* of the peer that changed */
};

enum shunt_genl_attr {
	SHUNT_A_UNSPEC,
	SHUNT_A_PAD,
	/* STATUS */
	SHUNT_A_MODULE_VERSION,	/* string */
	SHUNT_A_ABI_VERSION,	/* u32 */
	SHUNT_A_UPLINK_STATE,	/* u32, enum shunt_uplink_state */
	SHUNT_A_UPLINK_REASON,	/* u32, enum shunt_abi_reason */
	SHUNT_A_VM_ID,		/* u32 */
	SHUNT_A_VM_NAME,	/* string */
	SHUNT_A_LABEL,		/* string */
	SHUNT_A_HOST,		/* string */
	SHUNT_A_GENERATION,	/* u64 */
	SHUNT_A_ROSTER_GEN,	/* u64 */
	SHUNT_A_UPLINK_BAD_MSGS,	/* u64: messages refused or unknown */
	/* NIC */
	SHUNT_A_NIC_NAME,	/* string */
	SHUNT_A_NIC_MAC,	/* 6 bytes */
	SHUNT_A_NIC_STATE,	/* string: "bound" or why not */
	/* PEER */
	SHUNT_A_PEER_VM_ID,	/* u32 */
	SHUNT_A_PEER_NAME,	/* string */
	SHUNT_A_PEER_LABEL,	/* string */
	SHUNT_A_PEER_GENERATION,	/* u64 */
	SHUNT_A_PEER_MACS,	/* n * 6 bytes */
	SHUNT_A_PEER_NET_FRAMES,	/* u64: frames to it that took the network, no link */
	SHUNT_A_LINK_STATE,	/* u32, enum shunt_abi_link_state */
	SHUNT_A_LINK_REASON,	/* u32, enum shunt_abi_reason */
	SHUNT_A_LINK_SEGMENT,	/* u64 */
	SHUNT_A_LINK_EPOCH,	/* u32 */
	SHUNT_A_LINK_DEVICE,	/* string: PCI address */
	SHUNT_A_LINK_STATS,	/* struct shunt_abi_link_stats */
	SHUNT_A_LINK_RING_SIZE,	/* u64: bytes per direction */
	SHUNT_A_LINK_RING_TX_USED,	/* u64: bytes not yet consumed by the peer */
	SHUNT_A_LINK_AGE_MS,	/* u64: since the last state change */
	SHUNT_A_SEGMENT_KIND,	/* u32, enum shunt_abi_kind: of the uplink (STATUS), of the link (PEER) */
	SHUNT_A_PEER_REASON,	/* u32, enum shunt_abi_reason: why shuntd makes no link with it, 0: none known */
	SHUNT_A_LINK_CAUSES,	/* n * u64, by enum shunt_net_cause: frames that took the network */
	SHUNT_A_NIC_REFRESHED,	/* u64: frames sent so that bridges remember the NIC */
	__SHUNT_A_MAX
};
#define SHUNT_A_MAX (__SHUNT_A_MAX - 1)

/* Why a frame for a peer with a link took the network all the same. Wording: cli/print.c. */
enum shunt_net_cause {
	SHUNT_NET_CROSSES,	/* it does not: it goes into the ring */
	SHUNT_NET_SOURCE,	/* its source is none of this guest's own MACs: bridged, macvlan, changed */
	SHUNT_NET_VLAN,		/* VLAN-tagged */
	SHUNT_NET_PROTOCOL,	/* neither IPv4 nor IPv6, or malformed */
	SHUNT_NET_NEIGHBOUR,	/* ARP, neighbour and router discovery */
	SHUNT_NET_DHCP,
	SHUNT_NET_MTU,		/* larger than the MTU of the NIC or of the peer's */
	SHUNT_NET_CRYPTO,	/* IPsec or TLS that the NIC's driver is to encrypt */
	SHUNT_NET_NIC,		/* something is attached to the NIC, or it is down: see its state */
	SHUNT_NET_PEER_NIC,	/* the same at the peer's NIC */
	SHUNT_NET_LINK,		/* the link is stalled or closing */
	SHUNT_NET_MAX
};

enum shunt_uplink_state {
	SHUNT_UPLINK_ABSENT,	/* no uplink device: shuntd has not attached this VM */
	SHUNT_UPLINK_HELLO,	/* said hello, no answer yet */
	SHUNT_UPLINK_READY,	/* welcomed */
	SHUNT_UPLINK_DETACHED,	/* `shunt detach` in this guest */
	SHUNT_UPLINK_REFUSED,	/* refused by shuntd, see the reason */
	SHUNT_UPLINK_BROKEN,	/* mailbox corrupt */
};

#endif
