// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's side: the module's generic-netlink family, turned into JSON of the same shape as the
 * host's.
 */
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/genetlink.h>
#include <string.h>
#include <time.h>

#include <shunt/abi/msg.h>
#include <shunt/abi/netlink.h>

#include "cli/cli.h"
#include "daemon/cleanup.h"
#include "daemon/reason.h"

#define RECV_BYTES 65536u

struct genl {
	struct mnl_socket *nl;
	uint16_t family;
	uint32_t seq;
};

static void genl_close(struct genl *g)
{
	if (g->nl)
		mnl_socket_close(g->nl);
}

static struct nlmsghdr *start(struct genl *g, void *buf, uint16_t type, uint8_t cmd, uint16_t flags)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	struct genlmsghdr *gh;

	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | flags;
	h->nlmsg_seq = ++g->seq;
	gh = mnl_nlmsg_put_extra_header(h, sizeof(*gh));
	gh->cmd = cmd;
	gh->version = SHUNT_GENL_VERSION;
	return h;
}

/* 0 or a negative errno as the kernel has it. */
static int transact(struct genl *g, struct nlmsghdr *h, mnl_cb_t cb, void *data)
{
	_cleanup_free_ char *buf = malloc(RECV_BYTES);
	unsigned int port = mnl_socket_get_portid(g->nl);
	ssize_t n;
	int r = 1;

	if (mnl_socket_sendto(g->nl, h, h->nlmsg_len) < 0)
		return -errno;
	while (r > 0) {
		n = mnl_socket_recvfrom(g->nl, buf, RECV_BYTES);
		if (n < 0)
			return -errno;
		r = mnl_cb_run(buf, (size_t)n, g->seq, port, cb, data);
	}
	return r < 0 ? -errno : 0;
}

static int on_family(const struct nlmsghdr *h, void *data)
{
	struct nlattr *a;

	mnl_attr_for_each(a, h, sizeof(struct genlmsghdr))
		if (mnl_attr_get_type(a) == CTRL_ATTR_FAMILY_ID)
			*(uint16_t *)data = mnl_attr_get_u16(a);
	return MNL_CB_OK;
}

static int genl_open(struct genl *g)
{
	char buf[256];
	struct nlmsghdr *h;

	g->nl = mnl_socket_open(NETLINK_GENERIC);
	if (!g->nl || mnl_socket_bind(g->nl, 0, MNL_SOCKET_AUTOPID) < 0)
		return -errno;
	h = start(g, buf, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, NLM_F_ACK);
	((struct genlmsghdr *)mnl_nlmsg_get_payload(h))->version = 1;
	mnl_attr_put_strz(h, CTRL_ATTR_FAMILY_NAME, SHUNT_GENL_NAME);
	return transact(g, h, on_family, &g->family);
}

/** guest_present() - Whether the module is loaded here. */
bool guest_present(void)
{
	__attribute__((cleanup(genl_close))) struct genl g = { 0 };

	return !genl_open(&g) && g.family;
}

/* --- attributes to JSON --- */

static json_t *reason_json(uint32_t reason)
{
	return json_pack("{s:s, s:s, s:s, s:s}", "name", shunt_reason_name(reason), "text",
			 shunt_reason_text(reason), "hint", shunt_reason_hint(reason), "detail", "");
}

static json_t *macs_json(const struct nlattr *a)
{
	const uint8_t *p = mnl_attr_get_payload(a);
	json_t *list = json_array();

	for (unsigned int n = mnl_attr_get_payload_len(a) / 6; n; n--, p += 6)
		json_array_append_new(list, json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", p[0], p[1], p[2],
							 p[3], p[4], p[5]));
	return list;
}

/* In the order of struct shunt_abi_link_stats. */
static const char *const stat_names[] = {
	"tx_frames", "tx_bytes", "rx_frames", "rx_bytes", "tx_held", "tx_returned", "tx_ineligible",
	"rx_refused", "doorbells_tx", "doorbells_rx", "polls", "stalls",
	"tx_dropped", "rx_nomem",
};

static json_t *stats_json(const struct nlattr *a)
{
	const char *p = mnl_attr_get_payload(a);
	size_t n = mnl_attr_get_payload_len(a) / sizeof(uint64_t);
	json_t *o = json_object();

	for (size_t i = 0; i < n && i < sizeof(stat_names) / sizeof(stat_names[0]); i++) {
		uint64_t v;

		memcpy(&v, p + i * sizeof(v), sizeof(v));
		json_object_set_new(o, stat_names[i], json_integer((json_int_t)v));
	}
	return o;
}

/* In the order of enum shunt_net_cause; cli/print.c has the words for people. */
static const char *const cause_names[SHUNT_NET_MAX] = {
	[SHUNT_NET_SOURCE] = "foreign-source", [SHUNT_NET_VLAN] = "vlan", [SHUNT_NET_PROTOCOL] = "protocol",
	[SHUNT_NET_NEIGHBOUR] = "neighbour", [SHUNT_NET_DHCP] = "dhcp", [SHUNT_NET_MTU] = "mtu",
	[SHUNT_NET_CRYPTO] = "encryption", [SHUNT_NET_NIC] = "nic", [SHUNT_NET_PEER_NIC] = "peer-nic",
	[SHUNT_NET_LINK] = "link",
};

static json_t *causes_json(const struct nlattr *a)
{
	const char *p = mnl_attr_get_payload(a);
	size_t n = mnl_attr_get_payload_len(a) / sizeof(uint64_t);
	json_t *o = json_object();

	for (size_t i = 1; i < n && i < SHUNT_NET_MAX; i++) {
		uint64_t v;

		memcpy(&v, p + i * sizeof(v), sizeof(v));
		json_object_set_new(o, cause_names[i], json_integer((json_int_t)v));
	}
	return o;
}

static const char *uplink_name(uint32_t state)
{
	static const char *const names[] = {
		[SHUNT_UPLINK_ABSENT] = "absent", [SHUNT_UPLINK_HELLO] = "hello",
		[SHUNT_UPLINK_READY] = "ready", [SHUNT_UPLINK_DETACHED] = "detached",
		[SHUNT_UPLINK_REFUSED] = "refused", [SHUNT_UPLINK_BROKEN] = "broken",
	};

	return state <= SHUNT_UPLINK_BROKEN ? names[state] : "unknown";
}

static const char *kind_name(uint32_t kind)
{
	static const char *const names[] = {
		[0] = "none", [SHUNT_ABI_UPLINK] = "uplink", [SHUNT_ABI_PAIR] = "pair", [SHUNT_ABI_GROUP] = "group",
	};

	return kind <= SHUNT_ABI_GROUP ? names[kind] : "unknown";
}

enum form { STRING, U32, U64, HEX64, MAC, MACS, STATS, CAUSES, UPLINK, LINK, REASON, KIND };

static const struct attr {
	const char *key;
	enum form form;
} attrs[SHUNT_A_MAX + 1] = {
	[SHUNT_A_MODULE_VERSION] = { "module", STRING },
	[SHUNT_A_ABI_VERSION] = { "abi", U32 },
	[SHUNT_A_UPLINK_STATE] = { "uplink", UPLINK },
	[SHUNT_A_UPLINK_REASON] = { "reason", REASON },
	[SHUNT_A_VM_ID] = { "id", U32 },
	[SHUNT_A_VM_NAME] = { "name", STRING },
	[SHUNT_A_LABEL] = { "label", STRING },
	[SHUNT_A_HOST] = { "host", STRING },
	[SHUNT_A_GENERATION] = { "generation", HEX64 },
	[SHUNT_A_ROSTER_GEN] = { "roster_gen", U64 },
	[SHUNT_A_UPLINK_BAD_MSGS] = { "bad_msgs", U64 },
	[SHUNT_A_NIC_NAME] = { "name", STRING },
	[SHUNT_A_NIC_MAC] = { "mac", MAC },
	[SHUNT_A_NIC_STATE] = { "state", STRING },
	[SHUNT_A_NIC_REFRESHED] = { "refreshed", U64 },
	[SHUNT_A_PEER_VM_ID] = { "id", U32 },
	[SHUNT_A_PEER_NAME] = { "name", STRING },
	[SHUNT_A_PEER_LABEL] = { "label", STRING },
	[SHUNT_A_PEER_GENERATION] = { "generation", HEX64 },
	[SHUNT_A_PEER_MACS] = { "macs", MACS },
	[SHUNT_A_PEER_NET_FRAMES] = { "network_frames", U64 },
	[SHUNT_A_LINK_STATE] = { "link", LINK },
	[SHUNT_A_LINK_REASON] = { "reason", REASON },
	[SHUNT_A_PEER_REASON] = { "roster_reason", REASON },
	[SHUNT_A_LINK_SEGMENT] = { "segment", HEX64 },
	[SHUNT_A_LINK_EPOCH] = { "epoch", U32 },
	[SHUNT_A_LINK_DEVICE] = { "device", STRING },
	[SHUNT_A_LINK_STATS] = { "stats", STATS },
	[SHUNT_A_LINK_RING_SIZE] = { "ring_size", U64 },
	[SHUNT_A_LINK_RING_TX_USED] = { "ring_tx_used", U64 },
	[SHUNT_A_LINK_AGE_MS] = { "age_ms", U64 },
	[SHUNT_A_LINK_CAUSES] = { "network_causes", CAUSES },
	[SHUNT_A_SEGMENT_KIND] = { "kind", KIND },
};

static json_t *attr_json(const struct nlattr *a, enum form form)
{
	switch (form) {
	case STRING:
		return mnl_attr_validate(a, MNL_TYPE_NUL_STRING) < 0 ? NULL : json_string(mnl_attr_get_str(a));
	case U32:
		return mnl_attr_validate(a, MNL_TYPE_U32) < 0 ? NULL : json_integer(mnl_attr_get_u32(a));
	case U64:
		return mnl_attr_validate(a, MNL_TYPE_U64) < 0 ? NULL :
			json_integer((json_int_t)mnl_attr_get_u64(a));
	case HEX64:
		return mnl_attr_validate(a, MNL_TYPE_U64) < 0 ? NULL :
			json_sprintf("%016llx", (unsigned long long)mnl_attr_get_u64(a));
	case MAC: {
		_cleanup_json_ json_t *list = macs_json(a);

		return json_incref(json_array_get(list, 0));
	}
	case MACS:
		return macs_json(a);
	case STATS:
		return stats_json(a);
	case CAUSES:
		return causes_json(a);
	case UPLINK:
		return mnl_attr_validate(a, MNL_TYPE_U32) < 0 ? NULL :
			json_string(uplink_name(mnl_attr_get_u32(a)));
	case LINK:
		return mnl_attr_validate(a, MNL_TYPE_U32) < 0 ? NULL :
			json_string(shunt_link_state_name(mnl_attr_get_u32(a)));
	case KIND:
		return mnl_attr_validate(a, MNL_TYPE_U32) < 0 ? NULL : json_string(kind_name(mnl_attr_get_u32(a)));
	case REASON:
		return mnl_attr_validate(a, MNL_TYPE_U32) < 0 ? NULL : reason_json(mnl_attr_get_u32(a));
	}
	return NULL;
}

static int on_message(const struct nlmsghdr *h, void *data)
{
	json_t *o = json_object();
	struct nlattr *a;

	mnl_attr_for_each(a, h, sizeof(struct genlmsghdr)) {
		uint16_t type = mnl_attr_get_type(a);
		json_t *v = type <= SHUNT_A_MAX && attrs[type].key ? attr_json(a, attrs[type].form) : NULL;

		if (v)
			json_object_set_new(o, attrs[type].key, v);
	}
	json_array_append_new(data, o);
	return MNL_CB_OK;
}

/* --- requests --- */

static int ask(struct genl *g, uint8_t cmd, bool dump, json_t **ret_list)
{
	_cleanup_json_ json_t *list = json_array();
	char buf[256];
	struct nlmsghdr *h = start(g, buf, g->family, cmd, dump ? NLM_F_DUMP : NLM_F_ACK);
	int r = transact(g, h, on_message, list);

	if (r == -EPERM)
		return complain(EXIT_FAILED, "run as root (CAP_NET_ADMIN)", "not permitted");
	if (r == -ETIMEDOUT || r == -EBUSY)
		return complain(EXIT_FAILED, "`shunt peers` says which link is still held",
				"not done in time: %s", strerror(-r));
	if (r)
		return complain(EXIT_FAILED, "", "the module answered: %s", strerror(-r));
	*ret_list = json_incref(list);
	return EXIT_OK;
}

/*
 * The path a peer's frames take, from its link's state. What shuntd says of the peer explains more than what once
 * became of the link, which is kept as "link_reason".
 */
static void add_path(json_t *peer)
{
	const char *link = json_string_value(json_object_get(peer, "link"));
	const char *generation = json_string_value(json_object_get(peer, "generation"));
	json_t *reason = json_object_get(peer, "reason");
	const char *name = json_string_value(json_object_get(reason, "name"));
	json_t *roster = json_object_get(peer, "roster_reason");
	const char *refused = json_string_value(json_object_get(roster, "name"));
	bool up = link && !strcmp(link, "up");

	json_object_set_new(peer, "path", json_string(up ? "packet" : "network"));
	if (up)
		return;
	if (reason)
		json_object_set(peer, "link_reason", reason);
	if (refused && strcmp(refused, "none"))
		json_object_set(peer, "reason", roster);
	else if (generation && !strcmp(generation, "0000000000000000"))
		json_object_set_new(peer, "reason", reason_json(SHUNT_ABI_R_NO_MODULE));
	else if (name && strcmp(name, "none"))
		return;
	else if (link && !strcmp(link, "stalled"))
		json_object_set_new(peer, "reason", reason_json(SHUNT_ABI_R_STALLED));
	else
		json_object_set_new(peer, "reason", reason_json(SHUNT_ABI_R_IDLE));
}

static int peers(struct genl *g, json_t **ret)
{
	json_t *peer;
	size_t i;
	int r = ask(g, SHUNT_CMD_PEER_GET, true, ret);

	if (r)
		return r;
	json_array_foreach(*ret, i, peer)
		add_path(peer);
	return EXIT_OK;
}

static int status(struct genl *g, json_t **ret)
{
	_cleanup_json_ json_t *list = NULL;
	json_t *o, *part;
	int r = ask(g, SHUNT_CMD_STATUS_GET, false, &list);

	if (r)
		return r;
	o = json_array_get(list, 0);
	if (!o)
		return complain(EXIT_FAILED, "", "the module gave an empty answer");
	if (ask(g, SHUNT_CMD_NIC_GET, true, &part) == EXIT_OK)
		json_object_set_new(o, "nics", part);
	if (peers(g, &part) == EXIT_OK)
		json_object_set_new(o, "peers", part);
	*ret = json_incref(o);
	return EXIT_OK;
}

static int version(struct genl *g, json_t **ret)
{
	_cleanup_json_ json_t *list = NULL;
	int r = ask(g, SHUNT_CMD_STATUS_GET, false, &list);
	json_t *o = json_array_get(list, 0), *module = json_object_get(o, "module");

	if (r)
		return r;
	*ret = json_pack("{s:O?, s:O?}", "module", module, "abi", json_object_get(o, "abi"));
	return EXIT_OK;
}

/** guest_request() - Ask the module. See cli.h. */
int guest_request(const struct request *r, json_t **ret_result)
{
	__attribute__((cleanup(genl_close))) struct genl g = { 0 };

	if (genl_open(&g) || !g.family)
		return complain(EXIT_UNREACHABLE, "load it: modprobe shunt", "the shunt module is not loaded");
	if (r->vm || r->qmp || r->name || r->label)
		return complain(EXIT_USAGE, "on the host shuntd serves VMs; here there is only this guest",
				"in a guest attach and detach take no arguments");
	if (!strcmp(r->command, "attach"))
		return ask(&g, SHUNT_CMD_ATTACH, false, ret_result);
	if (!strcmp(r->command, "detach"))
		return ask(&g, SHUNT_CMD_DETACH, false, ret_result);
	if (!strcmp(r->command, "status"))
		return status(&g, ret_result);
	if (!strcmp(r->command, "version"))
		return version(&g, ret_result);
	return peers(&g, ret_result);
}
