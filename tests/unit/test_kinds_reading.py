"""Custom kinds as they are read: errors name the field, and unknown fields are told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from controller.kinds.addresses import VIP
from controller.kinds.errors import KindError
from controller.kinds.reading import Form, Reading
from controller.kinds.subnet import SUBNET
from controller.kube.structs import Custom, Meta


def custom(spec: Any, status: Any = None, **meta: Any) -> Custom:
    return Custom(
        Meta(name="one", **meta),
        Raw(json.dumps(spec).encode()),
        Raw(json.dumps(status or {}).encode()),
    )


def read(meta: Meta, spec: Reading, status: Reading) -> tuple[Any, ...]:
    routes = tuple((r.text("cidr"), r.number("weight", 1)) for r in spec.each("routes"))
    return meta.name, spec.text("vpc", "ovn-cluster"), routes, spec.selector("nodes")


FORM = Form("Thing", read)


def test_a_field_left_out_and_a_null_are_the_default() -> None:
    assert FORM.decode(custom({"vpc": None, "routes": [None, {"cidr": " a "}]})) == (
        "one", "ovn-cluster", (("a", 1),), None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"vpc": 5}, "spec.vpc"),
        ({"routes": {}}, "spec.routes"),
        ({"routes": [{}, "x"]}, "spec.routes[1]"),
        ({"routes": [{}, {"weight": "1"}]}, "spec.routes[1].weight"),
        ({"routes": [{"weight": True}]}, "spec.routes[0].weight"),
        ({"nodes": []}, "spec.nodes"),
        (
            {"nodes": {"matchExpressions": [{"key": "a", "operator": "Near"}]}},
            "spec.nodes.matchExpressions[0]",
        ),
        (
            {"nodes": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
            "spec.nodes.matchExpressions[0]",
        ),
        ([], "spec"),
    ],
)
def test_a_wrong_type_is_an_error_that_names_its_path(spec: Any, path: str) -> None:
    with pytest.raises(KindError) as caught:
        FORM.decode(custom(spec))
    assert caught.value.path == path
    assert caught.value.cause
    assert caught.value.next_step
    assert FORM.warn(custom(spec)) == ()


def test_fields_that_nobody_knows_are_told_and_harm_nothing() -> None:
    obj = custom({"vcp": "a", "routes": [{"cidr": "a", "via": "b"}]})
    assert FORM.decode(obj)[1] == "ovn-cluster"
    assert [problem.cause.split()[0] for problem in FORM.warn(obj)] == [
        "spec.vcp", "spec.routes[0].via",
    ]  # fmt: skip


def test_addresses_and_networks() -> None:
    there = Reading({"ip": "10.0.0.300", "nets": "10.0.0.1/8, fd00::/64", "bad": "10.0.0.0/33"}, "")
    assert [str(network) for network in there.networks("nets")] == ["10.0.0.0/8", "fd00::/64"]
    for name, ask in (("ip", there.address), ("bad", there.networks)):
        with pytest.raises(KindError, match=name):
            ask(name)


def test_names_and_fields_that_are_as_good_are_no_unknown_ones() -> None:
    upper = custom({"subnet": "s", "V4ip": "10.1.0.9"})
    assert VIP.decode(upper).addresses == ("10.1.0.9",)
    assert not VIP.warn(upper)
    apart = custom({"cidrBlock": "10.1.0.0/24", "disableInterConnection": True})
    assert not SUBNET.warn(apart)
