"""Defects around the book: one object stays as it was, and everything else goes on."""

from __future__ import annotations

import pytest

from controller.kube.resources import Key
from controller.network.engine import Engine
from controller.network.facts import NAMESPACES, PODS, NetNamespace, NetPod
from controller.network.heldports import held_port
from controller.network.reach import EVERYTHING, NOTHING
from controller.network.rows import RowKey
from controller.network.settings import NetSettings
from controller.network.units import ObjectRef
from controller.ovn.turns import PortThere


class Odd(dict[str, str]):
    """Labels that no index can read."""

    def items(self) -> object:  # type: ignore[override]
        raise ZeroDivisionError


def test_a_fact_that_no_index_takes_costs_its_object_its_changes() -> None:
    engine = Engine(NetSettings(default_cidr="10.9.0.0/24"))
    key = Key("shop", "web")
    engine.put([(NAMESPACES, "shop", NetNamespace("shop"))])
    engine.put([(PODS, key, NetPod(*key, uid="u", labels={"a": "b"}))])
    engine.start()
    port = RowKey("Logical_Switch_Port", "web.shop")
    assert port in engine.book.rows and engine.odd() == {}
    other = Key("shop", "other")
    engine.put([(PODS, key, NetPod(*key, uid="u", labels=Odd())), (PODS, other, NetPod(*other))])
    engine.update()
    assert {port, RowKey("Logical_Switch_Port", "other.shop")} <= engine.book.rows.keys()
    ref = ObjectRef("pods", "shop", "web")
    assert "ZeroDivisionError" in str(engine.odd()[ref])
    assert any("ZeroDivisionError" in why for why in engine.failed().values())
    assert engine.hold() == EVERYTHING
    # It is taken as soon as it can be, and the indexes are those of one fact.
    engine.put([(PODS, key, NetPod(*key, uid="u", labels={"a": "c"}))])
    engine.update()
    assert engine.odd() == {ref: ()} and engine.odd() == {} and engine.failed() == {}
    assert engine.hold() == NOTHING
    assert engine.book.store.by(PODS, "label", ("shop", "a", "b")) == ()
    assert engine.book.store.by(PODS, "label", ("shop", "a", "c")) == (key,)


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (("",), ""),
        ((" ", "dynamic", "router"), ""),
        (("unknown", "02:00:00:00:00:01 10.9.0.9 fd00::9"), "10.9.0.9,fd00::9"),
        (("02:00:00:00:00:zz 10.9.0.9",), ""),
        (("02:00:00:00:00:01 10.9.0.999", "02:00:00:00:00:01 10.9.0.9"), "10.9.0.9"),
        (("02:00:00:00:00:01",), ""),
    ],
)
def test_a_port_says_what_was_given_whatever_somebody_wrote_there(
    addresses: tuple[str, ...], found: str
) -> None:
    held = held_port(PortThere("web.shop", "shopnet", addresses))
    assert ",".join(map(str, held.addresses if held else ())) == found
