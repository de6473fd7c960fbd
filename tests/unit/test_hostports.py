"""A runtime's host ports, seen as services of the node that the pod is on."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from controller.sources import Sources
from controller.translate.hostports import balancers
from dataplane.model.addr import Protocol
from dataplane.model.service import Place, ServedBy, ServiceKind
from dataplane.model.state import HostPort
from tests.labs.attachments import WEB
from tests.labs.ovnrows import vpc_lab
from tests.labs.planned import CONFIG

POD = replace(
    WEB,
    addresses=(IPv4Interface("10.1.0.11/24"), IPv6Interface("fd00::11/64")),
    host_ports=(HostPort(Protocol.TCP, 8080, 80), HostPort(Protocol.UDP, 53, 5353)),
)


def test_a_host_port_is_a_service_while_its_pod_is_here() -> None:
    lab = vpc_lab()
    sources = Sources(nb=lab.nb, sb=lab.sb, nics={})
    sources.host_ports = balancers([POD])
    view = sources.view(CONFIG)
    assert view is not None
    assert sources.view(CONFIG) is view
    four = {str(one.vip): one for one in view.claims.services() if one.vip.address.version == 4}
    assert set(four) == {"0.0.0.0:8080/tcp", "0.0.0.0:53/udp"}
    web = four["0.0.0.0:8080/tcp"]
    assert (web.kind, web.served_by) == (ServiceKind.HOST_PORT, ServedBy.XDP), web.reason
    (backend,) = web.backends
    assert (backend.place, backend.target.port) == (Place.LOCAL, 80)
    sources.host_ports = balancers([WEB])
    after = sources.view(CONFIG)
    assert after is not None
    assert after.services == ()


def test_both_families_and_one_address_of_the_node() -> None:
    (row,) = balancers([replace(POD, host_ports=POD.host_ports[:1])]).values()
    assert row.protocol == "tcp"
    assert row.vips == {"0.0.0.0:8080": "10.1.0.11:80", "[::]:8080": "[fd00::11]:80"}
    own = HostPort(Protocol.TCP, 8080, 80, ip_address("192.0.2.1"))
    (row,) = balancers([replace(POD, host_ports=(own,))]).values()
    assert row.vips == {"192.0.2.1:8080": "10.1.0.11:80"}
