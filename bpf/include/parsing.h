/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: reading headers. Each function checks bounds and consistency, moves the cursor
 * and returns the header, or NULL. None of them knows a verdict: what a bad header means is the
 * caller's to say. Every pointer dies with the next change of the packet's size.
 */
#ifndef MILLRACE_PARSING_H
#define MILLRACE_PARSING_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifndef likely
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif

#define ETH_P_LLDP 0x88CC
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_FRAGMENT_OFFSET 0x1FFF
#define ND_NEIGHBOUR_SOLICITATION 135

/* The flag octet of a TCP header (RFC 9293 section 3.1), at offset 13. */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct cursor {
	void *pos;
	void *end;
};

/* ARP for IPv4 over Ethernet (RFC 826). */
struct arp_ipv4 {
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_size;
	__u8 protocol_size;
	__be16 operation;
	__u8 sender_mac[6];
	__be32 sender_addr;
	__u8 target_mac[6];
	__be32 target_addr;
} __attribute__((packed));

struct nd_solicitation {
	__u8 type;
	__u8 code;
	__be16 check;
	__be32 reserved;
	struct in6_addr target;
};

struct ports {
	__be16 source;
	__be16 dest;
};

static __always_inline struct ethhdr *parse_eth(struct cursor *cursor)
{
	struct ethhdr *eth = cursor->pos;

	if ((void *)(eth + 1) > cursor->end)
		return NULL;
	cursor->pos = eth + 1;
	return eth;
}

static __always_inline struct arp_ipv4 *parse_arp(struct cursor *cursor)
{
	struct arp_ipv4 *arp = cursor->pos;

	if ((void *)(arp + 1) > cursor->end)
		return NULL;
	if (arp->protocol_type != bpf_htons(ETH_P_IP) || arp->hardware_size != 6 ||
	    arp->protocol_size != 4)
		return NULL;
	return arp;
}

/* The cursor ends behind the options; the header's length fields agree with the frame. */
static __always_inline struct iphdr *parse_ipv4(struct cursor *cursor)
{
	struct iphdr *ip = cursor->pos;
	__u32 header_size;

	if ((void *)(ip + 1) > cursor->end)
		return NULL;
	header_size = ip->ihl * 4;
	if (ip->version != 4 || header_size < sizeof(*ip))
		return NULL;
	cursor->pos = (void *)ip + header_size;
	if (cursor->pos > cursor->end)
		return NULL;
	return ip;
}

static __always_inline struct ipv6hdr *parse_ipv6(struct cursor *cursor)
{
	struct ipv6hdr *ip = cursor->pos;

	if ((void *)(ip + 1) > cursor->end || ip->version != 6)
		return NULL;
	cursor->pos = ip + 1;
	return ip;
}

/* The payload's length. Kernel 6.1 does not see that a number with swapped octets has bounds. */
static __always_inline __u32 payload_size(const struct ipv6hdr *ip)
{
	__u32 size = bpf_ntohs(ip->payload_len);

	barrier_var(size);
	return size & 0xffff;
}

static __always_inline struct nd_solicitation *parse_solicitation(struct cursor *cursor)
{
	struct nd_solicitation *solicitation = cursor->pos;

	if ((void *)(solicitation + 1) > cursor->end)
		return NULL;
	if (solicitation->type != ND_NEIGHBOUR_SOLICITATION)
		return NULL;
	return solicitation;
}

/* The first four octets of a TCP or UDP header; the cursor stays. */
static __always_inline struct ports *peek_ports(struct cursor *cursor)
{
	struct ports *ports = cursor->pos;

	if ((void *)(ports + 1) > cursor->end)
		return NULL;
	return ports;
}

static __always_inline bool is_fragment(const struct iphdr *ip)
{
	return ip->frag_off & bpf_htons(IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET);
}

static __always_inline bool has_ports(const struct iphdr *ip)
{
	return (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) &&
	       !(ip->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET));
}

/* A TCP or UDP header, read once: what the two have in common, and where they keep it. */
struct l4 {
	struct ports *ports;
	__u16 *check;
	__u32 is_tcp;
	__u32 tcp_flags;	/* 0 for UDP */
};

/*
 * The header at the cursor is whole, and lengths agree: frame >= IP packet >= headers; `room` is
 * what the IP header says is there [octets]. A frame may be longer than its packet (Ethernet pads
 * to 60 octets).
 */
static __always_inline bool parse_l4(const struct cursor *cursor, __u8 proto, __u32 room,
				     struct l4 *l4)
{
	if (cursor->pos + room > cursor->end)
		return false;
	if (proto == IPPROTO_TCP) {
		struct tcphdr *tcp = cursor->pos;

		if ((void *)(tcp + 1) > cursor->end)
			return false;
		l4->ports = (struct ports *)tcp;
		l4->check = &tcp->check;
		l4->is_tcp = 1;
		l4->tcp_flags = ((__u8 *)tcp)[13];
		return tcp->doff >= 5 && tcp->doff * 4 <= room;
	}
	struct udphdr *udp = cursor->pos;

	if ((void *)(udp + 1) > cursor->end)
		return false;
	l4->ports = (struct ports *)udp;
	l4->check = &udp->check;
	l4->is_tcp = 0;
	l4->tcp_flags = 0;
	return bpf_ntohs(udp->len) >= sizeof(*udp) && bpf_ntohs(udp->len) <= room;
}

#endif
