/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Which service a new flow is for, whether it may be, and which target it gets.
 */
#ifndef TANDEM_CHOOSE_H
#define TANDEM_CHOOSE_H

#include "nat.h"

/* Places of the ring looked at, from the flow's on, for a target that takes it. */
#define RING_TRIES 16

/* The service behind a packet's destination: its index, or 0. */
static __always_inline __u16 find_service(struct packet *packet)
{
	struct listener key = { packet->key.destination, packet->key.destination_port, packet->key.protocol, 0 };
	struct listening *exact = bpf_map_lookup_elem(&listeners, &key);
	if (exact) {
		packet->vip = exact->vip;
		return exact->service;
	}
	struct vip *vip = bpf_map_lookup_elem(&vips, &key.address);
	if (!vip)
		return 0;
	packet->vip = vip->index;
	__u16 port = ntohs(packet->key.destination_port);
	for (int number = 0; number < RANGES_MAX; number++) {
		struct range *range = &vip->ranges[number];
		if (number >= vip->ranges_count)
			return 0;
		if (range->protocol == packet->key.protocol && port >= range->first && port <= range->last)
			return range->service;
	}
	return 0;
}

static __always_inline int is_denied(const struct packet *packet)
{
	struct acl_key key = { 16 + 128, htons(packet->service), {} };
	for (int word = 0; word < 4; word++)
		__builtin_memcpy(&key.address[word * 4], &packet->key.source.words[word], 4);
	struct acl *entry = bpf_map_lookup_elem(&acl, &key);
	return !entry || !entry->allowed;
}

/* Whether the client may begin one more flow, or have one more in the table that it has not begun with a SYN here: then it is counted. One of
 * these may be of the other node, so it goes on whatever the rate; and it comes here with each of its packets until it is remembered. So what is
 * refused is not counted: it would keep the client from new ones, and on the other node, whose window ends at another time, from all of them. */
__noinline int may_begin(const struct packet *packet)
{
	struct service *service = packet ? AT(services, packet->service) : NULL;
	if (!service || !(service->flags & SERVICE_SOURCE_RATE))
		return 1;
	struct source_key key = { packet->key.source, service->counts_as, 0 };
	__u32 rate = service->source_rate;
	if (service->flags & SERVICE_SOURCE_RATE_PAIR) {
		struct other_source *other = bpf_map_lookup_elem(&other_sources, &key);
		if (other && !reached(packet->now, other->until))
			rate = other->count < rate ? rate - other->count : 0;
	}
	__u32 length = service->source_rate_ticks;
	__u32 window = length ? packet->now / length : packet->now;
	struct source *source = bpf_map_lookup_elem(&sources, &key);
	if (source && source->window == window)
		return source->count < rate && __sync_fetch_and_add(&source->count, 1) < rate;
	if (!rate)
		return 0;
	struct source first = { window, 1 };
	bpf_map_update_elem(&sources, &key, &first, BPF_ANY);
	return 1;
}

/* Where a target's answers are recognised. (Its name is on the stack for as long as it is looked for.) */
static __always_inline struct endpoint *endpoint_of(const struct target *target, __u8 protocol)
{
	struct endpoint_key name = { target->address, target->port, protocol, 0 };
	return bpf_map_lookup_elem(&endpoints, &name);
}

/* Whether another flow with this client's tuple has its answers come from the same place: preserved client addresses only. */
__noinline int is_clash(struct packet *packet, __u32 target_index)
{
	struct target *target = AT(targets, target_index);
	if (!packet || !target)
		return 0;
	__be16 port = target->port ?: packet->key.destination_port;
	struct endpoint *endpoint = endpoint_of(target, packet->key.protocol);
	if (!endpoint)
		return 0;
	for (int number = 0; number < CANDIDATES_MAX; number++) {
		struct candidate *candidate = &endpoint->candidates[number];
		if (number >= endpoint->candidates_count)
			break;
		struct flow_key key __attribute__((aligned(8))) = packet->key;
		key.destination = candidate->vip;
		key.destination_port = candidate->port ?: port;
		if (same_key(&key, &packet->key))
			continue;
		struct flow *flow = bpf_map_lookup_elem(&flows, &key);
		if (!flow)
			flow = bpf_map_lookup_elem(&pending, &key);
		struct target *other = flow ? AT(targets, flow->target) : NULL;
		struct service *service = flow ? AT(services, flow->service) : NULL;
		if (other && service && same_address(&other->address, &target->address) &&
		    (other->port ?: key.destination_port) == port &&
		    age(packet->now, flow->seen) <= time_out(service, flow->state))
			return 1;
	}
	return 0;
}

/* The target that a client had last, while that is remembered. */
static __always_inline __u16 remembered(const struct packet *packet, const struct service *service)
{
	struct affinity_key key = { packet->key.source, service->ring, 0 };
	struct affinity *entry = bpf_map_lookup_elem(&affinity, &key);
	if (!entry || reached(packet->now, entry->expires))
		return 0;
	struct target *target = AT(targets, entry->target);
	return target && target->state == TARGET_UP ? entry->target : 0;
}

static __always_inline void remember(const struct packet *packet, const struct service *service)
{
	struct affinity_key key = { packet->key.source, service->ring, 0 };
	struct affinity entry = { packet->now + service->affinity_ticks, packet->target, 0 };
	bpf_map_update_elem(&affinity, &key, &entry, BPF_ANY);
}

/* Whether a packet's flow uses ports of its own towards targets. */
static __always_inline int has_slots(const struct service *service)
{
	return service->mode == MODE_NAT && !(service->flags & SERVICE_PRESERVE_CLIENT);
}

/* `hash % RING_SLOTS` without a division: 2^16 is -1 modulo 2^16 + 1. */
static __always_inline __u32 place_by(__u64 hash)
{
	__u32 sum = (hash & 0xffff) + (hash >> 32 & 0xffff) + 2 * RING_SLOTS - (hash >> 16 & 0xffff) - (hash >> 48);
	__s32 place = (sum & 0xffff) - (sum >> 16);
	return place < 0 ? place + RING_SLOTS : place;
}

/* The place in a ring of all flows of a client. */
__noinline int place_of_source(struct packet *packet)
{
	struct config *settings = AT(config, 0);
	if (!packet || !settings)
		return 0;
	struct address source __attribute__((aligned(8))) = packet->key.source;
	return place_by(hash_source(settings->hash_key, &source));
}

/* A flow's place in a ring. */
static __always_inline __u32 place_of(struct packet *packet, const struct service *service)
{
	if (service->flags & SERVICE_HASH_SOURCE)
		return place_of_source(packet);
	return place_by(packet->hash);
}

/* The target that the other node has in a place, while a flow that is not known here may be one of its; 0 for none. Connections go on with
 * a target that keeps those it has. A datagram may as well begin a flow, so it goes to none that takes no new ones. */
__noinline int of_other_node(struct packet *packet, __u32 place)
{
	struct service *service = packet ? AT(services, packet->service) : NULL;
	if (!service || reached(packet->now, service->other_until))
		return 0;
	void *array = AT(other_rings, service->ring);
	__u32 zero = 0;
	struct ring *ring = array ? bpf_map_lookup_elem(array, &zero) : NULL;
	if (!ring || place >= RING_SLOTS)
		return 0;
	__u16 index = ring->targets[place];
	struct target *target = index ? AT(targets, index) : NULL;
	if (!target || (packet->key.protocol == PROTOCOL_TCP ? !takes_known(target) : target->state != TARGET_UP))
		return 0;
	return index;
}

/* From this node's ring: the flow's place, or the next one whose target takes new flows. Returns a reason, or DROP_NONE. Verified by itself:
 * its turns times the ways that lead here would be too many for the verifier. */
__noinline int from_ring(struct packet *packet, __u32 place)
{
	if (!packet)
		return DROP_NO_TARGET;
	struct service *service = AT(services, packet->service);
	void *array = service ? AT(rings, service->ring) : NULL;
	__u32 zero = 0;
	struct ring *ring = array ? bpf_map_lookup_elem(array, &zero) : NULL;
	if (!ring)
		return DROP_NO_TARGET;
	__u16 last = 0;
	__u8 reason = DROP_NO_TARGET;
	for (int number = 0; number < RING_TRIES; number++) {
		if (place >= RING_SLOTS)
			place = 0;
		__u16 index = ring->targets[place++];
		if (!index || index == last)
			continue;
		last = index;
		struct target *target = AT(targets, index);
		if (!target || target->state != TARGET_UP)
			continue;
		if (service->flags & SERVICE_PRESERVE_CLIENT && is_clash(packet, index)) {
			reason = DROP_CLASH;
			continue;
		}
		packet->target = index;
		return DROP_NONE;
	}
	return reason;
}

/* The same, but what opens no connection goes to `other`, if there is one: it belongs to a flow that the other node has begun and had no
 * time to tell of. Unless it has a port that this node gave it. */
static __always_inline __u8 from_rings(struct packet *packet, const struct service *service, __u32 place, __u16 other)
{
	__u8 reason = from_ring(packet, place);
	if (likely(!other) || is_syn(packet) || (!reason && packet->target == other))
		return reason;
	if (service->flags & SERVICE_PRESERVE_CLIENT && is_clash(packet, other))
		return reason;
	struct target *own = !reason && has_slots(service) ? AT(targets, packet->target) : NULL;
	if (own && has_port(packet, own->endpoint))
		return reason;
	packet->target = other;
	return DROP_NONE;
}

/* Sets the target of a new flow. Returns a reason why there is none, or DROP_NONE. */
static __always_inline __u8 choose(struct packet *packet, const struct service *service, __u32 place, __u16 other)
{
	__u16 index = service->flags & SERVICE_AFFINITY ? remembered(packet, service) : 0;
	__u8 reason = DROP_NONE;
	if (index && !(service->flags & SERVICE_PRESERVE_CLIENT && is_clash(packet, index)))
		packet->target = index;
	else
		reason = from_rings(packet, service, place, other);
	if (reason == DROP_NONE && service->flags & SERVICE_AFFINITY && !(packet->flags & PACKET_ICMP))
		remember(packet, service);
	return reason;
}

#endif
