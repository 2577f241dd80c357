/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Who asks for a VIP's MAC address, by ARP or neighbour discovery, while this node does not own it, gets no answer: on a host
 * whose `vrrpd` is stopped the address is still there, and the other node has it too. A stack without the address would not
 * answer either.
 */
#ifndef TANDEM_SOLICIT_H
#define TANDEM_SOLICIT_H

#include "context.h"
#include "headers.h"
#include "packet.h"
#include "time.h"

/* The IPv4 address that an ARP request asks for. An announcement asks too, for the sender's own: that says something. */
static __always_inline int asked_by_arp(const void *start, const void *end, struct address *asked)
{
	const struct arp *arp = start;
	if ((const void *)(arp + 1) > end || arp->hardware != ARP_ETHERNET || arp->protocol != ETHERTYPE_IPV4 ||
	    arp->hardware_length != 6 || arp->protocol_length != 4 || arp->operation != ARP_REQUEST ||
	    (arp->sender[0] == arp->target[0] && arp->sender[1] == arp->target[1]))
		return 0;
	asked->words[0] = asked->words[1] = 0;
	asked->words[2] = htonl(0xffff);
	__builtin_memcpy(&asked->words[3], arp->target, 4);
	return 1;
}

/* The IPv6 address that a neighbour solicitation asks for. */
static __always_inline int asked_by_nd(const void *start, const void *end, struct address *asked)
{
	const struct ipv6 *ip = start;
	const struct icmp *icmp = (const void *)(ip + 1);
	const struct address *target = (const void *)(icmp + 1);
	if ((const void *)(target + 1) > end || ip->next != PROTOCOL_ICMP6 || icmp->type != ICMP6_SOLICITATION)
		return 0;
	*asked = *target;
	return !is_mapped(asked);
}

/* Whether a frame that is nothing to forward is such a question; about what, `packet` says then, which nobody looks at otherwise. */
static __always_inline int asks_in_vain(void *ctx, const int xdp, struct packet *packet)
{
	struct link *link = AT(links, packet->ifindex);
	if (!link || !(link->flags & LINK_OURS))
		return 0;
	void *start = frame_start(ctx, xdp), *end = frame_end(ctx, xdp);
	struct ethernet *frame = start;
	if ((void *)(frame + 1) > end)
		return 0;
	__be16 type = frame->type;
	__u32 offset = ETHERNET_LENGTH;
	for (int tag = 0; tag < 2 && (type == ETHERTYPE_VLAN || type == ETHERTYPE_QINQ); tag++) {
		__be16 *inner = start + offset;
		if ((void *)(inner + 2) > end)
			return 0;
		type = inner[1];
		offset += 4;
	}
	struct address *asked = &packet->key.destination;
	if (type == ETHERTYPE_ARP ? !asked_by_arp(start + (offset & 31), end, asked) :
				    type != ETHERTYPE_IPV6 || !asked_by_nd(start + (offset & 31), end, asked))
		return 0;
	struct vip *vip = bpf_map_lookup_elem(&vips, asked);
	return vip && !owns(vip->instance);
}

#endif
