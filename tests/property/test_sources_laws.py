"""What OVN says, taken in change by change, against the same word taken in whole.

A view that is stepped from the one before must be the one that would be made from nothing, after
any history; and rows that `changes` does not name are as they were when it was asked last.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.sources import OvnView, Sources
from controller.translate.changed import differing
from controller.translate.ovn import LoadBalancer, PortBinding, ServiceMonitor
from dataplane.model import layered as layered_module
from dataplane.model.layered import Layered
from dataplane.model.state import Nic
from tests.labs.ovnrows import MARKED, Lab, vpc_lab
from tests.labs.planned import CONFIG

HERE = CONFIG.name
ROWS = ("a", "b", "c")
PORTS = ("vm1.ns", "vm2.ns", "vm3.ns")
HOSTS = ("10.1.0.11", "10.1.0.12", "10.1.0.13", "203.0.113.9")
VIPS = ("192.0.2.1:80", "192.0.2.2:80", "0.0.0.0:30080", "192.0.2.1:0")
NICS: dict[str, Nic] = {}


def lab() -> Lab:
    return vpc_lab().chassis(HERE, "10.0.0.3").chassis("far", "10.0.0.4").switch("sw1")


@dataclass(frozen=True)
class Put:
    """A load balancer row comes or is another one."""

    row: str
    vips: tuple[str, ...]
    hosts: tuple[str, ...]
    kind: str
    marked: bool

    def on(self, made: Lab) -> None:
        backends = ",".join(f"{host}:8080" for host in self.hosts)
        ids = {**(MARKED if self.marked else {}), "millrace:kind": self.kind}
        made.balancer(self.row, dict.fromkeys(self.vips, backends), external_ids=ids)


@dataclass(frozen=True)
class Drop:
    """A load balancer row goes."""

    row: str

    def on(self, made: Lab) -> None:
        rows = {k: v for k, v in made.nb.load_balancers.items() if k != f"lb-{self.row}"}
        made.nb = replace(made.nb, load_balancers=rows)


@dataclass(frozen=True)
class Bind:
    """A port is bound to a chassis, or to none."""

    port: str
    chassis: str | None

    def on(self, made: Lab) -> None:
        if self.chassis is not None:
            made.bind(self.port, self.chassis)
        else:
            rows = {**made.sb.port_bindings, self.port: PortBinding(self.port)}
            made.sb = replace(made.sb, port_bindings=rows)


@dataclass(frozen=True)
class Have:
    """A port has this address, and is nested or not; it may be new."""

    port: str
    host: str
    tag: int | None

    def on(self, made: Lab) -> None:
        made.port("sw0", self.port, f"0a:00:00:00:00:1f {self.host}", tag=self.tag)


@dataclass(frozen=True)
class Attach:
    """A row is attached to a switch, or no row is."""

    row: str | None

    def on(self, made: Lab) -> None:
        refs = (f"lb-{self.row}",) if self.row else ()
        made.switch("sw1", load_balancers=refs)


@dataclass(frozen=True)
class Ask:
    """OVN's health check of a backend says something."""

    host: str
    status: str | None

    def on(self, made: Lab) -> None:
        said = ServiceMonitor(self.host, 8080, "tcp", self.status)
        rows = {**made.sb.service_monitors, f"sm-{self.host}": said}
        made.sb = replace(made.sb, service_monitors=rows)


rows = st.sampled_from(ROWS)
hosts = st.sampled_from(HOSTS)
puts = st.builds(
    Put,
    rows,
    st.lists(st.sampled_from(VIPS), unique=True, max_size=3).map(tuple),
    st.lists(hosts, unique=True, max_size=3).map(tuple),
    st.sampled_from(("clusterip", "nodeport", "loadbalancer", "no such kind")),
    st.sampled_from((True, True, True, False)),
)
events = st.one_of(
    puts,
    st.builds(Drop, rows),
    st.builds(Bind, st.sampled_from(PORTS), st.sampled_from((HERE, "far", "n2", None))),
    st.builds(Have, st.sampled_from(PORTS), hosts, st.sampled_from((None, 7))),
    st.builds(Attach, st.one_of(st.none(), rows)),
    st.builds(Ask, hosts, st.sampled_from((None, "online", "offline"))),
)


def shown(view: OvnView) -> tuple[object, ...]:
    return (
        dict(view.rows),
        view.services,
        view.claims.problems(),
        view.claims.with_health_port(),
        view.means,
        view.gateway,
        view.announcers,
        view.routers,
    )


def taken(sources: Sources, made: Lab) -> OvnView:
    sources.nb, sources.sb = made.nb, made.sb
    view = sources.view(CONFIG)
    assert view is not None
    return view


@settings(max_examples=200)
@given(st.lists(st.tuples(events, st.booleans()), max_size=14))
def test_after_any_history_the_view_is_the_one_from_nothing(
    history: list[tuple[Put | Drop | Bind | Have | Attach | Ask, bool]],
) -> None:
    made = lab()
    stepped = Sources(nics=NICS)
    taken(stepped, made)
    known, named = stepped.changes(CONFIG)
    assert named is None, "at first everything is new"
    assert known is not None
    before = dict(known.rows)
    for event, asked in history:
        event.on(made)
        # Each event is a round of its own, or several come at once.
        if not asked:
            continue
        view = taken(stepped, made)
        assert shown(view) == shown(taken(Sources(nics=NICS), made))
        again, named = stepped.changes(CONFIG)
        assert again is view
        if named is not None:
            others = (before.keys() | view.rows.keys()) - named
            assert all(before.get(ref) == view.rows.get(ref) for ref in others)
        before = dict(view.rows)


class Layers:
    """The same word as the database clients give it: snapshots that share what did not change."""

    def __init__(self) -> None:
        self._kept: dict[str, Layered[str, object]] = {}

    def of(self, made: Lab) -> Lab:
        nb = {name: self._next(name, getattr(made.nb, name)) for name in _NB}
        sb = {name: self._next(name, getattr(made.sb, name)) for name in _SB}
        layered = copy(made)
        layered.nb, layered.sb = replace(made.nb, **nb), replace(made.sb, **sb)
        return layered

    def _next(self, name: str, rows: Mapping[str, object]) -> Any:
        before = self._kept.setdefault(name, Layered({}))
        if found := differing(before, rows):
            self._kept[name] = before.changed({ref: rows.get(ref) for ref in found})
        return self._kept[name]


_NB, _SB = ("load_balancers", "switch_ports"), ("port_bindings", "service_monitors")
host_ports = st.dictionaries(rows, puts, max_size=2)


def balancers_of(found: Mapping[str, Put]) -> Mapping[str, LoadBalancer]:
    """Rows of this node's own making, some under the names of OVN's, too."""
    made = lab()
    for put in found.values():
        put.on(made)
    put_of = {f"lb-{put.row}": name for name, put in found.items()}
    return {
        ref if len(found) > 1 else f"own-{put_of[ref]}": row
        for ref, row in made.nb.load_balancers.items()
        if ref in put_of
    }


@settings(max_examples=200)
@given(st.lists(st.tuples(events, st.one_of(st.none(), host_ports)), max_size=14))
def test_it_is_so_of_snapshots_that_share_rows_and_with_ports_of_the_nodes_own(
    history: list[tuple[Put | Drop | Bind | Have | Attach | Ask, dict[str, Put] | None]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layered_module, "OVER_MAX", 3)
        made, layers = lab(), Layers()
        stepped = Sources(nics=NICS)
        taken(stepped, layers.of(made))
        known, _ = stepped.changes(CONFIG)
        assert known is not None
        before = dict(known.rows)
        for event, own in history:
            event.on(made)
            if own is not None:
                stepped.host_ports = balancers_of(own)
            view = taken(stepped, layers.of(made))
            fresh = Sources(nics=NICS, host_ports=stepped.host_ports)
            assert shown(view) == shown(taken(fresh, made))
            _, named = stepped.changes(CONFIG)
            if named is not None:
                others = (before.keys() | view.rows.keys()) - named
                assert all(before.get(ref) == view.rows.get(ref) for ref in others)
            before = dict(view.rows)


def test_a_change_of_one_row_names_that_row_alone() -> None:
    made = lab()
    for number in range(20):
        made.balancer(f"s{number}", {f"192.0.2.{number}:80": "10.1.0.11:80"})
    sources = Sources(nics=NICS)
    taken(sources, made)
    sources.changes(CONFIG)
    made.balancer("s7", {"192.0.2.7:80": "10.1.0.12:80"})
    view = taken(sources, made)
    assert sources.changes(CONFIG) == (view, frozenset({"lb-s7"}))
    # The tag of a port, which comes with each attachment, changes no service.
    made.port("sw0", "vm1.ns", "0a:00:00:00:00:11 10.1.0.11", tag=7)
    sources.nb = made.nb
    assert sources.changes(CONFIG)[1] is not None


def test_changes_are_kept_until_somebody_asks() -> None:
    made = lab().balancer("a", {"192.0.2.1:80": "10.1.0.11:80"})
    sources = Sources(nics=NICS)
    taken(sources, made)
    sources.changes(CONFIG)
    for name in ("a", "b"):
        made.balancer(name, {f"192.0.2.{len(name)}:81": "10.1.0.12:80"})
        taken(sources, made)
    assert sources.changes(CONFIG)[1] == frozenset({"lb-a", "lb-b"})
    assert sources.changes(CONFIG)[1] == frozenset()


def test_a_port_that_is_bound_elsewhere_names_the_rows_of_its_addresses() -> None:
    made = lab().balancer("a", {"192.0.2.1:80": "10.1.0.11:80"})
    made.balancer("b", {"192.0.2.2:80": "10.1.0.12:80"})
    sources = Sources(nics=NICS)
    taken(sources, made)
    sources.changes(CONFIG)
    made.bind("vm1.ns", "far")
    taken(sources, made)
    view, named = sources.changes(CONFIG)
    assert view is not None
    assert named is not None
    assert "lb-b" not in named
    (service,) = view.rows["lb-a"]
    assert service.backends[0].chassis == "far"


@given(
    st.dictionaries(st.integers(0, 9), st.integers()),
    st.dictionaries(st.integers(0, 9), st.integers()),
)
def test_rows_that_differ_are_those_that_came_went_or_are_others(
    before: dict[int, int], after: dict[int, int]
) -> None:
    # Snapshots hold the same object for a row that did not change.
    old = {str(key): (value,) for key, value in before.items()}
    new = {
        str(key): old[str(key)] if before.get(key) == value else (value,)
        for key, value in after.items()
    }
    wanted = {k for k in old.keys() | new.keys() if old.get(k) != new.get(k)}
    assert differing(old, new) == wanted
