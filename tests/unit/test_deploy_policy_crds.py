"""Definitions of administrators' policies: a server takes them, and what it keeps can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from controller.kinds.errors import KindError
from controller.kube.structs import Custom, Meta
from controller.network.adminpolicies import FORMS
from tests.apistandin.probe import Api
from tests.apistandin.thread import running

HERE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "crds" / "policy"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ALL: dict[str, Any] = {"namespaces": {}}
LABELS = {"matchLabels": {"app": "a"}}


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with running() as standin:
        client = Api(standin.url)
        for path in sorted(HERE.glob("*.yaml")):
            reply = client.post(CRDS, yaml.safe_load(path.read_text(encoding="utf-8")))
            assert reply.code == 201, reply.body
        yield client


def put(api: Api, kind: str, spec: dict[str, Any], name: str = "one") -> Any:
    (resource,) = (one for one, _, _ in FORMS if one.kind == kind)
    body = {"apiVersion": resource.api_version, "kind": kind, "metadata": {"name": name}}
    return api.post(resource.collection(), {**body, "spec": spec})


def read(kind: str, spec: dict[str, Any], name: str = "one") -> Any:
    (form,) = (form for one, _, form in FORMS if one.kind == kind)
    obj = Custom(Meta(name=name), msgspec.Raw(msgspec.json.encode(spec)))
    return form.decode(obj), form.warn(obj)


def ports1() -> list[dict[str, Any]]:
    return [
        {"portNumber": {"port": 80, "protocol": "UDP"}},
        {"portRange": {"start": 80, "end": 90}},
        {"namedPort": "web"},
    ]


FULL: dict[str, dict[str, Any]] = {
    "AdminNetworkPolicy": {
        "priority": 10, "subject": {"pods": {"namespaceSelector": LABELS, "podSelector": LABELS}},
        "ingress": [{"name": "a", "action": "Pass", "from": [ALL], "ports": ports1()}],
        "egress": [{"action": "Deny", "to": [ALL, {"nodes": LABELS}, {"networks": ["10.0.0.0/8"]},
                    {"pods": {"podSelector": {}}}]}],
    },
    "BaselineAdminNetworkPolicy": {
        "subject": ALL, "ingress": [{"action": "Allow", "from": [ALL], "ports": ports1()}],
    },
    "ClusterNetworkPolicy": {
        "tier": "Baseline", "priority": 1000, "subject": {"namespaces": LABELS},
        "ingress": [{"action": "Accept", "from": [ALL], "protocols": [
            {"tcp": {"destinationPort": {"number": 80}}}, {"udp": {}},
            {"sctp": {"destinationPort": {"range": {"start": 1, "end": 9}}}},
            {"destinationNamedPort": "web"}]}],
        "egress": [{"action": "Deny", "to": [{"networks": ["fd00::/8"]}]}],
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", FULL)
def test_every_field_is_taken_kept_and_known(api: Api, kind: str) -> None:
    made = put(api, kind, FULL[kind], "default")
    assert made.code == 201, made.body
    fact, unknown = read(kind, made.body["spec"], "default")
    assert unknown == ()
    assert fact.ingress or fact.egress


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("AdminNetworkPolicy", {"priority": 1001}),
        ("AdminNetworkPolicy", {"subject": {}}),
        ("AdminNetworkPolicy", {"ingress": [{"action": "Accept", "from": [ALL]}]}),
        ("AdminNetworkPolicy", {"ingress": [{"action": "Allow", "from": []}]}),
        (
            "AdminNetworkPolicy",
            {"egress": [{"action": "Deny", "to": [ALL],
                         "ports": [{"portRange": {"start": 9, "end": 8}}]}]},
        ),
        ("BaselineAdminNetworkPolicy", {"ingress": [{"action": "Pass", "from": [ALL]}]}),
        ("ClusterNetworkPolicy", {"tier": "Middle"}),
        ("ClusterNetworkPolicy", {"egress": [{"action": "Deny", "to": [{"networks": ["x"]}]}]}),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_the_definition_or_named_by_the_reader(
    api: Api, kind: str, change: dict[str, Any]
) -> None:
    spec = {**FULL[kind], **change}
    if put(api, kind, spec, "default").code != 422:
        with pytest.raises(KindError, match=r"^spec\."):
            read(kind, spec)


def test_a_peer_that_is_not_understood_closes() -> None:
    unknown = {"domainNames": ["example.org"]}
    (allow, deny) = read(
        "AdminNetworkPolicy",
        {
            "priority": 1,
            "subject": ALL,
            "egress": [{"action": "Allow", "to": [unknown]}, {"action": "Pass", "to": [unknown]}],
        },
    )[0].egress
    assert (allow.action.name, allow.peers[0].networks) == ("ALLOW", ())
    assert (deny.action.name, len(deny.peers[0].networks)) == ("DENY", 2)


def test_there_is_one_baseline_at_most(api: Api) -> None:
    refused = put(api, "BaselineAdminNetworkPolicy", FULL["BaselineAdminNetworkPolicy"], "other")
    assert refused.code == 422
