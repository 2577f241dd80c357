/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Time in ticks of 1/16 s, from the kernel's jiffies: reading them costs one load, where a clock costs a call. And who owns a VIP
 * at what time: that takes the clock for what is new, for which it has to be exact, and jiffies for what is known.
 */
#ifndef TANDEM_TIME_H
#define TANDEM_TIME_H

#include "maps.h"

#define TICKS_PER_SECOND 16

static __always_inline __u32 ticks(const struct config *settings, __u64 jiffies)
{
	return (jiffies * settings->ticks_multiplier) >> 32;
}

/* Whether `until` has been reached; right over a wrap as long as both are within four years. */
static __always_inline int reached(__u32 now, __u32 until)
{
	return (__s32)(now - until) >= 0;
}

/* Age of something last seen at `seen`. Another processor may have been a tick ahead: that is no age. */
static __always_inline __u32 age(__u32 now, __u32 seen)
{
	__s32 difference = now - seen;
	return difference < 0 ? 0 : difference;
}

/* Whether this node is the owner now. A host that was stopped may come to this before its next jiffy does. */
static __always_inline int owns(__u8 index)
{
	struct instance *instance = AT(instances, index);
	if (!instance)
		return 0;
	__u64 until = *(volatile __u64 *)&instance->until;
	return until >= OWNED_ALWAYS || bpf_ktime_get_boot_ns() < until;
}

/* The time at which a former owner has gone on for long enough now, if its ownership ended by then. Soon after the host's start that is
 * its beginning, before which nobody owned anything. */
static __always_inline __s64 drained(const struct config *settings, __u64 jiffies)
{
	__s64 time = jiffies * settings->jiffy_ns + settings->boot_offset_ns - settings->drain_ns;
	return time < 0 ? 0 : time;
}

/* Whether this node goes on with flows that it knows: as the owner, or as a former one for a while. */
static __always_inline int may_go_on(__u8 index, __s64 drained)
{
	struct instance *instance = AT(instances, index);
	return instance && *(volatile __s64 *)&instance->until > drained;
}

#endif
