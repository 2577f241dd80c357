/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Headers on the wire.
 */
#ifndef TANDEM_HEADERS_H
#define TANDEM_HEADERS_H

#include "kernel.h"

#define ETHERNET_LENGTH 14
#define ETHERTYPE_IPV4 htons(0x0800)
#define ETHERTYPE_ARP htons(0x0806)
#define ETHERTYPE_IPV6 htons(0x86dd)
#define ETHERTYPE_VLAN htons(0x8100)
#define ETHERTYPE_QINQ htons(0x88a8)

struct ethernet { __u16 destination[3], source[3]; __be16 type; };

/* ARP for IPv4 over Ethernet; addresses as halves, because they are not aligned. */
struct arp {
	__be16 hardware, protocol;
	__u8 hardware_length, protocol_length;
	__be16 operation;
	__u16 sender_mac[3], sender[2], target_mac[3], target[2];
};
#define ARP_ETHERNET htons(1)
#define ARP_REQUEST htons(1)

struct ipv4 {
	__u8 version_length;     /* 0x45: version 4, no options */
	__u8 service;            /* DSCP and ECN */
	__be16 total_length, identification, fragment;
	__u8 hops, protocol;
	__be16 checksum;
	__be32 source, destination;
};
#define IPV4_DONT_FRAGMENT htons(0x4000)
#define IPV4_FRAGMENT htons(0x3fff) /* more fragments, or an offset */
#define IPV4_OFFSET htons(0x1fff)

struct ipv6 {
	__be32 version_class_label;
	__be16 payload_length;
	__u8 next, hops;
	__be32 source[4], destination[4];
};

struct tcp {
	__be16 source, destination;
	__be32 sequence, acknowledgement;
	__u8 offset;             /* in its upper four bits: words of this header */
	__u8 flags;
	__be16 window, checksum, urgent;
};
struct udp { __be16 source, destination, length, checksum; };

/* An error of ICMP or ICMPv6: what it quotes follows. */
struct icmp {
	__u8 type, code;
	__be16 checksum;
	__be32 word;             /* packet too big: the MTU; IPv4: in its lower half */
};
#define ICMP_UNREACHABLE 3
#define ICMP_FRAGMENTATION_NEEDED 4
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12
#define ICMP6_UNREACHABLE 1
#define ICMP6_TOO_BIG 2
#define ICMP6_PARAMETER 4
#define ICMP6_SOLICITATION 135 /* of a neighbour: the address follows the header */

/* IPv6 extension headers that are looked through */
#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_DESTINATION 60
#define EXTENSIONS_MAX 4

struct extension { __u8 next, length, first, second; __be32 identification; };
#define FRAGMENT_OFFSET htons(0xfff8) /* of what `first` and `second` are in the header of a fragment */
#define FRAGMENT_MORE htons(1)

#endif
