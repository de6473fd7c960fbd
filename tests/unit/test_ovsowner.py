"""Which keys of the Open_vSwitch row are ours: notes, hands, and lists of older releases."""

from __future__ import annotations

from dataplane.model.rows import OvsSetting
from dataplane.plan.ovsowner import Owned

NAMED, COMPUTED = OvsSetting("5"), OvsSetting("group", computed=True)
A, B = ("other_config", "max-idle"), ("other_config", "pmd-rxq-assign")


def written(
    columns: dict[str, dict[str, str]], wanted: dict[tuple[str, str], OvsSetting], *dropped: object
) -> dict[str, dict[str, str]]:
    """The row after a change."""
    writes, after = Owned.noted(columns["external_ids"]).change(
        wanted,
        [key for key in (A, B) if key in dropped],
        columns,
    )
    row = {name: dict(pairs) for name, pairs in columns.items()}
    notes = {("external_ids", key): text or None for key, text in after.notes().items()}
    for (column, key), value in {**writes, **notes}.items():
        row[column].pop(key, None)
        if value is not None:
            row[column][key] = value
    return row


EMPTY: dict[str, dict[str, str]] = {"other_config": {}, "external_ids": {}}


def test_what_is_written_is_ours_and_goes_again() -> None:
    row = written(EMPTY, {A: NAMED, B: COMPUTED})
    assert Owned.noted(row["external_ids"]).settings(row) == {A: NAMED, B: COMPUTED}
    assert written(row, {}, A, B)["other_config"] == {}


def test_a_hand_wins_over_what_was_computed_and_not_over_what_is_named() -> None:
    hand = {"other_config": {"max-idle": "9 9", "pmd-rxq-assign": "cycles"}, "external_ids": {}}
    row = written(hand, {A: NAMED, B: COMPUTED})
    assert row["other_config"] == {"max-idle": "5", "pmd-rxq-assign": "cycles"}
    owned = Owned.noted(row["external_ids"])
    assert owned.foreign(row["other_config"]) == {"pmd-rxq-assign": "cycles"}
    assert owned.overwrote == {"max-idle": "9 9"}


def test_a_computed_value_that_a_hand_changed_is_the_hands_from_then_on() -> None:
    row = written(EMPTY, {A: NAMED, B: COMPUTED})
    row["other_config"] |= {"pmd-rxq-assign": "cycles", "max-idle": "7"}
    owned = Owned.noted(row["external_ids"])
    assert owned.foreign(row["other_config"]) == {"pmd-rxq-assign": "cycles"}
    assert written(row, {A: NAMED, B: COMPUTED})["other_config"]["pmd-rxq-assign"] == "cycles"
    assert written(row, {}, A, B)["other_config"] == {"pmd-rxq-assign": "cycles"}


def test_a_list_of_an_older_release_is_ours_whatever_the_values() -> None:
    row = {
        "other_config": {"max-idle": "7", "theirs": "1"},
        "external_ids": {
            "millrace-keys": "other_config:max-idle",
            "millrace-computed": "max-idle=0",
        },
    }
    owned = Owned.noted(row["external_ids"])
    assert owned.foreign(row["other_config"]) == {"theirs": "1"}
    assert "v2" in written(row, {A: NAMED})["external_ids"]["millrace-keys"].split()
