/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Tunnels to targets: IP in IP, GRE without a key, and GUE's variant 1, in which the packet follows UDP's header directly.
 */
#ifndef TANDEM_ENCAP_H
#define TANDEM_ENCAP_H

#include "rewrite.h"
#include "stats.h"

#define OUTER_HOPS 64
#define GRE_LENGTH 4
#define GUE_SOURCE_FIRST 49152
#define GUE_SOURCES 0x3fff

struct outer {
	__u32 length;            /* of all that comes before the packet */
	__u32 total;             /* of all that comes before the packet, and the packet */
	__u8 v6;
	__u8 protocol;           /* that follows the outer IP header */
	__u8 service;            /* DSCP of the packet */
	__be16 inner_type;       /* its EtherType */
};

static __always_inline struct outer outer_of(const struct packet *packet, const struct target *target, __u8 service)
{
	struct outer outer = {};
	outer.v6 = !is_mapped(&target->address);
	outer.service = service & 0xfc;
	outer.inner_type = is_v6(packet) ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
	outer.length = outer.v6 ? sizeof(struct ipv6) : sizeof(struct ipv4);
	if (target->way == WAY_IPIP) {
		outer.protocol = is_v6(packet) ? PROTOCOL_IPV6 : PROTOCOL_IPIP;
	} else if (target->way == WAY_GRE) {
		outer.protocol = PROTOCOL_GRE;
		outer.length += GRE_LENGTH;
	} else {
		outer.protocol = PROTOCOL_UDP;
		outer.length += sizeof(struct udp);
	}
	outer.total = outer.length + packet->total;
	return outer;
}

/* Makes room between Ethernet and IP. */
static __always_inline int make_room(void *ctx, const int xdp, const struct target *target, const struct outer *outer)
{
	if (xdp)
		return !bpf_xdp_adjust_head(ctx, -(int)outer->length);
	/* What offloads cut into pieces stays as long as it is: it was seen that it fits. */
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | (outer->v6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
	if (target->way == WAY_GRE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	else if (target->way == WAY_GUE)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	return !bpf_skb_adjust_room(ctx, outer->length, BPF_ADJ_ROOM_MAC, flags);
}

/* Ethernet's header in front of the room: new addresses, and the outer type. */
static __always_inline int put_ethernet(void *ctx, const int xdp, const struct target *target, const struct outer *outer)
{
	struct ethernet *frame = frame_start(ctx, xdp);
	if ((void *)(frame + 1) > frame_end(ctx, xdp))
		return 0;
	set_both_macs(frame, target->destination_mac);
	frame->type = outer->v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
	return 1;
}

static __always_inline void put_outer_v4(struct ipv4 *ip, const struct target *target, const struct outer *outer)
{
	ip->version_length = 0x45;
	ip->service = outer->service;
	ip->total_length = htons(outer->total);
	ip->identification = 0;
	ip->fragment = IPV4_DONT_FRAGMENT;
	ip->hops = OUTER_HOPS;
	ip->protocol = outer->protocol;
	ip->checksum = 0;
	ip->source = target->source.words[3];
	ip->destination = target->address.words[3];
	__u64 sum = (__u64)ip->source + ip->destination + htons(outer->total) + IPV4_DONT_FRAGMENT +
		    htons(0x4500 | outer->service) + htons(OUTER_HOPS << 8 | outer->protocol);
	ip->checksum = ~fold_16(sum);
}

static __always_inline void put_outer_v6(struct ipv6 *ip, const struct target *target, const struct outer *outer)
{
	ip->version_class_label = htonl(0x60000000 | (__u32)outer->service << 20);
	ip->payload_length = htons(outer->total - sizeof(*ip));
	ip->next = outer->protocol;
	ip->hops = OUTER_HOPS;
	for (int word = 0; word < 4; word++) {
		ip->source[word] = target->source.words[word];
		ip->destination[word] = target->address.words[word];
	}
}

/* What tells flows apart for whoever spreads them over ways and processors: it is the same for all of a flow, and no secret.
 * Of a product only the upper bits depend on all bits of what was multiplied, the last byte of an address among them. */
static __always_inline __u32 spread(const struct flow_key *key)
{
	const __u64 *words = (const void *)key;
	return ((words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4]) * 0x9e3779b97f4a7c15ULL) >> 50 & GUE_SOURCES;
}

/* The headers in the room. UDP's checksum is 0: the packet in it has its own. */
static __always_inline int put_outer(void *ctx, const int xdp, const struct packet *packet, const struct target *target,
				     const struct outer *outer)
{
	void *start = frame_start(ctx, xdp) + ETHERNET_LENGTH, *end = frame_end(ctx, xdp);
	void *behind;
	if (outer->v6) {
		if (start + sizeof(struct ipv6) > end)
			return 0;
		put_outer_v6(start, target, outer);
		behind = start + sizeof(struct ipv6);
	} else {
		if (start + sizeof(struct ipv4) > end)
			return 0;
		put_outer_v4(start, target, outer);
		behind = start + sizeof(struct ipv4);
	}
	if (outer->protocol == PROTOCOL_GRE) {
		__be16 *gre = behind;
		if ((void *)(gre + 2) > end)
			return 0;
		gre[0] = 0;
		gre[1] = outer->inner_type;
	} else if (outer->protocol == PROTOCOL_UDP) {
		struct udp *udp = behind;
		if ((void *)(udp + 1) > end)
			return 0;
		udp->source = htons(GUE_SOURCE_FIRST | spread(&packet->key));
		udp->destination = target->gue_port;
		udp->length = htons(outer->total - (outer->v6 ? sizeof(struct ipv6) : sizeof(struct ipv4)));
		udp->checksum = 0;
	}
	return 1;
}

/* The service field, and one hop less. */
static __always_inline int prepare_inner(void *ctx, const int xdp, const struct packet *packet, __u8 *service)
{
	void *start = frame_start(ctx, xdp) + ETHERNET_LENGTH;
	struct ipv4 *ip = start;
	if ((void *)(ip + 1) > frame_end(ctx, xdp))
		return 0;
	if (is_v6(packet)) {
		*service = ntohs(*(__be16 *)start) >> 4;
		((struct ipv6 *)start)->hops--;
	} else {
		*service = ip->service;
		decrement_v4(ip);
	}
	return 1;
}

/* Puts a packet into its target's tunnel. Returns DROP_NONE, or why it could not. */
static __always_inline int encapsulate(void *ctx, const int xdp, struct packet *packet)
{
	struct target *target = packet ? AT(targets, packet->target) : NULL;
	if (!target)
		return DROP_NO_TARGET;
	__u8 service;
	if (!prepare_inner(ctx, xdp, packet, &service))
		return DROP_MALFORMED;
	struct outer outer = outer_of(packet, target, service);
	if (outer.total > 65535 || !make_room(ctx, xdp, target, &outer))
		return DROP_HEADROOM;
	if (!put_ethernet(ctx, xdp, target, &outer) || !put_outer(ctx, xdp, packet, target, &outer))
		return DROP_MALFORMED;
	return DROP_NONE;
}

__noinline int encapsulate_tc(struct __sk_buff *ctx, struct packet *packet)
{
	return encapsulate(ctx, 0, packet);
}

__noinline int encapsulate_xdp(struct xdp_md *ctx, struct packet *packet)
{
	return encapsulate(ctx, 1, packet);
}

#endif
