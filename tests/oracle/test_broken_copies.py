"""Every fault that is put into a copy of the C is found, and soon."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oracle.breaking import Broken, DoesNotApplyError, built
from tests.oracle.campaign import run
from tests.oracle.place import standing
from tests.oracle.tables import Table

pytestmark = pytest.mark.oracle

SEED = 41
"""Of the first world. What one processor cannot see, and so is no fault here: docs/oracle.md."""

FAULTS = (
    Broken(
        "the port is not in a TCP or UDP checksum",
        "include/ct.h",
        "csum_fold(addrs + csum_delta16(flow->vip_port, flow->backend_port) +",
        "csum_fold(addrs +",
    ),
    Broken(
        "a UDP checksum of none becomes one",
        "include/rewrite.h",
        "if (check || l4->is_tcp) {",
        "if (1) {",
    ),
    Broken("the TTL is not decremented", "include/rewrite.h", "ip->ttl--;", "ip->ttl -= 0;"),
    Broken(
        "a FIN is not followed",
        "include/rewrite.h",
        "*flags |= mine;",
        "*flags |= mine & 0;",
    ),
    Broken(
        "a question with its answer is a stream",
        "include/rewrite.h",
        "return state == CT_UDP_ONE_WAY ? CT_UDP_ANSWERED : state;",
        "return state == CT_UDP_ONE_WAY ? CT_UDP : state;",
        ("svc",),
    ),
    Broken(
        "a client that goes on after an answer is not taken for a stream",
        "include/rewrite.h",
        "return state == CT_UDP_ANSWERED ? CT_UDP : state;",
        "return state;",
    ),
    Broken(
        "affinity is ignored when members change",
        "include/flows.h",
        "if (held && (__s32)(o->tick - held->seen) <= (__s32)ticks &&",
        "if (0 && held && (__s32)(o->tick - held->seen) <= (__s32)ticks &&",
        packets=60_000,
    ),
    Broken(
        "source ranges are ignored",
        "include/flows.h",
        "return bpf_map_lookup_elem(&source_ranges, &range);",
        "return 1 || bpf_map_lookup_elem(&source_ranges, &range);",
    ),
    Broken(
        "policy Local is ignored",
        "include/flows.h",
        "return o->handed_over || (flags & (o->inner ? VIP_INNER_LOCAL : VIP_LOCAL));",
        "return o->handed_over;",
    ),
    Broken(
        "a service without endpoints drops where it should refuse",
        "include/flows.h",
        "vip->flags & VIP_REJECT ? OPEN_REFUSE : DROP_NO_BACKEND",
        "DROP_NO_BACKEND",
    ),
    Broken(
        "a backend that reaches itself is not masqueraded",
        "include/flows.h",
        "if (same16(o->client, o->backend.addr))",
        "if (0 && same16(o->client, o->backend.addr))",
        ("svc",),
        packets=60_000,
    ),
    Broken(
        "a packet for another node goes back to where it came from",
        "include/flows.h",
        "wants_dsr(o) ? (o)->backend.mac : (o)->dest_mac",
        "(o)->dest_mac",
    ),
    Broken(
        "a source port is given twice",
        "include/ct_words.h",
        "return NO_WORD + DROP_CONFLICT;",
        "own = NO_WORD;",
    ),
    Broken(
        "a flow lives a tick too long",
        "include/ct.h",
        "return (__s32)(tick - seen) > (__s32)node->timeouts",
        "return (__s32)(tick - seen) > 1 + (__s32)node->timeouts",
    ),
    Broken(
        "the member after the right one is picked",
        "include/pick.h",
        "return member ? member->backend_id : 0;",
        "return member ? member->backend_id + 1 : 0;",
    ),
    Broken(
        "replies of IPv6 keep the backend's address",
        "include/hot.h",
        "copy16(&ip->saddr, flow->vip);",
        "copy16(&ip->saddr, flow->backend);",
        ("svc",),
    ),
    Broken(
        "a packet as long as the path's MTU is too long",
        "include/hot.h",
        "bpf_ntohs(ip->tot_len) > flow->mtu",
        "bpf_ntohs(ip->tot_len) >= flow->mtu",
        packets=60_000,
    ),
    Broken(
        "later fragments are taken for first ones",
        "include/frame.h",
        "frame->fragment = (offset & IPV4_FRAGMENT_OFFSET) * 8;",
        "frame->fragment = 0 * (offset & IPV4_FRAGMENT_OFFSET);",
    ),
    Broken(
        "the checksum inside an ICMP error misses the ports",
        "include/icmp.h",
        "mended = csum_apply(check, csum_fold(addrs + ports));",
        "mended = csum_apply(check, csum_fold(addrs));",
        ("svc",),
    ),
    Broken(
        "the highest octet of SCTP's CRC32c stays",
        "include/sctp.h",
        "check[3] ^= change >> 24;",
        "check[3] ^= 0;",
    ),
    Broken(
        "a reply does not get its client's tags back",
        "include/turn.h",
        "if (retag(ctx, &macs, frame->tags, turn->vlan))",
        "if (retag(ctx, &macs, frame->tags, no_tags))",
        ("svc",),
    ),
    Broken(
        "a RST is answered with a RST",
        "include/answers.h",
        "(frame->proto == IPPROTO_TCP && frame->tcp_flags & TCP_RST)",
        "(frame->proto == IPPROTO_TCP && frame->tcp_flags & 0)",
    ),
    Broken(
        "a flow that works is pushed out of a full table",
        "include/ct.h",
        "return WEAK_STATES >> (state & (CT_STATES - 1)) & 1;",
        "return (WEAK_STATES | BIT(state & (CT_STATES - 1))) != 0;",
        packets=60_000,
        table=Table.CROWDED,
    ),
    Broken(
        "a claim takes flows that work",
        "include/ct_claim.h",
        "return is_weak(flow->state) * ((silent",
        "return (is_weak(flow->state) | 1) * ((silent",
        table=Table.CROWDED,
    ),
    Broken(
        "no claim takes anything that lives",
        "include/ct_claim.h",
        "return is_weak(flow->state) * ((silent",
        "return (is_weak(flow->state) & 0) * ((silent",
        packets=60_000,
        table=Table.CROWDED,
    ),
    Broken(
        "who claims a record clears another's word",
        "include/ct_claim.h",
        "if (likely(*own == word)) {\n\t\t__sync_val_compare_and_swap(own, word, 0);",
        "if (likely(*own)) {\n\t\t*own = 0;",
        packets=60_000,
    ),
    Broken(
        "the flow that a tuple has already is not looked for",
        "include/ct_words.h",
        "|| !CT(may_have)(first, place->tag, records);",
        "|| CT(may_have)(first, place->tag, records);",
    ),
    Broken(
        "a word is believed by four bits of its tag",
        "include/ct_find.h",
        "if ((word & ~records) != place->tag)\n\t\treturn NULL;\n"
        "\tflow = CT(at)(word & records);\n\tif (!flow)\n\t\treturn NULL;\n"
        "\t*life = *(volatile __u32 *)&flow->life;\n\tbarrier();\n"
        "\treturn (*life & 1) && CT(is_of)(flow, tuple) ? flow : NULL;",
        "if ((word ^ place->tag) >> 28)\n\t\treturn NULL;\n"
        "\tflow = CT(at)(word & records);\n\tif (!flow || !tuple)\n\t\treturn NULL;\n"
        "\t*life = *(volatile __u32 *)&flow->life;\n\tbarrier();\n"
        "\treturn (*life & 1) ? flow : NULL;",
    ),
    Broken(
        "a flow in its second bucket is not found",
        "include/ct_add.h",
        "__sync_fetch_and_add(&first->spilled, 1);",
        "__sync_fetch_and_add(&first->spilled, 0);",
        packets=60_000,
        table=Table.CROWDED,
    ),
    Broken(
        "a record that was claimed does not come to life",
        "include/ct_add.h",
        "*(volatile __u32 *)&flow->life = flow->life + 1;",
        "*(volatile __u32 *)&flow->life = flow->life + 0;",
    ),
    Broken(
        "a flow has the life of the one that it pushed out",
        "include/ct_claim.h",
        "(life | 3) + 3) == life",
        "(life | 3) - 1) == life",
        packets=60_000,
        table=Table.CROWDED,
    ),
    Broken(
        "a reply is taken for that of whatever flow has its record",
        "include/ct_find.h",
        "return (life & 1) && CT(is_reply_of)(flow, tuple) &&",
        "return (life & 1) && tuple &&",
        ("uplink", "svc"),
        packets=60_000,
    ),
    Broken(
        "a reply is looked for without the high bits of its port",
        "include/ct_find.h",
        "CT(reply_base)(node, tuple), bpf_ntohs(tuple->dport),",
        "CT(reply_base)(node, tuple), DIRECT_PORT_MIN | (bpf_ntohs(tuple->dport) & STRETCH),",
        ("uplink", "svc"),
        table=Table.LADEN,
    ),
    Broken(
        "a port of the second choice is one of the first",
        "include/flows.h",
        "#define SNAT_PORTS (DIRECT_PORT_MIN - SNAT_PORT_MIN)",
        "#define SNAT_PORTS (65536 - SNAT_PORT_MIN)",
        ("uplink", "svc"),
        table=Table.LADEN,
    ),
    Broken(
        "a port of the second choice is a privileged one",
        "include/flows.h",
        "return bpf_htons(SNAT_PORT_MIN + ((hash >> 16) * SNAT_PORTS >> 16));",
        "return bpf_htons((hash >> 16) * SNAT_PORT_MIN >> 16);",
        table=Table.LADEN,
    ),
    Broken(
        "a privileged port that is free is not kept",
        "include/flows.h",
        "return port && bpf_ntohs(port) < SNAT_PORT_MIN;",
        "return port && bpf_ntohs(port) < 1;",
    ),
    Broken(
        "the client's own port is kept, whatever it is",
        "include/flows.h",
        "return port && bpf_ntohs(port) < SNAT_PORT_MIN;",
        "return port && bpf_ntohs(port) != SNAT_PORT_MIN;",
    ),
    Broken(
        "what lives is taken for what left a word",
        "include/tidy_family.h",
        "if (!life || (life & 3) || flow->wordless",
        "if (!life || (life & 3) == CLAIMED || flow->wordless",
        ("tidy",),
    ),
    Broken(
        "a record that is cleared of its word is not given back",
        "include/tidy_family.h",
        "	CT(release)(id);",
        "",
        ("tidy",),
        packets=60_000,
        table=Table.CROWDED,
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_broken_copy_is_caught(fault: Broken, tmp_path: Path) -> None:
    objects = built(fault, tmp_path)
    with standing(fault.table, objects) as bench:
        tally, failure = run(bench, fault.packets, SEED, fault.table)
    assert failure is not None, f"{fault.name}: not found in {tally.packets:,} packets"
    print(f"{fault.name}: after {tally.packets:,} packets: {failure.wrong[:160]}")


def test_a_build_that_does_not_know_of_tidying_is_right_beside_it(tmp_path: Path) -> None:
    """As a release before it is, while programs are swapped: no fault, so nothing may be found."""
    before = Broken(
        "a build before it",
        "include/ct_claim.h",
        "	if (flow->wordless)\n\t\twork->used = 0;\n",
        "",
        ("uplink", "svc"),
    )
    objects = built(before, tmp_path)
    with standing(Table.CROWDED, objects) as bench:
        tally, failure = run(bench, before.packets, SEED, Table.CROWDED)
    assert failure is None, failure.wrong
    assert tally.packets == before.packets


def test_a_fault_that_does_not_apply_is_named(tmp_path: Path) -> None:
    fault = Broken("of another time", "include/pick.h", "what is not there", "")
    with pytest.raises(DoesNotApplyError, match="of another time"):
        built(fault, tmp_path)
