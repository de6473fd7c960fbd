"""The cluster controller against real databases and ovn-northd."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni import wire
from controller.translate.nbrows import GROUP
from tests.labs.ovnsandbox import OvnSandbox, wait_until

TABLES = (
    "Logical_Switch",
    "Logical_Switch_Port",
    "Logical_Router",
    "Logical_Router_Port",
    "Logical_Router_Static_Route",
    "Logical_Router_Policy",
    "Static_MAC_Binding",
    "NAT",
    "Load_Balancer",
)


class Controller:
    """The cluster controller as a process of its own."""

    def __init__(self, ovn: OvnSandbox, name: str = "central") -> None:
        self.ovn = ovn
        self.path = ovn.directory / "cluster.toml"
        self.socket = ovn.directory / f"{name}.sock"
        self.log = ovn.directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, *gateways: str, pool: str = "100.64.255.0/24", cluster: str = "") -> None:
        text = f'[cluster]\nnb = "{self.ovn.nb}"\nsb = "{self.ovn.sb}"\nservice_pool = "{pool}"\n'
        text += f"{cluster}\n"
        self.path.write_text(text + "".join(gateways))

    def start(self) -> None:
        command = [sys.executable, "-m", "controller.cli.main", "central"]
        command += ["--cluster", str(self.path), "--socket", str(self.socket)]
        root = Path(__file__).parents[2]
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command, cwd=root, env={**os.environ, "PYTHONPATH": "."}, stderr=log
            )

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def status(self) -> dict[str, object]:
        with contextlib.suppress(OSError, wire.WireError):
            return wire.call(str(self.socket), "status", {}, 30)
        return {}

    def settled(self) -> dict[str, object]:
        """The status once one more round was made and the last one wrote nothing."""
        before = self.count("rounds")
        found: dict[str, object] = {}

        def done() -> bool:
            nonlocal found
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            found = self.status()
            applied = found.get("applied")
            return (
                isinstance(applied, dict)
                and applied["rounds"] > before
                and applied["last_writes"] == 0
                and found["in_sync"] is True
                and found["active"] is True
            )

        wait_until("the cluster controller has settled", done)
        return found

    def count(self, name: str) -> int:
        applied = self.status().get("applied")
        return int(applied[name]) if isinstance(applied, dict) else 0


def gateway(chassis: str, last: int, routers: str = '"vpc0"', hop: bool = True) -> str:
    next_hop = 'next_hop = "172.18.0.1"\n' if hop else ""
    return (
        f'[[gateway]]\nchassis = "{chassis}"\nphysnet = "phys"\n'
        f'address = "172.18.0.{last}/24"\n{next_hop}routers = [{routers}]\n'
    )


@pytest.fixture
def central(ovn: OvnSandbox) -> Iterator[Controller]:
    controller = Controller(ovn)
    controller.configure(gateway("n1", 111), gateway("n2", 112))
    try:
        yield controller
    finally:
        if controller.process is not None:
            controller.process.kill()
            controller.process.wait()


def dump(ovn: OvnSandbox) -> dict[str, list[str]]:
    """The whole northbound database, row for row."""
    return {
        table: sorted(
            json.dumps(row) for row in json.loads(ovn.nbctl("--format=json", "list", table))["data"]
        )
        for table in TABLES
    }


def applied(status: dict[str, object]) -> dict[str, int]:
    found = status["applied"]
    assert isinstance(found, dict)
    return found


def no_ct(trace: str) -> bool:
    """No conntrack action; ct_clear is none where nothing was tracked (ovn-sb(5))."""
    return "ct_" not in trace.replace("ct_clear;", "")


TO_VM = (
    'inport == "ext_n1-localnet" && eth.src == 0a:00:00:00:00:99 && eth.dst == 0a:58:ac:12:00:6f '
    "&& ip4.src == 100.64.255.1 && ip4.dst == 10.1.0.12 && ip.ttl == 64 "
    "&& tcp.src == 40000 && tcp.dst == 80"
)


TO_PORT_80 = "tcp.src == 40000 && tcp.dst == 80"


def from_vm(number: int, destination: str) -> str:
    return (
        f'inport == "vm{number}.ns" && eth.src == 0a:00:00:00:00:1{number} && '
        f"eth.dst == 0a:00:00:00:00:01 && ip4.src == 10.1.0.1{number} && "
        f"ip4.dst == {destination} && ip.ttl == 64 && tcp.src == 80 && tcp.dst == 40000"
    )


def test_makes_rows_that_northd_takes_without_a_warning(
    ovn: OvnSandbox, central: Controller
) -> None:
    before = len(ovn.warnings())
    central.start()
    status = central.settled()
    ovn.sync()
    assert status["unfinished"] == []
    assert status["problems"] == []
    assert ovn.warnings()[before:] == []
    ids = ovn.nbctl("--bare", "--columns=external_ids", "list", "Logical_Router", "GR_n1")
    assert ids.split() == ["millrace:service-address=100.64.255.1", "owner=millrace"]
    # What a gateway router is in the southbound database: ports that belong to one chassis.
    assert (
        ovn.sbctl("get", "Port_Binding", "millrace-ext-n1", "options:l3gateway-chassis").strip()
        == "n1"
    )
    macs = ovn.sbctl("--bare", "--columns=ip,mac", "list", "Static_MAC_Binding")
    assert "100.64.255.1\n0a:58:64:40:ff:01" in macs


def test_its_socket_is_for_root_and_its_own_user_alone(central: Controller) -> None:
    central.start()
    central.settled()
    assert stat.S_IMODE(central.socket.stat().st_mode) == 0o600


def test_a_packet_from_the_provider_network_reaches_a_vm_without_conntrack(
    ovn: OvnSandbox, central: Controller
) -> None:
    central.start()
    central.settled()
    ovn.sync()
    # ovn-trace 23.03 does not read Static_MAC_Binding, so it is shown what ovn-controller does.
    learn(ovn)
    trace = ovn.trace("ext_n1", TO_VM)
    assert 'output to "vm2.ns"' in trace
    assert no_ct(trace), trace
    assert "arp.op" not in trace


def test_a_reply_to_the_service_address_leaves_by_its_gateway_to_svc0_without_conntrack(
    ovn: OvnSandbox, central: Controller
) -> None:
    central.start()
    central.settled()
    ovn.sync()
    learn(ovn)
    for vm in (1, 2):
        for chassis, address, mac in (
            ("n1", "100.64.255.1", "0a:58:64:40:ff:01"),
            ("n2", "100.64.255.2", "0a:58:64:40:ff:02"),
        ):
            trace = ovn.trace("sw0", from_vm(vm, address))
            assert f'output to "ext_{chassis}-localnet", type "localnet"' in trace
            assert f"/* MAC binding to {mac}. */" in trace
            assert no_ct(trace), trace
            assert "arp.op" not in trace


def test_a_packet_to_a_client_outside_leaves_by_a_gateway(
    ovn: OvnSandbox, central: Controller
) -> None:
    central.start()
    central.settled()
    ovn.sync()
    for destination in ("172.18.0.50", "198.51.100.7"):
        trace = ovn.trace("sw0", from_vm(1, destination))
        # ovn-trace takes every port for resident on its chassis: it may go through either.
        assert re.search(r'output to "ext_n[12]-localnet", type "localnet"', trace)
        assert no_ct(trace), trace


def learn(ovn: OvnSandbox) -> None:
    """Copy Static_MAC_Binding rows to MAC_Binding, where ovn-trace looks."""
    found = json.loads(
        ovn.sbctl("--format=json", "--columns=logical_port,ip,mac,datapath", "list",
                  "Static_MAC_Binding")
    )["data"]  # fmt: skip
    for port, ip, mac, datapath in found:
        ovn.sbctl(
            "create", "MAC_Binding", f"logical_port={json.dumps(port)}", f"ip={json.dumps(ip)}",
            f"mac={json.dumps(mac)}", f"datapath={datapath[1]}",
        )  # fmt: skip


def test_two_vpcs_do_not_reach_each_other_through_the_gateway(
    ovn: OvnSandbox, central: Controller
) -> None:
    ovn.switch("sw1")
    ovn.router("vpc1")
    ovn.connect("vpc1", "sw1", "0a:00:00:00:00:02", "10.2.0.1/24")
    ovn.vm("sw1", "vm9.ns", "0a:00:00:00:00:19", "10.2.0.19")
    central.configure(gateway("n1", 111, '"vpc0", "vpc1"'))
    central.start()
    central.settled()
    ovn.sync()
    trace = ovn.trace("sw0", from_vm(1, "10.2.0.19"))
    assert 'ingress(dp="GR_n1", inport="millrace-join-GR_n1")' in trace
    assert 'output to "vm9.ns"' not in trace
    assert "drop;" in trace


def test_a_restart_writes_nothing(ovn: OvnSandbox, central: Controller) -> None:
    central.start()
    first = central.settled()
    assert applied(first)["writes"] > 0
    before = dump(ovn)
    assert central.end() == 0
    central.start()
    second = central.settled()
    assert applied(second)["writes"] == 0
    assert dump(ovn) == before


def test_services_go_to_the_switches_and_back_to_svc0_as_the_file_says(
    ovn: OvnSandbox, central: Controller
) -> None:
    ovn.nbctl("lb-add", "inside", "10.96.0.10:80", "10.1.0.12:80", "tcp")
    ovn.nbctl("lb-add", "outside", "172.18.0.203:80", "10.1.0.12:80", "tcp")
    for name in ("inside", "outside"):
        ovn.nbctl("set", "Load_Balancer", name, 'external_ids:"millrace:fast-path"=true')
    ovn.nbctl("--", "--id=@g", "create", "Load_Balancer_Group", "name=theirs", "--", "add",
              "Logical_Switch", "sw0", "load_balancer_group", "@g")  # fmt: skip
    central.start()
    central.settled()
    request = from_vm(1, "10.96.0.10").replace("tcp.src == 80 && tcp.dst == 40000", TO_PORT_80)
    ovn.sync()
    assert no_ct(ovn.trace("sw0", request))
    route = ("--bare", "--columns=ip_prefix", "find", "Logical_Router_Static_Route",
             'ip_prefix="10.96.0.0/12"')  # fmt: skip
    assert len(ovn.nbctl(*route).split()) == 2
    central.configure(gateway("n1", 111), gateway("n2", 112), cluster='east_west = "switch"')
    assert central.process is not None
    central.process.send_signal(signal.SIGHUP)
    members = ("--bare", "--columns=load_balancer", "list", "Load_Balancer_Group", GROUP)
    wait_until("the switch has the group", lambda: len(_groups(ovn)) == 2)
    inside = ovn.nbctl("--bare", "--columns=_uuid", "find", "Load_Balancer", "name=inside")
    assert ovn.nbctl(*members).split() == inside.split()
    assert ovn.nbctl(*route).split() == []
    ovn.sync()
    trace = ovn.trace("sw0", request, "--ct=new", "--ct=new", "--ct=new")
    assert not no_ct(trace), trace
    assert 'output to "vm2.ns"' in trace, trace
    # A service that goes and one that comes, one element each.
    ovn.nbctl("lb-del", "inside")
    ovn.nbctl("lb-add", "later", "10.97.0.11:80", "10.1.0.12:80", "tcp")
    ovn.nbctl("set", "Load_Balancer", "later", 'external_ids:"millrace:fast-path"=true')
    later = ovn.nbctl("--bare", "--columns=_uuid", "find", "Load_Balancer", "name=later")
    wait_until("the group follows", lambda: ovn.nbctl(*members).split() == later.split())
    central.settled()
    central.configure(gateway("n1", 111), gateway("n2", 112), cluster='east_west = "svc0"')
    central.process.send_signal(signal.SIGHUP)
    names = ("--bare", "--columns=name", "list", "Load_Balancer_Group")
    wait_until("the switch has its own group alone", lambda: len(_groups(ovn)) == 1)
    wait_until("and the routes are back", lambda: len(ovn.nbctl(*route).split()) == 2)
    wait_until("and our group is gone", lambda: ovn.nbctl(*names).split() == ["theirs"])


def _groups(ovn: OvnSandbox) -> list[str]:
    return ovn.nbctl(
        "--bare", "--columns=load_balancer_group", "list", "Logical_Switch", "sw0"
    ).split()


def test_foreign_rows_are_never_touched(ovn: OvnSandbox, central: Controller) -> None:
    ovn.router("GR_other")
    ovn.nbctl("lr-route-add", "vpc0", "10.9.0.0/24", "10.1.0.99")
    ovn.nbctl("static-mac-binding-add", "vpc0-sw0", "10.1.0.99", "0a:00:00:00:00:99")
    ovn.nbctl("set", "Logical_Router", "vpc0", "external_ids:cms=other", "options:x=y")
    before = dump(ovn)
    central.start()
    central.settled()
    during = dump(ovn)
    lost = {t: set(before[t]) - set(during[t]) for t in TABLES}
    # A router of somebody else's refers to our ports, routes and policies; that is all.
    assert {t for t, rows in lost.items() if rows} == {"Logical_Router"}
    assert len(lost["Logical_Router"]) == 1
    central.configure(cluster="trunks = false")
    central.end()
    central.start()
    central.settled()
    assert dump(ovn) == before


@pytest.mark.parametrize("change", ["option", "mac", "route", "policy", "port"])
def test_what_somebody_changes_in_our_rows_is_put_right(
    ovn: OvnSandbox, central: Controller, change: str
) -> None:
    central.start()
    central.settled()
    before = dump(ovn)
    {
        "option": lambda: ovn.nbctl("set", "Logical_Router", "GR_n1", "options:chassis=n2"),
        "mac": lambda: ovn.nbctl("lrp-del", "millrace-ext-n1"),
        "route": lambda: ovn.nbctl("lr-route-del", "vpc0", "100.64.255.1/32"),
        "policy": lambda: ovn.nbctl("lr-policy-del", "vpc0"),
        "port": lambda: ovn.nbctl("lsp-del", "ext_n1-localnet"),
    }[change]()
    wait_until("our rows are as they were", lambda: strip_uuids(dump(ovn)) == strip_uuids(before))


def lose_a_route(ovn: OvnSandbox) -> None:
    """Somebody removes a route of ours; wait until a controller has put it back."""
    ovn.nbctl("lr-route-del", "vpc0", "100.64.255.1/32")
    wait_until("it is back", lambda: "100.64.255.1" in ovn.nbctl("lr-route-list", "vpc0"))


def strip_uuids(rows: dict[str, list[str]]) -> dict[str, list[str]]:
    def bare(value: object) -> object:
        if isinstance(value, list):
            if value[:1] == ["uuid"]:
                return "uuid"
            return [bare(item) for item in value]
        return value

    return {
        table: sorted(json.dumps(bare(json.loads(row))) for row in found)
        for table, found in rows.items()
    }


def test_killed_at_any_moment_it_converges(ovn: OvnSandbox, central: Controller) -> None:
    """Killed after each of its first rows in turn; what is there then is a part, never wrong."""
    central.start()
    central.settled()
    whole = strip_uuids(dump(ovn))
    central.configure()
    central.end()
    central.start()
    central.settled()
    central.end()
    central.configure(gateway("n1", 111), gateway("n2", 112))
    for wanted in ("GR_n1", "millrace-join-vpc0", "ext_n1-localnet"):
        central.start()
        wait_until(f"{wanted} is there", lambda name=wanted: name in json.dumps(dump(ovn)))
        central.end(signal.SIGKILL)
    central.start()
    central.settled()
    assert strip_uuids(dump(ovn)) == whole


@pytest.mark.parametrize("database", ["nb", "sb"])
def test_a_restart_of_a_database_is_survived(
    ovn: OvnSandbox, central: Controller, database: str
) -> None:
    central.start()
    central.settled()
    before = dump(ovn)
    writes = central.count("writes")
    ovn.kill(database, signal.SIGKILL)
    wait_until("the loss is noticed", lambda: central.status()["in_sync"] is False)
    ovn.start_database(database)
    central.settled()
    assert central.count("writes") == writes
    assert dump(ovn) == before
    lose_a_route(ovn)


def test_an_empty_southbound_database_takes_no_gateway_away(
    ovn: OvnSandbox, central: Controller
) -> None:
    central.start()
    central.settled()
    ovn.sbctl("chassis-del", "n1")
    wait_until(
        "the default route leads to the gateway that is left",
        lambda: re.search(r"0\.0\.0\.0/0 +100\.64\.0\.2", ovn.nbctl("lr-route-list", "vpc0")),
    )
    assert "GR_n1" in ovn.nbctl("lr-list")


def test_a_reload_takes_a_good_file_and_refuses_a_bad_one(
    ovn: OvnSandbox, central: Controller
) -> None:
    central.configure(gateway("n1", 111))
    central.start()
    central.settled()
    assert central.process is not None
    central.path.write_text("[cluster]\nnb = 7\n")
    central.process.send_signal(signal.SIGHUP)
    wait_until("the bad file is refused", lambda: central.status()["config_problem"] != "")
    assert "GR_n1" in ovn.nbctl("lr-list")
    central.configure(gateway("n1", 111), gateway("n2", 112))
    central.process.send_signal(signal.SIGHUP)
    wait_until("the good file is in force", lambda: "GR_n2" in ovn.nbctl("lr-list"))
    assert central.status()["config_problem"] == ""


def test_a_row_of_somebody_elses_with_our_name_is_reported_and_left(
    ovn: OvnSandbox, central: Controller
) -> None:
    ovn.nbctl("lrp-add", "vpc0", "millrace-ext-n2", "0a:00:00:00:00:33", "10.3.0.1/24")
    central.start()
    wait_until("the clash is reported", lambda: bool(central.status().get("unfinished")))
    status = central.settled()
    unfinished = status["unfinished"]
    assert isinstance(unfinished, list)
    assert any("not ours" in row["reason"] for row in unfinished)
    assert "0a:00:00:00:00:33" in ovn.nbctl("list", "Logical_Router_Port", "millrace-ext-n2")
    # And the other gateway works.
    assert "millrace-ext-n1" in ovn.nbctl("lrp-list", "GR_n1")


def test_of_two_controllers_one_works_and_the_other_takes_over(
    ovn: OvnSandbox, central: Controller
) -> None:
    central.start()
    central.settled()
    second = Controller(ovn, "second")
    try:
        second.start()
        wait_until("the second is in sync", lambda: second.status().get("in_sync"))
        assert central.status()["active"] is True
        assert second.status()["active"] is False
        lose_a_route(ovn)
        before = dump(ovn)
        central.end(signal.SIGKILL)
        wait_until("the second is active", lambda: second.status().get("active"))
        second.settled()
        assert second.count("writes") == 0
        assert dump(ovn) == before
        lose_a_route(ovn)
    finally:
        second.end(signal.SIGKILL)


def answer(ovn: OvnSandbox, chassis: str) -> str:
    """What ovn-controller does once its vswitchd has confirmed everything; what it answered."""
    asked = ovn.sbctl("get", "SB_Global", ".", "nb_cfg").strip()
    ovn.sbctl("set", "Chassis_Private", chassis, f"nb_cfg={asked}")
    return asked


def test_a_chassis_that_owes_an_answer_is_marked_and_a_restart_keeps_the_mark(
    ovn: OvnSandbox, central: Controller
) -> None:
    for chassis in ("n1", "n2"):
        ovn.sbctl("create", "Chassis_Private", f"name={chassis}")
    central.configure(gateway("n1", 111), gateway("n2", 112), cluster="heartbeat_s = 0.4")
    central.start()
    central.settled()

    def down() -> object:
        answer(ovn, "n1")
        return central.status().get("down")

    wait_until("n2 is down", lambda: down() == ["n2"])
    wait_until("it is marked", lambda: "millrace:down=true" in router_ids(ovn, "GR_n2"))
    assert "down" not in router_ids(ovn, "GR_n1")
    wait_until(
        "the default route leads to the other",
        lambda: "100.64.0.1 dst-ip" in ovn.nbctl("lr-route-list", "vpc0").split("0.0.0.0/0")[1],
    )
    central.end()
    central.start()
    wait_until("it watches again", lambda: down() == ["n2"])
    wait_until("n2 answers, and is up", lambda: (answer(ovn, "n2"), down())[1] == [])
    wait_until(
        "the mark is gone",
        lambda: (down(), answer(ovn, "n2"), "down" not in router_ids(ovn, "GR_n2"))[2],
    )


def router_ids(ovn: OvnSandbox, router: str) -> str:
    return ovn.nbctl("--bare", "--columns=external_ids", "list", "Logical_Router", router)


def test_without_a_heartbeat_nobody_is_asked(ovn: OvnSandbox, central: Controller) -> None:
    before = ovn.nbctl("get", "NB_Global", ".", "nb_cfg")
    central.start()
    central.settled()
    assert ovn.nbctl("get", "NB_Global", ".", "nb_cfg") == before
    assert central.status()["down"] == []
