/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Source ports of NAT: who has which towards an endpoint. A slot frees itself by age, so nobody has to clean up.
 */
#ifndef TANDEM_NAT_H
#define TANDEM_NAT_H

#include "flow.h"

#define HALF_PORTS (NAT_PORTS / 2)

/* A flow and its slot are refreshed together, within a second. The slot lives longer than that, so whoever has a flow has its
 * port: that need not be looked up for each packet, which with a million flows costs as much as finding the flow. */
#define SLOT_EXTRA_TICKS (4 * REFRESH_TICKS)
/* Where there is no free slot, the one silent for longest is taken over, if that is longer than this, from a flow that is over and
 * whose last packets only may still come: else a target could take no more new flows in the closing time-out than there are
 * ports. A second is what Linux waits before it uses a port of its own again (net.ipv4.tcp_tw_reuse); a target which still
 * remembers the old connection takes the new one if its timestamps or sequence numbers are ahead (RFC 6191), and otherwise
 * answers what makes the client reset the old one and ask once more. */
#define SLOT_TAKE_OVER_TICKS TICKS_PER_SECOND
/* Or, if longer than this, from one that is half-open: a flood of SYNs takes all ports that there are within a second, and may
 * not keep them from those who answer. Whoever does so this soon keeps his. */
#define SLOT_HALF_OPEN_TICKS 1
/* Or, if longer than this, from a single datagram. Datagrams have no sequence numbers: the answer to one must not reach whoever has its port
 * next. Those who ask wait for so long (resolvers 5 s), and a target that goes on answering is noted each second only. nf_conntrack keeps
 * what was not answered for 30 s: then a thousand datagrams a second from made-up addresses would keep all ports of a target. */
#define SLOT_DATAGRAM_TICKS (5 * TICKS_PER_SECOND)

#define SLOT_SEEN(control) ((__u32)(control))
#define SLOT_SERVICE(control) ((__u16)((control) >> 32 & 0x3ff))
#define SLOT_VIP(control) ((__u16)((control) >> 42 & 0x3ff))
#define SLOT_STATE(control) ((__u8)((control) >> 52))
#define SLOT_LOCKED(control) ((control) >> 60)
#define SLOT_CONTROL(seen, service, vip, state)                                                                         \
	((__u64)(seen) | (__u64)((service) & 0x3ff) << 32 | (__u64)((vip) & 0x3ff) << 42 | (__u64)(state) << 52)
#define SLOT_LOCK (1ULL << 60)

/* What one of the arrays in `slots` has of a port. */
static __always_inline void *of_port(__u32 array, __u16 port)
{
	void *ports = AT(slots, array);
	if (!ports || port < NAT_PORT_FIRST)
		return NULL;
	__u32 index = port - NAT_PORT_FIRST;
	return bpf_map_lookup_elem(ports, &index);
}

static __always_inline struct slot *slot_of(__u16 endpoint, __u16 port)
{
	return of_port(endpoint, port);
}

/* The whole address of an IPv6 client. */
static __always_inline struct address *client_of(__u16 endpoint, __u16 port)
{
	return of_port(ENDPOINTS_MAX + (__u32)endpoint, port);
}

static __always_inline __u64 slot_control(const struct slot *slot)
{
	return *(const volatile __u64 *)&slot->control;
}

/* Whether a slot's owner is silent for so long that anybody may have it. */
static __always_inline int slot_is_free(__u64 control, __u32 now)
{
	if (!control)
		return 1;
	if (SLOT_LOCKED(control))
		return age(now, SLOT_SEEN(control)) > TICKS_PER_SECOND; /* whoever fills it in takes no second */
	struct service *service = AT(services, SLOT_SERVICE(control));
	if (!service)
		return 1;
	return age(now, SLOT_SEEN(control)) > time_out(service, SLOT_STATE(control)) + SLOT_EXTRA_TICKS;
}

/* Whether a slot is a packet's, which comes from a client; of an IPv6 client this looks at the last word of its address only. */
static __always_inline int slot_has(const struct slot *slot, __u64 control, const struct packet *packet)
{
	struct vip_address *vip = AT(vip_addresses, SLOT_VIP(control));
	return vip && slot->client_port == packet->key.source_port && slot->vip_port == packet->key.destination_port &&
	       slot->client == packet->key.source.words[3] && same_address(&vip->address, &packet->key.destination);
}

/* Whether an IPv6 packet comes from the client whose slot it is. */
static __always_inline int same_client(const struct packet *packet, __u16 endpoint, __u16 port)
{
	struct address *client = client_of(endpoint, port);
	return client && same_address(client, &packet->key.source);
}

/* The same as a function of its own: what calls it has no room on the stack for more, and IPv4 has no need of it. */
__noinline int is_client(const struct packet *packet, __u32 endpoint, __u32 port)
{
	return packet && same_client(packet, endpoint, port);
}

/* Writes down an IPv6 client's address. Returns whether there is a place for it. */
__noinline int put_client(const struct packet *packet, __u32 endpoint, __u32 port)
{
	struct address *client = packet ? client_of(endpoint, port) : NULL;
	if (!client)
		return 0;
	*client = packet->key.source;
	return 1;
}

/* Whether a slot is a packet's, which comes from a client. */
static __always_inline int slot_is_of(const struct slot *slot, __u64 control, const struct packet *packet, __u16 endpoint,
				      __u16 port)
{
	return slot_has(slot, control, packet) && (likely(!is_v6(packet)) || is_client(packet, endpoint, port));
}

/* Writes down that a slot was used, and what its flow's state is: with `state`, without `gone`. Returns 0 when another processor was quicker: then
 * it has just been used there, but the state may not be written. */
static __always_inline int slot_touch(struct slot *slot, __u64 control, __u32 now, __u8 state, __u8 gone)
{
	__u64 next = (control >> 32 << 32 & ~((__u64)gone << 52)) | now | (__u64)state << 52;
	return next == control || __sync_val_compare_and_swap(&slot->control, control, next) == control;
}

/* Makes a slot the packet's. Returns 0 when another processor was quicker. */
static __always_inline int slot_claim(struct slot *slot, __u64 control, const struct packet *packet, __u16 endpoint, __u16 port,
				      __u8 state)
{
	__u64 ours = SLOT_CONTROL(packet->now, packet->service, packet->vip, state);
	if (__sync_val_compare_and_swap(&slot->control, control, ours | SLOT_LOCK) != control)
		return 0;
	slot->client = packet->key.source.words[3];
	slot->client_port = packet->key.source_port;
	slot->vip_port = packet->key.destination_port;
	/* An endpoint's two arrays come and go together. What stays locked is free after a second. */
	if (unlikely(is_v6(packet)) && !put_client(packet, endpoint, port))
		return 0;
	/* A full barrier: whoever sees it without the lock sees what is in it. Who stood still before it for longer than a lock counts has lost it. */
	return __sync_val_compare_and_swap(&slot->control, ours | SLOT_LOCK, ours) == (ours | SLOT_LOCK);
}

/* Candidates are a stride of the flow's own apart: neighbours would fill up in clusters, and then few flows find a free one though
 * there are many. An odd stride comes to each of NAT_TRIES places once: HALF_PORTS is a multiple of 2^9. */
static __always_inline __u16 candidate_port(__u64 hash, __u32 half, __u32 number)
{
	__u32 stride = ((hash >> 8) & 0x3fff) | 1;
	__u32 place = ((__u32)(hash >> 32) % HALF_PORTS + stride * number) % HALF_PORTS;
	return NAT_PORT_FIRST + half * HALF_PORTS + place;
}

/* Whether a flow in a state has said all that it had to say: reset, or closed from both sides. */
static __always_inline int is_over(__u8 state)
{
	return state & STATE_RESET || (state & STATE_CLIENT_FIN && state & STATE_TARGET_FIN);
}

/* What a port is to a packet. Everything above PORT_OLD: half-open or over, and silent for so many ticks more. */
#define PORT_BUSY 0
#define PORT_OWN 1
#define PORT_NEVER_USED 2
#define PORT_FREE 3
#define PORT_OLD 4

/* The same of somebody else's, by its slot's control word. */
static __always_inline int use_of(__u64 control, __u32 now)
{
	if (!control)
		return PORT_NEVER_USED;
	if (slot_is_free(control, now))
		return PORT_FREE;
	__u32 silent = age(now, SLOT_SEEN(control));
	__u8 state = SLOT_STATE(control);
	if (SLOT_LOCKED(control) || (state & STATE_ESTABLISHED && !is_over(state)))
		return PORT_BUSY;
	__u32 kept = is_over(state) ? SLOT_TAKE_OVER_TICKS : SLOT_HALF_OPEN_TICKS;
	if (state & STATE_UDP)
		kept = SLOT_DATAGRAM_TICKS;
	return silent <= kept ? PORT_BUSY : PORT_OLD + (silent & 0xffffff);
}

__noinline int look_at_port(const struct packet *packet, __u32 endpoint, __u32 port)
{
	struct slot *slot = slot_of(endpoint, port);
	if (!packet || !slot)
		return PORT_BUSY;
	__u64 control = slot_control(slot);
	if (control && !SLOT_LOCKED(control) && slot_has(slot, control, packet) &&
	    (!is_v6(packet) || same_client(packet, endpoint, port)))
		return PORT_OWN;
	return use_of(control, packet->now);
}

/* What a search among candidates found: ports, 0 for none. */
struct found { __u32 own, free, old; };

/* `known`: the packet opens no connection, and may have a port already. If so, that is nearly always one of the first candidates. Who has
 * none, and that is everybody in a flood of segments and each new client of datagrams, has all of them looked at, where they have ever been
 * used: so many in a tick, and then only the first ones. (What opens a connection takes the first that is free.) */
static __always_inline void search_ports(struct found *found, const struct packet *packet, __u32 endpoint, __u32 half, int known)
{
	int oldest = PORT_OLD;
	for (int number = 0; number < NAT_TRIES; number++) {
		if (known && number == NAT_TRIES_SHORT && !may_search(packet->now))
			return;
		__u32 port = candidate_port(packet->hash, half, number);
		int is = look_at_port(packet, endpoint, port);
		if (is == PORT_OWN) {
			found->own = port;
			return;
		}
		if (is == PORT_FREE || is == PORT_NEVER_USED) {
			if (!found->free)
				found->free = port;
			/* Behind a port that nobody ever had there is none of ours, and a SYN need not look for one. */
			if (is == PORT_NEVER_USED || !known)
				return;
		} else if (is > oldest) {
			oldest = is;
			found->old = port;
		}
	}
}

/* Whether a packet has a port towards an endpoint that this node gave it. */
__noinline int has_port(struct packet *packet, __u32 endpoint)
{
	struct config *settings = AT(config, 0);
	if (!packet || !settings)
		return 0;
	struct found found = {};
	search_ports(&found, packet, endpoint, settings->node & 1, 1);
	return found.own != 0;
}

/* Makes a slot that is a packet's already that of the new flow which the packet begins, or of a flow that is not in the table. Returns
 * whether it still is the packet's: it may have been over, and somebody else's by now. */
static __always_inline int keep_port(struct slot *slot, const struct packet *packet, __u16 endpoint, __u16 port, __u8 state)
{
	/* The second packet of a connection proves its client real here, too: where a flood leaves no room among the half-open flows, nothing
	 * else would keep the port for it. */
	int proves = packet->key.protocol == PROTOCOL_TCP && !is_syn(packet) && !(packet->tcp_flags & (TCP_FIN | TCP_RST));
	__u8 proven = proves ? STATE_ESTABLISHED : 0;
	for (int number = 0; number < 2; number++) {
		__u64 control = slot_control(slot);
		if (SLOT_LOCKED(control) || !slot_is_of(slot, control, packet, endpoint, port))
			return 0;
		/* A new flow has nothing of the one before it, whose end would soon free the slot for others. */
		int again = is_syn(packet) || is_over(SLOT_STATE(control)) || slot_is_free(control, packet->now);
		__u8 next_state = again ? state : SLOT_STATE(control) | state | proven;
		__u64 next = SLOT_CONTROL(packet->now, packet->service, packet->vip, next_state);
		if (__sync_val_compare_and_swap(&slot->control, control, next) == control)
			return 1;
	}
	return 0;
}

/* Finds or takes the source port of a packet towards its target: into `port`. A segment that does not open a connection may
 * belong to one that came through the other node, whose ports are the other half. (A datagram may as well, but then the other node has not
 * told of its flow, and so not of its port.) `established` is what its flow is going to be. Returns whether there is one. */
__noinline int take_port(struct packet *packet, __u32 endpoint, __u32 established)
{
	struct config *settings = AT(config, 0);
	if (!packet || !settings)
		return 0;
	int known = !is_syn(packet);
	__u32 half = settings->node & 1;
	struct found found = {};
	search_ports(&found, packet, endpoint, half, known);
	if (!found.own && known && packet->key.protocol == PROTOCOL_TCP) {
		struct found other = {};
		search_ports(&other, packet, endpoint, half ^ 1, known);
		found = other;
	}
	__u32 port = found.own ?: found.free ?: found.old;
	if (!port)
		return 0;
	struct slot *slot = slot_of(endpoint, port);
	if (!slot)
		return 0;
	packet->port = htons(port);
	__u8 state = packet->key.protocol == PROTOCOL_UDP ? STATE_UDP : 0;
	/* As `store` has it for the flow: of what a flow is in, answers look at the slot alone. */
	if (established)
		state |= STATE_ESTABLISHED | state_of(packet, STATE_CLIENT_FIN);
	if (found.own)
		return keep_port(slot, packet, endpoint, port, state);
	__u64 control = slot_control(slot);
	/* Somebody may have begun to use it since it was looked at. After this look the exchange would notice. */
	if (use_of(control, packet->now) == PORT_BUSY)
		return 0;
	return slot_claim(slot, control, packet, endpoint, port, state);
}

/* The same for what opens a connection, where the first candidate is free, as it is nearly always: then nothing has to be called. */
static __always_inline int take_first_port(struct packet *packet, const struct target *target, const struct config *settings)
{
	if (!is_syn(packet))
		return 0;
	__u32 port = candidate_port(packet->hash, settings->node & 1, 0);
	struct slot *slot = slot_of(target->endpoint, port);
	if (!slot)
		return 0;
	__u64 control = slot_control(slot);
	if (control && !slot_is_free(control, packet->now))
		return 0;
	if (!slot_claim(slot, control, packet, target->endpoint, port, 0))
		return 0;
	packet->port = htons(port);
	return 1;
}

/* The slot of a packet's flow, if it still is, and its control word when it was. */
static __always_inline struct slot *own_slot(const struct packet *packet, const struct target *target, __be16 port, __u64 *control)
{
	struct slot *slot = slot_of(target->endpoint, ntohs(port));
	if (!slot)
		return NULL;
	*control = slot_control(slot);
	if (SLOT_LOCKED(*control) || !slot_is_of(slot, *control, packet, target->endpoint, ntohs(port)))
		return NULL;
	return slot;
}

#endif
