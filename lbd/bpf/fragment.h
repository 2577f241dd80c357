/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Fragments: only the first has ports, so they are remembered for those that follow it.
 */
#ifndef TANDEM_FRAGMENT_H
#define TANDEM_FRAGMENT_H

#include "packet.h"
#include "time.h"

static __always_inline struct fragment_key fragment_key_of(const struct packet *packet)
{
	struct fragment_key key = { packet->key.source, packet->key.destination, packet->identification,
				    packet->key.protocol, {} };
	return key;
}

/* Of a first fragment. */
__noinline int fragment_store(const struct packet *packet)
{
	if (!packet)
		return 0;
	struct fragment_key key = fragment_key_of(packet);
	struct fragment fragment = { packet->key.source_port, packet->key.destination_port, packet->now };
	bpf_map_update_elem(&fragments, &key, &fragment, BPF_ANY);
	return 0;
}

/* A datagram's fragments arrive within this, in ticks. Its identification comes again: of IPv4's 16 bits at 32,768 fragmented datagrams a second
 * from one host to another, and a later fragment whose first one was lost must not go where one of long ago went. */
#define FRAGMENT_TICKS (2 * 16)

/* Gives a later fragment its ports. Returns VERDICT_MISS when it has them, else what becomes of it. */
__noinline int fragment_find(struct packet *packet)
{
	if (!packet)
		return VERDICT_PASS;
	struct fragment_key key = fragment_key_of(packet);
	struct fragment *fragment = bpf_map_lookup_elem(&fragments, &key);
	if (fragment && age(packet->now, fragment->seen) <= FRAGMENT_TICKS) {
		packet->key.source_port = fragment->source_port;
		packet->key.destination_port = fragment->destination_port;
		return VERDICT_MISS;
	}
	if (!bpf_map_lookup_elem(&vips, &key.destination))
		return VERDICT_PASS;
	packet->reason = DROP_FRAGMENT;
	return VERDICT_DROP;
}

#endif
