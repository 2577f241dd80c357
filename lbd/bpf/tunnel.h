/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * The way to the other node where it is no neighbour: a VXLAN device over the link between the nodes. The kernel takes such packets from
 * anybody by any interface. So one program, at the interface of the link, marks those that are the other node's; another one, at the
 * device, takes no others, and of those only what is for connections and sessions here.
 */
#ifndef TANDEM_TUNNEL_H
#define TANDEM_TUNNEL_H

#include "chance.h"

MAP(tunnel, BPF_MAP_TYPE_ARRAY, __u32, struct tunnel, 1);

/* Has the tunnel's device send a packet to the other node, from this node's address on the link if the kernel can be told so. Returns 0 if that
 * is refused. */
static __always_inline int set_ends(struct __sk_buff *ctx, const struct tunnel *tunnel)
{
	struct bpf_tunnel_key key = {};
	key.id = TUNNEL_ID;
	key.hops = 64;
	/* Over IPv6 UDP needs its checksum (RFC 8200, section 8.1). */
	__u64 flags = tunnel->v6 ? BPF_F_TUNINFO_IPV6 : BPF_F_ZERO_CSUM_TX;
	if (tunnel->v6) {
		for (int word = 0; word < 4; word++) {
			key.other.v6[word] = tunnel->other.words[word];
			key.own.v6[word] = tunnel->own.words[word];
		}
	} else {
		key.other.v4 = ntohl(tunnel->other.words[3]);
		key.own.v4 = ntohl(tunnel->own.words[3]);
	}
	return !bpf_skb_set_tunnel_key(ctx, &key, sizeof(key), flags) ||
	       !bpf_skb_set_tunnel_key(ctx, &key, TUNNEL_KEY_BEFORE_OWN, flags);
}

/* Whether a packet on the link is the other node's for this end of the tunnel. Of one in fragments this is asked of the first, which the kernel
 * puts the others behind. The link may have no Ethernet. */
static __always_inline int is_of_tunnel(struct __sk_buff *ctx, const struct tunnel *tunnel)
{
	if (!tunnel->v6) {
		struct { struct ipv4 ip; struct udp udp; } head;
		return ctx->protocol == ETHERTYPE_IPV4 &&
		       !bpf_skb_load_bytes_relative(ctx, 0, &head, sizeof(head), BPF_HDR_START_NET) &&
		       head.ip.version_length == 0x45 && head.ip.protocol == PROTOCOL_UDP && !(head.ip.fragment & IPV4_OFFSET) &&
		       head.ip.source == tunnel->other.words[3] && head.ip.destination == tunnel->own.words[3] &&
		       head.udp.destination == htons(TUNNEL_PORT);
	}
	struct { struct ipv6 ip; struct udp udp; } head;
	if (ctx->protocol != ETHERTYPE_IPV6 || bpf_skb_load_bytes_relative(ctx, 0, &head, sizeof(head), BPF_HDR_START_NET) ||
	    head.ip.next != PROTOCOL_UDP || head.udp.destination != htons(TUNNEL_PORT))
		return 0;
	__u32 differs = 0;
	for (int word = 0; word < 4; word++)
		differs |= (head.ip.source[word] ^ tunnel->other.words[word]) | (head.ip.destination[word] ^ tunnel->own.words[word]);
	return !differs;
}

/* Whether what came out of the device was put in by the other node, and came by the link. */
static __always_inline int is_from_other(struct __sk_buff *ctx)
{
	struct tunnel *way = AT(tunnel, 0);
	struct bpf_tunnel_key key = {};
	if (!way || way->ifindex != ctx->ifindex || ctx->priority != TUNNEL_PRIORITY ||
	    bpf_skb_get_tunnel_key(ctx, &key, TUNNEL_KEY_BEFORE_OWN, way->v6 ? BPF_F_TUNINFO_IPV6 : 0) || key.id != TUNNEL_ID)
		return 0;
	if (!way->v6)
		return key.other.v4 == ntohl(way->other.words[3]);
	__u32 differs = 0;
	for (int word = 0; word < 4; word++)
		differs |= key.other.v6[word] ^ way->other.words[word];
	return !differs;
}

/* Whether the other node would send this: of TCP what begins no connection, of datagrams what is of a session here. */
static __always_inline int may_come(struct __sk_buff *ctx, const struct of_connection *it)
{
	if (it->flow.protocol == PROTOCOL_TCP)
		return it->error || !begins_connection(ctx, it);
	struct session *session = bpf_map_lookup_elem(&sessions, &it->flow);
	return session && session->holder == SESSION_HERE;
}

/* Whether the stack would keep a packet. Without a route of the virtual IP to this host (its `vrrpd` starts anew) it would forward it, and
 * by way of a router it would come to the other node, and from there here. */
static __always_inline int stays_here(struct __sk_buff *ctx, const struct of_connection *it, __u32 ifindex)
{
	struct bpf_fib_lookup query = {};
	query.family = it->v6 ? AF_INET6 : AF_INET;
	query.ifindex = ifindex;
	for (int word = 0; word < 4; word++) {
		query.source[word] = it->flow.source.words[word];
		query.destination[word] = it->flow.destination.words[word];
	}
	if (!it->v6) {
		query.source[0] = query.source[3];
		query.destination[0] = query.destination[3];
	}
	long result = bpf_fib_lookup(ctx, &query, sizeof(query), 0);
	return result == BPF_FIB_LKUP_RET_NOT_FWDED || result == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

#endif
