"""Networks that somebody else wrote: Neutron's rows and hand-made ones, on a whole node.

Nothing of their rows may change by what we do, and their names are the ports' names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from dataplane.drivers.processes import wait_until
from tests.labs import logical, traffic
from tests.labs.foreignlab import (
    BY_NAME,
    FLOATING,
    GUEST,
    LAMP,
    NETWORKS,
    PORTS,
    ForeignLab,
)
from tests.labs.lab import CLIENT_ADDRESS, PORT
from tests.labs.netns import Namespace
from tests.labs.neutron import rows_of_others
from tests.labs.workloads import POD_NAMESPACE, call_cni

DESK = f"{POD_NAMESPACE}_desk"
NAMES = {**{name: port.name for name, port in PORTS.items()}, "desk": DESK, "lamp": LAMP}


@pytest.fixture(scope="module")
def cloud(progress: Callable[[str], None]) -> Iterator[ForeignLab]:
    with ForeignLab("mrfor", progress) as built:
        built.before = rows_of_others(built.nb)
        for name in NETWORKS:
            built.attach(name)
        yield built


def reached(where: Namespace, address: str) -> None:
    """Three of three; before, OVN may still be learning who is where."""
    wait_until(lambda: traffic.ping(where, address)[0] == 3, f"ping {address}", timeout_s=60)


def test_ports_have_the_names_that_others_gave_and_none_is_on_the_trunk(cloud: ForeignLab) -> None:
    ports = {row["iface_id"]: row for row in cloud.node.ask("ports")["ports"]}
    assert set(ports) == set(NAMES.values())
    assert {row["tag"] for row in ports.values()} == {None}
    said = cloud.node.vsctl("--bare", "--columns=external_ids", "find", "Interface")
    assert all(f"iface-id={name}" in said or f'iface-id="{name}"' in said
               for name in NAMES.values())  # fmt: skip
    web = ports[PORTS["web"].name]
    assert (web["mac"], web["addresses"]) == (PORTS["web"].mac, ["192.168.10.11/24"])
    # Neutron's DHCP options say the MTU.
    assert web["mtu"] == cloud.cloud.mtu
    containers = cloud.node.ask("status")["containers"]
    assert (containers["now"], containers["on_trunk"]) == ("trunk", 0)


def test_instances_reach_each_other_as_their_security_groups_say(cloud: ForeignLab) -> None:
    web, db = cloud.containers["web"], cloud.containers["db"]
    for to in ("app", GUEST):
        reached(web, PORTS[to].address)
    answers = traffic.http(web, PORTS["app"].address, PORT, 20)
    assert answers.all_ok, answers.failures
    # A group without rules lets nobody in; who is in it reaches what others let in.
    assert traffic.ping(web, PORTS["db"].address, 2)[0] == 0
    reached(db, PORTS["web"].address)
    refused = traffic.http(db, PORTS["web"].address, PORT, 1, timeout=2)
    assert not refused.all_ok


def test_a_floating_address_and_the_way_out(cloud: ForeignLab) -> None:
    reached(cloud.client, FLOATING)
    reached(cloud.containers["app"], CLIENT_ADDRESS)


def test_neutrons_dhcp_answers_a_container(cloud: ForeignLab) -> None:
    told = cloud.dhcp("web")
    assert told["ip"] == PORTS["web"].address
    assert told["router"] == "192.168.10.1"
    assert told["mtu"] == str(cloud.cloud.mtu)
    assert told["lease"] == "43200"
    assert "169.254.169.254/32 192.168.10.2" in told["staticroutes"]


def test_a_network_made_by_hand_has_names_as_they_come(cloud: ForeignLab) -> None:
    lamp = cloud.workloads["lamp"].result["ips"][0]["address"]
    desk = cloud.containers["desk"]
    assert lamp.startswith("192.168.77.") and lamp.endswith("/24")
    reached(desk, lamp.partition("/")[0])
    answers = traffic.http(desk, lamp.partition("/")[0], PORT, 20)
    assert answers.all_ok, answers.failures
    # Two networks that nobody connected stay apart.
    assert traffic.ping(desk, PORTS["web"].address, 2)[0] == 0


def test_what_no_port_has_is_waited_for_and_what_two_have_is_refused(cloud: ForeignLab) -> None:
    def asked(pod: str, **network: object) -> dict[str, object]:
        done = call_cni(
            "ADD", socket=cloud.node.cni_socket, container_id="nobody", pod=pod,
            network={"mode": "vhost-user", **network},
        )  # fmt: skip
        assert done.code == 1
        return done.answer

    absent = asked("nobody", iface_id=BY_NAME)
    assert absent["code"] == 11
    assert "external_ids:neutron:port_name=nobody.demo" in str(absent["msg"])
    untold = asked("nobody", iface_id="{args.port}")
    assert (untold["code"], "args.cni has no 'port'" in str(untold["msg"])) == (7, True)
    # A name that no pod has: until the daemon has heard of it, it is absent, not somebody's port.
    twins = (PORTS["app"], PORTS["db"])
    call(cloud, {port.name: f"twin.{POD_NAMESPACE}" for port in twins})
    try:
        wait_until(lambda: asked("twin", iface_id=BY_NAME)["code"] == 7, "two ports are called so")
    finally:
        call(cloud, {port.name: port.called for port in twins})


def call(cloud: ForeignLab, names: Mapping[str, str]) -> None:
    """Give logical ports other names of Neutron's, all at once."""
    words: list[str] = []
    for port, name in names.items():
        words += ["--", "set", "Logical_Switch_Port", port,
                  f'external_ids:neutron\\:port_name="{name}"']  # fmt: skip
    logical.nbctl(cloud.nb, *words[1:])


def test_a_restarted_daemon_finds_all_and_writes_nothing(cloud: ForeignLab) -> None:
    cloud.node.kill("node")
    cloud.node.up()
    wait_until(lambda: cloud.node.ask("status")["converged"], "it has converged", timeout_s=60)
    cloud.node.wrote_nothing()
    assert {row["iface_id"] for row in cloud.node.ask("ports")["ports"]} == set(NAMES.values())
    reached(cloud.containers["web"], PORTS[GUEST].address)


def test_del_leaves_all_rows_as_they_were_written(cloud: ForeignLab) -> None:
    assert rows_of_others(cloud.nb) == cloud.before
    cloud.guest.stop()
    for work in cloud.workloads.values():
        work.detach()
    assert cloud.node.ask("ports")["ports"] == []
    said = cloud.node.vsctl("--bare", "--columns=external_ids", "find", "Interface")
    assert not [name for name in NAMES.values() if name in said]
    assert rows_of_others(cloud.nb) == cloud.before
