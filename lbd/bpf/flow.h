/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Flows: their state and time-outs, and the half-open ones, which cannot push out those that proved to be real.
 */
#ifndef TANDEM_FLOW_H
#define TANDEM_FLOW_H

#include "hash.h"
#include "stats.h"
#include "time.h"

/* By how much `seen` may be older than the last packet, for a time-out. */
static __always_inline __u32 refresh_ticks(__u32 most)
{
	__u32 part = most / REFRESH_PART;
	if (part > REFRESH_TICKS_MAX)
		return REFRESH_TICKS_MAX;
	return part < REFRESH_TICKS ? REFRESH_TICKS : part;
}

static __always_inline int is_refresh_due(__u32 silent, __u32 most)
{
	return silent >= refresh_ticks(most);
}

/* How long a flow in a state may be silent, in ticks. */
static __always_inline __u32 silent_most(const struct service *service, __u8 state)
{
	if (state & STATE_RESET)
		return service->reset_ticks;
	if (state & STATE_CLIENT_FIN && (state & STATE_TARGET_FIN || service->mode == MODE_DSR))
		return service->closing_ticks;
	if (!(state & STATE_ESTABLISHED))
		return service->half_open_ticks;
	return state & STATE_UDP ? service->udp_ticks : service->established_ticks;
}

/* Whether a packet of a flow in a state has nothing to be written down for, after so long a silence. While a flow is not established yet, or ends,
 * its port may be taken from it within seconds, so that then each second is written down. */
static __always_inline int is_noted(const struct service *service, __u8 state, __u32 silent)
{
	if (likely(silent < REFRESH_TICKS))
		return 1;
	if ((state & ~STATE_UDP) != STATE_ESTABLISHED)
		return 0;
	return !is_refresh_due(silent, state & STATE_UDP ? service->udp_ticks : service->established_ticks);
}

/* The age of `seen` beyond which a flow in a state is given up. */
static __always_inline __u32 time_out(const struct service *service, __u8 state)
{
	__u32 most = silent_most(service, state);
	return most + refresh_ticks(most);
}

/* Whether a target takes packets of flows that it has. */
static __always_inline int takes_known(const struct target *target)
{
	return target->state == TARGET_UP || target->state == TARGET_DRAINING;
}

/* What a packet's flags add to its flow's state. */
static __always_inline __u8 state_of(const struct packet *packet, __u8 fin)
{
	if (packet->key.protocol != PROTOCOL_TCP || packet->flags & (PACKET_ICMP | PACKET_LATER_FRAGMENT))
		return 0;
	return (packet->tcp_flags & TCP_FIN ? fin : 0) | (packet->tcp_flags & TCP_RST ? STATE_RESET : 0);
}

/* What a packet takes from its flow's state: an end that goes on was not reset, or took no heed of it. Anybody can send a RST to a client's
 * addresses, and hosts obey only one with the very sequence number that comes next (RFC 5961). They answer what comes for a connection that
 * they did give up with another RST, so that the last word is theirs. */
static __always_inline __u8 no_longer(const struct packet *packet)
{
	if (packet->key.protocol != PROTOCOL_TCP || packet->flags & (PACKET_ICMP | PACKET_LATER_FRAGMENT))
		return 0;
	return (packet->tcp_flags & (TCP_SYN | TCP_RST | TCP_ACK)) == TCP_ACK ? STATE_RESET : 0;
}

/* In the generation of a half-open flow: it began with another segment than a SYN, and counts for its source's rate once it is to be a flow
 * of the table. */
#define GENERATION_UNCOUNTED 0x80000000u

/* So old is a half-open flow that is in the table by now: the first one to make place. */
#define HALF_OPEN_OVER 0x40000000

static __always_inline struct half_open_set *half_open_set_of(__u64 hash)
{
	return AT(half_open, (hash >> 20) % HALF_OPEN_SETS);
}

/* The half-open flow of a key on this processor. */
static __always_inline struct flow *half_open_flow(__u64 hash, const struct flow_key *key)
{
	struct half_open_set *set = half_open_set_of(hash);
	if (!set)
		return NULL;
	for (int way = 0; way < HALF_OPEN_WAYS; way++)
		if (same_key(&set->ways[way].key, key))
			return &set->ways[way].flow;
	return NULL;
}

/* Counts a half-open flow that makes place for another one, unless its time is over. */
static __always_inline void count_pushed_out(const struct flow *old, __u32 now)
{
	struct service *service = AT(services, old->service);
	if (!old->service || !service || age(now, old->seen) > time_out(service, old->state))
		return;
	__u64 *count = AT(pushed_out, old->service);
	if (count)
		*count += 1;
}

/* Remembers a packet's half-open flow: in the place of the one of its key, which may have had another target, or else of the one that was silent
 * longest; empty ways have been so since the start. What calls it has no room on the stack for it. */
__noinline int half_open_store(const struct packet *packet, const struct flow *flow)
{
	struct half_open_set *set = packet ? half_open_set_of(packet->hash) : NULL;
	if (!set || !flow)
		return 0;
	int own = 0;
	/* Of those that are equally old, not always the same: in a flood many are of this very tick. */
	struct half_open_way *place = &set->ways[(packet->hash >> 40) % HALF_OPEN_WAYS];
	for (int way = 0; way < HALF_OPEN_WAYS; way++) {
		if (same_key(&set->ways[way].key, &packet->key)) {
			place = &set->ways[way];
			own = 1;
			break;
		}
		if (age(flow->seen, set->ways[way].flow.seen) > age(flow->seen, place->flow.seen))
			place = &set->ways[way];
	}
	if (!own)
		count_pushed_out(&place->flow, flow->seen);
	place->key = packet->key;
	place->flow = *flow;
	return 0;
}

/* What this processor has done in this tick. */
static __always_inline struct processor *processor_now(__u32 now)
{
	struct processor *processor = AT(processors, 0);
	if (processor && processor->tick != now) {
		processor->tick = now;
		processor->new_flows = 0;
		processor->answers = 0;
		processor->searches = 0;
		processor->next_hops = 0;
	}
	return processor;
}

/* Whether this processor may store one more new flow in this tick. */
static __always_inline int may_store(const struct config *settings, __u32 now)
{
	struct processor *processor = processor_now(now);
	if (!processor || processor->new_flows >= settings->new_flows_per_tick)
		return 0;
	processor->new_flows++;
	return 1;
}

/* Whether it may make one more packet. */
static __always_inline int may_answer(__u32 now)
{
	struct processor *processor = processor_now(now);
	if (!processor || processor->answers >= ANSWERS_PER_TICK)
		return 0;
	processor->answers++;
	return 1;
}

/* Whether it may look at all candidates for a port once more. What it may not is counted. */
__noinline int may_search(__u32 now)
{
	struct processor *processor = processor_now(now);
	if (processor && processor->searches < SEARCHES_PER_TICK) {
		processor->searches++;
		return 1;
	}
	__u64 *count = AT(short_searches, 0);
	if (count)
		*count += 1;
	return 0;
}

/* Tells `lbd`, where there is another node to tell it. What there is no room for is counted. */
static __always_inline void tell(const struct config *settings, const struct flow_key *key, const struct flow *flow)
{
	if (!(settings->flags & CONFIG_REPLICATED))
		return;
	struct flow_event *event = bpf_ringbuf_reserve(&flow_events, sizeof(*event), 0);
	if (event) {
		event->key = *key;
		event->flow = *flow;
		bpf_ringbuf_submit(event, 0);
		return;
	}
	struct processor *processor = AT(processors, 0);
	if (processor)
		processor->untold++;
}

/* A flow is used here. Returns whether that is news. */
static __always_inline int flow_touch(struct flow *flow, __u32 now, __u8 state)
{
	int news = flow->copied || state != flow->state;
	flow->seen = now;
	if (news) {
		flow->copied = 0;
		flow->state = state;
		flow->generation++;
	}
	return news;
}

#endif
