// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A second chance for proxied connections and sessions of datagrams: a packet for a virtual IP that this node proxies, of a connection
 * that it does not have, goes to the other node, which may have had the virtual IP when the connection began. Its sockets go on, and
 * answer the client directly. A datagram goes there only if the other node has said that it has the session.
 *
 * What came from the other node goes to the stack, whoever it is of, so that nothing goes round in circles; and each way
 * takes a hop, if there is one left to take. Where this node has the virtual IPs, such a packet has come back, and ends here.
 *
 * Where the other node is no neighbour in the virtual IPs' network, packets go through a tunnel over the link between the nodes.
 */
#include "tunnel.h"

/* Whether a frame is addressed to this node. */
static __always_inline int to_us(const struct __sk_buff *ctx, const struct peer *peer, const struct ethernet *frame)
{
	return ctx->pkt_type == PACKET_HOST ||
	       (peer->flags & PEER_VIRTUAL_MAC && frame->destination[0] == 0 && frame->destination[1] == htons(0x5e00) &&
		(frame->destination[2] == htons(0x0100 | peer->vrid) || frame->destination[2] == htons(0x0200 | peer->vrid)));
}

/* To the other node, as it came but for the addresses of the frame and a hop. The last one it keeps: that is enough to get there. */
static __always_inline int send_on(struct __sk_buff *ctx, const struct peer *peer, const struct of_connection *it)
{
	struct tunnel *way = AT(tunnel, 0);
	int apart = peer->flags & PEER_APART;
	if (!way || (apart && !way->ifindex))
		return TC_ACT_UNSPEC;
	/* The client sends it once more. */
	if (apart && !set_ends(ctx, way))
		return TC_ACT_SHOT;
	struct ethernet *frame = frame_start(ctx, 0);
	struct ipv4 *v4 = (void *)(frame + 1);
	struct ipv6 *v6 = (void *)(frame + 1);
	if (it->v6 ? (void *)(v6 + 1) > frame_end(ctx, 0) : (void *)(v4 + 1) > frame_end(ctx, 0))
		return TC_ACT_UNSPEC;
	if (it->v6 && v6->hops > 1)
		v6->hops--;
	else if (!it->v6 && v4->hops > 1)
		decrement_v4(v4);
	set_macs(frame, peer->mac, peer->own_mac);
	count(it->error ? CHANCE_SENT_ERROR : CHANCE_SENT);
	return bpf_redirect(apart ? way->ifindex : peer->ifindex, 0);
}

SEC("classifier") int second_chance(struct __sk_buff *ctx)
{
	struct of_connection it = {};
	if (!parse(ctx, &it))
		return TC_ACT_UNSPEC;
	__u32 index = other_node(&it);
	struct peer *peer = AT(peers, index);
	if (!index || !peer || !peer->until || peer->ifindex != ctx->ifindex)
		return TC_ACT_UNSPEC;
	struct ethernet *frame = frame_start(ctx, 0);
	if ((void *)(frame + 1) > frame_end(ctx, 0) || !to_us(ctx, peer, frame))
		return TC_ACT_UNSPEC;
	int later = it.fragment == FRAGMENT_LATER;
	if (is_from(frame, peer->mac)) {
		/* While its `vrrpd` starts anew, the other node may lack its route to itself, and forward what it was sent (with early
		 * demultiplexing it drops it). The stack's reset would end a connection that is well. */
		if (peer->flags & PEER_HAS_NOT && (later || !is_known(ctx, &it))) {
			count(CHANCE_BACK);
			return TC_ACT_SHOT;
		}
		count(CHANCE_RECEIVED);
		return TC_ACT_UNSPEC;
	}
	__u64 until = it.flow.protocol == PROTOCOL_UDP ? *(volatile __u64 *)&peer->sessions_until :
							 *(volatile __u64 *)&peer->until;
	if (bpf_ktime_get_boot_ns() >= until || (!later && is_known(ctx, &it)))
		return TC_ACT_UNSPEC;
	if (it.fragment == FRAGMENT_FIRST)
		remember_fragment(&it, index);
	return send_on(ctx, peer, &it);
}

/* At the interface of the link between the nodes. A packet's priority stays with it through the stack and the tunnel's device, and matters to
 * nobody on its way in; marks do, and firewalls write over them. */
SEC("classifier") int second_chance_link(struct __sk_buff *ctx)
{
	struct tunnel *way = AT(tunnel, 0);
	if (way && way->ifindex && way->link == ctx->ifindex && is_of_tunnel(ctx, way))
		ctx->priority = TUNNEL_PRIORITY;
	return TC_ACT_UNSPEC;
}

/* At the tunnel's device, which has no other use: what the other node sends on goes to the interface of the virtual IPs, as if it had come
 * there from a neighbour. Nothing else gets to the stack. */
SEC("classifier") int second_chance_in(struct __sk_buff *ctx)
{
	struct of_connection it = {};
	if (!is_from_other(ctx) || !parse(ctx, &it))
		goto strange;
	__u32 index = other_node(&it);
	struct peer *peer = AT(peers, index);
	struct ethernet *frame = frame_start(ctx, 0);
	if (!index || !peer || !peer->ifindex || (void *)(frame + 1) > frame_end(ctx, 0) || !is_from(frame, peer->mac))
		goto strange;
	if ((it.fragment != FRAGMENT_LATER && !may_come(ctx, &it)) || !stays_here(ctx, &it, peer->ifindex))
		goto strange;
	if (it.fragment == FRAGMENT_FIRST)
		remember_fragment(&it, index);
	return bpf_redirect(peer->ifindex, BPF_F_INGRESS);
strange:
	count(CHANCE_STRANGE);
	return TC_ACT_SHOT;
}

char licence[] SEC("license") = "Dual MIT/GPL";
