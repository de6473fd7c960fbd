/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: who has a VIP is answered by the program itself, with the uplink's MAC; ARP
 * (RFC 826) and neighbour solicitations (RFC 4861). Questions about this node's own addresses are
 * its kernel's, all others are OVS's. Tags stay where they are, so that a VIP is found in a VLAN
 * too; the kernel gets untagged questions only.
 *
 * An announcement (one who asks for the address it has itself) is not answered: it is OVS's.
 */
#ifndef MILLRACE_NEIGHBOURS_H
#define MILLRACE_NEIGHBOURS_H

#include "frame.h"
#include "verdict.h"
#include "vlan.h"

#define ND_ADVERTISEMENT 136
#define ND_TARGET_MAC 2		/* option type */
#define ND_SOLICITED 0x40000000
#define ND_OVERRIDE 0x20000000
#define ND_HOPS 255		/* what came through no router */

/*
 * Enum address_flag of an address that may be known. A key of its own, because kernel 6.1 takes
 * none that lies in a global function's argument; and a function of its own, because the callers'
 * stack has no room for it.
 */
__noinline __u32 known_as(const union address *addr)
{
	union address key;
	__u32 *flags;

	if (!addr)
		return 0;
	key = *addr;
	flags = bpf_map_lookup_elem(&known_addresses, &key);
	return flags ? *flags : 0;
}

/* The frame's ethertype is ARP, `at` is the offset behind it; the verdict. */
__noinline int arp_question(struct xdp_md *ctx, __u32 at)
{
	__u32 zero = 0, known;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct macs link;
	union address target;
	struct arp_ipv4 arp;

	if (!self || take(ctx, at, &arp, sizeof(arp)) || arp.protocol_type != bpf_htons(ETH_P_IP) ||
	    arp.hardware_type != bpf_htons(1) || arp.hardware_size != ETH_ALEN ||
	    arp.protocol_size != 4)
		return verdict(ctx, TO_OVS(ctx), XSK_ARP);
	map_ipv4(&target, arp.target_addr);
	known = known_as(&target);
	if (!(known & ADDRESS_OWNED) || arp.operation != bpf_htons(1) ||
	    arp.sender_addr == arp.target_addr) {
		if (known & ADDRESS_LOCAL && at == ETH_HLEN)
			return verdict(ctx, XDP_PASS, PASS_ARP);
		return verdict(ctx, TO_OVS(ctx), XSK_ARP);
	}
	__builtin_memcpy(link.dest, arp.sender_mac, ETH_ALEN);
	__builtin_memcpy(link.source, self->uplink_mac, ETH_ALEN);
	arp.operation = bpf_htons(2);
	arp.target_addr = arp.sender_addr;
	__builtin_memcpy(arp.target_mac, arp.sender_mac, ETH_ALEN);
	arp.sender_addr = target.words[3];
	__builtin_memcpy(arp.sender_mac, self->uplink_mac, ETH_ALEN);
	if (put(ctx, at, &arp, sizeof(arp)) || put(ctx, 0, &link, sizeof(link)))
		return verdict(ctx, TO_OVS(ctx), XSK_ARP);
	return verdict(ctx, XDP_TX, ANSWER_ARP);
}

/* A neighbour advertisement with the one option that it has here. */
struct advertisement {
	union address saddr;	/* these three lie before it as the pseudo-header does */
	union address daddr;
	__be32 length;
	__be32 proto;
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 flags;
	union address target;
	__u8 option;
	__u8 option_size;	/* of 8 octets */
	__u8 mac[ETH_ALEN];
};

#define ADVERTISEMENT_SIZE 32
_Static_assert(sizeof(struct advertisement) == 40 + ADVERTISEMENT_SIZE, "advertisement");

static __always_inline int advertise(struct xdp_md *ctx, const struct frame *frame,
				     const struct node *self, const union address *target)
{
	struct advertisement made = {
		.saddr = *target,
		.daddr = frame->saddr,
		.length = bpf_htonl(ADVERTISEMENT_SIZE),
		.proto = bpf_htonl(IPPROTO_ICMPV6),
		.type = ND_ADVERTISEMENT,
		.flags = bpf_htonl(ND_SOLICITED | ND_OVERRIDE),
		.target = *target,
		.option = ND_TARGET_MAC,
		.option_size = 1,
	};
	struct macs link;
	__be16 length = bpf_htons(ADVERTISEMENT_SIZE);
	__s32 grow = frame->l4 + ADVERTISEMENT_SIZE - frame_size(ctx);

	if (take(ctx, ETH_ALEN, link.dest, ETH_ALEN))
		return -1;
	__builtin_memcpy(link.source, self->uplink_mac, ETH_ALEN);
	__builtin_memcpy(made.mac, self->uplink_mac, ETH_ALEN);
	if (!(frame->saddr.halves[0] | frame->saddr.halves[1])) {
		/* Somebody tries out whether it may have the address (RFC 4862): all are told. */
		made.daddr = (union address){ .octets = { 0xff, 2, [15] = 1 } };
		made.flags = bpf_htonl(ND_OVERRIDE);
		__builtin_memcpy(link.dest, "\x33\x33\0\0\0\1", ETH_ALEN);
	}
	made.check = ~csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&made, sizeof(made), 0));
	if (grow && bpf_xdp_adjust_tail(ctx, grow))
		return -1;
	return put(ctx, frame->l4, &made.type, ADVERTISEMENT_SIZE) ||
	       put(ctx, frame->l3 + 4, &length, sizeof(length)) ||
	       put(ctx, frame->l3 + 8, &made, 2 * sizeof(union address)) ||
	       put(ctx, 0, &link, sizeof(link));
}

/*
 * An ICMPv6 packet; `frame` is good. NOT_SERVED: not for us to answer or to pass.
 */
__noinline int nd_question(struct xdp_md *ctx, const struct frame *frame)
{
	__u32 zero = 0, known;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct nd_solicitation asked;
	union address target;

	if (!frame || !self || frame->ttl != ND_HOPS || frame->l4 != frame->l3 + sizeof(struct ipv6hdr) ||
	    frame->l4 + sizeof(asked) > frame->end ||
	    take(ctx, frame->l4, &asked, sizeof(asked)) ||
	    asked.type != ND_NEIGHBOUR_SOLICITATION || asked.code)
		return NOT_SERVED;
	__builtin_memcpy(&target, &asked.target, sizeof(target));
	known = known_as(&target);
	if (known & ADDRESS_OWNED && !same_address(&frame->saddr, &target)) {
		if (advertise(ctx, frame, self, &target))
			return verdict(ctx, XDP_DROP, XSK_MALFORMED);
		return verdict(ctx, XDP_TX, ANSWER_ND);
	}
	if (known & ADDRESS_LOCAL && !frame->tags)
		return verdict(ctx, XDP_PASS, PASS_ND);
	return NOT_SERVED;
}

#endif
