"""Interfaces that need no connection tracking, in the whole controller: load balancers need it."""

from __future__ import annotations

import pytest

from controller.network.rows import RowKey
from controller.network.settings import NetSettings
from controller.policy.compiler import name_of
from dataplane.model.config import EastWest
from tests.labs.manifests import WEB_ENDPOINTS, engine_of

OBJECTS = """
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: quiet}
spec: {cidrBlock: 10.60.0.0/24, enableLb: false}
---
apiVersion: v1
kind: Pod
metadata: {name: open, namespace: shop}
spec: {nodeName: n1}
---
apiVersion: v1
kind: Pod
metadata:
  {name: unserved, namespace: shop, annotations: {ovn.kubernetes.io/logical_switch: quiet}}
spec: {nodeName: n1}
---
apiVersion: v1
kind: Pod
metadata: {name: closed, namespace: shop, labels: {app: closed}}
spec: {nodeName: n1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec: {podSelector: {matchLabels: {app: closed}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{port: 80, targetPort: 8080}]
"""


@pytest.mark.parametrize(
    ("east_west", "expected"),
    [
        (EastWest.SVC0, {"open.shop", "unserved.shop"}),
        (EastWest.SWITCH, {"unserved.shop"}),
        (EastWest.AUTO, {"unserved.shop"}),  # there is a policy
    ],
)
def test_who_is_served_by_ovn_is_tracked(east_west: EastWest, expected: set[str]) -> None:
    decided = NetSettings(default_cidr="10.16.0.0/24", join_cidr="100.64.0.0/24",
                          east_west=east_west)  # fmt: skip
    rows = engine_of(OBJECTS + WEB_ENDPOINTS, decided).book.rows
    group = rows[RowKey("Port_Group", name_of("open", "n1"))]
    assert {ref.name for ref in group.refs["ports"]} == expected
    stateless = [
        (row.columns["direction"], row.columns["options"])
        for row in rows.values()
        if row.columns.get("action") == "allow-stateless"
    ]
    # Before load balancers, not behind them: what is between would be tracked.
    assert sorted(stateless) == [("from-lport", ()), ("to-lport", ())]
