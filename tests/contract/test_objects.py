"""Writing and reading objects: metadata, conflicts, patches, deletion."""

from __future__ import annotations

import pytest

from tests.apistandin.probe import CONCEPTS, CONVENTIONS, FINALIZERS, NAMES, PATCHES, Api, cites
from tests.contract.conftest import Place

pytestmark = pytest.mark.contract


@cites(CONVENTIONS, "metadata")
def test_create_gives_identity(api: Api, place: Place) -> None:
    reply = api.post(place.configs, place.config("identity", data={"a": "1"}))
    assert reply.code == 201
    metadata = reply.body["metadata"]
    assert metadata["uid"] and metadata["resourceVersion"] and metadata["creationTimestamp"]
    assert metadata["namespace"] == place.namespace
    assert api.get(f"{place.configs}/identity").body == reply.body


@cites(CONVENTIONS, "response-status-kind")
def test_refusals_are_status_objects(api: Api, place: Place) -> None:
    reply = api.get(f"{place.configs}/nothing-here")
    assert reply.code == 404
    assert reply.headers["Content-Type"] == "application/json"
    body = reply.body
    assert (body["kind"], body["status"], body["code"]) == ("Status", "Failure", 404)
    assert body["reason"] == "NotFound"
    assert body["details"]["name"] == "nothing-here"


@cites(CONVENTIONS, "http-status-codes")
def test_a_name_is_taken_once(api: Api, place: Place) -> None:
    assert api.post(place.configs, place.config("once")).code == 201
    reply = api.post(place.configs, place.config("once"))
    assert (reply.code, reply.body["reason"]) == (409, "AlreadyExists")


@cites(CONVENTIONS, "idempotency")
def test_generated_names(api: Api, place: Place) -> None:
    body = place.config("x") | {"metadata": {"generateName": "made-"}}
    names = {api.post(place.configs, body).body["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("made-") and len(name) == 10 for name in names)
    long = place.config("x") | {"metadata": {"generateName": "m" * 200}}
    assert len(api.post(place.configs, long).body["metadata"]["name"]) == 63


@cites(NAMES, "dns-subdomain-names")
def test_names_are_subdomains(api: Api, place: Place) -> None:
    reply = api.post(place.configs, place.config("Not_A_Name"))
    assert (reply.code, reply.body["reason"]) == (422, "Invalid")
    assert reply.body["details"]["causes"][0]["field"] == "metadata.name"


@cites(CONCEPTS, "resource-uris")
def test_a_namespace_has_to_exist(api: Api, place: Place) -> None:
    reply = api.post("/api/v1/namespaces/no-such-namespace-here/configmaps", place.config("a"))
    assert (reply.code, reply.body["reason"]) == (404, "NotFound")


@cites(CONVENTIONS, "concurrency-control-and-consistency")
def test_a_stale_write_is_refused(api: Api, place: Place) -> None:
    first = api.post(place.configs, place.config("stale", data={"n": "1"})).body
    second = api.put(f"{place.configs}/stale", first | {"data": {"n": "2"}})
    assert second.code == 200
    assert second.version != first["metadata"]["resourceVersion"]
    third = api.put(f"{place.configs}/stale", first | {"data": {"n": "3"}})
    assert (third.code, third.body["reason"]) == (409, "Conflict")
    assert api.get(f"{place.configs}/stale").body["data"] == {"n": "2"}


@cites(CONVENTIONS, "concurrency-control-and-consistency")
def test_a_patch_with_a_stale_version_is_refused(api: Api, place: Place) -> None:
    made = api.post(place.configs, place.config("stale-patch", data={"n": "1"}))
    path = f"{place.configs}/stale-patch"
    assert api.merge(path, {"data": {"n": "2"}}).code == 200
    body = {"metadata": {"resourceVersion": made.version}, "data": {"n": "3"}}
    assert api.merge(path, body).code == 409


@cites(CONVENTIONS, "verbs-on-resources")
def test_put_replaces_the_whole(api: Api, place: Place) -> None:
    made = api.post(place.configs, place.config("whole", data={"a": "1", "b": "2"}))
    body = made.body | {"data": {"b": "3"}}
    assert api.put(f"{place.configs}/whole", body).body["data"] == {"b": "3"}


@cites(CONVENTIONS, "verbs-on-resources")
def test_put_checks_the_name_of_the_path(api: Api, place: Place) -> None:
    made = api.post(place.configs, place.config("path"))
    assert api.put(f"{place.configs}/other-path", made.body).code == 400


@cites(CONVENTIONS, "metadata")
def test_a_write_for_another_uid_is_refused(api: Api, place: Place) -> None:
    made = api.post(place.configs, place.config("uid")).body
    metadata = {"name": "uid", "uid": "6a2b9f0e-0000-4000-8000-000000000000"}
    assert api.put(f"{place.configs}/uid", made | {"metadata": metadata}).code == 409
    # A PUT's uid is a precondition, a patch's the change of a field that cannot change.
    assert api.merge(f"{place.configs}/uid", {"metadata": metadata}).code == 422


@cites(CONCEPTS, "patch-and-apply")
def test_a_write_without_difference_keeps_the_version(api: Api, place: Place) -> None:
    made = api.post(place.configs, place.config("same", data={"a": "1"}))
    assert api.merge(f"{place.configs}/same", {"data": {"a": "1"}}).version == made.version
    assert api.put(f"{place.configs}/same", made.body).version == made.version


@cites(PATCHES, "use-a-json-merge-patch-to-update-a-deployment")
def test_merge_patch(api: Api, place: Place) -> None:
    api.post(place.configs, place.config("merge", data={"a": "1", "b": "2"}))
    reply = api.merge(f"{place.configs}/merge", {"data": {"a": None, "c": "3"}})
    assert reply.body["data"] == {"b": "2", "c": "3"}


@cites(CONCEPTS, "patch-and-apply")
def test_json_patch(api: Api, place: Place) -> None:
    metadata = {"name": "json", "annotations": {"a": "1"}}
    api.post(place.configs, place.config("json", data={"a": "1"}, metadata=metadata))
    path = f"{place.configs}/json"
    test = {"op": "test", "path": "/data/a", "value": "1"}
    add = {"op": "add", "path": "/metadata/annotations/x~1y", "value": "2"}
    both = {"a": "1", "x/y": "2"}
    assert api.json_patch(path, [test, add]).body["metadata"]["annotations"] == both
    wrong = {"op": "test", "path": "/data/a", "value": "no"}
    assert api.json_patch(path, [wrong, {"op": "remove", "path": "/data/a"}]).code == 422
    assert api.get(path).body["data"] == {"a": "1"}
    assert api.json_patch(path, [{"op": "add", "path": "/data/x~1y", "value": "2"}]).code == 422


@cites(PATCHES, "use-a-strategic-merge-patch-to-update-a-deployment")
def test_strategic_patch_merges_lists_by_key(api: Api, place: Place) -> None:
    services = f"/api/v1/namespaces/{place.namespace}/services"
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "strategic"},
        "spec": {"ports": ports},
    }
    assert api.post(services, body).code == 201
    path = f"{services}/strategic"
    reply = api.strategic(path, {"spec": {"ports": [{"port": 81, "targetPort": 9000}]}})
    found = {port["name"]: port["targetPort"] for port in reply.body["spec"]["ports"]}
    assert found == {"a": 80, "b": 9000}
    deletes = {"spec": {"ports": [{"port": 80, "$patch": "delete"}]}}
    assert [port["name"] for port in api.strategic(path, deletes).body["spec"]["ports"]] == ["b"]


@cites(CONCEPTS, "patch-and-apply")
def test_a_patch_of_no_known_type_is_refused(api: Api, place: Place) -> None:
    api.post(place.configs, place.config("media"))
    assert api.ask("PATCH", f"{place.configs}/media", {}, "application/json", {}).code == 415


@cites(CONCEPTS, "resource-deletion")
def test_delete_answers_success_and_it_is_gone(api: Api, place: Place) -> None:
    api.post(place.configs, place.config("goes"))
    reply = api.delete(f"{place.configs}/goes")
    assert (reply.code, reply.body["status"]) == (200, "Success")
    assert api.get(f"{place.configs}/goes").code == 404
    assert api.delete(f"{place.configs}/goes").code == 404


@cites(CONVENTIONS, "concurrency-control-and-consistency")
def test_delete_with_preconditions(api: Api, place: Place) -> None:
    made = api.post(place.configs, place.config("guarded")).body["metadata"]
    path = f"{place.configs}/guarded"
    for wrong in ({"uid": "6a2b9f0e-0000-4000-8000-000000000000"}, {"resourceVersion": "1"}):
        reply = api.delete(path, {"preconditions": wrong})
        assert (reply.code, reply.body["reason"]) == (409, "Conflict")
    right = {"uid": made["uid"], "resourceVersion": made["resourceVersion"]}
    assert api.delete(path, {"preconditions": right}).code == 200


@cites(FINALIZERS, "how-finalizers-work")
def test_finalizers_hold_the_end_up(api: Api, place: Place) -> None:
    body = place.config("held") | {
        "metadata": {"name": "held", "finalizers": ["millrace.example/wait"]}
    }
    made = api.post(place.configs, body)
    path = f"{place.configs}/held"
    ending = api.delete(path)
    assert ending.code == 200
    held = api.get(path).body["metadata"]
    assert held["deletionTimestamp"]
    assert held["resourceVersion"] != made.version
    more = {"metadata": {"finalizers": ["millrace.example/wait", "millrace.example/late"]}}
    assert api.merge(path, more).code == 422
    assert api.get(path).code == 200
    assert api.merge(path, {"metadata": {"finalizers": None}}).code == 200
    assert api.get(path).code == 404


@cites(CONCEPTS, "dry-run")
def test_a_dry_run_leaves_nothing(api: Api, place: Place) -> None:
    reply = api.post(place.configs, place.config("dry"), dryRun="All")
    assert reply.code == 201
    assert api.get(f"{place.configs}/dry").code == 404


@cites(CONCEPTS, "field-validation")
def test_unknown_fields(api: Api, place: Place) -> None:
    body = place.config("unknown", surprise="x")
    strict = api.post(place.configs, body, fieldValidation="Strict")
    assert (strict.code, strict.body["reason"]) == (400, "BadRequest")
    warned = api.post(place.configs, body)
    assert warned.code == 201
    assert "surprise" not in warned.body
    assert "surprise" in warned.headers["Warning"]


@cites(CONCEPTS, "resource-deletion")
def test_a_collection_is_deleted_by_selector(api: Api, place: Place) -> None:
    for number in range(3):
        labels = {"sweep": "yes" if number else "no"}
        metadata = {"name": f"sweep-{number}", "labels": labels}
        api.post(place.configs, place.config("x") | {"metadata": metadata})
    assert api.delete(place.configs, labelSelector="sweep=yes").code == 200
    left = api.get(place.configs, labelSelector="sweep").body["items"]
    assert [one["metadata"]["name"] for one in left] == ["sweep-0"]
