"""The doctor's checks of the ways to OVN: ovn-controller's, and our own certificates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dataplane.drivers import ovsdb_tls, processes
from dataplane.drivers.ovsdb_tls import Tls

if TYPE_CHECKING:
    from controller.doctor import Site

DAY_S = 86_400
SOON_S = 14 * DAY_S


def connected(site: Site) -> Iterator[str]:
    """ovn-controller has the southbound database."""
    # An embedded one listens where we said; another one is found by its name in /run/ovn.
    control = f"{site.config.rundir}/ovn-controller.ctl"
    target = control if site.config.embedded_ovs else "ovn-controller"
    answer = processes.run(["ovn-appctl", "-t", target, "connection-status"]).strip()
    if answer != "connected":
        yield f"ovn-controller is {answer}: no southbound database at {site.config.sb_remote}"


def certificates(site: Site) -> Iterator[str]:
    """The files for `ssl:` remotes are there, ours, and good for a while."""
    if site.config.ovn_tls is not None:
        yield from problems(Tls(*site.config.ovn_tls), site.config.name, time.time())


def problems(tls: Tls, name: str, now: float) -> Iterator[str]:
    """What is wrong, or soon will be, with the files of the node `name` at `now`."""
    if why := ovsdb_tls.files_problem(tls):
        yield why
        return
    for path in (tls.certificate, tls.ca_certificate):
        _, until = ovsdb_tls.named_until(path)
        if until <= now:
            yield f"{path} has expired"
        elif until - now < SOON_S:
            yield f"{path} expires in {int((until - now) // DAY_S)} days"
    found, _ = ovsdb_tls.named_until(tls.certificate)
    if found != name:
        yield (
            f"{tls.certificate} is of {found!r}, and this node is {name!r}: the southbound "
            "database's roles go by that"
        )
