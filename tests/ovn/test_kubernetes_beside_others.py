"""The Kubernetes controller in a database where Neutron and a person have networks, too."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Interface

from tests.apistandin.server import StandIn
from tests.labs import kubecluster as objects
from tests.labs import neutron
from tests.labs.kubecontrol import until
from tests.labs.neutron import Cloud, NeutronPort
from tests.labs.ovnsandbox import northbound
from tests.ovn.test_kubenet import cluster, controlling, ports, ready

CLOUD = Cloud(
    host="n1",
    inside=IPv4Interface("192.168.10.1/24"),
    outside=IPv4Interface("172.18.0.111/24"),
    next_hop="172.18.0.2",
    physnet="physnet1",
    ports=(
        NeutronPort("web", "192.168.10.11", "default"),
        NeutronPort("db", "192.168.10.12", "closed"),
    ),
    floating={"web": "172.18.0.150"},
)


def test_it_makes_its_rows_and_takes_them_back_and_theirs_stay() -> None:
    async def story() -> None:
        with northbound() as nb:
            CLOUD.declare(nb.nb)
            # One of its names as a person might have chosen it, and one of ours.
            neutron.by_hand(nb.nb, "office", "192.168.77.0/24", ["lamp", "web1.office"])
            before = neutron.rows_of_others(nb.nb)
            count = len(ports(nb))
            async with StandIn() as api:
                cluster(api)
                async with controlling(api, nb) as controller:
                    await ready(controller)
                    await until("pods have ports", lambda: "web4.shop" in ports(nb))
                    assert len(ports(nb)) > count
                    assert neutron.rows_of_others(nb.nb) == before
                    for number in range(5):
                        objects.drop(api, "pods", f"web{number}", "shop")
                    await until("they are gone", lambda: "web4.shop" not in ports(nb))
                async with controlling(api, nb, "b") as controller:
                    await ready(controller)
            assert neutron.rows_of_others(nb.nb) == before

    asyncio.run(story())
