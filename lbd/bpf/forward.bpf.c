// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Forwards packets for VIPs to targets, and their answers to clients, without user space. One source for TC and XDP.
 */
#include "check.h"
#include "deliver.h"
#include "fragment.h"
#include "parse.h"
#include "solicit.h"

/* What no flow in the table is of, and does not begin one: whether it is an answer from a target, and for whom. */
static __always_inline int decide_answer(struct packet *packet, const struct config *settings, __u32 service_port)
{
	struct endpoint *exact = find_endpoint(packet, packet->key.source_port);
	struct endpoint *endpoint = likely(exact) ? exact : find_portless(packet, settings);
	if (!endpoint)
		return VERDICT_MISS;
	if (likely(answer_quickly(packet, endpoint, !exact)))
		return VERDICT_RETURN;
	return answer(packet, service_port, exact);
}

/* What is not known quickly. `unknown`: it was looked for in the table, and is not there. */
static __always_inline int decide_slowly(struct packet *packet, const struct config *settings, __u32 service_port, int unknown)
{
	/* Before it is known whose it is: the answer of a target may be turned round by then. */
	if (unlikely(packet->flags & PACKET_FIRST_FRAGMENT))
		fragment_store(packet);
	int verdict = service_port && !unknown ? decide(packet) : VERDICT_NEW;
	/* A target opens no connection towards a port that it was asked from. */
	if (verdict == VERDICT_NEW && settings->flags & CONFIG_HAS_NAT && !is_syn(packet)) {
		int back = decide_answer(packet, settings, service_port);
		if (back != VERDICT_MISS)
			return back;
	}
	if (verdict == VERDICT_NEW && !service_port)
		return VERDICT_MISS;
	if (verdict == VERDICT_NEW || verdict == VERDICT_AGAIN)
		return decide_new(packet, verdict == VERDICT_AGAIN);
	return verdict;
}

/* Does what was decided. */
static __always_inline int carry_out(void *ctx, const int xdp, struct packet *packet, const struct config *settings, int verdict)
{
	/* A call costs as much as a helper's. */
	if (unlikely(settings->trace_every) && (verdict == VERDICT_FORWARD || verdict == VERDICT_RETURN))
		sample(packet, verdict);
	switch (verdict) {
	case VERDICT_FORWARD:
		return forward_packet(ctx, xdp, packet, AT(services, packet->service), AT(targets, packet->target));
	case VERDICT_RETURN:
		return return_packet(ctx, xdp, packet);
	case VERDICT_ANSWER:
		return answered(xdp, packet, packet->reason, OF_KIND(reset, packet));
	case VERDICT_MAYBE_OTHER:
		if (!OF_KIND(may_be_of_other, packet))
			return pass(xdp);
		__attribute__((fallthrough));
	case VERDICT_OTHER:
		return send_to_other(ctx, xdp, packet, verdict == VERDICT_MAYBE_OTHER);
	case VERDICT_DROP:
		return dropped(packet, xdp, packet->reason);
	default:
		if (!xdp && answers_check(ctx, packet))
			return take_answer(ctx);
		/* What is about the node's own packets is nothing that is missing. */
		if (packet->flags & PACKET_ICMP && bpf_map_lookup_elem(&vips, &packet->key.destination))
			count_drop(DROP_ICMP_INNER);
		return pass(xdp);
	}
}

/* What is nothing to forward: the stack's, unless it would give an answer that it must not. */
static __always_inline int leave_alone(void *ctx, const int xdp, struct packet *packet)
{
	return asks_in_vain(ctx, xdp, packet) ? dropped(packet, xdp, DROP_SOLICITATION) : pass(xdp);
}

static __always_inline int forward(void *ctx, const int xdp)
{
	struct config *settings = AT(config, 0);
	struct packet packet __attribute__((aligned(8))) = {};
	if (!settings || !parse(ctx, xdp, &packet))
		return leave_alone(ctx, xdp, &packet);
	__u64 jiffies = bpf_jiffies64();
	packet.now = ticks(settings, jiffies);
	packet.drained = drained(settings, jiffies);
	int quickly = QUICKLY_NOT;
	if (likely(is_plain(&packet) && !settings->trace_every)) {
		struct service *service;
		struct target *target;
		quickly = likely(is_service_port(packet.key.destination_port)) ? decide_quickly(&packet, &service, &target) :
										 QUICKLY_NO_SERVICE;
		if (likely(quickly == QUICKLY_DONE))
			return forward_packet(ctx, xdp, &packet, service, target);
	} else if (packet.flags & PACKET_ICMP_TYPE) {
		if (!is_error(&packet) || !parse_quoted(ctx, xdp, &packet))
			return leave_alone(ctx, xdp, &packet);
	} else if (packet.flags & PACKET_LATER_FRAGMENT) {
		int verdict = fragment_find(&packet);
		if (verdict != VERDICT_MISS)
			return verdict == VERDICT_DROP ? dropped(&packet, xdp, packet.reason) : pass(xdp);
	}
	int service_port = quickly != QUICKLY_NO_SERVICE && is_service_port(packet.key.destination_port);
	int verdict = decide_slowly(&packet, settings, service_port, quickly == QUICKLY_UNKNOWN);
	return carry_out(ctx, xdp, &packet, settings, verdict);
}

SEC("classifier") int forward_tc(struct __sk_buff *ctx)
{
	return forward(ctx, 0);
}

SEC("xdp") int forward_xdp(struct xdp_md *ctx)
{
	return forward(ctx, 1);
}

/* At the loopback interface, in front of what it sends: health checks on the way of clients' packets. */
SEC("classifier") int check_out(struct __sk_buff *ctx)
{
	return check_sent(ctx);
}

/* Their answers at an interface where the program is the XDP one, which cannot hand them in. */
SEC("classifier") int check_in(struct __sk_buff *ctx)
{
	struct packet packet __attribute__((aligned(8))) = {};
	if (!parse(ctx, 0, &packet) || packet.flags & PACKET_LATER_FRAGMENT)
		return TC_ACT_UNSPEC;
	if (packet.flags & PACKET_ICMP_TYPE && (!is_error(&packet) || !parse_quoted(ctx, 0, &packet)))
		return TC_ACT_UNSPEC;
	return answers_check(ctx, &packet) ? take_answer(ctx) : TC_ACT_UNSPEC;
}

/* Tells `lbd` what time it is here: its clocks count differently. With a multiplier of 0, plain jiffies. */
SEC("classifier") int clock_tc(struct __sk_buff *ctx)
{
	(void)ctx;
	struct config *settings = AT(config, 0);
	if (!settings)
		return 0;
	return settings->ticks_multiplier ? ticks(settings, bpf_jiffies64()) : (__u32)bpf_jiffies64();
}

char licence[] SEC("license") = "Dual MIT/GPL";
