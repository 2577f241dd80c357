/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What becomes of a packet. Most are of a known flow with nothing special about them: `decide_quickly`, one call of a helper.
 * Everything else is `decide`, which is the same for both programs and verified by itself.
 */
#ifndef TANDEM_DECIDE_H
#define TANDEM_DECIDE_H

#include "choose.h"

/* Whether anybody listens on a port at any address. */
static __always_inline int is_service_port(__be16 port)
{
	struct service_ports *ports = AT(service_ports, 0);
	__u16 number = ntohs(port);
	return ports && ports->words[number / 64] >> (number % 64) & 1;
}

#define QUICKLY_NOT 0
#define QUICKLY_DONE 1
#define QUICKLY_UNKNOWN 2 /* there is no such flow in the table */
#define QUICKLY_NO_SERVICE 3 /* nor can there be: nobody listens on its port */

/* A known, established flow, forwarded here, with a healthy target: QUICKLY_DONE, with its service and target in `service_of` and
 * `target_of`. */
static __always_inline int decide_quickly(struct packet *packet, struct service **service_of, struct target **target_of)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &packet->key);
	if (!flow)
		return QUICKLY_UNKNOWN;
	if (packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))
		return QUICKLY_NOT;
	struct service *service = AT(services, flow->service);
	struct target *target = AT(targets, flow->target);
	if (!service || !service->mode || !target || !takes_known(target))
		return QUICKLY_NOT;
	if (!may_go_on(service->instance, packet->drained))
		return QUICKLY_NOT;
	if ((flow->state & ~STATE_UDP) != STATE_ESTABLISHED)
		return QUICKLY_NOT;
	__u32 silent = age(packet->now, flow->seen);
	__u32 most = flow->state & STATE_UDP ? service->udp_ticks : service->established_ticks;
	/* Neither over nor to be refreshed before that. */
	if (silent >= REFRESH_TICKS && (silent > most || is_refresh_due(silent, most))) {
		if (silent > most || flow->copied)
			return QUICKLY_NOT;
		if (has_slots(service)) {
			__u64 control;
			struct slot *slot = own_slot(packet, target, flow->port, &control);
			if (!slot)
				return QUICKLY_NOT;
			slot_touch(slot, control, packet->now, STATE_ESTABLISHED, 0);
		}
		flow->seen = packet->now;
	}
	packet->service = flow->service;
	packet->target = flow->target;
	packet->port = flow->port;
	*service_of = service;
	*target_of = target;
	return QUICKLY_DONE;
}

/* Fills in where a packet of a known flow goes, and what it changes in its flow. `established`: it proves the client real.
 * `settings` are given for a flow of the table. */
static __always_inline __u32 follow(struct packet *packet, struct flow *flow, int established, const struct config *settings)
{
	packet->service = flow->service;
	packet->target = flow->target;
	packet->port = flow->port;
	struct service *service = AT(services, flow->service);
	struct target *target = AT(targets, flow->target);
	if (!service || !service->mode || !target)
		return VERDICT_MISS;
	if (!may_go_on(service->instance, packet->drained)) {
		packet->reason = DROP_NOT_ACTIVE;
		return VERDICT_DROP;
	}
	if (age(packet->now, flow->seen) > time_out(service, flow->state))
		return VERDICT_MISS;
	if (is_syn(packet) && flow->state & (STATE_CLIENT_FIN | STATE_TARGET_FIN | STATE_RESET))
		return VERDICT_MISS;
	if (!takes_known(target)) {
		if (packet->key.protocol != PROTOCOL_TCP || !(service->flags & SERVICE_RESET_UNHEALTHY) ||
		    packet->flags & PACKET_ICMP || is_syn(packet))
			return VERDICT_MISS;
		if (flow_touch(flow, flow->seen, flow->state | STATE_RESET) && settings)
			tell(settings, &packet->key, flow);
		packet->reason = DROP_UNHEALTHY;
		return VERDICT_ANSWER;
	}
	__u64 control = 0;
	struct slot *slot = has_slots(service) ? own_slot(packet, target, flow->port, &control) : NULL;
	if (has_slots(service) && !slot)
		return VERDICT_MISS;
	if (packet->flags & PACKET_ICMP)
		return VERDICT_FORWARD;
	/* The target has refused or ended what was begun: of a half-open flow only the slot knows. What begins a connection now begins it
	 * anew, with a slot that has nothing of the old one's end, which would soon free it for others. */
	if (slot && is_syn(packet) && SLOT_STATE(control) & (STATE_CLIENT_FIN | STATE_TARGET_FIN | STATE_RESET))
		return VERDICT_MISS;
	__u8 gone = no_longer(packet);
	__u8 state = (flow->state & ~gone) | state_of(packet, STATE_CLIENT_FIN) | (established ? STATE_ESTABLISHED : 0);
	/* The slot first: a flow in a state that its slot does not have could outlive it. The next packet tries again. */
	if (slot && !slot_touch(slot, control, packet->now, state, gone))
		state = flow->state;
	if (flow_touch(flow, packet->now, state) && settings)
		tell(settings, &packet->key, flow);
	return VERDICT_FORWARD;
}

/* Where a packet from a target can be for a flow that the other node has begun and not told of yet: to that node, or nowhere, since the
 * stack would reset the connection. Nowhere either while it can be for one of another layout, whose port is not written down here yet. The
 * target sends again what is dropped. */
static __always_inline __u32 to_other_node(struct packet *packet, const struct config *settings)
{
	__u32 port = ntohs(packet->key.destination_port);
	if (packet->flags & PACKET_ICMP || port < NAT_PORT_FIRST)
		return VERDICT_MISS;
	__u32 half = port - NAT_PORT_FIRST >= HALF_PORTS;
	int of_other = settings->flags & CONFIG_REPLICATED && half != (settings->node & 1);
	if (!of_other && !(settings->flags & CONFIG_PORTS_MISSING))
		return VERDICT_MISS;
	struct address address __attribute__((aligned(8))) = packet->key.destination;
	struct vip *vip = bpf_map_lookup_elem(&vips, &address);
	struct vip_address *back = vip ? AT(vip_addresses, vip->index) : NULL;
	if (!back)
		return VERDICT_MISS;
	packet->vip = vip->index;
	packet->reason = DROP_UNKNOWN_FLOW;
	return of_other && back->other_ifindex ? VERDICT_OTHER : VERDICT_DROP;
}

/* Whose answers come from where a packet comes from; `port` is that, or 0 for targets without one of their own. */
static __always_inline struct endpoint *find_endpoint(const struct packet *packet, __be16 port)
{
	struct endpoint_key key __attribute__((aligned(8)));
	const __u64 *source = (const void *)&packet->key.source;
	__u64 *words = (void *)&key;
	__u32 *last = (void *)&key.port;
	words[0] = source[0];
	words[1] = source[1];
	/* As a whole, because as a whole it is read next, which would have to wait for stores of its parts. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	*last = (__u32)packet->key.protocol << 16 | port;
#else
	*last = (__u32)port << 16 | (__u32)packet->key.protocol << 8;
#endif
	return bpf_map_lookup_elem(&endpoints, &key);
}

/* The same of targets that answer from whichever port the client has asked for. What comes from a port that nobody asks for is no answer of them:
 * such a host may be a client of other services here. */
static __always_inline struct endpoint *find_portless(const struct packet *packet, const struct config *settings)
{
	if (!(settings->flags & CONFIG_HAS_ANY_PORT) || !is_service_port(packet->key.source_port))
		return NULL;
	return find_endpoint(packet, 0);
}

/* How often a slot is read that changes under the reader. */
#define SLOT_READS 3

/* For whom the answers to a slot's port are: into the packet. `client` is an IPv6 client's address. What is in it is one flow's if the control
 * word was the same before and after, for somebody else may take a slot that was free or over: returns whether it was. */
static __always_inline int read_slot(struct packet *packet, const struct slot *slot, const struct address *client, __u64 *control)
{
	*control = slot_control(slot);
	if (client) {
		packet->client = *client;
	} else {
		packet->client.words[0] = packet->client.words[1] = 0;
		put_v4(&packet->client, slot->client);
	}
	packet->port = slot->client_port;
	packet->vip_port = slot->vip_port;
	return slot_control(slot) == *control;
}

/* Whether a slot's flow has asked for what an answer comes from: its VIP and, where the target answers from any port, that port. */
static __always_inline int is_answer_to(const struct packet *packet, const struct vip_address *vip, int any_port)
{
	return same_address(&vip->address, &packet->key.destination) && (!any_port || packet->vip_port == packet->key.source_port);
}

/* An answer of a target to a VIP as source: who has the port that it is for? A target of `any_port` answers from the one that its client asked
 * for. */
static __always_inline __u32 answer_to_slot(struct packet *packet, const struct config *settings, const struct endpoint *endpoint,
					    int any_port)
{
	__u16 index = endpoint->index;
	struct slot *slot = slot_of(index, ntohs(packet->key.destination_port));
	struct address *address = is_v6(packet) ? client_of(index, ntohs(packet->key.destination_port)) : NULL;
	if (!slot || (is_v6(packet) && !address))
		return VERDICT_MISS;
	__u64 control = 0;
	int same = 0;
	/* A slot that changes all the time says nothing, not even that the packet is for nobody: the target sends again what is dropped, if it was
	 * for a VIP at all. */
	for (int number = 0; number < SLOT_READS && !same; number++)
		same = read_slot(packet, slot, address, &control);
	if (unlikely(!same)) {
		struct address vip __attribute__((aligned(8))) = packet->key.destination;
		if (!bpf_map_lookup_elem(&vips, &vip))
			return VERDICT_MISS;
		packet->reason = DROP_UNKNOWN_FLOW;
		return VERDICT_DROP;
	}
	packet->vip = SLOT_VIP(control);
	struct vip_address *vip = AT(vip_addresses, packet->vip);
	struct service *service = AT(services, SLOT_SERVICE(control));
	if (SLOT_LOCKED(control) || slot_is_free(control, packet->now) || !vip || !service ||
	    !is_answer_to(packet, vip, any_port))
		return VERDICT_MISS;
	if (!may_go_on(vip->instance, packet->drained)) {
		packet->reason = DROP_NOT_ACTIVE;
		return VERDICT_DROP;
	}
	packet->service = SLOT_SERVICE(control);
	/* For the counters: a slot does not say which target it is that has this address. */
	packet->target = endpoint->target;
	if (packet->flags & PACKET_ICMP)
		return VERDICT_RETURN;
	__u8 state = state_of(packet, STATE_TARGET_FIN), gone = no_longer(packet);
	int noted = !state && !(SLOT_STATE(control) & gone) &&
		    is_noted(service, SLOT_STATE(control), age(packet->now, SLOT_SEEN(control)));
	struct flow_key key __attribute__((aligned(8))) = {};
	key.source = packet->client;
	key.destination = packet->key.destination;
	key.source_port = packet->port;
	key.destination_port = packet->vip_port;
	key.protocol = packet->key.protocol;
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);
	/* What is written down for one of the two is for both: so a flow was seen as late as its slot was, and has nothing to be written down while
	 * that has not. A slot may be one that the flow had before it got another: that of another port, or the same one's of another target. */
	struct target *target = flow ? AT(targets, flow->target) : NULL;
	if (target && flow->port == packet->key.destination_port && target->endpoint == endpoint->index) {
		packet->target = flow->target;
		__u8 next = (flow->state & ~gone) | state;
		noted = noted && next == flow->state && is_noted(service, next, age(packet->now, flow->seen));
		if (!noted && flow_touch(flow, packet->now, next))
			tell(settings, &key, flow);
	}
	if (!noted)
		slot_touch(slot, control, packet->now, state, gone);
	return VERDICT_RETURN;
}

/* Whether a packet that comes from an endpoint is an answer for which nothing has to be written down, and nobody but its slot be asked, as nearly
 * all of them are. */
static __always_inline int answer_quickly(struct packet *packet, const struct endpoint *endpoint, int any_port)
{
	if (unlikely(!is_plain(packet) || packet->tcp_flags & (TCP_FIN | TCP_RST)))
		return 0;
	/* Whose answers these are is counted, and may be for the flow to say. */
	packet->target = endpoint->target;
	__u16 index = endpoint->index, port = ntohs(packet->key.destination_port);
	struct slot *slot = packet->target && index ? slot_of(index, port) : NULL;
	struct address *client = is_v6(packet) ? client_of(index, port) : NULL;
	__u64 control;
	if (!slot || (is_v6(packet) && !client) || !read_slot(packet, slot, client, &control))
		return 0;
	packet->service = SLOT_SERVICE(control);
	if (!control || SLOT_LOCKED(control) || SLOT_STATE(control) & STATE_RESET)
		return 0;
	struct vip_address *vip = AT(vip_addresses, SLOT_VIP(control));
	if (!vip || !is_answer_to(packet, vip, any_port) || !may_go_on(vip->instance, packet->drained))
		return 0;
	/* If nothing has to be written down for it, neither is it free: that takes longer. */
	struct service *service = AT(services, packet->service);
	return service && is_noted(service, SLOT_STATE(control), age(packet->now, SLOT_SEEN(control)));
}

/* The number of the VIP of a flow that is not known here and may be one which the other node has begun and not told of yet; 0 if it cannot be.
 * No answer to a client's own address is for a VIP. */
static __always_inline __u16 untold_vip(const struct packet *packet, const struct config *settings, struct flow_key *key)
{
	if (!(settings->flags & CONFIG_REPLICATED) || packet->flags & PACKET_ICMP)
		return 0;
	struct vip *vip = bpf_map_lookup_elem(&vips, &key->destination);
	struct vip_address *back = vip ? AT(vip_addresses, vip->index) : NULL;
	if (!back || !back->other_until || reached(packet->now, back->other_until))
		return 0;
	return bpf_map_lookup_elem(&vips, &key->source) ? 0 : vip->index;
}

/* An answer of a target to a client's own address: of the VIPs before this endpoint, which did the client ask? If none that is known here, the
 * number of one whose flow it may be at the other node goes into `untold`. */
static __always_inline __u32 answer_to_client(struct packet *packet, const struct config *settings, struct endpoint *endpoint,
					      __u16 *untold)
{
	for (int number = 0; number < CANDIDATES_MAX; number++) {
		struct candidate *candidate = &endpoint->candidates[number];
		if (number >= endpoint->candidates_count)
			break;
		struct flow_key key __attribute__((aligned(8))) = {};
		key.source = packet->key.destination;
		key.destination = candidate->vip;
		key.source_port = packet->key.destination_port;
		key.destination_port = candidate->port ?: packet->key.source_port;
		key.protocol = packet->key.protocol;
		struct flow *flow = bpf_map_lookup_elem(&flows, &key);
		int known = flow != NULL;
		if (!flow)
			flow = bpf_map_lookup_elem(&pending, &key);
		struct target *target = flow ? AT(targets, flow->target) : NULL;
		struct service *service = flow ? AT(services, flow->service) : NULL;
		if (!target || !service || !same_address(&target->address, &packet->key.source) ||
		    (target->port ?: key.destination_port) != packet->key.source_port ||
		    age(packet->now, flow->seen) > time_out(service, flow->state)) {
			*untold = untold_vip(packet, settings, &key) ?: *untold;
			continue;
		}
		if (!may_go_on(service->instance, packet->drained)) {
			packet->reason = DROP_NOT_ACTIVE;
			return VERDICT_DROP;
		}
		packet->service = flow->service;
		packet->target = flow->target;
		packet->client = packet->key.destination;
		packet->port = packet->key.destination_port;
		packet->vip_port = key.destination_port;
		packet->key.destination = candidate->vip;
		__u8 state = (flow->state & ~no_longer(packet)) | state_of(packet, STATE_TARGET_FIN);
		if (!(packet->flags & PACKET_ICMP) && flow_touch(flow, packet->now, state) && known)
			tell(settings, &key, flow);
		return VERDICT_RETURN;
	}
	return VERDICT_MISS;
}

/* What is known of endpoints that have no flow for an answer. */
struct endpoints_seen {
	__u16 have_slots;
	__u16 untold;            /* see `answer_to_client` */
};

static __noinline __u32 answer_from(struct packet *packet, const struct config *settings, struct endpoint *endpoint,
				    struct endpoints_seen *seen, int any_port)
{
	__u32 verdict = VERDICT_MISS;
	if (endpoint->index) {
		seen->have_slots = 1;
		verdict = answer_to_slot(packet, settings, endpoint, any_port);
	}
	if (verdict == VERDICT_MISS && endpoint->candidates_count)
		verdict = answer_to_client(packet, settings, endpoint, &seen->untold);
	return verdict;
}

/* Whether a packet is an answer from a target, and for whom. `endpoint` is that of its very port, if there is one: a target may be one of a port for
 * some services and of any for others. */
__noinline int answer(struct packet *packet, __u32 service_port, struct endpoint *endpoint)
{
	struct config *settings = AT(config, 0);
	if (!packet || !settings)
		return VERDICT_PASS;
	struct endpoints_seen seen = {};
	__u32 verdict = endpoint ? answer_from(packet, settings, endpoint, &seen, 0) : VERDICT_MISS;
	if (verdict == VERDICT_MISS) {
		struct endpoint *portless = find_portless(packet, settings);
		if (portless)
			verdict = answer_from(packet, settings, portless, &seen, 1);
	}
	if (verdict == VERDICT_MISS && seen.have_slots && !service_port)
		verdict = to_other_node(packet, settings);
	if (verdict != VERDICT_MISS || !seen.untold)
		return verdict;
	packet->vip = seen.untold;
	packet->reason = DROP_UNKNOWN_FLOW;
	return VERDICT_MAYBE_OTHER;
}

/* Whether an endpoint stands behind a VIP in whose network the other node has a MAC address. */
static __noinline int is_behind_other(const struct endpoint *endpoint, __u64 mac)
{
	for (int number = 0; number < CANDIDATES_MAX; number++) {
		if (number >= endpoint->candidates_count)
			break;
		struct address address __attribute__((aligned(8))) = endpoint->candidates[number].vip;
		struct vip *vip = bpf_map_lookup_elem(&vips, &address);
		struct vip_address *back = vip ? AT(vip_addresses, vip->index) : NULL;
		if (back && back->other_ifindex && mac_number((const void *)back->other_mac) == mac)
			return 1;
	}
	return 0;
}

/* Whether a target's packet to somebody's own address comes from the other node, whose MAC address may be another for each of the VIPs that
 * it can be an answer for: of those the nodes may choose different ones, at different interfaces. */
__noinline int is_other_node(const struct packet *packet, __u64 mac)
{
	struct config *settings = AT(config, 0);
	if (!packet || !settings)
		return 0;
	struct endpoint *endpoint = find_endpoint(packet, packet->key.source_port);
	if (endpoint && is_behind_other(endpoint, mac))
		return 1;
	endpoint = find_portless(packet, settings);
	return endpoint && is_behind_other(endpoint, mac);
}

/* A flow that is half-open: it becomes a real one with a second packet that does not open it. `preserve`: it is pending; `shared`: it may
 * be. */
static __always_inline __u32 follow_half_open(struct packet *packet, const struct config *settings, int preserve, int shared)
{
	struct flow_key key __attribute__((aligned(8))) = packet->key;
	int pends = preserve;
	struct flow *flow = preserve ? NULL : half_open_flow(packet->hash, &key);
	if (!flow && (preserve || shared)) {
		pends = 1;
		flow = bpf_map_lookup_elem(&pending, &key);
	}
	if (!flow || flow->service != packet->service)
		return VERDICT_MISS;
	int promoted = !is_syn(packet) && !(packet->flags & (PACKET_ICMP | PACKET_LATER_FRAGMENT));
	if (promoted && unlikely(flow->generation & GENERATION_UNCOUNTED) && !may_begin(packet))
		promoted = 0;
	__u32 verdict = follow(packet, flow, promoted, NULL);
	if (verdict != VERDICT_FORWARD || !promoted)
		return verdict;
	struct flow value = *flow;
	value.generation &= ~GENERATION_UNCOUNTED;
	if (bpf_map_update_elem(&flows, &key, &value, BPF_ANY)) {
		count_drop(DROP_FLOWS_FULL);
		count_unstored(packet);
		return verdict;
	}
	tell(settings, &key, &value);
	if (pends)
		bpf_map_delete_elem(&pending, &key);
	else
		flow->seen = packet->now - HALF_OPEN_OVER;
	return verdict;
}

/* Stores a new flow: over its old entry, or among the half-open ones, `shared` by all processors or not. */
static __always_inline void store(struct packet *packet, const struct service *service, const struct config *settings,
				  int reuse, int shared)
{
	struct flow_key key __attribute__((aligned(8))) = packet->key;
	struct flow flow = { packet->now, packet->target, packet->service, packet->port, 0, 0, 1 };
	if (key.protocol == PROTOCOL_UDP)
		flow.state = STATE_UDP;
	count_new(packet);
	if (reuse) {
		/* Its place in the table is there already, so it need not prove itself. The other node hears of it when it has. */
		if (!is_syn(packet))
			flow.state |= STATE_ESTABLISHED | state_of(packet, STATE_CLIENT_FIN);
		if (!bpf_map_update_elem(&flows, &key, &flow, BPF_ANY) && flow.state)
			tell(settings, &key, &flow);
		return;
	}
	if (packet->tcp_flags & TCP_RST) {
		count_unstored(packet);
		return;
	}
	if (key.protocol == PROTOCOL_TCP && !is_syn(packet) && service->flags & SERVICE_SOURCE_RATE)
		flow.generation |= GENERATION_UNCOUNTED;
	/* Without it nobody would know whom the target's answer is for, so that no bound is kept but that of the table. */
	if (service->flags & SERVICE_PRESERVE_CLIENT)
		bpf_map_update_elem(&pending, &key, &flow, BPF_ANY);
	else if (!may_store(settings, packet->now))
		count_unstored(packet);
	else if (shared)
		bpf_map_update_elem(&pending, &key, &flow, BPF_ANY);
	else
		half_open_store(packet, &flow);
}

/* A packet of no flow in the table: half-open, or new. */
__noinline int decide_new(struct packet *packet, __u32 reuse)
{
	struct config *settings = AT(config, 0);
	if (!packet || !settings)
		return VERDICT_PASS;
	packet->service = find_service(packet);
	struct service *service = AT(services, packet->service);
	if (!packet->service || !service || !service->mode)
		return VERDICT_PASS;
	/* Reading the clock waits for all that is being loaded: so it is read before anything has to be. */
	int owner = is_syn(packet) && owns(service->instance);
	struct flow_key key __attribute__((aligned(8))) = packet->key;
	packet->hash = hash_flow(settings->hash_key, &key);
	__u32 place = place_of(packet, service);
	__u16 other = unlikely(service->other_until) && !reuse ? of_other_node(packet, place) : 0;
	int shares = other && packet->key.protocol == PROTOCOL_TCP && service->mode == MODE_DSR;
	if (!reuse) {
		int shared = shares && !is_syn(packet);
		__u32 verdict = follow_half_open(packet, settings, service->flags & SERVICE_PRESERVE_CLIENT, shared);
		if (verdict != VERDICT_MISS)
			return verdict;
	}
	if (!owner && !owns(service->instance)) {
		packet->reason = DROP_NOT_ACTIVE;
		return VERDICT_DROP;
	}
	if (packet->flags & PACKET_ICMP && service->mode == MODE_NAT)
		return VERDICT_MISS;
	if (service->flags & SERVICE_ACL && is_denied(packet)) {
		packet->reason = DROP_DENIED;
		return VERDICT_DROP;
	}
	int opens = packet->key.protocol != PROTOCOL_TCP || is_syn(packet);
	if (opens && service->flags & SERVICE_SOURCE_RATE && !(packet->flags & PACKET_ICMP) && !may_begin(packet)) {
		packet->reason = DROP_SOURCE_RATE;
		return VERDICT_DROP;
	}
	packet->port = 0;
	packet->reason = choose(packet, service, place, other);
	if (packet->reason)
		return VERDICT_DROP;
	struct target *target = AT(targets, packet->target);
	if (!target || (service->mode == MODE_NAT && is_v6(packet) == is_mapped(&target->address))) {
		packet->reason = DROP_NO_TARGET;
		return VERDICT_DROP;
	}
	if (has_slots(service) && !take_first_port(packet, target, settings) &&
	    !take_port(packet, target->endpoint, reuse && !is_syn(packet))) {
		packet->reason = DROP_NO_PORT;
		return packet->key.protocol == PROTOCOL_TCP ? VERDICT_ANSWER : VERDICT_DROP;
	}
	if (!(packet->flags & PACKET_ICMP))
		store(packet, service, settings, reuse, shares && is_syn(packet) && other != packet->target);
	return VERDICT_FORWARD;
}

/* A packet of a flow in the table that is not decided quickly. VERDICT_NEW: there is no such flow; VERDICT_AGAIN: it is over, or its target is. */
__noinline int decide(struct packet *packet)
{
	struct config *settings = AT(config, 0);
	if (!packet || !settings)
		return VERDICT_PASS;
	struct flow_key key __attribute__((aligned(8))) = packet->key;
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return VERDICT_NEW;
	__u32 verdict = follow(packet, flow, !is_syn(packet), settings);
	return verdict == VERDICT_MISS ? VERDICT_AGAIN : verdict;
}

#endif
