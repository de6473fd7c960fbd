"""Small integers for objects that the kernel must name by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

K = TypeVar("K")


class OutOfIds(Exception):
    """More objects are wanted than the table has room for."""


def allocate(held: Mapping[K, int], wanted: Iterable[K], limit: int) -> dict[K, int]:
    """An id in 1..limit for each wanted key; a key that holds one keeps it.

    New keys take the smallest free ids in the order given, so the result depends on nothing but
    the arguments. Ids of keys no longer wanted are free again, but only after every id that is
    still held by somebody: a number must not change its meaning while old entries refer to it.

    Raises:
        OutOfIds: more than `limit` keys are wanted.
    """
    keys = list(dict.fromkeys(wanted))
    if len(keys) > limit:
        msg = f"{len(keys)} objects need an id and there is room for {limit}"
        raise OutOfIds(msg)
    taken: dict[K, int] = {}
    used: set[int] = set()
    for key in keys:
        number = held.get(key)
        if number is not None and 1 <= number <= limit and number not in used:
            taken[key] = number
            used.add(number)
    # Prefer numbers that nobody held: flows in progress may still refer to a retired one.
    retired = sorted({number for number in held.values() if 1 <= number <= limit} - used)
    fresh = iter(number for number in range(1, limit + 1) if number not in used)
    avoid = set(retired)
    spare = iter(retired)
    for key in keys:
        if key in taken:
            continue
        number = next((n for n in fresh if n not in avoid), None)
        taken[key] = number if number is not None else next(spare)
    return taken
