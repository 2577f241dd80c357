/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What the maps of the second chance hold: the interface between its program and `lbd`. `lbd_core::chance::abi` is its twin
 * in Rust, and a test compares them. Addresses and ports are as in types.h.
 */
#ifndef TANDEM_CHANCE_TYPES_H
#define TANDEM_CHANCE_TYPES_H

#include "types.h"

#define PROXIED_MAX 4096       /* addresses and ports that are proxied */
#define PEERS_MAX 64           /* index 0 is nobody */
#define SESSIONS_MAX 131072    /* sessions of datagrams, of both nodes */
#define SENT_FRAGMENTS_MAX 4096 /* packets in fragments of which the first one was sent on */
#define CLOSINGS_MAX 32768     /* connections whose end is remembered */

/* proxied_at: where `lbd` accepts connections or takes datagrams at virtual IPs, and which entry of `peers` has the other node there */
struct proxied_key { struct address address; __be16 port; __u8 protocol; __u8 spare; };
struct proxied { __u32 peer; };

/* peers[index]: the other node in the network of a VRRP instance. */
struct peer {
	__u64 until;             /* it may have connections before this time, in nanoseconds of CLOCK_BOOTTIME */
	__u64 sessions_until;    /* the same of the sessions of datagrams that `sessions` says it has */
	__u32 ifindex;           /* the interface of the virtual IPs */
	__u8 mac[6], own_mac[6]; /* its address there, and this node's */
	__u8 flags;              /* PEER_* */
	__u8 vrid;               /* the virtual router's number */
	__u8 spare[6];
};
#define PEER_VIRTUAL_MAC 1     /* 00:00:5e:00:01:VRID and 00:00:5e:00:02:VRID are this node's too */
#define PEER_HAS_NOT 2         /* this node has the virtual IPs, the other one has not */
#define PEER_APART 4           /* the other one is no neighbour there: through the tunnel */

/* tunnel[0]: the way to the other node where it is no neighbour: a VXLAN device whose tunnels end where the packets say. */
struct tunnel {
	__u32 ifindex;           /* of the device; 0 while there is none */
	__u32 link;              /* the interface of the link between the nodes: what comes by another one is not the other node's */
	__u32 v6;                /* 1: the ends are addresses of IPv6 */
	struct address other;    /* the other node's address on the link */
	struct address own;      /* this node's */
};
#define TUNNEL_ID 7112
#define TUNNEL_PORT 7113               /* of UDP */
#define TUNNEL_PRIORITY 0x7a6d7113     /* of packets of the tunnel that came from the other node by the link */

/* sessions: who has the session of a client's datagrams in a socket; by its tuple, as in `flow_key`. Other datagrams begin one here. */
struct session { __u32 holder; };
#define SESSION_HERE 1
#define SESSION_OTHER 2

/* sent_fragments: LRU; that the first fragment was sent on to peers[peer], by `fragment_key`. Those that follow have no ports. */
struct sent_fragment { __u64 until; __u32 peer; __u32 spare; };

/* closings: LRU; by the client's tuple, the numbers of the last segment before TIME_WAIT of a connection that this node was the first to
 * close, if the other node might have connections then. */
struct closing { __u32 sequence, acknowledgement; };

/* chances[event], per CPU: packets for what is proxied. Those of this node's own connections and sessions are not counted. */
enum chance {
	CHANCE_SENT,             /* of no connection here: to the other node */
	CHANCE_SENT_ERROR,       /* the same, an ICMP error about one */
	CHANCE_RECEIVED,         /* from the other node: to the stack, known or not */
	CHANCE_COOKIE,           /* ends the handshake of a SYN cookie of this node */
	CHANCE_BACK,             /* came back from the other node, which did not take it for its own: dropped */
	CHANCE_STRANGE,          /* came out of the tunnel, but not from the other node by the link, or for nothing that lives here: dropped */
	CHANCES
};

#endif
