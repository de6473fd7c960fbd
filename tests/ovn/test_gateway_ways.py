"""Ways out of whole networks in a real OVN: translated, and by one gateway; and their removal."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from controller.ovn import nb as nb_database
from dataplane.model.config import ClusterConfig, Outgoing, OutgoingRule
from tests.labs.centralrows import apply
from tests.labs.ovnrows import cluster_config, gateway_config
from tests.labs.ovnsandbox import OvnSandbox

BOTH = cluster_config(gateway_config("n1", 111), gateway_config("n2", 112))
INSIDE = (ip_network("10.1.0.0/24"),)
CLIENT, CLIENT_MAC = "172.18.0.50", "0a:00:00:00:00:50"


def learned(ovn: OvnSandbox, chassis: str) -> None:
    """What ovn-trace believes of neighbours: nothing but what was learned, static rows unseen."""
    bindings = {(f"millrace-ext-{chassis}", CLIENT): CLIENT_MAC}
    columns = "--columns=logical_port,ip,mac"
    static = ovn.sbctl("--bare", columns, "list", "Static_MAC_Binding").split()
    bindings |= {(p, ip): mac for p, ip, mac in zip(*[iter(static)] * 3, strict=True)}
    for (port, ip), mac in bindings.items():
        datapath = ovn.sbctl(
            "--bare", "--columns=datapath", "find", "Port_Binding", f"logical_port={port}"
        ).strip()
        ovn.sbctl("create", "MAC_Binding", f"logical_port={port}", f"ip={ip}", f'mac="{mac}"',
                  f"datapath={datapath}")  # fmt: skip


def outbound(ovn: OvnSandbox, *tracking: str) -> str:
    options = [f"--ct={state}" for state in tracking]
    return ovn.trace(
        "sw0",
        'inport == "vm2.ns" && eth.src == 0a:00:00:00:00:12 && eth.dst == 0a:00:00:00:00:01 && '
        f"ip4.src == 10.1.0.12 && ip4.dst == {CLIENT} && ip.ttl == 64 && tcp && tcp.dst == 80",
        *options,
    )


def test_a_new_connection_is_translated_and_an_answer_is_not(ovn: OvnSandbox) -> None:
    ways = (Outgoing("vpc0", INSIDE, translated=True),)
    one = cluster_config(gateway_config("n1", 111))
    apply(ovn, replace(one, one_way_in=True, outgoing=ways))
    learned(ovn, "n1")
    new = outbound(ovn, "new", "new")
    assert "(ip4.src=172.18.0.111)" in new
    assert 'output to "ext_n1-localnet"' in new
    # A service's client that comes in, its address kept: tracked, so that the answer is known.
    said = ovn.trace(
        "ext_n1",
        f'inport == "ext_n1-localnet" && eth.src == {CLIENT_MAC} && '
        f"eth.dst == 0a:58:ac:12:00:6f && ip4.src == {CLIENT} && ip4.dst == 10.1.0.12 && "
        "ip.ttl == 64 && tcp && tcp.dst == 80",
        "--ct=new", "--ct=new",
    )  # fmt: skip
    assert "ct_commit" in said
    assert 'output to "vm2.ns"' in said
    answer = outbound(ovn, "est,rpl", "est,rpl")
    assert "ip4.src=172.18.0.111" not in answer
    assert 'output to "ext_n1-localnet"' in answer


def test_a_network_leaves_by_its_gateway_wherever_it_is(ovn: OvnSandbox) -> None:
    for here, there in (("n1", "n2"), ("n2", "n1")):
        apply(ovn, replace(BOTH, outgoing=(Outgoing("vpc0", INSIDE, chassis=(here,)),)))
        said = outbound(ovn)
        assert f'dp="GR_{here}"' in said
        assert f'dp="GR_{there}"' not in said


def test_what_is_asked_for_no_more_goes(ovn: OvnSandbox) -> None:
    before = replace(BOTH, one_way_in=True, outgoing=(Outgoing("vpc0", INSIDE, translated=True),))
    apply(ovn, before)
    assert apply(ovn, before) == 0
    assert "10.1.0.0/24" in ovn.nbctl("lr-nat-list", "GR_n1")
    assert "millrace-in" in ovn.nbctl("lr-route-list", "GR_n1")
    apply(ovn, BOTH)
    assert ovn.nbctl("lr-nat-list", "GR_n1").strip() == ""
    assert "millrace-in" not in ovn.nbctl("lr-route-list", "GR_n1")
    assert apply(ovn, BOTH) == 0


def test_who_is_not_translated_is_in_a_set_that_goes_with_its_last_row(ovn: OvnSandbox) -> None:
    def rules(kept: str) -> ClusterConfig:
        rule = OutgoingRule((ip_network("10.1.0.0/25"),), (ip_network(kept),), translated=False)
        way = Outgoing("vpc0", INSIDE, translated=True, rules=(rule,))
        return replace(BOTH, one_way_in=True, outgoing=(way,))

    def sets() -> list[str]:
        return ovn.nbctl("--bare", "--columns=addresses", "list", "Address_Set").split()

    apply(ovn, rules("198.51.100.0/24"))
    assert apply(ovn, rules("198.51.100.0/24")) == 0
    assert sets() == ["198.51.100.0/24"]
    listed = ovn.nbctl("lr-nat-list", "GR_n1")
    assert "10.1.0.0/25" in listed
    assert "10.1.0.128/25" in listed
    # Somebody else's are none of ours, whatever they are for.
    ovn.nbctl("create", "Address_Set", "name=theirs", "addresses=192.0.2.1")
    with nb_database.client(ovn.nb, leader_only=True) as client:
        client.wait_synced(60)
        seen = client.read(nb_database.snapshot, 60).address_sets.values()
        assert [one.addresses for one in seen] == [("198.51.100.0/24",)]
    ovn.nbctl("destroy", "Address_Set", "theirs")
    apply(ovn, rules("198.51.100.9/32"))
    assert sets() == ["198.51.100.9/32"]
    apply(ovn, BOTH)
    assert sets() == []
