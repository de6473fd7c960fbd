"""The definitions of custom kinds: a server takes them, and they are those that are watched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from controller.kinds.addresses import POOLS, VIPS, IpPool, Vip
from controller.kinds.subnet import Subnet
from controller.kinds.underlay import PROVIDERS, VLANS, ProviderNetwork, Vlan
from controller.kinds.vpc import VPCS, Vpc
from controller.kube.structs import Custom, Meta
from controller.network import ports, subnet, underlay, vpc
from controller.network.nets import REFUSALS
from controller.network.objects import OBJECTS
from controller.network.registry import UNITS, WATCHED
from controller.network.units import ObjectRef
from controller.network.unsupported import UNITS as UNSERVED_UNITS
from controller.network.unsupported import UNSERVED, Unserved
from tests.apistandin.probe import Api
from tests.apistandin.thread import running
from tests.labs.allocation import world
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


def test_definitions_have_no_field_that_a_server_does_not_know() -> None:
    names = {"plural", "singular", "kind", "listKind", "shortNames", "categories"}
    versions = {"name", "served", "storage", "schema", "subresources", "additionalPrinterColumns"}
    columns = {"name", "type", "format", "description", "priority", "jsonPath"}
    for path in HERE.rglob("*.yaml"):
        # One to a file: `kubectl apply` refuses unknown fields by default.
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert body.keys() == {"apiVersion", "kind", "metadata", "spec"}, path
        assert body["spec"].keys() == {"group", "names", "scope", "versions"}, path
        assert body["spec"]["names"].keys() <= names, path
        for version in body["spec"]["versions"]:
            assert version.keys() <= versions, path
            assert version["subresources"] == {"status": {}}, "its status is written apart"
            for column in version["additionalPrinterColumns"]:
                assert column.keys() <= columns, path
                # A path that is no JSONPath makes every list of the kind as a table fail.
                steps = r"(\.[A-Za-z0-9_]+|\[\d+\]|\[\?\(@\.[a-z]+==\"[A-Za-z]+\"\)\])+"
                assert re.fullmatch(steps, column["jsonPath"]), (path, column)


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


@pytest.mark.parametrize(
    ("plural", "kind", "spec", "path"),
    [
        ("subnets", "Subnet", {"acls": [{"direction": "from-lport", "logg": True}]},
         "spec.acls[0].logg"),
        ("subnets", "Subnet", {"natOutgoingPolicyRules": [{"action": "nat", "match": {"x": 1}}]},
         "spec.natOutgoingPolicyRules[0].match.x"),
        ("vpcs", "Vpc", {"staticRoutes": [{"cidr": "10.0.0.0/8", "metric": 3}]},
         "spec.staticRoutes[0].metric"),
        ("security-groups", "SecurityGroup", {"ingressRules": [{"policy": "allow", "note": "x"}]},
         "spec.ingressRules[0].note"),
        ("provider-networks", "ProviderNetwork",
         {"defaultInterface": "e", "customInterfaces": [{"interface": "f", "why": 1}]},
         "spec.customInterfaces[0].why"),
    ],
)  # fmt: skip
def test_unknown_fields_below_others_are_taken_kept_and_told(
    api: Api, plural: str, kind: str, spec: dict[str, Any], path: str
) -> None:
    name = f"below-{len(path)}"
    head = {"apiVersion": "kubeovn.io/v1", "kind": kind, "metadata": {"name": name}}
    made = api.post(f"{GROUP}/{plural}", {**head, "spec": spec}, fieldValidation="Strict")
    assert made.code == 201, made.body
    assert made.body["spec"] == spec
    (watched,) = (
        one
        for one in WATCHED
        if one.resource.kind == kind and one.kind.name != "vpc-external-ports"
    )
    obj = Custom(Meta(name=name), msgspec.Raw(msgspec.json.encode(made.body["spec"])))
    assert [one.cause.split()[0] for one in watched.warn(obj)] == [path]


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


def sample(schema: dict[str, Any]) -> Any:
    """A value of a schema with every field that it names."""
    if "enum" in schema:
        return next(one for one in schema["enum"] if one)
    match schema.get("type"):
        case "object":
            return {name: sample(one) for name, one in schema.get("properties", {}).items()}
        case "array":
            return [sample(schema["items"])]
        case "integer":
            return schema.get("minimum", 0) or 1
        case "boolean":
            return True
        case "number":
            return 7
        case _:
            return "10.1.0.9"


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: one.kind.name)
def test_every_field_that_a_definition_names_is_known(one: Any) -> None:
    path = HERE / f"{one.resource.plural}.yaml"
    if one.resource.group != "kubeovn.io":
        assert not path.exists()
        return
    (version,) = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec = sample(fields)
    for selectors in (spec.get("namespaceSelectors"), spec.get("gatewayNodeSelectors")):
        for selector in selectors or ():
            selector["matchExpressions"][0]["operator"] = "In"
    for selector in (spec.get("nodeSelector"), spec.get("bfdPort", {}).get("nodeSelector")):
        if selector:
            selector["matchExpressions"][0]["operator"] = "In"
    obj = Custom(Meta(name="all"), msgspec.Raw(msgspec.json.encode(spec)))
    assert one.form.decode(obj) is not None
    assert one.form.warn(obj) == ()


def test_every_status_that_is_written_is_kept_as_it_is(api: Api) -> None:
    w = world(Subnet("s", default=True, cidr="10.1.0.0/24,fd00::/64", multicast=True, vlan="v"))
    w.facts[VPCS] = {"v1": Vpc("v1")}
    w.facts[VLANS] = {"v": Vlan("v", 5, "phys")}
    w.facts[PROVIDERS] = {"phys": ProviderNetwork("phys", "eth1")}
    w.start()
    w.have(POOLS, "p", IpPool("p", "s", addresses=("10.1.0.9",)))
    w.have(VIPS, "v", Vip("v", "ns", "s"))
    found = whole((*vpc.UNITS, *subnet.UNITS, *ports.UNITS, *underlay.UNITS), w.facts)
    written = set()
    for ref, (wanted,) in found.writes.items():
        plural, _, group = ref.resource.partition(".")
        (kind,) = {one.resource.kind for one in WATCHED if str(one.resource) == ref.resource}
        spec = {"subnet": "s", "ips": ["10.1.0.9"], "cidrBlock": "10.1.0.0/24", "id": 5}
        put(api, plural, kind, spec, f"told-{ref.name}")
        path = f"/apis/{group}/v1/{plural}/told-{ref.name}"
        conditions = [
            {"type": name, "status": one[0], "reason": one[1], "message": one[2]}
            for name, one in wanted.conditions.items()
        ]
        status = {**wanted.status, **({"conditions": conditions} if conditions else {})}
        reply = api.merge(f"{path}/status", {"status": status})
        assert reply.code == 200, reply.body
        assert reply.body["status"] == status
        written.add(kind)
    assert written == {"Vpc", "Subnet", "IPPool", "Vip", "Vlan", "ProviderNetwork"}
