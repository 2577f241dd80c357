/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What is known of a packet: filled in by parse.h, decided about by decide.h, carried out by deliver.h.
 */
#ifndef TANDEM_PACKET_H
#define TANDEM_PACKET_H

#include "maps.h"

enum verdict {
	VERDICT_PASS,            /* not ours: the stack gets it untouched */
	VERDICT_FORWARD,         /* to `target` */
	VERDICT_RETURN,          /* from a target to `client` */
	VERDICT_DROP,            /* for `reason` */
	VERDICT_ANSWER,          /* dropped for `reason`, and the client is told */
	VERDICT_OTHER,           /* from a target for a flow of the other node: to that one, or dropped for `reason` */
	VERDICT_MISS,            /* within decide.h: nobody's so far */
	VERDICT_NEW,             /* the same: of no flow in the table */
	VERDICT_AGAIN,           /* the same: of a flow that is over, or whose target is */
	VERDICT_MAYBE_OTHER,     /* from a target to somebody's own address: as VERDICT_OTHER, if the stack would forward it */
};

struct packet {
	struct flow_key key;     /* as it arrives; of an ICMP error: of a packet against the quoted one */
	struct address client;   /* VERDICT_RETURN: whom it is for */
	/* Never both: fragments are known by the time that `decide_new` is asked, and what it decides about is no answer. What calls it has no room on
	 * the stack for more. */
	union {
		__u64 hash;      /* of the key */
		struct {
			__be32 identification; /* of a fragment's datagram */
			__be16 vip_port;       /* VERDICT_RETURN */
		};
	};
	__s64 drained;           /* what this node owned after this time it forwards still; see time.h */
	__u32 length;            /* of the IP packet, or of the longest that offloads will cut it into */
	__u32 total;             /* of the IP packet, or of all that it will be cut into */
	__u32 now;
	__u32 ifindex;
	__u16 l4;                /* offset in the frame; IP is right behind Ethernet: what has a tag is of another interface */
	__u16 service, target, vip;
	__be16 port;             /* VERDICT_FORWARD: nat's source port, or 0; VERDICT_RETURN: the client's port */
	__u8 tcp_flags;
	__u8 flags;              /* PACKET_* */
	__u8 reason;
	__u8 hops;               /* time to live */
	__u16 segments;
};
#define PACKET_V6 1
#define PACKET_FIRST_FRAGMENT 2
#define PACKET_LATER_FRAGMENT 4 /* nothing of layer 4 in it */
#define PACKET_ICMP 8           /* an error that quotes a packet */
#define PACKET_ICMP_TYPE 16     /* some ICMP, `tcp_flags` is its type */
#define PACKET_QUOTED_FRAGMENT 32 /* the quoted packet is the first fragment of an IPv6 datagram: ports are behind one more header */

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

#define PROTOCOL_ICMP 1
#define PROTOCOL_IPIP 4
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_IPV6 41
#define PROTOCOL_GRE 47
#define PROTOCOL_ICMP6 58

static __always_inline int is_v6(const struct packet *packet)
{
	return !!(packet->flags & PACKET_V6);
}

/* Has ports, and all of its flow's packets have: neither ICMP nor a fragment. */
static __always_inline int is_plain(const struct packet *packet)
{
	return !(packet->flags & ~PACKET_V6);
}

/* Opens a connection. */
static __always_inline int is_syn(const struct packet *packet)
{
	return packet->key.protocol == PROTOCOL_TCP && (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* An IPv4 address as `struct address` has it, behind 8 bytes of zeros. The other half is stored as a whole, because as a whole it is read next,
 * which would have to wait for stores of its parts. */
static __always_inline void put_v4(struct address *address, __be32 v4)
{
	__u64 *half = (__u64 *)address + 1;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	*half = (__u64)v4 << 32 | htonl(0xffff);
#else
	*half = (__u64)0xffff << 32 | v4;
#endif
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	return !((a->words[0] ^ b->words[0]) | (a->words[1] ^ b->words[1]) | (a->words[2] ^ b->words[2]) |
		 (a->words[3] ^ b->words[3]));
}

static __always_inline int same_key(const struct flow_key *a, const struct flow_key *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;
	/* Ports first: where they differ, as good as always, nothing else is looked at. */
	return x[4] == y[4] && !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]));
}

static __always_inline int is_mapped(const struct address *address)
{
	return !(address->words[0] | address->words[1]) && address->words[2] == htonl(0xffff);
}

#endif
