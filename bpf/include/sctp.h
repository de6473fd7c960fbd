/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: SCTP's checksum (CRC32c, RFC 9260 appendix A) after a change of ports, without
 * reading the packet; and what its chunks say of a flow.
 *
 * The CRC is linear: changing the first four octets by `change` changes it by the CRC, begun at 0,
 * of `change` and of as many zeroes as there are octets behind it. That is change * x^(8 * length)
 * modulo the polynomial, and x^(8 * length) is a product of the powers below, one for each bit of
 * the length. Polynomials are in reflected order: the highest bit is x^0.
 */
#ifndef MILLRACE_SCTP_H
#define MILLRACE_SCTP_H

#include "abi.h"
#include "frame.h"

#define CRC32C 0x82f63b78U	/* the polynomial, without x^32 */

#define SCTP_HEADER 12
#define SCTP_INIT 1
#define SCTP_INIT_ACK 2
#define SCTP_ABORT 6
#define SCTP_SHUTDOWN 7
#define SCTP_SHUTDOWN_ACK 8
#define SCTP_SHUTDOWN_COMPLETE 14

/* x^(8 * 2^k) */
static const __u32 crc32c_powers[16] = {
	0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c,
	0x18b8ea18, 0x510ac59a, 0xb82be955, 0xb8fdb1e7,
	0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a,
	0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc,
};

__noinline __u32 crc32c_multiply(__u32 a, __u32 b)
{
	__u32 product = 0, i;

	for (i = 0; i < 32; i++) {
		product ^= b & -(a >> 31);
		a <<= 1;
		b = b >> 1 ^ (CRC32C & -(b & 1));
	}
	return product;
}

/* What a change of the first four octets does to the checksum of a packet of `length` octets. */
__noinline __u32 crc32c_delta(__u32 change, __u32 length)
{
	__u32 k;

	for (k = 0; k < 16; k++)
		if (length >> k & 1)
			change = crc32c_multiply(change, crc32c_powers[k]);
	return change;
}

static __always_inline __u32 little_endian(const __u8 *octets)
{
	return octets[0] | octets[1] << 8 | octets[2] << 16 | (__u32)octets[3] << 24;
}

/* The ports at `at` have changed from `old` to `now`: mend the checksum. */
static __always_inline int sctp_mend(struct xdp_md *ctx, __u32 at, const void *old,
				     const void *now, __u32 length)
{
	__u32 change = little_endian(old) ^ little_endian(now);
	__u8 check[4];

	if (take(ctx, at + 8, check, sizeof(check)))
		return -1;
	change = crc32c_delta(change, length);
	check[0] ^= change;
	check[1] ^= change >> 8;
	check[2] ^= change >> 16;
	check[3] ^= change >> 24;
	return put(ctx, at + 8, check, sizeof(check));
}

/*
 * The state of a flow after a chunk. The handshake is over with the backend's first chunk that is
 * no INIT ACK; an ABORT or SHUTDOWN that was forged costs nothing, since what comes after it
 * counts.
 */
static __always_inline __u8 sctp_state(__u8 state, __u8 chunk, bool reply)
{
	if (chunk == SCTP_ABORT || chunk == SCTP_SHUTDOWN || chunk == SCTP_SHUTDOWN_ACK ||
	    chunk == SCTP_SHUTDOWN_COMPLETE)
		return CT_SCTP_SHUTDOWN;
	if (reply && chunk != SCTP_INIT_ACK)
		return CT_SCTP;
	if (state == CT_SCTP_SHUTDOWN && !reply)
		return CT_SCTP_NEW;
	return state;
}

#endif
