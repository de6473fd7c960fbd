"""Custom kinds, their status, server-side apply, and the built-in kinds that we use."""

from __future__ import annotations

from typing import Any

import pytest

from tests.apistandin.probe import (
    APPLY,
    CONCEPTS,
    CONVENTIONS,
    CRDS,
    LEASES,
    POLICIES,
    Api,
    cites,
)
from tests.contract.conftest import Place, definition

pytestmark = pytest.mark.contract


@cites(CRDS, "defaulting")
def test_defaults_are_filled_in(api: Api, place: Place) -> None:
    reply = api.post(place.widgets, place.widget("default", spec={"size": 1}))
    assert reply.code == 201
    assert reply.body["spec"] == {"size": 1, "colour": "grey"}


@cites(CRDS, "defaulting-and-nullable")
def test_null_is_as_good_as_absent(api: Api, place: Place) -> None:
    reply = api.post(place.widgets, place.widget("null", spec={"size": None, "colour": None}))
    assert reply.code == 201
    assert reply.body["spec"] == {"colour": "grey"}


@cites(CRDS, "field-pruning")
def test_unknown_fields_are_pruned(api: Api, place: Place) -> None:
    body = place.widget("prune", spec={"size": 1, "other": {"deep": 1}})
    reply = api.post(place.widgets, body)
    assert "other" not in reply.body["spec"]
    strict = place.widget("prune-strict", spec={"other": 1})
    assert api.post(place.widgets, strict, fieldValidation="Strict").code == 400


@cites(CRDS, "validation")
@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"size": 0}, "spec.size"),
        ({"size": 10}, "spec.size"),
        ({"size": "3"}, "spec.size"),
        ({"colour": "blue"}, "spec.colour"),
        ({"ports": [{"number": 1}]}, "spec.ports[0].name"),
        ({"ports": [{"name": "a"}, {"name": "a"}]}, "spec.ports[1]"),
    ],
)
def test_what_is_wrong_is_named(
    api: Api, place: Place, spec: dict[str, object], field: str
) -> None:
    reply = api.post(place.widgets, place.widget("wrong", spec=spec))
    assert (reply.code, reply.body["reason"]) == (422, "Invalid")
    assert field in [cause["field"] for cause in reply.body["details"]["causes"]]


@cites(CRDS, "validation-rules")
def test_rules_between_fields(api: Api, place: Place) -> None:
    wrong = place.widget("rule", spec={"range": {"low": 5, "high": 2}})
    reply = api.post(place.widgets, wrong)
    assert reply.code == 422
    assert "low is above high" in reply.body["message"]
    right = place.widget("rule", spec={"range": {"low": 2, "high": 5}})
    assert api.post(place.widgets, right).code == 201


@cites(CRDS, "transition-rules")
def test_rules_over_time(api: Api, place: Place) -> None:
    api.post(place.widgets, place.widget("transition", spec={"fixed": "a"}))
    path = f"{place.widgets}/transition"
    reply = api.merge(path, {"spec": {"fixed": "b"}})
    assert reply.code == 422
    assert "fixed may not change" in reply.body["message"]
    assert api.merge(path, {"spec": {"size": 3}}).code == 200


@cites(CRDS, "specifying-a-structural-schema")
def test_a_schema_has_to_be_structural(api: Api, place: Place) -> None:
    body = definition(f"bad.{place.group}")
    version = body["spec"]["versions"][0]  # type: ignore[index]
    del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]["type"]
    reply = api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    assert (reply.code, reply.body["reason"]) == (422, "Invalid")


@cites(CRDS, "create-a-customresourcedefinition")
def test_a_definition_says_that_it_is_established(api: Api, place: Place) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    body = api.get(f"{path}/widgets.{place.group}").body
    conditions = {one["type"]: one["status"] for one in body["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert body["status"]["storedVersions"] == ["v1"]


@cites(CRDS, "delete-a-customresourcedefinition")
def test_a_definition_ends_with_its_objects_and_waits_for_who_holds_them(
    api: Api, place: Place
) -> None:
    body: Any = definition(f"ends.{place.group}")
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    crd = f"{crds}/{body['metadata']['name']}"
    assert api.post(crds, body).code == 201
    widgets = f"/apis/ends.{place.group}/v1/namespaces/{place.namespace}/widgets"
    api.until(widgets, lambda reply: reply.code == 200)
    for name, finalizers in (("free", []), ("held", ["millrace.example/wait"])):
        metadata = {"name": name, "finalizers": finalizers}
        widget = {"apiVersion": f"ends.{place.group}/v1", "kind": "Widget", "metadata": metadata}
        assert api.post(widgets, widget).code == 201
    since = api.get(widgets).version
    assert api.delete(crd).code == 200
    api.until(f"{widgets}/free", lambda reply: reply.code == 404)
    held = api.until(f"{widgets}/held", lambda reply: "deletionTimestamp" in reply.body["metadata"])
    assert held.code == 200
    assert api.get(crd).body["metadata"]["deletionTimestamp"]
    told = [(kind, obj["metadata"]["name"]) for kind, obj in api.watch(widgets, since)]
    assert ("DELETED", "free") in told
    assert ("MODIFIED", "held") in told
    assert api.merge(f"{widgets}/held", {"metadata": {"finalizers": None}}).code == 200
    api.until(crd, lambda reply: reply.code == 404)
    api.until(widgets, lambda reply: reply.code == 404)


@cites(CRDS, "status-subresource")
def test_status_is_apart(api: Api, place: Place) -> None:
    body = place.widget("apart", spec={"size": 1}, status={"phase": "mine"})
    made = api.post(place.widgets, body).body
    assert "status" not in made
    assert made["metadata"]["generation"] == 1
    path = f"{place.widgets}/apart"
    told = api.merge(f"{path}/status", {"status": {"phase": "up"}, "spec": {"size": 2}})
    assert told.code == 200
    assert (told.body["spec"]["size"], told.body["status"]) == (1, {"phase": "up"})
    assert told.body["metadata"]["generation"] == 1
    changed = api.merge(path, {"status": {"phase": "down"}, "spec": {"size": 3}})
    assert (changed.body["spec"]["size"], changed.body["status"]) == (3, {"phase": "up"})
    assert changed.body["metadata"]["generation"] == 2


@cites(CRDS, "status-subresource")
def test_status_has_versions_too(api: Api, place: Place) -> None:
    made = api.post(place.widgets, place.widget("status-version", spec={})).body
    path = f"{place.widgets}/status-version/status"
    assert api.put(path, made | {"status": {"seen": 1}}).code == 200
    assert api.put(path, made | {"status": {"seen": 2}}).code == 409


@cites(CONVENTIONS, "concurrency-control-and-consistency")
def test_a_patch_of_a_status_heeds_the_version_and_no_uid(api: Api, place: Place) -> None:
    first = api.post(place.widgets, place.widget("reborn", spec={})).body["metadata"]
    path = f"{place.widgets}/reborn/status"
    assert api.merge(path, {"status": {"seen": 1}}).code == 200
    stale = {"metadata": {"resourceVersion": first["resourceVersion"]}, "status": {"seen": 2}}
    assert api.merge(path, stale).code == 409
    stranger = {"uid": "6a2b9f0e-0000-4000-8000-000000000000"}
    told = api.merge(path, {"metadata": stranger, "status": {"seen": 3}})
    assert (told.code, told.body["status"], told.body["metadata"]["uid"]) == (
        200, {"seen": 3}, first["uid"],
    )  # fmt: skip


@cites(CONVENTIONS, "concurrency-control-and-consistency")
def test_a_custom_put_needs_a_version(api: Api, place: Place) -> None:
    api.post(place.widgets, place.widget("versioned", spec={}))
    reply = api.put(f"{place.widgets}/versioned", place.widget("versioned", spec={"size": 1}))
    assert reply.code == 422


@cites(CONCEPTS, "patch-and-apply")
def test_custom_kinds_know_no_strategic_patch(api: Api, place: Place) -> None:
    api.post(place.widgets, place.widget("strategic", spec={}))
    reply = api.strategic(f"{place.widgets}/strategic", {"spec": {"size": 1}})
    assert reply.code == 415


@cites(APPLY, "field-management")
def test_apply_creates_and_owns(api: Api, place: Place) -> None:
    path = f"{place.widgets}/applied"
    reply = api.apply(path, place.widget("applied", spec={"size": 1}), "one")
    assert reply.code == 201
    [entry] = reply.body["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("one", "Apply")
    assert entry["fieldsV1"] == {"f:spec": {"f:size": {}}}
    again = api.apply(path, place.widget("applied", spec={"size": 1}), "one")
    assert (again.code, again.version) == (200, reply.version)


@cites(APPLY, "conflicts")
def test_apply_conflicts_and_force(api: Api, place: Place) -> None:
    path = f"{place.widgets}/contended"
    api.apply(path, place.widget("contended", spec={"size": 1}), "one")
    wanted = place.widget("contended", spec={"size": 2})
    reply = api.apply(path, wanted, "two")
    assert (reply.code, reply.body["reason"]) == (409, "Conflict")
    assert "one" in reply.body["message"]
    assert reply.body["details"]["causes"][0]["field"] == ".spec.size"
    assert reply.body["details"]["causes"][0]["reason"] == "FieldManagerConflict"
    forced = api.apply(path, wanted, "two", force="true")
    assert forced.body["spec"]["size"] == 2
    owners = [entry["manager"] for entry in forced.body["metadata"]["managedFields"]]
    assert owners == ["two"]


@cites(APPLY, "field-management")
def test_apply_takes_away_what_it_no_longer_says(api: Api, place: Place) -> None:
    path = f"{place.widgets}/shrinks"
    ports = [{"name": "a", "number": 1}, {"name": "b", "number": 2}]
    api.apply(path, place.widget("shrinks", spec={"size": 1, "ports": ports}), "one")
    api.apply(path, place.widget("shrinks", spec={"ports": [{"name": "c"}]}), "two")
    reply = api.apply(path, place.widget("shrinks", spec={"ports": ports[1:]}), "one")
    assert "size" not in reply.body["spec"]
    assert [port["name"] for port in reply.body["spec"]["ports"]] == ["b", "c"]


@cites(APPLY, "field-management")
def test_an_object_that_was_empty_is_filled(api: Api, place: Place) -> None:
    path = f"{place.widgets}/filled"
    api.apply(path, place.widget("filled", spec={}), "one")
    reply = api.apply(path, place.widget("filled", spec={"size": 2}), "one")
    assert reply.body["spec"]["size"] == 2
    [entry] = reply.body["metadata"]["managedFields"]
    assert entry["fieldsV1"] == {"f:spec": {"f:size": {}}}


@cites(APPLY, "field-management")
def test_shared_fields_stay(api: Api, place: Place) -> None:
    path = f"{place.widgets}/shared"
    for manager in ("one", "two"):
        api.apply(path, place.widget("shared", spec={"size": 1}), manager)
    reply = api.apply(path, place.widget("shared"), "one")
    assert reply.body["spec"]["size"] == 1


@cites(APPLY, "field-management")
def test_updates_take_fields_over(api: Api, place: Place) -> None:
    path = f"{place.widgets}/taken"
    api.apply(path, place.widget("taken", spec={"size": 1, "fixed": "x"}), "one")
    reply = api.merge(path, {"spec": {"size": 2}}, fieldManager="other")
    entries = {
        (entry["manager"], entry["operation"]): entry["fieldsV1"]
        for entry in reply.body["metadata"]["managedFields"]
    }
    assert entries["other", "Update"] == {"f:spec": {"f:size": {}}}
    assert entries["one", "Apply"] == {"f:spec": {"f:fixed": {}}}


@cites(APPLY, "field-management")
def test_status_has_managers_of_its_own(api: Api, place: Place) -> None:
    path = f"{place.widgets}/status-managed"
    api.apply(path, place.widget("status-managed", spec={"size": 1}), "one")
    body = place.widget("status-managed", status={"phase": "up"})
    reply = api.apply(f"{path}/status", body, "one")
    assert reply.code == 200
    subs = sorted(entry.get("subresource", "") for entry in reply.body["metadata"]["managedFields"])
    assert subs == ["", "status"]


@cites(APPLY, "api-implementation")
def test_apply_needs_a_manager(api: Api, place: Place) -> None:
    media = "application/apply-patch+yaml"
    body = place.widget("nobody", spec={})
    assert api.ask("PATCH", f"{place.widgets}/nobody", body, media, {}).code in (400, 422)


@cites(LEASES, "leader-election")
def test_leases_are_taken_once(api: Api, place: Place) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{place.namespace}/leases"
    time = "2026-01-01T00:00:00.000000Z"
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 15, "acquireTime": time}
    body = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "led"},
        "spec": spec,
    }
    made = api.post(path, body)
    assert (made.code, made.body["spec"]) == (201, spec)
    first = api.put(f"{path}/led", made.body | {"spec": spec | {"holderIdentity": "b"}})
    second = api.put(f"{path}/led", made.body | {"spec": spec | {"holderIdentity": "c"}})
    assert (first.code, second.code) == (200, 409)
    without = {key: value for key, value in body.items() if key != "status"}
    assert api.put(f"{path}/led", without).code == 422


@cites(CONVENTIONS, "events")
def test_events_lie_beside_what_they_are_about(api: Api, place: Place) -> None:
    path = f"/api/v1/namespaces/{place.namespace}/events"
    about = {"kind": "ConfigMap", "name": "x", "namespace": place.namespace}
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "x.1"},
        "involvedObject": about,
        "reason": "Tried",
        "message": "m",
        "type": "Normal",
        "source": {"component": "millrace"},
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "count": 1,
    }
    assert api.post(path, body).code == 201
    assert api.merge(f"{path}/x.1", {"count": 2}).body["count"] == 2
    found = api.get(path, fieldSelector="involvedObject.name=x,reason=Tried").body["items"]
    assert len(found) == 1
    elsewhere = body | {"involvedObject": about | {"namespace": "default"}}
    assert api.post(path, elsewhere | {"metadata": {"name": "x.2"}}).code == 422


@cites(POLICIES, "networkpolicy-resource")
def test_policies_are_completed_and_checked(api: Api, place: Place) -> None:
    path = f"/apis/networking.k8s.io/v1/namespaces/{place.namespace}/networkpolicies"

    def policy(name: str, **spec: object) -> dict[str, object]:
        version = "networking.k8s.io/v1"
        metadata = {"name": name}
        return {
            "apiVersion": version, "kind": "NetworkPolicy", "metadata": metadata,
            "spec": {"podSelector": {}, **spec},
        }  # fmt: skip

    made = api.post(path, policy("a", egress=[{"ports": [{"port": 53}]}])).body
    assert made["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert made["spec"]["egress"][0]["ports"][0]["protocol"] == "TCP"
    backwards = policy("b", ingress=[{"ports": [{"port": 90, "endPort": 80}]}])
    reply = api.post(path, backwards)
    assert reply.code == 422
    assert reply.body["details"]["causes"][0]["field"] == "spec.ingress[0].ports[0].endPort"
    block = {"cidr": "10.0.0.0/24", "except": ["10.1.0.0/28"]}
    outside = policy("c", ingress=[{"from": [{"ipBlock": block}]}])
    assert api.post(path, outside).code == 422
