/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What the maps hold: the interface between the program and `lbd`. `lbd_core::forward::abi` is its twin in Rust, and
 * a test compares the sizes. Any change here changes the layout's hash and with it the folder of the pins.
 *
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. Ports are in network order where they come from
 * packets (keys), in host order where they are numbers (slots' index, ranges). Times are jiffies / HZ-independent ticks of
 * 1/16 s since boot, 32 bits (`now()`), which wrap after eight years; but for ownership, which is measured in nanoseconds of
 * CLOCK_BOOTTIME.
 */
#ifndef TANDEM_TYPES_H
#define TANDEM_TYPES_H

#include "kernel.h"

#define SERVICES_MAX 1024      /* index 0 is nobody */
#define TARGETS_MAX 4096       /* index 0 is nobody */
#define ENDPOINTS_MAX 4096     /* index 0 is nobody */
#define VIPS_MAX 1024          /* index 0 is nobody */
#define INSTANCES_MAX 64       /* VRRP instances; index 0 stands for "always active" (lbd alone) */
#define RINGS_MAX 1024         /* target groups; index 0 is nobody */
#define RING_SLOTS 65537
#define RANGES_MAX 16          /* port ranges of a VIP */
#define CANDIDATES_MAX 4       /* VIP and port pairs behind which an endpoint stands with its clients' addresses */
#define NAT_PORT_FIRST 1024
#define NAT_PORTS 64512        /* 1024..65535; node 0 allocates from the lower half, node 1 from the upper one */
#define NAT_TRIES 32           /* candidates looked at for one flow */
#define NAT_TRIES_SHORT 4      /* the same for what opens no connection, once SEARCHES_PER_TICK of these have looked further */
#define LINKS_MAX 65536        /* by interface index */

struct address { union { __u8 bytes[16]; __u32 words[4]; }; };

/* config[0] */
struct config {
	__u64 hash_key[2];       /* SipHash-2-4, as two little-endian words, of the pair */
	__u64 ticks_multiplier;  /* now = jiffies64 * multiplier >> 32: from the kernel's HZ to sixteenths of a second */
	__u64 jiffy_ns;          /* boot time = jiffies64 * jiffy_ns + boot_offset_ns, as of the last jiffy */
	__u64 boot_offset_ns;
	__u64 drain_ns;          /* a former owner forwards the flows that it knows for so long */
	__u32 flags;             /* CONFIG_* */
	__u32 new_flows_per_tick; /* a processor stores so many new flows in a tick; more are forwarded without an entry */
	__u32 trace_every;       /* a sample of every so many packets goes to `events`; 0 for none */
	__u8 node;               /* 0 or 1: whose half of the ports new flows get */
	__u8 spare[3];
};
#define CONFIG_HAS_NAT 1u        /* there are endpoints at all */
#define CONFIG_HAS_ACL 2u
#define CONFIG_HAS_ANY_PORT 4u   /* there are endpoints without a port of their own */
#define CONFIG_REPLICATED 16u    /* flows are told to another node */
#define CONFIG_HAS_CHECKS 8u     /* health checks take the way of clients' packets */
#define CONFIG_PORTS_MISSING 32u /* flows that came from another layout may lack their ports: an answer for a port that nobody has is dropped */

/* instances[index]: until when this node owns the VIPs of a VRRP instance. The owner begins flows and is answered for; a former
 * owner goes on with the flows that it knows until `until + drain_ns`. `vrrpd` has this map in its memory and writes it: one
 * aligned word, so that nobody ever sees half of it. Index 0 is `lbd`'s. */
struct instance { __u64 until; };
#define OWNED_ALWAYS 4611686018427387904 /* 2^62: later than any time */

/* vips: address -> vip */
struct range { __u16 first, last; __u16 service; __u8 protocol; __u8 spare; };
struct vip {
	__u16 index;             /* of this VIP, for slots */
	__u8 instance;
	__u8 ranges_count;
	__u32 spare;
	struct range ranges[RANGES_MAX]; /* host order, both ends included; the first that fits; any port is 0..65535 */
};

/* vip_addresses[vip]: the way back from a VIP's index, and the other node in its network: not known with an interface of 0 */
struct vip_address {
	struct address address;
	__u8 instance, spare[3];
	__u32 other_ifindex;
	__u8 other_mac[6], own_mac[6];
	__u32 other_until;       /* until then the other node may have begun flows of this VIP that are not known here; 0 for never */
};

/* listeners: exact address and port -> listening; looked at before the ranges */
struct listener { struct address address; __be16 port; __u8 protocol; __u8 spare; };
struct listening { __u16 service, vip; };

/* service_ports[0]: bit n (of word n / 64, from the low end) is set where some service listens on port n; host order */
#define PORT_WORDS 1024
struct service_ports { __u64 words[PORT_WORDS]; };

/* services[index] */
struct service {
	__u8 mode;               /* MODE_* */
	__u8 instance;
	__u16 ring;
	__u32 flags;             /* SERVICE_* */
	__u32 established_ticks; /* time-outs of flows */
	__u32 udp_ticks, half_open_ticks, closing_ticks, reset_ticks;
	__u32 affinity_ticks;    /* SERVICE_AFFINITY: how long a client's target is remembered after its last new flow */
	__u32 source_rate;       /* SERVICE_SOURCE_RATE: new flows of one address in source_rate_ticks */
	__u32 source_rate_ticks;
	__u32 other_until;       /* until then flows that are not known here may be the other node's: see `other_rings`; 0 for never */
	__u16 mss_max;           /* nat, whose SYNs pass both ways: their MSS is brought down to it; 0 for any */
	__u16 counts_as;         /* the number in the keys of `sources`: one for all numbers of a service */
};
#define MODE_NAT 1
#define MODE_DSR 2
#define SERVICE_PRESERVE_CLIENT 1u  /* nat: the source stays the client's */
#define SERVICE_HASH_SOURCE 2u      /* the ring is looked up by the client's address instead of the whole tuple */
#define SERVICE_AFFINITY 4u
#define SERVICE_SOURCE_RATE 8u
#define SERVICE_ACL 16u             /* look the client up in `acl` */
#define SERVICE_RESET_UNHEALTHY 32u /* TCP flows of an unhealthy target are reset; without it they move to another */
#define SERVICE_SOURCE_RATE_PAIR 64u /* what the other node has begun counts, too: look the client up in `other_sources` */

/* rings[index]: an array map of one element. other_rings[index]: what the other node chooses from, where that is something else */
struct ring { __u16 targets[RING_SLOTS + 3]; };

/* targets[index]: 64 bytes, a cache line */
struct target {
	__u8 state;              /* TARGET_* */
	__u8 way;                /* WAY_* */
	__be16 port;             /* 0: the port that the client asked for */
	__u16 endpoint;          /* nat: whose slots */
	__u16 mtu;               /* the largest IP packet on the way there, the tunnel's headers already subtracted */
	__u32 ifindex;           /* the way out; 0 while the next hop is unknown */
	__u8 destination_mac[6];
	__u8 source_mac[6];
	struct address address;  /* of the target; tunnels: the outer destination */
	struct address source;   /* tunnels: the outer source */
	__be16 gue_port;
	__u16 spare;
};
#define TARGET_ABSENT 0
#define TARGET_UP 1
#define TARGET_DRAINING 2    /* known flows go on */
#define TARGET_UNHEALTHY 3   /* UDP flows move; TCP flows are reset or move */
#define WAY_PLAIN 0          /* nat, and dsr l2 */
#define WAY_IPIP 1
#define WAY_GRE 2
#define WAY_GUE 3

/* flows, and half-open ones: the client's tuple as it arrives at the VIP. 40 bytes, hashed as they are by `HashKey::flow`. */
struct flow_key {
	struct address source, destination;
	__be16 source_port, destination_port;
	__u8 protocol;
	__u8 spare[3];
};
struct flow {
	__u32 seen;              /* tick of the last packet, either way that passes here */
	__u16 target;
	__u16 service;
	__be16 port;             /* nat with the VIP as source: the source port towards the target; else 0 */
	__u8 state;              /* STATE_* bits */
	__u8 copied;             /* 1: as the other node has told, and not used here since */
	__u32 generation;        /* counts changes */
};
#define STATE_ESTABLISHED 1
#define STATE_CLIENT_FIN 2
#define STATE_TARGET_FIN 4
#define STATE_RESET 8
#define STATE_UDP 128

/* flow_events: a flow that is new in `flows`, has changed, or is used here after the other node told of it */
struct flow_event { struct flow_key key; struct flow flow; };

/* `seen` is written anew when it is so old, in ticks, and an old enough part of the time-out: with a million flows, writing
 * costs as much as looking. So it may be short of the truth by these, and by no more than the last one; a flow is given up by
 * so much later than its time-out says, never earlier. */
#define REFRESH_TICKS 16
#define REFRESH_PART 16
#define REFRESH_TICKS_MAX 256

/* pending: half-open flows of services with preserved client addresses, LRU: their answers may come on another processor. And those of
 * dsr which the other node would have given another target: what follows on another processor must not be taken for a flow of that node.
 * half_open: those of all others, a per-CPU array of sets; the set is chosen by the flow's hash, the way by the key, else the oldest goes */
#define HALF_OPEN_WAYS 4
#define HALF_OPEN_SETS 4096
struct half_open_way { struct flow_key key; struct flow flow; };
struct half_open_set { struct half_open_way ways[HALF_OPEN_WAYS]; };

/* endpoints: a target's address, port and protocol -> endpoint. Port 0 stands for targets without a port of their own. */
struct endpoint_key { struct address address; __be16 port; __u8 protocol; __u8 spare; };
struct candidate { struct address vip; __be16 port; __u16 service; };  /* port 0: the same as the target's */
struct endpoint {
	__u16 index;             /* of its slots; 0 if no service with the VIP as source uses it */
	__u16 candidates_count;
	__u16 target;            /* whose answers these are, as long as that is one alone; else 0 */
	__u16 spare;
	struct candidate candidates[CANDIDATES_MAX]; /* services with preserved client addresses: reverse look-up in `flows` */
};

/* slots[endpoint][port - 1024]: who has this port towards the endpoint. 16 bytes, since there is one for each port whether it is used or
 * not. Free when `seen` is older than its state's time-out; claimed by exchanging `control` for one with the lock set, filled in, and then
 * published. The target's port is the endpoint's or, where that has none, the one that the client asked for.
 * slots[ENDPOINTS_MAX + endpoint][port - 1024]: an IPv6 client's whole address, for endpoints of that family alone. */
struct slot {
	__u64 control;           /* seen:32 | service:10 | vip:10 | state:8 | lock:4, from the low end */
	__u32 client;            /* the last word of its address, in network order: of IPv4 all of it */
	__be16 client_port;
	__be16 vip_port;
};

/* fragments: which ports the first fragment had. LRU. */
struct fragment_key { struct address source, destination; __u32 identification; __u8 protocol; __u8 spare[3]; };
struct fragment { __be16 source_port, destination_port; __u32 seen; };

/* acl: LPM trie; prefix_length counts the service's bits too (16 + 0..128). No entry: denied, so an entry of 16 bits is the default. */
struct acl_key { __u32 prefix_length; __be16 service; __u8 address[16]; };
struct acl { __u32 allowed; };

/* sources: LRU; new flows of an address to a service in the running window */
struct source_key { struct address address; __u16 service; __u16 spare; };
struct source { __u32 window; __u32 count; };

/* other_sources: LRU, by the keys of `sources`; what the other node has told of its own, which counts until its window ends there. Only `lbd`
 * writes it. */
struct other_source { __u32 until; __u32 count; };

/* affinity: LRU */
struct affinity_key { struct address address; __u16 ring; __u16 spare; };
struct affinity { __u32 expires; __u16 target; __u16 spare; };

/* links[ifindex] */
struct link { __u8 mac[6]; __u8 flags; __u8 spare; __u32 mtu; };
#define LINK_OURS 1         /* the program takes packets here */
#define LINK_VIRTUAL_MAC 2  /* 00:00:5e:00:01:xx and 00:00:5e:00:02:xx are ours too */
#define LINK_OTHER_END 4    /* TC may hand packets to the other end of this veth at once */

/* processors: of each processor */
struct processor {
	__u32 tick, new_flows;   /* new flows stored in this tick */
	__u32 packets;           /* until the next sample */
	__u32 answers;           /* packets made in this tick: resets, and ICMP for what is too big */
	__u32 searches;          /* searches for ports in this tick that went beyond NAT_TRIES_SHORT */
	__u32 next_hops;         /* of which `lbd` was told in this tick */
	__u64 untold;            /* flows that `flow_events` had no room for; whoever walks through all flows finds them */
};
#define ANSWERS_PER_TICK 256
#define SEARCHES_PER_TICK 1024
#define NEXT_HOPS_PER_TICK 64

/* routes: per-CPU cache of the way to clients, by a hash of the address; a second old at most */
#define ROUTES 1024
#define ROUTE_TICKS 16
struct route {
	struct address address;
	__u32 until;
	__u32 ifindex;
	__u8 destination_mac[6], source_mac[6];
	__u32 mtu;
	__u32 told;              /* `lbd` was told in this tick that the next hop there is not known; 0 for never */
};

/* next_hops: the next hop on the way to a client, a gateway or the client itself, which is not known. In the driver nobody else has it looked
 * for. */
struct next_hop {
	struct address address;
	__u32 ifindex;
	__u32 spare;
};

/* statistics, per CPU */
struct service_stats { __u64 packets_in, bytes_in, packets_out, bytes_out, new_flows, unstored_flows; };
struct target_stats { __u64 packets_in, bytes_in, packets_out, bytes_out, new_flows; };

/* pushed_out[service], per CPU: its flows in `half_open` that had to make place for others before their time was over. (What is pushed out of LRU
 * maps no program hears of.) */

/* drops[reason], per CPU: packets that were for a service and were not forwarded, but for DROP_FLOWS_FULL and DROP_ICMP_INNER */
enum drop_reason {
	DROP_NONE,
	DROP_MALFORMED,          /* a header that contradicts itself in a packet for a VIP's service */
	DROP_NOT_ACTIVE,         /* this node does not own the VIP: the stack would answer RST, so nobody gets it */
	DROP_DENIED,             /* access list */
	DROP_SOURCE_RATE,
	DROP_NO_TARGET,          /* the ring is empty */
	DROP_NO_NEXT_HOP,        /* no MAC address of the target yet; no way to the client; in the driver, no MAC address of the next hop to the client, or
				  * an interface on the way there where the program is not */
	DROP_NO_PORT,            /* no free port towards the endpoint among the candidates: reset to the client */
	DROP_FLOWS_FULL,         /* no room for an entry: forwarded all the same, and not remembered */
	DROP_FRAGMENT,           /* a later fragment whose first one was not seen */
	DROP_TOO_BIG,            /* longer than the way takes: answered with ICMP */
	DROP_UNHEALTHY,          /* TCP of an unhealthy target: reset to the client */
	DROP_TTL,
	DROP_CLASH,              /* preserved client address: same tuple at the same target through another VIP */
	DROP_ICMP_INNER,         /* an ICMP error whose inner packet belongs to no flow: the stack has it */
	DROP_HEADROOM,           /* the packet could not be made longer for a tunnel */
	DROP_SOLICITATION,       /* ARP or ND asked for a VIP that this node does not own: the stack may still have the address */
	DROP_ANSWER_RATE,        /* would have been answered, but for too many that were in this tick */
	DROP_UNKNOWN_FLOW,       /* from a target for a flow of the other node, which may not be known here yet, for one of another layout whose
				  * port may not be here yet, or for a port that became somebody else's while it was read: the stack would
				  * reset it */
	DROP_NOT_CUT,            /* the same as DROP_TOO_BIG of IPv4 without DF, which a router would have cut into fragments */
	DROP_REASONS
};

/* Health checks on the way of clients' packets: their sockets have this mark, with the target's index in its lower half. */
#define CHECK_MARK 0x7a6c0000u
#define CHECK_MARK_MASK 0xffff0000u

/* check_stats[0], per CPU: their packets, which count for no service and no target */
struct check_stats { __u64 sent, returned, dropped; };

/* events: a sampled packet */
struct event {
	__u64 time_ns;
	struct flow_key key;
	__u32 ifindex, length;
	__u16 service, target;
	__u8 reason;             /* drop_reason */
	__u8 verdict;            /* 1 forwarded to a target, 2 returned to a client, 3 dropped, 4 answered, 5 sent to the other node */
	__u8 tcp_flags;
	__u8 spare;
};

#endif
