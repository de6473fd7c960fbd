"""Lists at a revision, in pages with tokens."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from tests.apistandin import failure
from tests.apistandin.failure import Object
from tests.apistandin.selectors import Predicate
from tests.apistandin.store import KindKey, Store


@dataclass(frozen=True, slots=True)
class Page:
    """Objects of a list, the revision that they are of, and where to go on."""

    items: list[Object]
    revision: int
    token: str = ""
    remaining: int | None = None


def page_of(
    store: Store, kind: KindKey, namespace: str, selects: Predicate, limit: int,
    revision: int | None, token: str,
) -> Page:  # fmt: skip
    """Objects that are selected, in the order of their keys; what `revision` is None for is now."""
    at, start = store.revision if revision is None else revision, ("", "")
    if token:
        at, start = read_token(token)
        if at == -1:
            at = store.revision
        elif at < store.compacted:
            text = "The provided continue parameter is too old to display a consistent list "
            text += "result. You can start a new list without the continue parameter, or use "
            text += "the continue token in this response to retrieve the remainder of the "
            text += "results."
            raise failure.gone(text, make_token(-1, start))
    if at < store.compacted:
        raise failure.gone(f"The resourceVersion for the provided list is too old: {at}")
    has = store.of(kind) if at == store.revision else store.snapshot(kind, at)
    keys = sorted(
        key
        for key, obj in has.items()
        if key >= start and (not namespace or key[0] == namespace) and selects(obj)
    )
    if limit and len(keys) > limit:
        return Page(
            [has[key] for key in keys[:limit]],
            at,
            make_token(at, keys[limit]),
            len(keys) - limit,
        )
    return Page([has[key] for key in keys], at)


def make_token(revision: int, start: tuple[str, str]) -> str:
    text = json.dumps({"v": "stand-in", "rv": revision, "start": start})
    return base64.urlsafe_b64encode(text.encode()).decode()


def read_token(token: str) -> tuple[int, tuple[str, str]]:
    try:
        found = json.loads(base64.urlsafe_b64decode(token))
        return int(found["rv"]), (found["start"][0], found["start"][1])
    except (ValueError, KeyError, TypeError, IndexError):
        raise failure.bad_request("continue key is not valid") from None
