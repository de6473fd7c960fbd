"""The preflight of VXLAN against real databases and the keys that northd dealt out."""

from __future__ import annotations

from controller.ovn.deployment import deployment
from controller.translate.vxlan import preflight
from tests.labs.ovnsandbox import OvnSandbox


def test_a_deployment_is_read_and_its_offenders_are_named(ovn: OvnSandbox) -> None:
    found = deployment(ovn.nb, ovn.sb)
    assert {datapath.name for datapath in found.datapaths} == {"sw0", "vpc0"}
    assert ("vm1.ns", "sw0") in {(port.name, port.datapath) for port in found.ports}
    assert dict(found.encaps) == {"n1": frozenset({"geneve"}), "n2": frozenset({"geneve"})}
    assert found.version is not None
    assert found.version >= (23, 3)
    assert preflight(found).broken == ()

    ovn.nbctl("pg-add", "web", "vm1.ns")
    ovn.nbctl("acl-add", "web", "to-lport", "1001", 'outport == @web && inport == "vm2.ns"', "drop")
    ovn.nbctl("acl-add", "web", "from-lport", "1002", "inport == @web && ip4", "allow")
    ovn.nbctl("qos-add", "sw0", "to-lport", "100", 'inport == "vm2.ns"', "rate=1000")
    ovn.nbctl("set", "logical_switch", "sw0", "other_config:requested-tnl-key=5000")
    ovn.nbctl("lsp-set-options", "vm2.ns", "requested-tnl-key=3000")
    ovn.nbctl("ls-add", "ts1")
    ovn.nbctl("set", "logical_switch", "ts1", "other_config:interconn-ts=ts1")
    ovn.sync()
    broken = preflight(deployment(ovn.nb, ovn.sb)).broken
    assert [problem.name for problem in broken] == [
        "logical switches and routers sw0",
        "ports vm2.ns of sw0",
        "ACL of priority 1001 of port group web",
        "QoS of priority 100 of switch sw0",
        "transit switches ts1",
    ]
