/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: which member of a set a new flow goes to. The same function as bpf/pick.py,
 * which says why it is so; tests/bpf compares the two.
 */
#ifndef MILLRACE_PICK_H
#define MILLRACE_PICK_H

#include "abi.h"
#include "maps.h"

/* 65536 * log2 of 1.m, by the first eight bits of m. */
static const __u32 log2_table[256] = {
	  184,   552,   919,  1284,  1648,  2010,  2371,  2730,
	 3088,  3445,  3801,  4155,  4507,  4859,  5209,  5558,
	 5906,  6252,  6597,  6941,  7283,  7625,  7965,  8304,
	 8641,  8978,  9313,  9647,  9980, 10312, 10642, 10972,
	11300, 11627, 11953, 12278, 12602, 12925, 13246, 13567,
	13886, 14205, 14522, 14838, 15153, 15467, 15781, 16093,
	16404, 16714, 17023, 17331, 17637, 17943, 18248, 18552,
	18856, 19158, 19459, 19759, 20058, 20356, 20654, 20950,
	21245, 21540, 21834, 22126, 22418, 22709, 22999, 23288,
	23577, 23864, 24150, 24436, 24721, 25005, 25288, 25570,
	25852, 26132, 26412, 26691, 26969, 27246, 27523, 27798,
	28073, 28347, 28620, 28893, 29164, 29435, 29706, 29975,
	30244, 30511, 30778, 31045, 31310, 31575, 31839, 32103,
	32365, 32627, 32888, 33149, 33409, 33668, 33926, 34184,
	34441, 34697, 34952, 35207, 35461, 35715, 35968, 36220,
	36471, 36722, 36972, 37222, 37470, 37719, 37966, 38213,
	38459, 38705, 38950, 39194, 39438, 39681, 39923, 40165,
	40406, 40647, 40887, 41126, 41365, 41603, 41841, 42077,
	42314, 42550, 42785, 43019, 43253, 43487, 43720, 43952,
	44184, 44415, 44646, 44876, 45105, 45334, 45562, 45790,
	46018, 46244, 46471, 46696, 46921, 47146, 47370, 47593,
	47816, 48039, 48261, 48482, 48703, 48924, 49143, 49363,
	49582, 49800, 50018, 50235, 50452, 50668, 50884, 51100,
	51315, 51529, 51743, 51956, 52169, 52382, 52594, 52805,
	53016, 53227, 53437, 53647, 53856, 54064, 54273, 54481,
	54688, 54895, 55101, 55307, 55513, 55718, 55922, 56127,
	56330, 56534, 56737, 56939, 57141, 57343, 57544, 57745,
	57945, 58145, 58344, 58543, 58742, 58940, 59138, 59335,
	59532, 59729, 59925, 60121, 60316, 60511, 60706, 60900,
	61094, 61287, 61480, 61672, 61865, 62056, 62248, 62439,
	62629, 62820, 63010, 63199, 63388, 63577, 63765, 63953,
	64141, 64328, 64515, 64701, 64887, 65073, 65259, 65444,
};

#define ROTATE(word, by) (((word) << (by)) | ((word) >> (32 - (by))))

/* Bob Jenkins' lookup3 (public domain), hashword(): three words in, and the last one to three. */
struct jenkins {
	__u32 a, b, c;
};

static __always_inline void jenkins_start(struct jenkins *h, __u32 words, __u32 seed)
{
	h->a = h->b = h->c = 0xdeadbeef + (words << 2) + seed;
}

static __always_inline void jenkins_mix(struct jenkins *h, __u32 x, __u32 y, __u32 z)
{
	__u32 a = h->a + x, b = h->b + y, c = h->c + z;

	a -= c; a ^= ROTATE(c, 4);  c += b;
	b -= a; b ^= ROTATE(a, 6);  a += c;
	c -= b; c ^= ROTATE(b, 8);  b += a;
	a -= c; a ^= ROTATE(c, 16); c += b;
	b -= a; b ^= ROTATE(a, 19); a += c;
	c -= b; c ^= ROTATE(b, 4);  b += a;
	h->a = a;
	h->b = b;
	h->c = c;
}

static __always_inline __u32 jenkins_last(const struct jenkins *h, __u32 x)
{
	__u32 a = h->a + x, b = h->b, c = h->c;

	c ^= b; c -= ROTATE(b, 14);
	a ^= c; a -= ROTATE(c, 11);
	b ^= a; b -= ROTATE(a, 25);
	c ^= b; c -= ROTATE(b, 16);
	a ^= c; a -= ROTATE(c, 4);
	b ^= a; b -= ROTATE(a, 14);
	c ^= b; c -= ROTATE(b, 24);
	return c;
}

/* A member's score for a slot (already multiplied): the finalizer of MurmurHash3. */
static __always_inline __u32 pick_score(__u32 slot, __u32 key)
{
	__u32 h = slot ^ key;

	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	return h ^ h >> 16;
}

static __always_inline __u32 pick_distance(__u32 value)
{
	__u32 zeros = 0, m;

	value |= 1;
	m = value;
	if (!(m & 0xffff0000)) {
		zeros += 16;
		m <<= 16;
	}
	if (!(m & 0xff000000)) {
		zeros += 8;
		m <<= 8;
	}
	if (!(m & 0xf0000000)) {
		zeros += 4;
		m <<= 4;
	}
	if (!(m & 0xc0000000)) {
		zeros += 2;
		m <<= 2;
	}
	if (!(m & 0x80000000)) {
		zeros += 1;
		m <<= 1;
	}
	m <<= 1;
	return ((zeros + 1) << 16) - log2_table[(m >> 24) & 0xff];
}

#define PICK_GOLDEN 0x9e3779b1

/* A walk over members with weights, step by step (bpf_loop). */
struct pick_walk {
	__u32 at;
	__u32 slot;
	__u32 best_id;
	__u32 best;
	__u32 weight;	/* 0: none seen yet */
	__u32 score;	/* of the best one: a distance is coarser */
};

static long pick_step(__u32 turn __attribute__((unused)), void *context)
{
	struct pick_walk *walk = context;
	struct member *member, *weight;
	__u32 at = walk->at, distance, score;
	__u64 mine, best;

	member = bpf_map_lookup_elem(&members, &at);
	at++;
	weight = bpf_map_lookup_elem(&members, &at);
	walk->at = at + 1;
	if (!member || !weight)
		return 1;
	score = pick_score(walk->slot, member->key);
	distance = pick_distance(score);
	mine = (__u64)distance * walk->weight;
	best = (__u64)walk->best * weight->key;
	if (!walk->weight || mine < best || (mine == best && score > walk->score)) {
		walk->best = distance;
		walk->score = score;
		walk->weight = weight->key;
		walk->best_id = member->backend_id;
	}
	return 0;
}

#define PICK_NONE (-(1LL << 31))	/* less than any member has: an index is far less */

/*
 * The same where all weigh the same: the highest score wins, the first of equals. Without a branch
 * on the scores, which nobody could predict.
 */
static __always_inline __u32 pick_of_list(const struct set *set, __u32 slot)
{
	__u32 i, at = set->first, end = at + set->count;
	__s64 best = PICK_NONE;
	struct member *member;

	for (i = 0; i < LIST_MAX; i++) {
		__s64 mine, less, keep;

		if (at == end)
			break;
		member = bpf_map_lookup_elem(&members, &at);
		if (!member)
			break;
		/* Of two alike the one that comes first is greater. */
		mine = ((__s64)pick_score(slot, member->key) << 31) - at;
		barrier_var(mine);
		less = best - mine;
		keep = less >> 63;
		barrier_var(keep);
		best -= less & keep;
		at++;
	}
	if (best == PICK_NONE)
		return 0;
	at = -best & 0x7fffffff;
	member = bpf_map_lookup_elem(&members, &at);
	return member ? member->backend_id : 0;
}

/* The id of the backend that a slot goes to; 0 for none. */
__noinline __u32 pick(__u32 set_index, __u32 slot)
{
	struct pick_walk walk = { .slot = slot * PICK_GOLDEN };
	struct set *found, set;

	found = bpf_map_lookup_elem(&sets, &set_index);
	if (!found)
		return 0;
	*(__u64 *)&set = *(volatile __u64 *)found;
	if (set.mode == SET_TABLE) {
		__u32 index = set.first * PICK_SLOTS + slot;
		__u32 *id = bpf_map_lookup_elem(&tables, &index);

		return id ? *id : 0;
	}
	if (set.mode == SET_LIST)
		return pick_of_list(&set, walk.slot);
	walk.at = set.first;
	if (set.mode == SET_WEIGHTED && set.count <= LIST_MAX)
		bpf_loop(set.count, pick_step, &walk, 0);
	return walk.best_id;
}

/*
 * Whether a set has a member of this id, which the service's sets had when a client was bound to
 * it. A table cannot be asked; but what leaves a service is unbound by the daemon, so all that may
 * be wrong is the scope: the odd set is of this node's own (traffic policy Local).
 */
__noinline __u32 is_member(__u32 set_index, __u32 backend_id)
{
	struct set *found, set;
	struct backend *backend;
	__u32 at, step, i;

	found = bpf_map_lookup_elem(&sets, &set_index);
	if (!found)
		return 0;
	*(__u64 *)&set = *(volatile __u64 *)found;
	if (set.mode == SET_TABLE) {
		backend = bpf_map_lookup_elem(&backends, &backend_id);
		return backend && (!(set_index & 1) || backend->place == PLACE_LOCAL ||
				   backend->place == PLACE_HOST);
	}
	if (set.mode == SET_EMPTY)
		return 0;
	at = set.first;
	step = set.mode == SET_WEIGHTED ? 2 : 1;
	for (i = 0; i < LIST_MAX; i++) {
		struct member *member;

		if (i >= set.count)
			break;
		member = bpf_map_lookup_elem(&members, &at);
		if (!member)
			break;
		if (member->backend_id == backend_id)
			return 1;
		at += step;
	}
	return 0;
}

#endif
