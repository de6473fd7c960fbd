"""Who serves workloads behind OVN where the file leaves it open: the first policy decides."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import pytest

from controller.network.eastwest import leads_to_svc0
from controller.network.engine import Engine
from controller.network.policies import NETWORK_POLICIES
from controller.network.rows import RowKey
from controller.network.settings import SETTINGS, NetSettings
from dataplane.model.config import EastWest
from tests.labs.factview import FactView
from tests.labs.manifests import NODE, engine_of, namespaces, put

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ports: [{port: 80, targetPort: 8080}]}
"""
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: NAME, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}}
"""
GROUP = RowKey("Load_Balancer_Group", "mrk-ovn-cluster")


def _served(engine: Engine) -> AbstractSet[RowKey]:
    row = engine.book.rows.get(GROUP)
    return set(row.refs["load_balancer"]) if row is not None else set()


def test_the_first_policy_moves_services_to_ovn_and_the_last_back() -> None:
    assert NetSettings().east_west is EastWest.AUTO
    engine = engine_of(NODE + namespaces("shop") + SERVICE, NetSettings())
    balancers = {key for key in engine.book.rows if key.table == "Load_Balancer"}
    assert len(balancers) == 1
    assert _served(engine) == set()

    put(engine, POLICY.replace("NAME", "first"))
    engine.update()
    assert _served(engine) == balancers

    # Another one is nothing new to services.
    put(engine, POLICY.replace("NAME", "second"))
    changes = engine.update()
    assert GROUP not in changes.rows
    assert not balancers & changes.rows.keys()

    engine.put([(NETWORK_POLICIES, key, None) for key in engine.book.store.all(NETWORK_POLICIES)])
    engine.update()
    assert _served(engine) == set()


@pytest.mark.parametrize("chosen", EastWest)
def test_svc0_stays_behind_what_a_policy_moved_to_ovn(chosen: EastWest) -> None:
    view = FactView({SETTINGS: {"": NetSettings(east_west=chosen)}})
    assert leads_to_svc0(view) == (chosen is not EastWest.SWITCH)
