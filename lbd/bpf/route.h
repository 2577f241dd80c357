/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * The way to a client. The kernel's routing table is asked once a second and processor; in between a cache answers.
 */
#ifndef TANDEM_ROUTE_H
#define TANDEM_ROUTE_H

#include "context.h"
#include "flow.h"

static __always_inline __u32 route_index(const struct address *address)
{
	__u32 mixed = address->words[0] ^ address->words[1] ^ address->words[2] ^ address->words[3];
	return (mixed * 0x9e3779b1u >> 16) % ROUTES;
}

/* The interface is known, the neighbour there is not. */
#define ROUTE_UNRESOLVED 2

/* Asks the kernel where it would forward a packet. */
static __always_inline long look_up_route(void *ctx, const struct packet *packet, struct bpf_fib_lookup *query,
					  const struct address *source, const struct address *destination)
{
	query->family = is_v6(packet) ? AF_INET6 : AF_INET;
	query->l4_protocol = packet->key.protocol;
	query->ifindex = packet->ifindex;
	for (int word = 0; word < 4; word++) {
		query->source[word] = source->words[word];
		query->destination[word] = destination->words[word];
	}
	if (!is_v6(packet)) {
		query->source[0] = query->source[3];
		query->destination[0] = query->destination[3];
	}
	/* The shortest there is: whether this packet is too large is not the kernel's to say here, which the way's MTU is. */
	query->tot_len = 1;
	return bpf_fib_lookup(ctx, query, sizeof(*query), 0);
}

/* Whether the kernel would forward a packet as it is: not one to this host itself. */
static __always_inline int is_forwarded(void *ctx, const struct packet *packet)
{
	struct bpf_fib_lookup query = {};
	long result = look_up_route(ctx, packet, &query, &packet->key.source, &packet->key.destination);
	return result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_NO_NEIGH;
}

/* Tells `lbd` of the next hop that the kernel has no neighbour for, so many times in a tick; the others are counted, and told of with a later
 * packet. */
static __always_inline void tell_next_hop(const struct bpf_fib_lookup *query, __u32 now)
{
	struct next_hop hop = {};
	/* A router of IPv6 may be on the way of IPv4. */
	if (query->family == AF_INET6) {
		for (int word = 0; word < 4; word++)
			hop.address.words[word] = query->destination[word];
	} else {
		hop.address.words[2] = htonl(0xffff);
		hop.address.words[3] = query->destination[0];
	}
	hop.ifindex = query->ifindex;
	struct processor *processor = processor_now(now);
	if (processor && processor->next_hops < NEXT_HOPS_PER_TICK) {
		processor->next_hops++;
		if (!bpf_ringbuf_output(&next_hops, &hop, sizeof(hop), 0))
			return;
	}
	__u64 *untold = AT(untold_hops, 0);
	if (untold)
		*untold += 1;
}

/* Asks the kernel, as for a packet that it would forward from the VIP. Returns 0 if there is no way, 1 if the cache has it
 * now, or ROUTE_UNRESOLVED. */
static __always_inline int ask_route(void *ctx, const int xdp, const struct packet *packet)
{
	struct route *route = packet ? AT(routes, route_index(&packet->client)) : NULL;
	if (!route)
		return 0;
	struct bpf_fib_lookup query = {};
	long result = look_up_route(ctx, packet, &query, &packet->key.destination, &packet->client);
	route->until = packet->now;
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	struct link *link = AT(links, query.ifindex);
	/* Most drivers send what a program of another interface gives them only where they have one themselves, and lose it in silence elsewhere. To the
	 * stack it is no good either: that would reset what comes to the VIP, and send on as it is what comes to the client. */
	if (xdp && (!link || !(link->flags & LINK_OURS)))
		return 0;
	if (!same_address(&route->address, &packet->client)) {
		route->address = packet->client;
		route->told = 0;
	}
	route->ifindex = query.ifindex;
	__builtin_memcpy(route->destination_mac, query.destination_mac, 6);
	__builtin_memcpy(route->source_mac, query.source_mac, 6);
	route->mtu = link && link->mtu ? link->mtu : 1500;
	if (result == BPF_FIB_LKUP_RET_NO_NEIGH) {
		/* Once a second, as often as the kernel asks for one. In TC it does by itself, for the packet that is sent. */
		if (xdp && (!route->told || age(packet->now, route->told) >= TICKS_PER_SECOND)) {
			route->told = packet->now;
			tell_next_hop(&query, packet->now);
		}
		return ROUTE_UNRESOLVED;
	}
	route->told = 0;
	if (query.tot_len > 1)
		route->mtu = query.tot_len;
	route->until = packet->now + ROUTE_TICKS;
	return 1;
}

__noinline int ask_route_tc(struct __sk_buff *ctx, const struct packet *packet)
{
	return ask_route(ctx, 0, packet);
}

__noinline int ask_route_xdp(struct xdp_md *ctx, const struct packet *packet)
{
	return ask_route(ctx, 1, packet);
}

/* The way to the client; `unresolved` is set where only the interface of it is known. */
static __always_inline struct route *find_route(void *ctx, const int xdp, const struct packet *packet, int *unresolved)
{
	struct route *route = AT(routes, route_index(&packet->client));
	*unresolved = 0;
	if (!route)
		return NULL;
	if (likely(!reached(packet->now, route->until) && same_address(&route->address, &packet->client)))
		return route;
	int found = xdp ? ask_route_xdp(ctx, packet) : ask_route_tc(ctx, packet);
	*unresolved = found == ROUTE_UNRESOLVED;
	return found ? route : NULL;
}

#endif
