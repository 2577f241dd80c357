// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * What the forwarding program is measured against: the least that forwards with a table of flows (one look-up of the IPv4
 * 5-tuple, a MAC rewrite), and a shim that restores the packet between repeats and calls what is measured.
 */
#include "../../../lbd/bpf/headers.h"

struct tuple { __be32 source, destination; __be16 source_port, destination_port; __u32 protocol; };
struct next { __u8 destination[6], source[6]; __u32 spare; };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct tuple);
	__type(value, struct next);
	__uint(max_entries, 1048576);
} known SEC(".maps");

#define FRAME_WORDS 8
#define FLAGS_PLACE 47
#define FRAMES_MAX 1048576
struct frame { __u64 words[FRAME_WORDS]; };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct frame);
	__uint(max_entries, FRAMES_MAX);
} frames SEC(".maps");

/* The frames from `first` to before `end`, over and over; all with these TCP flags. */
struct run { __u32 first, end, next, length, flags; };
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct run);
	__uint(max_entries, 1);
} runs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} measured SEC(".maps");

SEC("xdp") int shim(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct run *run = bpf_map_lookup_elem(&runs, &zero);
	if (!run)
		return 0;
	long there = (long)ctx->data_end - (long)ctx->data;
	FIXED(there);
	int longer = (int)there - (int)run->length;
	if (longer)
		bpf_xdp_adjust_head(ctx, longer);
	__u32 index = run->next++;
	if (run->next >= run->end)
		run->next = run->first;
	struct frame *frame = bpf_map_lookup_elem(&frames, &index);
	__u64 *start = (void *)(long)ctx->data;
	if (!frame || (void *)(start + FRAME_WORDS) > (void *)(long)ctx->data_end)
		return 0;
	for (int word = 0; word < FRAME_WORDS; word++)
		start[word] = frame->words[word];
	((__u8 *)start)[FLAGS_PLACE] = run->flags;
	bpf_tail_call(ctx, &measured, 0);
	return 0;
}

SEC("xdp") int nothing(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_TX;
}

static __always_inline int rewrite(struct ethernet *frame, const struct next *next)
{
	__builtin_memcpy(frame->destination, next->destination, 6);
	__builtin_memcpy(frame->source, next->source, 6);
	return XDP_TX;
}

static __always_inline int forward(struct xdp_md *ctx, const int insert)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *frame = start;
	struct ipv4 *ip = start + ETHERNET_LENGTH;
	struct tcp *tcp = (void *)(ip + 1);
	if ((void *)(tcp + 1) > end || frame->type != ETHERTYPE_IPV4 || ip->version_length != 0x45 || ip->protocol != 6)
		return XDP_PASS;
	struct tuple key = { ip->source, ip->destination, tcp->source, tcp->destination, ip->protocol };
	struct next *next = bpf_map_lookup_elem(&known, &key);
	if (next)
		return rewrite(frame, next);
	if (!insert)
		return XDP_PASS;
	struct next first = { { 2, 0, 0, 0, 0, 1 }, { 2, 0, 0, 0, 0, 2 }, 0 };
	bpf_map_update_elem(&known, &key, &first, BPF_ANY);
	return rewrite(frame, &first);
}

SEC("xdp") int minimal(struct xdp_md *ctx)
{
	return forward(ctx, 0);
}

/* The same, where a miss becomes a flow. */
SEC("xdp") int minimal_new(struct xdp_md *ctx)
{
	return forward(ctx, 1);
}

char licence[] SEC("license") = "Dual MIT/GPL";
