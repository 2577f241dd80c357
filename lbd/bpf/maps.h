/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * The maps; types.h says what is in them. Sizes that depend on the configuration are set by the loader.
 */
#ifndef TANDEM_MAPS_H
#define TANDEM_MAPS_H

#include "kernel.h"
#include "map.h"
#include "types.h"

MAP(config, BPF_MAP_TYPE_ARRAY, __u32, struct config, 1);
MAP(vips, BPF_MAP_TYPE_HASH, struct address, struct vip, VIPS_MAX);
MAP(vip_addresses, BPF_MAP_TYPE_ARRAY, __u32, struct vip_address, VIPS_MAX);
MAP(listeners, BPF_MAP_TYPE_HASH, struct listener, struct listening, 65536);
MAP(service_ports, BPF_MAP_TYPE_ARRAY, __u32, struct service_ports, 1);
MAP(services, BPF_MAP_TYPE_ARRAY, __u32, struct service, SERVICES_MAX);
MAP(targets, BPF_MAP_TYPE_ARRAY, __u32, struct target, TARGETS_MAX);
MAP(flows, BPF_MAP_TYPE_HASH, struct flow_key, struct flow, 1048576);
MAP(pending, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, 65536);
MAP(half_open, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct half_open_set, HALF_OPEN_SETS);
MAP(endpoints, BPF_MAP_TYPE_HASH, struct endpoint_key, struct endpoint, ENDPOINTS_MAX);
MAP(fragments, BPF_MAP_TYPE_LRU_HASH, struct fragment_key, struct fragment, 16384);
MAP(sources, BPF_MAP_TYPE_LRU_HASH, struct source_key, struct source, 65536);
MAP(other_sources, BPF_MAP_TYPE_LRU_HASH, struct source_key, struct other_source, 65536);
MAP(affinity, BPF_MAP_TYPE_LRU_HASH, struct affinity_key, struct affinity, 65536);
MAP(links, BPF_MAP_TYPE_ARRAY, __u32, struct link, LINKS_MAX);
MAP(processors, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct processor, 1);
MAP(routes, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct route, ROUTES);
MAP(service_stats, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct service_stats, SERVICES_MAX);
MAP(pushed_out, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, SERVICES_MAX);
MAP(target_stats, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct target_stats, TARGETS_MAX);
MAP(check_stats, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct check_stats, 1);
MAP(sent_to_other, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, 1); /* packets, by VERDICT_OTHER */
MAP(short_searches, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, 1); /* searches for ports that ended at NAT_TRIES_SHORT */
MAP(untold_hops, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, 1); /* next hops that `next_hops` had no room for, or that were too many in a tick */
MAP(drops, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, DROP_REASONS);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct instance);
	__uint(max_entries, INSTANCES_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
} instances SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct acl_key);
	__type(value, struct acl);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} acl SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 262144);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4194304);
} flow_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} next_hops SEC(".maps");

/* Sizes in place of types: clang leaves out what is in types that only an inner map names. */
struct ring_array {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct ring));
	__uint(max_entries, 1);
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, RINGS_MAX);
	__array(values, struct ring_array);
} rings SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, RINGS_MAX);
	__array(values, struct ring_array);
} other_rings SEC(".maps");

struct slot_array {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct slot));
	__uint(max_entries, NAT_PORTS);
	__uint(map_flags, BPF_F_MMAPABLE);
};
/* An endpoint's slots, and ENDPOINTS_MAX behind them the addresses of its clients, which are as long. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 2 * ENDPOINTS_MAX);
	__array(values, struct slot_array);
} slots SEC(".maps");

#endif
