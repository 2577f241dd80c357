/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * From a frame to a `struct packet`. Whatever is not understood is not ours: the stack gets it as it came.
 */
#ifndef TANDEM_PARSE_H
#define TANDEM_PARSE_H

#include "context.h"
#include "headers.h"
#include "packet.h"

/* Whether a frame is addressed to this node. A backup sees frames that a bridge floods: those stay alone. */
static __always_inline int to_us(void *ctx, const int xdp, const struct link *link, const struct ethernet *frame)
{
	const __u16 *ours = (const void *)link->mac;
	if (likely(!((frame->destination[0] ^ ours[0]) | (frame->destination[1] ^ ours[1]) |
		     (frame->destination[2] ^ ours[2]))))
		return 1;
	__u16 family = frame->destination[2] & htons(0xff00);
	if (link->flags & LINK_VIRTUAL_MAC && frame->destination[0] == 0 && frame->destination[1] == htons(0x5e00) &&
	    (family == htons(0x0100) || family == htons(0x0200)))
		return 1;
	return !xdp && SKB(ctx)->pkt_type == PACKET_HOST;
}

/* Lengths, where offloads have put several packets into one. */
static __always_inline void parse_offload(void *ctx, struct packet *packet, __u32 header_length)
{
	__u32 size = SKB(ctx)->gso_size;
	if (likely(!size))
		return;
	packet->total = SKB(ctx)->len - ETHERNET_LENGTH;
	packet->length = packet->l4 - ETHERNET_LENGTH + header_length + size;
	packet->segments = SKB(ctx)->gso_segs ?: 1;
}

/* Both ports, and the protocol again: the key's last word as a whole, because as a whole it is read next, which would have to wait for stores of
 * its parts. */
static __always_inline void put_ports(struct packet *packet, __be32 ports)
{
	__u64 *last = (__u64 *)&packet->key + 4;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	*last = (__u64)packet->key.protocol << 32 | ports;
#else
	*last = (__u64)ports << 32 | (__u32)packet->key.protocol << 24;
#endif
}

/* Ports and flags. `left` is what the IP header says follows it. */
static __always_inline int parse_transport(void *ctx, const int xdp, struct packet *packet, __u32 left)
{
	void *end = frame_end(ctx, xdp);
	void *start = frame_start(ctx, xdp) + (packet->l4 & 0x3fff);
	__u32 header_length = sizeof(struct udp);
	if (packet->key.protocol == PROTOCOL_TCP) {
		struct tcp *tcp = start;
		if ((void *)(tcp + 1) > end || left < sizeof(*tcp))
			return 0;
		put_ports(packet, *(__be32 *)start);
		packet->tcp_flags = tcp->flags;
		header_length = tcp->offset >> 4 << 2;
		if (header_length < sizeof(*tcp) || header_length > left)
			return 0;
	} else if (packet->key.protocol == PROTOCOL_UDP) {
		struct udp *udp = start;
		if ((void *)(udp + 1) > end || left < sizeof(*udp))
			return 0;
		put_ports(packet, *(__be32 *)start);
	} else {
		struct icmp *icmp = start;
		if (packet->key.protocol != (is_v6(packet) ? PROTOCOL_ICMP6 : PROTOCOL_ICMP) ||
		    packet->flags & PACKET_FIRST_FRAGMENT || (void *)(icmp + 1) > end || left < sizeof(*icmp))
			return 0;
		packet->tcp_flags = icmp->type;
		packet->flags |= PACKET_ICMP_TYPE;
	}
	if (!xdp)
		parse_offload(ctx, packet, header_length);
	return 1;
}

static __always_inline int parse_v4(void *ctx, const int xdp, struct packet *packet)
{
	struct ipv4 *ip = frame_start(ctx, xdp) + ETHERNET_LENGTH;
	if ((void *)(ip + 1) > frame_end(ctx, xdp) || ip->version_length != 0x45)
		return 0;
	__u32 total = ntohs(ip->total_length), there = frame_length(ctx, xdp) - ETHERNET_LENGTH;
	if (!xdp && unlikely(!total && SKB(ctx)->gso_size))
		total = there;
	if (total < sizeof(*ip) || total > there)
		return 0;
	put_v4(&packet->key.source, ip->source);
	put_v4(&packet->key.destination, ip->destination);
	packet->key.protocol = ip->protocol;
	packet->hops = ip->hops;
	packet->length = packet->total = total;
	packet->l4 = ETHERNET_LENGTH + sizeof(*ip);
	if (unlikely(ip->fragment & IPV4_FRAGMENT)) {
		packet->identification = ip->identification;
		if (ip->fragment & IPV4_OFFSET) {
			packet->flags |= PACKET_LATER_FRAGMENT;
			return ip->protocol == PROTOCOL_TCP || ip->protocol == PROTOCOL_UDP;
		}
		packet->flags |= PACKET_FIRST_FRAGMENT;
	}
	return parse_transport(ctx, xdp, packet, total - sizeof(*ip));
}

static __always_inline int is_extension(__u8 kind)
{
	return kind == NEXT_HOP_BY_HOP || kind == NEXT_ROUTING || kind == NEXT_FRAGMENT || kind == NEXT_DESTINATION;
}

/* Extension headers up to TCP, UDP, ICMPv6 or a later fragment: returns what is left behind them, 0 if that is nothing. */
static __always_inline __u32 parse_extensions(void *ctx, const int xdp, struct packet *packet, __u32 left)
{
	void *end = frame_end(ctx, xdp);
	__u32 offset = packet->l4;
	for (int number = 0; number < EXTENSIONS_MAX; number++) {
		__u8 kind = packet->key.protocol;
		if (!is_extension(kind))
			break;
		struct extension *extension = frame_start(ctx, xdp) + (offset & 0x3fff);
		if ((void *)(extension + 1) > end)
			return 0;
		__u32 length = sizeof(*extension);
		if (kind == NEXT_FRAGMENT) {
			__be16 place = *(__be16 *)&extension->first;
			packet->identification = extension->identification;
			if (place & FRAGMENT_OFFSET)
				packet->flags |= PACKET_LATER_FRAGMENT;
			else if (place & FRAGMENT_MORE)
				packet->flags |= PACKET_FIRST_FRAGMENT;
		} else {
			length += extension->length * 8;
			/* Not at its destination yet. */
			if (kind == NEXT_ROUTING && extension->second)
				return 0;
		}
		if (length >= left)
			return 0;
		left -= length;
		offset += length;
		packet->key.protocol = extension->next;
		/* Of a datagram with more headers behind that of a fragment only the first fragment has them: nobody knows the others by their protocol, and
		 * the stack gets all. */
		if (packet->flags & PACKET_LATER_FRAGMENT)
			break;
		if (packet->flags & PACKET_FIRST_FRAGMENT && is_extension(extension->next))
			return 0;
	}
	packet->l4 = offset & 0x3fff;
	return left;
}

static __always_inline int parse_v6(void *ctx, const int xdp, struct packet *packet)
{
	struct ipv6 *ip = frame_start(ctx, xdp) + ETHERNET_LENGTH;
	if ((void *)(ip + 1) > frame_end(ctx, xdp) || (*(__u8 *)ip & 0xf0) != 0x60)
		return 0;
	__u32 left = ntohs(ip->payload_length), there = frame_length(ctx, xdp) - ETHERNET_LENGTH - sizeof(*ip);
	if (!xdp && unlikely(!left && SKB(ctx)->gso_size))
		left = there;
	if (left > there)
		return 0;
	for (int word = 0; word < 4; word++) {
		packet->key.source.words[word] = ip->source[word];
		packet->key.destination.words[word] = ip->destination[word];
	}
	packet->key.protocol = ip->next;
	packet->flags |= PACKET_V6;
	packet->hops = ip->hops;
	packet->length = packet->total = left + sizeof(*ip);
	packet->l4 = ETHERNET_LENGTH + sizeof(*ip);
	if (is_mapped(&packet->key.source) || is_mapped(&packet->key.destination))
		return 0; /* never on the wire: it would be taken for IPv4 */
	if (unlikely(ip->next != PROTOCOL_TCP && ip->next != PROTOCOL_UDP)) {
		make_linear(ctx, xdp, LINEAR_LENGTH);
		left = parse_extensions(ctx, xdp, packet, left);
		if (!left)
			return 0;
		if (packet->flags & PACKET_LATER_FRAGMENT)
			return packet->key.protocol == PROTOCOL_TCP || packet->key.protocol == PROTOCOL_UDP;
	}
	return parse_transport(ctx, xdp, packet, left);
}

/* A VLAN's ID in a tag. */
#define VLAN_ID 0x0fff

static __always_inline int is_tagged(void *ctx, const int xdp, __be16 type)
{
	return type == ETHERTYPE_VLAN || type == ETHERTYPE_QINQ || (!xdp && SKB(ctx)->vlan_present);
}

/* Which network a tagged frame is of, its tag says, and not the interface that it comes by: it is the business of the VLAN's
 * device, where the stack shows it again without the tag, and the program may be. An ID of 0 stands for no VLAN: such a tag
 * has a priority only, and is taken off here as the stack would. Returns the type of what was behind it, or 0. */
static __always_inline __be16 take_priority_tag(void *ctx, const int xdp)
{
	void *start = frame_start(ctx, xdp);
	struct ethernet *frame = start;
	__be16 *tag = start + ETHERNET_LENGTH;
	if ((void *)(tag + 2) > frame_end(ctx, xdp))
		return 0;
	/* The kernel, or the interface itself, has it out of the frame already. */
	int apart = !xdp && SKB(ctx)->vlan_present;
	__u32 id = (apart ? SKB(ctx)->vlan_tci : ntohs(tag[0])) & VLAN_ID;
	__be16 type = apart ? frame->type : tag[1];
	if (id || (type != ETHERTYPE_IPV4 && type != ETHERTYPE_IPV6))
		return 0;
	if (!xdp)
		return bpf_skb_vlan_pop(ctx) ? 0 : type;
	struct ethernet moved = *frame;
	moved.type = type;
	*(struct ethernet *)(start + 4) = moved;
	return bpf_xdp_adjust_head(ctx, 4) ? 0 : type;
}

/* Fills in a packet that is all zeros. Returns 0 for what the stack shall have. */
static __always_inline int parse(void *ctx, const int xdp, struct packet *packet)
{
	packet->ifindex = ingress(ctx, xdp);
	packet->segments = 1;
	struct link *link = AT(links, packet->ifindex);
	if (!link || !(link->flags & LINK_OURS))
		return 0;
	make_plain_linear(ctx, xdp);
	struct ethernet *frame = frame_start(ctx, xdp);
	if ((void *)(frame + 1) > frame_end(ctx, xdp) || !to_us(ctx, xdp, link, frame))
		return 0;
	__be16 type = frame->type;
	if (unlikely(is_tagged(ctx, xdp, type)))
		type = take_priority_tag(ctx, xdp);
	if (type == ETHERTYPE_IPV4)
		return parse_v4(ctx, xdp, packet);
	return type == ETHERTYPE_IPV6 && parse_v6(ctx, xdp, packet);
}

#endif
