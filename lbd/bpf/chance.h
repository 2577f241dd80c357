/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Whose connection a packet for a proxied address and port is of: this node's, or perhaps the other one's.
 */
#ifndef TANDEM_CHANCE_H
#define TANDEM_CHANCE_H

#include "chance_types.h"
#include "context.h"
#include "frame.h"
#include "map.h"

MAP(proxied_at, BPF_MAP_TYPE_HASH, struct proxied_key, struct proxied, PROXIED_MAX);
MAP(peers, BPF_MAP_TYPE_ARRAY, __u32, struct peer, PEERS_MAX);
MAP(chances, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, CHANCES);

#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_ICMP6 58
#define TCP_SYN 2
#define TCP_ACK 16

/* A packet of a connection, or an ICMP error about one. */
struct of_connection {
	struct bpf_sock_tuple tuple; /* from the client to the virtual IP */
	struct proxied_key key;
	__u32 tuple_length;
	__u32 l4;                    /* offset of TCP's or ICMP's header */
	__u8 v6, error;
};

static __always_inline void count(__u32 event)
{
	__u64 *count = AT(chances, event);
	if (count)
		*count += 1;
}

/* From the client's side, in a packet; the other way round in what an error quotes. */
static __always_inline void set_v4(struct of_connection *it, __be32 client, __be32 vip, __be16 client_port, __be16 vip_port)
{
	it->tuple.ipv4.source = client;
	it->tuple.ipv4.destination = vip;
	it->tuple.ipv4.source_port = client_port;
	it->tuple.ipv4.destination_port = vip_port;
	it->tuple_length = sizeof(it->tuple.ipv4);
	it->key.address.words[2] = htonl(0xffff);
	it->key.address.words[3] = vip;
	it->key.port = vip_port;
}

static __always_inline void set_v6(struct of_connection *it, const __be32 client[4], const __be32 vip[4], __be16 client_port,
				   __be16 vip_port)
{
	for (int word = 0; word < 4; word++) {
		it->tuple.ipv6.source[word] = client[word];
		it->tuple.ipv6.destination[word] = vip[word];
		it->key.address.words[word] = vip[word];
	}
	it->tuple.ipv6.source_port = client_port;
	it->tuple.ipv6.destination_port = vip_port;
	it->tuple_length = sizeof(it->tuple.ipv6);
	it->key.port = vip_port;
}

/* An error about what this node or the other one sent from a virtual IP. Returns 0 for any other ICMP. */
static __always_inline int parse_error_v4(struct __sk_buff *ctx, struct of_connection *it)
{
	struct icmp *icmp = frame_start(ctx, 0) + it->l4;
	struct ipv4 *quoted = (void *)(icmp + 1);
	struct udp *ports = (void *)(quoted + 1);
	if ((void *)(ports + 1) > frame_end(ctx, 0) ||
	    (icmp->type != ICMP_UNREACHABLE && icmp->type != ICMP_TIME_EXCEEDED && icmp->type != ICMP_PARAMETER) ||
	    quoted->version_length != 0x45 || quoted->protocol != PROTOCOL_TCP || quoted->fragment & IPV4_OFFSET)
		return 0;
	it->error = 1;
	set_v4(it, quoted->destination, quoted->source, ports->destination, ports->source);
	return 1;
}

static __always_inline int parse_error_v6(struct __sk_buff *ctx, struct of_connection *it)
{
	struct icmp *icmp = frame_start(ctx, 0) + it->l4;
	struct ipv6 *quoted = (void *)(icmp + 1);
	struct udp *ports = (void *)(quoted + 1);
	if ((void *)(ports + 1) > frame_end(ctx, 0) || icmp->type < ICMP6_UNREACHABLE || icmp->type > ICMP6_PARAMETER ||
	    quoted->next != PROTOCOL_TCP)
		return 0;
	it->error = 1;
	set_v6(it, quoted->destination, quoted->source, ports->destination, ports->source);
	return 1;
}

static __always_inline int parse_v4(struct __sk_buff *ctx, struct of_connection *it)
{
	struct ipv4 *ip = frame_start(ctx, 0) + ETHERNET_LENGTH;
	struct tcp *tcp = (void *)(ip + 1);
	it->l4 = ETHERNET_LENGTH + sizeof(*ip);
	if ((void *)(ip + 1) > frame_end(ctx, 0) || ip->version_length != 0x45 || ip->fragment & IPV4_FRAGMENT)
		return 0;
	if (ip->protocol == PROTOCOL_ICMP)
		return parse_error_v4(ctx, it);
	if (ip->protocol != PROTOCOL_TCP || (void *)(tcp + 1) > frame_end(ctx, 0))
		return 0;
	set_v4(it, ip->source, ip->destination, tcp->source, tcp->destination);
	return 1;
}

static __always_inline int parse_v6(struct __sk_buff *ctx, struct of_connection *it)
{
	struct ipv6 *ip = frame_start(ctx, 0) + ETHERNET_LENGTH;
	struct tcp *tcp = (void *)(ip + 1);
	it->v6 = 1;
	it->l4 = ETHERNET_LENGTH + sizeof(*ip);
	if ((void *)(ip + 1) > frame_end(ctx, 0))
		return 0;
	if (ip->next == PROTOCOL_ICMP6)
		return parse_error_v6(ctx, it);
	if (ip->next != PROTOCOL_TCP || (void *)(tcp + 1) > frame_end(ctx, 0))
		return 0;
	set_v6(it, ip->source, ip->destination, tcp->source, tcp->destination);
	return 1;
}

/* Fills in what is all zeros. Returns 0 for what the stack shall have: fragments, IPv4 options and IPv6 extensions included,
 * which TCP does without. */
static __always_inline int parse(struct __sk_buff *ctx, struct of_connection *it)
{
	if (ctx->protocol == ETHERTYPE_IPV4) {
		make_linear(ctx, 0, PLAIN_LENGTH_V4);
		struct ipv4 *ip = frame_start(ctx, 0) + ETHERNET_LENGTH;
		if ((void *)(ip + 1) <= frame_end(ctx, 0) && ip->protocol == PROTOCOL_ICMP)
			make_linear(ctx, 0, LINEAR_LENGTH);
		return parse_v4(ctx, it);
	}
	if (ctx->protocol != ETHERTYPE_IPV6)
		return 0;
	make_linear(ctx, 0, PLAIN_LENGTH_V6);
	struct ipv6 *ip = frame_start(ctx, 0) + ETHERNET_LENGTH;
	if ((void *)(ip + 1) <= frame_end(ctx, 0) && ip->next == PROTOCOL_ICMP6)
		make_linear(ctx, 0, LINEAR_LENGTH);
	return parse_v6(ctx, it);
}

/* Whether the listener has answered with a cookie that this packet brings back. */
static __always_inline int brings_cookie(struct __sk_buff *ctx, struct bpf_sock *listener, const struct of_connection *it)
{
	void *ip = frame_start(ctx, 0) + ETHERNET_LENGTH;
	if (it->v6) {
		struct tcp *tcp = ip + sizeof(struct ipv6);
		return (void *)(tcp + 1) <= frame_end(ctx, 0) &&
		       !bpf_tcp_check_syncookie(listener, ip, sizeof(struct ipv6), tcp, sizeof(*tcp));
	}
	struct tcp *tcp = ip + sizeof(struct ipv4);
	return (void *)(tcp + 1) <= frame_end(ctx, 0) &&
	       !bpf_tcp_check_syncookie(listener, ip, sizeof(struct ipv4), tcp, sizeof(*tcp));
}

/* Whether the stack knows what to do with it: it is of a connection here, or begins one. */
static __always_inline int is_known(struct __sk_buff *ctx, struct of_connection *it)
{
	if (!it->error) {
		struct tcp *tcp = frame_start(ctx, 0) + (it->v6 ? ETHERNET_LENGTH + sizeof(struct ipv6) :
								  ETHERNET_LENGTH + sizeof(struct ipv4));
		if ((void *)(tcp + 1) > frame_end(ctx, 0) || (tcp->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
			return 1;
	}
	struct bpf_sock *socket = bpf_skc_lookup_tcp(ctx, &it->tuple, it->tuple_length, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return 0;
	int known = socket->state != TCP_LISTEN;
	if (!known && !it->error && brings_cookie(ctx, socket, it)) {
		count(CHANCE_COOKIE);
		known = 1;
	}
	bpf_sk_release(socket);
	return known;
}

#endif
