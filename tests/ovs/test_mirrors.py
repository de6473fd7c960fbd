"""Mirrors on a real OVS: made, ended, what a killed process left, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.drivers import mirrors
from dataplane.drivers.mirrors import MirrorError, MirrorsTable, Output
from dataplane.drivers.ovsdb import Ovs
from dataplane.model.rows import PortMirror, StaleMirror
from tests.labs.sandbox import Sandbox, wait_until

P0, P1 = "020000000010", "020000000011"
TO_P1 = P1 + P0 + "88b5" + "6d" * 46
FROM_P1 = P0 + P1 + "88b5" + "6d" * 46


@pytest.fixture
def ovs(sandbox: Sandbox) -> Iterator[Ovs]:
    sandbox.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=dummy")
    for port in ("p0", "p1", "p2"):
        words = ("set", "Interface", port, "type=dummy", f"external_ids:iface-id=vm-{port}.default")
        sandbox.vsctl("add-port", "br0", port, "--", *words)
    sandbox.vsctl("add-br", "br1", "--", "set", "Bridge", "br1", "datapath_type=dummy")
    sandbox.vsctl("add-port", "br1", "q0", "--", "set", "Interface", "q0", "type=dummy")
    connection = Ovs(sandbox.remote)
    connection.start()
    connection.wait_synced(10)
    yield connection
    connection.stop()


def count(sandbox: Sandbox) -> int:
    return len(sandbox.vsctl("--bare", "--columns=_uuid", "list", "Mirror").split())


def test_a_mirror_copies_to_another_port_and_ends(ovs: Ovs, sandbox: Sandbox) -> None:
    source = mirrors.find(ovs, "vm-p0.default")
    assert (source.name, source.bridge) == ("p0", "br0")
    mirrors.start(ovs, source, Output("p1", None))
    ports = {name: sandbox.vsctl("get", "Port", name, "_uuid").strip() for name in ("p0", "p1")}
    name = mirrors.name_of_process()
    assert sandbox.vsctl("get", "Mirror", name, "output_port").strip() == ports["p1"]
    for column in ("select_src_port", "select_dst_port"):
        assert sandbox.vsctl("get", "Mirror", name, column).strip() == f"[{ports['p0']}]"
    # It is of a process that runs, so nobody takes it for left.
    assert MirrorsTable(ovs).observe() == {}
    with pytest.raises(MirrorError, match="another mirror's output"):
        mirrors.start(ovs, mirrors.find(ovs, "p2"), Output("p1", None))
    mirrors.stop(ovs, name)
    assert count(sandbox) == 0
    assert set(sandbox.vsctl("list-ports", "br0").split()) == {"p0", "p1", "p2"}
    mirrors.stop(ovs, name)


def test_what_a_killed_process_left_goes_and_others_mirrors_stay(
    ovs: Ovs, sandbox: Sandbox
) -> None:
    file, other = sandbox.rundir / "mrdump9.pcap", sandbox.rundir / "else.pcap"
    for path in (file, other):
        path.touch()
    sandbox.vsctl(
        "--", "add-port", "br0", "mrdump9", "--", "set", "Interface", "mrdump9", "type=dummy",
        f'options:dpdk-devargs="net_pcap_mrdump9,tx_pcap={file}"',
        "--", "add-port", "br0", "mrdump8", "--", "set", "Interface", "mrdump8", "type=dummy",
        f'options:dpdk-devargs="net_pcap_mrdump8,tx_pcap={other}"',
        "--", "set", "Port", "mrdump8", "external_ids:millrace-mirror=999999999:7",
        "--", "set", "Port", "mrdump9", "external_ids:millrace-mirror=999999999:7",
        "--", "--id=@m", "create", "Mirror", "name=mrdump9", "select_all=true",
        "external_ids:millrace-mirror=999999999:7",
        "--", "--id=@n", "create", "Mirror", "name=theirs", "select_all=true",
        "--", "set", "Bridge", "br0", "mirrors=@m,@n",
    )  # fmt: skip
    table = MirrorsTable(ovs)
    left = {name: StaleMirror("999999999:7") for name in ("mrdump8", "mrdump9")}
    wait_until(lambda: table.observe() == left, "our copy of the database has it")
    assert table.delete(["mrdump8", "mrdump9", "theirs"]) == {}
    assert not file.exists()
    assert other.exists()
    assert table.observe() == {}
    assert "mrdump9" not in sandbox.vsctl("list-ports", "br0")
    assert sandbox.vsctl("--bare", "--columns=name", "list", "Mirror").split() == ["theirs"]


def test_a_planned_mirror_follows_its_ports_and_goes(ovs: Ovs, sandbox: Sandbox) -> None:
    table = MirrorsTable(ovs)
    first, both = (PortMirror("br0", ports, "p2") for ports in (("p0",), ("p0", "p1")))
    early = table.upsert([("mirror0", PortMirror("br0", ("p0", "p9"), "p2"))])
    assert early["mirror0"].waiting
    assert "p9" in early["mirror0"].reason
    for row in (first, both, first):
        assert table.upsert([("mirror0", row)]) == {}
        assert table.observe() == {"mirror0": row}
        assert count(sandbox) == 1
    # A port that goes and comes again is a difference, which the next round mends.
    assert table.upsert([("mirror0", both)]) == {}
    sandbox.vsctl("del-port", "p1")
    wait_until(lambda: table.observe() == {"mirror0": first}, "our copy of the database has it")
    assert table.delete(["mirror0"]) == {}
    assert table.observe() == {}
    assert count(sandbox) == 0
    assert set(sandbox.vsctl("list-ports", "br0").split()) == {"p0", "p2"}


def test_what_is_on_its_way_already_is_copied_and_then_no_more(ovs: Ovs, sandbox: Sandbox) -> None:
    """OVS does not judge known flows anew for a mirror alone."""
    file = sandbox.rundir / "copies.pcap"
    options = f"options:tx_pcap={file}"
    sandbox.vsctl("add-port", "br0", "out", "--", "set", "Interface", "out", "type=dummy", options)

    def copies() -> int:
        """Of ten frames from p0 to p1, both of which OVS has learnt and whose flow it knows."""
        before = file.stat().st_size if file.exists() else 0
        for _ in range(10):
            sandbox.appctl("netdev-dummy/receive", "p1", FROM_P1)
            sandbox.appctl("netdev-dummy/receive", "p0", TO_P1)
        return ((file.stat().st_size if file.exists() else 0) - before) // (16 + 60)

    copies()
    wait_until(lambda: copies() == 0, "OVS knows where both are")
    table = MirrorsTable(ovs)
    assert table.upsert([("mirror0", PortMirror("br0", ("p0",), "out"))]) == {}
    wait_until(lambda: copies() == 20, "both directions of p0 are copied")
    assert table.delete(["mirror0"]) == {}
    wait_until(lambda: copies() == 0, "and no more")
    mirrors.start(ovs, mirrors.find(ovs, "p1"), Output("out", None))
    wait_until(lambda: copies() == 20, "by a capture, too")
    mirrors.stop(ovs, mirrors.name_of_process())
    wait_until(lambda: copies() == 0, "until it ends")
    assert sandbox.vsctl("get", "Port", "out", "protected").strip() == "false"


def test_what_cannot_be_is_named_and_nothing_is_left(ovs: Ovs, sandbox: Sandbox) -> None:
    with pytest.raises(MirrorError, match="no port nowhere"):
        mirrors.find(ovs, "nowhere")
    source = mirrors.find(ovs, "p0")
    with pytest.raises(MirrorError, match="q0 is no port of bridge br0"):
        mirrors.start(ovs, source, Output("q0", None))
    # This vswitchd has no DPDK: it refuses the port that a capture needs.
    into = Output(mirrors.name_of_process(), sandbox.rundir / "a.pcap")
    with pytest.raises(MirrorError, match="OVS makes no port for the copies"):
        mirrors.start(ovs, source, into)
    assert count(sandbox) == 0
    assert set(sandbox.vsctl("list-ports", "br0").split()) == {"p0", "p1", "p2"}
