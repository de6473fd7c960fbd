"""The node daemon itself, whose OVN is somebody else's: by TLS, with a certificate that expires."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cni.wire import RemoteError, WireError, call
from dataplane.drivers import ovsprocess, processes
from dataplane.model.names import FAST_PATH_KEY, FORWARDING_KEY
from perf import ovsdbwire as wire
from perf.controllab import ControlLab, port_name
from tests.labs.authority import Authority, Identity

NB, SB = "ssl:127.0.0.1:6641", "ssl:127.0.0.1:6642"
PATIENCE_S = 60.0


class TlsNode:
    """A small cluster's databases behind TLS in the namespace of one node, which has `files`."""

    def __init__(self, lab: ControlLab, authority: Authority) -> None:
        self.lab, self.authority = lab, authority
        tls = lab.rundir / "tls"
        self.files = Identity(*(str(tls / f"{name}.pem") for name in ("key", "cert", "ca")))

    def build(self) -> None:
        lab, server = self.lab, self.authority.identity("server")
        lab.build()
        Path(self.files.key).parent.mkdir()
        for name, remote in (("nb", NB), ("sb", SB)):
            processes.stop(lab.instance.daemon(name))
            ovsprocess.start(
                lab.instance,
                name,
                [
                    "ovsdb-server", str(lab.rundir / f"{name}.conf"),
                    f"--remote=punix:{lab.rundir}/{name}.sock",
                    f"--remote=pssl:{remote.rpartition(':')[2]}:127.0.0.1", *server.options,
                ],
            )  # fmt: skip
        with (lab.rundir / "node.toml").open("a", encoding="utf-8") as into:
            into.write(f'[ovn]\nembedded = false\nnb = "{NB}"\nsb = "{SB}"\n{self.files.toml}')
        self.use(self.authority.identity(lab.name))
        processes.stop(lab.instance.daemon("ovn-controller"))
        files = (self.files.key, self.files.certificate, self.files.authority)
        ovsprocess.start_ovn_controller(lab.instance, f"unix:{lab.rundir}/db.sock", files)
        with (lab.rundir / "cluster.toml").open("a", encoding="utf-8") as into:
            # DSR sends to the gateway router of the backend's chassis.
            into.write(
                '[[gateway]]\nchassis = "chassis-0"\nphysnet = "physnet1"\n'
                'address = "172.18.0.112/24"\nrouters = ["vpc0"]\n'
            )
        lab.spawn(lab.central)

    def use(self, identity: Identity) -> None:
        """Put other files in the place of those that are used, each whole."""
        for source, to in (
            (identity.key, self.files.key),
            (identity.certificate, self.files.certificate),
            (identity.authority, self.files.authority),
        ):
            shutil.copy(source, f"{to}.new")
            Path(f"{to}.new").replace(to)

    def status(self) -> dict[str, Any]:
        """The daemon's answer; empty while there is none."""
        try:
            return call(str(self.lab.rundir / "agent.sock"), "status", {}, 30.0)
        except (WireError, RemoteError):
            return {}

    def problems(self) -> dict[str, dict[str, str]]:
        """What the daemon names for an operator to mend."""
        return {one["name"]: one for one in self.status().get("problems", [])}

    def refusal(self) -> str:
        """What CNI's STATUS says is wrong; "" if nothing is."""
        try:
            call(str(self.lab.rundir / "cni.sock"), "status", {}, 30.0)
        except RemoteError as error:
            return error.msg
        except WireError:
            return "it does not answer yet"
        return ""

    def services(self) -> list[dict[str, Any]]:
        """The daemon's services."""
        answer: dict[str, Any] = call(str(self.lab.rundir / "agent.sock"), "services", {}, 30.0)
        return list(answer["services"])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsNode]:
    made = TlsNode(ControlLab(100), Authority(tmp_path_factory.mktemp("ca") / "ca"))
    try:
        made.build()
        yield made
    finally:
        made.lab.remove()


def test_the_daemon_says_what_is_wrong_and_goes_on_once_it_is_mended(node: TlsNode) -> None:
    node.use(node.authority.identity("old", days=-1))
    node.lab.spawn(node.lab.node)
    processes.wait_until(lambda: "has expired" in node.refusal(), "CNI is told", timeout_s=60)
    assert f"our certificate {node.files.certificate}" in node.refusal()
    names = {f"OVN_Northbound at {NB}", f"OVN_Southbound at {SB}"}
    processes.wait_until(lambda: names <= node.problems().keys(), "both problems are named")
    assert node.status()["ovn"] == {"nb": False, "sb": False}
    assert {node.problems()[name]["next_step"] for name in names} == {"renew it"}
    node.use(node.authority.identity(node.lab.name))
    processes.wait_until(
        lambda: node.status().get("ovn") == {"nb": True, "sb": True}, "both are there"
    )
    processes.wait_until(lambda: bool(node.status().get("converged")), "it has converged")
    assert not names & node.problems().keys()


def test_ovn_controller_has_the_remote_and_registers_by_it(node: TlsNode) -> None:
    said = processes.run(
        ["ovs-vsctl", f"--db=unix:{node.lab.rundir}/db.sock", "get", "Open_vSwitch", ".",
         "external_ids:ovn-remote"]
    )  # fmt: skip
    assert said.strip().strip('"') == SB

    def is_known() -> bool:
        with node.lab.sb() as database:
            return bool(database.select("Chassis", ["_uuid"], [["name", "==", node.lab.name]]))

    processes.wait_until(is_known, "the chassis is registered")


def backends(node: TlsNode) -> dict[str, tuple[str, str | None]]:
    """Places and chassis of the first service's backends, by logical port."""
    (row,) = (one for one in node.services() if one["name"] == "svc-0")
    return {one["port_name"]: (one["place"], one["chassis"]) for one in row["backends"]}


def is_at(node: TlsNode, port: int, chassis: str | None) -> bool:
    """Whether the daemon knows a port of another node to be there."""
    return backends(node)[port_name(port)] == ("remote", chassis)


def test_where_a_backend_is_elsewhere_is_asked_for_when_a_service_has_dsr(node: TlsNode) -> None:
    # The lab binds all ports to the other chassis, of which it has one.
    assert backends(node)[port_name(0)] == ("remote", None)
    plain = {FAST_PATH_KEY: "true"}
    for asked, chassis in ((plain | {FORWARDING_KEY: "dsr"}, "chassis-0"), (plain, None)):
        with node.lab.nb() as database:
            ids = wire.string_map(asked)
            database.transact(wire.update("Load_Balancer", "name", "svc-0", external_ids=ids))
        processes.wait_until(partial(is_at, node, 0, chassis), f"it is at {chassis}")


def test_other_backends_come(node: TlsNode) -> None:
    with node.lab.nb() as database:
        database.transact(node.lab.change(0, node.lab.backends_text(0, first=5)))
    processes.wait_until(lambda: port_name(0) not in backends(node), "the other backends are there")
    assert port_name(50) in backends(node)


def test_a_restarted_daemon_writes_nothing(node: TlsNode) -> None:
    with node.lab.nb() as database:
        ids = wire.string_map({FAST_PATH_KEY: "true", FORWARDING_KEY: "dsr"})
        database.transact(wire.update("Load_Balancer", "name", "svc-0", external_ids=ids))
    processes.wait_until(partial(is_at, node, 50, "chassis-0"), "it is asked for")
    processes.wait_until(lambda: node.lab.total_writes() is not None, "it has converged")
    node.lab.kill(node.lab.node)
    node.lab.spawn(node.lab.node)
    processes.wait_until(lambda: node.lab.total_writes() is not None, "it has converged again")
    # What it knew of other chassis it waited for, and did not first plan without.
    assert node.lab.total_writes() == 0
