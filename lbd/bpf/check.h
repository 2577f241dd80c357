/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Health checks on the way of clients' packets. A check's socket is connected to the VIP itself. That is an address of this host,
 * so what it sends leaves by the loopback interface, marked with the target that it is for: from there it is sent to the target
 * as a client's packet would be. An answer comes from the VIP, and the stack takes no packet from outside whose source is one of
 * its own addresses: it goes in through the loopback interface, if it is one that a check's socket waits for.
 */
#ifndef TANDEM_CHECK_H
#define TANDEM_CHECK_H

#include "encap.h"
#include "parse.h"

#define LOOPBACK 1 /* the index of this interface in every network namespace */

static __always_inline int is_check(__u32 mark)
{
	return (mark & CHECK_MARK_MASK) == CHECK_MARK;
}

/* A check's packets have one hop, so that none is forwarded by anybody: neither one that strayed, by the other node, nor one
 * that its target does not take for its own. Tunnels and MAC addresses take a hop off: it is added before. */
static __always_inline int add_hop(void *ctx, const struct packet *packet)
{
	struct ipv4 *ip = frame_start(ctx, 0) + ETHERNET_LENGTH;
	if ((void *)(ip + 1) > frame_end(ctx, 0))
		return 0;
	if (is_v6(packet)) {
		((struct ipv6 *)ip)->hops++;
		return 1;
	}
	__be16 *word = (__be16 *)&ip->hops, old = *word;
	ip->hops++;
	ip->checksum = updated(ip->checksum, change_16(old, *word));
	return 1;
}

/* Fills in a packet that the loopback interface is about to send. */
static __always_inline int parse_sent(struct __sk_buff *ctx, struct packet *packet)
{
	packet->segments = 1;
	packet->ifindex = LOOPBACK;
	make_plain_linear(ctx, 0);
	struct ethernet *frame = frame_start(ctx, 0);
	if ((void *)(frame + 1) > frame_end(ctx, 0))
		return 0;
	if (frame->type == ETHERTYPE_IPV4)
		return parse_v4(ctx, 0, packet);
	return frame->type == ETHERTYPE_IPV6 && parse_v6(ctx, 0, packet);
}

/* A check's packet on its way to the target. Returns whether it could be made one of a client's. */
static __always_inline int send_check(struct __sk_buff *ctx, struct packet *packet, const struct target *target)
{
	if (packet->length > target->mtu || !add_hop(ctx, packet))
		return 0;
	if (target->way != WAY_PLAIN)
		return encapsulate_tc(ctx, packet) == DROP_NONE;
	return rewrite_frame(ctx, 0, packet, target->destination_mac);
}

/* What the loopback interface sends. Never lets a check into this host's own stack: another server may listen there. */
static __always_inline int check_sent(struct __sk_buff *ctx)
{
	if (likely(!is_check(SKB(ctx)->mark)))
		return TC_ACT_UNSPEC;
	struct packet packet __attribute__((aligned(8))) = {};
	/* Somebody else's mark. */
	if (!parse_sent(ctx, &packet) || !bpf_map_lookup_elem(&vips, &packet.key.destination))
		return TC_ACT_UNSPEC;
	packet.target = SKB(ctx)->mark & ~CHECK_MARK_MASK;
	struct check_stats *stats = AT(check_stats, 0);
	struct target *target = AT(targets, packet.target);
	if (!stats)
		return TC_ACT_SHOT;
	if (!target || !target->ifindex || !send_check(ctx, &packet, target)) {
		stats->dropped++;
		return TC_ACT_SHOT;
	}
	stats->sent++;
	return bpf_redirect(target->ifindex, 0);
}

static __always_inline struct bpf_sock *find_socket(struct __sk_buff *ctx, const struct packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = sizeof(tuple.ipv4);
	if (is_v6(packet)) {
		size = sizeof(tuple.ipv6);
		for (int word = 0; word < 4; word++) {
			tuple.ipv6.source[word] = packet->key.source.words[word];
			tuple.ipv6.destination[word] = packet->key.destination.words[word];
		}
		tuple.ipv6.source_port = packet->key.source_port;
		tuple.ipv6.destination_port = packet->key.destination_port;
	} else {
		tuple.ipv4.source = packet->key.source.words[3];
		tuple.ipv4.destination = packet->key.destination.words[3];
		tuple.ipv4.source_port = packet->key.source_port;
		tuple.ipv4.destination_port = packet->key.destination_port;
	}
	if (packet->key.protocol == PROTOCOL_TCP)
		return bpf_sk_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	return bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
}

/* Whether a packet is an answer to a check, or an ICMP error about one. Asked of what is nobody else's. */
__noinline int answers_check(struct __sk_buff *ctx, const struct packet *packet)
{
	struct config *settings = AT(config, 0);
	if (!packet || !settings || !(settings->flags & CONFIG_HAS_CHECKS))
		return 0;
	struct address source = packet->key.source;
	if (!bpf_map_lookup_elem(&vips, &source))
		return 0;
	struct bpf_sock *socket = find_socket(ctx, packet);
	if (!socket)
		return 0;
	__u32 mark = socket->mark;
	bpf_sk_release(socket);
	return is_check(mark);
}

/* Hands an answer in through the loopback interface, whose address is all zeros. */
static __always_inline int take_answer(struct __sk_buff *ctx)
{
	struct ethernet *frame = frame_start(ctx, 0);
	struct check_stats *stats = AT(check_stats, 0);
	if ((void *)(frame + 1) > frame_end(ctx, 0) || !stats)
		return TC_ACT_SHOT;
	const __u8 none[6] __attribute__((aligned(2))) = {};
	set_macs(frame, none, none);
	stats->returned++;
	return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
}

#endif
