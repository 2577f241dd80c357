// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Counts how often a function of the kernel is called, on each processor. Attached to one function for each time it is loaded.
 */
#include "../../../lbd/bpf/kernel.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} calls SEC(".maps");

SEC("fentry") int count(void *ctx)
{
	(void)ctx;
	__u32 zero = 0;
	__u64 *number = bpf_map_lookup_elem(&calls, &zero);
	if (number)
		*number += 1;
	return 0;
}

char licence[] SEC("license") = "GPL";
