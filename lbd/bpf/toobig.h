/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Answers a packet that is too big for the way on: with ICMP that quotes it.
 */
#ifndef TANDEM_TOOBIG_H
#define TANDEM_TOOBIG_H

#include "icmp.h"

/* Cuts a packet down to what is quoted of it. Where the checksum of layer 4 is left to the hardware, it will be written
 * into the quoted part, and the kernel does not let its place be cut off. So that is seen, and returned: 1; 0 if not; -1 if
 * the packet could not be cut. */
static __always_inline int cut_quoted(void *ctx, const int xdp, const struct packet *packet, __u32 l4)
{
	if (xdp)
		return set_length(ctx, xdp, l4 + QUOTED_TRANSPORT) ? 0 : -1;
	if (packet->key.protocol == PROTOCOL_TCP) {
		if (set_length(ctx, xdp, l4 + QUOTED_TRANSPORT))
			return 0;
		return set_length(ctx, xdp, l4 + sizeof(struct tcp)) ? 1 : -1;
	}
	struct udp *udp = frame_start(ctx, xdp) + l4;
	if ((void *)(udp + 1) > frame_end(ctx, xdp))
		return -1;
	__be16 checksum = udp->checksum;
	int partial = !set_length(ctx, xdp, l4 + __builtin_offsetof(struct udp, checksum));
	if (!set_length(ctx, xdp, l4 + QUOTED_TRANSPORT))
		return -1;
	udp = frame_start(ctx, xdp) + l4;
	if ((void *)(udp + 1) > frame_end(ctx, xdp))
		return -1;
	udp->checksum = checksum;
	return partial;
}

/* The sum of what is quoted of layer 4. If its checksum is yet to be written, then it will make all from there on add up
 * to the inverse of what is in its place now. */
static __always_inline __u64 sum_transport(void *transport, void *end, __u8 protocol, int partial)
{
	if (!partial)
		return sum_words(transport, end, QUOTED_TRANSPORT / 2);
	if (protocol == PROTOCOL_TCP) {
		struct tcp *tcp = transport;
		return (void *)(tcp + 1) > end ? 0 : (__u16)~tcp->checksum;
	}
	struct udp *udp = transport;
	return (void *)(udp + 1) > end ? 0 : (__u16)~udp->checksum;
}

/* Both of these return whether it is written. */
static __always_inline int put_too_big_v4(void *ctx, const int xdp, struct packet *packet, __u32 mtu, int partial)
{
	void *start = frame_start(ctx, xdp), *end = frame_end(ctx, xdp);
	struct ipv4 *ip = start + ETHERNET_LENGTH;
	struct icmp *icmp = (void *)(ip + 1);
	struct ipv4 *quoted = (void *)(icmp + 1);
	if ((void *)(quoted + 1) > end)
		return 0;
	__u32 transport = packet->key.protocol == PROTOCOL_TCP && partial ? sizeof(struct tcp) : QUOTED_TRANSPORT;
	put_answer_v4(ip, 2 * sizeof(*ip) + sizeof(*icmp) + transport, PROTOCOL_ICMP, quoted->destination, quoted->source);
	icmp->type = ICMP_UNREACHABLE;
	icmp->code = ICMP_FRAGMENTATION_NEEDED;
	icmp->checksum = 0;
	icmp->word = htonl(mtu);
	icmp->checksum = ~fold_16(sum_words(icmp, end, (sizeof(*icmp) + sizeof(*quoted)) / 2) +
				  sum_transport(quoted + 1, end, packet->key.protocol, partial));
	return 1;
}

static __always_inline int put_too_big_v6(void *ctx, const int xdp, struct packet *packet, __u32 mtu, int partial)
{
	void *start = frame_start(ctx, xdp), *end = frame_end(ctx, xdp);
	struct ipv6 *ip = start + ETHERNET_LENGTH;
	struct icmp *icmp = (void *)(ip + 1);
	struct ipv6 *quoted = (void *)(icmp + 1);
	if ((void *)(quoted + 1) > end)
		return 0;
	__u32 payload = sizeof(*icmp) + sizeof(*quoted);
	payload += packet->key.protocol == PROTOCOL_TCP && partial ? sizeof(struct tcp) : QUOTED_TRANSPORT;
	void *transport = quoted + 1;
	__u64 sum = 0;
	if (packet->flags & PACKET_FIRST_FRAGMENT) {
		payload += sizeof(struct extension);
		sum = sum_words(transport, end, sizeof(struct extension) / 2);
		transport += sizeof(struct extension);
	}
	put_answer_v6(ip, payload, PROTOCOL_ICMP6, quoted->destination, quoted->source);
	icmp->type = ICMP6_TOO_BIG;
	icmp->code = 0;
	icmp->checksum = 0;
	icmp->word = htonl(mtu);
	/* Both addresses are in the pseudo header. */
	sum += sum_words(icmp, end, (sizeof(*icmp) + sizeof(*quoted)) / 2) +
	       sum_words(quoted->source, end, 2 * sizeof(quoted->source) / 2) + htons(PROTOCOL_ICMP6) + htons(payload);
	icmp->checksum = ~fold_16(sum + sum_transport(transport, end, packet->key.protocol, partial));
	return 1;
}

/* Returns ANSWER_*. */
static __always_inline int too_big(void *ctx, const int xdp, struct packet *packet, __u32 mtu)
{
	if (!packet || packet->flags & (PACKET_LATER_FRAGMENT | PACKET_ICMP))
		return ANSWER_NONE;
	__u32 header = is_v6(packet) ? sizeof(struct ipv6) : sizeof(struct ipv4);
	/* Of IPv6's extension headers only that of a fragment is quoted, right behind IPv6's own. */
	__u32 quoted = header;
	if (is_v6(packet) && packet->flags & PACKET_FIRST_FRAGMENT)
		quoted += sizeof(struct extension);
	if (packet->l4 != ETHERNET_LENGTH + quoted)
		return ANSWER_NONE;
	if (!may_answer(packet->now))
		return ANSWER_LATER;
	int partial = cut_quoted(ctx, xdp, packet, BOUNDED(ETHERNET_LENGTH + quoted, 127));
	__u32 room = header + sizeof(struct icmp);
	if (partial < 0 || (xdp ? bpf_xdp_adjust_head(ctx, -(int)room) : bpf_skb_change_head(ctx, room, 0)))
		return ANSWER_NONE;
	if (!turn_ethernet(ctx, xdp, room))
		return ANSWER_NONE;
	int put = is_v6(packet) ? put_too_big_v6(ctx, xdp, packet, mtu, partial) :
				  put_too_big_v4(ctx, xdp, packet, mtu, partial);
	return put ? ANSWER_MADE : ANSWER_NONE;
}

__noinline int too_big_tc(struct __sk_buff *ctx, struct packet *packet, __u32 mtu)
{
	return too_big(ctx, 0, packet, mtu);
}

__noinline int too_big_xdp(struct xdp_md *ctx, struct packet *packet, __u32 mtu)
{
	return too_big(ctx, 1, packet, mtu);
}

#endif
