"""Containers on the node's trunk, through real OVS-DPDK and OVN."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Interface

from cni import spec
from cni.wire import RemoteError, WireError
from dataplane.drivers.processes import wait_until
from dataplane.drivers.trunkmaps import TrunkMaps, TrunkReason
from dataplane.model.names import TRUNK_LINK, TRUNK_PORT
from tests.labs import logical, traffic
from tests.labs.lab import CLIENT_ADDRESS, CONTAINERS, PORT, QEMU, TESTPMD, VIP_VM, VIP_WEB, Lab
from tests.labs.logical import PodPort
from tests.labs.netns import Namespace
from tests.labs.workloads import POD_NAMESPACE, Workload

MORE = PodPort(f"c9.{POD_NAMESPACE}", "sw0", IPv4Interface("10.1.0.99/24"))


def nested(lab: Lab) -> dict[str, int]:
    """What OVN has nested in the node's trunk, and by which tag."""
    listed = logical.nbctl(
        lab.nb, "--format=json", "--columns=name,parent_name,tag", "list", "Logical_Switch_Port"
    )
    rows = json.loads(listed)["data"]
    return {name: tag for name, parent, tag in rows if parent == f"trunk-{lab.node.name}"}


def own_ports(lab: Lab) -> list[str]:
    """OVS's ports that are one container's."""
    return [port for port in lab.node.vsctl("list-ports", "br-int").split() if "mrp" in port]


def entries(lab: Lab) -> tuple[dict[int, object], dict[int, object]]:
    """What the trunk's pinned maps hold, by tag and by veth."""
    with TrunkMaps(f"/sys/fs/bpf/millrace/{lab.node.name}") as maps:
        return dict(maps.ends()), dict(maps.ports())


def reaches(lab: Lab, where: Namespace, address: str) -> None:
    wait_until(lambda: traffic.ping(where, address, 1)[0] == 1, f"ping {address}", timeout_s=60)
    assert lab.node.ask("status")["ovs"]["connected"]


@contextmanager
def one_more(lab: Lab) -> Iterator[Workload]:
    """Another container, c9, whose port OVN has; both are gone afterwards."""
    where = Namespace(f"{lab.prefix}-c9").create()
    logical.add_port(lab.nb, MORE)
    work = Workload("c9", f"{lab.prefix}-c9", lab.node.cni_socket, "veth", where)
    try:
        yield work
    finally:
        work.call("DEL")
        logical.nbctl(lab.nb, "--if-exists", "lsp-del", MORE.name)
        where.delete()


def test_every_container_is_nested_and_none_has_an_ovs_port(lab: Lab) -> None:
    containers = lab.node.ask("status")["containers"]
    assert containers == {"attach": "trunk", "now": "trunk", "reason": "", "on_trunk": 3}
    tags = nested(lab)
    assert set(tags) == {f"{name}.{POD_NAMESPACE}" for name in CONTAINERS}
    assert len(set(tags.values())) == len(tags)
    assert own_ports(lab) == []
    assert lab.node.vsctl("get", "Interface", TRUNK_PORT, "type").strip() == "afxdp"


def test_containers_reach_each_other_a_guest_and_a_vip(lab: Lab) -> None:
    c1 = lab.containers["c1"]
    for to in (CONTAINERS["c2"], CONTAINERS["c3"], QEMU[1]):
        received, mean = traffic.ping(c1, to, 5)
        print(f"ping {to}: {received}/5, {mean} ms")
        assert received == 5
        answers = traffic.http(c1, to, PORT, 20)
        assert answers.all_ok, answers.failures
    for vip in (VIP_WEB, VIP_VM):
        answers = traffic.http(c1, vip, 80, 20)
        assert answers.all_ok, answers.failures
    assert traffic.ping(c1, CLIENT_ADDRESS)[0] == 3
    assert traffic.rate_gbit_s(c1, CONTAINERS["c2"], PORT) > 0.1
    ports = {row["iface_id"]: row for row in lab.node.ask("ports")["ports"]}
    for name in ("c1", "c2"):
        row = ports[f"{name}.{POD_NAMESPACE}"]
        assert (row["state"], row["tag"]) == ("done", nested(lab)[f"{name}.{POD_NAMESPACE}"])
        assert row["rx_packets"] > 0
        assert row["tx_packets"] > 0


def test_a_container_cannot_speak_with_a_tag_or_in_anothers_name(lab: Lab) -> None:
    c1, c3 = lab.containers["c1"], lab.containers["c3"]
    tag = nested(lab)[f"c2.{POD_NAMESPACE}"]
    script = (
        "import socket;s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW);s.bind(('eth0',0));"
        f"[s.send(bytes(12)+b'\\x81\\x00'+({tag}).to_bytes(2)+b'\\x88\\xb5'+bytes(60))"
        " for _ in range(7)]"
    )
    with TrunkMaps(f"/sys/fs/bpf/millrace/{lab.node.name}") as maps:
        before = maps.counted().get(TrunkReason.POD_TAGGED)
        c1.run("python3", "-c", script)
        after = maps.counted()[TrunkReason.POD_TAGGED]
    assert after.packets - (before.packets if before else 0) == 7
    # Port security: another's address is not believed.
    c3.run("ip", "addr", "add", f"{CONTAINERS['c2']}/32", "dev", "eth0")
    try:
        assert traffic.ping(c1, CONTAINERS["c2"])[0] == 3
        done = c3.run("ping", "-c", "2", "-W", "1", "-I", CONTAINERS["c2"], TESTPMD[1], check=False)
        assert " 0 received" in done, done
    finally:
        c3.run("ip", "addr", "del", f"{CONTAINERS['c2']}/32", "dev", "eth0")


def test_del_leaves_nothing_and_the_tag_is_not_given_again_at_once(lab: Lab) -> None:
    before = nested(lab), entries(lab)
    with one_more(lab) as work:
        work.attach()
        tag = nested(lab)[MORE.name]
        assert tag not in before[0].values()
        assert work.netns is not None
        assert traffic.ping(work.netns, CONTAINERS["c1"])[0] == 3
        assert work.attach() == work.result  # again is the same
        assert nested(lab)[MORE.name] == tag
        assert work.call("CHECK", prevResult=work.result).code == 0
        work.detach()
        assert (nested(lab), entries(lab)) == before
        work.attach()
        assert nested(lab)[MORE.name] not in {tag, *before[0].values()}
        assert traffic.ping(work.netns, CONTAINERS["c1"])[0] == 3
    assert (nested(lab), entries(lab)) == before
    links = json.loads(lab.namespace.run("ip", "-j", "link", "show"))
    assert sum(link["ifname"].startswith("mrp") for link in links) == len(before[0])


def test_a_container_whose_link_cannot_be_made_leaves_nothing(lab: Lab) -> None:
    before = nested(lab), entries(lab)
    with one_more(lab) as work:
        assert work.netns is not None
        work.netns.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
        refused = work.call("ADD")
        assert (refused.code, refused.answer["code"]) == (1, 110), refused
        assert (nested(lab), entries(lab)) == before
        work.netns.run("ip", "link", "del", "eth0")
        work.attach()
        assert traffic.ping(work.netns, CONTAINERS["c1"])[0] == 3
    assert (nested(lab), entries(lab)) == before


def test_a_pod_whose_namespace_is_gone_leaves_nothing(lab: Lab) -> None:
    before = nested(lab), entries(lab)
    with one_more(lab) as work:
        work.attach()
        tag = nested(lab)[MORE.name]
        assert work.netns is not None
        work.netns.delete()
        wait_until(lambda: tag not in entries(lab)[0], "the trunk forgets it", timeout_s=30)
        assert entries(lab) == before[1]
        work.detach()
        assert nested(lab) == before[0]
    statuses = lab.node.ask("status", all=True)["objects"]
    assert not [row for row in statuses if MORE.name in row["key"]]


def test_a_killed_daemon_writes_nothing_and_gives_no_tag_twice(lab: Lab) -> None:
    before = nested(lab), entries(lab)
    with traffic.beside(lab.containers["c1"], "http", CONTAINERS["c2"], PORT, 0, 5) as loop:
        lab.node.kill("node")
        lab.node.up()
        lab.node.wait_served((VIP_WEB, VIP_VM))
    assert loop.answers.all_ok, loop.answers.failures
    lab.node.wrote_nothing()
    assert (nested(lab), entries(lab)) == before
    with one_more(lab) as work:
        work.attach()
        assert nested(lab)[MORE.name] not in before[0].values()


def test_what_somebody_else_changed_is_mended(lab: Lab) -> None:
    before = nested(lab)
    name = f"c1.{POD_NAMESPACE}"
    logical.nbctl(lab.nb, "clear", "Logical_Switch_Port", name, "parent_name", "tag")
    wait_until(lambda: nested(lab) == before, "the port is nested again", timeout_s=30)
    lab.namespace.run("ip", "link", "del", TRUNK_LINK)
    wait_until(
        lambda: traffic.ping(lab.containers["c1"], CONTAINERS["c2"], 1)[0] == 1,
        "the trunk is made anew",
        timeout_s=60,
    )


def test_a_killed_vswitchd_takes_the_trunk_up_again(lab: Lab) -> None:
    lab.node.kill("ovs-vswitchd")
    lab.node.up()
    for to in (CONTAINERS["c2"], QEMU[1]):
        reaches(lab, lab.containers["c1"], to)
    with one_more(lab) as work:
        work.attach()
        assert work.netns is not None
        assert traffic.ping(work.netns, CONTAINERS["c1"])[0] == 3


def test_an_mtu_beyond_the_trunks_gets_a_port_of_its_own_and_is_named(lab: Lab) -> None:
    assert lab.node.ask("status")["problems"] == []
    with one_more(lab) as work:
        # What a network configuration asks for, the tunnel has to carry; OVN's rows are obeyed.
        refused = work.call("ADD", mtu=9000)
        assert (refused.code, refused.answer["code"]) == (1, spec.INVALID_CONFIG)
        assert "phy0 has an MTU of" in refused.answer["msg"]
        logical.nbctl(lab.nb, "set", "Logical_Switch", "sw0", "other_config:mtu=9000")
        try:
            wait_until(lambda: bool(lab.node.ask("status")["problems"]), "the row is named")
            (problem,) = lab.node.ask("status")["problems"]
            assert problem["name"] == "Logical_Switch sw0"
            assert "because phy0 has an MTU of" in problem["cause"]
            work.attach()
            assert MORE.name not in nested(lab)
            assert len(own_ports(lab)) == 1
            assert work.netns is not None
            assert traffic.ping(work.netns, CONTAINERS["c1"])[0] == 3
            work.detach()
        finally:
            logical.nbctl(lab.nb, "remove", "Logical_Switch", "sw0", "other_config", "mtu")
    wait_until(lambda: lab.node.ask("status")["problems"] == [], "nothing is wrong any more")
    assert own_ports(lab) == []


def test_the_file_can_say_a_port_for_each_and_what_is_there_stays(lab: Lab) -> None:
    before = nested(lab)
    path = lab.node.config_path
    text = path.read_text()
    try:
        path.write_text(f'{text}\n[containers]\nattach = "port"\n')
        lab.node.ask("apply", path=str(path))
        told = lab.node.ask("status")["containers"]
        assert (told["now"], told["on_trunk"]) == ("port", 3)
        assert "containers.attach" in told["reason"]
        with one_more(lab) as work:
            work.attach()
            assert nested(lab) == before
            assert work.netns is not None
            for to in (CONTAINERS["c1"], QEMU[1]):
                assert traffic.ping(work.netns, to)[0] == 3
    finally:
        path.write_text(text)
        lab.node.ask("apply", path=str(path))
    assert nested(lab) == before


def _agent_answers(lab: Lab) -> bool:
    try:
        return bool(lab.node.ask("status"))
    except (WireError, RemoteError):
        return False


def test_a_port_that_ovn_has_no_more_does_not_hold_up_the_others(lab: Lab) -> None:
    with one_more(lab) as work:
        work.attach()
        logical.nbctl(lab.nb, "lsp-del", MORE.name)
        assert traffic.ping(lab.containers["c1"], CONTAINERS["c2"])[0] == 3
        again = replace(work, container_id=f"{work.container_id}-again")
        assert again.call("ADD").answer["code"] == 11
        work.detach()
        logical.add_port(lab.nb, MORE)
        work.attach()
    assert _agent_answers(lab)
