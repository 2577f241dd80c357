/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What changes of a frame that is sent on.
 */
#ifndef TANDEM_FRAME_H
#define TANDEM_FRAME_H

#include "headers.h"

static __always_inline int is_from(const struct ethernet *frame, const __u8 source[6])
{
	const __u16 *mac = (const void *)source;
	return !((frame->source[0] ^ mac[0]) | (frame->source[1] ^ mac[1]) | (frame->source[2] ^ mac[2]));
}

/* A MAC address as a number, to be handed to functions that see no frame. */
static __always_inline __u64 mac_number(const __u16 mac[3])
{
	return (__u64)mac[0] | (__u64)mac[1] << 16 | (__u64)mac[2] << 32;
}

static __always_inline void set_macs(struct ethernet *frame, const __u8 destination[6], const __u8 source[6])
{
	const __u16 *to = (const void *)destination, *from = (const void *)source;
	frame->destination[0] = to[0];
	frame->destination[1] = to[1];
	frame->destination[2] = to[2];
	frame->source[0] = from[0];
	frame->source[1] = from[1];
	frame->source[2] = from[2];
}

/* The same of two that are one behind the other, the destination first. */
static __always_inline void set_both_macs(struct ethernet *frame, const __u8 macs[6])
{
	__u32 *to = (void *)frame;
	const __u32 *from = (const void *)macs;
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}

static __always_inline void decrement_v4(struct ipv4 *ip)
{
	/* The word of hops and protocol becomes smaller by 0x0100. */
	__u32 sum = (__u32)ip->checksum + htons(0x0100);
	ip->checksum = sum + (sum >= 0xffff);
	ip->hops--;
}

#endif
