// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * The one table of reasons: why traffic to a peer takes the network. The daemon and the CLI both
 * use it, so that a host and a guest say the same thing in the same words. It lives with the daemon
 * because dependencies point from cli to daemon.
 */
#include "daemon/reason.h"

struct reason {
	const char *name;	/* stable token for machines and logs */
	const char *text;	/* for people: completes "network: ..." */
	const char *hint;	/* what to do; "" when nothing is wrong */
};

static const struct reason reasons[SHUNT_ABI_R_MAX] = {
	[SHUNT_ABI_R_NONE] = { "none", "", "" },
	[SHUNT_ABI_R_PEER_CLOSED] = { "peer-closed", "the peer closed the link", "" },
	[SHUNT_ABI_R_PEER_DEAD] = { "peer-dead", "the peer exited, was reset or panicked", "" },
	[SHUNT_ABI_R_DETACHED] = { "detached", "detached by an operator",
		"run `shunt attach` where it was detached" },
	[SHUNT_ABI_R_UNLOAD] = { "module-unloaded", "the guest's module was unloaded",
		"load it again in the guest: modprobe shunt" },
	[SHUNT_ABI_R_DEVICE_GONE] = { "device-gone", "the device was removed",
		"run `shunt attach VM` on the host to plug it again" },
	[SHUNT_ABI_R_POLICY] = { "policy", "labels do not allow it",
		"see labels and allow in shuntd.conf" },
	[SHUNT_ABI_R_BROKEN_INDEX] = { "broken-index", "the peer published an impossible ring index",
		"distrust that guest; `shunt attach VM` on the host allows it again" },
	[SHUNT_ABI_R_BROKEN_RECORD] = { "broken-record", "the peer published an impossible record",
		"distrust that guest; `shunt attach VM` on the host allows it again" },
	[SHUNT_ABI_R_BROKEN_STATE] = { "broken-state", "the peer's published state makes no sense",
		"distrust that guest; `shunt attach VM` on the host allows it again" },
	[SHUNT_ABI_R_STALLED] = { "stalled", "the peer makes no progress",
		"is it paused or overloaded? The link resumes by itself" },
	[SHUNT_ABI_R_VERSION] = { "version", "no common ABI version",
		"update the guest's module or shuntd" },
	[SHUNT_ABI_R_NO_SLOT] = { "no-slot", "no hot-pluggable slot, or a cap was reached",
		"on q35 start the VM with -device pcie-root-port,id=ID,chassis=N,pref64-reserve=256M; "
		"for caps see shuntd.conf" },
	[SHUNT_ABI_R_NO_DEVICE] = { "no-ivshmem", "this QEMU has no ivshmem-doorbell device",
		"use a QEMU built with ivshmem" },
	[SHUNT_ABI_R_NO_MODULE] = { "no-module", "the guest runs no shunt module",
		"load it in the guest: modprobe shunt (if it is loaded, its kernel log says why it is silent)" },
	[SHUNT_ABI_R_BAR] = { "no-bar", "the guest could not assign or map the device's memory",
		"give the slot room (pref64-reserve) or make pair_size smaller" },
	[SHUNT_ABI_R_DAEMON] = { "no-daemon", "shuntd is not there",
		"start shuntd on the host" },
	[SHUNT_ABI_R_DOORBELLS] = { "doorbell-storm", "the peer rang without reason, too often",
		"distrust that guest; `shunt attach VM` on the host allows it again" },
	[SHUNT_ABI_R_TIMEOUT] = { "timeout", "the other side did not answer in time",
		"is the guest paused or hung?" },
	[SHUNT_ABI_R_IDLE] = { "idle", "not enough traffic yet", "" },
	[SHUNT_ABI_R_HOST_POLICY] = { "host-policy", "the host enforces something that must not be bypassed",
		"on the host, `shunt status` says what; take it away, or see host_policy in shuntd.conf" },
	[SHUNT_ABI_R_AWAITED] = { "awaited", "its QEMU has not connected",
		"start it with -chardev socket,id=shunt,path=SOCKET "
		"-device ivshmem-doorbell,vectors=2,chardev=shunt" },
};

static const struct reason unknown = { "unknown", "unknown reason (newer module or daemon?)", "" };

static const struct reason *find(__u32 reason)
{
	if (reason >= SHUNT_ABI_R_MAX || !reasons[reason].name)
		return &unknown;
	return &reasons[reason];
}

/** shunt_reason_name() - Stable token of an enum shunt_abi_reason. */
const char *shunt_reason_name(__u32 reason)
{
	return find(reason)->name;
}

/** shunt_reason_text() - The reason in words, completing "network: ...". */
const char *shunt_reason_text(__u32 reason)
{
	return find(reason)->text;
}

/** shunt_reason_hint() - What an operator can do about it; may be "". */
const char *shunt_reason_hint(__u32 reason)
{
	return find(reason)->hint;
}

/** shunt_link_state_name() - Token of an enum shunt_abi_link_state. */
const char *shunt_link_state_name(__u32 state)
{
	static const char *const names[] = {
		[SHUNT_ABI_LINK_DOWN] = "down",
		[SHUNT_ABI_LINK_OPENING] = "opening",
		[SHUNT_ABI_LINK_UP] = "up",
		[SHUNT_ABI_LINK_STALLED] = "stalled",
		[SHUNT_ABI_LINK_CLOSING] = "closing",
		[SHUNT_ABI_LINK_CLOSED] = "closed",
		[SHUNT_ABI_LINK_BROKEN] = "broken",
	};

	return state <= SHUNT_ABI_LINK_BROKEN ? names[state] : "unknown";
}
