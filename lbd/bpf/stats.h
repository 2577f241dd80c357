/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Counters, and samples of packets. Counters are a processor's own, so a plain addition does.
 */
#ifndef TANDEM_STATS_H
#define TANDEM_STATS_H

#include "packet.h"

static __always_inline void count_drop(__u32 reason)
{
	__u64 *drops_of = AT(drops, reason);
	if (drops_of)
		*drops_of += 1;
}

static __always_inline void count_in(const struct packet *packet)
{
	struct service_stats *service = AT(service_stats, packet->service);
	if (service) {
		service->packets_in += packet->segments;
		service->bytes_in += packet->total;
	}
	struct target_stats *target = AT(target_stats, packet->target);
	if (target) {
		target->packets_in += packet->segments;
		target->bytes_in += packet->total;
	}
}

static __always_inline void count_out(const struct packet *packet)
{
	struct service_stats *service = AT(service_stats, packet->service);
	if (service) {
		service->packets_out += packet->segments;
		service->bytes_out += packet->total;
	}
	struct target_stats *target = AT(target_stats, packet->target);
	if (target) {
		target->packets_out += packet->segments;
		target->bytes_out += packet->total;
	}
}

static __always_inline void count_new(const struct packet *packet)
{
	struct service_stats *service = AT(service_stats, packet->service);
	if (service)
		service->new_flows += 1;
	struct target_stats *target = AT(target_stats, packet->target);
	if (target)
		target->new_flows += 1;
}

static __always_inline void count_unstored(const struct packet *packet)
{
	struct service_stats *service = AT(service_stats, packet->service);
	if (service)
		service->unstored_flows += 1;
}

/* Every so many packets of this processor, one goes to `events`. */
__noinline int sample(const struct packet *packet, __u32 verdict)
{
	struct config *settings = AT(config, 0);
	struct processor *processor = AT(processors, 0);
	if (!packet || !settings || !processor || !settings->trace_every)
		return 0;
	if (++processor->packets < settings->trace_every)
		return 0;
	processor->packets = 0;
	struct event event = {};
	event.time_ns = bpf_ktime_get_ns();
	event.key = packet->key;
	event.ifindex = packet->ifindex;
	event.length = packet->total;
	event.service = packet->service;
	event.target = packet->target;
	event.reason = packet->reason;
	event.verdict = verdict;
	event.tcp_flags = packet->tcp_flags;
	bpf_ringbuf_output(&events, &event, sizeof(event), 0);
	return 0;
}

#endif
