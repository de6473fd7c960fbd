/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: a first fragment says by its ports which flow its datagram is of; the later ones
 * follow it by their addresses and number. Whichever CPU and queue they come by, and whichever way
 * they go, they are in one table.
 *
 * Invariants: a fragment is remembered by the addresses that it came with, and forgotten with its
 * flow (struct fragment has the record's life). One that came before its first is dropped and
 * counted: nothing is kept for later.
 */
#ifndef MILLRACE_FRAGMENTS_H
#define MILLRACE_FRAGMENTS_H

#include "turn.h"

static __always_inline void fragment_key_of(const struct frame *frame, struct fragment_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	__builtin_memcpy(key->saddr, &frame->saddr, sizeof(key->saddr));
	__builtin_memcpy(key->daddr, &frame->daddr, sizeof(key->daddr));
	key->id = frame->id;
	/* Fragments of IPv6 need not agree on what follows their header. */
	key->proto = frame->version == 4 ? frame->proto : IPPROTO_FRAGMENT;
}

/* The datagram whose first fragment this is goes as the turn says. */
__noinline int remember_fragment(const struct frame *frame, const struct turn *turn, __u32 tick)
{
	struct fragment_key key;
	struct fragment made = { .seen = tick };

	if (!frame || !turn)
		return 0;
	fragment_key_of(frame, &key);
	made.flow = turn->id;
	made.life = turn->life;
	made.reply = turn->reply;
	return bpf_map_update_elem(&fragments, &key, &made, BPF_ANY);
}

/* The turn of a later fragment: 1 if its first one was seen, and its flow still lives. */
__noinline int recall_fragment(struct rare *rare)
{
	__u32 zero = 0, tick;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct fragment_key key;
	struct fragment *found;

	if (!rare || !self)
		return 0;
	fragment_key_of(&rare->frame, &key);
	found = bpf_map_lookup_elem(&fragments, &key);
	if (!found)
		return 0;
	/* Numbers come again. A datagram is put together within 30 s (as a one-way flow lives). */
	tick = tick_of(self);
	if (is_over(found->seen, CT_UDP_ONE_WAY, self, tick))
		return 0;
	rare->turn.reply = found->reply;
	return turn_of_record(rare, found->flow, found->life);
}

#endif
