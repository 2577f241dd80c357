/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * One source for TC and XDP: `xdp` is a constant wherever these are inlined, so each program has only its own half.
 */
#ifndef TANDEM_CONTEXT_H
#define TANDEM_CONTEXT_H

#include "headers.h"

#define SKB(ctx) ((struct __sk_buff *)(ctx))
#define XDP(ctx) ((struct xdp_md *)(ctx))

/* All headers that are ever looked at. */
#define LINEAR_LENGTH 192
/* Ethernet, IP and what is looked at of TCP. */
#define PLAIN_LENGTH_V4 54
#define PLAIN_LENGTH_V6 74

static __always_inline void *frame_start(void *ctx, const int xdp)
{
	return xdp ? (void *)(long)XDP(ctx)->data : (void *)(long)SKB(ctx)->data;
}

static __always_inline void *frame_end(void *ctx, const int xdp)
{
	return xdp ? (void *)(long)XDP(ctx)->data_end : (void *)(long)SKB(ctx)->data_end;
}

static __always_inline __u32 frame_length(void *ctx, const int xdp)
{
	if (!xdp)
		return SKB(ctx)->len;
	long length = (long)XDP(ctx)->data_end - (long)XDP(ctx)->data;
	FIXED(length);
	return length;
}

static __always_inline __u32 ingress(void *ctx, const int xdp)
{
	return xdp ? XDP(ctx)->ingress_ifindex : SKB(ctx)->ifindex;
}

/* The first `least` bytes become readable where an skb keeps them in pages. That copies: the sender's own, which it keeps for
 * another try, has its payload there and its headers not, so most packets shall do without. */
static __always_inline void make_linear(void *ctx, const int xdp, __u32 least)
{
	if (xdp)
		return;
	/* Read here and now: of a number that the compiler has kept the verifier does not know that it is a pointer. */
	const volatile struct __sk_buff *skb = ctx;
	long linear = (long)skb->data_end - (long)skb->data;
	__u32 length = SKB(ctx)->len;
	FIXED(linear);
	if (unlikely(linear < least && linear < length))
		bpf_skb_pull_data(ctx, length < LINEAR_LENGTH ? length : LINEAR_LENGTH);
}

/* The headers of TCP and UDP, without tags and extensions, become readable. */
static __always_inline void make_plain_linear(void *ctx, const int xdp)
{
	if (xdp)
		return;
	__u32 type = SKB(ctx)->protocol;
	make_linear(ctx, xdp,
		    type == ETHERTYPE_IPV4 ? PLAIN_LENGTH_V4 : type == ETHERTYPE_IPV6 ? PLAIN_LENGTH_V6 : LINEAR_LENGTH);
}

/* What is left alone: for the next program and the stack. */
static __always_inline int pass(const int xdp)
{
	return xdp ? XDP_PASS : TC_ACT_UNSPEC;
}

static __always_inline int drop(const int xdp)
{
	return xdp ? XDP_DROP : TC_ACT_SHOT;
}

#endif
