/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: conntrack of one family. Included by ct.h once for each, with CT(name) giving
 * ct4_name or ct6_name, and ADDR_SAME, ADDR_COPY, TUPLE_HASH for its addresses.
 *
 * Invariants (abi.h has the layout):
 * - `life` is odd while a record is a flow. A reader takes what it needs and then looks whether
 *   `life` is what it was before.
 * - Who makes a flow claims a record first, by a compare-and-swap of `life` to CLAIMED: from then
 *   on nobody else writes the record, or makes a word that names it. Its former word is cleared by
 *   who claims it, or was before, by tidy.bpf.c (then it is `wordless`), or was overwritten, by who
 *   needed the room.
 * - A word is written, and the flow that it names born, under the lock of the first bucket of its
 *   tuple, so no tuple has two flows, and under that of the bucket that the word is in. Words of
 *   records that are no flow, or another one, mean nothing; a record that is claimed has its old
 *   word cleared first, so there are never more words than records.
 * - The record of a flow whose source port is ours to choose is the one that its reply tuple names
 *   (CT(direct)), so no two flows have one reply tuple. Others have a word among the replies,
 *   written under that bucket's lock, and a client's address, or a port that the former cannot have
 *   (but those that were carried over: adopt.bpf.c).
 * - Locks of two buckets are taken in the order of their numbers, replies last, each for a bounded
 *   time.
 * - Ending a flow is one compare-and-swap of `life`.
 */

#include "ct_find.h"
#include "ct_words.h"
#include "ct_claim.h"
#include "ct_add.h"
