/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Carries out what was decided.
 */
#ifndef TANDEM_DELIVER_H
#define TANDEM_DELIVER_H

#include "decide.h"
#include "encap.h"
#include "icmp.h"
#include "mss.h"
#include "reset.h"
#include "rewrite.h"
#include "route.h"
#include "toobig.h"
#include "transmit.h"

/* The function of a kind of program. */
#define OF_KIND(name, ...) (xdp ? name##_xdp(ctx, __VA_ARGS__) : name##_tc(ctx, __VA_ARGS__))

static __always_inline int dropped(struct packet *packet, const int xdp, __u8 reason)
{
	packet->reason = reason;
	count_drop(reason);
	sample(packet, VERDICT_DROP);
	return drop(xdp);
}

/* The packet became an answer, or is dropped: for `reason` either way, if not for want of answers. */
static __always_inline int answered(const int xdp, struct packet *packet, __u8 reason, int answer)
{
	if (answer != ANSWER_MADE)
		return dropped(packet, xdp, answer == ANSWER_LATER ? DROP_ANSWER_RATE : reason);
	packet->reason = reason;
	count_drop(reason);
	sample(packet, VERDICT_ANSWER);
	return transmit_plain(xdp, packet->ifindex, packet->ifindex);
}

/* Whether a target's packet to somebody's own address, of no flow that is known here, can be of one of the other node's. Not what comes from
 * there, since that node does not know its flow either: then it is of a connection with the target itself, as is what is for this host, like
 * the answer to a health check. */
static __always_inline int may_be_of_other(void *ctx, const int xdp, const struct packet *packet)
{
	struct ethernet *frame = frame_start(ctx, xdp);
	if (!packet || (void *)(frame + 1) > frame_end(ctx, xdp) || is_other_node(packet, mac_number(frame->source)))
		return 0;
	return is_forwarded(ctx, packet);
}

__noinline int may_be_of_other_tc(struct __sk_buff *ctx, const struct packet *packet)
{
	return may_be_of_other(ctx, 0, packet);
}

__noinline int may_be_of_other_xdp(struct xdp_md *ctx, const struct packet *packet)
{
	return may_be_of_other(ctx, 1, packet);
}

/* To the other node, as it came. What comes from there stops here: that node does not know its flow either. What only may be of the other node
 * has a hop less by then: the other node's frames are not known where its address has just become another, and nothing may go round for ever. */
static __always_inline int send_to_other(void *ctx, const int xdp, struct packet *packet, int maybe)
{
	struct vip_address *vip = AT(vip_addresses, packet->vip);
	__u64 *count = AT(sent_to_other, 0);
	struct ethernet *frame = frame_start(ctx, xdp);
	struct ipv4 *ip = (void *)frame + ETHERNET_LENGTH;
	if (!vip || !count || !vip->other_ifindex || (void *)(ip + 1) > frame_end(ctx, xdp) || is_from(frame, vip->other_mac))
		return dropped(packet, xdp, packet->reason);
	if (maybe) {
		if (packet->hops <= 1)
			return dropped(packet, xdp, DROP_TTL);
		if (is_v6(packet))
			((struct ipv6 *)ip)->hops--;
		else
			decrement_v4(ip);
	}
	*count += 1;
	sample(packet, VERDICT_OTHER);
	set_macs(frame, vip->other_mac, vip->own_mac);
	return transmit(ctx, xdp, packet->ifindex, vip->other_ifindex);
}

/* Whether a packet's sender lets routers cut it: IPv4 without DF, a fragment among others. */
static __always_inline int may_be_cut(void *ctx, const int xdp, const struct packet *packet)
{
	struct ipv4 *ip = frame_start(ctx, xdp) + ETHERNET_LENGTH;
	return !is_v6(packet) && (void *)(ip + 1) <= frame_end(ctx, xdp) && !(ip->fragment & IPV4_DONT_FRAGMENT);
}

/* Longer than the way takes: its sender is told how long may be what it sends, as far as it can be. Nothing is cut here; what might
 * be has a count of its own. Who lets his packets be cut and learns of the way's MTU cuts the next ones himself. */
static __always_inline int too_long(void *ctx, const int xdp, struct packet *packet, __u32 mtu)
{
	__u8 reason = may_be_cut(ctx, xdp, packet) ? DROP_NOT_CUT : DROP_TOO_BIG;
	return answered(xdp, packet, reason, OF_KIND(too_big, packet, mtu));
}

static __always_inline int nat_to_target(void *ctx, const int xdp, struct packet *packet, const struct target *target)
{
	if (unlikely(packet->flags & PACKET_ICMP))
		return OF_KIND(error_to_target, packet);
	struct ends ends = {
		packet->port ? &packet->key.destination : &packet->key.source,
		&target->address,
		packet->port ?: packet->key.source_port,
		target->port ?: packet->key.destination_port,
	};
	return rewrite_ends(ctx, xdp, packet, &ends);
}

/* To a target. */
static __always_inline int forward_packet(void *ctx, const int xdp, struct packet *packet, const struct service *service,
					  const struct target *target)
{
	if (!service || !target || !target->ifindex)
		return dropped(packet, xdp, DROP_NO_NEXT_HOP);
	if (unlikely(packet->hops <= 1))
		return dropped(packet, xdp, DROP_TTL);
	if (unlikely(packet->length > target->mtu))
		return too_long(ctx, xdp, packet, target->mtu);
	if (unlikely(packet->tcp_flags & TCP_SYN && service->mss_max))
		OF_KIND(clamp_mss, packet, service->mss_max);
	if (target->way != WAY_PLAIN) {
		__u8 reason = OF_KIND(encapsulate, packet);
		if (unlikely(reason))
			return dropped(packet, xdp, reason);
		count_in(packet);
		return transmit_plain(xdp, packet->ifindex, target->ifindex);
	}
	if (!rewrite_frame(ctx, xdp, packet, target->destination_mac))
		return dropped(packet, xdp, DROP_MALFORMED);
	if (service->mode == MODE_NAT && !nat_to_target(ctx, xdp, packet, target))
		return dropped(packet, xdp, DROP_MALFORMED);
	count_in(packet);
	return transmit(ctx, xdp, packet->ifindex, target->ifindex);
}

/* From a target to its client. */
static __always_inline int return_packet(void *ctx, const int xdp, struct packet *packet)
{
	struct service *service = AT(services, packet->service);
	if (unlikely(packet->hops <= 1))
		return dropped(packet, xdp, DROP_TTL);
	int unresolved;
	struct route *route = find_route(ctx, xdp, packet, &unresolved);
	/* XDP cannot ask who the neighbour is: `lbd` has been told, and the sender sends again. */
	if (!service || !route || (xdp && unresolved))
		return dropped(packet, xdp, DROP_NO_NEXT_HOP);
	if (unlikely(packet->length > route->mtu))
		return too_long(ctx, xdp, packet, route->mtu);
	if (unlikely(packet->tcp_flags & TCP_SYN && service->mss_max)) {
		/* What the client sends comes by this way, as far as anybody can tell, and goes on by the target's. */
		__u32 headers = (is_v6(packet) ? sizeof(struct ipv6) : sizeof(struct ipv4)) + sizeof(struct tcp);
		__u32 fits = route->mtu > headers ? route->mtu - headers : 0;
		OF_KIND(clamp_mss, packet, fits && fits < service->mss_max ? fits : service->mss_max);
	}
	__u32 ifindex = route->ifindex;
	count_out(packet);
	int done = rewrite_frame(ctx, xdp, packet, route->destination_mac);
	if (unlikely(packet->flags & PACKET_ICMP)) {
		done = done && OF_KIND(error_to_client, packet);
	} else {
		struct ends ends = { &packet->key.destination, &packet->client, packet->vip_port, packet->port };
		done = done && rewrite_ends(ctx, xdp, packet, &ends);
	}
	if (!done)
		return dropped(packet, xdp, DROP_MALFORMED);
	return !xdp && unlikely(unresolved) ? bpf_redirect_neigh(ifindex, NULL, 0, 0) : transmit(ctx, xdp, packet->ifindex, ifindex);
}

#endif
