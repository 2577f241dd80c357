// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Forwards packets for VIPs to targets, and their answers to clients, without user space. One source for TC and XDP.
 */
#include "check.h"
#include "deliver.h"
#include "fragment.h"
#include "parse.h"
#include "solicit.h"

/* What is not known quickly. */
static __always_inline int forward_other(void *ctx, const int xdp, struct packet *packet, __u32 service_port)
{
	/* Before it is known whose it is: the answer of a target may be turned round by then. */
	if (unlikely(packet->flags & PACKET_FIRST_FRAGMENT))
		fragment_store(packet);
	int verdict = decide(packet, service_port);
	if (verdict == VERDICT_NEW || verdict == VERDICT_AGAIN)
		verdict = decide_new(packet, verdict == VERDICT_AGAIN);
	if (verdict == VERDICT_FORWARD || verdict == VERDICT_RETURN)
		sample(packet, verdict);
	switch (verdict) {
	case VERDICT_FORWARD:
		return forward_packet(ctx, xdp, packet, AT(services, packet->service), AT(targets, packet->target));
	case VERDICT_RETURN:
		return return_packet(ctx, xdp, packet);
	case VERDICT_ANSWER:
		return answered(xdp, packet, packet->reason, OF_KIND(reset, packet));
	case VERDICT_OTHER:
		return send_to_other(ctx, xdp, packet);
	case VERDICT_DROP:
		return dropped(packet, xdp, packet->reason);
	default:
		if (!xdp && answers_check(ctx, packet))
			return take_answer(ctx);
		if (packet->flags & PACKET_ICMP)
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
	if (likely(is_plain(&packet) && !settings->trace_every)) {
		struct service *service;
		struct target *target;
		if (likely(is_service_port(packet.key.destination_port) && decide_quickly(&packet, &service, &target)))
			return forward_packet(ctx, xdp, &packet, service, target);
	} else if (packet.flags & PACKET_ICMP_TYPE) {
		if (!is_error(&packet) || !parse_quoted(ctx, xdp, &packet))
			return leave_alone(ctx, xdp, &packet);
	} else if (packet.flags & PACKET_LATER_FRAGMENT) {
		int verdict = fragment_find(&packet);
		if (verdict != VERDICT_MISS)
			return verdict == VERDICT_DROP ? dropped(&packet, xdp, packet.reason) : pass(xdp);
	}
	return forward_other(ctx, xdp, &packet, is_service_port(packet.key.destination_port));
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
