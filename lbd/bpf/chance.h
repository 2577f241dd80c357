/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Whose connection or session a packet for a proxied address and port is of: this node's, or perhaps the other one's.
 */
#ifndef TANDEM_CHANCE_H
#define TANDEM_CHANCE_H

#include "chance_types.h"
#include "context.h"
#include "frame.h"
#include "map.h"

MAP(proxied_at, BPF_MAP_TYPE_HASH, struct proxied_key, struct proxied, PROXIED_MAX);
MAP(peers, BPF_MAP_TYPE_ARRAY, __u32, struct peer, PEERS_MAX);
MAP(sent_fragments, BPF_MAP_TYPE_LRU_HASH, struct fragment_key, struct sent_fragment, SENT_FRAGMENTS_MAX);
MAP(closings, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct closing, CLOSINGS_MAX);
MAP(chances, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, CHANCES);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct flow_key);
	__type(value, struct session);
	__uint(max_entries, SESSIONS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sessions SEC(".maps");

#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_ICMP6 58
#define TCP_SYN 2
#define TCP_ACK 16

/* A datagram's fragments arrive within this, in nanoseconds: its identification comes again. */
#define FRAGMENT_NS 30000000000ULL

/* Numbers of segments of one connection that are on their way at a time are taken to be no farther apart than this. */
#define NEAR (1u << 24)

/* A packet of a connection or session, or an ICMP error about one. */
struct of_connection {
	struct flow_key flow;  /* from the client to the virtual IP; of a later fragment without ports */
	__u32 l4;              /* offset of the header of TCP, UDP or ICMP, or of what a later fragment has */
	__u32 identification;  /* of fragments */
	__u8 v6, error;
	__u8 fragment;         /* FRAGMENT_* */
};
#define FRAGMENT_NONE 0
#define FRAGMENT_FIRST 1
#define FRAGMENT_LATER 2

static __always_inline void count(__u32 event)
{
	__u64 *count = AT(chances, event);
	if (count)
		*count += 1;
}

/* From the client's side, in a packet; the other way round in what an error quotes. */
static __always_inline void set_v4(struct of_connection *it, __u8 protocol, __be32 client, __be32 vip)
{
	it->flow.protocol = protocol;
	it->flow.source.words[2] = htonl(0xffff);
	it->flow.source.words[3] = client;
	it->flow.destination.words[2] = htonl(0xffff);
	it->flow.destination.words[3] = vip;
}

static __always_inline void set_v6(struct of_connection *it, __u8 protocol, const __be32 client[4], const __be32 vip[4])
{
	it->flow.protocol = protocol;
	for (int word = 0; word < 4; word++) {
		it->flow.source.words[word] = client[word];
		it->flow.destination.words[word] = vip[word];
	}
}

static __always_inline void set_ports(struct of_connection *it, __be16 client, __be16 vip)
{
	it->flow.source_port = client;
	it->flow.destination_port = vip;
}

static __always_inline int is_proxied(__u8 protocol)
{
	return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP;
}

/* An error about what this node or the other one sent from a virtual IP. Returns 0 for any other ICMP. */
static __always_inline int parse_error_v4(struct __sk_buff *ctx, struct of_connection *it)
{
	struct icmp *icmp = frame_start(ctx, 0) + ETHERNET_LENGTH + sizeof(struct ipv4);
	struct ipv4 *quoted = (void *)(icmp + 1);
	struct udp *ports = (void *)(quoted + 1);
	if ((void *)(ports + 1) > frame_end(ctx, 0) ||
	    (icmp->type != ICMP_UNREACHABLE && icmp->type != ICMP_TIME_EXCEEDED && icmp->type != ICMP_PARAMETER) ||
	    quoted->version_length != 0x45 || !is_proxied(quoted->protocol) || quoted->fragment & IPV4_OFFSET)
		return 0;
	it->error = 1;
	set_v4(it, quoted->protocol, quoted->destination, quoted->source);
	set_ports(it, ports->destination, ports->source);
	return 1;
}

static __always_inline int parse_error_v6(struct __sk_buff *ctx, struct of_connection *it)
{
	struct icmp *icmp = frame_start(ctx, 0) + ETHERNET_LENGTH + sizeof(struct ipv6);
	struct ipv6 *quoted = (void *)(icmp + 1);
	struct udp *ports = (void *)(quoted + 1);
	if ((void *)(ports + 1) > frame_end(ctx, 0) || icmp->type < ICMP6_UNREACHABLE || icmp->type > ICMP6_PARAMETER ||
	    !is_proxied(quoted->next))
		return 0;
	it->error = 1;
	set_v6(it, quoted->next, quoted->destination, quoted->source);
	set_ports(it, ports->destination, ports->source);
	return 1;
}

/* TCP's or UDP's ports, which are where `l4` says. Those of a fragment that has not the whole header are not looked at. */
static __always_inline int parse_ports(struct __sk_buff *ctx, struct of_connection *it)
{
	void *start = frame_start(ctx, 0) + (it->l4 & 127);
	FIXED(start);
	struct udp *udp = start;
	struct tcp *tcp = start;
	if (it->flow.protocol == PROTOCOL_TCP ? (void *)(tcp + 1) > frame_end(ctx, 0) : (void *)(udp + 1) > frame_end(ctx, 0))
		return 0;
	/* Both headers begin with them. */
	if ((void *)(udp + 1) > frame_end(ctx, 0))
		return 0;
	set_ports(it, udp->source, udp->destination);
	return 1;
}

static __always_inline int parse_v4(struct __sk_buff *ctx, struct of_connection *it)
{
	struct ipv4 *ip = frame_start(ctx, 0) + ETHERNET_LENGTH;
	it->l4 = ETHERNET_LENGTH + sizeof(*ip);
	if ((void *)(ip + 1) > frame_end(ctx, 0) || ip->version_length != 0x45)
		return 0;
	if (ip->protocol == PROTOCOL_ICMP)
		return !(ip->fragment & IPV4_FRAGMENT) && parse_error_v4(ctx, it);
	if (!is_proxied(ip->protocol))
		return 0;
	set_v4(it, ip->protocol, ip->source, ip->destination);
	if (ip->fragment & IPV4_FRAGMENT) {
		it->identification = ip->identification;
		it->fragment = ip->fragment & IPV4_OFFSET ? FRAGMENT_LATER : FRAGMENT_FIRST;
	}
	return it->fragment == FRAGMENT_LATER || parse_ports(ctx, it);
}

static __always_inline int parse_v6(struct __sk_buff *ctx, struct of_connection *it)
{
	struct ipv6 *ip = frame_start(ctx, 0) + ETHERNET_LENGTH;
	struct extension *extension = (void *)(ip + 1);
	it->v6 = 1;
	it->l4 = ETHERNET_LENGTH + sizeof(*ip);
	if ((void *)(ip + 1) > frame_end(ctx, 0))
		return 0;
	if (ip->next == PROTOCOL_ICMP6)
		return parse_error_v6(ctx, it);
	__u8 protocol = ip->next;
	if (protocol == NEXT_FRAGMENT) {
		if ((void *)(extension + 1) > frame_end(ctx, 0))
			return 0;
		protocol = extension->next;
		it->l4 += sizeof(*extension);
		it->identification = extension->identification;
		it->fragment = extension->first || extension->second & 0xf8 ? FRAGMENT_LATER :
			       extension->second & 1			     ? FRAGMENT_FIRST :
									       FRAGMENT_NONE;
	}
	if (!is_proxied(protocol))
		return 0;
	set_v6(it, protocol, ip->source, ip->destination);
	return it->fragment == FRAGMENT_LATER || parse_ports(ctx, it);
}

/* Fills in what is all zeros. Returns 0 for what the stack shall have: IPv4 options and IPv6 extensions included, which TCP and
 * UDP do without. */
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
	if ((void *)(ip + 1) <= frame_end(ctx, 0) && (ip->next == PROTOCOL_ICMP6 || ip->next == NEXT_FRAGMENT))
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

static __always_inline int begins_connection(struct __sk_buff *ctx, const struct of_connection *it)
{
	void *start = frame_start(ctx, 0) + (it->l4 & 127);
	FIXED(start);
	struct tcp *tcp = start;
	return (void *)(tcp + 1) > frame_end(ctx, 0) || (tcp->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline struct bpf_sock *socket_of(struct __sk_buff *ctx, const struct of_connection *it)
{
	const struct flow_key *flow = &it->flow;
	struct bpf_sock_tuple tuple = {};
	if (!it->v6) {
		tuple.ipv4.source = flow->source.words[3];
		tuple.ipv4.destination = flow->destination.words[3];
		tuple.ipv4.source_port = flow->source_port;
		tuple.ipv4.destination_port = flow->destination_port;
		return bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	for (int word = 0; word < 4; word++) {
		tuple.ipv6.source[word] = flow->source.words[word];
		tuple.ipv6.destination[word] = flow->destination.words[word];
	}
	tuple.ipv6.source_port = flow->source_port;
	tuple.ipv6.destination_port = flow->destination_port;
	return bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
}

/* What of a segment's numbers says something. One without ACK acknowledges nothing (RFC 9293, section 3.1): but for SYN that is a RST which
 * answers a segment (section 3.10.7.1). */
enum { NUMBERS_NONE, NUMBERS_SEQUENCE, NUMBERS_BOTH };

static __always_inline int numbers_of(struct __sk_buff *ctx, const struct of_connection *it, struct closing *numbers)
{
	void *start = frame_start(ctx, 0) + BOUNDED(it->l4, 127);
	FIXED(start);
	struct tcp *tcp = start;
	if ((void *)(tcp + 1) > frame_end(ctx, 0))
		return NUMBERS_NONE;
	numbers->sequence = ntohl(tcp->sequence);
	numbers->acknowledgement = ntohl(tcp->acknowledgement);
	return tcp->flags & TCP_ACK ? NUMBERS_BOTH : NUMBERS_SEQUENCE;
}

static __always_inline int are_near(__u32 one, __u32 other)
{
	return one - other + NEAR < 2 * NEAR;
}

/* Whether a packet is of the connection that has a socket here in this state. TIME_WAIT, a minute long, is the end of one that this node was
 * the first to close. Its client may be back meanwhile, from the same port, and on the other node, if that has had the virtual IPs in
 * between. So the one that ends here is known by its numbers, which are written down while it ends, and what is of another one goes on,
 * whichever segment it is. TIME_WAIT would acknowledge data with numbers that mean nothing to this client, keep from the other node that the
 * client ends or resets the connection, and begin its minute anew each time.
 * Where nothing is written down, the connection ended before this node had the virtual IPs back (or there was no room). What the other
 * node resets then is an end that its client has closed, too, or can do nothing more with. A RST without ACK, which answers what somebody
 * sent, is the stack's all the same: with it a client makes TIME_WAIT give way to its next SYN. An ICMP error is none of its business. */
static __always_inline int is_of_socket(struct __sk_buff *ctx, const struct of_connection *it, __u32 state)
{
	int ends = state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING;
	if (!ends && state != TCP_TIME_WAIT)
		return 1;
	struct closing numbers = {};
	int told = it->error ? NUMBERS_NONE : numbers_of(ctx, it, &numbers);
	if (told == NUMBERS_NONE)
		return ends;
	if (ends) {
		if (told == NUMBERS_BOTH)
			bpf_map_update_elem(&closings, &it->flow, &numbers, BPF_ANY);
		return 1;
	}
	struct closing *last = bpf_map_lookup_elem(&closings, &it->flow);
	if (told == NUMBERS_SEQUENCE)
		return !last || are_near(numbers.sequence, last->sequence);
	return last && are_near(numbers.sequence, last->sequence) && are_near(numbers.acknowledgement, last->acknowledgement);
}

/* Whether the stack knows what to do with a packet of TCP: it is of a connection here, or begins one. (A SYN to TIME_WAIT is the stack's as
 * any other: it takes it if its numbers are later ones, and else has the client reset what is over and try again.) */
static __always_inline int is_known_tcp(struct __sk_buff *ctx, const struct of_connection *it)
{
	if (!it->error && begins_connection(ctx, it))
		return 1;
	struct bpf_sock *socket = socket_of(ctx, it);
	if (!socket)
		return 0;
	__u32 state = socket->state;
	int listens = state == TCP_LISTEN;
	int cookie = listens && !it->error && it->fragment == FRAGMENT_NONE && brings_cookie(ctx, socket, it);
	bpf_sk_release(socket);
	if (cookie)
		count(CHANCE_COOKIE);
	return listens ? cookie : is_of_socket(ctx, it, state);
}

/* Whether a datagram is of a session here, or begins one: of all that is known, the other node has it not. */
static __always_inline int is_known_udp(const struct of_connection *it)
{
	struct session *session = bpf_map_lookup_elem(&sessions, &it->flow);
	return !session || session->holder != SESSION_OTHER;
}

static __always_inline int is_known(struct __sk_buff *ctx, const struct of_connection *it)
{
	return it->flow.protocol == PROTOCOL_UDP ? is_known_udp(it) : is_known_tcp(ctx, it);
}

static __always_inline struct fragment_key fragments_of(const struct of_connection *it)
{
	struct fragment_key key = { it->flow.source, it->flow.destination, it->identification, it->flow.protocol, {} };
	return key;
}

/* Which entry of `peers` has the other node, to which the packet may have to go; 0 if it is not for what is proxied, or a later
 * fragment of what was not sent on. */
static __always_inline __u32 other_node(const struct of_connection *it)
{
	if (it->fragment == FRAGMENT_LATER) {
		struct fragment_key key = fragments_of(it);
		struct sent_fragment *sent = bpf_map_lookup_elem(&sent_fragments, &key);
		return sent && bpf_ktime_get_boot_ns() < sent->until ? sent->peer : 0;
	}
	struct proxied_key key = { it->flow.destination, it->flow.destination_port, it->flow.protocol, 0 };
	struct proxied *proxied = bpf_map_lookup_elem(&proxied_at, &key);
	return proxied ? proxied->peer : 0;
}

/* Those that follow the first fragment go where it went. */
static __always_inline void remember_fragment(const struct of_connection *it, __u32 peer)
{
	struct fragment_key key = fragments_of(it);
	struct sent_fragment sent = { bpf_ktime_get_boot_ns() + FRAGMENT_NS, peer, 0 };
	bpf_map_update_elem(&sent_fragments, &key, &sent, BPF_ANY);
}

#endif
