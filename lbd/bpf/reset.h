/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Resets a client's connection: its packet becomes the answer.
 */
#ifndef TANDEM_RESET_H
#define TANDEM_RESET_H

#include "answer.h"

/* Acknowledgement and flags of the reset for a segment (RFC 9293, 3.10.7.1). */
static __always_inline void turn_segment(struct tcp *tcp, __u32 payload)
{
	__be32 sequence = 0, acknowledgement = 0;
	__u8 flags = TCP_RST;
	if (tcp->flags & TCP_ACK) {
		sequence = tcp->acknowledgement;
	} else {
		__u32 length = payload + !!(tcp->flags & TCP_SYN) + !!(tcp->flags & TCP_FIN);
		acknowledgement = htonl(ntohl(tcp->sequence) + length);
		flags |= TCP_ACK;
	}
	__be16 port = tcp->source;
	tcp->source = tcp->destination;
	tcp->destination = port;
	tcp->sequence = sequence;
	tcp->acknowledgement = acknowledgement;
	tcp->offset = sizeof(*tcp) / 4 << 4;
	tcp->flags = flags;
	tcp->window = 0;
	tcp->urgent = 0;
	tcp->checksum = 0;
}

/* Returns ANSWER_*. */
static __always_inline int reset(void *ctx, const int xdp, struct packet *packet)
{
	if (!packet || packet->key.protocol != PROTOCOL_TCP || packet->tcp_flags & TCP_RST ||
	    packet->flags & (PACKET_FIRST_FRAGMENT | PACKET_LATER_FRAGMENT | PACKET_ICMP))
		return ANSWER_NONE;
	__u32 header = is_v6(packet) ? sizeof(struct ipv6) : sizeof(struct ipv4);
	__u32 l4 = ETHERNET_LENGTH + header;
	if (packet->l4 != l4)
		return ANSWER_NONE; /* extension headers are not taken over */
	l4 = BOUNDED(l4, 127);
	void *start = frame_start(ctx, xdp), *end = frame_end(ctx, xdp);
	struct tcp *tcp = start + l4;
	if ((void *)(tcp + 1) > end)
		return ANSWER_NONE;
	if (!may_answer(packet->now))
		return ANSWER_LATER;
	__u32 payload = packet->total - header - (tcp->offset >> 4) * 4;
	/* Where the checksum is left to the hardware, the kernel does not let its place be cut off: so that is seen. */
	int partial = !xdp && !set_length(ctx, xdp, l4 + __builtin_offsetof(struct tcp, checksum));
	if (!set_length(ctx, xdp, l4 + sizeof(struct tcp)))
		return ANSWER_NONE;
	start = frame_start(ctx, xdp);
	end = frame_end(ctx, xdp);
	tcp = start + l4;
	if ((void *)(tcp + 1) > end || !turn_ethernet(ctx, xdp, 0))
		return ANSWER_NONE;
	turn_segment(tcp, payload);
	__u64 pseudo = htons(PROTOCOL_TCP) + htons(sizeof(*tcp));
	if (is_v6(packet)) {
		struct ipv6 *ip = start + ETHERNET_LENGTH;
		if ((void *)(ip + 1) > end)
			return ANSWER_NONE;
		put_answer_v6(ip, sizeof(*tcp), PROTOCOL_TCP, packet->key.destination.words, packet->key.source.words);
		for (int word = 0; word < 4; word++)
			pseudo += (__u64)packet->key.source.words[word] + packet->key.destination.words[word];
	} else {
		struct ipv4 *ip = start + ETHERNET_LENGTH;
		if ((void *)(ip + 1) > end)
			return ANSWER_NONE;
		put_answer_v4(ip, sizeof(*ip) + sizeof(*tcp), PROTOCOL_TCP, packet->key.destination.words[3],
			      packet->key.source.words[3]);
		pseudo += (__u64)packet->key.source.words[3] + packet->key.destination.words[3];
	}
	tcp->checksum = partial ? fold_16(pseudo) : (__u16)~fold_16(pseudo + sum_words(tcp, end, sizeof(*tcp) / 2));
	return ANSWER_MADE;
}

__noinline int reset_tc(struct __sk_buff *ctx, struct packet *packet)
{
	return reset(ctx, 0, packet);
}

__noinline int reset_xdp(struct xdp_md *ctx, struct packet *packet)
{
	return reset(ctx, 1, packet);
}

#endif
