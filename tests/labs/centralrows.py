"""Gateway routers' rows in a real OVN, by the cluster controller's own writer, once."""

from __future__ import annotations

from collections.abc import Collection

from controller.central import TABLES
from controller.ovn import nb as nb_database
from controller.ovn.tables import tables
from controller.translate.central import northbound
from controller.translate.ovn import SbSnapshot
from dataplane.model.config import ClusterConfig
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from tests.labs.ovnrows import Lab
from tests.labs.ovnsandbox import OvnSandbox

PAIR: SbSnapshot = Lab().chassis("n1").chassis("n2").sb
"""Two chassis."""


def apply(ovn: OvnSandbox, cluster: ClusterConfig, down: Collection[str] = ()) -> int:
    """Make the rows so, of chassis n1 and n2 without those that are down; the number of writes."""
    with nb_database.client(ovn.nb, leader_only=True) as client:
        client.wait_synced(60)
        plan = northbound(cluster, client.read(nb_database.snapshot, 60), PAIR, down)
        assert plan.problems == ()
        report = Reconciler(tables(client), Backoff()).apply(
            {name: getattr(plan, name) for name in TABLES}, 0.0
        )
        assert report.failed == 0
    ovn.sync()
    return report.writes
