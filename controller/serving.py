"""What follows from services, kept up from round to round in the thread that applies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from controller.sources import Sources
from dataplane.drivers.bpfmaps import held_ids
from dataplane.drivers.bpfstate import MapOwner
from dataplane.model.config import NodeConfig
from dataplane.model.state import HeldIds
from dataplane.plan.node import circumstances, serving
from dataplane.plan.served import Served
from dataplane.plan.servicebook import Changes, ServiceBook


class Serving:
    """The book of services, made anew whenever more than services changed.

    Args:
        sources: where services come from.
        bpf: the maps, which say at first who has which id.
    """

    def __init__(self, sources: Sources, bpf: MapOwner) -> None:
        self._sources = sources
        self._bpf = bpf
        self._book: ServiceBook | None = None
        self._made_of: tuple[object, ...] = ()
        self.names: Mapping[int, str] = {}
        """The service port of each id, as of the last round; for other threads to read."""

    def served(self) -> Served | None:
        """What follows from the services as of the last update; None where none are served.

        Tables that changed are copied here: ask when the maps have what is urgent.
        """
        self.names = self._book.names() if self._book is not None else {}
        return self._book.served() if self._book is not None else None

    def update(self, config: NodeConfig) -> Changes | None:
        """Take the services over; the rows that differ from the last time, None if all may.

        Raises:
            OutOfIds: more service ports or backends than the maps have room for.
            ObserveError: the maps do not say which ids they hold.
        """
        book, self._book = self._book, None
        view, refs = self._sources.changes(config)
        state = self._sources.state(config, (), HeldIds())
        made_of = (config, state.gateway, state.nics, state.announcers, state.routers)
        if view is None:
            return None
        if book is not None and refs is not None and self._made_of == made_of:
            changes = book.change(
                {ref: serving(view.rows.get(ref, ()), config) for ref in sorted(refs)}
            )
            self._book = book
            return changes
        held = book.held() if book is not None else held_ids(self._bpf)
        around = circumstances(replace(state, held=held))
        if around is None:
            return None
        self._made_of = made_of
        rows = {ref: serving(services, config) for ref, services in view.rows.items()}
        self._book = ServiceBook(rows, around)
        return None

    def settle(self) -> None:
        """The maps hold what follows from the services and nothing else."""
        if self._book is not None:
            self._book.settle()
