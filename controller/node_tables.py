"""The tables that a node daemon owns rows of, in the order in which they are applied."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataplane.drivers.addresses import AddressesTable
from dataplane.drivers.bpfmaps import (
    BackendTable,
    KnownAddressTable,
    SourceRangeTable,
    VipTable,
)
from dataplane.drivers.carrying import Carried
from dataplane.drivers.hostreplies import HostRepliesTable
from dataplane.drivers.hugepages import HugepagesTable
from dataplane.drivers.links import LinksTable
from dataplane.drivers.mirrors import MirrorsTable
from dataplane.drivers.napithreads import NapiThreadsTable
from dataplane.drivers.nicsettings import NicsTable
from dataplane.drivers.nodemap import NodeTable
from dataplane.drivers.offloads import OffloadsTable
from dataplane.drivers.openflow import FlowsTable
from dataplane.drivers.ovsbonds import BondsTable
from dataplane.drivers.ovsdatapath import DatapathTable
from dataplane.drivers.ovsports import PortsTable
from dataplane.drivers.ovsqos import QosTable
from dataplane.drivers.ovstables import BridgesTable
from dataplane.drivers.podbuckets import BucketTable
from dataplane.drivers.programs import ProgramTable
from dataplane.drivers.routes import RoutesTable, RulesTable
from dataplane.drivers.setsmap import SetTable
from dataplane.ports import Table

if TYPE_CHECKING:
    from controller.node import NodeDaemon


def tables_of(daemon: NodeDaemon) -> tuple[Table[Any, Any], ...]:
    """Every table; those that others of the daemon's parts ask, too, are its own attributes."""
    config, ovs, bpf = daemon.config, daemon.ovs, daemon.bpf
    return (
        HugepagesTable(lambda: daemon.rounds.wanted_pages),
        daemon.settings,
        LinksTable(),
        NicsTable(Path(config.rundir) / "nic-settings.json"),
        BridgesTable(ovs),
        DatapathTable(ovs),
        PortsTable(ovs),
        BondsTable(ovs),
        QosTable(ovs),
        BucketTable(),
        daemon.trunk,
        daemon.nested,
        MirrorsTable(ovs),
        daemon.rebalancer.table,
        AddressesTable(),
        RoutesTable(),
        RulesTable(),
        FlowsTable(config.ovs_rundir, ovs.openflow_ports),
        NodeTable(bpf),
        KnownAddressTable(bpf),
        BackendTable(bpf),
        SetTable(bpf),
        SourceRangeTable(bpf),
        VipTable(bpf),
        Carried(HostRepliesTable(bpf), daemon.carrying, last=False),
        OffloadsTable(Path(config.rundir) / "offloads.json"),
        Carried(ProgramTable(bpf, daemon.carrying.again), daemon.carrying),
        NapiThreadsTable(),
        daemon.sockets,
        daemon.announcements,
    )
