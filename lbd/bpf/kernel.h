/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * What the kernel offers: types, contexts, helpers and map definitions, as far as the program uses them. Declared here, so
 * that clang is all it takes to build. Numbers and layouts are the kernel's stable interface.
 */
#ifndef TANDEM_KERNEL_H
#define TANDEM_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define NULL ((void *)0)
/* The compiler shall read from this very pointer: the one that is then compared with the packet's end. It would otherwise
 * add it up again, and the verifier would not know the sum. */
#define FIXED(pointer) asm volatile("" : "+r"(pointer))
/* A number whose bound the compiler knows, or takes to be that of an equal one, but the verifier (of Linux 6.1) does not. */
#define BOUNDED(number, mask) ({ __u64 bounded = (number); FIXED(bounded); bounded & (mask); })

#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define __array(name, value) typeof(value) *name[]

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define htons(x) ((__be16)__builtin_bswap16(x))
#define htonl(x) ((__be32)__builtin_bswap32(x))
#else
#define htons(x) ((__be16)(x))
#define htonl(x) ((__be32)(x))
#endif
#define ntohs htons
#define ntohl htonl

enum map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_RINGBUF = 27,
};
#define BPF_F_NO_PREALLOC 1
#define BPF_F_INGRESS 1
#define BPF_F_CURRENT_NETNS (-1L)
#define BPF_F_MMAPABLE 1024
#define BPF_ANY 0

#define PACKET_HOST 0
#define TC_ACT_UNSPEC (-1)
#define TC_ACT_SHOT 2
#define XDP_DROP 1
#define XDP_PASS 2
#define XDP_TX 3

#define PACKET_HOST 0

struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	__u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id;
	__u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port;
	__u32 data_meta;
	__u64 flow_keys __attribute__((aligned(8)));
	__u64 tstamp;
	__u32 wire_len, gso_segs;
	__u64 sk __attribute__((aligned(8)));
	__u32 gso_size;
};

struct xdp_md {
	__u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

#define BPF_FIB_LKUP_RET_SUCCESS 0
#define BPF_FIB_LKUP_RET_NOT_FWDED 4    /* it is for this host, or for nobody */
#define BPF_FIB_LKUP_RET_FWD_DISABLED 5 /* the interface forwards nothing */
#define BPF_FIB_LKUP_RET_NO_NEIGH 7
struct bpf_fib_lookup {
	__u8 family, l4_protocol;
	__be16 sport, dport;
	__u16 tot_len;           /* in: 0 to have no length checked; out: the way's MTU */
	__u32 ifindex;
	__be32 flowinfo;         /* IPv4: the type of service; out: the metric */
	__be32 source[4], destination[4];
	__be16 vlan_protocol, vlan_tci;
	__u8 source_mac[6], destination_mac[6];
};
#define AF_INET 2
#define AF_INET6 10

struct bpf_redir_neigh {
	__u32 family;
	__be32 next_hop[4];
};

struct bpf_sock {
	__u32 bound_dev_if, family, type, protocol, mark, priority;
	__be32 source_v4, source_v6[4];
	__u32 source_port;
	__be16 destination_port, padding;
	__be32 destination_v4, destination_v6[4];
	__u32 state;
};
/* A socket's state. TIME_WAIT is also said of those in FIN_WAIT2 that no process has any more. */
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5
#define TCP_TIME_WAIT 6
#define TCP_LISTEN 10
#define TCP_CLOSING 11
struct bpf_sock_tuple {
	union {
		struct { __be32 source, destination; __be16 source_port, destination_port; } ipv4;
		struct { __be32 source[4], destination[4]; __be16 source_port, destination_port; } ipv6;
	};
};

/* The ends of a tunnel, of a packet that a device of tunnels is to send or has received; IPv4 in the host's order. */
struct bpf_tunnel_key {
	__u32 id;
	union { __u32 v4; __be32 v6[4]; } other; /* to send to, or received from */
	__u8 service, hops;
	__u16 flags;
	__u32 label;
	union { __u32 v4; __be32 v6[4]; } own;   /* since Linux 6.0, to which this is too long before */
};
#define TUNNEL_KEY_BEFORE_OWN __builtin_offsetof(struct bpf_tunnel_key, own)
#define BPF_F_TUNINFO_IPV6 1
#define BPF_F_ZERO_CSUM_TX 2

#define BPF_HDR_START_NET 1

#define BPF_ADJ_ROOM_MAC 1
#define BPF_F_ADJ_ROOM_FIXED_GSO 1ULL
#define BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 2ULL
#define BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 4ULL
#define BPF_F_ADJ_ROOM_ENCAP_L4_GRE 8ULL
#define BPF_F_ADJ_ROOM_ENCAP_L4_UDP 16ULL
#define BPF_F_PSEUDO_HDR 16ULL
#define BPF_F_MARK_MANGLED_0 32ULL

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static long (*const bpf_l4_csum_replace)(void *ctx, __u32 offset, __u64 from, __u64 to, __u64 flags) = (void *)11;
static long (*const bpf_tail_call)(void *ctx, void *map, __u32 index) = (void *)12;
static long (*const bpf_skb_vlan_pop)(void *ctx) = (void *)19;
static long (*const bpf_skb_get_tunnel_key)(void *ctx, struct bpf_tunnel_key *key, __u32 size, __u64 flags) = (void *)20;
static long (*const bpf_skb_set_tunnel_key)(void *ctx, struct bpf_tunnel_key *key, __u32 size, __u64 flags) = (void *)21;
static long (*const bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*const bpf_skb_change_tail)(void *ctx, __u32 length, __u64 flags) = (void *)38;
static long (*const bpf_skb_pull_data)(void *ctx, __u32 length) = (void *)39;
static long (*const bpf_skb_change_head)(void *ctx, __u32 room, __u64 flags) = (void *)43;
static long (*const bpf_xdp_adjust_head)(void *ctx, int delta) = (void *)44;
static long (*const bpf_skb_adjust_room)(void *ctx, __s32 difference, __u32 mode, __u64 flags) = (void *)50;
static long (*const bpf_xdp_adjust_tail)(void *ctx, int delta) = (void *)65;
static long (*const bpf_skb_load_bytes_relative)(void *ctx, __u32 offset, void *to, __u32 length, __u32 from) = (void *)68;
static long (*const bpf_fib_lookup)(void *ctx, void *parameters, int length, __u32 flags) = (void *)69;
static struct bpf_sock *(*const bpf_sk_lookup_tcp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns,
						   __u64 flags) = (void *)84;
static struct bpf_sock *(*const bpf_sk_lookup_udp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns,
						   __u64 flags) = (void *)85;
static long (*const bpf_sk_release)(struct bpf_sock *socket) = (void *)86;
static struct bpf_sock *(*const bpf_skc_lookup_tcp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns,
						    __u64 flags) = (void *)99;
static long (*const bpf_tcp_check_syncookie)(struct bpf_sock *socket, void *ip, __u32 ip_length, void *tcp,
					     __u32 tcp_length) = (void *)100;
static __u64 (*const bpf_jiffies64)(void) = (void *)118;
static __u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)125;
static long (*const bpf_ringbuf_output)(void *map, void *data, __u64 size, __u64 flags) = (void *)130;
static void *(*const bpf_ringbuf_reserve)(void *map, __u64 size, __u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static long (*const bpf_redirect_neigh)(__u32 ifindex, void *parameters, int length, __u64 flags) = (void *)152;
static long (*const bpf_redirect_peer)(__u32 ifindex, __u64 flags) = (void *)155;

#endif
