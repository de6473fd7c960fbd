/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: what a translation changes in a packet that has been checked: addresses, ports,
 * MACs, TTL, checksums; and how TCP's flags, and UDP's packets, move a flow's state.
 */
#ifndef MILLRACE_REWRITE_H
#define MILLRACE_REWRITE_H

#include "abi.h"
#include "ct.h"
#include "octets.h"
#include "parsing.h"

/*
 * The transport checksum after a change. A UDP checksum of 0 means none, and stays; a result of 0
 * is written as 0xffff, its equal (RFC 768), also for TCP, which does not mind.
 */
static __always_inline void mend_l4(const struct l4 *l4, __u16 delta)
{
	__u16 check = *l4->check;

	if (check || l4->is_tcp) {
		check = csum_apply(check, delta);
		*l4->check = check ? check : 0xffff;
	}
}

/* The IPv4 checksum after a change, and a TTL less by one: its octet is the high one of a word. */
static __always_inline void mend_ip(struct iphdr *ip, __u16 delta)
{
	__u32 sum = (~ip->check & 0xffff) + delta + (__u16)~bpf_htons(0x0100);

	ip->check = ~csum_fold(sum);
	ip->ttl--;
}

/* What the complement of a sum adds: the way back. */
static __always_inline __u16 undone(__u16 delta)
{
	return ~delta;
}

/* The state after a TCP packet with something to say, of the client or (`reply`) the backend. */
static __always_inline __u8 tcp_next(__u8 state, __u8 *flags, __u32 tcp, bool reply)
{
	__u8 mine = reply ? FLOW_BACKEND_FIN : FLOW_CLIENT_FIN;

	if (tcp & TCP_RST)
		return CT_RESET;
	if (tcp & TCP_SYN)
		return reply && state == CT_SYN ? CT_SYN_ACK : state;
	if (tcp & TCP_FIN) {
		*flags |= mine;
		return (*flags & (FLOW_CLIENT_FIN | FLOW_BACKEND_FIN)) ==
				       (FLOW_CLIENT_FIN | FLOW_BACKEND_FIN) ?
			       CT_TIME_WAIT : CT_FIN;
	}
	if (state == CT_RESET)	/* the RST was not taken: the flow goes on */
		return CT_MIDDLE;
	if (reply)
		return state == CT_MIDDLE ? CT_ESTABLISHED : state;
	if (state == CT_SYN_ACK || (*flags & FLOW_DSR))
		return state == CT_FIN || state == CT_TIME_WAIT ? state : CT_ESTABLISHED;
	return state;
}

/*
 * The state after a UDP packet of the client or (`reply`) the backend. Question and answer, as of DNS,
 * are no stream: they leave a flow as weak as a question, and only a client that goes on makes it one.
 */
static __always_inline __u8 udp_next(__u8 state, bool reply)
{
	if (reply)
		return state == CT_UDP_ONE_WAY ? CT_UDP_ANSWERED : state;
	return state == CT_UDP_ANSWERED ? CT_UDP : state;
}

_Static_assert(offsetof(struct flow4, vip_mac) == offsetof(struct flow4, client_mac) + ETH_ALEN, "");
_Static_assert(offsetof(struct flow6, vip_mac) == offsetof(struct flow6, client_mac) + ETH_ALEN, "");

/* A SYN that begins another connection on the tuple of one that is over; not one with RST. */
static __always_inline bool begins_anew(__u8 state, __u32 tcp)
{
	return (tcp & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN &&
	       (BIT(state & 15) & (BIT(CT_FIN) | BIT(CT_TIME_WAIT) | BIT(CT_RESET)));
}

#endif
