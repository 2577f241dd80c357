/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Changing a packet in place: addresses, ports, hops, checksums, MACs.
 */
#ifndef TANDEM_REWRITE_H
#define TANDEM_REWRITE_H

#include "context.h"
#include "csum.h"
#include "frame.h"
#include "headers.h"
#include "packet.h"

/* What nat makes of a packet's ends. */
struct ends {
	const struct address *source, *destination;
	__be16 source_port, destination_port;
};

/* MAC addresses, the destination's and behind it the source's, and hops. Returns 0 if the frame is too short, which it never is. */
static __always_inline int rewrite_frame(void *ctx, const int xdp, const struct packet *packet, const __u8 macs[6])
{
	void *start = frame_start(ctx, xdp), *network = start + ETHERNET_LENGTH;
	if (network + sizeof(struct ipv4) > frame_end(ctx, xdp))
		return 0;
	set_both_macs(start, macs);
	if (is_v6(packet))
		((struct ipv6 *)network)->hops--;
	else
		decrement_v4(network);
	return 1;
}

static __always_inline __u64 change_v4(struct ipv4 *ip, const struct ends *ends)
{
	__u64 change = change_32(ip->source, ends->source->words[3]) +
		       change_32(ip->destination, ends->destination->words[3]);
	ip->source = ends->source->words[3];
	ip->destination = ends->destination->words[3];
	ip->checksum = updated(ip->checksum, change);
	return change;
}

static __always_inline __u64 change_v6(struct ipv6 *ip, const struct ends *ends)
{
	__u64 change = 0;
	/* Unrolled, it would take more of the stack than there is. */
#pragma clang loop unroll(disable)
	for (int word = 0; word < 4; word++) {
		change += change_32(ip->source[word], ends->source->words[word]) +
			  change_32(ip->destination[word], ends->destination->words[word]);
		ip->source[word] = ends->source->words[word];
		ip->destination[word] = ends->destination->words[word];
	}
	return change;
}

/* An offload may leave the checksum to the hardware: then only its pseudo header's part may change. The kernel's helper
 * knows, and costs a call for each part. XDP has no such packets. */
static __always_inline void update_checksum(void *ctx, const int xdp, __be16 *checksum, __u32 offset, int udp, __u64 addresses,
					    __u64 ports)
{
	if (!xdp) {
		__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
		bpf_l4_csum_replace(ctx, offset, 0, fold_32(addresses), flags | BPF_F_PSEUDO_HDR);
		bpf_l4_csum_replace(ctx, offset, 0, fold_32(ports), flags);
		return;
	}
	if (udp && !*checksum)
		return; /* none was asked for */
	__be16 next = updated(*checksum, addresses + ports);
	*checksum = udp && !next ? 0xffff : next;
}

/* Addresses and ports. Returns 0 if the packet is too short, which it never is after `parse`. */
static __always_inline int rewrite_ends(void *ctx, const int xdp, const struct packet *packet, const struct ends *ends)
{
	void *start = frame_start(ctx, xdp), *end = frame_end(ctx, xdp);
	void *network = start + ETHERNET_LENGTH;
	__u32 offset = packet->l4 & 0x3fff;
	__u64 addresses, ports;
	FIXED(network);
	if (is_v6(packet)) {
		if (network + sizeof(struct ipv6) > end)
			return 0;
		addresses = change_v6(network, ends);
	} else {
		if (network + sizeof(struct ipv4) > end)
			return 0;
		addresses = change_v4(network, ends);
	}
	if (packet->flags & PACKET_LATER_FRAGMENT)
		return 1;
	struct udp *transport = start + offset;
	if ((void *)(transport + 1) > end)
		return 0;
	ports = change_16(transport->source, ends->source_port) + change_16(transport->destination, ends->destination_port);
	transport->source = ends->source_port;
	transport->destination = ends->destination_port;
	if (packet->key.protocol == PROTOCOL_UDP) {
		update_checksum(ctx, xdp, &transport->checksum, offset + __builtin_offsetof(struct udp, checksum), 1, addresses,
				ports);
	} else {
		struct tcp *tcp = (void *)transport;
		if ((void *)(tcp + 1) > end)
			return 0;
		update_checksum(ctx, xdp, &tcp->checksum, offset + __builtin_offsetof(struct tcp, checksum), 0, addresses,
				ports);
	}
	return 1;
}

#endif
