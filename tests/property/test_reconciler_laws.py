"""Laws of the reconciler, on generated plans and failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dataplane.ports import Failure
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.decision import Diff, diff
from dataplane.reconcile.fakes import FakeTable, RejectingFakeTable
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.status import State
from dataplane.reconcile.statuses import Tally

keys = st.sampled_from("abcdef")
tables = st.dictionaries(keys, st.integers(0, 2))


def apply_diff(actual: dict[str, int], delta: Diff[str, int]) -> dict[str, int]:
    result = {key: value for key, value in actual.items() if key not in delta.deletes}
    return {**result, **dict(delta.upserts)}


@given(tables, tables)
def test_applying_the_difference_gives_the_desired(
    desired: dict[str, int], actual: dict[str, int]
) -> None:
    assert apply_diff(actual, diff(desired, actual)) == desired


@given(tables)
def test_equal_tables_differ_in_nothing(table: dict[str, int]) -> None:
    assert diff(table, dict(table)) == Diff((), ())


@given(tables, tables)
def test_the_difference_is_minimal(desired: dict[str, int], actual: dict[str, int]) -> None:
    delta = diff(desired, actual)
    assert all(actual.get(key) != value for key, value in delta.upserts)
    assert all(key in actual and key not in desired for key in delta.deletes)


@given(tables, tables)
def test_going_there_and_back_restores(before: dict[str, int], other: dict[str, int]) -> None:
    table: FakeTable[str, int] = FakeTable("t")
    reconciler = Reconciler([table], Backoff())
    for number, desired in enumerate((before, other, before)):
        reconciler.apply({"t": desired}, now=float(number))
    assert table.rows == before


@given(st.lists(tables, min_size=1, max_size=6))
def test_replaying_every_state_twice_converges_and_the_second_time_writes_nothing(
    states: list[dict[str, int]],
) -> None:
    table: FakeTable[str, int] = FakeTable("t")
    reconciler = Reconciler([table], Backoff())
    for number, desired in enumerate(states):
        reconciler.apply({"t": desired}, now=float(number))
        assert table.rows == desired
        assert reconciler.apply({"t": desired}, now=float(number)).writes == 0


@given(tables, tables)
def test_a_new_reconciler_takes_over_with_no_write(
    desired: dict[str, int], before: dict[str, int]
) -> None:
    table: FakeTable[str, int] = FakeTable("t", rows=dict(before))
    Reconciler([table], Backoff()).apply({"t": desired}, now=0)
    assert Reconciler([table], Backoff()).apply({"t": desired}, now=0).writes == 0


class SteadyFakeTable(RejectingFakeTable[str, int]):
    """Gives the same mapping as long as no row differs, so that it need not be compared again."""

    steady = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.given: Mapping[str, int] = {}

    def observe(self) -> Mapping[str, int]:
        found = super().observe()
        if found != self.given:
            self.given = found
        return self.given


class Life(RuleBasedStateMachine):
    """Plans, failures, refusals and outages come and go; the rules hold all the time."""

    make: Callable[[str], RejectingFakeTable[str, int]] = RejectingFakeTable

    def __init__(self) -> None:
        super().__init__()
        self.backoff = Backoff()
        self.table = type(self).make("t")
        self.reconciler = Reconciler([self.table], self.backoff)
        self.desired: dict[str, int] = {}
        self.now = 0.0
        self.fresh = True

    @rule(desired=tables)
    def plan(self, desired: dict[str, int]) -> None:
        self.desired = desired
        self.fresh = False

    @rule(key=keys, quarantine=st.booleans(), waiting=st.booleans())
    def break_row(self, key: str, quarantine: bool, waiting: bool) -> None:
        self.table.upsert_failures[key] = Failure("broken", waiting, quarantine)

    @rule(key=keys)
    def refuse_row(self, key: str) -> None:
        self.table.refuses[key] = "refused"
        self.fresh = False

    @rule(key=keys)
    def break_removal(self, key: str) -> None:
        self.table.delete_failures[key] = Failure("stuck")

    @rule(down=st.booleans())
    def outage(self, down: bool) -> None:
        self.table.unobservable = "away" if down else ""

    @rule(key=keys, value=st.integers(0, 2))
    def drift(self, key: str, value: int) -> None:
        self.table.rows[key] = value
        self.fresh = False

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def round(self) -> None:
        self.table.log.clear()
        report = self.reconciler.apply({"t": self.desired}, self.now)
        assert set(self.desired) <= {key for _, key in self.reconciler.statuses()}
        if self.table.unobservable:
            assert self.table.log == []
        assert report.next_retry_at is None or report.next_retry_at > self.now
        self.fresh = not self.table.unobservable

    @rule(key=keys, value=st.one_of(st.none(), st.integers(0, 2)))
    def one_row(self, key: str, value: int | None) -> None:
        """A change of one row takes the short way."""
        # A plan is never changed, but replaced.
        self.desired = {k: row for k, row in self.desired.items() if k != key}
        if value is not None:
            self.desired[key] = value
        self.reconciler.apply_keys({"t": {key: value}}, self.now)

    @rule()
    def take_back(self) -> None:
        self.reconciler.take_back({"t": self.desired}, self.now)

    @rule()
    def mend(self) -> None:
        """Whatever happened, without failures it converges within the longest back-off."""
        self.table.unobservable = ""
        self.table.upsert_failures.clear()
        self.table.delete_failures.clear()
        self.table.refuses.clear()
        for _ in range(4):
            report = self.reconciler.apply({"t": self.desired}, self.now)
            if report.next_retry_at is None:
                break
            self.now = report.next_retry_at + 3600
        assert self.table.rows == self.desired
        assert self.reconciler.apply({"t": self.desired}, self.now).writes == 0
        states = {status.state for status in self.reconciler.statuses().values()}
        assert states <= {State.DONE}

    @invariant()
    def a_status_of_done_is_true(self) -> None:
        if not self.fresh:
            return
        for (_, key), status in self.reconciler.statuses().items():
            if status.state is State.DONE:
                assert self.table.rows.get(key) == self.desired.get(key)

    @invariant()
    def those_that_are_not_as_planned_are_known_apart(self) -> None:
        every = self.reconciler.statuses()
        odd = {k: s for k, s in every.items() if s.state is not State.DONE or s.quarantined}
        assert self.reconciler.odd_statuses() == odd
        tally = self.reconciler.tallies().get("t", Tally())
        assert tally == Tally(
            len(every),
            sum(status.state is State.ERROR for status in odd.values()),
            sum(status.state is State.PENDING for status in odd.values()),
            sum(status.quarantined for status in odd.values()),
        )
        assert all(self.reconciler.status("t", key) == s for (_, key), s in every.items())

    @precondition(lambda self: self.fresh)
    @invariant()
    def a_quarantined_row_is_not_there(self) -> None:
        for (_, key), status in self.reconciler.statuses().items():
            if status.quarantined and key not in self.table.delete_failures:
                assert key not in self.table.rows


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


class SteadyLife(Life):
    """The same with a table whose rows, once found as planned, are not compared again."""

    make: Callable[[str], RejectingFakeTable[str, int]] = SteadyFakeTable


TestSteadyLife = SteadyLife.TestCase
TestSteadyLife.settings = TestLife.settings


wanted = st.dictionaries(st.sampled_from("abc"), tables, max_size=3).map(
    lambda some: {name: some.get(name, {}) for name in "abc"}
)


@settings(max_examples=300)
@given(st.lists(st.tuples(wanted, wanted, st.lists(st.booleans(), max_size=3)), max_size=5))
def test_a_round_and_what_it_left_are_as_good_as_one_that_nobody_interrupted(
    history: list[tuple[dict[str, dict[str, int]], dict[str, dict[str, int]], list[bool]]],
) -> None:
    held = {name: SteadyFakeTable(name) for name in "abc"}
    log = held["a"].log
    for table in held.values():
        table.log = log
    reconciler = Reconciler(tuple(held.values()), Backoff())
    for number, (desired, drifted, pressures) in enumerate(history):
        for name, rows in drifted.items():
            held[name].rows.update(rows)
        log.clear()
        answers = iter(pressures)
        pressed = partial(next, answers, False)
        report = reconciler.apply(desired, float(number), pressed=pressed)
        missing = {n for n, rows in desired.items() if not rows.items() <= held[n].rows.items()}
        surplus = {n for n, table in held.items() if table.rows.keys() - desired[n].keys()}
        assert missing | surplus <= report.left
        assert not (report.left and any(verb == "delete" for verb, _, _ in log))
        again = reconciler.apply(desired, float(number), only=report.left)
        assert again.left == frozenset()
        assert {name: table.rows for name, table in held.items()} == desired
        assert reconciler.apply(desired, float(number)).writes == 0
