"""The stand-in refuses what it does not do, and its faults are what they are called."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from tests.apistandin import cel, crds, patches, schemas, structural
from tests.apistandin.failure import Failure
from tests.apistandin.faults import Fault
from tests.apistandin.probe import JSON, Api
from tests.apistandin.thread import Threaded, running

CONFIGS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture(scope="module")
def standin() -> Iterator[Threaded]:
    with running() as api:
        yield api


@pytest.fixture
def api(standin: Threaded) -> Api:
    return Api(standin.url)


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/openapi/v3", {}),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", {}),
        ("GET", "/api/v1/persistentvolumes", {}),
        ("GET", "/api/v1/namespaces/default/pods/a/log", {}),
        ("GET", "/api/v1/namespaces/default/pods/a", {"watch": "true"}),
        ("GET", CONFIGS, {"shardSelector": "x"}),
        ("GET", CONFIGS, {"pretty": "true"}),
        ("GET", CONFIGS, {"watch": "true", "sendInitialEvents": "true", "resourceVersion": "3",
                          "resourceVersionMatch": "NotOlderThan"}),
        ("DELETE", f"{CONFIGS}/here", {"propagationPolicy": "Foreground"}),
    ],
)  # fmt: skip
def test_what_is_not_implemented_says_so(
    api: Api, method: str, path: str, query: dict[str, str]
) -> None:
    metadata = {"name": "here"}
    api.post(CONFIGS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    reply = api.ask(method, path, None, JSON, query)
    assert (reply.code, reply.body["reason"]) == (501, "NotImplemented")


@pytest.mark.parametrize("what", ["patternFoo", "x-kubernetes-preserve-more"])
def test_keywords_of_schemas_that_are_not_known_are_501(api: Api, what: str) -> None:
    from tests.contract.conftest import definition

    body: Any = definition("odd.example")
    root = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    root["properties"]["spec"][what] = True
    reply = api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    assert reply.code == 501
    assert what in reply.body["message"]


def test_faults(standin: Threaded, api: Api) -> None:
    standin.do(lambda at: at.faults.add(Fault.STATUS, 429, times=1, retry_after=3))
    reply = api.get(CONFIGS)
    assert (reply.code, reply.headers["Retry-After"]) == (429, "3")
    standin.do(lambda at: at.faults.add(Fault.DROP_AFTER, times=1, verbs=frozenset({"create"})))
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dropped"}}
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        api.post(CONFIGS, body)
    assert api.get(f"{CONFIGS}/dropped").code == 200
    version = api.get(CONFIGS).version
    standin.do(lambda at: at.cluster.store.compact())
    assert api.merge(f"{CONFIGS}/dropped", {"data": {"a": "1"}}).code == 200
    standin.do(lambda at: at.cluster.store.compact())
    events = api.get(CONFIGS, watch="true", resourceVersion=version, timeoutSeconds=1).body
    assert [(one["type"], one["object"]["code"]) for one in events] == [("ERROR", 410)]
    exact = api.get(CONFIGS, resourceVersion=version, resourceVersionMatch="Exact")
    assert (exact.code, exact.body["reason"]) == (410, "Expired")


def test_a_token_that_expired_offers_another(standin: Threaded, api: Api) -> None:
    for name in ("token-a", "token-b", "token-c"):
        api.post(CONFIGS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
    token = api.get(CONFIGS, limit=1).body["metadata"]["continue"]
    api.merge(f"{CONFIGS}/token-a", {"data": {"a": "1"}})
    standin.do(lambda at: at.cluster.store.compact())
    reply = api.get(CONFIGS, limit=1, continue_=token)
    assert reply.code == 410
    other = api.get(CONFIGS, continue_=reply.body["metadata"]["continue"])
    assert other.code == 200
    assert "token-c" in [one["metadata"]["name"] for one in other.body["items"]]


def test_namespaces_end_with_what_is_in_them(api: Api) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ends"}}
    api.post("/api/v1/namespaces", space)
    inside = "/api/v1/namespaces/ends/configmaps"
    metadata = {"name": "held", "finalizers": ["x.example/wait"]}
    api.post(inside, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    api.delete("/api/v1/namespaces/ends")
    assert api.get("/api/v1/namespaces/ends").body["status"]["phase"] == "Terminating"
    late = api.post(inside, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "l"}})
    assert late.code == 403
    api.merge(f"{inside}/held", {"metadata": {"finalizers": None}})
    assert api.get("/api/v1/namespaces/ends").code == 404


def test_a_namespace_of_what_has_none_and_nulls_of_metadata_are_dropped(api: Api) -> None:
    metadata = {"name": "all", "namespace": "elsewhere", "managedFields": None, "labels": None}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
    assert api.post("/api/v1/nodes", node).code == 201
    assert "namespace" not in api.get("/api/v1/nodes/all").body["metadata"]
    metadata = {"name": "here", "namespace": "elsewhere"}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    assert api.post(CONFIGS, config).code == 400


def test_pods_on_nodes_end_by_the_kubelet(api: Api) -> None:
    pods = "/api/v1/namespaces/default/pods"
    spec = {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
    assert api.post(pods, body).code == 201
    assert api.delete(f"{pods}/p").body["metadata"]["deletionGracePeriodSeconds"] == 30
    assert api.get(f"{pods}/p").code == 200
    assert api.delete(f"{pods}/p", {"gracePeriodSeconds": 0}).code == 200
    assert api.get(f"{pods}/p").code == 404


@pytest.mark.parametrize(
    ("rule", "value", "holds"),
    [
        ("self.a + 1 == 3 && self.b in ['x', 'y']", {"a": 2, "b": "x"}, True),
        ("!has(self.a) || self.a > 1", {}, True),
        ("self.l.all(i, i > 0) && self.l.exists(i, i == 2)", {"l": [1, 2]}, True),
        ("self.l.filter(i, i > 1).size() == 1", {"l": [1, 2]}, True),
        ("self.s.matches('^a+$') ? true : false", {"s": "ab"}, False),
        ("isCIDR(self.c) && cidr(self.c).containsIP('10.0.0.5')", {"c": "10.0.0.0/24"}, True),
        ("self.m['k'] == -1 || 7 / 2 == 3", {"m": {"k": 2}}, True),
        ("self.x__dash__y == 'z'", {"x-y": "z"}, True),
        ('size(self.s) >= 2 && self.s.startsWith("a")', {"s": "ab"}, True),
    ],
)
def test_rules_are_evaluated(rule: str, value: dict[str, Any], holds: bool) -> None:
    assert cel.compile_rule(rule)({"self": value}) is holds


def test_rules_that_are_wrong() -> None:
    for text in ("self.a ==", "self..a", "(1", "self.a @ 2"):
        with pytest.raises(cel.SyntaxProblem):
            cel.compile_rule(text)
    with pytest.raises(Failure, match=r"501.*quantity"):
        cel.compile_rule("quantity(self.a)")
    with pytest.raises(cel.EvaluationProblem, match="no such key: a"):
        cel.compile_rule("self.a == 1")({"self": {}})


def definition(spec: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"spec": spec or {"type": "object"}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "things", "kind": "Thing"}
    body = {"group": "a.example", "scope": "Cluster", "names": names, "versions": [version]} | more
    name = f"{body['names']['plural']}.{body['group']}"
    return {"metadata": {"name": name}, "spec": body}


def fields(**below: Any) -> dict[str, Any]:
    return {"type": "object", "properties": below}


TEXT = {"type": "string"}
SAME = [{"rule": "self == oldSelf"}]
KEYED = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}
LONG = [{"rule": "self != 'x'"}]


@pytest.mark.parametrize(
    ("crd", "field"),
    [
        (definition(group="nodots"), "spec.group"),
        (definition(group="x.k8s.io"), "metadata.annotations"),
        (definition(names={"plural": "Things", "kind": "Thing"}), "spec.names.plural"),
        (definition(names={"plural": "things", "kind": "A", "listKind": "A"}), "listKind"),
        (definition(names={"plural": "t", "kind": "T", "shortNames": ["9x"]}), "shortNames[0]"),
        (definition({"type": "text"}), "type"),
        (definition({"type": "string", "x-kubernetes-int-or-string": True}), "type"),
        (definition({"type": "object", "additionalProperties": False}), "additionalProperties"),
        (definition({**fields(a=TEXT), "additionalProperties": TEXT}), "additionalProperties"),
        (
            definition({"type": "object", "x-kubernetes-preserve-unknown-fields": False}),
            "x-kubernetes-preserve-unknown-fields",
        ),
        (definition(fields(a={"type": "string", "pattern": "^(?!x).*$"})), "pattern"),
        (definition(fields(a={"type": "array", "items": TEXT, "uniqueItems": True})), "unique"),
        (definition(fields(a={"type": "array"})), "items"),
        (definition(fields(a={"type": "string", "x-kubernetes-list-type": "set"})), "type"),
        (
            definition(
                fields(
                    a={"type": "array", "items": fields(k=TEXT), "x-kubernetes-list-type": "set"}
                )
            ),
            "items",
        ),
        (definition(fields(a={"type": "array", "items": fields(k=TEXT), **KEYED})), "items"),
        (definition(fields(a=fields(b=TEXT) | {"default": {"c": 1}})), "default"),
        (definition(fields(a={"type": "integer", "default": "1"})), "default"),
        (
            definition(
                fields(
                    a={"type": "array", "items": {**TEXT, "x-kubernetes-validations": SAME}}
                )
            ),
            "rule",
        ),
        (
            # A thousand times a text without a bound.
            definition(
                fields(
                    a={
                        "type": "array", "maxItems": 1000,
                        "items": {**TEXT, "x-kubernetes-validations": LONG},
                    }
                )
            ),
            "rule",
        ),
    ],
)  # fmt: skip
def test_definitions_that_a_server_refuses(crd: dict[str, Any], field: str) -> None:
    found = [*crds.check(crd)]
    assert any(field in cause.field for cause in found), found


def test_definitions_that_a_server_takes() -> None:
    bounded = {**TEXT, "maxLength": 43, "x-kubernetes-validations": LONG}
    items = {**fields(k=TEXT), "required": ["k"], "x-kubernetes-validations": SAME}
    spec = fields(
        a={"type": "array", "maxItems": 1000, "items": bounded},
        b={"type": "array", "maxItems": 9, "items": items, **KEYED},
        c={"x-kubernetes-int-or-string": True},
        d={"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        e=fields(f={"type": "boolean", "default": False}) | {"nullable": True},
    )
    approved = definition(spec, group="x.k8s.io")
    approved["metadata"]["annotations"] = {"api-approved.kubernetes.io": "unapproved, a test"}
    for crd in (definition(spec), approved):
        assert [*crds.check(crd)] == []


def test_strategic_patches_of_a_pod() -> None:
    pod = {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}}
    patch = {"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}}
    images = {
        one["name"]: one["image"]
        for one in patches.strategic(pod, patch, schemas.POD)["spec"]["containers"]
    }
    assert images == {"a": "1", "b": "2", "c": "3"}
    with pytest.raises(Failure, match="501"):
        patches.strategic(pod, {"spec": {"$setElementOrder/containers": []}}, schemas.POD)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "format": "cidr"}, "10.0.0.0/8", "10.0.0.0"),
        ({"type": "string", "pattern": "^a"}, "ab", "ba"),
        ({"x-kubernetes-int-or-string": True}, "http", 1.5),
        ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, 1, 0),
        ({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}, ["a"],
         ["a", "a"]),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"a": "b"}, {"a": 1}),
        ({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"a": 1},
         {"a": 1, "b": 1}),
    ],
)  # fmt: skip
def test_values_against_schemas(schema: dict[str, Any], good: Any, bad: Any) -> None:
    assert list(structural.validate(good, schema)) == []
    assert list(structural.validate(bad, schema))
