"""What a node says itself to whoever sent a packet: refusals, and errors about it.

Who is answered, and who never is, by the RFCs; and no more than there are tokens for, lest a flood
be doubled.
"""

from __future__ import annotations

from tests.oracle import answers
from tests.oracle.declared import Node
from tests.oracle.flows import Memory
from tests.oracle.verdicts import DROP, TX, Seen, plain
from tests.oracle.wire import RST, TCP, Frame

BURST = 256
"""Answers at once, of the uplinks and of svc0 each; one more each tick."""


class Saying:
    """Every method returns what is wrong with an answer, or with none; None: nothing."""

    def __init__(self, node: Node, memory: Memory) -> None:
        self._node, self._memory = node, memory
        self._tokens = {False: BURST, True: BURST}
        self._counted = {False: 0, True: 0}

    def _near(self, inner: bool) -> bytes | None:
        """The MAC that answers come from at svc0; at an uplink it is the one that was asked."""
        return self._node.service_mac if inner else None

    def _may_answer(self, inner: bool) -> bool:
        now = self._memory.tick
        self._tokens[inner] = min(BURST, self._tokens[inner] + now - self._counted[inner])
        self._counted[inner] = now
        return self._tokens[inner] > 0

    @staticmethod
    def is_answerable(frame: Frame) -> bool:
        """RFC 1122 3.2.2, RFC 4443 2.4 e: never to groups, nobodies or later fragments."""
        hosts = answers.is_host(frame.src) and answers.is_host(frame.dst)
        return hosts and not frame.group and not frame.frag_offset

    def _answered(
        self,
        seen: Seen,
        frame: Frame,
        reason: str,
        wrong: str | None,
        unsaid: str,
        *,
        may: bool,
        inner: bool,
    ) -> str | None:
        if not may:
            return plain(seen, frame.octets, DROP, unsaid)
        if not self._may_answer(inner):
            return plain(seen, frame.octets, DROP, "DROP_ANSWER_LIMIT")
        if (seen.action, seen.reason) != (TX, reason):
            return f"{seen}, not {TX} {reason}"
        if wrong is None:
            self._tokens[inner] -= 1
        return wrong

    def refuse(self, frame: Frame, seen: Seen, inner: bool, unsaid: str) -> str | None:
        """Nobody is there: RST, or port unreachable."""
        may = self.is_answerable(frame) and not frame.is_fragment
        may = may and not (frame.proto == TCP and frame.flags & RST)
        near, wrong = self._near(inner), None
        if frame.proto == TCP:
            if seen.reason == "ANSWER_RST":
                wrong = answers.reset(frame, seen.octets, near)
            return self._answered(seen, frame, "ANSWER_RST", wrong, unsaid, may=may, inner=inner)
        if seen.reason == "ANSWER_UNREACHABLE":
            kind = (3, 3) if frame.version == 4 else (1, 4)
            wrong = answers.error(frame, seen.octets, near, frame.dst, kind)
        return self._answered(
            seen, frame, "ANSWER_UNREACHABLE", wrong, unsaid, may=may, inner=inner
        )

    def _source(self, frame: Frame) -> bytes:
        """What speaks for us about this packet: the VIP, or else our own address."""
        known = self._node.of(frame.dst)
        if known.vip or known.owned or known.local:
            return frame.dst
        return self._node.service_address(frame.version)

    def too_old(self, frame: Frame, seen: Seen, inner: bool) -> str | None:
        wrong = None
        if seen.reason == "ANSWER_TTL":
            kind = (11, 0) if frame.version == 4 else (3, 0)
            source = self._source(frame)
            wrong = answers.error(frame, seen.octets, self._near(inner), source, kind)
        may = self.is_answerable(frame)
        return self._answered(
            seen, frame, "ANSWER_TTL", wrong, "DROP_VIP_TTL", may=may, inner=inner
        )

    def too_big(self, frame: Frame, seen: Seen, inner: bool, mtu: int) -> str | None:
        wrong = None
        if seen.reason == "ANSWER_TOO_BIG":
            kind = (3, 4) if frame.version == 4 else (2, 0)
            source = self._source(frame)
            wrong = answers.error(frame, seen.octets, self._near(inner), source, kind, mtu)
        may = self.is_answerable(frame)
        return self._answered(
            seen, frame, "ANSWER_TOO_BIG", wrong, "DROP_TOO_BIG", may=may, inner=inner
        )
