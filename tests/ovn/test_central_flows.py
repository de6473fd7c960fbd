"""The cluster controller's rows as a real ovn-controller turns them into OpenFlow."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from controller.ovn import nb as nb_database
from controller.ovn.tables import tables
from controller.translate.central import northbound
from controller.translate.ovn import SbSnapshot
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from tests.labs.ovnrows import Lab, cluster_config, gateway_config
from tests.labs.ovnsandbox import OvnSandbox, wait_until

NAMES = ("switches", "routers", "router_ports", "switch_ports", "static_macs", "routes", "policies")
CLIENT, CLIENT_MAC = "172.18.0.50", "0a:00:00:00:00:50"


def names(ovn: OvnSandbox) -> list[str]:
    return ovn.sbctl("--bare", "--columns=name", "list", "Chassis").split()


def chassis_of(ovn: OvnSandbox) -> SbSnapshot:
    lab = Lab()
    for name in names(ovn):
        lab.chassis(name)
    return lab.sb


@pytest.fixture(params=[False, True], ids=["a route to each network", "one way in"])
def flows(ovn: OvnSandbox, request: pytest.FixtureRequest) -> OvnSandbox:
    """Chassis n1 for real, with vm1; a0 sorts before it, so that the default route is not n1's."""
    ovn.sbctl("chassis-del", "n1")
    ovn.start_chassis("n1", "127.0.0.1", "phys", "br-ex")
    ovn.chassis("a0", "10.0.0.9")
    for port, bridge in (("up0", "br-ex"), ("svc0-ovs", "br-ex"), ("vm1", "br-int")):
        wait_until(f"{bridge} is there", lambda name=bridge: name in ovn.vsctl("list-br"))
        ovn.vsctl("add-port", bridge, port)
    ovn.vsctl("set", "Interface", "vm1", "external_ids:iface-id=vm1.ns")
    wait_until("n1 is registered", lambda: "n1" in names(ovn))
    cluster = cluster_config(
        gateway_config("a0", 110), gateway_config("n1", 111), gateway_config("n2", 112)
    )
    cluster = replace(cluster, one_way_in=request.param)
    with nb_database.client(ovn.nb, leader_only=True) as client:
        client.wait_synced(60)
        plan = northbound(cluster, client.read(nb_database.snapshot, 60), chassis_of(ovn))
        assert plan.problems == ()
        reconciler = Reconciler(tables(client), Backoff())
        report = reconciler.apply({name: getattr(plan, name) for name in NAMES}, 0.0)
        assert report.failed == 0
    ovn.sync()
    patch = "patch-ext_n1-localnet-to-br-int"
    wait_until("n1 has its gateway", lambda: patch in ovn.vsctl("list-ports", "br-ex"))
    wait_until("vm1 is up", lambda: ovn.nbctl("lsp-get-up", "vm1.ns").strip() == "up")
    return ovn


def ofport(ovn: OvnSandbox, port: str) -> str:
    return ovn.vsctl("get", "Interface", port, "ofport").strip()


def trace(ovn: OvnSandbox, bridge: str, port: str, flow: str) -> str:
    return ovn.appctl("ofproto/trace", bridge, f"in_port={ofport(ovn, port)},{flow}")


def datapath_actions(text: str) -> str:
    found = re.search(r"^Datapath actions: (.*)$", text, re.MULTILINE)
    assert found, text
    return found[1]


def final_flow(text: str) -> str:
    found = re.search(r"^Final flow: (.*)$", text, re.MULTILINE)
    assert found, text
    return found[1]


def settled(ovn: OvnSandbox, *arguments: str, until: str) -> str:
    """The trace, once ovn-controller has installed what it takes."""
    seen = ""

    def done() -> bool:
        nonlocal seen
        seen = trace(ovn, *arguments)
        return re.search(until, seen) is not None

    try:
        wait_until(f"the trace shows {until}", done, 30)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{seen}") from error
    return seen


def reply_actions(ovn: OvnSandbox, address: str, mac: str) -> str:
    """What OVS does to vm1's reply to an address; it leaves n1's gateway router for this MAC."""
    reply = settled(
        ovn, "br-int", "vm1",
        "tcp,dl_src=0a:00:00:00:00:11,dl_dst=0a:00:00:00:00:01,nw_src=10.1.0.11,"
        f"nw_dst={address},nw_ttl=64,tp_src=80,tp_dst=40000",
        until=f"Datapath actions: set\\(eth\\(src=0a:58:ac:12:00:6f,dst={mac}\\)\\)",
    )  # fmt: skip
    actions = datapath_actions(reply)
    assert "ct(" not in actions
    assert "recirc" not in actions
    return actions


def test_service_packets_cross_ovn_in_one_pass_without_conntrack(flows: OvnSandbox) -> None:
    """The life of a service packet between the uplink's program and svc0's, in OVS's words."""
    forward = settled(
        flows, "br-ex", "up0",
        "tcp,dl_src=0a:00:00:00:00:99,dl_dst=0a:58:ac:12:00:6f,nw_src=100.64.255.2,"
        "nw_dst=10.1.0.11,nw_ttl=64,tp_src=40000,tp_dst=80",
        until="Datapath actions: set.*,[0-9]+$",
    )  # fmt: skip
    actions = datapath_actions(forward)
    assert "dst=0a:00:00:00:00:11" in actions
    assert "ct(" not in actions
    assert "recirc" not in actions
    assert "ct_clear" not in actions

    service = flows.nbctl(
        "get", "Logical_Router", "GR_n1", 'external_ids:"millrace:service-address"'
    )
    address = json.loads(service)
    mac = "0a:58:" + ":".join(f"{int(octet):02x}" for octet in address.split("."))
    actions = reply_actions(flows, address, mac)
    assert "userspace" not in actions, "an ARP request instead of the packet"
    assert "tnl_push" not in actions


def test_a_reply_that_keeps_the_clients_address_leaves_on_its_own_chassis(
    flows: OvnSandbox,
) -> None:
    """The default route is to a0's gateway router; the policy leads n1's workloads to n1's."""
    default = re.search(r"0\.0\.0\.0/0\s+(\S+)", flows.nbctl("lr-route-list", "vpc0"))
    assert default
    join = flows.nbctl("get", "Logical_Router_Port", "millrace-join-GR_a0", "networks")
    assert f'"{default[1]}/24"' in join
    datapath = flows.sbctl(
        "--bare", "--columns=datapath", "find", "Port_Binding", "logical_port=millrace-ext-n1"
    ).strip()
    flows.sbctl(
        "create", "MAC_Binding", "logical_port=millrace-ext-n1", f"ip={CLIENT}",
        f'mac="{CLIENT_MAC}"', f"datapath={datapath}",
    )  # fmt: skip
    reply_actions(flows, CLIENT, CLIENT_MAC)


def test_nobody_warns(flows: OvnSandbox) -> None:
    for daemon in ("northd", "controller"):
        lines = [
            line
            for line in flows.warnings(daemon)
            # Said at every start of Debian's package: a plug-in that nobody asked for.
            if "vif_plug_provider" not in line
            # ovn-controller may ask for br-int a moment before vswitchd has made it.
            and "br-int.mgmt: connection failed" not in line
        ]
        assert lines == [], Path(flows.directory / f"{daemon}.log").read_text()
