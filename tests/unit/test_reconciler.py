"""One claim of the reconciler per test, on tables in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dataplane.ports import Failure
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.fakes import FakeTable, RejectingFakeTable
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.status import State, Status


def pair() -> tuple[FakeTable[str, int], FakeTable[str, int], Reconciler]:
    log: list[tuple[str, str, tuple[str, ...]]] = []
    first: FakeTable[str, int] = FakeTable("backends", log=log)
    second: FakeTable[str, int] = FakeTable("vips", log=log)
    return first, second, Reconciler([first, second], Backoff())


def test_writes_go_forward_and_removals_backward() -> None:
    first, second, reconciler = pair()
    first.rows = {"old": 1}
    second.rows = {"old": 1}
    reconciler.apply({"backends": {"new": 2}, "vips": {"new": 2}}, now=0)
    assert first.log == [
        ("upsert", "backends", ("new",)),
        ("upsert", "vips", ("new",)),
        ("delete", "vips", ("old",)),
        ("delete", "backends", ("old",)),
    ]


def test_given_rows_are_written_and_removed_in_order_without_a_look_at_the_tables() -> None:
    first, second, reconciler = pair()
    reconciler.apply({"backends": {"a": 1, "b": 1}, "vips": {"a": 1}}, now=0)
    first.log.clear()
    first.unobservable = second.unobservable = "not to be looked at"
    changes = {"vips": {"a": None, "c": 2}, "backends": {"a": None, "c": 2}}
    report = reconciler.apply_keys(changes, now=1)
    assert (report.writes, report.failed, report.next_retry_at) == (4, 0, None)
    assert first.log == [
        ("upsert", "backends", ("c",)),
        ("upsert", "vips", ("c",)),
        ("delete", "vips", ("a",)),
        ("delete", "backends", ("a",)),
    ]
    assert set(reconciler.statuses()) == {("backends", "b"), ("backends", "c"), ("vips", "c")}
    assert first.rows == {"b": 1, "c": 2}


def test_a_round_makes_room_after_a_table_and_says_what_it_has_not_come_to() -> None:
    first, second, reconciler = pair()
    first.rows = {"old": 1}
    second.rows = {"old": 1}
    asked: list[int] = []

    def pressed() -> bool:
        asked.append(len(first.log))
        return True

    wanted = {"backends": {"new": 2}, "vips": {"new": 2}}
    report = reconciler.apply(wanted, now=0, pressed=pressed)
    # What is to go stays as long as something that is wanted is not there.
    assert first.log == [("upsert", "backends", ("new",))]
    assert report.left == {"backends", "vips"}
    assert set(report.tables) == {"backends"}
    assert asked == [1], "not before the first table"
    report = reconciler.apply(wanted, now=0, only=report.left)
    assert (first.rows, second.rows, report.left) == ({"new": 2}, {"new": 2}, frozenset())


class SteadyTable(FakeTable[str, int]):
    """Gives the same mapping as long as nobody changes it, and counts comparisons of its rows."""

    steady = True

    def observe(self) -> Mapping[str, int]:
        super().observe()
        return self.rows


class Compared(dict[str, int]):
    """Rows that are wanted; `looks` counts how often somebody went through them."""

    looks = 0

    def items(self) -> Any:
        self.looks += 1
        return super().items()


def test_what_was_found_alike_is_not_compared_again_until_something_happens() -> None:
    table, wanted = SteadyTable("t", rows={"a": 1}), Compared({"a": 1})
    reconciler = Reconciler([table], Backoff())

    def looks() -> int:
        before = wanted.looks
        assert reconciler.apply({"t": wanted}, now=0).writes == 0
        return wanted.looks - before

    assert looks() > 0
    assert looks() == 0
    table.rows = {"a": 1}  # another mapping
    assert looks() > 0
    assert looks() == 0
    reconciler.apply_keys({"t": {"a": 1}}, now=0)  # somebody wrote without a look
    assert looks() > 0
    table.unobservable = "away"
    reconciler.apply({"t": wanted}, now=0)
    table.unobservable = ""
    assert reconciler.tallies()["t"].pending == 1
    looks()
    assert reconciler.tallies()["t"].pending == 0


def test_more_rows_than_wanted_are_no_likeness() -> None:
    table, wanted = SteadyTable("t", rows={"a": 1, "more": 1}), {"a": 1}
    reconciler = Reconciler([table], Backoff())
    assert reconciler.apply({"t": wanted}, now=0, prune=False).writes == 0
    assert reconciler.apply({"t": wanted}, now=0).writes == 1


def test_a_given_row_that_fails_waits_as_any_other() -> None:
    first, _, reconciler = pair()
    first.upsert_failures["a"] = Failure("no room")
    assert reconciler.apply_keys({"backends": {"a": 1, "b": 1}}, now=0).failed == 1
    assert reconciler.statuses()["backends", "a"] == Status(State.ERROR, "no room", 0, 1)
    report = reconciler.apply_keys({"backends": {"a": 1}}, now=0.5)
    assert (report.writes, report.tables["backends"].held) == (0, 1)
    assert reconciler.apply_keys({"backends": {"a": 2}}, now=0.5).writes == 1
    first.upsert_failures.clear()
    assert report.next_retry_at == 1
    assert reconciler.apply({"backends": {"a": 2, "b": 1}}, now=2).failed == 0
    assert reconciler.statuses()["backends", "a"].state is State.DONE


def test_nothing_is_written_when_nothing_differs() -> None:
    first, _, reconciler = pair()
    desired = {"backends": {"a": 1}, "vips": {"a": 1}}
    assert reconciler.apply(desired, now=0).writes == 2
    first.log.clear()
    report = reconciler.apply(desired, now=1)
    assert (report.writes, report.failed, report.next_retry_at) == (0, 0, None)
    assert first.log == []
    assert reconciler.statuses()["backends", "a"] == Status(State.DONE, "", 0, 1)


def test_only_the_named_tables_are_touched() -> None:
    first, second, reconciler = pair()
    report = reconciler.apply(
        {"backends": {"a": 1}, "vips": {"a": 1}}, now=0, only=frozenset({"vips"})
    )
    assert first.rows == {}
    assert second.rows == {"a": 1}
    assert set(report.tables) == {"vips"}


def test_a_table_that_the_plan_does_not_have_is_left_alone() -> None:
    first, second, reconciler = pair()
    second.rows = {"theirs": 1}
    reconciler.apply({"backends": {"a": 1}}, now=0)
    assert first.rows == {"a": 1}
    assert second.rows == {"theirs": 1}


def test_without_prune_nothing_is_removed() -> None:
    first, _, reconciler = pair()
    first.rows = {"old": 1}
    reconciler.apply({"backends": {"a": 1}, "vips": {}}, now=0, prune=False)
    assert first.rows == {"old": 1, "a": 1}


def test_a_failed_row_is_retried_with_growing_delays() -> None:
    first, _, reconciler = pair()
    desired = {"backends": {"bad": 1, "good": 1}, "vips": {}}
    first.upsert_failures["bad"] = Failure("no room")
    report = reconciler.apply(desired, now=0)
    assert (report.failed, report.next_retry_at) == (1, 1.0)
    assert reconciler.statuses()["backends", "bad"] == Status(State.ERROR, "no room", 0, 1)
    assert reconciler.statuses()["backends", "good"].state is State.DONE

    assert reconciler.apply(desired, now=0.5).writes == 0
    assert reconciler.apply(desired, now=1.0).next_retry_at == 3.0
    assert reconciler.statuses()["backends", "bad"] == Status(State.ERROR, "no room", 0, 2)

    first.upsert_failures.clear()
    assert reconciler.apply(desired, now=2.0).tables["backends"].held == 1
    assert reconciler.apply(desired, now=3.0).next_retry_at is None
    assert reconciler.statuses()["backends", "bad"] == Status(State.DONE, "", 3.0, 3)


def test_waiting_is_pending_and_retried_soon() -> None:
    first, _, reconciler = pair()
    first.upsert_failures["a"] = Failure("OVS has not attached yet", waiting=True)
    report = reconciler.apply({"backends": {"a": 1}}, now=10)
    assert report.next_retry_at == pytest.approx(10.2)
    assert reconciler.statuses()["backends", "a"].state is State.PENDING


def test_a_row_whose_value_changed_is_tried_at_once() -> None:
    first, _, reconciler = pair()
    first.upsert_failures["a"] = Failure("no room")
    reconciler.apply({"backends": {"a": 1}}, now=0)
    first.upsert_failures.clear()
    assert reconciler.apply({"backends": {"a": 2}}, now=0.1).writes == 1
    assert first.rows == {"a": 2}


def test_a_row_that_was_away_meanwhile_starts_anew() -> None:
    first, _, reconciler = pair()
    first.upsert_failures["a"] = Failure("no room")
    reconciler.apply({"backends": {"a": 1}}, now=0)
    assert reconciler.apply({"backends": {}}, now=0.1).next_retry_at is None
    assert reconciler.statuses() == {}
    reconciler.apply({"backends": {"a": 1}}, now=0.2)
    assert reconciler.statuses()["backends", "a"].attempts == 1


def test_the_operator_can_ask_for_a_retry() -> None:
    first, _, reconciler = pair()
    first.upsert_failures["a"] = Failure("refused", quarantine=True)
    reconciler.apply({"backends": {"a": 1}}, now=0)
    first.upsert_failures.clear()
    assert reconciler.apply({"backends": {"a": 1}}, now=1).writes == 0
    assert reconciler.retry("backends", "a")
    assert not reconciler.retry("backends", "a")
    assert not reconciler.retry("no such table", "a")
    assert reconciler.apply({"backends": {"a": 1}}, now=1).writes == 1


class Interrupted(FakeTable[str, int]):
    """Calls `meanwhile` between its observation and what is decided of it."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def observe(self) -> Mapping[str, int]:
        rows = super().observe()
        self.meanwhile()
        return rows


def test_a_retry_that_comes_in_the_middle_of_a_round_counts_for_the_next() -> None:
    table = Interrupted("t", upsert_failures={"a": Failure("refused", quarantine=True)})
    reconciler = Reconciler([table], Backoff())
    reconciler.apply({"t": {"a": 1}}, now=0)
    table.upsert_failures.clear()
    table.meanwhile = lambda: reconciler.retry("t", "a")
    assert reconciler.apply({"t": {"a": 1}}, now=1).writes == 0
    assert reconciler.apply({"t": {"a": 1}}, now=1).writes == 1


def test_a_removal_that_fails_is_shown_and_retried() -> None:
    first, _, reconciler = pair()
    first.rows = {"old": 1}
    first.delete_failures["old"] = Failure("busy")
    report = reconciler.apply({"backends": {}}, now=0)
    assert (report.failed, report.next_retry_at) == (1, 1.0)
    status = reconciler.statuses()["backends", "old"]
    assert (status.state, status.reason) == (State.ERROR, "cannot be removed: busy")
    assert reconciler.apply({"backends": {}}, now=0.5).writes == 0
    first.delete_failures.clear()
    reconciler.apply({"backends": {}}, now=1.0)
    assert first.rows == {}
    assert reconciler.statuses() == {}


def test_a_table_out_of_reach_is_pending_and_the_others_go_on() -> None:
    first, second, reconciler = pair()
    first.unobservable = "ovsdb-server is not there"
    first.rows = {"old": 1}
    report = reconciler.apply({"backends": {"a": 1}, "vips": {"a": 1}}, now=0)
    assert report.tables["backends"].error == "ovsdb-server is not there"
    assert report.next_retry_at == pytest.approx(0.2)
    assert first.rows == {"old": 1}
    assert second.rows == {"a": 1}
    status = reconciler.statuses()["backends", "a"]
    assert (status.state, status.reason) == (State.PENDING, "ovsdb-server is not there")
    first.unobservable = ""
    reconciler.apply({"backends": {"a": 1}, "vips": {"a": 1}}, now=1)
    assert first.rows == {"a": 1}
    assert reconciler.statuses()["backends", "a"].state is State.DONE


def test_a_driver_that_raises_fails_its_rows_only() -> None:
    first, second, reconciler = pair()
    first.crash = ZeroDivisionError("oops")
    report = reconciler.apply({"backends": {"a": 1}, "vips": {"a": 1}}, now=0)
    assert report.failed == 1
    assert "oops" in reconciler.statuses()["backends", "a"].reason
    assert second.rows == {"a": 1}


def test_a_row_refused_after_it_was_taken_is_taken_back_and_left_out() -> None:
    ports: RejectingFakeTable[str, int] = RejectingFakeTable("ports")
    reconciler = Reconciler([ports], Backoff())
    desired = {"ports": {"bad": 1, "good": 1}}
    ports.refuses["bad"] = "could not open network device bad (No such device)"
    reconciler.apply(desired, now=0)
    assert ports.rows == {"bad": 1, "good": 1}

    report = reconciler.take_back(desired, now=0.1)
    assert report.writes == 1
    assert report.next_retry_at == pytest.approx(30.1)
    assert ports.rows == {"good": 1}
    status = reconciler.statuses()["ports", "bad"]
    assert status == Status(State.ERROR, ports.refuses["bad"], 0.1, 1, quarantined=True)

    assert reconciler.apply(desired, now=1).writes == 0
    assert reconciler.take_back(desired, now=1).writes == 0
    # Its time is over, it is tried, refused again a little later, and left out twice as long.
    assert reconciler.apply(desired, now=30.1).writes == 1
    assert reconciler.statuses()["ports", "bad"].state is State.DONE
    report = reconciler.apply(desired, now=30.2)
    assert ports.rows == {"good": 1}
    assert report.next_retry_at == pytest.approx(90.2)
    # Mended: after a quarantine.first of quiet the old failures are forgotten.
    ports.refuses.clear()
    reconciler.apply(desired, now=91)
    reconciler.apply(desired, now=130)
    ports.refuses["bad"] = "again"
    assert reconciler.take_back(desired, now=131).next_retry_at == pytest.approx(161)


def test_a_quarantined_row_that_is_there_is_taken_back_even_without_prune() -> None:
    first, _, reconciler = pair()
    first.upsert_failures["a"] = Failure("refused", quarantine=True)
    reconciler.apply({"backends": {"a": 1}}, now=0)
    first.rows["a"] = 1
    report = reconciler.apply({"backends": {"a": 1}}, now=1, prune=False)
    assert report.tables["backends"].deletes == 1
    assert first.rows == {}


def test_a_row_that_is_not_taken_back_is_tried_again_soon() -> None:
    ports: RejectingFakeTable[str, int] = RejectingFakeTable("ports", rows={"bad": 1})
    reconciler = Reconciler([ports], Backoff())
    ports.refuses["bad"] = "no"
    ports.delete_failures["bad"] = Failure("database away")
    report = reconciler.apply({"ports": {"bad": 1}}, now=0)
    assert report.next_retry_at == pytest.approx(0.2)
    ports.delete_failures.clear()
    report = reconciler.apply({"ports": {"bad": 1}}, now=0.2)
    assert ports.rows == {}
    assert report.next_retry_at is not None
    assert report.next_retry_at > 30


def test_a_refused_row_is_not_quarantined_for_a_value_that_was_never_tried() -> None:
    ports: RejectingFakeTable[str, int] = RejectingFakeTable("ports", rows={"p": 1})
    reconciler = Reconciler([ports], Backoff())
    ports.refuses["p"] = "no"
    report = reconciler.apply({"ports": {"p": 2}}, now=0)
    assert report.tables["ports"].upserts == 1
    assert not reconciler.statuses()["ports", "p"].quarantined


def test_two_tables_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        Reconciler([FakeTable("a"), FakeTable("a")], Backoff())


def test_the_log_says_how_the_first_rows_differ(caplog: pytest.LogCaptureFixture) -> None:
    one: FakeTable[str, int] = FakeTable("one", {"kept": 1, "other": 2, "gone": 3})
    many: FakeTable[str, int] = FakeTable("many")
    reconciler = Reconciler([one, many], Backoff())
    wanted = {"one": {"kept": 1, "other": 5}, "many": dict.fromkeys("abcdefgh", 0)}

    def told(table: str) -> list[tuple[object, ...]]:
        found = [vars(record) for record in caplog.records if record.msg == "row_differs"]
        return [(row["row"], row["is"], row["wanted"]) for row in found if row["table"] == table]

    with caplog.at_level("INFO"):
        reconciler.apply(wanted, 0.0)
    assert told("one") == [("other", "2", "5"), ("gone", "3", "ABSENT")]
    assert told("many") == [(key, "ABSENT", "0") for key in "abc"]
    caplog.clear()
    with caplog.at_level("INFO"):
        reconciler.apply(wanted, 1.0)
    assert not told("one") + told("many")
