/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Out of an interface.
 */
#ifndef TANDEM_TRANSMIT_H
#define TANDEM_TRANSMIT_H

#include "context.h"
#include "maps.h"

/* Whether a packet can be handed to the other end of a veth at once. There it is taken for what it was at the interface that it came by, and not
 * looked at anew: what came to a virtual router's MAC address was for another host, as far as that device knew, and would still be. */
static __always_inline int for_other_end(void *ctx, __u32 ifindex)
{
	struct link *link = AT(links, ifindex);
	return link && link->flags & LINK_OTHER_END && likely(SKB(ctx)->pkt_type == PACKET_HOST);
}

/* `came_by` is the interface that the packet came by. */
static __always_inline int transmit_plain(const int xdp, __u32 came_by, __u32 ifindex)
{
	if (xdp && likely(ifindex == came_by))
		return XDP_TX;
	return bpf_redirect(ifindex, 0);
}

/* The same, without the queue between the two ends of a veth where there is nothing else between them. For packets whose headers begin where they
 * did when they came: the other end looks for them there. So not for answers, which have an IP header more in front, and not for what is wrapped
 * for a tunnel: what offloads have made of that is for the device to cut into pieces. */
static __always_inline int transmit(void *ctx, const int xdp, __u32 came_by, __u32 ifindex)
{
	if (!xdp && for_other_end(ctx, ifindex))
		return bpf_redirect_peer(ifindex, 0);
	return transmit_plain(xdp, came_by, ifindex);
}

#endif
