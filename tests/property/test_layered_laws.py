"""A layered mapping is the dict that the same happened to, and says what differs from another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.translate.changed import Marked, differing
from controller.translate.ovn import LoadBalancer
from dataplane.model import layered
from dataplane.model.layered import Layered

KEYS = "abcdefghijklm"
keys = st.sampled_from(KEYS)
there = st.integers(0, 3).map(lambda value: (value,))
firsts = st.dictionaries(keys, there, max_size=12)
changes = st.dictionaries(keys, st.one_of(st.none(), there), max_size=6)


def _dict_after(before: dict[str, tuple[int]], change: dict[str, tuple[int] | None]) -> None:
    for key, row in change.items():
        if row is None:
            before.pop(key, None)
        else:
            before[key] = row


@given(firsts, st.lists(changes, max_size=12), st.integers(0, 12))
def test_it_is_the_dict_that_the_same_happened_to(
    first: dict[str, tuple[int]], history: list[dict[str, tuple[int] | None]], over: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layered, "OVER_MAX", over)
        kept, plain = Layered(dict(first)), dict(first)
        for change in history:
            before, was = kept, dict(plain)
            kept = kept.changed(change)
            _dict_after(plain, change)
            assert before == was
            assert kept == plain
            assert kept == Layered(dict(plain))
            assert (kept == before) == (plain == was)
            assert len(kept) == len(plain)
            for key in KEYS:
                assert (key in kept) == (key in plain)
                assert kept.get(key) == plain.get(key)
                assert kept.get(key, "none") == plain.get(key, "none")
                if key in plain:
                    assert kept[key] is plain[key]
                else:
                    with pytest.raises(KeyError):
                        kept[key]
            assert dict(kept.items()) == plain
            assert sorted(kept) == sorted(kept.keys()) == sorted(plain)
            assert sorted(kept.values()) == sorted(plain.values())
            assert differing(before, kept) == differing(was, plain)
            assert differing(kept, before) == differing(was, plain)


@given(firsts, st.lists(changes, max_size=6))
def test_between_two_that_share_a_copy_the_difference_takes_no_whole_pass(
    first: dict[str, tuple[int]], history: list[dict[str, tuple[int] | None]]
) -> None:
    before = Layered(dict(first))
    for change in history:
        kept = before.changed(change)
        found = kept.differing(before)
        # A change of more rows than there are makes a copy.
        assert (found is None) == (len(change) > len(first))
        if found is not None:
            assert found == {key for key in change if kept.get(key) is not before.get(key)}
    assert Layered(dict(first)).differing(before) is None


MARKED = LoadBalancer(name="a", vips={}, external_ids={"it": "1"})
PLAIN = LoadBalancer(name="b", vips={})


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from([MARKED, PLAIN, None]))))
def test_who_carries_a_key_is_known_from_change_to_change(
    history: list[dict[str, LoadBalancer | None]],
) -> None:
    marked, kept = Marked("it"), Layered[str, LoadBalancer]({})
    for change in history:
        kept = kept.changed(change)
        wanted = {ref for ref, row in kept.items() if "it" in row.external_ids}
        assert marked.take(kept) == wanted
    assert marked.take({}) == frozenset()
