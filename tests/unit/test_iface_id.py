"""Names of ports that another CMS gave: templates, what is wrong with them, who is meant."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cni import spec
from cni.wire import RemoteError
from controller import cni_request, iface_id, vm_ports
from controller.config import ConfigProblems, parse_node
from controller.translate.index import Index
from controller.translate.ovn import LogicalSwitchPort, NbSnapshot, SbSnapshot
from dataplane.model.names import OWNER, OWNER_KEY
from dataplane.model.state import LogicalPort, PortKind
from tests.unit.test_cni_request import ARGS, PORT

UUID = "6f3c3a7e-93d2-4c3e-8a4b-0c6d2f0f8a11"
BY_NAME = "external_ids:neutron:port_name={pod}.{namespace}"


def name_of(template: str, node: str = "", **change: object) -> str:
    return cni_request.interface_request({**ARGS, "iface_id": template, **change}, node).iface_id


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{namespace}_{pod}", "shop_web-0"),
        ("{args.port}", UUID),
        (UUID, UUID),
        ("{uid}-{ifname}-{container}@{network}", "u-1-eth0-c0ffee@mill"),
        (BY_NAME, "external_ids:neutron:port_name=web-0.shop"),
    ],
)
def test_a_template_names_the_port(template: str, name: str) -> None:
    assert iface_id.fault(template) is None
    assert name_of(template, cni_args={"port": UUID, "number": 7}) == name


def test_the_networks_template_goes_before_the_nodes_and_without_both_it_is_ours() -> None:
    assert name_of("", "{namespace}_{pod}") == "shop_web-0"
    assert name_of("{uid}", "{namespace}_{pod}") == "u-1"
    assert name_of("") == "web-0.shop"


def test_a_machine_keeps_its_name_over_its_pods() -> None:
    launcher = {"pod": "virt-launcher-db-x7k2p", "mode": "vhost-user"}
    assert name_of("{namespace}_{vm}", **launcher) == "shop_db"
    assert name_of("{namespace}_{vm}") == "shop_web-0"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{pod", "no }"),
        ("pod}", "no }"),
        ("{pods}", "no {pods}; there are pod, namespace"),
        ("{args.}", "no {args.}"),
        ("{pod.name}", "no {pod.name}"),
        ("", "1 to 255"),
        ("x" * 256, "1 to 255"),
        ("a\nb", "printable"),
        ("external_ids:neutron:port_name", "KEY=VALUE"),
        ("external_ids:={pod}", "KEY=VALUE"),
        ("external_ids:a=b", "same port"),
    ],
)
def test_what_is_wrong_with_a_template_is_said_where_it_stands(template: str, why: str) -> None:
    assert why in str(iface_id.fault(template))
    if template:
        with pytest.raises(RemoteError, match='"iface_id" is') as caught:
            name_of(template)
        assert caught.value.code == spec.INVALID_CONFIG
    with pytest.raises(ConfigProblems, match="iface_id"):
        node_file(template)


def node_file(template: str) -> str:
    text = template.replace("\n", "\\n")
    return parse_node(f'[node]\nname = "n"\n[ovn]\niface_id = "{text}"\n', "node.toml").iface_id


def test_the_nodes_file_has_a_template() -> None:
    assert node_file("{namespace}_{pod}") == "{namespace}_{pod}"
    assert parse_node('[node]\nname = "n"\n', "node.toml").iface_id == ""


@pytest.mark.parametrize(
    ("template", "change", "said"),
    [
        ("{args.port}", {}, "args.cni has no 'port'"),
        ("{uid}", {"pod_uid": ""}, "it has no uid"),
        ("{args.port}", {"cni_args": {"port": "a\nb"}}, "is none"),
        ("{args.port}", {"cni_args": {"port": "x" * 300}}, "is none"),
    ],
)
def test_what_the_runtime_did_not_tell_is_named(
    template: str, change: dict[str, object], said: str
) -> None:
    with pytest.raises(RemoteError) as caught:
        name_of(template, "", **change)
    assert said in caught.value.msg
    assert caught.value.code == spec.INVALID_CONFIG


def index(*ports: LogicalSwitchPort) -> Index:
    return Index(NbSnapshot(switch_ports={p.name: p for p in ports}), SbSnapshot())


def neutron(name: str, called: str, type_: str = "") -> LogicalSwitchPort:
    return LogicalSwitchPort(name, type_, external_ids={"neutron:port_name": called})


def test_a_port_is_found_by_its_external_ids() -> None:
    wanted = name_of(BY_NAME)
    rows = index(neutron("a", "web-0.shop", "router"), neutron(UUID, "web-0.shop"))
    assert iface_id.port_named(rows, wanted) == UUID
    assert iface_id.port_named(rows, UUID) == UUID
    assert iface_id.port_named(index(neutron("b", "other")), wanted) is None
    assert "no logical switch port with external_ids:" in str(iface_id.absent(wanted).msg)
    assert f"lsp-add SWITCH {UUID}" in iface_id.absent(UUID).details


def test_a_routers_port_and_a_nodes_own_are_nobodys() -> None:
    own = LogicalSwitchPort("trunk-node1", external_ids={OWNER_KEY: OWNER})
    rows = index(own, LogicalSwitchPort("up", "router"), LogicalSwitchPort("web-0.shop"))
    found = [iface_id.port_named(rows, name) for name in ("trunk-node1", "up", "web-0.shop")]
    assert found == [None, None, "web-0.shop"]


def test_several_ports_of_that_name_are_refused() -> None:
    rows = index(neutron("a", "web-0.shop"), neutron("b", "web-0.shop"))
    with pytest.raises(RemoteError, match="2 logical ports have external_ids:neutron:port_name"):
        iface_id.port_named(rows, name_of(BY_NAME))


def test_what_a_template_named_serves_whatever_its_name() -> None:
    port: LogicalPort = replace(PORT, name=UUID)
    assert vm_ports.fits(PortKind.VETH, "", port)
    assert not vm_ports.fits(PortKind.VETH, "web-0", port)
