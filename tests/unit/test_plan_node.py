"""What a whole plan contains, and what it leaves out when a source says nothing."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, ip_interface

from dataplane.model.config import Attach, UplinkMode
from dataplane.model.hostrows import MAIN_TABLE
from dataplane.model.rows import (
    AddressFlag,
    FlowKey,
    HostReplies,
    KnownAddress,
    NapiThread,
    NodeEntry,
    Program,
    ProgramKind,
    SetScope,
    VipFlag,
)
from dataplane.model.service import Place, ServedBy, TrafficPolicy
from dataplane.model.state import HeldIds, PortKind
from dataplane.plan.flows import PRIORITY_LOCAL_REPLY
from dataplane.plan.node import TABLE_ORDER, bridge_mac, plan
from tests.labs.planned import (
    CONFIG,
    GATEWAY,
    NIC_MAC,
    STATE,
    UPLINK,
    attachment,
    backend,
    l4,
    service,
    state,
)

NEAR_AND_FAR = (backend("10.1.0.11:8080"), backend("10.1.0.12:8080", Place.REMOTE))


def test_tables_put_backends_before_vips_before_programs() -> None:
    order = {name: place for place, name in enumerate(TABLE_ORDER)}
    assert order["bridges"] < order["ports"] < order["flows"]
    # The entry has svc0's number, so svc0 is made first.
    assert order["links"] < order["node"]
    assert order["backends"] < order["sets"] < order["vips"] < order["programs"]


def test_an_empty_cluster_still_brings_up_bridges_uplinks_and_the_tunnel() -> None:
    rows = plan(replace(STATE, gateway=None))
    assert set(rows.bridges) == {"br-int", "br-ex", "br-phy"}
    assert set(rows.ports) == {"up0", "ph0"}
    assert set(rows.addresses) == {("br-phy", IPv4Interface("10.0.0.1/24"))}
    assert rows.programs == {"up0": Program(ProgramKind.UPLINK, swap=True)}
    assert not (rows.links or rows.flows or rows.node or rows.vips)


def test_svc0_is_polled_where_the_one_pmd_thread_sends() -> None:
    alone = replace(STATE, to_the_end=True)
    assert CONFIG.dpdk.pmd == (1,)
    assert plan(alone).polls == {"svc0": NapiThread(1)}
    order = {name: place for place, name in enumerate(TABLE_ORDER)}
    # A program makes the queues that are polled.
    assert order["programs"] < order["polls"]


def test_svc0s_polls_are_left_to_softirqs_where_a_thread_would_cost_more() -> None:
    several = replace(CONFIG, dpdk=replace(CONFIG.dpdk, pmd=(1, 2)))
    forbidden = replace(CONFIG, services=replace(CONFIG.services, poll_thread=False))
    kernels = tuple(replace(uplink, mode=UplinkMode.KERNEL) for uplink in CONFIG.uplinks)
    ports = replace(CONFIG.containers, attach=Attach.PORT)
    for other in (
        replace(STATE, to_the_end=False),
        # Ports that vswitchd's main thread polls, on another core.
        replace(STATE, to_the_end=True, config=replace(CONFIG, uplinks=kernels)),
        replace(STATE, to_the_end=True, config=replace(CONFIG, containers=ports)),
        replace(STATE, to_the_end=True, config=several),
        replace(STATE, to_the_end=True, config=forbidden),
        replace(STATE, to_the_end=True, gateway=None),
        replace(STATE, to_the_end=True, theirs={"pmd-cpu-mask": "0x6"}),
    ):
        assert plan(other).polls == {}


def test_the_nodes_own_address_stays_with_the_kernel() -> None:
    own = IPv4Address("172.18.0.11")
    rows = plan(STATE)
    assert rows.known_addresses == {own: KnownAddress(AddressFlag.LOCAL)}
    assert rows.node[0].local == (own,)


def test_the_gateway_brings_the_service_link_and_its_program() -> None:
    rows = plan(STATE)
    link = rows.links["svc0"]
    assert link.peer_name == "svc0-ovs"
    assert str(link.mac) == "0a:58:64:40:ff:01"
    assert rows.ports["svc0-ovs"].tag == 4094
    assert rows.programs["svc0"] == Program(ProgramKind.SERVICE, swap=False)
    assert rows.node[0] == NodeEntry(
        GATEWAY.service_address, None, link.mac, GATEWAY.mac, 7, NIC_MAC, "svc0",
        (IPv4Address("172.18.0.11"),),
    )  # fmt: skip


def test_a_gateway_of_another_provider_network_serves_nothing_here() -> None:
    rows = plan(replace(STATE, gateway=replace(GATEWAY, physnet="elsewhere")))
    assert not (rows.links or rows.flows or rows.node)


def test_a_missing_nic_leaves_the_programs_node_entry_out() -> None:
    rows = plan(replace(STATE, nics={}))
    assert not rows.node
    assert not rows.known_addresses


def test_vfio_has_no_hook_and_so_no_fast_path() -> None:
    uplink = replace(UPLINK, mode=UplinkMode.VFIO, device="0000:3b:00.0")
    rows = plan(replace(STATE, config=replace(CONFIG, uplinks=(uplink,))))
    assert dict(rows.ports["vf00003b000"].options)["dpdk-devargs"] == "0000:3b:00.0"
    assert not (rows.programs.keys() - {"svc0"} or rows.vips or rows.links)


def test_without_a_hook_sockets_are_served_if_they_are_to_be() -> None:
    vfio = replace(UPLINK, mode=UplinkMode.VFIO, device="0000:3b:00.0")
    ovns = service("10.96.0.10:80", *NEAR_AND_FAR, served_by=ServedBy.OVN)
    ovns = replace(ovns, sockets_only=True)
    here = state(ovns, service("10.96.0.11:80", *NEAR_AND_FAR, served_by=ServedBy.NOBODY))
    config = replace(CONFIG, uplinks=(vfio,))
    assert not plan(replace(here, config=config)).vips
    config = replace(config, services=replace(config.services, connect=("/cgroup",)))
    rows = plan(replace(here, config=config))
    assert set(rows.vips) == {ovns.vip}
    assert {row.target for row in rows.backends.values()} == {b.target for b in NEAR_AND_FAR}
    assert set(rows.sockets) == {"/cgroup"}
    assert not (rows.programs.keys() - {"svc0"} or rows.node)


def test_cluster_policy_uses_snat_and_every_backend() -> None:
    rows = plan(state(service("10.96.0.10:80", *NEAR_AND_FAR)))
    entry = rows.vips[l4("10.96.0.10:80")]
    assert entry.flags == VipFlag.SNAT | VipFlag.INNER_SNAT | VipFlag.REJECT
    assert {b.target for b in rows.backends.values()} == {
        l4("10.1.0.11:8080"),
        l4("10.1.0.12:8080"),
    }
    everyone = rows.sets[entry.service_id, SetScope.CLUSTER].members
    here = rows.sets[entry.service_id, SetScope.LOCAL].members
    assert {rows.backends[number].target for number, _, _ in everyone} == {
        l4("10.1.0.11:8080"),
        l4("10.1.0.12:8080"),
    }
    assert [rows.backends[number].target for number, _, _ in here] == [l4("10.1.0.11:8080")]


def test_local_policy_keeps_the_client_and_leads_replies_to_svc0() -> None:
    rows = plan(state(service("10.96.0.10:80", *NEAR_AND_FAR, policy=TrafficPolicy.LOCAL)))
    flags = rows.vips[l4("10.96.0.10:80")].flags
    assert VipFlag.LOCAL in flags
    assert VipFlag.SNAT not in flags
    key = FlowKey(
        "br-ex",
        110,
        'tcp,in_port="patch-ext_n1-localnet-to-br-int",nw_src=10.1.0.11,tp_src=8080',
    )
    assert rows.flows[key].actions == 'output:"svc0-ovs"'


def test_a_vip_without_a_usable_backend_is_refused_not_forgotten() -> None:
    rows = plan(state(service("10.96.0.10:80")))
    assert VipFlag.REJECT in rows.vips[l4("10.96.0.10:80")].flags
    assert not (rows.backends or rows.sets)


def test_a_backend_in_this_nodes_network_is_a_member_that_ovs_has_nothing_to_do_with() -> None:
    host = backend("172.18.0.11:6443", Place.HOST)
    rows = plan(state(service("10.96.0.1:443", host, policy=TrafficPolicy.LOCAL)))
    assert [entry.place for entry in rows.backends.values()] == [Place.HOST]
    assert not [key for key in rows.flows if key.priority == PRIORITY_LOCAL_REPLY]


def test_the_kernels_replies_are_reversed_at_the_uplink_and_at_svc0() -> None:
    rows = plan(STATE)
    assert rows.replies == dict.fromkeys(("up0", "svc0"), HostReplies())
    svc0 = rows.links["svc0"]
    for neighbour in svc0.neighbours:
        assert any(neighbour in one.network and neighbour != one.ip for one in svc0.addresses)


def test_another_nodes_svc0_is_behind_its_gateway_router() -> None:
    other = replace(
        GATEWAY,
        router="GR_n2",
        addresses=(ip_interface("172.18.0.102/16"),),
        service_address=IPv4Address("100.64.255.2"),
    )
    rows = plan(replace(STATE, peers={"n1": GATEWAY, "n2": other}))
    assert {str(network): str(route.via) for network, route in rows.routes.items()} == {
        "100.64.255.2/32": "172.18.0.102"
    }
    assert all(route.table == MAIN_TABLE for route in rows.routes.values())
    far = replace(other, addresses=(ip_interface("192.0.2.102/24"),))
    assert not plan(replace(STATE, peers={"n2": far})).routes


def test_what_ovn_serves_is_not_in_the_maps() -> None:
    rows = plan(state(service("10.96.0.9:80", backend("10.1.0.11:80"), served_by=ServedBy.OVN)))
    assert not (rows.vips or rows.backends)


def test_held_ids_are_kept_and_retired_ones_not_reused_at_once() -> None:
    held = HeldIds({l4("10.96.0.10:80"): 7, l4("10.96.0.99:80"): 1}, {l4("10.1.0.11:8080"): 3})
    rows = plan(
        state(
            service("10.96.0.9:80", backend("10.1.0.11:8080")),
            service("10.96.0.10:80", backend("10.1.0.12:8080")),
            held=held,
        )
    )
    assert rows.vips[l4("10.96.0.10:80")].service_id == 7
    assert rows.vips[l4("10.96.0.9:80")].service_id == 2
    assert rows.backends[3].target == l4("10.1.0.11:8080")


def test_attachments_become_ports_on_the_integration_bridge() -> None:
    pods = (attachment("web"), attachment("vm", PortKind.VHOST_USER))
    rows = plan(replace(STATE, attachments=pods))
    web, machine = rows.ports["mrpweb"], rows.ports["mrpvm"]
    assert (web.bridge, web.type) == ("br-int", "system")
    assert dict(web.external_ids)["iface-id"] == "web.default"
    assert machine.type == "dpdkvhostuserclient"
    assert dict(machine.options) == {"vhost-server-path": "/run/millrace/n1/vhost/vm/eth0.sock"}
    assert machine.mtu_request == 1442


def test_ovs_settings_name_the_chassis_and_a_file_prefix_of_its_own() -> None:
    rows = plan(STATE).ovs
    assert rows["external_ids", "system-id"].value == "n1"
    assert rows["external_ids", "ovn-bridge-mappings"].value == "physnet-ex:br-ex"
    assert rows["other_config", "pmd-cpu-mask"].value == "0x2"
    assert "--file-prefix=millrace-n1" in rows["other_config", "dpdk-extra"].value


def test_bridge_addresses_differ_between_nodes_and_bridges() -> None:
    macs = {bridge_mac(node, bridge) for node in ("a", "b") for bridge in ("br-ex", "br-phy")}
    assert len(macs) == 4
