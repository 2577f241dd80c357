/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * How maps are declared and read.
 */
#ifndef TANDEM_MAP_H
#define TANDEM_MAP_H

#include "kernel.h"

#define MAP(name, kind, key_type, value_type, entries)                                                                  \
	struct {                                                                                                        \
		__uint(type, kind);                                                                                     \
		__type(key, key_type);                                                                                  \
		__type(value, value_type);                                                                              \
		__uint(max_entries, entries);                                                                           \
	} name SEC(".maps")

/* An element of an array map; the index is checked by the map. */
#define AT(map, position)                                                                                               \
	({                                                                                                              \
		__u32 index_ = (position);                                                                              \
		bpf_map_lookup_elem(&map, &index_);                                                                     \
	})

#endif
