"""The definitions of custom kinds: a server takes them, and they are those that are watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.network.nets import REFUSALS
from controller.network.registry import UNITS, WATCHED
from controller.network.units import ObjectRef
from controller.network.unsupported import UNITS as UNSERVED_UNITS
from controller.network.unsupported import UNSERVED, Unserved
from tests.apistandin.probe import Api
from tests.apistandin.thread import running
from tests.labs.factview import whole

HERE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "crds"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "/apis/kubeovn.io/v1"


def definitions() -> list[dict[str, Any]]:
    return [
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("*.yaml"))
    ]


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with running() as standin:
        client = Api(standin.url)
        for body in definitions():
            reply = client.post(CRDS, body)
            assert reply.code == 201, reply.body
        yield client


def put(api: Api, plural: str, kind: str, spec: dict[str, Any], name: str = "one") -> Any:
    body = {"apiVersion": "kubeovn.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return api.post(f"{GROUP}/{plural}", body)


def test_every_kind_that_is_watched_has_a_definition_and_no_other_has_one() -> None:
    there = {body["metadata"]["name"]: body["spec"] for body in definitions()}
    watched = {
        str(one.resource): one.resource for one in WATCHED if one.resource.group == "kubeovn.io"
    }
    assert there.keys() == watched.keys()
    for name, spec in there.items():
        resource = watched[name]
        assert spec["names"]["kind"] == resource.kind
        assert spec["scope"] == ("Namespaced" if resource.namespaced else "Cluster")
        assert spec["versions"][0]["additionalPrinterColumns"]


def test_fields_are_kept_defaulted_and_checked(api: Api) -> None:
    spec = {"cidrBlock": "10.1.0.0/24", "nonsense": 1, "enableLb": None}
    made = put(api, "subnets", "Subnet", spec)
    assert made.code == 201, made.body
    # An unknown field stays, so that the object's status can say that nobody knows it.
    assert made.body["spec"]["nonsense"] == 1
    assert put(api, "vpcs", "Vpc", {"bfdPort": {"ip": "10.0.0.1"}}).body["spec"]["bfdPort"] == {
        "ip": "10.0.0.1", "enabled": False,
    }  # fmt: skip
    for plural, kind, bad in (
        ("subnets", "Subnet", {"gatewayType": "sideways"}),
        ("subnets", "Subnet", {"mtu": "1400"}),
        ("vlans", "Vlan", {"id": 4095}),
        ("ippools", "IPPool", {"ips": ["10.1.0.9"]}),
        ("ippools", "IPPool", {"subnet": "s", "ips": []}),
        ("ovn-fips", "OvnFip", {"ipName": "a.b"}),
    ):
        refused = put(api, plural, kind, bad, "bad")
        assert refused.code == 422, (plural, bad, refused.body)
    pool = put(api, "ippools", "IPPool", {"subnet": "s", "ips": ["10.1.0.9"]}).body
    pool["spec"]["subnet"] = "t"
    changed = api.put(f"{GROUP}/ippools/one", pool)
    assert (changed.code, "make another pool" in changed.body["message"]) == (422, True)


@pytest.mark.parametrize("one", UNSERVED, ids=lambda one: one.kind.name)
def test_a_kind_without_effect_is_accepted_and_says_so(api: Api, one: Any) -> None:
    if not one.resource.namespaced:
        kind = one.resource.kind
        made = put(api, one.resource.plural, kind, {"vpc": "v", "deep": {"er": [1]}}, "anything")
        assert made.code == 201, made.body
    found = whole(UNSERVED_UNITS, {one.kind: {"anything": Unserved("anything")}})
    ref = ObjectRef(str(one.resource), "", "anything")
    (wanted,) = found.writes[ref]
    assert wanted.conditions["Supported"][:2] == ("False", "Unsupported")
    (problem,) = found.problems[ref]
    assert one.resource.kind in problem.cause
    assert problem.next_step


def test_units_have_names_of_their_own() -> None:
    names = [unit.name for unit in UNITS]
    assert len(set(names)) == len(names)
    assert any(unit.of is REFUSALS for unit in UNITS)
