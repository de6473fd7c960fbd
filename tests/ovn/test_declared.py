"""The examples of docs/services.md, run as they stand, and OVN's health checks, seen by a node."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.ovn import nb as nb_database
from controller.ovn import sb as sb_database
from controller.translate.index import Index
from controller.translate.ovn import NbSnapshot, SbSnapshot
from controller.translate.services import Vantage, service_problems, services
from dataplane.model.service import EndpointState, ServedBy, Service
from tests.labs.ovnsandbox import OvnSandbox, wait_until

DOCS = Path(__file__).parents[2] / "docs" / "services.md"
COMMANDS = re.findall(r"`ovn-nbctl ((?:[^`])*)`", DOCS.read_text(encoding="utf-8"))
MARK = 'external_ids:"millrace:fast-path"=true'


class Eyes:
    """What a node's watchers saw last."""

    def __init__(self) -> None:
        self.nb = NbSnapshot()
        self.sb = SbSnapshot()

    def saw_nb(self, snapshot: NbSnapshot) -> None:
        self.nb = snapshot

    def saw_sb(self, snapshot: SbSnapshot) -> None:
        self.sb = snapshot

    def services(self) -> dict[str, Service]:
        return {service.name: service for service in services(self.nb, self.sb, "n1")}


@contextmanager
def watching(ovn: OvnSandbox) -> Iterator[Eyes]:
    eyes = Eyes()
    clients = (
        nb_database.client(ovn.nb, eyes.saw_nb),
        sb_database.client(ovn.sb, eyes.saw_sb),
    )
    for client in clients:
        client.start()
    try:
        yield eyes
    finally:
        for client in clients:
            client.stop()


def test_every_example_is_served_as_it_stands(ovn: OvnSandbox) -> None:
    names = []
    for text in COMMANDS:
        words = shlex.split(text)
        ovn.nbctl(*words)
        names.append(words[words.index("lb-add") + 1])
        ovn.nbctl("set", "load_balancer", names[-1], MARK)
    assert len(names) == len(set(names)) > 20
    with watching(ovn) as eyes:
        wait_until("the rows are seen", lambda: set(names) <= eyes.services().keys())
        wait_until("so are bindings", lambda: "vm1.ns" in eyes.sb.port_bindings)
        vantage = Vantage.of("n1", Index(eyes.nb, eyes.sb), ())
        assert service_problems(eyes.nb, vantage) == ()
        found = eyes.services()
    assert {name for name in names if found[name].served_by is not ServedBy.XDP} == set()
    plain = Service("", found["s3"].vip, found["s3"].backends, found["s3"].policy, ServedBy.XDP, "")
    for name, field in (
        ("s1", "kind"),
        ("s2", "kind"),
        ("s4", "kind"),
        ("s5", "kind"),
        ("s10", "port_key"),
        ("s11", "affinity_s"),
        ("s12", "policy"),
        ("s13", "inner_policy"),
        ("s14", "health_port"),
        ("s15", "source_ranges"),
        ("s20", "reject"),
        ("s22", "forwarding"),
    ):
        assert getattr(found[name], field) != getattr(plain, field), (name, field)
    assert found["s8"].vip.address.version == 6
    assert found["s17"].backends[0].for_zones == ("a",)
    assert found["s18"].backends[0].state is EndpointState.TERMINATING
    assert found["s21"].backends[0].weight == 9
    assert found["s19"].backends == ()


@pytest.mark.parametrize("status", ["offline", "error"])
def test_what_ovns_health_checks_find_down_is_unready(ovn: OvnSandbox, status: str) -> None:
    (command,) = [text for text in COMMANDS if "health_check @hc" in text]
    ovn.nbctl(*shlex.split(command))
    ovn.nbctl("set", "load_balancer", "s23", MARK)
    ovn.sync()
    monitor = ovn.sbctl("--bare", "--columns=_uuid", "find", "Service_Monitor", "port=80").strip()
    assert monitor, "northd made no monitor for a load balancer that is attached to nothing"

    def state(eyes: Eyes) -> EndpointState | None:
        service = eyes.services().get("s23")
        return service.backends[0].state if service else None

    with watching(ovn) as eyes:
        wait_until("it is ready", lambda: state(eyes) is EndpointState.READY)
        ovn.sbctl("set", "Service_Monitor", monitor, f"status={status}")
        wait_until("it is unready", lambda: state(eyes) is EndpointState.UNREADY)
        ovn.sbctl("set", "Service_Monitor", monitor, "status=online")
        wait_until("it is ready again", lambda: state(eyes) is EndpointState.READY)
