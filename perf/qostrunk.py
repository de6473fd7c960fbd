"""Two containers on a node's trunk, for `millrace perf qos`: their limits are those of its plan.

Everything at them is made by the node's own code from the node's own plan: veths, the trunk, tc's
programs at both, the buckets. Only OVN's pipeline is not there: a flow changes the one's tag into
the other's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from dataplane.drivers import podlink, processes
from dataplane.drivers.links import LinksTable
from dataplane.drivers.netns import inside_named
from dataplane.drivers.podbuckets import BucketTable
from dataplane.drivers.processes import NETNS_DIR
from dataplane.drivers.trunk import TrunkTable
from dataplane.model.addr import Mac
from dataplane.model.bandwidth import Limits
from dataplane.model.names import TRUNK_LINK, TRUNK_PORT
from dataplane.model.state import Attachment, NodeState
from dataplane.plan.node import NodePlan, plan
from dataplane.ports import DataplaneError, Failure
from perf.vhostlab import MACS, VhostLab
from tests.labs.planned import STATE, attachment

T = TypeVar("T")

NAMES = ("eth0", "eth1")
"""The containers' devices: both are in one namespace, for one process to be at both."""

TAGS = (1, 2)
BRIDGE = "br2"


class Trunk:
    """The trunk of a lab and both its containers."""

    def __init__(self, lab: VhostLab, mtu: int) -> None:
        self._lab = lab
        self._trunk, self._buckets = TrunkTable(lab.bpf_root), BucketTable()
        space = str(NETNS_DIR / lab.pods)
        pods = tuple(_pod(number, space, mtu) for number in range(len(TAGS)))
        config = replace(STATE.config, name=lab.name, dpdk=lab.dpdk)
        self._state: NodeState = replace(STATE, config=config, attachments=pods, has_trunk=True)

    def build(self) -> None:
        """Make both containers, the trunk, and OVS's port and flows at it.

        Raises:
            DataplaneError: the kernel or OVS refused.
        """
        processes.run(["ip", "netns", "add", self._lab.pods])
        rows = plan(self._state)
        for pod in self._state.attachments:
            self._here(partial(podlink.ensure, pod))
        link = (TRUNK_LINK, rows.links[TRUNK_LINK])
        _require(self._here(partial(LinksTable().upsert, [link])))
        _require(self._put(rows))
        port = rows.ports[TRUNK_PORT]
        options = [f"options:{key}={value}" for key, value in port.options]
        self._lab.vsctl(
            *("--", "add-br", BRIDGE, "--", "set", "Bridge", BRIDGE, "datapath_type=netdev"),
            *("--", "add-port", BRIDGE, TRUNK_PORT),
            *("--", "set", "Interface", TRUNK_PORT, f"type={port.type}", *options),
        )
        manage = f"unix:{self._lab.rundir}/{BRIDGE}.mgmt"
        processes.run(["ovs-ofctl", "del-flows", manage])
        for here, there in (TAGS, TAGS[::-1]):
            flow = f"in_port={TRUNK_PORT},dl_vlan={here},actions=mod_vlan_vid:{there},in_port"
            processes.run(["ovs-ofctl", "--names", "add-flow", manage, flow])

    def hold(self, number: int, limits: Limits) -> Mapping[str, Failure]:
        """Hold one of them to its limits, and the other to none."""
        pod = self._state.attachments[number]
        return self._put(plan(replace(self._state, limits={pod.iface_id: limits})))

    def close(self) -> None:
        """Let go of the maps; what is attached goes with the namespaces."""
        self._trunk.close()

    def _put(self, rows: NodePlan) -> Mapping[str, Failure]:
        """Make both tables so; a bucket that goes on from an earlier case would be no full one."""

        def work() -> Mapping[str, Failure]:
            failures = dict(self._buckets.delete(list(self._buckets.observe())))
            failures.update(self._buckets.upsert(list(rows.buckets.items())))
            failures.update(self._trunk.upsert(list(rows.trunk.items())))
            return failures

        return self._here(work)

    def _here(self, work: Callable[[], T]) -> T:
        return inside_named(self._lab.name, work)


def _pod(number: int, space: str, mtu: int) -> Attachment:
    return replace(
        attachment(f"{number + 1:012x}"),
        ifname=NAMES[number],
        netns=space,
        mac=Mac(MACS[number]),
        addresses=(),
        gateway=None,
        mtu=mtu,
        tag=TAGS[number],
    )


def _require(failures: Mapping[str, Failure]) -> None:
    if failures:
        raise DataplaneError(str(failures))
