/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Packets that the program makes itself, out of the one that they answer: what is common to resets and ICMP.
 */
#ifndef TANDEM_ANSWER_H
#define TANDEM_ANSWER_H

#include "flow.h"
#include "rewrite.h"

#define ANSWER_HOPS 64

/* What came of an attempt to answer a packet. */
#define ANSWER_NONE 0 /* none is due, or it could not be made */
#define ANSWER_MADE 1 /* it is in the packet's place, to go out where that came from */
#define ANSWER_LATER 2 /* too many were made: the packet is as it was */

/* Sum of some 16-bit words of a frame; `count` is a constant. Returns 0 where they are not all there. */
static __always_inline __u64 sum_words(const void *words, const void *end, int count)
{
	FIXED(words);
	const __be16 *word = words;
	__u64 sum = 0;
	if ((const void *)(word + count) > end)
		return 0;
	/* Unrolled, it would take more of the stack than there is. */
#pragma clang loop unroll(disable)
	for (int number = 0; number < count; number++)
		sum += word[number];
	return sum;
}

/* Ethernet's header of a frame that goes back: the one at `from`, with its addresses changed over. */
static __always_inline int turn_ethernet(void *ctx, const int xdp, __u32 from)
{
	void *start = frame_start(ctx, xdp), *end = frame_end(ctx, xdp);
	struct ethernet *to = start, *old = start + (from & 63);
	if ((void *)(to + 1) > end || (void *)(old + 1) > end)
		return 0;
	struct ethernet was = *old;
	set_macs(to, (void *)was.source, (void *)was.destination);
	to->type = was.type;
	return 1;
}

/* Changes a frame's length at its end. */
static __always_inline int set_length(void *ctx, const int xdp, __u32 length)
{
	if (!xdp)
		return !bpf_skb_change_tail(ctx, length, 0);
	int difference = (int)length - (int)frame_length(ctx, xdp);
	return !difference || !bpf_xdp_adjust_tail(ctx, difference);
}

static __always_inline void put_answer_v4(struct ipv4 *ip, __u32 total, __u8 protocol, __be32 source, __be32 destination)
{
	ip->version_length = 0x45;
	ip->service = 0;
	ip->total_length = htons(total);
	ip->identification = 0;
	ip->fragment = IPV4_DONT_FRAGMENT;
	ip->hops = ANSWER_HOPS;
	ip->protocol = protocol;
	ip->source = source;
	ip->destination = destination;
	ip->checksum = ~fold_16((__u64)htons(0x4500) + htons(total) + IPV4_DONT_FRAGMENT +
				htons(ANSWER_HOPS << 8 | protocol) + source + destination);
}

static __always_inline void put_answer_v6(struct ipv6 *ip, __u32 payload, __u8 next, const __be32 source[4],
					  const __be32 destination[4])
{
	ip->version_class_label = htonl(0x60000000);
	ip->payload_length = htons(payload);
	ip->next = next;
	ip->hops = ANSWER_HOPS;
	for (int word = 0; word < 4; word++) {
		ip->source[word] = source[word];
		ip->destination[word] = destination[word];
	}
}

#endif
