/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * ICMP errors: those that are about flows, and the ones for packets that are too big.
 */
#ifndef TANDEM_ICMP_H
#define TANDEM_ICMP_H

#include "answer.h"

#define QUOTED_TRANSPORT 8
/* And for TCP's checksum. */
#define QUOTED_CHECKSUM 18

static __always_inline int is_error(const struct packet *packet)
{
	__u8 type = packet->tcp_flags;
	if (is_v6(packet))
		return type >= ICMP6_UNREACHABLE && type <= ICMP6_PARAMETER;
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER;
}

/* How much is quoted behind the quoted packet's own headers; what the frame has behind the packet is not. */
static __always_inline __u32 quoted_transport(const struct packet *packet)
{
	__u32 header = is_v6(packet) ? sizeof(struct ipv6) : sizeof(struct ipv4);
	if (packet->flags & PACKET_QUOTED_FRAGMENT)
		header += sizeof(struct extension);
	return packet->total - (packet->l4 - ETHERNET_LENGTH + sizeof(struct icmp) + header);
}

/* Makes the packet's key that of a packet against the quoted one. Returns 0 for what is not about TCP or UDP from the
 * very address that is told: for that the stack is. */
static __always_inline int parse_quoted(void *ctx, const int xdp, struct packet *packet)
{
	make_linear(ctx, xdp, LINEAR_LENGTH);
	void *end = frame_end(ctx, xdp);
	void *start = frame_start(ctx, xdp) + (packet->l4 & 0x3fff) + sizeof(struct icmp);
	struct flow_key key __attribute__((aligned(8))) = {};
	struct udp *ports;
	if (is_v6(packet)) {
		struct ipv6 *ip = start;
		ports = (void *)(ip + 1);
		if ((void *)(ports + 1) > end || (*(__u8 *)ip & 0xf0) != 0x60)
			return 0;
		for (int word = 0; word < 4; word++) {
			key.source.words[word] = ip->destination[word];
			key.destination.words[word] = ip->source[word];
		}
		key.protocol = ip->next;
		if (is_mapped(&key.source) || is_mapped(&key.destination))
			return 0;
		if (key.protocol == NEXT_FRAGMENT) {
			struct extension *fragment = (void *)(ip + 1);
			ports = (void *)(fragment + 1);
			if ((void *)(ports + 1) > end || *(__be16 *)&fragment->first & FRAGMENT_OFFSET)
				return 0;
			key.protocol = fragment->next;
			packet->flags |= PACKET_QUOTED_FRAGMENT;
		}
	} else {
		struct ipv4 *ip = start;
		ports = (void *)(ip + 1);
		if ((void *)(ports + 1) > end || ip->version_length != 0x45 || ip->fragment & IPV4_OFFSET)
			return 0;
		key.source.words[2] = key.destination.words[2] = htonl(0xffff);
		key.source.words[3] = ip->destination;
		key.destination.words[3] = ip->source;
		key.protocol = ip->protocol;
	}
	if ((__s32)quoted_transport(packet) < QUOTED_TRANSPORT)
		return 0;
	if ((key.protocol != PROTOCOL_TCP && key.protocol != PROTOCOL_UDP) ||
	    !same_address(&key.destination, &packet->key.destination))
		return 0;
	key.source_port = ports->destination;
	key.destination_port = ports->source;
	packet->client = packet->key.source;
	packet->key = key;
	packet->tcp_flags = 0;
	packet->flags = (packet->flags & ~PACKET_ICMP_TYPE) | PACKET_ICMP;
	return 1;
}

/* Ports and checksum behind the quoted header, as far as they are quoted: what that changes in the sum around them. */
static __always_inline __u64 change_quoted_transport(const struct packet *packet, struct udp *ports, void *end,
						     const struct ends *ends, __u64 addresses)
{
	__u8 protocol = packet->key.protocol;
	if ((void *)(ports + 1) > end)
		return 0;
	__u64 change = change_16(ports->source, ends->source_port) + change_16(ports->destination, ends->destination_port);
	ports->source = ends->source_port;
	ports->destination = ends->destination_port;
	__be16 *checksum = &ports->checksum;
	if (protocol == PROTOCOL_TCP) {
		if (quoted_transport(packet) < QUOTED_CHECKSUM)
			return change;
		checksum = &((struct tcp *)ports)->checksum;
	}
	if ((void *)(checksum + 1) > end || (protocol == PROTOCOL_UDP && !*checksum))
		return change;
	__be16 old = *checksum;
	*checksum = updated(old, addresses + change);
	if (protocol == PROTOCOL_UDP && !*checksum)
		*checksum = 0xffff;
	return change + change_16(old, *checksum);
}

/* Rewrites an error and what it quotes. `outer` has no ports. */
static __always_inline int rewrite_error(void *ctx, const int xdp, struct packet *packet, const struct ends *outer,
					 const struct ends *quoted)
{
	void *start = frame_start(ctx, xdp), *end = frame_end(ctx, xdp);
	void *network = start + ETHERNET_LENGTH;
	struct icmp *icmp = start + (packet->l4 & 0x3fff);
	FIXED(network);
	FIXED(icmp);
	if ((void *)(icmp + 1) > end)
		return 0;
	__u64 change = 0;
	if (is_v6(packet)) {
		struct ipv6 *inner = (void *)(icmp + 1);
		if (network + sizeof(struct ipv6) > end || (void *)(inner + 1) > end)
			return 0;
		/* Here the pseudo header counts, and no header's checksum makes up for addresses. */
		change = change_v6(network, outer);
		__u64 addresses = change_v6(inner, quoted);
		change += fold_32(addresses);
		void *ports = inner + 1;
		if (packet->flags & PACKET_QUOTED_FRAGMENT)
			ports += sizeof(struct extension);
		FIXED(ports);
		change += change_quoted_transport(packet, ports, end, quoted, addresses);
	} else {
		struct ipv4 *inner = (void *)(icmp + 1);
		if (network + sizeof(struct ipv4) > end || (void *)(inner + 1) > end)
			return 0;
		change_v4(network, outer);
		__be16 old = inner->checksum;
		__u64 addresses = change_v4(inner, quoted);
		change = addresses + change_16(old, inner->checksum);
		change += change_quoted_transport(packet, (void *)(inner + 1), end, quoted, addresses);
	}
	icmp->checksum = updated(icmp->checksum, change);
	return 1;
}

/* An error about a client's packet's answer, to the target that sent it. */
static __always_inline int error_to_target(void *ctx, const int xdp, struct packet *packet)
{
	struct target *target = packet ? AT(targets, packet->target) : NULL;
	if (!target)
		return 0;
	int preserve = !packet->port;
	struct address router = packet->client;
	struct ends outer = { preserve ? &router : &packet->key.destination, &target->address, 0, 0 };
	struct ends quoted = {
		&target->address,
		preserve ? &packet->key.source : &packet->key.destination,
		target->port ?: packet->key.destination_port,
		preserve ? packet->key.source_port : packet->port,
	};
	return rewrite_error(ctx, xdp, packet, &outer, &quoted);
}

/* An error about a packet to a target, to the client that it was of. */
static __always_inline int error_to_client(void *ctx, const int xdp, struct packet *packet)
{
	if (!packet)
		return 0;
	struct ends outer = { &packet->key.destination, &packet->client, 0, 0 };
	struct ends quoted = { &packet->client, &packet->key.destination, packet->port, packet->vip_port };
	return rewrite_error(ctx, xdp, packet, &outer, &quoted);
}

__noinline int error_to_target_tc(struct __sk_buff *ctx, struct packet *packet)
{
	return error_to_target(ctx, 0, packet);
}

__noinline int error_to_target_xdp(struct xdp_md *ctx, struct packet *packet)
{
	return error_to_target(ctx, 1, packet);
}

__noinline int error_to_client_tc(struct __sk_buff *ctx, struct packet *packet)
{
	return error_to_client(ctx, 0, packet);
}

__noinline int error_to_client_xdp(struct xdp_md *ctx, struct packet *packet)
{
	return error_to_client(ctx, 1, packet);
}

#endif
