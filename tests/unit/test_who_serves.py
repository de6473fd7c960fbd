"""Who serves workloads behind OVN where the file leaves it open: the first policy decides."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import pytest

from controller.kube.resources import Key
from controller.network.eastwest import leads_to_svc0
from controller.network.engine import Engine
from controller.network.policies import NETWORK_POLICIES
from controller.network.rows import RowKey
from controller.network.settings import SETTINGS, NetSettings
from dataplane.model.config import EastWest
from tests.labs.factview import FactView
from tests.labs.manifests import NODE, WEB_ENDPOINTS, engine_of, namespaces, put

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


def _balancers(engine: Engine) -> AbstractSet[RowKey]:
    return {key for key in engine.book.rows if key.table == "Load_Balancer"}


def test_the_first_policy_moves_services_to_ovn_and_the_last_back() -> None:
    assert NetSettings().east_west is EastWest.AUTO
    engine = engine_of(NODE + namespaces("shop") + SERVICE, NetSettings())
    balancers = _balancers(engine)
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


@pytest.mark.parametrize(
    "shut",
    [
        "kind: SecurityGroup\nmetadata: {name: one}\nspec: {}",
        "kind: Subnet\nmetadata: {name: one}\nspec: {cidrBlock: 10.60.0.0/24, private: true}",
        "kind: Subnet\nmetadata: {name: one}\nspec:\n  cidrBlock: 10.60.0.0/24\n  acls:\n"
        "  - {action: drop, direction: to-lport, match: ip4, priority: 1100}",
    ],
)
def test_whatever_judges_addresses_counts(shut: str) -> None:
    engine = engine_of(NODE + namespaces("shop") + SERVICE, NetSettings())
    put(engine, f"apiVersion: kubeovn.io/v1\n{shut}")
    engine.update()
    assert _served(engine) == _balancers(engine)


def test_local_backends_are_variables_while_there_is_a_policy() -> None:
    local = SERVICE.replace("spec: {", "spec: {internalTrafficPolicy: Local, ")
    engine = engine_of(NODE + namespaces("shop") + local + WEB_ENDPOINTS, NetSettings())
    assert "Chassis_Template_Var" not in {key.table for key in engine.book.rows}
    put(engine, POLICY)
    engine.update()
    assert "Chassis_Template_Var" in {key.table for key in engine.book.rows}


def test_a_policy_that_cannot_be_read_after_a_restart_counts_until_it_is_gone() -> None:
    """Its rows stay, so it still drops what comes from svc0's address."""
    engine = Engine(NetSettings())
    put(engine, NODE + namespaces("shop") + SERVICE)
    place = (NETWORK_POLICIES, Key("shop", "odd"))
    engine.start(unread=[place])
    assert _served(engine) == _balancers(engine)
    engine.put([(*place, None)])
    engine.update()
    assert _served(engine) == set()


def test_a_service_with_a_nodes_own_address_stays_with_svc0() -> None:
    """As default/kubernetes: OVN has no way to it, svc0 hands it to the kernel."""
    objects = NODE + namespaces("shop") + SERVICE + WEB_ENDPOINTS.replace("10.16.0.9", "192.0.2.1")
    engine = engine_of(objects, NetSettings())
    put(engine, POLICY)
    engine.update()
    assert _served(engine) == set()
    put(engine, WEB_ENDPOINTS.removeprefix("---"))
    engine.update()
    assert _served(engine) == _balancers(engine)
    switched = engine_of(objects, NetSettings(east_west=EastWest.SWITCH))
    assert _served(switched) == _balancers(switched)


@pytest.mark.parametrize("chosen", EastWest)
def test_svc0_stays_behind_what_a_policy_moved_to_ovn(chosen: EastWest) -> None:
    view = FactView({SETTINGS: {"": NetSettings(east_west=chosen)}})
    assert leads_to_svc0(view) == (chosen is not EastWest.SWITCH)
