"""When measured loads become pins: the mode, several polls of one mind, orders, restarts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from controller.cli.balance import rebalance_text
from controller.rebalancer import POLLS, Rebalancer
from dataplane.drivers.affinity import AffinityTable
from dataplane.drivers.ovstext import PmdThread, Rxq
from dataplane.model.rows import Affinity
from dataplane.model.tuning import Computed, Tuning
from dataplane.plan.rebalance import pairs
from tests.labs.planned import CONFIG

ADVISE, APPLY = replace(CONFIG, rebalance="advise"), replace(CONFIG, rebalance="apply")
OFF = replace(CONFIG, rebalance="off")
PORTS = {"vm0", "vm1", "vm2"}


class Database:
    """What the table reads: pins of ours and of others."""

    def __init__(self) -> None:
        self.rows: dict[str, Affinity] = {}
        self.theirs: dict[str, Mapping[int, int]] = {}

    def observe(self) -> Mapping[str, Affinity]:
        return self.rows

    def foreign(self) -> Mapping[str, Mapping[int, int]]:
        return self.theirs


def _one(database: Database | None = None) -> Rebalancer:
    return Rebalancer(cast("AffinityTable", database or Database()))


def _threads(*first: int, second: tuple[int, ...] = ()) -> tuple[PmdThread, ...]:
    """vm0.. with these loads on CPU 1, the rest on CPU 2."""
    names = [f"vm{number}" for number in range(len(first) + len(second))]
    queues = [Rxq(name, 0, True, load) for name, load in zip(names, first + second, strict=True)]
    return (
        PmdThread(0, 1, rxqs=tuple(queues[: len(first)])),
        PmdThread(0, 2, rxqs=tuple(queues[len(first) :])),
    )


SKEWED = _threads(40, 35, 5)


def test_the_plans_own_choice_of_auto_lb_counts() -> None:
    one = _one()
    for _ in range(POLLS):
        one.take(SKEWED, PORTS, ADVISE)
    assert "would do nothing below 95 %" in str(one.view(ADVISE)["advice"])
    chosen = Tuning(frozenset({0}), frozenset({1, 2}), {}, auto_lb=True)
    planned = replace(ADVISE, computed=Computed(chosen))
    assert "pmd-auto-lb is on" in str(one.view(planned)["advice"])
    lower = replace(chosen, auto_lb=None, auto_lb_load_percent=70)
    planned = replace(ADVISE, computed=Computed(lower))
    assert "OVS's own pmd-auto-lb acts on that" in str(one.view(planned)["advice"])


def test_advice_is_shown_and_not_done() -> None:
    one = _one()
    assert not any(one.take(SKEWED, PORTS, ADVISE) for _ in range(10))
    assert one.pins(ADVISE) == {}
    view = one.view(ADVISE)
    assert view["highest"] == [80.0, 40.0]
    text = rebalance_text(view, colour=False)
    assert "highest load 80.0 -> 40.0 %" in text
    assert "pmd-auto-lb would do nothing below 95 %" in text


def test_it_is_done_once_several_polls_are_of_one_mind() -> None:
    one = _one()
    assert [one.take(SKEWED, PORTS, APPLY) for _ in range(POLLS)] == [False] * (POLLS - 1) + [True]
    assert one.pins(APPLY)
    assert not one.take(SKEWED, PORTS, APPLY)


def test_polls_that_differ_are_waited_out() -> None:
    """Two polls say so, the third has another answer: the count begins anew."""
    one = _one()
    changed = [one.take(SKEWED, PORTS, APPLY) for _ in range(POLLS - 1)]
    changed.append(one.take(_threads(5, 5, 0, second=(90,)), PORTS | {"vm3"}, APPLY))
    changed += [one.take(SKEWED, PORTS, APPLY) for _ in range(POLLS - 1)]
    assert changed == [False] * len(changed)
    assert one.pins(APPLY) == {}


def test_an_order_is_done_at_once_and_undone() -> None:
    one = _one()
    assert not one.order()
    one.take(SKEWED, PORTS, ADVISE)
    assert one.order()
    assert one.pins(ADVISE)
    assert not one.order()
    assert one.undo()
    assert one.pins(ADVISE) == {}
    assert not one.undo()


def test_a_new_daemon_keeps_the_pins_that_it_finds() -> None:
    database = Database()
    database.rows["vm1"] = Affinity(pairs({0: 2}))
    assert _one(database).pins(APPLY) == {"vm1": {0: 2}}


def test_switched_off_it_takes_its_pins_back() -> None:
    database = Database()
    database.rows["vm1"] = Affinity("0:2")
    one = _one(database)
    assert one.pins(OFF) == {}
    assert not one.take(SKEWED, PORTS, OFF)
    assert one.view(OFF)["present"] == []


def test_what_somebody_else_pinned_stays_where_it_is() -> None:
    database = Database()
    database.theirs["vm1"] = {0: 1}
    one = _one(database)
    one.take(SKEWED, PORTS, ADVISE)
    assert one.order()
    assert "vm1" not in one.pins(ADVISE)


def test_an_overloaded_thread_is_also_ovs_own_business() -> None:
    one = _one()
    one.take(_threads(60, 38, 0), PORTS, ADVISE)
    assert "auto_lb = true" in str(one.view(ADVISE)["advice"])
