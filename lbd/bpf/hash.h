/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * SipHash-2-4 (Aumasson and Bernstein, 2012) of 16 and 40 bytes: `common::hash::HashKey::source` and `flow`.
 */
#ifndef TANDEM_HASH_H
#define TANDEM_HASH_H

#include "types.h"

#define ROTATE(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define WORD(x) (x)
#else
#define WORD(x) __builtin_bswap64(x)
#endif

struct sip { __u64 a, b, c, d; };

static __always_inline void sip_round(struct sip *s)
{
	s->a += s->b;
	s->c += s->d;
	s->b = ROTATE(s->b, 13) ^ s->a;
	s->d = ROTATE(s->d, 16) ^ s->c;
	s->a = ROTATE(s->a, 32);
	s->c += s->b;
	s->a += s->d;
	s->b = ROTATE(s->b, 17) ^ s->c;
	s->d = ROTATE(s->d, 21) ^ s->a;
	s->c = ROTATE(s->c, 32);
}

static __always_inline void sip_word(struct sip *s, __u64 word)
{
	s->d ^= word;
	sip_round(s);
	sip_round(s);
	s->a ^= word;
}

static __always_inline struct sip sip_start(const __u64 key[2])
{
	struct sip s = {
		key[0] ^ 0x736f6d6570736575ULL,
		key[1] ^ 0x646f72616e646f6dULL,
		key[0] ^ 0x6c7967656e657261ULL,
		key[1] ^ 0x7465646279746573ULL,
	};
	return s;
}

static __always_inline __u64 sip_finish(struct sip *s, __u64 length)
{
	sip_word(s, length << 56);
	s->c ^= 0xff;
	sip_round(s);
	sip_round(s);
	sip_round(s);
	sip_round(s);
	return s->a ^ s->b ^ s->c ^ s->d;
}

/* The value from which ring, first port and set of a flow come. */
static __always_inline __u64 hash_flow(const __u64 key[2], const struct flow_key *flow)
{
	const __u64 *words = (const void *)flow;
	struct sip s = sip_start(key);
	sip_word(&s, WORD(words[0]));
	sip_word(&s, WORD(words[1]));
	sip_word(&s, WORD(words[2]));
	sip_word(&s, WORD(words[3]));
	sip_word(&s, WORD(words[4]));
	return sip_finish(&s, 40);
}

static __always_inline __u64 hash_source(const __u64 key[2], const struct address *address)
{
	const __u64 *words = (const void *)address;
	struct sip s = sip_start(key);
	sip_word(&s, WORD(words[0]));
	sip_word(&s, WORD(words[1]));
	return sip_finish(&s, 16);
}

#endif
