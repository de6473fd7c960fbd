"""Lists, pages, selectors and watches."""

from __future__ import annotations

import pytest

from tests.apistandin.probe import CONCEPTS, CONVENTIONS, FIELDS, LABELS, Api, cites
from tests.contract.conftest import Place

pytestmark = pytest.mark.contract


def make(api: Api, place: Place, name: str, **labels: str) -> None:
    body = place.config(name) | {"metadata": {"name": name, "labels": labels}}
    assert api.post(place.configs, body).code == 201


def names(items: list[dict[str, dict[str, str]]]) -> list[str]:
    return [item["metadata"]["name"] for item in items]


@cites(CONVENTIONS, "lists-and-simple-kinds")
def test_a_list_has_a_version(api: Api, place: Place) -> None:
    make(api, place, "listed")
    reply = api.get(place.configs)
    assert reply.body["kind"] == "ConfigMapList"
    assert reply.version.isdigit()
    assert "listed" in names(reply.body["items"])
    # Only lists of custom kinds say of each object which kind it is.
    assert not any("kind" in item or "apiVersion" in item for item in reply.body["items"])
    api.post(place.widgets, place.widget("listed"))
    assert {one["kind"] for one in api.get(place.widgets).body["items"]} == {"Widget"}


@cites(CONCEPTS, "efficient-detection-of-changes")
def test_a_watch_replays_what_came_after(api: Api, place: Place) -> None:
    since = api.get(place.configs).version
    make(api, place, "seen", part="replay")
    path = f"{place.configs}/seen"
    api.merge(path, {"data": {"a": "1"}})
    api.delete(path)
    events = api.watch(place.configs, since, labelSelector="part=replay")
    assert [kind for kind, _ in events] == ["ADDED", "MODIFIED", "DELETED"]
    versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in events]
    assert versions == sorted(set(versions))
    assert versions[0] > int(since)
    again = api.watch(place.configs, str(versions[0]), labelSelector="part=replay")
    assert [kind for kind, _ in again] == ["MODIFIED", "DELETED"]


@cites(CONCEPTS, "semantics-for-watch")
def test_a_watch_without_version_begins_with_what_is(api: Api, place: Place) -> None:
    make(api, place, "there", part="state")
    for version in ("", "0"):
        events = api.watch(place.configs, version, labelSelector="part=state")
        assert [(kind, obj["metadata"]["name"]) for kind, obj in events] == [("ADDED", "there")]


@cites(LABELS, "list-and-watch-filtering")
def test_entering_and_leaving_a_selection(api: Api, place: Place) -> None:
    make(api, place, "moves", part="selected", on="no")
    path = f"{place.configs}/moves"
    since = api.get(place.configs).version
    for value in ("yes", "yes-still", "no"):
        api.merge(path, {"metadata": {"labels": {"on": value}}})
    events = api.watch(place.configs, since, labelSelector="part=selected,on notin (no)")
    assert [kind for kind, _ in events] == ["ADDED", "MODIFIED", "DELETED"]


@cites(LABELS, "label-selectors")
def test_label_selectors(api: Api, place: Place) -> None:
    make(api, place, "sel-a", suite="sel", tier="front")
    make(api, place, "sel-b", suite="sel", tier="back")
    make(api, place, "sel-c", suite="sel")
    cases = {
        "suite=sel,tier=front": ["sel-a"],
        "suite=sel,tier!=front": ["sel-b", "sel-c"],
        "suite=sel,tier in (front, back)": ["sel-a", "sel-b"],
        "suite=sel,tier notin (front)": ["sel-b", "sel-c"],
        "suite=sel,tier": ["sel-a", "sel-b"],
        "suite=sel,!tier": ["sel-c"],
    }
    for selector, wanted in cases.items():
        found = api.get(place.configs, labelSelector=selector).body["items"]
        assert names(found) == wanted, selector
    assert api.get(place.configs, labelSelector="a in b").code == 400


@cites(FIELDS, "supported-fields")
def test_field_selectors(api: Api, place: Place) -> None:
    make(api, place, "field")
    found = api.get(place.configs, fieldSelector="metadata.name=field").body["items"]
    assert names(found) == ["field"]
    reply = api.get(place.configs, fieldSelector="data.nothing=1")
    assert (reply.code, reply.body["reason"]) == (400, "BadRequest")


@cites(FIELDS, "supported-fields")
def test_field_selectors_hold_for_watches(api: Api, place: Place) -> None:
    since = api.get(place.configs).version
    make(api, place, "field-watched")
    make(api, place, "field-other")
    events = api.watch(place.configs, since, fieldSelector="metadata.name=field-watched")
    assert [obj["metadata"]["name"] for _, obj in events] == ["field-watched"]


@cites(CONCEPTS, "retrieving-large-results-sets-in-chunks")
def test_pages_are_of_one_version(api: Api, place: Place) -> None:
    for number in range(5):
        make(api, place, f"page-{number}", suite="pages")
    where = {"labelSelector": "suite=pages", "limit": 2}
    first = api.get(place.configs, **where)
    api.delete(f"{place.configs}/page-3")
    make(api, place, "page-35", suite="pages")
    found, token = names(first.body["items"]), first.body["metadata"]["continue"]
    while token:
        page = api.get(place.configs, **where, continue_=token)
        assert page.version == first.version
        found += names(page.body["items"])
        token = page.body["metadata"].get("continue", "")
    assert found == [f"page-{number}" for number in range(5)]


@cites(CONCEPTS, "semantics-for-get-and-list")
def test_an_exact_list_is_of_its_version(api: Api, place: Place) -> None:
    make(api, place, "exact-a", suite="exact")
    then = api.get(place.configs).version
    make(api, place, "exact-b", suite="exact")
    where = {"labelSelector": "suite=exact", "resourceVersion": then}
    exact = api.get(place.configs, **where, resourceVersionMatch="Exact")
    assert (exact.version, names(exact.body["items"])) == (then, ["exact-a"])
    newer = api.get(place.configs, **where, resourceVersionMatch="NotOlderThan")
    assert int(newer.version) >= int(then)


@cites(CONCEPTS, "semantics-for-get-and-list")
def test_a_match_wants_a_version(api: Api, place: Place) -> None:
    assert api.get(place.configs, resourceVersionMatch="Exact").code in (400, 422)
    reply = api.get(place.configs, resourceVersion="0", resourceVersionMatch="Exact")
    assert reply.code in (400, 422)


@cites(CONCEPTS, "unavailable-resource-versions")
def test_a_version_of_the_future_times_out(api: Api, place: Place) -> None:
    beyond = str(int(api.get(place.configs).version) + 1_000_000)
    reply = api.get(place.configs, resourceVersion=beyond, resourceVersionMatch="NotOlderThan")
    assert (reply.code, reply.body["reason"]) == (504, "Timeout")


@cites(CONCEPTS, "410-gone-responses")
def test_a_watch_from_long_ago(api: Api, place: Place) -> None:
    """Either it is still served, or it ends with 410, as a status or as an event."""
    reply = api.get(place.configs, watch="true", resourceVersion="1", timeoutSeconds=1)
    if reply.code == 200:
        errors = [one["object"] for one in reply.body if one["type"] == "ERROR"]
        assert all(error["code"] == 410 for error in errors)
    else:
        assert reply.code == 410


@cites(CONCEPTS, "watch-bookmarks")
def test_bookmarks_carry_a_version_and_nothing_else(api: Api, place: Place) -> None:
    since = api.get(place.configs).version
    reply = api.get(
        place.configs, watch="true", resourceVersion=since, timeoutSeconds=3,
        allowWatchBookmarks="true", labelSelector="nobody=has-this",
    )  # fmt: skip
    for event in reply.body:
        assert event["type"] == "BOOKMARK"
        assert int(event["object"]["metadata"]["resourceVersion"]) >= int(since)
        assert event["object"]["kind"] == "ConfigMap"


@cites(CONCEPTS, "streaming-lists")
def test_a_streamed_list_says_where_it_ends(api: Api, place: Place) -> None:
    make(api, place, "streamed", suite="stream")
    reply = api.get(
        place.configs, watch="true", timeoutSeconds=3, allowWatchBookmarks="true",
        sendInitialEvents="true", resourceVersionMatch="NotOlderThan",
        labelSelector="suite=stream",
    )  # fmt: skip
    assert [one["type"] for one in reply.body[:2]] == ["ADDED", "BOOKMARK"]
    assert reply.body[1]["object"]["metadata"]["annotations"] == {
        "k8s.io/initial-events-end": "true"
    }


@cites(CONCEPTS, "standard-api-terminology")
def test_discovery_names_what_is_served(api: Api, place: Place) -> None:
    core = {one["name"]: one for one in api.get("/api/v1").body["resources"]}
    assert core["configmaps"]["namespaced"] is True
    assert "watch" in core["configmaps"]["verbs"]
    assert "pods/status" in core
    groups = [group["name"] for group in api.get("/apis").body["groups"]]
    assert {"apps", "networking.k8s.io", place.group} <= set(groups)
    widgets = api.get(f"/apis/{place.group}/v1").body
    assert widgets["groupVersion"] == f"{place.group}/v1"
    named = {one["name"]: one for one in widgets["resources"]}
    assert named["widgets"]["shortNames"] == ["wdg"]
    assert "widgets/status" in named
    assert api.get("/apis/no.such.group/v1/things").code == 404
