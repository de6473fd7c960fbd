// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: what is left of flows that are over is cleared before somebody has to wait for it.
 * A word names a record until the record's next flow begins, whose packet clears it: that is a cache
 * line of its own, far away, in the time of a packet. Two programs that user space runs itself do it
 * ahead, each for a stretch of records of one family, and say so in the record.
 *
 * Invariants:
 * - As for all who clear a word (ct_family.h): the record is claimed first, so its former flow stays
 *   the former one meanwhile, and given back then. No lock is taken, no packet waits; one that looks
 *   for a record takes the next.
 * - `wordless` is written by who has claimed the record, and is 0 again as soon as it is a flow (a
 *   record is written whole). A program that does not know of it clears a word that is not there.
 *
 * The argument is struct tidy, in and out. The pinned maps are the node's, put in by the loader.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>

#include "abi.h"
#include "ct.h"

char LICENSE[] SEC("license") = "Apache-2.0";

/* IPv4 */
#define FLOW struct flow4
#define CT(name) ct4_##name
#include "tidy_family.h"
#undef FLOW
#undef CT

/* IPv6 */
#define FLOW struct flow6
#define CT(name) ct6_##name
#include "tidy_family.h"
#undef FLOW
#undef CT

static __always_inline int run(struct tidy *tidy, long (*one)(__u32, struct tidy *))
{
	struct tidy told = *tidy;

	bpf_loop(told.count, one, &told, 0);
	tidy->cleared = told.cleared;
	return 0;
}

SEC("syscall")
int millrace_tidy4(struct tidy *tidy)
{
	return run(tidy, ct4_tidy);
}

SEC("syscall")
int millrace_tidy6(struct tidy *tidy)
{
	return run(tidy, ct6_tidy);
}
