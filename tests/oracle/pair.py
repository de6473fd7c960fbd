"""The program and the model side by side: an event happens to both, and they are compared."""

from __future__ import annotations

from typing import Protocol

from tests.oracle.declared import Known, Service
from tests.oracle.flows import Flow
from tests.oracle.model import Model
from tests.oracle.states import State
from tests.oracle.verdicts import Seen
from tests.oracle.worlds import Comes, Event, Knows, Passes, Serves, Setting, Withdraws

ENDS_WITH_BACKEND = (
    State.SYN, State.UDP_ONE_WAY, State.UDP_ANSWERED, State.UDP, State.SCTP_NEW,
)  # fmt: skip
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

    def forget_clients(self, addrs: list[bytes]) -> None:
        """No service knows these clients: the next flow of each has no affinity."""

    def withdraw(self, name: str) -> None:
        """Serve it no longer."""

    def run(self, door: int, octets: bytes) -> Seen:
        """A frame goes through."""
        ...


class Pair:
    """Both, from the beginning of a world."""

    def __init__(self, subject: Subject, setting: Setting) -> None:
        self.subject = subject
        self.model = Model(setting.node(), crowded=setting.table.crowded, others=setting.others)
        self.last: Seen | None = None
        subject.begin(setting)

    def apply(self, event: Event) -> str | None:
        """What is wrong after the event, or None."""
        match event:
            case Comes(door, octets):
                self.last = seen = self.subject.run(door, octets)
                wrong = self.model.judge(door, octets, seen)
                if self.model.unclear:
                    self._settle(self.model.unclear)
                    self.model.unclear = []
                return wrong
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

    def _settle(self, unclear: list[Flow]) -> None:
        """Of flows that may have begun anew, or not, nothing is left on either side."""
        self._end_clients(unclear)
        self._forget_clients({flow.ends[0] for flow in unclear})

    def _forget_clients(self, clients: set[bytes]) -> None:
        if clients:
            self.subject.forget_clients(sorted(clients))
        affinities = self.model.memory.affinities
        for key in [key for key in affinities if key[1] in clients]:
            del affinities[key]

    def _unbind(self, before: Service, after: Service) -> None:
        """A backend that goes has no clients of its own any more, should it come back."""
        left = {m.backend.target for m in before.members}
        left -= {m.backend.target for m in after.members}
        affinities, unclear = self.model.memory.affinities, set()
        for (name, client), bound in list(affinities.items()):
            if name != after.name or not any(b.target in left for b in bound.candidates):
                continue
            del affinities[name, client]
            if len(bound.candidates) > 1:
                unclear.add(client)
        self._forget_clients(unclear)

    def _end_clients(self, flows: list[Flow]) -> None:
        """End every flow of these flows' clients, on both sides."""
        memory = self.model.memory
        clients = {(f.ends[0], f.ends[1], f.ends[4]) for f in flows}
        self.subject.end_clients(sorted(clients))
        for flow in list(memory.flows.values()):
            if (flow.ends[0], flow.ends[1], flow.ends[4]) in clients:
                memory.end(flow.ends)

    def _serve(self, service: Service) -> None:
        node = self.model.node
        before = node.services.get(service.name)
        if before is not None:
            # Nobody knows where these go, so nobody can say whether they end with a backend.
            self._end_clients([flow for flow in self._flows(before) if not flow.bound])
            self._unbind(before, service)
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
