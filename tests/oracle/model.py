"""The oracle: a frame comes in, and what a node may make of it is known.

`Model.judge` is the whole of it: the frame, the door it came by, and what the program did. It says
what is wrong, or None, and then it has learned what the program was free to choose.
"""

from __future__ import annotations

from functools import partial

from tests.oracle import answers
from tests.oracle.declared import Node
from tests.oracle.flows import Flow, Memory
from tests.oracle.forwarding import Forwarding
from tests.oracle.states import begins_anew
from tests.oracle.verdicts import DROP, PASS, REDIRECT, TX, Seen, plain
from tests.oracle.wire import ARP, ICMP, ICMPV6, LLDP, PORTS, Fault, Frame

ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
"""ICMP types that tell of a packet's fate (no redirects: they are the link's business)."""
ECHO_REQUEST = {4: 8, 6: 128}
FORWARDED = ("VIP_FORWARD", "SVC_FORWARD")
"""What a client's packet is counted by that found its flow there; one that began it has a name of
its own. With other reasons (answered, dropped, handed on) nobody can tell the two."""

SOLICITATION, ADVERTISEMENT = 135, 136


class Model:
    """One node. Its clock is set by `pass_time`; it starts at 0."""

    def __init__(self, node: Node, *, crowded: bool = False, others: int = 0) -> None:
        """`crowded` and `others` are the memory's."""
        self.node = node
        self.memory = Memory(crowded=crowded, others=others)
        self.services = Forwarding(node, self.memory)
        self.last: Frame | None = None
        """The frame that was judged last, as it was read."""
        self.unclear: list[Flow] = []
        """Flows of which what was seen does not tell whether they began anew, or had a packet.

        Whoever drives the model ends them on both sides.
        """

    def pass_time(self, ticks: int) -> None:
        """Let time go by."""
        self.memory.tick += ticks

    def judge(self, door: int, octets: bytes, seen: Seen) -> str | None:
        """What is wrong with what the program made of a frame that came by `door`."""
        frame = self.last = Frame(octets)
        inner = door == self.node.service_link
        if frame.fault is Fault.SHORT:
            return self._short(frame, seen, inner)
        if frame.fault is Fault.FOREIGN:
            return self._foreign(frame, seen, inner)
        if frame.fault is Fault.DARK:
            return self._rest(frame, seen, inner)
        if frame.frag_offset:
            found = self.memory.recall(frame)
            if found is None:
                return self._rest(frame, seen, inner)
            flow, reply = found
            wrong = (
                self.services.reply(frame, seen, flow, door, inner)
                if reply
                else self.services.forward(frame, seen, flow, door, inner)
            )
            if wrong and self.memory.may_be_gone(flow):
                return self._rest(frame, seen, inner) and wrong
            return wrong
        if frame.proto in PORTS:
            return self._ports(frame, seen, door, inner)
        if frame.proto == (ICMP if frame.version == 4 else ICMPV6):
            return self._icmp(frame, seen, door, inner)
        return self._rest(frame, seen, inner)

    # -- transport ----------------------------------------------------------------------------

    def _ports(self, frame: Frame, seen: Seen, door: int, inner: bool) -> str | None:
        node, memory = self.node, self.memory
        key = (frame.src, frame.sport, frame.dst, frame.dport, frame.proto)
        ours = frame.dst == node.service_address(frame.version) and node.ready(frame.version)
        wrong: str | None = None
        if inner or ours:
            hidden = memory.find_hidden(key, partial(node.stand_in, frame.version))
            if flow := memory.find_reply(key):
                doubtful = memory.may_be_gone(flow)
                wrong = self.services.reply(frame, seen, flow, door, inner)
                if wrong is None and doubtful and seen.action == DROP:
                    self.unclear += [flow, *hidden]  # what is dropped does not say whose it was
                if wrong is None or not doubtful:
                    return wrong
            # Of flows that may all be meant, the one whose client has this port.
            for flow in sorted(hidden, key=lambda flow: flow.ends[1] != frame.dport):
                if self.services.reply(frame, seen, flow, door, inner) is None:
                    if seen.action == DROP and len(hidden) > 1:
                        self.unclear += hidden
                    return None
            if ours:
                rest = self._rest(frame, seen, inner)
                return rest and (wrong or rest)
        flow = memory.find(key)
        if flow is not None and not begins_anew(frame.proto, frame.flags, flow.state):
            doubtful = memory.may_be_gone(flow)
            wrong = self.services.forward(frame, seen, flow, door, inner)
            if wrong is None and doubtful and seen.reason not in FORWARDED:
                self.unclear.append(flow)
                memory.added += 1  # if it began anew, it may have pushed out another
            if wrong is None or not doubtful:
                return wrong
        service = node.by_key.get((frame.dst, frame.dport, frame.proto))
        if service is None:
            rest = self._rest(frame, seen, inner)
            return rest and (wrong or rest)
        fresh = self.services.opens(frame, seen, door, service, inner)
        return fresh and (wrong or fresh)

    # -- ICMP ---------------------------------------------------------------------------------

    def _icmp(self, frame: Frame, seen: Seen, door: int, inner: bool) -> str | None:
        if frame.l4 + 8 > frame.end:
            return self._rest(frame, seen, inner)
        kind = frame.octets[frame.l4]
        if kind in ERRORS[frame.version] and not frame.is_fragment:
            wrong: str | None = None
            for about in self.services.error_about(frame):
                wrong = self.services.error(frame, seen, about, door, inner)
                if wrong is None or (about[1].bound and not self.memory.may_be_gone(about[1])):
                    return wrong
            rest = self._rest(frame, seen, inner)
            return rest and (wrong or rest)
        if kind == ECHO_REQUEST[frame.version]:
            answerable = self.services.says.is_answerable(frame) and not frame.is_fragment
            if self.node.of(frame.dst).owned and answerable:
                if (seen.action, seen.reason) != (TX, "ANSWER_ECHO"):
                    return f"{seen}, not {TX} ANSWER_ECHO"
                near = self.node.service_mac if inner else None
                return answers.echo(frame, seen.octets, near)
        return self._rest(frame, seen, inner)

    # -- what is of no flow and no service ----------------------------------------------------

    def _short(self, frame: Frame, seen: Seen, inner: bool) -> str | None:
        if inner:
            wrong = plain(seen, frame.octets, DROP, "DROP_SVC_MALFORMED")
            # Cut short among tags that nobody can keep: both are true.
            return wrong and (self._out(frame, seen) if frame.tags and not frame.version else wrong)
        if seen.action == DROP:
            if frame.dst not in self.node.vip_addresses:
                return f"{seen}, but it is no VIP's"
            return plain(seen, frame.octets, DROP, "DROP_VIP_MALFORMED")
        reasons = ("XSK_VLAN", "XSK_MALFORMED") if frame.tags else ("XSK_MALFORMED",)
        return plain(seen, frame.octets, PASS, *reasons)

    def _foreign(self, frame: Frame, seen: Seen, inner: bool) -> str | None:
        if inner:
            if frame.ethertype == ARP:
                return plain(seen, frame.octets, PASS, "SVC_PASS_ARP")
            return self._out(frame, seen)
        if frame.ethertype == ARP:
            return self._arp(frame, seen)
        if frame.tags:
            return plain(seen, frame.octets, PASS, "XSK_VLAN")
        if frame.ethertype == LLDP:
            return plain(seen, frame.octets, PASS, "PASS_LLDP")
        return plain(seen, frame.octets, PASS, "XSK_OTHER")

    def _arp(self, frame: Frame, seen: Seen) -> str | None:
        question = answers.is_arp_question(frame)
        if question and self.node.of(question).owned:
            if (seen.action, seen.reason) != (TX, "ANSWER_ARP"):
                return f"{seen}, not {TX} ANSWER_ARP"
            return answers.arp(frame, seen.octets, self.node.uplink_mac)
        target = answers.arp_target(frame)
        if target and self.node.of(target).local and not frame.tags:
            return plain(seen, frame.octets, PASS, "PASS_ARP")
        return plain(seen, frame.octets, PASS, "XSK_ARP")

    def _rest(self, frame: Frame, seen: Seen, inner: bool) -> str | None:
        ours = frame.dst == self.node.service_address(frame.version)
        if not ours or self.node.ready(frame.version):
            return self._unserved(frame, seen, inner, ours)
        # An address that is about to be ours: as ours, or as nobody's.
        as_ours = self._unserved(frame, seen, inner, ours=True)
        return as_ours and self._unserved(frame, seen, inner, ours=False)

    def _unserved(self, frame: Frame, seen: Seen, inner: bool, ours: bool) -> str | None:
        known = self.node.of(frame.dst)
        only_vip = known.vip and not known.local
        if frame.fault is Fault.DARK and (only_vip or (inner and ours)):
            return plain(seen, frame.octets, DROP, "DROP_EXTENSION")
        if frame.fault is Fault.NONE:
            if frame.frag_offset and (only_vip or ours):
                return plain(seen, frame.octets, DROP, "DROP_FRAGMENT_MISS")
            if frame.proto == ICMPV6 and not frame.frag_offset:
                found, wrong = self._neighbours(frame, seen, inner)
                if found:
                    return wrong
            if frame.proto in PORTS and not frame.frag_offset and only_vip:
                return self.services.says.refuse(frame, seen, inner, "DROP_VIP_PORT")
        if not inner:
            return self._whose(frame, seen)
        if ours and frame.fault is Fault.NONE:
            if frame.proto == (ICMP if frame.version == 4 else ICMPV6):
                return plain(seen, frame.octets, PASS, "SVC_PASS_ICMP")
            return plain(seen, frame.octets, DROP, "DROP_SVC_NO_FLOW")
        return self._out(frame, seen)

    def _neighbours(self, frame: Frame, seen: Seen, inner: bool) -> tuple[bool, str | None]:
        """Neighbour discovery: whether it is that, and what is wrong."""
        if inner:
            kinds = (SOLICITATION, ADVERTISEMENT)
            at = frame.l4
            if frame.ttl == 255 and at < frame.end and frame.octets[at] in kinds:
                return True, plain(seen, frame.octets, PASS, "SVC_PASS_ND")
            return False, None
        target = answers.solicited(frame)
        known = self.node.of(target)
        if target and known.owned and frame.src != target:
            if not answers.has_right_sum(frame) and seen.reason != "ANSWER_ND":
                return False, None
            if (seen.action, seen.reason) != (TX, "ANSWER_ND"):
                return True, f"{seen}, not {TX} ANSWER_ND"
            return True, answers.advertisement(frame, seen.octets, self.node.uplink_mac)
        if target and known.local and not frame.tags:
            return True, plain(seen, frame.octets, PASS, "PASS_ND")
        return False, None

    def _whose(self, frame: Frame, seen: Seen) -> str | None:
        """At an uplink: this node's kernel's, or OVS's."""
        if frame.tags:
            return plain(seen, frame.octets, PASS, "XSK_VLAN")
        door = "PASS" if self.node.of(frame.dst).local else "XSK"
        return plain(seen, frame.octets, PASS, f"{door}_IPV{frame.version}")

    def _out(self, frame: Frame, seen: Seen) -> str | None:
        """At svc0: out by the first uplink, unchanged."""
        if frame.group:
            return plain(seen, frame.octets, DROP, "DROP_SVC_MULTICAST")
        if not (self.node.ready4 or self.node.ready6):
            return plain(seen, frame.octets, DROP, "DROP_NO_GATEWAY")
        if self.node.uplinks[0] not in self.node.leaving:
            return plain(seen, frame.octets, DROP, "DROP_NO_TX_PORT")
        return plain(seen, frame.octets, REDIRECT, "SVC_UPLINK")
