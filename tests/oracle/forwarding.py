"""What becomes of packets of services and of replies, and of ICMP errors about either.

From the texts of Kubernetes: which set a new flow chooses from, who is refused and who is dropped
without a word (kube-proxy: no endpoint anywhere is refused; policy Local without one is silent),
whose source is kept. From the RFCs: TTL, MTU, fragments, errors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.oracle import states
from tests.oracle.declared import Backend, Node, Place, Service
from tests.oracle.expected import carried, error_turned, link
from tests.oracle.flows import Flow, Memory, StandIn, Tuple, Way, way_of
from tests.oracle.ports import may_be_refused, wrong_port
from tests.oracle.saying import Saying
from tests.oracle.verdicts import DROP, PASS, REDIRECT, TX, Seen, exactly, plain
from tests.oracle.wire import SCTP, Frame, Inside

ELSEWHERE = "not towards this backend"
"""Said of each candidate that it is not; put into words once, if no other one is meant."""


class Forwarding:
    """A node's packets of services. Every method returns what is wrong, or None and learns."""

    def __init__(self, node: Node, memory: Memory) -> None:
        self.node, self.memory = node, memory
        self.says = Saying(node, memory)

    # -- towards a backend --------------------------------------------------------------------

    def forward(
        self, frame: Frame, seen: Seen, flow: Flow, door: int, inner: bool, *, fresh: bool = False
    ) -> str | None:
        """A client's packet of this flow, its first one or another."""
        wrong: list[str] = []
        said: list[object] = []
        for backend in flow.candidates:
            direct = flow.is_direct(backend)
            if frame.proto == SCTP and frame.is_fragment and not direct:
                kind: object = "fragment"
            elif frame.ttl <= 1:
                kind = "ttl"
            elif backend.mtu and frame.total > backend.mtu and not direct:
                kind = backend.mtu
            else:
                kind = (backend,)
            if kind in said:
                continue
            said.append(kind)
            found = self._forwarded(frame, seen, flow, (door, inner), backend, kind, fresh=fresh)
            if found is None:
                return None
            wrong.append(found)
        known = [found for found in wrong if found is not ELSEWHERE]
        if known:
            return min(known, key=len)
        return f"{seen}, not towards any of {', '.join(map(str, flow.candidates))}"

    def _forwarded(
        self,
        frame: Frame,
        seen: Seen,
        flow: Flow,
        came: tuple[int, bool],
        backend: Backend,
        kind: object,
        *,
        fresh: bool,
    ) -> str | None:
        door, inner = came
        if kind == "fragment":
            return plain(
                seen, frame.octets, DROP, "DROP_SVC_FRAGMENT" if inner else "DROP_VIP_FRAGMENT"
            )
        if kind == "ttl":
            return self.says.too_old(frame, seen, inner)
        if isinstance(kind, int):
            wrong = self.says.too_big(frame, seen, inner, kind)
            if wrong is None:
                # An answer names the MTU; silence says only that there is one that is too small.
                told = seen.reason == "ANSWER_TOO_BIG"
                flow.candidates = tuple(
                    b
                    for b in flow.candidates
                    if (b.mtu == kind if told else 0 < b.mtu < frame.total)
                    and not flow.is_direct(b)
                )
            return wrong
        if flow.is_direct(backend):
            head = backend.mac + self.node.uplink_mac
            # A later fragment is counted by the door that it came by, whatever becomes of it.
            reason = f"{'SVC' if inner else 'VIP'}_FRAGMENT" if frame.frag_offset else "VIP_DIRECT"
            wrong = exactly(seen, [head + frame.octets[12:]], TX, reason)
            if wrong is None:
                # Which backend of that node it is, only the node will know.
                there = (b for b in flow.candidates if flow.is_direct(b) and b.mac == backend.mac)
                flow.candidates, flow.source_port = tuple(there), flow.ends[1]
                self._learn(frame, flow, None, reply=False)
            return wrong
        at = 14 + (16 if frame.version == 4 else 24)
        if not flow.bound and seen.octets[at : at + len(backend.addr)] != backend.addr:
            return ELSEWHERE
        side = "SVC" if inner else "VIP"
        reason = f"{side}_{'FRAGMENT' if frame.frag_offset else 'NEW' if fresh else 'FORWARD'}"
        port = flow.source_port
        if port is None:
            port = self._port_of(frame, seen, flow, backend)
        source = self.node.stand_in(frame.version, backend)
        if not flow.wants_nat(backend):
            source = flow.ends[0]
        head, action = self._towards(frame, flow, backend, inner)
        forms = carried(frame, head, (source, port), (backend.addr, backend.port))
        wrong = exactly(seen, forms, action, reason)
        if wrong is None and flow.source_port is None:
            address = self._stand_in(frame.version)
            wrong = wrong_port(self.memory, flow, backend, port, address, fresh=fresh)
        return wrong or self._went(frame, flow, door, backend, port)

    def _towards(
        self, frame: Frame, flow: Flow, backend: Backend, inner: bool
    ) -> tuple[bytes, str]:
        """The link header and the action of a packet on its way to a backend."""
        if backend.place is Place.HOST:
            # The kernel takes what is sent to its device; what was handed over is not.
            near = self.node.uplink_mac if flow.handed else frame.dst_mac
            return link(frame, near, frame.src_mac, ()), PASS
        source = self.node.service_mac if inner else frame.src_mac
        return link(frame, self.node.gateway_mac, source, ()), TX if inner else PASS

    def _stand_in(self, version: int) -> StandIn:
        return partial(self.node.stand_in, version)

    @staticmethod
    def _port_of(frame: Frame, seen: Seen, flow: Flow, backend: Backend) -> int:
        """The source port that a flow was given: the client's, or what the backend will see."""
        if not flow.wants_nat(backend):
            return flow.ends[1]
        at = 14 + frame.l4 - frame.l3
        return int.from_bytes(seen.octets[at : at + 2], "big")

    def _went(self, frame: Frame, flow: Flow, door: int, backend: Backend, port: int) -> str | None:
        """A packet of the flow went to `backend`: the flow is bound, and further."""
        if not flow.bound:
            address = self._stand_in(frame.version)
            if wrong := self.memory.bind(flow, backend, port, address):
                return wrong
            self.memory.narrow(flow, backend)
        way = None if door == self.node.service_link else way_of(frame, door)
        self._learn(frame, flow, way, reply=False)
        return None

    def _learn(self, frame: Frame, flow: Flow, way: Way | None, *, reply: bool) -> None:
        if flow.is_direct(flow.candidates[0]):
            way = None
        self.memory.touch(flow, way, surely=not frame.frag_offset)
        self.memory.remember(frame, flow, reply=reply)
        if not frame.frag_offset:
            one_way = flow.is_direct(flow.candidates[0])
            flow.state, flow.closed = states.after(
                flow.ends[4], flow.state, flow.closed, frame.flags, reply=reply, one_way=one_way
            )

    # -- a first packet -----------------------------------------------------------------------

    def opens(
        self, frame: Frame, seen: Seen, door: int, service: Service, inner: bool
    ) -> str | None:
        """A packet to a service, of no flow."""
        memory, node, octets = self.memory, self.node, frame.octets
        key: Tuple = (frame.src, frame.sport, frame.dst, frame.dport, frame.proto)
        if not node.ready(frame.version):
            return self._closed(plain(seen, octets, DROP, "DROP_NO_GATEWAY"), key)
        if not inner and not service.admits(frame.src):
            return self._closed(plain(seen, octets, DROP, "DROP_SOURCE_RANGE"), key)
        handed = not inner and service.dsr and frame.dst_mac == node.gateway_mac
        local = handed or (service.inner_local if inner else service.local)
        members = service.here if local else service.members
        if not members:
            wrong = self._nobody(frame, seen, service, inner, local=local, handed=handed)
            return self._closed(wrong, key)
        usable = [member.backend for member in members]
        kept = memory.kept(service, frame.src, usable)
        if kept is not None and set(kept.candidates) <= set(usable):
            candidates, choice = kept.candidates, kept.choice
        else:
            memory.made_choices += 1
            candidates, choice = tuple(usable), memory.made_choices
        flow = Flow(
            ends=key, service=service, inner=inner, handed=handed, candidates=candidates,
            ways=(way_of(frame, door),), state=states.first(frame.proto, frame.flags),
            seen=memory.tick, choice=choice, ours=frame.src in node.our_addresses(frame.version),
        )  # fmt: skip
        if seen.reason in ("DROP_CONFLICT", "DROP_NO_PORT", "DROP_CT_FULL"):
            wrong = plain(seen, octets, DROP, seen.reason) or may_be_refused(
                seen.reason, memory, flow, self._stand_in(frame.version)
            )
            if wrong is None:
                memory.end(key)
                memory.added += 1  # what it asked for it may have taken from another
                memory.keep(flow)
            return wrong
        before = memory.flows.get(key)
        was_ended = before.ended if before else False
        if before:
            before.ended = True  # its own port is free again for the new one
        wrong = self.forward(frame, seen, flow, door, inner, fresh=True)
        if wrong is None and flow.bound and kept is None:
            what: tuple[object, ...] = key
            if service.affinity is not None:
                what = (service.name, frame.src)
            wrong = memory.chosen(what, frozenset(members), flow.candidates[0])
        if wrong is not None:
            if before:
                before.ended = was_ended
            return wrong
        memory.add(flow)
        memory.keep(flow)
        return None

    def _closed(self, wrong: str | None, key: Tuple) -> str | None:
        """Refused: what flow there was on this tuple is over."""
        if wrong is None:
            self.memory.end(key)
        return wrong

    def _nobody(
        self, frame: Frame, seen: Seen, service: Service, inner: bool, *, local: bool, handed: bool
    ) -> str | None:
        if service.reject and not service.members and not handed:
            return self.says.refuse(frame, seen, inner, "DROP_NO_BACKEND")
        reason = "DROP_NO_LOCAL" if local else "DROP_NO_BACKEND"
        return plain(seen, frame.octets, DROP, reason)

    # -- back to a client ---------------------------------------------------------------------

    def _home(
        self, flow: Flow, frame: Frame, door: int, inner: bool, way: Way
    ) -> tuple[bytes, str]:
        """The link header and the action of a packet on its way to the flow's client."""
        node = self.node
        if flow.inner:
            source = node.service_mac if inner else frame.src_mac
            return link(frame, node.gateway_mac, source, ()), TX if inner else PASS
        macs = (way.client_mac, way.vip_mac)
        if flow.handed:
            # The way came by another node; OVN, which routes the reply, knows a straight one.
            macs = (frame.dst_mac, frame.src_mac)
        head = link(frame, *macs, way.tcis)
        if way.door == door:
            return head, TX
        return head, REDIRECT if way.door in node.leaving else DROP

    def _sent_home(
        self,
        frame: Frame,
        seen: Seen,
        flow: Flow,
        door: int,
        inner: bool,
        made: Callable[[bytes], tuple[bytes, ...]],
        reason: str,
    ) -> str | None:
        """Whether what is `made` with a link header went one of the ways to the client."""
        wrong: str | None = None
        for way in flow.ways:
            head, action = self._home(flow, frame, door, inner, way)
            if action != DROP:
                wrong = exactly(seen, made(head), action, reason)
            elif (seen.action, seen.reason) == (DROP, "DROP_NO_TX_PORT"):
                wrong = None
            else:
                wrong = f"{seen}, but the client's uplink is not one to leave by"
            if wrong is None:
                flow.ways = (way,)
                return None
        return wrong

    def reply(self, frame: Frame, seen: Seen, flow: Flow, door: int, inner: bool) -> str | None:
        """A backend's packet of this flow."""
        if frame.proto == SCTP and frame.is_fragment:
            reason = "DROP_SVC_FRAGMENT" if inner else "DROP_VIP_FRAGMENT"
            return plain(seen, frame.octets, DROP, reason)
        if frame.ttl <= 1:
            return self.says.too_old(frame, seen, inner)
        client, port, vip, vip_port, _ = flow.ends
        reason = "SVC_REPLY" if inner else "UPLINK_REPLY"
        if frame.frag_offset:
            reason = "SVC_FRAGMENT" if inner else "VIP_FRAGMENT"

        def made(head: bytes) -> tuple[bytes, ...]:
            return carried(frame, head, (vip, vip_port), (client, port))

        if wrong := self._sent_home(frame, seen, flow, door, inner, made, reason):
            return wrong
        if not flow.bound:
            backend = next(
                b for b in flow.candidates if (b.addr, b.port) == (frame.src, frame.sport)
            )
            address = self._stand_in(frame.version)
            if wrong := self.memory.bind(flow, backend, frame.dport, address):
                return wrong
            self.memory.narrow(flow, backend)
        self._learn(frame, flow, None, reply=True)
        return None

    # -- errors -------------------------------------------------------------------------------

    def error_about(self, frame: Frame) -> list[tuple[Inside, Flow, bool]]:
        """The flow that an ICMP error is about, and whether it is about a client's packet.

        It is believed only if it goes to where the packet inside came from. More than one: flows
        whose ports were not seen yet, or that may have been pushed out, the likeliest first.
        """
        inside = Inside(frame, frame.l4 + 8)
        if not inside.src or inside.src != frame.dst:
            return []
        back: Tuple = (inside.dst, inside.dport, inside.src, inside.sport, inside.proto)
        found: list[tuple[Inside, Flow, bool]] = []
        for flow, to_client in (
            (self.memory.find(back), False),
            (self.memory.find_reply(back), True),
        ):
            if flow is not None:
                found.append((inside, flow, to_client))
                if not self.memory.may_be_gone(flow):
                    return found
        hidden = self.memory.find_hidden(back, self._stand_in(frame.version))
        return [*found, *((inside, flow, True) for flow in hidden)]

    def error(
        self, frame: Frame, seen: Seen, about: tuple[Inside, Flow, bool], door: int, inner: bool
    ) -> str | None:
        """An ICMP error about a flow: what is inside is what its receiver sent."""
        inside, flow, to_client = about
        if frame.ttl <= 1:
            return plain(seen, frame.octets, DROP, "DROP_VIP_TTL")
        reason = "SVC_ICMP_ERROR" if inner else "UPLINK_ICMP_ERROR"
        wrong: str | None = "no candidate"
        for backend in flow.candidates:
            if flow.is_direct(backend):
                head = backend.mac + self.node.uplink_mac
                wrong = exactly(seen, [head + frame.octets[12:]], TX, reason)
            else:
                wrong = self._error_turned(
                    frame, seen, inside, flow, backend, to_client, (door, inner, reason)
                )
            if wrong is None:
                return None
        return wrong

    def _error_turned(
        self,
        frame: Frame,
        seen: Seen,
        inside: Inside,
        flow: Flow,
        backend: Backend,
        to_client: bool,
        way: tuple[int, bool, str],
    ) -> str | None:
        door, inner, reason = way
        client, port, vip, vip_port, _ = flow.ends
        if to_client:
            # A backend's own word is its VIP's; a router on the way has a name of its own.
            source = vip if frame.src == inside.dst else frame.src
            inner_ends = ((client, port), (vip, vip_port))

            def made(head: bytes) -> tuple[bytes, ...]:
                return error_turned(frame, inside, head, source, client, inner_ends)

            return self._sent_home(frame, seen, flow, door, inner, made, reason)
        our = self.node.stand_in(frame.version, backend) if flow.wants_nat(backend) else client
        our_port = flow.source_port
        if our_port is None:
            at = 14 + inside.l4 - frame.l3
            our_port = int.from_bytes(seen.octets[at + 2 : at + 4], "big")
        head, action = self._towards(frame, flow, backend, inner)
        ends = ((backend.addr, backend.port), (our, our_port))
        forms = error_turned(frame, inside, head, frame.src, backend.addr, ends)
        return exactly(seen, forms, action, reason)
