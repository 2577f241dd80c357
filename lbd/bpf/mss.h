/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Lowers the MSS that a SYN offers.
 */
#ifndef TANDEM_MSS_H
#define TANDEM_MSS_H

#include "rewrite.h"

#define OPTION_END 0
#define OPTION_NOTHING 1
#define OPTION_MSS 2
/* Options looked through; senders put the MSS first. */
#define OPTIONS_MAX 10

/* Where in the frame the MSS's value is, or 0. */
static __always_inline __u32 find_mss(void *ctx, const int xdp, const struct packet *packet)
{
	void *start = frame_start(ctx, xdp), *end = frame_end(ctx, xdp);
	__u32 offset = packet->l4 & 0x3fff;
	struct tcp *tcp = start + offset;
	if ((void *)(tcp + 1) > end)
		return 0;
	__u32 last = offset + (tcp->offset >> 4) * 4;
	offset += sizeof(*tcp);
	for (int number = 0; number < OPTIONS_MAX; number++) {
		__u8 *option = start + (offset & 0x7fff);
		if (offset + 4 > last || (void *)(option + 4) > end || option[0] == OPTION_END)
			return 0;
		if (option[0] == OPTION_NOTHING) {
			offset++;
			continue;
		}
		if (option[0] == OPTION_MSS)
			return option[1] == 4 ? offset + 2 : 0;
		if (option[1] < 2)
			return 0;
		offset += option[1];
	}
	return 0;
}

static __always_inline int clamp_mss(void *ctx, const int xdp, const struct packet *packet, __u32 most)
{
	if (!packet || packet->flags & (PACKET_ICMP | PACKET_LATER_FRAGMENT))
		return 0;
	make_linear(ctx, xdp, LINEAR_LENGTH);
	__u32 place = find_mss(ctx, xdp, packet) & 0x7fff;
	void *start = frame_start(ctx, xdp), *end = frame_end(ctx, xdp);
	__u8 *value = start + place;
	struct tcp *tcp = start + (packet->l4 & 0x3fff);
	if (!place || (void *)(value + 2) > end || (void *)(tcp + 1) > end)
		return 0;
	__u16 old = value[0] << 8 | value[1];
	if (old <= most)
		return 0;
	value[0] = most >> 8;
	value[1] = most;
	/* At an odd place its bytes count for the other halves of two words. */
	int odd = (place ^ packet->l4) & 1;
	__be16 was = odd ? __builtin_bswap16(htons(old)) : htons(old);
	__be16 is = odd ? __builtin_bswap16(htons(most)) : htons(most);
	if (xdp)
		tcp->checksum = updated(tcp->checksum, change_16(was, is));
	else
		bpf_l4_csum_replace(ctx, (packet->l4 & 0x3fff) + __builtin_offsetof(struct tcp, checksum), 0,
				    fold_32(change_16(was, is)), 0);
	return 0;
}

__noinline int clamp_mss_tc(struct __sk_buff *ctx, const struct packet *packet, __u32 most)
{
	return clamp_mss(ctx, 0, packet, most);
}

__noinline int clamp_mss_xdp(struct xdp_md *ctx, const struct packet *packet, __u32 most)
{
	return clamp_mss(ctx, 1, packet, most);
}

#endif
