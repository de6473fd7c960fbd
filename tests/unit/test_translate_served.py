"""What a node says of a service that it has not the means to serve."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.translate.served import as_served
from dataplane.model.config import NodeConfig, UplinkMode
from dataplane.model.service import Place, ServedBy, TrafficPolicy
from dataplane.model.state import Gateway
from dataplane.plan.node import plan
from tests.labs.planned import CONFIG, GATEWAY, STATE, UPLINK, backend, service

WEB = service("10.96.0.10:80", backend("10.1.0.11:8080"))
REMOTE_LOCAL = service(
    "10.96.0.10:80", backend("10.1.0.11:8080", Place.REMOTE), policy=TrafficPolicy.LOCAL
)


def test_with_an_uplink_and_a_gateway_xdp_serves() -> None:
    assert as_served([WEB], GATEWAY, CONFIG) == (WEB,)


@pytest.mark.parametrize(
    ("gateway", "config", "says"),
    [
        (None, CONFIG, "no usable gateway router"),
        (replace(GATEWAY, physnet="elsewhere"), CONFIG, "GR_n1 is on elsewhere"),
        (GATEWAY, replace(CONFIG, uplinks=()), "no uplink of this node has services = true"),
        (
            GATEWAY,
            replace(CONFIG, uplinks=(replace(UPLINK, mode=UplinkMode.VFIO),)),
            "an XDP hook",
        ),
    ],
    ids=["no gateway", "another physnet", "no uplink", "vfio"],
)
def test_without_the_means_nobody_serves_and_the_reason_says_what_is_missing(
    gateway: Gateway | None, config: NodeConfig, says: str
) -> None:
    (found,) = as_served([WEB], gateway, config)
    assert found.served_by is ServedBy.NOBODY
    assert says in found.reason


def test_a_local_service_without_a_backend_here_drops_and_says_so() -> None:
    (found,) = as_served([REMOTE_LOCAL], GATEWAY, CONFIG)
    assert found.served_by is ServedBy.XDP
    assert "packets to it are dropped" in found.reason


def test_what_ovn_serves_is_left_alone() -> None:
    foreign = replace(WEB, served_by=ServedBy.OVN)
    assert as_served([foreign], None, CONFIG) == (foreign,)


def test_the_plan_agrees() -> None:
    for gateway in (GATEWAY, None):
        state = replace(STATE, gateway=gateway, services=as_served([WEB], gateway, CONFIG))
        served = {s.vip for s in state.services if s.served_by is ServedBy.XDP}
        assert set(plan(state).vips) == served
