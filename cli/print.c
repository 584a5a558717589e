// SPDX-License-Identifier: GPL-2.0-only
/* For people: tables and sentences from the JSON both backends give. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s && *s ? s : "-";
}

static long long number(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static void bytes(char *buf, size_t size, double n)
{
	static const char units[] = " KMGTP";
	int u = 0;

	while (n >= 1024 && units[u + 1]) {
		n /= 1024;
		u++;
	}
	snprintf(buf, size, u ? "%.1f%c" : "%.0f", n, units[u]);
}

/* "the guest runs no shunt module (detail)", or "-" */
static void why(const json_t *o, char *buf, size_t size)
{
	const json_t *r = json_object_get(o, "reason");
	const char *t = json_string_value(json_object_get(r, "text"));
	const char *d = json_string_value(json_object_get(r, "detail"));

	if (!t || !*t)
		snprintf(buf, size, "-");
	else if (d && *d)
		snprintf(buf, size, "%s (%s)", t, d);
	else
		snprintf(buf, size, "%s", t);
}

static void hint(const json_t *o, const char *subject)
{
	const char *h = json_string_value(json_object_get(json_object_get(o, "reason"), "hint"));
	char w[400];

	if (!h || !*h)
		return;
	why(o, w, sizeof(w));
	printf("%s: %s. To do: %s.\n", subject, w, h);
}

static void make_string_printable(json_t *s)
{
	size_t n = json_string_length(s);
	char *copy = strndup(json_string_value(s), n);

	for (char *c = copy; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
		else if ((unsigned char)c[0] == 0xc2 && (unsigned char)c[1] < 0xa0)
			c[0] = c[1] = '?';	/* control characters of ISO 6429, in UTF-8 */
	json_string_set_nocheck(s, copy);
	free(copy);
}

/**
 * make_printable() - Take control characters out of every string: a terminal would obey them.
 *
 * What shuntd and modules say was checked when they took it from others; this is for whoever else answers.
 */
void make_printable(json_t *o)
{
	const char *key;
	json_t *e;
	size_t i;

	if (json_is_string(o))
		make_string_printable(o);
	json_array_foreach(o, i, e)
		make_printable(e);
	json_object_foreach(o, key, e)
		make_printable(e);
}

/* "ready", in a group "ready, group ecu" */
static void kind_word(char *buf, size_t size, const char *word, const json_t *o)
{
	const char *group = json_string_value(json_object_get(o, "group"));

	if (group && *group)
		snprintf(buf, size, "%s, group %s", word, group);
	else
		snprintf(buf, size, "%s", word);
}

/* --- host --- */

static void host_vms(const json_t *vms)
{
	struct table t = { 0 };
	json_t *vm;
	size_t i;

	table_row(&t, "VM", "ID", "LABEL", "STATE", "UPLINK", "MODULE", "KERNEL", "ACCEL", "MACS", NULL);
	json_array_foreach(vms, i, vm) {
		json_t *macs = json_object_get(vm, "macs");
		const char *mac = json_string_value(json_array_get(macs, 0));
		char id[24], more[64], uplink[96];

		snprintf(id, sizeof(id), "%lld", number(vm, "id"));
		kind_word(uplink, sizeof(uplink), text(vm, "uplink"), vm);
		snprintf(more, sizeof(more), "%s%s", mac ? mac : "-", json_array_size(macs) > 1 ? ",..." : "");
		table_row(&t, text(vm, "name"), id, text(vm, "label"), text(vm, "state"), uplink,
			  text(vm, "module"), text(vm, "kernel"), text(vm, "accel"), more, NULL);
	}
	table_print(&t);
	json_array_foreach(vms, i, vm) {
		json_t *n;
		size_t k;

		hint(vm, text(vm, "name"));
		json_array_foreach(json_object_get(vm, "notes"), k, n)
			if (json_is_string(n))
				printf("%s: %s.\n", text(vm, "name"), json_string_value(n));
	}
}

static void host_pairs(const json_t *pairs)
{
	struct table t = { 0 };
	json_t *p;
	size_t i;

	table_row(&t, "PAIR", "PATH", "STATE", "EPOCH", "BYTES ->", "BYTES <-", "WHY", NULL);
	json_array_foreach(pairs, i, p) {
		char name[160], epoch[24], ab[24], ba[24], w[400];

		snprintf(name, sizeof(name), "%s - %s", text(p, "a"), text(p, "b"));
		snprintf(epoch, sizeof(epoch), "%lld", number(p, "epoch"));
		bytes(ab, sizeof(ab), (double)number(p, "tx_bytes_a"));
		bytes(ba, sizeof(ba), (double)number(p, "tx_bytes_b"));
		why(p, w, sizeof(w));
		table_row(&t, name, text(p, "path"), text(p, "state"), epoch, ab, ba, w, NULL);
	}
	table_print(&t);
	json_array_foreach(pairs, i, p) {
		char name[160];

		snprintf(name, sizeof(name), "%s - %s", text(p, "a"), text(p, "b"));
		if (!strcmp(text(p, "path"), "network"))
			hint(p, name);
	}
}

static void host_links(const json_t *links)
{
	struct table t = { 0 };
	json_t *p, *e;
	size_t i, k;

	table_row(&t, "SEGMENT", "KIND", "EPOCH", "STATE", "VM", "DEVICE", "PLUG", "LINK", NULL);
	json_array_foreach(links, i, p)
		json_array_foreach(json_object_get(p, "ends"), k, e) {
			char epoch[24], state[40];

			snprintf(epoch, sizeof(epoch), "%lld", number(p, "epoch"));
			snprintf(state, sizeof(state), "%s%s", text(p, "state"),
				 json_is_true(json_object_get(p, "late")) ? " (late)" : "");
			table_row(&t, text(p, "segment"), text(p, "kind"), epoch, state, text(e, "vm"),
				  text(e, "device"), text(e, "plug"), text(e, "link"), NULL);
		}
	table_print(&t);
}

static void stats_row(struct table *t, const char *from, const char *to, const json_t *s)
{
	static const char *const keys[] = { "tx_frames", "tx_bytes", "rx_frames", "rx_bytes", "tx_held",
					    "tx_returned", "tx_ineligible", "rx_refused", "doorbells_tx",
					    "doorbells_rx", "polls", "stalls", "tx_dropped", "rx_nomem" };
	char cell[14][24];

	for (int i = 0; i < 14; i++)
		snprintf(cell[i], sizeof(cell[i]), "%lld", number(s, keys[i]));
	table_row(t, from, to, cell[0], cell[1], cell[2], cell[3], cell[4], cell[5], cell[6], cell[7], cell[8],
		  cell[9], cell[10], cell[11], cell[12], cell[13], NULL);
}

static void stats_head(struct table *t)
{
	table_row(t, "VM", "PEER", "TX", "TX BYTES", "RX", "RX BYTES", "HELD", "RETURNED", "INELIGIBLE",
		  "REFUSED", "BELLS TX", "BELLS RX", "POLLS", "STALLS", "DROPPED", "NO MEM", NULL);
}

static void host_stats(const json_t *links)
{
	struct table t = { 0 };
	json_t *p;
	size_t i;

	stats_head(&t);
	json_array_foreach(links, i, p) {
		json_t *ends = json_object_get(p, "ends");

		for (size_t k = 0; k < 2; k++) {
			json_t *e = json_array_get(ends, k);

			stats_row(&t, text(e, "vm"), text(json_array_get(ends, !k), "vm"),
				  json_object_get(e, "stats"));
		}
	}
	table_print(&t);
}

static void host_status(const json_t *s)
{
	char shared[24];

	bytes(shared, sizeof(shared), (double)number(s, "shared_bytes"));
	printf("shuntd %s on %s: %zu VMs, %s bytes shared, pairs are plugged %s\n\n", text(s, "version"),
	       text(s, "host"), json_array_size(json_object_get(s, "vms")), shared,
	       strcmp(text(s, "plug"), "eager") ? "on demand" : "at once");
	host_vms(json_object_get(s, "vms"));
	putchar('\n');
	host_pairs(json_object_get(s, "pairs"));
}

/** print_host() - An answer of shuntd. */
void print_host(const char *command, const json_t *r)
{
	if (!strcmp(command, "status"))
		host_status(r);
	else if (!strcmp(command, "peers"))
		host_pairs(r);
	else if (!strcmp(command, "links"))
		host_links(r);
	else if (!strcmp(command, "stats"))
		host_stats(r);
	else if (!strcmp(command, "version"))
		printf("shunt %s\nshuntd %s, ABI %lld\n", SHUNT_VERSION, text(r, "shuntd"), number(r, "abi"));
	else if (!strcmp(command, "attach"))
		printf("%s: attached (label %s)%s\n", text(r, "vm"), text(r, "label"),
		       json_is_true(json_object_get(r, "module")) ? "" : "; its guest has not loaded the module yet");
	else
		printf("%s: detached; its devices stay plugged\n", text(r, "vm"));
}

/* --- guest --- */

/* "vm2, by the network while linked: 3 VLAN-tagged, 12 ARP or ...", for each link with such frames */
static void guest_causes(const json_t *peers)
{
	static const struct {
		const char *name, *text;
	} causes[] = {
		{ "foreign-source", "from a MAC that is not this guest's NIC's (bridged, macvlan, changed address)" },
		{ "vlan", "VLAN-tagged" },
		{ "protocol", "not IP" },
		{ "neighbour", "ARP or neighbour discovery" },
		{ "dhcp", "DHCP" },
		{ "mtu", "larger than the NIC's or the peer's MTU" },
		{ "encryption", "to be encrypted by the NIC" },
		{ "nic", "held back by the NIC's state (see `shunt status`)" },
		{ "peer-nic", "held back by the state of the peer's NIC (see `shunt status` there)" },
		{ "link", "while the link was stalled or closing" },
	};
	json_t *p;
	size_t i;

	json_array_foreach(peers, i, p) {
		const json_t *counts = json_object_get(p, "network_causes");
		const char *before = "";

		for (size_t c = 0; c < sizeof(causes) / sizeof(causes[0]); c++) {
			long long n = number(counts, causes[c].name);

			if (!n)
				continue;
			if (!*before)
				printf("%s: frames by the network while linked: ", text(p, "name"));
			printf("%s%lld %s", before, n, causes[c].text);
			before = ", ";
		}
		if (*before)
			printf(".\n");
	}
}

static void guest_peers(const json_t *peers)
{
	struct table t = { 0 };
	json_t *p;
	size_t i;

	table_row(&t, "PEER", "ID", "LABEL", "PATH", "LINK", "NETWORK FRAMES", "WHY", NULL);
	json_array_foreach(peers, i, p) {
		char id[24], net[24], w[400];

		snprintf(id, sizeof(id), "%lld", number(p, "id"));
		snprintf(net, sizeof(net), "%lld", number(p, "network_frames"));
		why(p, w, sizeof(w));
		table_row(&t, text(p, "name"), id, text(p, "label"), text(p, "path"), text(p, "link"), net, w,
			  NULL);
	}
	table_print(&t);
	json_array_foreach(peers, i, p)
		if (!strcmp(text(p, "path"), "network"))
			hint(p, text(p, "name"));
	guest_causes(peers);
}

static void guest_links(const json_t *peers)
{
	struct table t = { 0 };
	json_t *p;
	size_t i;

	table_row(&t, "PEER", "LINK", "SEGMENT", "KIND", "EPOCH", "DEVICE", "RING", "TX USED", "AGE", NULL);
	json_array_foreach(peers, i, p) {
		char epoch[24], ring[24], used[24], age[24];

		if (!json_object_get(p, "segment"))
			continue;
		snprintf(epoch, sizeof(epoch), "%lld", number(p, "epoch"));
		bytes(ring, sizeof(ring), (double)number(p, "ring_size"));
		bytes(used, sizeof(used), (double)number(p, "ring_tx_used"));
		snprintf(age, sizeof(age), "%.1fs", (double)number(p, "age_ms") / 1000);
		table_row(&t, text(p, "name"), text(p, "link"), text(p, "segment"), text(p, "kind"), epoch,
			  text(p, "device"), ring, used, age, NULL);
	}
	table_print(&t);
}

static void guest_stats(const json_t *peers)
{
	struct table t = { 0 };
	json_t *p;
	size_t i;

	stats_head(&t);
	json_array_foreach(peers, i, p)
		if (json_object_get(p, "stats"))
			stats_row(&t, "this", text(p, "name"), json_object_get(p, "stats"));
	table_print(&t);
	guest_causes(peers);
}

static void guest_status(const json_t *s)
{
	struct table t = { 0 };
	json_t *nic;
	size_t i;

	printf("shunt module %s (ABI %lld): uplink %s", text(s, "module"), number(s, "abi"),
	       text(s, "uplink"));
	if (!strcmp(text(s, "kind"), "group"))
		printf(" (a group's)");
	if (json_object_get(s, "name"))
		printf("; this is %s (label %s) on %s", text(s, "name"), text(s, "label"), text(s, "host"));
	putchar('\n');
	if (!strcmp(text(s, "uplink"), "absent"))
		printf("shuntd has not attached this VM. To do, on the host: shunt attach --qmp PATH\n");
	else if (strcmp(text(s, "uplink"), "ready"))
		hint(s, "uplink");
	putchar('\n');
	table_row(&t, "NIC", "MAC", "REFRESHED", "STATE", NULL);
	json_array_foreach(json_object_get(s, "nics"), i, nic) {
		char n[24];

		snprintf(n, sizeof(n), "%lld", number(nic, "refreshed"));
		table_row(&t, text(nic, "name"), text(nic, "mac"), n, text(nic, "state"), NULL);
	}
	table_print(&t);
	putchar('\n');
	guest_peers(json_object_get(s, "peers"));
}

/** print_guest() - An answer of the module. */
void print_guest(const char *command, const json_t *r)
{
	if (!strcmp(command, "status"))
		guest_status(r);
	else if (!strcmp(command, "peers"))
		guest_peers(r);
	else if (!strcmp(command, "links"))
		guest_links(r);
	else if (!strcmp(command, "stats"))
		guest_stats(r);
	else if (!strcmp(command, "version"))
		printf("shunt %s\nmodule %s, ABI %lld\n", SHUNT_VERSION, text(r, "module"), number(r, "abi"));
	else if (!strcmp(command, "attach"))
		printf("attached\n");
	else
		printf("detached: all traffic takes the network\n");
}
