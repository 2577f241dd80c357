/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Internet checksums, brought up to date by what changes (RFC 1624): `~old + new` of each changed word goes into a sum.
 */
#ifndef TANDEM_CSUM_H
#define TANDEM_CSUM_H

#include "kernel.h"

/* To 32 bits, with all carries. */
static __always_inline __u32 fold_32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

/* To 16 bits, with all carries. */
static __always_inline __u16 fold_16(__u64 sum)
{
	__u32 folded = fold_32(sum);
	folded = (folded & 0xffff) + (folded >> 16);
	return (folded & 0xffff) + (folded >> 16);
}

static __always_inline __u64 change_16(__be16 old, __be16 new)
{
	return (__u64)(__u16)~old + new;
}

static __always_inline __u64 change_32(__be32 old, __be32 new)
{
	return (__u64)(__u32)~old + new;
}

static __always_inline __be16 updated(__be16 checksum, __u64 change)
{
	return ~fold_16((__u16)~checksum + change);
}

#endif
