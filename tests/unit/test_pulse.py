"""Who gives a sign of life: a story of questions and answers, with a clock of its own."""

from __future__ import annotations

from controller.translate.pulse import Pulse, Signs

PATIENCE = 6.0


def after(pulse: Pulse, *steps: tuple[float, int, dict[str, int]]) -> Pulse:
    for now, asked, answered in steps:
        pulse = pulse.seen(Signs(asked, answered), now, PATIENCE)
    return pulse


def test_who_answers_in_time_is_up() -> None:
    pulse = after(
        Pulse(),
        (0, 1, {"n1": 1, "n2": 0}),
        (2, 2, {"n1": 1, "n2": 1}),
        (4, 3, {"n1": 3, "n2": 3}),
        (90, 3, {"n1": 3, "n2": 3}),
    )
    assert pulse.down == frozenset()
    assert pulse.behind == {}


def test_who_owes_an_answer_for_too_long_is_down_and_the_others_are_not() -> None:
    pulse = after(Pulse(), (0, 1, {"n1": 1, "n2": 1}), (2, 2, {"n1": 2, "n2": 1}))
    assert after(pulse, (8, 5, {"n1": 5, "n2": 1})).down == frozenset()
    assert after(pulse, (8.1, 5, {"n1": 5, "n2": 1})).down == {"n2"}


def test_who_is_slow_but_moves_is_up() -> None:
    pulse = Pulse()
    for beat in range(1, 40):
        pulse = after(pulse, (2.0 * beat, beat, {"n1": max(0, beat - 2)}))
        assert pulse.down == frozenset()


def test_who_is_down_is_up_with_its_next_answer_and_not_before() -> None:
    pulse = after(Pulse(), (0, 2, {"n1": 1}), (7, 4, {"n1": 1}))
    assert pulse.down == {"n1"}
    assert after(pulse, (8, 5, {"n1": 1})).down == {"n1"}
    assert after(pulse, (8, 5, {"n1": 5})).down == frozenset()


def test_a_new_watcher_believes_the_last_one_until_it_sees_an_answer() -> None:
    found = Pulse(down=frozenset({"n1", "n2"}))
    found = after(found, (0, 7, {"n1": 7, "n2": 7}))
    assert found.down == {"n1", "n2"}
    assert after(found, (2, 8, {"n1": 7, "n2": 8})).down == {"n1"}


def test_nobody_is_down_while_nobody_asks() -> None:
    pulse = after(Pulse(), (0, 3, {"n1": 3}), (1000, 3, {"n1": 3}))
    assert pulse.down == frozenset()


def test_a_chassis_that_is_gone_is_neither() -> None:
    pulse = after(Pulse(), (0, 2, {"n1": 1}), (7, 4, {"n1": 1}), (9, 5, {}))
    assert pulse.down == frozenset()
    assert pulse.behind == {}


def test_a_chassis_that_starts_anew_with_a_smaller_number_has_moved() -> None:
    pulse = after(Pulse(), (0, 9, {"n1": 8}), (7, 9, {"n1": 8}))
    assert pulse.down == {"n1"}
    assert after(pulse, (8, 9, {"n1": 0})).down == frozenset()
