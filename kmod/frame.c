// SPDX-License-Identifier: GPL-2.0-only
/*
 * Frames: which of those for a linked peer may cross, and in which form.
 *
 * What may not cross takes the network, as it would without Shunt; each cause has its counter. What the
 * packet header cannot describe (segmentation offload other than TCP's, a checksum that is not the
 * Internet's) is finished here, as the stack would for a NIC without offloads, so that all of a flow
 * takes the same path and stays in order.
 */
#include <linux/icmpv6.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netfilter_netdev.h>
#include <linux/tcp.h>
#include <net/ip.h>
#include <net/ndisc.h>
#include <net/xfrm.h>

#include "compat/compat.h"
#include "shunt.h"

#define DHCP_SERVER 67
#define DHCP_CLIENT 68
#define DHCP6_CLIENT 546
#define DHCP6_SERVER 547

#define ACK_MAX (ETH_HLEN + 60u + 60u)	/* the longest headers */

/* What segments may keep: fragments and an Internet checksum still to be computed. */
#define SEGMENT_FEATURES (NETIF_F_SG | NETIF_F_HIGHDMA | NETIF_F_HW_CSUM)

/* UDP whose destination port is @a or @b, or cannot be seen. */
static bool udp_to(const struct sk_buff *skb, unsigned int off, u16 a, u16 b)
{
	__be16 ports[2], *p = skb_header_pointer(skb, off, sizeof(ports), ports);

	return !p || p[1] == htons(a) || p[1] == htons(b);
}

static enum shunt_net_cause judge_ipv4(const struct sk_buff *skb)
{
	struct iphdr buf;
	const struct iphdr *ip = skb_header_pointer(skb, ETH_HLEN, sizeof(buf), &buf);

	if (!ip || ip->ihl < 5)
		return SHUNT_NET_PROTOCOL;
	if (ip->protocol == IPPROTO_UDP && !(ip->frag_off & htons(IP_OFFSET)) &&
	    udp_to(skb, ETH_HLEN + ip->ihl * 4, DHCP_SERVER, DHCP_CLIENT))
		return SHUNT_NET_DHCP;
	return SHUNT_NET_CROSSES;
}

static enum shunt_net_cause judge_ipv6(const struct sk_buff *skb)
{
	const unsigned int off = ETH_HLEN + sizeof(struct ipv6hdr);
	struct ipv6hdr buf;
	const struct ipv6hdr *ip = skb_header_pointer(skb, ETH_HLEN, sizeof(buf), &buf);
	u8 type, *t;

	if (!ip)
		return SHUNT_NET_PROTOCOL;
	if (ip->nexthdr == IPPROTO_ICMPV6) {
		t = skb_header_pointer(skb, off, sizeof(type), &type);
		return t && (*t < NDISC_ROUTER_SOLICITATION || *t > NDISC_REDIRECT) ? SHUNT_NET_CROSSES :
										       SHUNT_NET_NEIGHBOUR;
	}
	if (ip->nexthdr == IPPROTO_UDP && udp_to(skb, off, DHCP6_CLIENT, DHCP6_SERVER))
		return SHUNT_NET_DHCP;
	return SHUNT_NET_CROSSES;
}

/*
 * Only IP crosses: ARP and neighbour discovery stay on the network, so that bridges keep seeing
 * where a MAC lives; so does DHCP, which QEMU-side services may answer (RULES 12).
 */
static enum shunt_net_cause judge_protocol(const struct sk_buff *skb)
{
	const struct ethhdr *eth = (const struct ethhdr *)skb->data;

	if (skb_vlan_tag_present(skb) || eth_type_vlan(eth->h_proto))
		return SHUNT_NET_VLAN;
	if (eth->h_proto == htons(ETH_P_ARP))
		return SHUNT_NET_NEIGHBOUR;
	if (eth->h_proto != skb->protocol)
		return SHUNT_NET_PROTOCOL;
	if (skb->protocol == htons(ETH_P_IP))
		return judge_ipv4(skb);
	if (skb->protocol == htons(ETH_P_IPV6))
		return judge_ipv6(skb);
	return SHUNT_NET_PROTOCOL;
}

static enum shunt_net_cause judge_size(const struct sk_buff *skb, u32 mtu)
{
	if (skb->len > SHUNT_ABI_PKT_FRAME_MAX)
		return SHUNT_NET_MTU;
	if (skb_is_gso(skb) ? skb_gso_validate_mac_len(skb, mtu + ETH_HLEN) : skb->len <= mtu + ETH_HLEN)
		return SHUNT_NET_CROSSES;
	return SHUNT_NET_MTU;
}

/*
 * IPsec and TLS may leave encryption to the NIC or, after this hook, to the stack in its place: such a
 * frame is still plain text.
 */
static bool unencrypted(struct sk_buff *skb)
{
	struct xfrm_offload *xo = xfrm_offload(skb);

	return (xo && !(xo->flags & (XFRM_XMIT | XFRM_GRO))) || shunt_skb_decrypted(skb);
}

/**
 * shunt_frame_judge() - may the frame cross?
 * @nic: ours, by which it would leave
 * @to: the peer's address it is for
 * @skb: the frame, from its Ethernet header on
 *
 * Returns SHUNT_NET_CROSSES or why it takes the network.
 * Context: egress hook; RCU read side.
 */
enum shunt_net_cause shunt_frame_judge(struct shunt_nic *nic, const struct shunt_mac *to, struct sk_buff *skb)
{
	const struct ethhdr *eth = (const struct ethhdr *)skb->data;
	u32 mtu = READ_ONCE(to->mtu);
	enum shunt_net_cause cause;

	if (!ether_addr_equal(eth->h_source, nic->mac.addr) && !shunt_nic_owns(eth->h_source))
		return SHUNT_NET_SOURCE;
	if (!shunt_nic_clear(nic))
		return SHUNT_NET_NIC;
	cause = judge_protocol(skb);
	if (cause)
		return cause;
	if (mtu == SHUNT_ABI_MTU_NONE)
		return SHUNT_NET_PEER_NIC;
	if (unencrypted(skb))
		return SHUNT_NET_CRYPTO;
	return judge_size(skb, min(mtu, READ_ONCE(nic->dev->mtu)));
}

/**
 * shunt_frame_plain() - can the packet header describe the frame as it is?
 * @skb: a frame that may cross
 *
 * Context: any.
 */
bool shunt_frame_plain(const struct sk_buff *skb)
{
	const unsigned int known = SKB_GSO_TCPV4 | SKB_GSO_TCPV6 | SKB_GSO_TCP_ECN |
				   SKB_GSO_DODGY | SKB_GSO_TCP_FIXEDID;
	unsigned int type = skb_shinfo(skb)->gso_type;

	if (skb_is_gso(skb))
		return !(type & ~known) && (type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6));
	return skb->ip_summed != CHECKSUM_PARTIAL || !skb_csum_is_sctp((struct sk_buff *)skb);
}

/**
 * shunt_frame_is_ack() - is this a TCP segment without data?
 * @frame: from the Ethernet header on
 * @len: of the frame, all of it at @frame
 *
 * Used to tell streams from conversations, nothing more: a wrong answer costs speed. VLAN tags and IPv6
 * extension headers are not looked behind.
 * Context: any.
 */
bool shunt_frame_is_ack(const u8 *frame, u32 len)
{
	u32 ip_len, l4 = ETH_HLEN;

	if (len > ACK_MAX || len < ETH_HLEN + sizeof(struct ipv6hdr))
		return false;
	if (get_unaligned_be16(frame + 12) == ETH_P_IP && frame[23] == IPPROTO_TCP) {
		l4 += (frame[ETH_HLEN] & 15) * 4;
		ip_len = get_unaligned_be16(frame + ETH_HLEN + 2);
	} else if (get_unaligned_be16(frame + 12) == ETH_P_IPV6 && frame[20] == IPPROTO_TCP) {
		l4 += sizeof(struct ipv6hdr);
		ip_len = get_unaligned_be16(frame + ETH_HLEN + 4) + sizeof(struct ipv6hdr);
	} else {
		return false;
	}
	return len >= l4 + sizeof(struct tcphdr) &&
	       ip_len + ETH_HLEN == l4 + (frame[l4 + 12] >> 4) * 4u;
}

static unsigned int transmit_segments(struct shunt_link *link, struct net_device *dev, struct sk_buff *skb)
{
	struct sk_buff *segs = skb_gso_segment(skb, SEGMENT_FEATURES), *seg, *next;

	if (IS_ERR_OR_NULL(segs))
		return NF_ACCEPT;
	skb_list_walk_safe(segs, seg, next) {
		unsigned int verdict;

		skb_mark_not_on_list(seg);
		verdict = shunt_transmit(link, dev, seg);
		if (verdict == NF_DROP) {
			kfree_skb(seg);
		} else if (verdict == NF_ACCEPT) {	/* the link closed: behind what was held */
			nf_skip_egress(seg, true);
			dev_queue_xmit(seg);
		}
	}
	consume_skb(skb);
	return NF_STOLEN;
}

/**
 * shunt_frame_transmit() - send a frame that is not plain: segmented, or with its checksum filled in
 * @link: to the peer
 * @dev: the NIC it would have left by
 * @skb: the frame
 *
 * Returns a netfilter verdict.
 * Context: egress hook; BH off, RCU read side.
 */
unsigned int shunt_frame_transmit(struct shunt_link *link, struct net_device *dev, struct sk_buff *skb)
{
	if (skb_is_gso(skb))
		return transmit_segments(link, dev, skb);
	return skb_csum_hwoffload_help(skb, 0) ? NF_ACCEPT : shunt_transmit(link, dev, skb);
}
