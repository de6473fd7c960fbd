"""The program and the model side by side: an event happens to both, and they are compared."""

from __future__ import annotations

from typing import Protocol

from tests.oracle.declared import Known, Service
from tests.oracle.flows import Flow
from tests.oracle.model import Model
from tests.oracle.states import State
from tests.oracle.verdicts import Seen
from tests.oracle.worlds import Comes, Event, Knows, Passes, Serves, Setting, Withdraws

ENDS_WITH_BACKEND = (State.SYN, State.UDP_ONE_WAY, State.UDP, State.SCTP_NEW)
"""kube-proxy ends UDP's conntrack entries when an endpoint goes; a connection that nobody has
answered yet is no connection."""


class Subject(Protocol):
    """What is compared with the model."""

    def begin(self, setting: Setting) -> None:
        """An empty node."""

    def know(self, addr: bytes, known: Known) -> None:
        """An address is this to the node."""

    def pass_time(self, ticks: int) -> None:
        """Its clock goes on."""

    def serve(self, service: Service) -> None:
        """Serve it from now on as it is declared."""

    def end_clients(self, ends: list[tuple[bytes, int, int]]) -> None:
        """Every flow of these clients ends."""

    def withdraw(self, name: str) -> None:
        """Serve it no longer."""

    def run(self, door: int, octets: bytes) -> Seen:
        """A frame goes through."""
        ...


class Pair:
    """Both, from the beginning of a world."""

    def __init__(self, subject: Subject, setting: Setting, *, crowded: bool = False) -> None:
        self.subject = subject
        self.model = Model(setting.node(), crowded=crowded)
        self.last: Seen | None = None
        subject.begin(setting)

    def apply(self, event: Event) -> str | None:
        """What is wrong after the event, or None."""
        match event:
            case Comes(door, octets):
                self.last = seen = self.subject.run(door, octets)
                return self.model.judge(door, octets, seen)
            case Passes(ticks):
                self.subject.pass_time(ticks)
                self.model.pass_time(ticks)
            case Knows(addr, known):
                self.subject.know(addr, known)
                self.model.node.known[addr] = known
            case Serves(service):
                self._serve(service)
            case Withdraws(name):
                self._withdraw(name)
        return None

    def _flows(self, service: Service) -> list[Flow]:
        memory = self.model.memory
        return [f for f in memory.flows.values() if f.service.name == service.name]

    def _serve(self, service: Service) -> None:
        node, memory = self.model.node, self.model.memory
        before = node.services.get(service.name)
        if before is not None:
            # Nobody knows where these go, so nobody can say whether they end with a backend.
            unclear = {
                (f.ends[0], f.ends[1], f.ends[4]) for f in self._flows(before) if not f.bound
            }
            self.subject.end_clients(sorted(unclear))
            for flow in list(memory.flows.values()):
                if (flow.ends[0], flow.ends[1], flow.ends[4]) in unclear:
                    memory.end(flow.ends)
            self._end_backends(before, service)
        self.subject.serve(service)
        node.serve(service)

    def _end_backends(self, before: Service, after: Service) -> None:
        left = {m.backend for m in before.members} - {m.backend for m in after.members}
        macs = {b.mac for b in left if b.mac} - {m.backend.mac for m in after.members}
        for flow in self._flows(before):
            if flow.state not in ENDS_WITH_BACKEND:
                continue
            backend = flow.candidates[0]
            if backend.mac in macs if flow.is_direct(backend) else backend in left:
                self.model.memory.end(flow.ends)

    def _withdraw(self, name: str) -> None:
        node, memory = self.model.node, self.model.memory
        service = node.services.get(name)
        if service is None:
            return
        self.subject.withdraw(name)
        keys = set(service.asked())
        for flow in list(memory.flows.values()):
            if (flow.ends[2], flow.ends[3], flow.ends[4]) in keys:
                memory.end(flow.ends)
        node.withdraw(name)
