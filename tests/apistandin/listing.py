"""Parameters of lists and watches: what they mean, together and alone."""

from __future__ import annotations

import random
from collections.abc import Mapping

from tests.apistandin import failure, selectors
from tests.apistandin.cluster import Cluster
from tests.apistandin.failure import Failure, Object
from tests.apistandin.kinds import Kind
from tests.apistandin.paths import Target
from tests.apistandin.selectors import Predicate
from tests.apistandin.steps import served_as
from tests.apistandin.watching import Watch

_LIST = {
    "labelSelector", "fieldSelector", "limit", "continue", "resourceVersion",
    "resourceVersionMatch", "timeoutSeconds", "watch", "allowWatchBookmarks", "pretty",
    "sendInitialEvents",
}  # fmt: skip
TOO_LARGE_WAIT_S = 3.0


def only(query: Mapping[str, str], known: set[str]) -> None:
    """Refuse parameters that would have no effect here."""
    for name in query:
        if name not in known:
            raise failure.not_implemented(f"the parameter {name}")
    if query.get("pretty") in ("1", "true"):
        raise failure.not_implemented("pretty answers")


def revision(query: Mapping[str, str]) -> int | None:
    """The resourceVersion that is asked for; None if none is."""
    text = query.get("resourceVersion", "")
    if not text:
        return None
    if not text.isdigit():
        raise failure.bad_request(f"invalid resource version: {text}")
    return int(text)


def selection(kind: Kind, query: Mapping[str, str]) -> Predicate:
    labels = selectors.labels(query.get("labelSelector", ""))
    fields = selectors.fields(query.get("fieldSelector", ""), kind.fields)
    if labels is selectors.everything:
        return fields
    return lambda obj: labels(obj) and fields(obj)


async def reach(cluster: Cluster, wanted: int | None) -> None:
    """Wait a little for a revision that is not there yet.

    Raises:
        Failure: 504, it did not come.
    """
    if wanted is None or wanted <= cluster.store.revision:
        return
    store = cluster.store
    if not await store.wait(lambda: store.revision >= wanted, TOO_LARGE_WAIT_S):
        text = f"Too large resource version: {wanted}, current: {store.revision}"
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        raise Failure(504, "Timeout", text, {"causes": [cause]}, retry_after=1)


def _invalid(field: str, why: str) -> Failure:
    cause = failure.Cause(field, why)
    return failure.invalid("meta.k8s.io", "ListOptions", "", [cause])


def as_list(kind: Kind, items: list[Object], at: int, **metadata: object) -> Object:
    return {
        "kind": kind.list_kind or f"{kind.kind}List",
        "apiVersion": kind.api_version,
        "metadata": {"resourceVersion": str(at), **metadata},
        "items": [_as_item(kind, item) for item in items],
    }


def _as_item(kind: Kind, obj: Object) -> Object:
    """An object within a list: those of built-in kinds do not say again of which kind they are."""
    served = served_as(kind, obj)
    if kind.custom:
        return served
    return {key: value for key, value in served.items() if key not in ("apiVersion", "kind")}


async def answer(cluster: Cluster, target: Target, query: Mapping[str, str], back: int) -> Object:
    """The list that is asked for, or one of `back` revisions ago."""
    only(query, _LIST - {"sendInitialEvents"})
    wanted, match = revision(query), query.get("resourceVersionMatch", "")
    token, limit = query.get("continue", ""), int(query.get("limit") or 0)
    if limit < 0:
        raise _invalid("limit", "Invalid value: must be greater than or equal to 0")
    _check_match(wanted, match, token)
    await reach(cluster, wanted)
    exact = match == "Exact" or (wanted not in (None, 0) and bool(limit) and not match)
    at = wanted if exact else None
    if back and not token:
        at = max(cluster.store.compacted, cluster.store.revision - back, 1)
    selects = selection(target.kind, query)
    page = cluster.page(
        target.kind, target.namespace, selects, limit=limit, revision=at, token=token
    )
    metadata: Object = {}
    if page.token:
        metadata["continue"] = page.token
        if selects is selectors.everything:
            metadata["remainingItemCount"] = page.remaining
    return as_list(target.kind, page.items, page.revision, **metadata)


def _check_match(wanted: int | None, match: str, token: str) -> None:
    if token and wanted:
        text = "specifying resource version is not allowed when using continue"
        raise failure.bad_request(text)
    if not match:
        return
    if match not in ("Exact", "NotOlderThan"):
        raise _invalid("resourceVersionMatch", f'Unsupported value: "{match}"')
    if token:
        raise _invalid("resourceVersionMatch", "Forbidden: is forbidden when continue is provided")
    if wanted is None:
        text = "Forbidden: is forbidden unless resourceVersion is provided"
        raise _invalid("resourceVersionMatch", text)
    if wanted == 0 and match == "Exact":
        text = 'Forbidden: "Exact" is forbidden for resourceVersion "0"'
        raise _invalid("resourceVersionMatch", text)


def watch(cluster: Cluster, target: Target, query: Mapping[str, str]) -> Watch:
    """The watch that is asked for."""
    only(query, _LIST)
    wanted, match = revision(query), query.get("resourceVersionMatch", "")
    initial = query.get("sendInitialEvents", "")
    if query.get("continue"):
        raise _invalid("continue", "Forbidden: is forbidden for watch")
    if initial and match != "NotOlderThan":
        text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        raise _invalid("resourceVersionMatch", text)
    if match and not initial:
        text = "Forbidden: is forbidden for watch unless sendInitialEvents is provided"
        raise _invalid("resourceVersionMatch", text)
    if initial == "true" and wanted not in (None, 0):
        raise failure.not_implemented("sendInitialEvents from a revision")
    begins = wanted if wanted and initial != "true" else None
    if initial == "false" and begins is None:
        begins = cluster.store.revision
    # The real server chooses between half an hour and an hour.
    timeout = float(query.get("timeoutSeconds") or random.uniform(1800, 3600))
    return Watch(
        target.kind, target.namespace, selection(target.kind, query), begins,
        query.get("allowWatchBookmarks") in ("1", "true"), initial == "true", timeout,
    )  # fmt: skip
